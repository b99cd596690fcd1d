"""Two label maps, and the masks of each label in them.

Most of a label map is background. What is counted is counted in the box around everything else, and masks of the whole
image are made when a metric looks at them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmamba.evaluation.metrics import Masks, count_voxels
from medmamba.evaluation.scores import Voxels
from medmamba.evaluation.surface import Mask
from medmamba.labels import Label
from medmamba.volume import bounding_box

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
    def box(self) -> tuple[slice, ...]:
        """Around all that is not background in both; everything where nothing is."""
        return bounding_box((self.prediction != 0) | (self.reference != 0))

    @cached_property
    def annotated(self) -> Mask | None:
        """The voxels that count; None where all do."""
        return None if self.ignore is None else np.asarray(self.reference != self.ignore)

    @cached_property
    def ignored(self) -> int:
        """How many voxels do not count."""
        return 0 if self.annotated is None else self.annotated.size - int(np.count_nonzero(self.annotated))

    def masks(self, label: Label, probability: NDArray[np.float32] | None = None) -> Masks:
        """What metrics look at.

        Args:
            label: the structure.
            probability: (I, J, K) of it, where a network's are at hand.
        """
        return _MasksOnDemand(self, label, probability)

    def mask(self, values: NDArray[Any], label: Label, box: tuple[slice, ...] = ()) -> Mask:
        """Where one of the maps holds a label, of the voxels in a box that count."""
        mask = holding(values[box], label.values)
        return mask if self.annotated is None else mask & self.annotated[box]

    def count(self, label: Label) -> Voxels:
        """In how many voxels both maps agree and differ about a label."""
        near = count_voxels(*(self.mask(values, label, self.box) for values in (self.prediction, self.reference)))
        return replace(near, tn=self.reference.size - self.ignored - near.either)


class _MasksOnDemand(Masks):
    """Masks that are made when a metric looks at them, for counts of voxels do for many."""

    def __init__(self, maps: LabelMaps, label: Label, probability: NDArray[np.float32] | None) -> None:
        given = {
            "spacing_mm": maps.spacing_mm,
            "annotated": maps.annotated,
            "probability": probability,
            "voxels": maps.count(label),
            "_made_of": (maps, label),
        }
        for name, value in given.items():
            object.__setattr__(self, name, value)  # what derives from a frozen dataclass is frozen too

    def __getattr__(self, name: str) -> Mask:
        """The masks, once they are asked for; everything else is there."""
        if name not in ("prediction", "reference"):
            raise AttributeError(name)
        maps, label = vars(self)["_made_of"]
        mask: Mask = maps.mask(getattr(maps, name), label)
        object.__setattr__(self, name, mask)
        return mask


def holding(array: NDArray[Any], values: Sequence[int]) -> Mask:
    """Where one of these values is.

    >>> holding(np.array([0, 1, 2, 4]), (1, 4))
    array([False,  True, False,  True])
    """
    if len(values) > FEW:
        return np.isin(array, values)
    mask: Mask = array == values[0]
    for value in values[1:]:
        mask |= array == value
    return mask
