"""Structures on the slices of a series, as they go into an object.

Label values stay one map, however many structures it holds: a hundred masks of a large CT would need 10 GB.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmamba.errors import UsageError
from medmamba.io.dicom.planes import Plane, masks_on_planes
from medmamba.labels import Label, Labels, integer_type
from medmamba.volume import Volume


@dataclass(frozen=True, slots=True)
class Structures:
    """What is on each slice.

    Args:
        labels: the structures.
        stored: (planes, rows, columns) the places of values in ``labels.allowed_values``, or
            (S, planes, rows, columns) float32, the probability of each structure.
    """

    labels: Labels
    stored: NDArray[Any]

    @classmethod
    def on(cls, volume: Volume, planes: Sequence[Plane], labels: Labels | None) -> Structures:
        """Those of a volume, on planes.

        Args:
            volume: label values in one channel, or probabilities (0 to 1, floats) in one channel for each structure.
            planes: of the source.
            labels: what values or channels mean; None: a structure for each value.

        Raises:
            UsageError: if values mean nothing, channels are not those of the structures, or numbers no probabilities.
        """
        if np.issubdtype(volume.array.dtype, np.floating):
            if labels is None or volume.channels != len(labels.foreground):
                raise UsageError("probabilities need a channel for each structure, and the structures' names")
            if not (volume.array.min() >= 0 and volume.array.max() <= 1):
                raise UsageError(
                    f"probabilities lie between 0 and 1, these between {volume.array.min():g} and "
                    f"{volume.array.max():g}; a label map is of integers"
                )
            layers = (volume.with_array(channel[None]) for channel in volume.array)
            return cls(labels, np.stack([masks_on_planes(layer, planes).astype(np.float32) for layer in layers]))
        if volume.channels != 1:
            raise UsageError(
                f"a label map has one channel, this has {volume.channels}; give one map, in which each combination of "
                "structures that overlap has a value of its own, and labels of these values"
            )
        found = sorted(set[int]().union(*(np.unique(layer).tolist() for layer in volume.array[0])))
        if labels is None:
            labels = Labels.of_values(found if found[-1] else (1,))
        if unknown := sorted(set(found) - set(labels.allowed_values)):
            raise UsageError(f"the label map holds {unknown}, but the labels are {list(labels.allowed_values)}")
        return cls(labels, np.stack([labels.number(plane) for plane in masks_on_planes(volume, planes)]))

    @property
    def are_probabilities(self) -> bool:
        """Whether probabilities are stored, and not places of values."""
        return self.stored.ndim == 4

    def mask(self, number: int) -> NDArray[np.bool_]:
        """(planes, rows, columns) of one structure, counted from 0; where its probability is at least half."""
        if self.are_probabilities:
            return np.asarray(self.stored[number] >= 0.5)
        return np.isin(self.stored, self._places[number])

    def overlap(self) -> bool:
        """Whether a voxel is of several structures."""
        if self.are_probabilities:
            return bool((sum(layer >= 0.5 for layer in self.stored) > 1).any())
        owners = np.bincount(np.concatenate(self._places), minlength=1)
        return bool(np.isin(self.stored, np.nonzero(owners > 1)[0]).any())

    def numbers(self) -> NDArray[Any]:
        """(planes, rows, columns): 1, 2, ... for the structure that a voxel is of, the last of several; 0 for none."""
        count = len(self.labels.foreground)
        table = np.zeros(len(self.labels.allowed_values), integer_type(0, count))
        for number, places in enumerate(self._places, start=1):
            table[places] = number
        numbers: NDArray[Any] = table[self.stored]
        return numbers

    def one_by_one(self) -> Iterator[Structures]:
        """Each structure of a label map by itself, with the value that it has among the others."""
        for number, (label, value) in enumerate(zip(self.labels.foreground, painted(self.labels), strict=True)):
            alone = Labels(foreground=(Label(name=label.name, values=(value,)),))
            yield Structures(alone, self.mask(number).view(np.uint8))

    @property
    def _places(self) -> list[NDArray[np.int64]]:
        """Of the values of each structure."""
        return [np.array(label.values, np.int64) for label in self.labels.numbered().foreground]


def painted(labels: Labels) -> tuple[int, ...]:
    """The value that each structure has in a label map, later ones over earlier ones."""
    return labels.region_order or tuple(label.values[0] for label in labels.foreground)
