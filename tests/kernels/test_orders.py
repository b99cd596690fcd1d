"""Scan orders: which token comes when, and scans that follow them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medmamba.kernels import (
    BACKWARD,
    FORWARD,
    ScanOrder,
    backends,
    bidirectional,
    causal_conv,
    cross,
    interleaved,
    multi_scan,
    selective_scan,
)
from medmamba.kernels.orders import decode, sequence


def visited(order: ScanOrder, *grid: int) -> list[int]:
    return order.walk(grid).positions().tolist()


def test_orders_of_the_published_networks() -> None:
    assert visited(interleaved(3)[2], 12) == [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]
    assert [visited(order, 2, 3) for order in cross()] == [
        [0, 1, 2, 3, 4, 5],
        [0, 3, 1, 4, 2, 5],
        [5, 4, 3, 2, 1, 0],
        [5, 2, 4, 1, 3, 0],
    ]
    assert [visited(order, 3) for order in bidirectional()] == [[0, 1, 2], [2, 1, 0]]


def test_interleaved_slices_are_the_first_axis_read_fastest() -> None:
    assert visited(ScanOrder(pieces=3), 3, 4, 5) == visited(ScanOrder(axes=(1, 2, 0)), 3, 4, 5)


@st.composite
def orders_and_grids(draw: st.DrawFn) -> tuple[ScanOrder, tuple[int, ...]]:
    grid = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)))
    axes = draw(st.sampled_from([(), tuple(draw(st.permutations(range(len(grid)))))]))
    pieces = draw(st.sampled_from([n for n in range(1, math.prod(grid) + 1) if math.prod(grid) % n == 0]))
    backward = tuple(sorted(draw(st.sets(st.integers(0, len(grid) - 1)))))
    return ScanOrder(
        axes=axes, pieces=1 if axes or backward else pieces, reverse=draw(st.booleans()), backward=backward
    ), grid


@given(orders_and_grids())
@settings(deadline=None, max_examples=100)
def test_walk_is_what_permuting_cutting_and_flipping_give(case: tuple[ScanOrder, tuple[int, ...]]) -> None:
    order, grid = case
    tokens = torch.arange(math.prod(grid)).view(grid)
    expected = (
        tokens.flip(order.backward)
        .permute(order.axes or tuple(range(len(grid))))
        .reshape(order.pieces, -1)
        .T.reshape(-1)
    )
    walk = order.walk(grid)
    assert walk.positions().tolist() == (expected.flip(0) if order.reverse else expected).tolist()
    assert walk.length == math.prod(grid)
    assert decode(walk.encode())[0].positions().tolist() == walk.positions().tolist()
    assert len(walk.encode()) == 9


def test_frames_come_one_after_the_other_each_from_its_end() -> None:
    assert visited(ScanOrder(backward=(1, 2)), 2, 2, 3) == [5, 4, 3, 2, 1, 0, 11, 10, 9, 8, 7, 6]
    assert ScanOrder(backward=(1, 2)).walk((5, 2, 3)).sizes == (5, 6)


def test_pieces_after_a_permutation_fall_on_whole_axes() -> None:
    expected = torch.arange(24).view(2, 3, 4).permute(2, 0, 1).reshape(8, 3).T.reshape(-1)
    assert visited(ScanOrder(axes=(2, 0, 1), pieces=8), 2, 3, 4) == expected.tolist()


@pytest.mark.parametrize(
    ("order", "grid", "says"),
    [
        (ScanOrder(pieces=5), (2, 6), "cannot be cut in 5 equal pieces"),
        (ScanOrder(axes=(1, 0)), (2, 3, 4), "do not fit the grid"),
        (ScanOrder(backward=(2,)), (2, 3), "names an axis that the grid"),
    ],
)
def test_order_that_does_not_fit_the_grid_is_refused(order: ScanOrder, grid: tuple[int, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        order.walk(grid)


def test_axes_that_are_no_permutation_are_refused() -> None:
    with pytest.raises(ValueError, match="permutation"):
        ScanOrder(axes=(0, 2))


def test_only_the_forward_order_is_a_plain_sequence() -> None:
    assert FORWARD.walk((3, 4)) == sequence(12)
    assert not BACKWARD.walk((3, 4)).is_sequence


def make(count: int, shared: bool, batch: int = 2, channels: int = 6, states: int = 3, length: int = 24) -> dict:
    g = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g)

    return {
        "u": draw(batch, channels, length) if shared else draw(batch, count, channels, length),
        "delta": draw(batch, count, channels, length) - 1,
        "A": -draw(count, channels, states).exp(),
        "B": draw(batch, count, states, length),
        "C": draw(batch, count, 2, states, length),
        "D": draw(count, channels),
        "z": draw(batch, channels, length),
        "delta_bias": draw(count, channels),
        "initial_state": draw(batch, count, channels, states),
    }


ORDERS = {
    "bidirectional": (bidirectional(), (24,)),
    "segmamba": (interleaved(4), (4, 2, 3)),
    "cross2d": (cross(2), (4, 6)),
    "cross3d": (cross(3), (2, 3, 4)),
    "clip": ((FORWARD, ScanOrder(backward=(1, 2)), ScanOrder(axes=(0, 2, 1), backward=(1,))), (4, 2, 3)),
}


@pytest.mark.parametrize("backend", backends("cpu"))
@pytest.mark.parametrize("shared", [True, False], ids=["one-input", "input-each"])
@pytest.mark.parametrize("name", ORDERS)
def test_scan_in_orders_is_the_sum_of_scans_of_reordered_copies(name: str, shared: bool, backend: str) -> None:
    orders, grid = ORDERS[name]
    leaves = {k: v.requires_grad_() for k, v in make(len(orders), shared).items()}
    upstream = torch.randn(2, 6, 24, generator=torch.Generator().manual_seed(4))

    def apart(u, delta, A, B, C, D, z, delta_bias, initial_state):
        total, states = 0, []
        for k, order in enumerate(orders):
            tokens = order.walk(grid).positions()
            y, state = selective_scan(
                (u if shared else u[:, k])[..., tokens], delta[:, k][..., tokens], A[k], B[:, k][..., tokens],
                C[:, k][..., tokens], D[k], z[..., tokens], delta_bias[k], True, initial_state=initial_state[:, k],
                return_last_state=True, backend="reference",
            )  # fmt: skip
            total, states = total + y[..., torch.argsort(tokens)], [*states, state]
        return 0.5 * total, torch.stack(states, dim=1)

    def together(**given):
        return multi_scan(**given, delta_softplus=True, orders=orders, grid=grid, scale=0.5, backend=backend)

    results = []
    for run, kind in ((apart, torch.float64), (together, torch.float32)):
        given = {k: v.detach().to(kind).requires_grad_() for k, v in leaves.items()}
        y, state = run(**given)
        torch.autograd.backward([y, state.sum()], [upstream.to(kind), torch.ones((), dtype=kind)])
        results.append({"y": y.detach(), "state": state.detach(), **{k: v.grad for k, v in given.items()}})
    for key, expected in results[0].items():
        assert (results[1][key] - expected).abs().max() <= 1e-5 * expected.abs().max() + 1e-6, key


@pytest.mark.parametrize("name", ORDERS)
def test_convolution_follows_the_orders(name: str) -> None:
    orders, grid = ORDERS[name]
    g = torch.Generator().manual_seed(5)
    x, weight, bias = (torch.randn(*s, generator=g) for s in ((2, 6, 24), (len(orders), 6, 4), (len(orders), 6)))
    y = causal_conv(x, weight, bias, orders=orders, grid=grid)
    for k, order in enumerate(orders):
        tokens = order.walk(grid).positions()
        for step, token in enumerate(tokens.tolist()):
            seen = tokens[max(step - 3, 0) : step + 1]
            summed = bias[k] + (x[..., seen] * weight[k][:, 4 - len(seen) :]).sum(-1)
            torch.testing.assert_close(y[:, k, :, token], torch.nn.functional.silu(summed))
