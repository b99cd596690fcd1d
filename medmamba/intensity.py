"""Which intensities are measurements, and which stand for "no data".

Programs mark voxels without data by NaN, by the largest number of a type (-3.4e38), by 1e30 or by -32768. The first
three ruin every mean they enter; the last is a possible measurement, and only its distance from all others gives it
away.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: No scanner measures as much, in any unit; sums of squares of larger numbers leave float32.
LARGEST_INTENSITY = 1e15
#: A lone value further from all others than this many times their own range stands for "no data".
FAR_RANGES = 1.0


class NoData(NamedTuple):
    """A value that stands for "no data", and how many voxels hold it."""

    value: float
    voxels: int


def measured(array: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where intensities are measurements: finite and below `LARGEST_INTENSITY`."""
    # NaN compares as false. Without a copy of the magnitudes, which are as large as the image.
    within: NDArray[np.bool_] = (array > -LARGEST_INTENSITY) & (array < LARGEST_INTENSITY)
    return within


def unusable(array: NDArray[np.float32]) -> str:
    """In words, what of an image is no measurement, for messages; empty when all of it is.

    >>> unusable(np.array([1, 2, -3.4e38, np.nan], np.float32))
    '2 of 4 intensities (50 %) are NaN, infinite or -3.4e+38'
    """
    if array.size and array.min() > -LARGEST_INTENSITY and array.max() < LARGEST_INTENSITY:
        return ""
    wrong = array[~measured(array)]
    finite = wrong[np.isfinite(wrong)]
    words = ["NaN", "infinite"] if len(finite) < len(wrong) else []
    words += [f"{value:.6g}" for value in np.unique(finite)[:3]]
    listed = f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]
    return f"{len(wrong)} of {array.size} intensities ({_percent(len(wrong), array.size)} %) are {listed}"


def no_data(array: NDArray[np.float32]) -> NoData | None:
    """The value that stands for "no data" in an image of measurements, if one does.

    It is the smallest or the largest one, is not zero (which is what the background of a stripped brain is), and lies
    further from all others than `FAR_RANGES` times the range of those.

    >>> no_data(np.array([-32768, -32768, 10, 40, 90], np.float32))
    NoData(value=-32768.0, voxels=2)
    """
    low, high = float(array.min()), float(array.max())
    others = array[(array > low) & (array < high)]
    if not others.size:
        return None
    least, most = float(others.min()), float(others.max())
    reach = FAR_RANGES * (most - least)
    # Between few levels, as in a label map, every step would be a gap.
    if not reach:
        return None
    gaps = [(gap, value) for gap, value in ((least - low, low), (high - most, high)) if gap > reach and value]
    if not gaps:
        return None
    value = max(gaps)[1]
    return NoData(value, int(np.count_nonzero(array == value)))


def no_data_remark(array: NDArray[np.float32]) -> str:
    """In words, which value stands for "no data", for messages; empty when none does."""
    lone = no_data(array)
    if lone is None:
        return ""
    return (
        f"{lone.voxels} of {array.size} intensities ({_percent(lone.voxels, array.size)} %) are {lone.value:g}, "
        "far from all others; if that means no data, replace it by the background's intensity"
    )


def _percent(part: int, whole: int) -> str:
    share = 100 * part / whole
    return f"{share:.2g}" if share < 99 else f"{share:.4g}"  # two digits of 99.6 are 1e+02
