"""The portable backend: as exact as the oracle, differentiable as often as wanted, exportable."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from medmamba.kernels import chunked, cross, multi_scan, selective_scan


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batch=st.integers(1, 2),
    channels=st.sampled_from([6, 12]),
    states=st.integers(1, 5),
    length=st.integers(0, 50),
    groups=st.sampled_from([(1, 1), (2, 3), (None, 1), (2, None), (None, None)]),
    optional=st.booleans(),
    budget=st.sampled_from([1, 200, 2**24]),
)
def test_any_shape_agrees_with_the_oracle(
    batch, channels, states, length, groups, optional, budget, arguments, scan
) -> None:
    given = arguments(batch, channels, states, length, groups=groups, optional=optional)
    given["delta"] = given["delta"].abs() * 0.3
    before, chunked.BUDGET = chunked.BUDGET, budget
    try:
        own = scan(given, "torch", softplus=optional, exact=True)
    finally:
        chunked.BUDGET = before
    expected = scan(given, "reference", softplus=optional, exact=True)
    for name, value in expected.items():
        torch.testing.assert_close(own[name], value, rtol=1e-9, atol=1e-10, msg=name)


@pytest.mark.parametrize("groups", [(1, 1), (2, 1), (None, 2)])
def test_gradients_are_those_of_finite_differences(groups, arguments) -> None:
    given = arguments(1, 4, 2, 5, groups=groups, kind=torch.float64)
    names, leaves = list(given), [t.requires_grad_() for t in given.values()]

    def run(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        given = dict(zip(names, tensors, strict=True))
        return selective_scan(**given, delta_softplus=True, return_last_state=True, backend="torch")

    assert torch.autograd.gradcheck(run, leaves)
    assert torch.autograd.gradgradcheck(run, leaves, atol=1e-4)


def test_second_derivative_goes_through_recomputed_stretches(arguments, monkeypatch) -> None:
    monkeypatch.setattr(chunked, "BUDGET", 30)
    given = {k: v.requires_grad_() for k, v in arguments(1, 2, 2, 9, kind=torch.float64).items()}
    second = []
    for backend in ("torch", "reference"):
        y = selective_scan(**given, delta_softplus=True, backend=backend)
        (grad,) = torch.autograd.grad(y.square().sum(), given["delta"], create_graph=True)
        second.append(torch.autograd.grad(grad.square().sum(), given["A"])[0])
    torch.testing.assert_close(*second)


def test_nan_and_infinity_reach_the_same_places_as_in_the_reference(arguments) -> None:
    for value in (float("nan"), float("inf")):
        for name in ("u", "delta", "z", "B", "C", "A"):
            given = arguments(1, 3, 3, 19)
            given[name] = given[name].clone()
            given[name][(0, *[1] * (given[name].dim() - 1))] = value
            ours, expected = (selective_scan(**given, delta_softplus=True, backend=b) for b in ("torch", "reference"))
            assert torch.equal(ours.isfinite(), expected.isfinite()), (name, value)


class Model(nn.Module):
    def forward(self, u: Tensor, delta: Tensor, A: Tensor, B: Tensor) -> Tensor:
        y, _ = multi_scan(u, delta, A, B, B, delta_softplus=True, orders=cross(2), grid=(3, 4), backend="torch")
        return y


def test_exported_model_gives_the_same() -> None:
    g = torch.Generator().manual_seed(0)
    given = tuple(torch.randn(*s, generator=g) for s in ((1, 5, 12), (1, 4, 5, 12), (4, 5, 2), (1, 4, 2, 12)))
    given = (*given[:2], -given[2].exp(), given[3])
    exported = torch.export.export(Model(), given)
    torch.testing.assert_close(exported.module()(*given), Model()(*given))
