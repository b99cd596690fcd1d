"""How a transform deforms space, and how far landmarks lie apart: numbers in world units, of any grids.

Deforming is told of a transform's fields alone: its affine maps, which turn and scale everything alike, are divided
out, so that a mirrored or a smaller image is no folding. The fields act on points of the fixed image, and are asked
at the voxels of a grid there.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from medmamba.errors import DataError
from medmamba.transform import Affine, Transform, resample, voxels_of_field
from medmamba.volume import FloatArray, Geometry, Volume
from medmamba.warp import jacobian_determinant

#: A voxel is background up to this share of the range from the smallest value to the 99.5th percentile.
BACKGROUND = 0.02


def counted(image: Volume, mask: Volume | None = None) -> NDArray[np.bool_]:
    """In which voxels of a fixed image a transform is measured: in its mask, else in those that are not background.

    Args:
        image: (1, I, J, K) the fixed image, as it was read: whatever registered it, the same voxels count.
        mask: on any grid; not 0 is in it.

    Returns:
        (I, J, K); all where nothing is above the background.

    Raises:
        DataError: if the mask marks nothing of the image.
    """
    if mask is None:
        array = image.array[0]
        low, high = float(array.min()), float(np.percentile(array, 99.5))
        inside = np.asarray(array > low + BACKGROUND * (high - low))
        return inside if inside.any() else np.ones(array.shape, dtype=bool)
    inside = marked(mask, image.geometry)
    if not inside.any():
        raise DataError("the mask of the fixed image marks nothing of it; look at both, or leave the mask out")
    return inside


def marked(mask: Volume, grid: Geometry) -> NDArray[np.bool_]:
    """(I, J, K) which voxels of a grid a mask on another grid marks: those of which the nearest voxel is not 0."""
    ones = mask.with_array((mask.array[:1] != 0).astype(np.uint8))
    return np.asarray(resample(ones, Transform(), grid, "nearest").array[0] > 0)


def jacobian(transform: Transform, grid: Geometry) -> NDArray[np.float32]:
    """How much the neighbourhood of each voxel grows where the fields of a transform take it.

    Args:
        transform: from the fixed to the moving image.
        grid: of the fixed image's space; at its voxels the transform is asked, and between its neighbours central
            differences are taken, one-sided at its faces.

    Returns:
        (I, J, K) determinants: 1 nothing, below 1 smaller, 0 or less folded. The affine steps are divided out.
    """
    # Along an axis of one voxel the transform is asked beside it.
    thin = np.array([size == 1 for size in grid.shape], dtype=np.int64)
    affine = grid.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ thin
    i, j, k = (int(size) for size in np.array(grid.shape) + 2 * thin)
    field = transform.displacement(Geometry((i, j, k), affine))
    found = jacobian_determinant(torch.from_numpy(voxels_of_field(field))[None])[0].numpy()
    inside = found[tuple(slice(1, 2) if one else slice(None) for one in thin)]
    scale = math.prod(float(np.linalg.det(step.matrix)) for step in transform.steps if isinstance(step, Affine))
    return np.asarray(inside / scale, dtype=np.float32)


def folding_percent(determinants: NDArray[np.floating], mask: NDArray[np.bool_] | None = None) -> float:
    """Percentage of the voxels in a mask whose determinant is 0 or less; NaN where the mask is empty."""
    inside = _inside(determinants, mask)
    return 100 * float((inside <= 0).mean()) if inside.size else math.nan


def sd_log_jacobian(determinants: NDArray[np.floating], mask: NDArray[np.bool_] | None = None) -> float:
    """Standard deviation of the natural logarithm of the determinants in a mask: how unevenly a transform stretches.

    It is 0 for what scales everything alike. Determinants are kept between 1e-9 and 1e9, so that a voxel that folds
    counts as shrunk to nothing. NaN where the mask is empty.

    References:
        Hering et al., "Learn2Reg", IEEE TMI 42 (2023), without the 3 that its published code adds to the determinant.
    """
    inside = _inside(determinants, mask)
    return float(np.log(inside.clip(1e-9, 1e9)).std()) if inside.size else math.nan


def min_jacobian(determinants: NDArray[np.floating], mask: NDArray[np.bool_] | None = None) -> float:
    """The smallest determinant in a mask; NaN where that is empty."""
    inside = _inside(determinants, mask)
    return float(inside.min()) if inside.size else math.nan


def _inside(determinants: NDArray[np.floating], mask: NDArray[np.bool_] | None) -> FloatArray:
    return np.asarray(determinants if mask is None else determinants[mask], dtype=np.float64).ravel()


def inverse_consistency_mm(
    transform: Transform, inverse: Transform, grid: Geometry, mask: NDArray[np.bool_] | None = None
) -> FloatArray:
    """How far each voxel's centre comes back from where it was, by the transform and then its inverse.

    Args:
        transform: from the fixed to the moving image.
        inverse: from the moving to the fixed image, as it is given to people.
        grid: of the fixed image.
        mask: (I, J, K) which of its voxels count; None: all.

    Returns:
        (N,) millimetres, one for each of them.
    """
    voxels = np.argwhere(np.ones(grid.shape, dtype=bool) if mask is None else mask)
    mm = voxels @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    return np.asarray(np.linalg.norm(inverse.points(transform.points(mm)) - mm, axis=1))


def tre_mm(transform: Transform, fixed_mm: FloatArray, moving_mm: FloatArray) -> FloatArray:
    """Target registration error: how far each landmark of the fixed image is taken from that of the moving image.

    Args:
        transform: from the fixed to the moving image; without steps, the error before registration.
        fixed_mm: (N, 3) RAS millimetres.
        moving_mm: the same landmarks in the moving image, in the same order.

    Returns:
        (N,) millimetres.

    Raises:
        ValueError: if these are not as many.
    """
    if fixed_mm.shape != moving_mm.shape:
        raise ValueError(f"landmarks belong together one by one, got {fixed_mm.shape} and {moving_mm.shape}")
    return np.asarray(np.linalg.norm(transform.points(fixed_mm) - moving_mm, axis=1))
