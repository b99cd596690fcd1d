"""The benchmark of video reports what it measured, and nothing when results differ."""

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
    return script("video")


def rows(capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    """Cells of the table."""
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    return [line.strip("| ").split(" | ") for line in lines[1:]]


def test_table_has_a_row_for_each_network_and_pass(benchmark: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.main(["--device", "cpu", "--tiny", "--repeat", "1"])
    found = rows(capsys)
    assert [(row[0].rpartition(",")[0], row[2]) for row in found] == [
        (name, direction)
        for name in ("Vivim-tiny", "Vivim-tiny, causal")
        for direction in ("forward", "forward + backward")
    ]
    assert all(row[8] != "-" for row in found)


def test_nothing_is_reported_when_results_differ(
    benchmark: ModuleType,
    script: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    networks = script("networks")
    published = networks.published_scan

    def wrong(scan: Any) -> tuple[Tensor, Tensor]:
        """Of another size, and not the same in all channels."""
        y, state = published(scan)
        return y + 1e3 * torch.linspace(-1, 1, y.shape[1])[:, None], state

    monkeypatch.setattr(networks, "published_scan", wrong)
    with pytest.raises(SystemExit, match="nothing to report"):
        benchmark.main(["--device", "cpu", "--tiny", "--repeat", "1"])
    assert not rows(capsys)


def test_stream_is_told_in_ten_parts(benchmark: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.main(["--device", "cpu", "--tiny", "--stream", "20", "--edge", "16"])
    assert [row[0] for row in rows(capsys)] == [f"{first} to {first + 1}" for first in range(1, 20, 2)]
