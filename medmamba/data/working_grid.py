"""The grid that a pair of images is registered on, and images brought there."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from medmamba.transform import Affine, Mode, Transform, resample
from medmamba.volume import Geometry, Volume, closest_axes


def working_grid(fixed: Geometry, spacing_mm: Sequence[float], strides: Sequence[int]) -> Geometry:
    """The grid to register on: along the fixed image's own axes, turned to the closest R, A, S.

    It covers the fixed image with a voxel of margin or more. Where the spacing is the image's own, voxels coincide with
    the image's.

    Args:
        fixed: of the fixed image; a sheared one is followed as it is.
        spacing_mm: along R, A, S.
        strides: what each size has to be divisible by.
    """
    axes, signs = closest_axes(fixed)
    affine, shape = np.eye(4), []
    first = np.array([0 if sign > 0 else fixed.shape[axis] - 1 for axis, sign in zip(axes, signs, strict=True)])
    corner = np.zeros(3)
    corner[list(axes)] = first
    origin = fixed.affine[:3, :3] @ corner + fixed.affine[:3, 3]
    for out, (axis, sign, target, stride) in enumerate(zip(axes, signs, spacing_mm, strides, strict=True)):
        own = fixed.spacing_mm[axis]
        margin = max(1, math.ceil(own / 2 / target - 1e-6))
        span = math.ceil((fixed.shape[axis] - 1) * own / target - 1e-3) + 1
        size = math.ceil((span + 2 * margin) / stride) * stride
        affine[:3, out] = sign * fixed.affine[:3, axis] * (target / own)
        origin = origin - affine[:3, out] * ((size - span) // 2)
        shape.append(size)
    affine[:3, 3] = origin
    return Geometry((shape[0], shape[1], shape[2]), affine)


def placed(volume: Volume, affine: Affine, grid: Geometry, mode: Mode = "linear", outside: float = 0.0) -> Volume:
    """A moving image on the working grid, by one interpolation; a finer one is averaged first.

    Args:
        volume: the image.
        affine: from the fixed to the moving image.
        grid: the working grid.
        mode: how values in between are found.
        outside: the value beyond the image.
    """
    if mode == "linear":
        axes, _ = closest_axes(volume.geometry)
        factors = [1, 1, 1]
        for axis, target in zip(axes, grid.spacing_mm, strict=True):
            factors[axis] = max(1, math.floor(target / volume.geometry.spacing_mm[axis] + 0.1))
        volume = averaged(volume, factors)
    return resample(volume, Transform((affine,)), grid, mode, outside)


def averaged(volume: Volume, factors: Sequence[int]) -> Volume:
    """Means over blocks of so many voxels along each axis; beyond the image the last voxel goes on."""
    if max(factors) == 1:
        return volume
    shape = [math.ceil(n / f) for n, f in zip(volume.geometry.shape, factors, strict=True)]
    lacking = [k * f - n for k, f, n in zip(shape, factors, volume.geometry.shape, strict=True)]
    array = np.pad(volume.array, [(0, 0), *((0, n) for n in lacking)], mode="edge")
    blocks = array.reshape(len(array), *(each for pair in zip(shape, factors, strict=True) for each in pair))
    affine = volume.geometry.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ ((np.array(factors) - 1) / 2)
    affine[:3, :3] *= factors
    means = blocks.mean(axis=(2, 4, 6), dtype=np.float32)
    return Volume(means, Geometry((shape[0], shape[1], shape[2]), affine))
