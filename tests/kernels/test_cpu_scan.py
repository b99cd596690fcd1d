"""The compiled CPU backend against the oracle, and what PyTorch asks of an operator."""

from __future__ import annotations

import math
import multiprocessing
import os

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from medmamba.kernels import (
    ScanOrder,
    _cpu_job,
    _threads,
    cross,
    interleaved,
    multi_scan,
    selective_scan,
)


def assert_close_to_exact(scan, arguments, *, softplus: bool = True, tolerance: float = 1e-5) -> None:
    """The largest error against float64, over the largest value, is what a few roundings cost."""
    results, expected = (
        scan(arguments, "cpu", softplus=softplus),
        scan(arguments, "reference", softplus=softplus, exact=True),
    )
    assert results.keys() == expected.keys()
    for name, value in expected.items():
        own = results[name].double()
        assert own.shape == value.shape, name
        if value.numel():
            scale = float(value.abs().max())
            assert float((own - value).abs().max()) <= tolerance * scale + 1e-9, name


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batch=st.integers(0, 3),
    per_group=st.integers(1, 35),
    states=st.integers(1, 18),
    length=st.integers(0, 70),
    groups=st.sampled_from([(1, 1), (2, 2), (1, 3), (2, 3), (None, 1), (2, None), (None, None)]),
    optional=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_any_shape_agrees_with_the_oracle(batch, per_group, states, length, groups, optional, seed, arguments, scan):
    channels = per_group if groups == (1, 1) else 6 * (per_group % 4 + 1)
    given = arguments(batch, channels, states, length, groups=groups, optional=optional, seed=seed)
    if not optional:
        given["delta"] = given["delta"].abs() * 0.1
    assert_close_to_exact(scan, given, softplus=optional)


@pytest.mark.parametrize("states", [1, 16, 256])
def test_any_number_of_states_agrees_with_the_oracle(states, arguments, scan) -> None:
    assert_close_to_exact(scan, arguments(1, 17, states, 66))


@pytest.mark.parametrize("name", ["u", "delta", "z", "B", "C", "initial_state"])
def test_strided_argument_gives_the_same_as_a_compact_one(name, arguments, scan) -> None:
    given = arguments(2, 18, 4, 67)
    expected = scan(given, "cpu")
    strided = given | {name: given[name].transpose(1, 2).contiguous().transpose(1, 2)}
    assert not strided[name].is_contiguous()
    expanded = given[name].repeat_interleave(2, dim=-1)[..., ::2]
    for variant in (strided, given | {name: expanded}):
        for key, value in scan(variant, "cpu").items():
            assert torch.equal(value, expected[key]), key


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(kind, arguments, scan) -> None:
    given = arguments(1, 18, 4, 67, kind=kind)
    half, single = scan(given, "cpu"), scan({k: v.float() for k, v in given.items()}, "cpu")
    assert half["last_state"].dtype == torch.float32
    assert torch.equal(half["last_state"], single["last_state"])
    assert torch.equal(half["y"], single["y"].to(kind))
    assert all(half[f"grad/{name}"].dtype == kind for name in given)


def test_float64_is_left_to_torch(arguments) -> None:
    given = arguments(1, 3, 2, 5, kind=torch.float64)
    assert torch.equal(selective_scan(**given, backend="cpu"), selective_scan(**given, backend="torch"))


@pytest.mark.parametrize("channels", [5, 40])
def test_result_is_the_same_for_any_number_of_threads(channels, arguments, scan, monkeypatch) -> None:
    monkeypatch.setattr(_cpu_job, "SEGMENT", 128)
    monkeypatch.setattr(_cpu_job, "SHARES", 1)
    given, before, results = arguments(1, channels, 4, 1000, groups=(1, 1)), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 2):
            torch.set_num_threads(threads)
            results.append(scan(given, "cpu"))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for name, value in results[0].items():
            assert torch.equal(other[name], value), name


@pytest.mark.parametrize("groups", [(1, 1), (None, 1)])
def test_lone_block_cut_along_its_length_agrees_with_the_oracle(groups, arguments, scan, monkeypatch) -> None:
    monkeypatch.setattr(_cpu_job, "SEGMENT", 128)
    assert_close_to_exact(scan, arguments(1, 5, 3, 700, groups=groups))


def test_shares_of_the_gradient_of_b_are_summed_in_windows(arguments, scan, monkeypatch) -> None:
    monkeypatch.setattr(_cpu_job, "SHARES", 1)
    assert_close_to_exact(scan, arguments(2, 36, 3, 600, groups=(2, 1)))


def test_scan_in_two_halves_is_the_scan(arguments) -> None:
    given = arguments(2, 18, 4, 130)
    y, state = selective_scan(**given, return_last_state=True, delta_softplus=True, backend="cpu")
    along = ("u", "delta", "z", "B", "C")
    first, second = ({**given, **{k: given[k][..., part] for k in along}} for part in (slice(0, 70), slice(70, None)))
    y1, middle = selective_scan(**first, return_last_state=True, delta_softplus=True, backend="cpu")
    y2, end = selective_scan(**second | {"initial_state": middle}, return_last_state=True, delta_softplus=True)
    torch.testing.assert_close(torch.cat([y1, y2], 2), y, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(end, state, rtol=1e-5, atol=1e-6)


def test_nan_and_infinity_reach_the_same_places_as_in_the_reference(arguments) -> None:
    for value in (float("nan"), float("inf")):
        for name in ("u", "delta", "z", "B", "C", "A"):
            given = arguments(1, 17, 3, 40)
            given[name] = given[name].clone()
            given[name][(0, *[1] * (given[name].dim() - 1))] = value
            ours, reference = (selective_scan(**given, delta_softplus=True, backend=b) for b in ("cpu", "reference"))
            assert torch.equal(ours.isfinite(), reference.isfinite()), (name, value)


def test_second_derivative_is_refused_with_the_way_out(arguments) -> None:
    given = {k: v.requires_grad_() for k, v in arguments(1, 3, 2, 4).items()}
    (grad,) = torch.autograd.grad(selective_scan(**given, backend="cpu").sum(), given["u"], create_graph=True)
    with pytest.raises(RuntimeError, match="use backend='torch'"):
        grad.sum().backward()


def test_gradient_is_none_where_none_is_wanted(arguments) -> None:
    given = arguments(1, 3, 2, 4)
    given["A"].requires_grad_()
    selective_scan(**given, backend="cpu").sum().backward()
    assert given["A"].grad is not None
    assert given["u"].grad is None


class Scans(Dataset):
    def __init__(self, given) -> None:
        self.given = given

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> torch.Tensor:
        torch.set_num_threads(2)
        return selective_scan(**self.given, delta_softplus=True, backend="cpu")


def test_worker_processes_can_scan_after_the_parent_did(arguments) -> None:
    given, before = arguments(1, 40, 4, 65), torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        expected = selective_scan(**given, delta_softplus=True, backend="cpu")
    finally:
        torch.set_num_threads(before)
    loader = DataLoader(Scans(given), batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60)
    for result in loader:
        assert torch.equal(result, expected)


def owner_of_the_threads_that_ran() -> tuple[int, int]:
    """The process that made the threads that tasks ran on, and this one."""
    torch.set_num_threads(2)
    _threads.run([lambda: None] * 2)
    return _threads._pool[0], os.getpid()


def test_forked_process_gets_threads_of_its_own() -> None:
    before = torch.get_num_threads()
    try:
        owner, here = owner_of_the_threads_that_ran()
        with multiprocessing.get_context("fork").Pool(1) as child:  # which hangs on threads that it does not have
            owner_there, there = child.apply_async(owner_of_the_threads_that_ran).get(timeout=60)
    finally:
        torch.set_num_threads(before)
    assert owner == here
    assert owner_there == there != here


PANELS = {
    "slices-fastest": (interleaved(8), (8, 4, 8)),
    "columns-and-back": (cross(2), (16, 18)),
    "odd-frames": (interleaved(5), (5, 8, 9)),
    "three-axes": (cross(3), (4, 8, 9)),
    "frames-from-their-ends": ((ScanOrder(), ScanOrder(backward=(1, 2))), (5, 8, 9)),
    "columns-from-their-ends": ((ScanOrder(axes=(0, 2, 1), backward=(1, 2)), ScanOrder(backward=(2,))), (5, 8, 9)),
    "short-rows": ((ScanOrder(axes=(1, 2, 0), reverse=True),), (16, 5, 9)),
}


@pytest.mark.parametrize("tokens_first", [True, False])
@pytest.mark.parametrize("channels", [5, 35])
@pytest.mark.parametrize("name", PANELS)
def test_grids_crossed_in_panels_agree_with_the_oracle(name, channels, tokens_first) -> None:
    orders, grid = PANELS[name]
    length, g = math.prod(grid), torch.Generator().manual_seed(7)

    def draw(*shape: int, tokens: bool = True) -> torch.Tensor:
        values = torch.randn(*shape, generator=g)
        return values.mT.contiguous().mT if tokens and tokens_first else values

    count = len(orders)
    given = {
        "u": draw(2, channels, length) if name == "columns-and-back" else draw(2, count, channels, length),
        "delta": draw(2, count, channels, length) - 1,
        "A": -draw(count, channels, 17, tokens=False).exp(),
        "B": draw(2, count, 17, length),
        "C": draw(2, count, 17, length),
        "D": draw(count, channels, tokens=False),
        "z": draw(2, channels, length),
        "delta_bias": draw(count, channels, tokens=False),
    }
    upstream, results = draw(2, channels, length), []
    for backend, kind in (("cpu", torch.float32), ("reference", torch.float64)):
        leaves = {k: v.detach().to(kind).requires_grad_() for k, v in given.items()}
        y, state = multi_scan(**leaves, delta_softplus=True, orders=orders, grid=grid, backend=backend, scale=0.5)
        torch.autograd.backward([y, state.sum()], [upstream.to(kind), torch.ones((), dtype=kind)])
        results.append({"y": y.detach(), "state": state.detach(), **{k: v.grad for k, v in leaves.items()}})
    for key, expected in results[1].items():
        assert (results[0][key] - expected).abs().max() <= 1e-5 * expected.abs().max(), key
