"""Displacement fields: warp images along them, make them from velocities, compose them, find where they fold.

A field (B, dims, *S) holds one vector for each voxel of the fixed grid, in voxels, component i along array axis i. It
pulls: the warped image has at x what the image has at x + field(x). That is how VoxelMorph, TransMorph, MambaMorph and
MONAI hold their fields. In millimetres, a field on a grid of affine A is the 3x3 part of A times its vectors.

Letters: B batch, C channels, S two or three spatial axes.

References:
    Jaderberg et al., "Spatial Transformer Networks", 2015; Arsigny et al., "A Log-Euclidean Framework for Statistics on
    Diffeomorphisms", MICCAI 2006 (scaling and squaring).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Interpolation = Literal["linear", "nearest"]

_MODES: dict[str, str] = {"linear": "bilinear", "nearest": "nearest"}  # "bilinear" is trilinear in 3D


def warp(image: Tensor, field: Tensor, mode: Interpolation = "linear") -> Tensor:
    """Resample an image where a field points to; beyond the image lies 0.

    Positions are computed in float32 at least, also under autocast: 16 bits cannot tell neighbouring voxels apart.

    Args:
        image: (B, C, *S); of any type for "nearest", floating for "linear". A field of batch 1 or an image of batch 1
            serves all entries of the other.
        field: (B, dims, *S), in voxels. Along an axis of one voxel it has no effect.
        mode: "linear", or "nearest" for labels.

    Returns:
        (B, C, *S) in the image's type.

    Raises:
        TypeError: if values between those of an image of integers are asked for.
        ValueError: if there is no such mode, or image and field do not belong to one grid.
    """
    if mode not in _MODES:
        raise ValueError(f"an image is warped by one of {', '.join(_MODES)}, but got {mode!r}")
    if mode == "linear" and not image.is_floating_point():
        raise TypeError(f"an image of {image.dtype} has no values in between; convert it, or warp by mode='nearest'")
    _check(field)
    if image.shape[2:] != field.shape[2:]:
        raise ValueError(
            f"image and field must be on one grid, but are {tuple(image.shape)} and {tuple(field.shape)}; resample the "
            "image to the field's grid first"
        )
    # Compared pairwise, as torch.jit.trace gives sizes as tensors, of which a set holds each by itself.
    if image.shape[0] != field.shape[0] and 1 not in (image.shape[0], field.shape[0]):
        raise ValueError(
            f"image and field must be of one batch, or one of them of batch 1, but are {tuple(image.shape)} and "
            f"{tuple(field.shape)}"
        )
    batch = image.shape[0] if field.shape[0] == 1 else field.shape[0]
    # Integers up to 2^53 pass through float64 unharmed.
    exact = image.dtype if image.is_floating_point() else torch.float64
    precision = torch.promote_types(torch.promote_types(exact, field.dtype), torch.float32)
    with torch.autocast(field.device.type, enabled=False):
        positions = _relative(field.to(precision))
        moved = F.grid_sample(
            image.to(precision).expand(batch, *image.shape[1:]),
            positions.expand(batch, *positions.shape[1:]),
            mode=_MODES[mode],
            padding_mode="zeros",
            align_corners=True,
        )
    return moved.to(image.dtype)


def integrate(velocity: Tensor, steps: int = 7) -> Tensor:
    """Follow a stationary velocity field for unit time by scaling and squaring.

    Args:
        velocity: (B, dims, *S), voxels per unit time.
        steps: number of squarings; 0 returns the velocity as it is. The time step is 2^-steps.

    Returns:
        (B, dims, *S) displacement in voxels, float32 at least. That of the negative velocity is its inverse. Free of
        folds for a smooth velocity whose steps are small against a voxel; `jacobian_determinant` tells.

    Raises:
        ValueError: if the velocity is no field or the number of steps is negative.
    """
    if steps < 0:
        raise ValueError(f"a velocity is integrated in 0 or more squarings, got {steps}")
    _check(velocity)
    field = velocity.to(torch.promote_types(velocity.dtype, torch.float32)) * 0.5**steps
    for _ in range(steps):
        field = compose(field, field)
    return field


def compose(first: Tensor, second: Tensor) -> Tensor:
    """The one field that moves an image as the first field and then the second do.

    ``warp(image, compose(first, second))`` is ``warp(warp(image, first), second)``, but interpolates the image only
    once. Where the second field leads out of the grid, the first counts as 0.

    Args:
        first: (B, dims, *S), voxels.
        second: the same.

    Returns:
        (B, dims, *S), voxels.

    Raises:
        ValueError: if these are no fields on one grid.
    """
    _check(first)
    return second + warp(first, second)


def jacobian_determinant(field: Tensor) -> Tensor:
    """How much the neighbourhood of each voxel grows where a field takes it: 1 nothing, 0 or less folded.

    Derivatives are central differences, one-sided at the faces of the grid. The determinant is the same in voxels and
    in millimetres.

    Args:
        field: (B, dims, *S), voxels; two or more along each axis.

    Returns:
        (B, *S), float32 at least.

    Raises:
        ValueError: if this is no field, or an axis has one voxel only.
    """
    _check(field)
    dims, size = field.shape[1], tuple(field.shape[2:])
    if min(size) < 2:
        raise ValueError(f"a field changes along an axis only if that has two voxels or more, but the grid is {size}")
    field = field.to(torch.promote_types(field.dtype, torch.float32))
    axes = tuple(range(2, dims + 2))
    # Row i: how the position along each axis changes with a step along axis i.
    rows = [
        torch.stack([change[:, component] + (component == axis) for component in range(dims)], dim=-1)
        for axis, change in enumerate(torch.gradient(field, dim=axes))
    ]
    if dims == 2:
        (a, b), (c, d) = (row.unbind(-1) for row in rows)
        return a * d - b * c
    determinant: Tensor = (rows[0] * torch.linalg.cross(rows[1], rows[2])).sum(-1)
    return determinant


def _relative(field: Tensor) -> Tensor:
    """(B, *S, dims) positions for grid_sample: -1 to 1 from the first voxel to the last, fastest axis first."""
    positions = []
    for axis, size in enumerate(field.shape[2:]):
        index = torch.arange(size, dtype=field.dtype, device=field.device)
        along = index.reshape(-1, *(1,) * (field.shape[1] - axis - 1))
        positions.append((field[:, axis] + along) * (2 / max(size - 1, 1)) - 1)
    return torch.stack(positions[::-1], dim=-1)


def _check(field: Tensor) -> None:
    dims = field.dim() - 2
    if dims not in (2, 3) or field.shape[1] != dims or not field.is_floating_point():
        raise ValueError(
            f"a field must hold floating numbers (batch, 2, H, W) or (batch, 3, D, H, W), one component per axis, but "
            f"is {tuple(field.shape)} of {field.dtype}"
        )
