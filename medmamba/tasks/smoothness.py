"""What keeps a field plausible: losses of its derivatives, its folds, and of two fields that should undo each other.

Fields are (B, dims, *S) in voxels, as in `medmamba.warp`; with ``spacing_mm``, a stretch by one millimetre costs the
same along every axis of an anisotropic grid. All compute in float32 at least, also under autocast, and return a scalar.
`SMOOTHNESSES` names those that a plan chooses from.

References:
    Rueckert et al., IEEE TMI 18 (1999), for the bending energy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from medmamba.warp import compose, jacobian_determinant, warp


def diffusion(field: Tensor, spacing_mm: Sequence[float] | None = None) -> Tensor:
    """Mean squared first derivative, over components and axes: millimetres of displacement per millimetre.

    Differences between neighbours; a translation costs nothing. Axes of one voxel are left out.
    """
    field, spacing = _in_mm(field, spacing_mm)
    costs = [(field.diff(dim=axis + 2) / along).square().mean() for axis, along in spacing if field.shape[axis + 2] > 1]
    return torch.stack(costs).mean() if costs else field.sum() * 0


def bending(field: Tensor, spacing_mm: Sequence[float] | None = None) -> Tensor:
    """Mean over voxels of the sum of all squared second derivatives, mixed ones twice; per mm^2 of space.

    An affine map costs nothing. Derivatives are taken where the field has the voxels for them.
    """
    field, spacing = _in_mm(field, spacing_mm)
    cost = field.sum() * 0
    for axis, along in spacing:
        first = field.diff(dim=axis + 2) / along
        for other, across in spacing[axis:]:
            second = first.diff(dim=other + 2) / across
            if second.numel():
                cost = cost + second.square().sum(dim=1).mean() * (1 if other == axis else 2)
    return cost


def jacobian_penalty(field: Tensor) -> Tensor:
    """Mean over voxels of how far the Jacobian determinant lies below 0; the same in voxels and in millimetres."""
    with torch.autocast(field.device.type, enabled=False):
        return torch.relu(-jacobian_determinant(field)).mean()


def inverse_consistency(forward: Tensor, backward: Tensor, spacing_mm: Sequence[float] | None = None) -> Tensor:
    """Mean squared distance in mm^2 from where a voxel comes back to by one field and then the other, both ways round.

    Voxels that the first of two fields takes out of the grid are not counted, as the second says nothing there.
    """
    with torch.autocast(forward.device.type, enabled=False):
        ways = [_way_back(forward, backward, spacing_mm), _way_back(backward, forward, spacing_mm)]
    return torch.stack(ways).mean()


def _way_back(first: Tensor, second: Tensor, spacing_mm: Sequence[float] | None) -> Tensor:
    distance, _ = _in_mm(compose(second, first), spacing_mm)
    inside = (warp(torch.ones_like(distance[:, :1]), first.detach()) > 0.999).to(distance.dtype)
    return (distance.square().sum(dim=1, keepdim=True) * inside).sum() / inside.sum().clamp(min=1)


def _in_mm(field: Tensor, spacing_mm: Sequence[float] | None) -> tuple[Tensor, list[tuple[int, float]]]:
    """The field in float32 at least and millimetres along the grid's axes; axes with their spacing."""
    dims = field.dim() - 2
    if dims not in (2, 3) or field.shape[1] != dims or (spacing_mm is not None and len(spacing_mm) != dims):
        raise ValueError(
            f"a field must be (B, 2, H, W) or (B, 3, D, H, W) with a spacing for each axis, but is "
            f"{tuple(field.shape)} with {spacing_mm}"
        )
    spacing = tuple(spacing_mm or (1.0,) * dims)
    field = field.to(torch.promote_types(field.dtype, torch.float32))
    scale = torch.tensor(spacing, dtype=field.dtype, device=field.device).reshape(1, dims, *(1,) * dims)
    return field * scale, list(enumerate(spacing))


#: By name: (field, spacing_mm=None) to a scalar.
SMOOTHNESSES: dict[str, Callable[[Tensor, Sequence[float] | None], Tensor]] = {
    "diffusion": diffusion,
    "bending": bending,
}
