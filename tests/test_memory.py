"""Too little memory is foreseen, and said in numbers."""

from __future__ import annotations

import math
import resource
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from medmamba import memory
from medmamba.data.preprocess import Preprocessor, resampling_bytes
from medmamba.memory import TooLittleMemoryError, available_bytes, check_memory, memory_errors
from medmamba.volume import Geometry, Volume
from tests.data.factory import channel, make_plan


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_least_of_machine_and_containers_is_available(tmp_path: Path) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    assert available_bytes(proc, groups) == math.inf
    write(proc / "meminfo", "MemTotal:  9000 kB\nMemAvailable:    5000 kB\n")
    assert available_bytes(proc, groups) == 5000 * 1024
    write(proc / "self" / "cgroup", "0::/outer/inner\n")
    write(groups / "outer" / "inner" / "memory.max", "max\n")
    write(groups / "outer" / "inner" / "memory.current", "7\n")
    assert available_bytes(proc, groups) == 5000 * 1024
    write(groups / "outer" / "memory.max", "1000000\n")
    write(groups / "outer" / "memory.current", "700000\n")
    assert available_bytes(proc, groups) == 300_000
    write(groups / "outer" / "memory.stat", "anon 5\ninactive_file 200000\n")
    assert available_bytes(proc, groups) == 500_000


def test_containers_of_the_first_kind_count_as_well(tmp_path: Path) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    write(proc / "self" / "cgroup", "5:cpu,cpuacct:/a\n4:memory:/a\n")
    write(groups / "memory" / "memory.limit_in_bytes", str(2**63 - 4096))
    write(groups / "memory" / "memory.usage_in_bytes", "1")
    write(groups / "memory" / "a" / "memory.limit_in_bytes", "1000")
    write(groups / "memory" / "a" / "memory.usage_in_bytes", "400")
    assert available_bytes(proc, groups) == 600


def test_limit_of_the_process_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + 50_000_000
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limit, limit))
    assert 0 <= available_bytes() <= 60_000_000


def test_refusal_tells_both_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 2e9)
    with pytest.raises(TooLittleMemoryError, match=r"it needs 3 GB of memory, 2 GB are free"):
        check_memory(3e9, "it")
    check_memory(1.9e9, "it")


def test_errors_of_torch_for_lack_of_memory_are_memory_errors() -> None:
    with pytest.raises(MemoryError, match="tried to allocate"), memory_errors():
        torch.empty(2**55)
    with pytest.raises(MemoryError, match="CUDA out of memory"), memory_errors():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB\nmore")
    with pytest.raises(RuntimeError, match="shape"), memory_errors():
        torch.zeros(2, 3) @ torch.zeros(2, 3)  # a mistake in the program stays what it is


GRIDS = {"finer": ((40, 40, 40), (2.0, 2.0, 2.0)), "coarse": ((12, 70, 70), (8.0, 1.0, 1.0))}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("labelled", [False, True])
def test_estimate_is_near_what_resampling_takes(channels: int, kind: str, labelled: bool) -> None:
    shape, spacing = GRIDS[kind]
    preprocessor = Preprocessor(make_plan(axes=(0, 1, 2), channels=(channel(),) * channels))
    geometry = Geometry(shape, np.diag([*spacing, 1.0]))
    image = Volume(np.random.default_rng(0).normal(9, 1, (channels, *shape)).astype(np.float32), geometry)
    label = Volume((np.arange(math.prod(shape)) % 3).reshape(1, *shape).astype(np.uint8), geometry)
    tracemalloc.start()
    try:
        sample = preprocessor.forward(image, label if labelled else None)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    estimate = resampling_bytes(channels, shape, sample.image.shape[1:], coarse=kind == "coarse", labelled=labelled)
    assert 0.6 * peak < estimate < 1.1 * peak
    logits = np.zeros((3, *sample.image.shape[1:]), np.float32)
    tracemalloc.start()
    try:
        preprocessor.restore(logits, sample.trail)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    estimate = preprocessor.restoring_bytes(sample.image.shape[1:], sample.trail)
    assert 0.5 * (peak + logits.nbytes) < estimate < 1.1 * (peak + logits.nbytes)
