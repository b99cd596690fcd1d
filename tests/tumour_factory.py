"""Small label maps of tumours made up for tests: pairs that reach the edge cases of the BraTS challenges."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.uint8]

#: Regions of each challenge from 2024 on, as its official package has them: the values that make each.
REGIONS_2024: dict[str, dict[str, tuple[int, ...]]] = {
    "gli": {"netc": (1,), "snfh": (2,), "et": (3,), "rc": (4,), "tc": (1, 3), "wt": (1, 2, 3)},
    "ped": {"et": (1,), "netc": (2,), "cc": (3,), "ed": (4,), "tc": (1, 2, 3), "wt": (1, 2, 3, 4)},
    "men": {"et": (3,), "tc": (1, 3), "wt": (1, 2, 3)},
    "goat": {"et": (3,), "tc": (1, 3), "wt": (1, 2, 3)},
    "menrt": {"gtv": (1,)},
    "met": {"et": (3,), "rc": (4,), "tc": (1, 3), "wt": (1, 2, 3)},
}
#: Those of 2023.
REGIONS_2023 = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}
#: Pairs by number, see `tiny_pair`.
TINY = range(16)
_SPACINGS = ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), (0.5, 1.25, 2.0), (1.0, 1.0, 3.0))


class Pair(NamedTuple):
    """A prediction and its reference, and the size of their voxels along each array axis in mm."""

    prediction: Labels
    reference: Labels
    spacing_mm: tuple[float, float, float]


def recoded(labels: NDArray[Any], challenge: str) -> Labels:
    """Labels of any edition as those that a challenge knows: the four of most, or one (MEN-RT), or three."""
    largest = max(value for values in REGIONS_2024[challenge].values() for value in values)
    return np.where(labels > largest, largest, labels).astype(np.uint8)


def tiny_pair(number: int) -> Pair:
    """A pair of maps of the values 0 to 4, the same for a number wherever and whenever it is made.

    Lesions are boxes, some larger and some smaller than the limits of the challenges, some at the border of the image.
    The prediction has them moved, grown, joined, lost and invented. Of every eight pairs one has no prediction, one no
    reference, one neither.
    """
    rng = np.random.default_rng(1000 + number)
    shape = tuple(int(size) for size in rng.integers(12, 22, size=3))
    reference, prediction = np.zeros(shape, dtype=np.uint8), np.zeros(shape, dtype=np.uint8)
    for _ in range(int(rng.integers(2, 7))):
        start = rng.integers(-1, np.array(shape) - 1)
        size = rng.integers(1, 6, size=3)
        value = rng.integers(1, 5)
        _paint(reference, start, size, value)
        if rng.random() < 0.75:
            _paint(prediction, start + rng.integers(-1, 2, size=3), size + rng.integers(-1, 3, size=3), value)
    for _ in range(int(rng.integers(0, 3))):
        _paint(prediction, rng.integers(0, np.array(shape)), rng.integers(1, 4, size=3), rng.integers(1, 5))
    if number % 8 in (5, 7):
        prediction[:] = 0
    if number % 8 in (6, 7):
        reference[:] = 0
    return Pair(prediction, reference, _SPACINGS[number % 4])


def _paint(labels: Labels, start: NDArray[Any], size: NDArray[Any], value: Any) -> None:
    """Fill a box, with its middle in another value where it is large."""
    for shrink, paint in ((0, value), (2, 1 + value % 4)):
        first, last = np.maximum(start + shrink, 0), np.maximum(start + size - shrink, 0)
        labels[tuple(slice(int(a), int(b)) for a, b in zip(first, last, strict=True))] = paint
