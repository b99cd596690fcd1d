"""How many exponentials this processor's threads can do, for the benchmark."""
# Numba compiles these functions and has no types of its own to give; the arguments are described in words.

from __future__ import annotations

import time
from functools import partial

import numpy as np
import torch
from numba import njit

from medmamba.kernels._cpu_layout import TILE, WIDTH
from medmamba.kernels._simd import exp2, load, mul, splat, store
from medmamba.kernels._threads import run

_ROUNDS = 20_000


@njit(nogil=True, cache=True)
def _exponentials(values, rounds):
    half = splat(np.float32(0.5))
    for _ in range(rounds):
        for i in range(0, TILE * WIDTH, WIDTH):
            store(values, i, exp2(mul(load(values, i), half)))


def exponentials_per_second() -> float:
    """The best of five, on as many threads as PyTorch uses."""
    threads = torch.get_num_threads()
    values = [torch.ones(TILE * WIDTH) for _ in range(threads)]
    best = float("inf")
    for rounds in (_ROUNDS, *(_ROUNDS,) * 5):
        start = time.perf_counter()
        run([partial(_exponentials, v.data_ptr(), rounds) for v in values])
        best = min(best, (time.perf_counter() - start) / rounds)
    return threads * TILE * WIDTH / best
