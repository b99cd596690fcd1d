"""Linear maps that are one matrix along each spatial axis: windows, splines, other resolutions.

A window of any size and shape then costs one matrix product an axis, forwards and backwards, which on processors is
several times cheaper than pooling or convolving.

Letters: B batch, C channels, S two or three spatial axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def along_axes(image: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Apply a matrix along each spatial axis.

    Args:
        image: (B, C, *S), float.
        matrices: one (T_i, S_i) for each spatial axis, of the image's type.

    Returns:
        (B, C, *T), computed in the image's type, also under autocast.
    """
    *others, last = matrices
    with torch.autocast(image.device.type, enabled=False):
        image = torch.matmul(image, last.T)
        for axis, matrix in enumerate(others, start=2):
            before, after = image.shape[:axis], image.shape[axis + 1 :]
            lines = image.reshape(math.prod(before), image.shape[axis], math.prod(after))
            image = torch.matmul(matrix, lines).reshape(*before, matrix.shape[0], *after)
    return image


def box(size: int, radius: int, like: Tensor) -> Tensor:
    """Sums over the 2 radius + 1 voxels around each, those inside the image: (size, size)."""
    at = torch.arange(size, device=like.device)
    return ((at[:, None] - at).abs() <= radius).to(like.dtype)


def gaussian(size: int, sigma: float, like: Tensor) -> Tensor:
    """Weighted sums with a Gaussian of ``sigma`` voxels, cut at 3 sigma, whose whole window sums to 1: (size, size)."""
    reach = int(3 * sigma + 0.5)
    away = torch.arange(size, device=like.device)
    away = (away[:, None] - away).abs()
    weights = torch.exp(-0.5 * (away / sigma) ** 2) * (away <= reach)
    line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=like.device) / sigma) ** 2)
    return (weights / line.sum()).to(like.dtype)


def cubic_spline(size: int, knot_distance: float, like: Tensor) -> Tensor:
    """Cubic B-splines at the voxels: (size, knots), rows sum to 1; knots lie ``knot_distance`` voxels apart."""
    at = torch.arange(size, device=like.device) / knot_distance
    knots = torch.arange(-1, int((size - 1) / knot_distance) + 3, device=like.device)
    return cubic(at[:, None] - knots).to(like.dtype)


def cubic(at: Tensor) -> Tensor:
    """The cubic B-spline of unit knots around 0, which is 0 from 2 on."""
    away = at.abs()
    inner = (4 - 6 * away**2 + 3 * away**3) / 6
    outer = (2 - away).clamp(min=0) ** 3 / 6
    return torch.where(away < 1, inner, outer)


def resampling(size: int, target: int, like: Tensor) -> Tensor:
    """Linear interpolation to ``target`` voxels between the same first and last one: (target, size)."""
    at = torch.arange(target, device=like.device, dtype=torch.float64) * ((size - 1) / max(target - 1, 1))
    away = (at[:, None] - torch.arange(size, device=like.device)).abs()
    return (1 - away).clamp(min=0).to(like.dtype)
