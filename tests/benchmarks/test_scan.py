"""The benchmark reports what it measured, and nothing when results differ."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch

from medmamba.kernels import ScanOrder, cross, interleaved


@pytest.fixture(scope="module")
def benchmark(script: Callable[[str], ModuleType]) -> ModuleType:
    """The script as a module."""
    return script("scan")


@pytest.fixture(autouse=True)
def small(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = [benchmark.Shape("small", 1, 16, 2, (4, 4), benchmark.cross(2), shared=True)]
    monkeypatch.setattr(benchmark, "shapes", lambda: iter(shapes))
    limit = benchmark.Limit(1e9, 1e9, "made up")
    monkeypatch.setattr(benchmark, "measure_limit", lambda device: limit)


def test_table_has_a_row_for_each_pass_and_for_the_orders_together(
    benchmark: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark.main(["--device", "cpu", "--repeat", "1"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| small")]
    assert ["forward + backward" in row for row in rows] == [False, True, False, True]
    assert all("loop" in row for row in rows[:2])


def test_nothing_is_reported_when_results_differ(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = benchmark.Peer("wrong", lambda *args: benchmark.loop(*args) * 1.01, quick=True)
    monkeypatch.setattr(benchmark, "peers", lambda device: [wrong])
    with pytest.raises(SystemExit, match=r"small beside wrong: y differs by .* nothing to report"):
        benchmark.main(["--device", "cpu", "--repeat", "1"])
    assert capsys.readouterr().out.count("| refused |") == 2


@pytest.mark.parametrize("order", [*cross(3), *interleaved(4), ScanOrder(axes=(2, 0, 1), pieces=5, reverse=True)])
def test_peers_get_the_tokens_of_each_order_and_put_them_back(benchmark: ModuleType, order: ScanOrder) -> None:
    grid = (4, 3, 5)
    tokens = torch.arange(60).repeat(2, 1)
    there = benchmark.laid_out(tokens, order, grid)
    assert there[1].tolist() == order.walk(grid).positions().tolist()
    assert torch.equal(benchmark.put_back(there, order, grid), tokens)


def test_unknown_shape_lists_those_there_are(benchmark: ModuleType) -> None:
    with pytest.raises(SystemExit, match="no shape begins with 'resnet'"):
        benchmark.main(["--shapes", "resnet"])


def test_limit_counts_exponentials_and_bytes(benchmark: ModuleType) -> None:
    shape = benchmark.Shape("s", 2, 8, 16, (10,))
    tokens = 2 * 8 * 10
    assert benchmark.Limit(1.0, 1e30, "").seconds(shape, False, 4) == tokens * (16 + 4)
    moved = tokens * 4 + 2 * 2 * 16 * 10
    assert benchmark.Limit(1e30, 1.0, "").seconds(shape, False, 4) == pytest.approx(4 * moved)
