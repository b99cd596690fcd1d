"""The benchmark of whole networks reports what it measured, and nothing when results differ."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor


@pytest.fixture(scope="module")
def benchmark(script: Callable[[str], ModuleType]) -> ModuleType:
    """The script as a module."""
    return script("networks")


NAMES = ("Vim-Ti", "VMamba-T s1l8", "SegMamba", "U-Mamba Bot", "U-Mamba Enc")


def test_table_has_a_row_for_each_network_and_pass(benchmark: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.main(["--device", "cpu", "--tiny", "--repeat", "1"])
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][1:]
    assert [row[0].split(",")[0][2:] for row in rows] == [name for name in NAMES for _ in range(2)]
    assert [row[2] for row in rows] == ["forward", "forward + backward"] * len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_reported_when_results_differ(
    benchmark: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    published = benchmark.published_scan

    def wrong(scan: Any) -> tuple[Tensor, Tensor]:
        """By 1 %, and not the same in all channels, which norms would take out."""
        y, state = published(scan)
        return y + 0.01 * y.abs().max() * torch.linspace(-1, 1, y.shape[1])[:, None], state

    monkeypatch.setattr(benchmark, "published_scan", wrong)
    with pytest.raises(SystemExit, match="nothing to report"):
        benchmark.main(["--device", "cpu", "--tiny", "--repeat", "1", "--networks", name])
    assert f"| {name}," not in capsys.readouterr().out


def test_peer_is_at_work_only_within_its_context(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    published = benchmark.published_scan
    monkeypatch.setattr(benchmark, "published_scan", lambda scan: calls.append(scan) or published(scan))
    network = next(case for case in benchmark.cases(tiny=True) if case.name == "SegMamba").make()
    x = torch.randn(1, 1, 8, 8, 8)
    network(x)
    assert not calls
    with benchmark.on_the_published_scan():
        network(x)
    assert len(calls) == 4
    network(x)
    assert len(calls) == 4


def test_unknown_network_lists_those_there_are(benchmark: ModuleType) -> None:
    with pytest.raises(SystemExit, match="no network begins with 'resnet'; there are Vim-Ti"):
        benchmark.main(["--networks", "resnet"])


def test_full_size_is_the_published_one(benchmark: ModuleType) -> None:
    topology = benchmark.pyramid((128,) * 3, (48, 96, 192, 384, 768))
    with torch.device("meta"):
        network = benchmark.SegMamba(4, 4, topology, deep_supervision=False)
    assert sum(parameter.numel() for parameter in network.parameters()) == benchmark.PUBLISHED[2]
