"""Label maps that leave out slices without anything in them, laid where an image has them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from medmamba.io.formats.format import Stored
from medmamba.volume import Geometry


def completed(stored: Stored, grid: Geometry) -> Stored:
    """A partial label map with a grid's axes, over that grid and itself, filled up with background.

    Args:
        stored: what was read.
        grid: of the image, or of another label map.

    Returns:
        The same, where it is not partial or its voxels are none of that grid's, however far that went on. Axes may be
        turned and run the other way, as those of images that came from the same slices by other software.
    """
    if not stored.is_partial:
        return stored
    turn = np.rint((np.linalg.inv(grid.affine) @ stored.geometry.affine)[:3, :3]).astype(int)
    if not (np.abs(turn).sum(axis=0) == 1).all() or not (np.abs(turn).sum(axis=1) == 1).all():
        return stored
    axes = np.abs(turn).argmax(axis=1)
    backwards = [int(axis) for axis in range(3) if turn[axis, axes[axis]] < 0]
    array = np.flip(stored.array.transpose(0, *(axes + 1)), tuple(axis + 1 for axis in backwards))
    shape = np.array(array.shape[1:])
    first = np.where(turn.sum(axis=0) < 0, np.array(stored.geometry.shape) - 1, 0)  # what becomes voxel (0, 0, 0)
    origin = stored.geometry.affine @ (*first, 1)
    place = np.rint(np.linalg.solve(grid.affine, origin)).astype(int)[:3]
    affine = stored.geometry.affine.copy()
    affine[:3, :3] = stored.geometry.affine[:3, axes] * np.where(np.isin(np.arange(3), backwards), -1, 1)
    affine[:3, 3] = origin[:3]
    if not Geometry(_triple(shape), affine).same_grid(_of(grid, place, shape)):
        return stored
    low, high = np.minimum(place, 0), np.maximum(place + shape, grid.shape)
    filled = np.zeros((len(array), *(high - low)), array.dtype)
    begin = place - low
    filled[(slice(None), *(slice(start, start + size) for start, size in zip(begin, shape, strict=True)))] = array
    whole = _of(grid, low, high - low)
    return replace(stored, array=filled, geometry=grid if whole == grid else whole)


def _of(grid: Geometry, first: np.typing.NDArray[np.int_], shape: np.typing.NDArray[np.int_]) -> Geometry:
    """The grid that goes on from another one, from voxel ``first`` on."""
    affine = grid.affine.copy()
    affine[:, 3] = grid.affine @ (*first, 1)
    return Geometry(_triple(shape), affine)


def _triple(shape: np.typing.NDArray[np.int_]) -> tuple[int, int, int]:
    i, j, k = (int(size) for size in shape)
    return i, j, k
