"""Threads for compiled kernels: as many as PyTorch uses, of this process's own."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

_pool: tuple[int, int, ThreadPoolExecutor] | None = None


def run(tasks: Sequence[Callable[[], object]]) -> None:
    """Run tasks on as many threads as PyTorch uses; a forked process gets threads of its own."""
    global _pool
    threads = min(torch.get_num_threads(), len(tasks))
    if threads <= 1:
        for task in tasks:
            task()
        return
    if _pool is None or _pool[:2] != (os.getpid(), torch.get_num_threads()):
        _pool = (os.getpid(), torch.get_num_threads(), ThreadPoolExecutor(torch.get_num_threads(), "medmamba-scan"))
    for done in [_pool[2].submit(task) for task in tasks]:
        done.result()


def ranges(count: int) -> list[tuple[int, int]]:
    """(first, last) of contiguous parts of ``count`` things, a few for each thread; how they fall changes no result."""
    parts = min(count, 4 * torch.get_num_threads())
    return [(count * i // parts, count * (i + 1) // parts) for i in range(parts)]
