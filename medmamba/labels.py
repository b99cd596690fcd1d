"""What the integers in a label map mean: classes, overlapping regions, voxels to ignore."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmamba.errors import DataError

#: Resampling works in float64, which holds integers exactly up to here.
LARGEST_VALUE = 2**53


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """One structure: its name and the values that mark its voxels (several for a region)."""

    name: str
    values: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """The structures of a data set, in the order in which the network's outputs have them.

    Without regions every value belongs to one structure and the network chooses one class per voxel (softmax, with
    background as class 0). With regions, structures may overlap (BraTS: whole tumour contains the core) and the
    network answers each on its own (sigmoid); when a label map is written, structure ``i`` paints the value
    ``region_order[i]``, later ones over earlier ones, as in nnU-Net.

    Args:
        foreground: structures except background (value 0), at least one.
        region_order: the value each region paints, or empty when there are no regions.
        ignore: value of voxels without annotation, left out of loss and scores; None when there is none.

    Raises:
        DataError: when values are missing, repeated between classes, or ``region_order`` has the wrong length.
    """

    foreground: tuple[Label, ...]
    region_order: tuple[int, ...] = ()
    ignore: int | None = None

    def __post_init__(self) -> None:
        if not self.foreground:
            raise DataError("a data set needs at least one label besides background")
        names = [label.name for label in self.foreground]
        if len(set(names)) != len(names):
            raise DataError(f"label names must differ, got {names}")
        values = [value for label in self.foreground for value in label.values]
        if any(not label.values for label in self.foreground) or min(values) < 1:
            raise DataError(f"each label needs values of 1 or more, got {[label.values for label in self.foreground]}")
        if self.has_regions:
            if len(self.region_order) != len(self.foreground):
                raise DataError(
                    f"regions_class_order needs one value per region: {len(self.foreground)} regions "
                    f"({', '.join(names)}), got {list(self.region_order)}"
                )
        elif len(set(values)) != len(values) or any(len(label.values) > 1 for label in self.foreground):
            raise DataError("labels that share values are regions and need regions_class_order in dataset.json")
        if (largest := max(*self.region_order, *values, self.ignore or 0)) > LARGEST_VALUE:
            raise DataError(f"label values reach to {LARGEST_VALUE}, got {largest}; give the structure a smaller one")
        if (count := len(self.allowed_values)) > np.iinfo(np.int16).max:
            raise DataError(f"up to {np.iinfo(np.int16).max} label values can be told apart, got {count}; merge some")
        if self.ignore is not None and self.ignore in values:
            raise DataError(f"the ignore value {self.ignore} is also the value of a label")

    @classmethod
    def of_values(cls, values: Iterable[int]) -> Labels:
        """A structure for each value, where nothing says what they mean: ``label_1``, ``label_2``, ...

        Args:
            values: that occur, background (0) among them or not.

        Raises:
            DataError: if there is none above 0, a negative one, or what `Labels` itself refuses.
        """
        found = sorted(set(values))
        if not found or found[0] < 0 or found[-1] == 0:
            raise DataError(f"label maps hold the values {found}; structures are 1 and more")
        return cls(foreground=tuple(Label(name=f"label_{value}", values=(value,)) for value in found if value))

    @property
    def has_regions(self) -> bool:
        """Whether structures may overlap, so that each is predicted on its own."""
        return bool(self.region_order)

    @property
    def output_channels(self) -> int:
        """Channels of the network's output: one per region, or one per class and one for background."""
        return len(self.foreground) + (0 if self.has_regions else 1)

    @property
    def values(self) -> tuple[int, ...]:
        """Every value an annotated voxel may hold, background included, ascending."""
        return tuple(sorted({0, *(value for label in self.foreground for value in label.values)}))

    @property
    def allowed_values(self) -> tuple[int, ...]:
        """Every value a label file may hold, the ignore value included, ascending."""
        return self.values if self.ignore is None else tuple(sorted({*self.values, self.ignore}))

    def numbered(self) -> Labels:
        """The same structures in maps that `number` has been over: values without gaps, however large they were.

        >>> Labels(foreground=(Label(name="cortex", values=(40000,)),), ignore=65535).numbered().allowed_values
        (0, 1, 2)
        """
        places = {value: place for place, value in enumerate(self.allowed_values)}
        return replace(
            self,
            foreground=tuple(
                replace(label, values=tuple(places[value] for value in label.values)) for label in self.foreground
            ),
            ignore=None if self.ignore is None else places[self.ignore],
        )

    def number(self, values: NDArray[Any]) -> NDArray[np.int16]:
        """Replace each value by its place in `allowed_values`; negative ones, which mark what is outside, stay.

        Raises:
            DataError: for values that no label has.
        """
        known = np.array(self.allowed_values)
        if known[-1] == len(known) - 1 and values.max() <= known[-1]:  # without gaps each value is its own place
            return values.astype(np.int16)
        places = np.searchsorted(known, values)
        found = known[places.clip(max=len(known) - 1)] == values
        if not (found | (values < 0)).all():
            unknown = np.unique(values[~found & (values >= 0)])[:5].tolist()
            raise DataError(f"a label map holds {unknown}, but the labels are {list(self.allowed_values)}")
        return np.where(found, places, values).astype(np.int16)


#: Of a data set without label maps, where some labels are asked for: pairs of images alone.
UNLABELLED = Labels(foreground=(Label(name="unlabelled", values=(1,)),))


def integer_type(low: int, high: int) -> np.dtype[Any]:
    """The smallest integer type from ``low`` to ``high``, unsigned unless ``low`` is negative.

    >>> integer_type(0, 255), integer_type(0, 40000), integer_type(-1, 40000)
    (dtype('uint8'), dtype('uint16'), dtype('int32'))

    Raises:
        OverflowError: if there is none.
    """
    for kind in (np.uint8, np.uint16, np.uint32, np.uint64) if low >= 0 else (np.int8, np.int16, np.int32, np.int64):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return np.dtype(kind)
    raise OverflowError(f"no integer type holds {low} and {high}")


def looks_like_labels(array: NDArray[Any]) -> bool:
    """Whether voxels (C, I, J, K) are whole numbers from 0 that neighbours mostly share, as those of no image.

    What the most common value fills does not count: it may be the background of an image as well.

    >>> looks_like_labels(np.repeat(np.arange(6), 50).reshape(1, 30, 10, 1))
    True
    """
    if array.min() < 0 or not np.array_equal(array, np.round(array)):
        return False
    values, counts = np.unique(array, return_counts=True)
    marked = array != values[counts.argmax()]
    return len(values) == 1 or max(_shared(array, marked, axis) for axis in (1, 2, 3)) > 0.5


def _shared(array: NDArray[Any], marked: NDArray[np.bool_], axis: int) -> float:
    """Of the marked voxels that have a next one along an axis, the share that it has the value of."""
    first, second = (np.moveaxis(array, axis, 0)[part] for part in (slice(None, -1), slice(1, None)))
    asked = np.moveaxis(marked, axis, 0)[:-1]
    return float((first == second)[asked].mean()) if asked.any() else 0.0
