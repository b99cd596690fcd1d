"""The oracle itself: against a vector worked out elsewhere, and against finite differences."""

from __future__ import annotations

import logging
from functools import partial

import pytest
import torch

from medmamba.errors import UsageError
from medmamba.kernels import FORWARD, backends, causal_conv, dispatch, selective_scan

VECTOR = {
    "u": torch.tensor([[[0.5, -1, 2], [1, 0, -0.5]]]),
    "delta": torch.tensor([[[0.1, -0.2, 0.3], [0, 0.4, -0.1]]]),
    "A": torch.tensor([[-1.0, -2], [-1, -2]]),
    "B": torch.tensor([[[1, 0.5, -1], [0.2, -0.3, 0.4]]]),
    "C": torch.tensor([[[0.3, -0.6, 0.9], [1, 0.5, -0.2]]]),
    "D": torch.tensor([1, 0.5]),
    "delta_bias": torch.tensor([0.05, -0.05]),
}
GATE = torch.tensor([[[1.0, 0, -1], [0.5, -0.5, 2]]])


@pytest.mark.parametrize("backend", backends("cpu"))
def test_vector_worked_out_by_hand_is_met(backend: str) -> None:
    y, state = selective_scan(**VECTOR, delta_softplus=True, return_last_state=True, backend=backend)
    plain = torch.tensor([[[0.692739, -0.833736, 0.223007], [0.834230, -0.154375, 0.186606]]])
    torch.testing.assert_close(y, plain, rtol=0, atol=2e-6)
    torch.testing.assert_close(state, torch.tensor([[[-1.809471, 0.742345], [0.458986, -0.117593]]]), rtol=0, atol=2e-6)
    gated = selective_scan(**VECTOR, z=GATE, delta_softplus=True, backend=backend)
    expected = torch.tensor([[[0.506433, 0, -0.059976], [0.259637, 0.029141, 0.328724]]])
    torch.testing.assert_close(gated, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("groups", [(1, 1), (2, 1), (None, 2), (None, None)])
def test_gradients_of_the_reference_are_those_of_finite_differences(groups, arguments) -> None:
    given = arguments(1, 4, 2, 3, groups=groups, kind=torch.float64)
    names, leaves = list(given), [t.requires_grad_() for t in given.values()]

    def run(*tensors):
        given = dict(zip(names, tensors, strict=True))
        return selective_scan(**given, delta_softplus=True, return_last_state=True, backend="reference")

    assert torch.autograd.gradcheck(run, leaves)
    assert torch.autograd.gradgradcheck(run, leaves, atol=1e-4)


def test_softplus_leaves_values_above_twenty_alone(arguments) -> None:
    given = arguments(1, 1, 1, 1, optional=False, kind=torch.float64)
    given |= {"delta": torch.full((1, 1, 1), 20.5, dtype=torch.float64), "A": torch.zeros(1, 1, dtype=torch.float64)}
    _, state = selective_scan(**given, delta_softplus=True, return_last_state=True, backend="reference")
    assert state.item() == pytest.approx(20.5 * given["B"].item() * given["u"].item(), rel=1e-15)


def test_half_precision_keeps_a_float32_state(arguments) -> None:
    given = arguments(1, 2, 3, 4, kind=torch.bfloat16)
    y, state = selective_scan(**given, return_last_state=True, backend="reference")
    assert (y.dtype, state.dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"u": torch.zeros(2, 3)}, ValueError, "u must have the three axes"),
        ({"A": torch.zeros(5, 3)}, ValueError, r"A must be \(4 channels, 1 to 256 states\), but is \(5, 3\)"),
        ({"A": torch.zeros(4, 257)}, ValueError, "1 to 256 states"),
        ({"A": torch.zeros(4, 3, dtype=torch.complex64)}, TypeError, "A must be real"),
        ({"delta": torch.zeros(2, 4, 6)}, ValueError, "delta must have the shape of u"),
        ({"z": torch.zeros(1, 4, 5)}, ValueError, "z must have the shape of u"),
        ({"B": torch.zeros(2, 5, 3)}, ValueError, "B must be constant"),
        ({"C": torch.zeros(2, 3, 3, 5)}, ValueError, "C must have a number of groups that divides"),
        ({"D": torch.zeros(3)}, ValueError, "D must have one value per channel"),
        ({"delta_bias": torch.zeros(4, dtype=torch.int32)}, TypeError, "delta_bias must be of a floating"),
        ({"initial_state": torch.zeros(2, 3, 4)}, ValueError, "initial_state must be"),
        ({"D": torch.zeros(4, device="meta")}, ValueError, "D must be on the device of u"),
        ({"backend": "abacus"}, ValueError, "backend must be one of .*'abacus'"),
    ],
)
def test_argument_that_does_not_fit_is_named(change, error, says, arguments) -> None:
    with pytest.raises(error, match=says):
        selective_scan(**arguments(2, 4, 3, 5) | change)


def test_environment_names_the_backend_and_the_argument_wins(arguments, monkeypatch, caplog) -> None:
    given = arguments(1, 2, 2, 2)
    monkeypatch.setenv(dispatch.ENVIRONMENT_VARIABLE, "abacus")
    with pytest.raises(UsageError, match=r"selective_scan: backend must be one of .*from MEDMAMBA_SCAN_BACKEND"):
        selective_scan(**given)
    dispatch._say_once.cache_clear()
    with caplog.at_level(logging.INFO, logger="medmamba.kernels.dispatch"):
        for _ in range(2):
            selective_scan(**given, backend="reference")
    assert [r.getMessage() for r in caplog.records] == ["selective_scan on cpu: backend 'reference' (as asked)"]


def test_log_and_errors_name_the_function_that_was_called(arguments, monkeypatch, caplog) -> None:
    dispatch._say_once.cache_clear()
    convolve = partial(causal_conv, torch.zeros(1, 2, 4), torch.zeros(1, 2, 3), orders=(FORWARD,), grid=(4,))
    with caplog.at_level(logging.INFO, logger="medmamba.kernels.dispatch"):
        convolve(backend="reference")
        selective_scan(**arguments(1, 2, 2, 2), backend="reference")
    found = [r.getMessage().partition(" (")[0] for r in caplog.records]
    assert found == [f"{name} on cpu: backend 'reference'" for name in ("causal_conv", "selective_scan")]
    with pytest.raises(ValueError, match="causal_conv: backend must be one of"):
        convolve(backend="abacus")


def test_cpu_backend_refuses_other_devices(arguments) -> None:
    given = {k: v.to("meta") for k, v in arguments(1, 2, 2, 2).items()}
    with pytest.raises(ValueError, match="'cpu' must get tensors on the CPU, but they are on meta"):
        selective_scan(**given, backend="cpu")


def test_other_device_gets_portable_operators_and_one_warning(arguments, caplog) -> None:
    dispatch._say_once.cache_clear()
    given = {k: v.to("meta") for k, v in arguments(1, 2, 2, 2).items()}
    for _ in range(2):
        assert selective_scan(**given).shape == (1, 2, 2)
    causal_conv(given["u"], torch.zeros(1, 2, 3, device="meta"), orders=(FORWARD,), grid=(2,))
    warned = [r.getMessage().partition(":")[0] for r in caplog.records if "not fast" in r.getMessage()]
    assert warned == ["selective_scan on meta", "causal_conv on meta"]
