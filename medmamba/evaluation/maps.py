"""Two label maps, and the masks of each label in them.

Most of a label map is background. What is counted is counted in the box around everything else, and masks are made in a
box around themselves, when a metric looks at them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmamba.evaluation.calibration import MARGIN_MM
from medmamba.evaluation.components import Box, union
from medmamba.evaluation.masks import Masks, count_voxels
from medmamba.evaluation.region import MARGIN
from medmamba.evaluation.scores import Voxels
from medmamba.evaluation.surface import Mask
from medmamba.labels import Label
from medmamba.volume import in_memory_order, marked_box, slabs

#: More values than this are looked up in a table: of few, comparing is faster.
FEW = 8


@dataclass(frozen=True, kw_only=True)
class LabelMaps:
    """A prediction and its reference on one grid.

    Args:
        prediction: (I, J, K) values.
        reference: likewise.
        spacing_mm: size of a voxel along each array axis.
        ignore: value of voxels of the reference that do not count; None where all do.
    """

    prediction: NDArray[Any]
    reference: NDArray[Any]
    spacing_mm: tuple[float, ...]
    ignore: int | None = None

    @cached_property
    def box(self) -> Box:
        """Around all that is not background in both; a single voxel where nothing is."""
        return _around([marked_box(array) for array in (self.prediction, self.reference)], self.reference.shape)

    @cached_property
    def ignored(self) -> int:
        """How many voxels do not count."""
        return 0 if self.ignore is None else int(np.count_nonzero(self.reference[self.box] == self.ignore))

    def annotated(self, box: Box) -> Mask | None:
        """The voxels in a box that count; None where all do."""
        return None if self.ignore is None else np.asarray(self.reference[box] != self.ignore)

    def mask(self, values: NDArray[Any], label: Label, box: Box) -> Mask:
        """Where one of the maps holds a label, of the voxels in a box that count."""
        mask, annotated = holding(values[box], label.values), self.annotated(box)
        return mask if annotated is None else mask & annotated

    def masks(self, label: Label, probability: NDArray[np.float32] | None = None) -> Masks:
        """What metrics look at: the masks of a label, in a box that leaves room around them.

        Args:
            label: the structure.
            probability: (I, J, K) of it, where a network's are at hand.
        """
        prediction, reference = (self.mask(values, label, self.box) for values in (self.prediction, self.reference))
        near = count_voxels(prediction, reference)
        voxels = replace(near, tn=self.reference.size - self.ignored - near.either)
        return _MasksOnDemand(self, label, voxels, probability)

    def box_of(self, label: Label, margin: Sequence[int]) -> Box:
        """Around a label in both maps, with a margin where the image has room."""
        masks = (self.mask(values, label, self.box) for values in (self.prediction, self.reference))
        return _around([_inside(self.box, marked_box(mask)) for mask in masks], self.reference.shape, margin)


class _MasksOnDemand(Masks):
    """Masks that are made whenever a metric looks at them and kept by nobody: what takes memory are the maps."""

    def __init__(self, maps: LabelMaps, label: Label, voxels: Voxels, probability: NDArray[np.float32] | None) -> None:
        given = {"spacing_mm": maps.spacing_mm, "voxels": voxels, "_made_of": (maps, label, probability)}
        for name, value in given.items():
            object.__setattr__(self, name, value)  # what derives from a frozen dataclass is frozen too

    _made_of: tuple[LabelMaps, Label, NDArray[np.float32] | None]

    @cached_property
    def _box(self) -> Box:
        maps, label, probability = self._made_of
        looked_at = 0.0 if probability is None else MARGIN_MM
        return maps.box_of(label, [max(MARGIN, math.ceil(looked_at / step)) for step in maps.spacing_mm])

    @property
    def prediction(self) -> Mask:
        """(I, J, K) bool, new at each look."""
        maps, label, _ = self._made_of
        return maps.mask(maps.prediction, label, self._box)

    @property
    def reference(self) -> Mask:
        """(I, J, K) bool, new at each look."""
        maps, label, _ = self._made_of
        return maps.mask(maps.reference, label, self._box)

    @property
    def annotated(self) -> Mask | None:
        """(I, J, K) bool, new at each look."""
        return self._made_of[0].annotated(self._box)

    @property
    def probability(self) -> NDArray[np.float32] | None:
        """(I, J, K), where there is one."""
        probability = self._made_of[2]
        return None if probability is None else probability[self._box]

    @property
    def corner(self) -> tuple[int, ...]:
        """Where the first of these voxels is in the image."""
        return tuple(side.start for side in self._box)


def _inside(outer: Box, inner: Box | None) -> Box | None:
    """A box in a box, in the image."""
    if inner is None:
        return None
    return tuple(slice(a.start + b.start, a.start + b.stop) for a, b in zip(outer, inner, strict=True))


def _around(boxes: Sequence[Box | None], shape: Sequence[int], margin: Sequence[int] = (0, 0, 0)) -> Box:
    """The box around boxes with a margin where the image has room; a single voxel where there is none."""
    if not (there := [box for box in boxes if box]):
        return tuple(slice(0, 1) for _ in shape)
    return tuple(
        slice(max(side.start - room, 0), min(side.stop + room, size))
        for side, room, size in zip(union(there), margin, shape, strict=True)
    )


def holding(array: NDArray[Any], values: Sequence[int]) -> Mask:
    """Where one of these values is.

    >>> holding(np.array([0, 1, 2, 4]), (1, 4))
    array([False,  True, False,  True])
    """
    ordered = in_memory_order(array)
    mask = np.empty(ordered.shape, dtype=bool)
    for rows in slabs(ordered.shape):
        part = ordered[rows]
        if len(values) > FEW:
            mask[rows] = np.isin(part, values)
            continue
        np.equal(part, values[0], out=mask[rows])
        for value in values[1:]:
            mask[rows] |= part == value
    return mask if ordered is array else mask.T
