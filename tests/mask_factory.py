"""Masks made up for tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]


def box(shape: tuple[int, ...], start: tuple[int, ...], stop: tuple[int, ...]) -> Mask:
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = True
    return mask


def blobs(seed: int, shape: tuple[int, ...], likeness: float = 0.7) -> tuple[Mask, Mask]:
    """Two irregular masks of several pieces that resemble each other."""
    rng = np.random.default_rng(seed)
    fields = [ndimage.gaussian_filter(rng.normal(size=shape), 2.0) for _ in range(2)]
    fields = [field / field.std() for field in fields]
    return fields[0] > 0.8, likeness * fields[0] + (1 - likeness) * fields[1] > 0.6
