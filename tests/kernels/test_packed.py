"""Several sequences along one axis: held against each sequence alone, in float64."""

from __future__ import annotations

import importlib
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from medmamba.kernels import backends, selective_scan
from medmamba.kernels.packed import packed_conv, packed_scan, sequence_numbers

#: Where sequences begin in each entry of the batch: at unlike tokens, at neighbouring ones, nowhere.
BOUNDS = ([0, 3, 4, 11], [0, 7, 11], [0, 11])
LENGTH = BOUNDS[0][-1]


def numbers(bounds: tuple[list[int], ...] = BOUNDS) -> Tensor:
    rows = [torch.cat([torch.full((last - first,), i) for i, (first, last) in enumerate(pairwise(b))]) for b in bounds]
    return torch.stack(rows)


def gradients(results: list[Tensor], leaves: list[Tensor]) -> list[Tensor]:
    g = torch.Generator().manual_seed(1)
    weights = [torch.randn(r.shape, generator=g, dtype=torch.float64).to(r.dtype) for r in results]
    return list(torch.autograd.grad(results, leaves, weights))


@pytest.mark.parametrize("backend", backends("cpu"))
@pytest.mark.parametrize("groups", [1, 2, None])
def test_packed_scan_is_the_scan_of_each_sequence_alone(arguments, backend: str, groups: int | None) -> None:
    given = arguments(3, 4, 3, LENGTH, groups=(groups, groups))
    given.pop("initial_state")
    names = list(given)
    leaves = [t.detach().requires_grad_() for t in given.values()]
    y, last = packed_scan(*leaves, True, numbers(), backend=backend)
    own = [y, last, *gradients([y, last], leaves)]

    exact = [t.detach().double().requires_grad_() for t in given.values()]
    rows, ends = [], []
    for entry, bounds in enumerate(BOUNDS):
        pieces = []
        for first, end in pairwise(bounds):
            part = {
                name: t if t.dim() < 3 else t[entry : entry + 1, ..., first:end]
                for name, t in zip(names, exact, strict=True)
            }
            piece, state = selective_scan(**part, delta_softplus=True, return_last_state=True, backend="reference")
            pieces.append(piece)
        rows.append(torch.cat(pieces, dim=-1))
        ends.append(state)
    expected = [torch.cat(rows), torch.cat(ends)]
    expected += gradients(expected, exact)
    for name, mine, right in zip(["y", "last", *names], own, expected, strict=True):
        torch.testing.assert_close(mine.double(), right, rtol=2e-5, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_decays_that_overflow_before_a_sequence_do_not_reach_into_it() -> None:
    u, B = torch.ones(1, 1, 6, requires_grad=True), torch.ones(1, 1, 6)
    delta = torch.full((1, 1, 6), 40.0)
    y, _ = packed_scan(u, delta, torch.ones(1, 1), B, B, None, None, None, False, torch.tensor([[0, 0, 0, 0, 1, 1]]))
    assert not y[0, 0, 3].isfinite()
    assert y[0, 0, 4] == 40
    (grad,) = torch.autograd.grad(y[0, 0, 4], u)
    assert torch.equal(grad, torch.tensor([[[0.0, 0, 0, 0, 40, 0]]]))


@pytest.mark.parametrize("silu", [True, False])
def test_packed_convolution_is_the_convolution_of_each_sequence_alone(silu: bool) -> None:
    g = torch.Generator().manual_seed(0)
    shapes = (3, 5, LENGTH), (5, 4), (5,)
    given = [torch.randn(s, generator=g) for s in shapes]
    leaves = [t.clone().requires_grad_() for t in given]
    y = packed_conv(*leaves, silu, numbers())
    own = [y, *gradients([y], leaves)]
    exact = [t.double().requires_grad_() for t in given]
    x, weight, bias = exact
    rows = []
    for entry, bounds in enumerate(BOUNDS):
        parts = [F.pad(x[entry : entry + 1, :, a:b], (3, 0)) for a, b in pairwise(bounds)]
        rows.append(torch.cat([F.conv1d(p, weight[:, None], bias, groups=5) for p in parts], dim=-1))
    right = torch.cat(rows)
    right = F.silu(right) if silu else right
    for mine, expected in zip(own, [right, *gradients([right], exact)], strict=True):
        torch.testing.assert_close(mine.double(), expected, rtol=1e-5, atol=1e-5)


def test_padding_by_negative_numbers_gives_zeros() -> None:
    y = packed_conv(torch.randn(1, 2, 5), torch.randn(2, 3), torch.ones(2), True, torch.tensor([[0, 0, 0, -1, -1]]))
    assert (y[..., :3] != 0).all()
    assert torch.equal(y[..., 3:], torch.zeros(1, 2, 2))


def test_sequences_are_told_in_three_ways() -> None:
    bounds = torch.tensor([0, 3, 4, 11])
    expected = numbers((BOUNDS[0],))
    positions = torch.cat([torch.arange(b - a) for a, b in pairwise(BOUNDS[0])])[None]
    assert torch.equal(sequence_numbers((1, 11), cu_seqlens=bounds), expected)
    assert torch.equal(sequence_numbers((1, 11), position_indices=positions), expected + 1)
    assert sequence_numbers((1, 11), seq_idx=expected) is expected
    assert sequence_numbers((1, 11)) is None


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"cu_seqlens": torch.tensor([0, 5])}, "must rise from 0 to the 11 tokens"),
        ({"cu_seqlens": torch.tensor([0, 7, 5, 11])}, "must rise"),
        ({"seq_idx": torch.zeros(1, 5)}, r"seq_idx must be \(1, 11\)"),
        ({"seq_idx": torch.zeros(1, 11), "cu_seqlens": torch.tensor([0, 11])}, "give one of"),
    ],
)
def test_sequences_that_do_not_fit_are_refused(told: dict[str, Tensor], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        sequence_numbers((1, 11), **told)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("kind", ["none", "v1", "v2"])
def test_block_keeps_sequences_apart(kind: str) -> None:
    torch.manual_seed(0)
    block = importlib.import_module("mamba_ssm").Mamba(6, bimamba_type=kind)
    x = torch.randn(1, LENGTH, 6)
    bounds = torch.tensor(BOUNDS[0])
    alone = torch.cat([block(x[:, a:b]) for a, b in pairwise(BOUNDS[0])], dim=1)
    expected = torch.autograd.grad(alone.square().sum(), list(block.parameters()))
    for told in ({"cu_seqlens": bounds}, {"seq_idx": numbers((BOUNDS[0],))}):
        together = block(x, **told)
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
        own = torch.autograd.grad(together.square().sum(), list(block.parameters()))
        for mine, right in zip(own, expected, strict=True):
            torch.testing.assert_close(mine, right, rtol=1e-4, atol=1e-5)
    with pytest.raises(NotImplementedError, match="one sequence per entry"):
        importlib.import_module("mamba_ssm").Mamba(6, bimamba_type="v3", nslices=11)(x, cu_seqlens=bounds)


@pytest.mark.usefixtures("installed")
def test_operations_keep_sequences_apart() -> None:
    torch.manual_seed(0)
    operations = importlib.import_module("mamba_ssm.ops.selective_scan_interface")
    conv = importlib.import_module("causal_conv1d")
    channels, states, rank = 4, 3, 2
    given = (
        torch.randn(channels, 1, 4), torch.randn(channels), torch.randn(rank + 2 * states, channels),
        torch.randn(channels, rank), torch.randn(5, channels), None, -torch.rand(channels, states),
    )  # fmt: skip
    xz, bounds = torch.randn(1, 2 * channels, LENGTH), torch.tensor(BOUNDS[0])
    y = operations.mamba_inner_fn(xz, *given, D=torch.ones(channels), cu_seqlens=bounds)
    alone = [operations.mamba_inner_fn(xz[..., a:b], *given, D=torch.ones(channels)) for a, b in pairwise(BOUNDS[0])]
    torch.testing.assert_close(y, torch.cat(alone, dim=1), rtol=1e-5, atol=1e-5)
    x = xz[:, :channels]
    y = conv.causal_conv1d_fn(x, given[0][:, 0], given[1], seq_idx=numbers((BOUNDS[0],)), activation="silu")
    alone = [
        conv.causal_conv1d_fn(x[..., a:b], given[0][:, 0], given[1], activation="silu") for a, b in pairwise(BOUNDS[0])
    ]
    torch.testing.assert_close(y, torch.cat(alone, dim=-1))
    states_of = importlib.import_module("causal_conv1d.causal_conv1d_varlen").causal_conv1d_varlen_states
    held = states_of(x[0].T, bounds, 3)
    for row, (a, b) in zip(held, pairwise(BOUNDS[0]), strict=True):
        assert torch.equal(row, F.pad(x[0, :, a:b], (3, 0))[:, -3:])
    with pytest.raises(ValueError, match="goes without initial_states"):
        conv.causal_conv1d_fn(x, given[0][:, 0], seq_idx=numbers((BOUNDS[0],)), return_final_states=True)
