"""How volumes are looked at: in which directions, from where to where, and in which colours.

Display is radiological: the patient's right is on the left of axial and coronal views, the front of the head (or the
belly) is up in axial and on the left in sagittal views. Slices follow the axes of the grid; for an oblique grid the
nearest body directions are named.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medmamba.evaluation.components import components
from medmamba.volume import Geometry, bounding_box

#: The bright ones of Okabe and Ito's colours, which people with any colour vision can tell apart.
COLOURS = ("#56B4E9", "#F0E442", "#D55E00", "#CC79A7", "#009E73", "#E69F00")


class View(NamedTuple):
    """One way to look at a volume in RAS order.

    Args:
        name: of the view.
        across: axis from right to left.
        up: axis from bottom to top, a later one than ``across``.
        through: axis into the picture.
    """

    name: str
    across: int
    up: int
    through: int

    def slice(self, array: NDArray[Any], position: int) -> NDArray[Any]:
        """(rows, columns) picture, its first row on top."""
        plane: NDArray[Any] = array.take(position, axis=self.through)
        return plane.T[::-1, ::-1]

    @property
    def borders(self) -> tuple[str, str, str, str]:
        """Body directions at left, right, bottom and top."""
        return "RAS"[self.across], "LPI"[self.across], "LPI"[self.up], "RAS"[self.up]


VIEWS = (View("axial", 0, 1, 2), View("coronal", 0, 2, 1), View("sagittal", 1, 2, 0))


def views_of(shape: Sequence[int]) -> tuple[View, ...]:
    """Those of a volume of this shape in RAS order in which there is more than a line to see; the first if none."""
    return tuple(view for view in VIEWS if shape[view.across] > 1 and shape[view.up] > 1) or VIEWS[:1]


def window_of(channel: NDArray[Any]) -> tuple[float, float]:
    """The values to show as black and white: 1st and 99.5th percentile of what is not 0."""
    inside = channel[np.isfinite(channel) & (channel != 0)]
    if not inside.size:
        return 0.0, 1.0
    low, high = np.percentile(inside, (1, 99.5))
    # A skull-stripped background is darker than the darkest tissue.
    return float(min(low, max(0.0, low - 0.2 * (high - low)))), float(max(high, low + 1e-6))


def ras_axes(geometry: Geometry) -> tuple[list[int], list[bool]]:
    """For each RAS axis, the array axis nearest to it and whether that runs the other way."""
    codes = geometry.orientation
    order = [next(axis for axis in range(3) if codes[axis] in letters) for letters in ("RL", "AP", "SI")]
    return order, [codes[axis] in "LPI" for axis in order]


def reordered(array: NDArray[Any], order: list[int], flips: list[bool]) -> NDArray[Any]:
    """(C, I, J, K) with axes that run from left to right, back to front and bottom to top, by `ras_axes`."""
    turned = array.transpose(0, *(1 + axis for axis in order))
    return turned[:, *(slice(None, None, -1 if flip else 1) for flip in flips)]


def slice_name(geometry: Geometry, axis: int, at: int) -> str:
    """What the file calls the slice at a place along a RAS axis, such as ``k = 12``."""
    order, flips = ras_axes(geometry)
    own = order[axis]
    return f"{'ijk'[own]} = {geometry.shape[own] - 1 - at if flips[axis] else at}"


def box_around(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """Bounding box with a small margin; everything when the mask is empty."""
    box = []
    for size, side in zip(mask.shape, bounding_box(mask), strict=True):
        margin = math.ceil(0.02 * size)
        box.append(slice(max(0, side.start - margin), min(size, side.stop + margin)))
    return tuple(box)


def most_of_largest(marked: NDArray[np.bool_]) -> tuple[int, ...]:
    """The slices with most of the largest connected structure; the middle when there is none."""
    if not marked.any():
        return tuple(size // 2 for size in marked.shape)
    found = components(marked)
    largest = found.labels == found.voxels.argmax()
    return tuple(
        int(largest.sum(axis=tuple(other for other in range(3) if other != axis)).argmax()) for axis in range(3)
    )


def obliqueness_degrees(geometry: Geometry) -> float:
    """The largest angle between an array axis and the body axis it is named after."""
    order, _ = ras_axes(geometry)
    cosines = [abs(float(geometry.direction[ras, axis])) for ras, axis in enumerate(order)]
    return math.degrees(math.acos(min(1.0, *cosines)))
