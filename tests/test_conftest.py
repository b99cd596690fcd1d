"""Workers side by side fit the machine."""

from __future__ import annotations

import os

import pytest

from medmamba import memory


@pytest.mark.parametrize(
    ("cores", "free_bytes", "workers", "threads"),
    [(2, 64e9, 2, "1"), (16, 128e9, 16, "1"), (16, 13e9, 4, "4"), (2, 1e9, 1, "2"), (4, float("inf"), 4, "1")],
)
def test_workers_are_as_many_as_cores_and_memory_allow_and_share_the_cores(
    cores: int,
    free_bytes: float,
    workers: int,
    threads: str,
    pytestconfig: pytest.Config,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "unset below, restored afterwards")
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setattr(memory, "available_bytes", lambda: free_bytes)
    assert pytestconfig.hook.pytest_xdist_auto_num_workers(config=pytestconfig) == workers
    assert os.environ["OMP_NUM_THREADS"] == threads
