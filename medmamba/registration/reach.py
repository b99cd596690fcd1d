"""Where images end before the body does, so that nothing is drawn from what their scans did not reach."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from medmamba.transform import Affine, Transform, resample
from medmamba.volume import Geometry, Volume

#: What is brighter than this is body, not the noise of air, of images from 0 to 1.
BODY = 0.1
#: A body is cut off where it takes more than this share of the outermost voxels of a scan.
CUT_SHARE = 0.01
#: Where more than this share of the fixed body is beyond the moving scan, it is worth a word.
LACKING_SHARE = 0.02


class Reach(NamedTuple):
    """A pair, and what there is of it.

    Args:
        moving: (1, 1, *S), beyond its scan as it is at the end of it, so that there is no border to be moved.
        fixed: the same.
        mask: (1, 1, *S), where the fixed image is there and counts; None: everywhere.
        reached: (1, 1, *S), where the moving one is there; None: everywhere.
        remarks: what to know.
    """

    moving: Tensor
    fixed: Tensor
    mask: Tensor | None
    reached: Tensor | None
    remarks: tuple[str, ...] = ()


def reach(
    moving: Tensor, fixed: Tensor, mask: Tensor | None, scans: tuple[Geometry, Geometry], affine: Affine, grid: Geometry
) -> Reach:
    """What there is of a pair on its working grid; all of it where both bodies end before their scans do.

    Args:
        moving: (1, 1, *S), 0 to 1, 0 beyond its scan.
        fixed: the same.
        mask: (1, 1, *S), where the fixed image counts; None: everywhere.
        scans: grids of the moving and of the fixed image.
        affine: from the fixed to the moving image.
        grid: the working grid, *S.
    """
    there = [_there(scan, way, grid) for scan, way in zip(scans, (affine, Affine(np.eye(4))), strict=True)]
    images = [tensor[0, 0].cpu().numpy() for tensor in (moving, fixed)]
    if max(map(_cut_share, images, there)) <= CUT_SHARE:
        return Reach(moving, fixed, mask, None)
    body = there[1] & (images[1] > BODY)
    lacking = float((body & ~there[0]).sum() / max(1, body.sum()))
    told = (
        f"the moving image ends where the fixed one goes on: {lacking:.0%} of what that shows is not there, and moves "
        "along with what is"
    )
    filled = [_like(_continued(*each), moving) for each in zip(images, there, strict=True)]
    reached, known = (_like(each.astype(np.float32), moving) for each in there)
    return Reach(
        filled[0],
        filled[1],
        known if mask is None else known * mask,
        reached,
        (told,) if lacking > LACKING_SHARE else (),
    )


def _there(scan: Geometry, affine: Affine, grid: Geometry) -> NDArray[np.bool_]:
    ones = Volume(np.ones((1, *scan.shape), dtype=np.uint8), scan)
    return np.asarray(resample(ones, Transform((affine,)), grid, "nearest").array[0] > 0)


def _cut_share(image: NDArray[np.float32], there: NDArray[np.bool_]) -> float:
    """The share of a scan's outermost voxels that show the body."""
    ends = there & ~ndimage.binary_erosion(there)
    return float((image[ends] > BODY).mean()) if ends.any() else 0.0


def _continued(image: NDArray[np.float32], there: NDArray[np.bool_]) -> NDArray[np.float32]:
    if there.all() or not there.any():
        return image
    nearest = ndimage.distance_transform_edt(~there, return_distances=False, return_indices=True)
    return np.asarray(image[tuple(nearest)])


def _like(array: NDArray[np.float32], tensor: Tensor) -> Tensor:
    return torch.from_numpy(array)[None, None].to(tensor)
