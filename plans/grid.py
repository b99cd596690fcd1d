"""The grid that cases are resampled to: order of axes, voxel size, and the size of a typical case on it.

The rules are nnU-Net's and see the data set in nnU-Net's order of axes (array axes reversed, see
`medmamba.plans.plan`), so that ties are broken the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

#: An axis is coarse when its spacing, or its shortness, is more than this times that of the others.
ANISOTROPY = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Where patches are taken from; network axis order.

    Args:
        axes: array axis of each network axis.
        spacing_mm: voxel size after resampling: the median of the cases.
        coarse_median_mm: median across the coarse slices, if a finer size was taken there; None where there are none.
        median_shape: median size of the cases after cropping and resampling.
        original_shape: median size after cropping alone.
    """

    axes: tuple[int, int, int]
    spacing_mm: FloatArray
    coarse_median_mm: float | None
    median_shape: FloatArray
    original_shape: FloatArray

    @property
    def is_flat(self) -> bool:
        """Whether the cases are single slices, so that there is nothing to convolve along the first axis."""
        return bool(self.median_shape[0] == 1)


def target_grid(spacings_mm: Sequence[Sequence[float]], shapes: Sequence[Sequence[int]]) -> Grid:
    """The grid for the cases of a data set.

    Args:
        spacings_mm: (cases, 3) voxel sizes, array axis order.
        shapes: (cases, 3) voxels after cropping.
    """
    old_mm, sizes = np.array(spacings_mm)[:, ::-1], np.array(shapes)[:, ::-1]
    spacing, coarse_median = _target_spacing(old_mm, sizes)
    median_shape = np.median(np.rint(old_mm / spacing * sizes), 0)
    order = _slices_first(spacing, median_shape)
    i, j, k = (2 - axis for axis in order)
    return Grid(
        axes=(i, j, k),
        spacing_mm=spacing[order],
        coarse_median_mm=coarse_median,
        median_shape=median_shape[order],
        original_shape=np.median(sizes, 0)[order],
    )


def _target_spacing(spacings_mm: FloatArray, shapes: NDArray[np.int64]) -> tuple[FloatArray, float | None]:
    """The median, but a finer one along a coarse axis, where cases with more slices should not lose too many of them.

    Returns:
        The spacing, and the median along the coarse axis if there is one: the 10th percentile was taken in its place.
    """
    target = np.percentile(spacings_mm, 50, 0)
    size = np.percentile(shapes, 50, 0)
    coarse = int(np.argmax(target))
    others = [axis for axis in range(3) if axis != coarse]
    coarsest_other = float(target[others].max())
    is_coarse = target[coarse] > ANISOTROPY * coarsest_other
    is_short = size[coarse] * ANISOTROPY < size[others].min()
    if not (is_coarse and is_short):
        return target, None
    median = float(target[coarse])
    fine = np.percentile(spacings_mm[:, coarse], 10)
    # The coarse axis stays the coarsest, by a hair, because the order of axes depends on it.
    target[coarse] = fine if fine >= coarsest_other else coarsest_other + 1e-5
    return target, median


def _slices_first(spacing_mm: FloatArray, median_shape: FloatArray) -> list[int]:
    """The axis across the slices goes first, the others keep their order.

    nnU-Net looks at the spacing alone. That takes volumes for slices when the thickness in the header of a single slice
    is less than its pixel size, so an axis of one voxel comes before a coarse one here.
    """
    single = np.flatnonzero(median_shape == 1)
    coarse = int(np.argmax(spacing_mm))
    if len(single) and coarse not in single:
        coarse = int(single[0])
    return [coarse, *(axis for axis in range(3) if axis != coarse)]
