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
    """A moving image on the working grid, by one interpolation.

    Args:
        volume: the image.
        affine: from the fixed to the moving image.
        grid: the working grid.
        mode: how values in between are found.
        outside: the value beyond the image.
    """
    return resample(volume, Transform((affine,)), grid, mode, outside)
