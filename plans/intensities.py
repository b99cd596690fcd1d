"""What the intensities of labelled voxels look like: nnU-Net's random sample, in a fraction of the memory.

nnU-Net draws voxels with replacement, with a fixed seed, in its own order of axes and channel after channel, and keeps
every intensity it drew. Here the same draws are kept as "this intensity, so many times", which is never more than there
are voxels, and mean and standard deviation are summed in float64 instead of float32: the last digits are better than
nnU-Net's, and differ from them in the sixth digit or later.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medmamba.plans.plan import IntensityStatistics

#: nnU-Net's; another seed gives other statistics in the fourth digit.
SEED = 1234

# Indices of one draw that are held at a time; the stream of random numbers does not depend on it.
_CHUNK = 4_000_000


class Sample(NamedTuple):
    """Intensities, ascending, and how often each was drawn."""

    values: NDArray[np.float32]
    counts: NDArray[np.int64]

    @property
    def drawn(self) -> int:
        """Number of draws."""
        return int(self.counts.sum())


def foreground_samples(image: NDArray[np.float32], label: NDArray[np.integer[Any]], samples: int) -> tuple[Sample, ...]:
    """Draw foreground voxels of a case, with replacement, as nnU-Net does.

    Args:
        image: (C, I, J, K).
        label: (I, J, K); every value above zero is foreground, also the value of voxels to ignore, as in nnU-Net.
        samples: how many to draw in each channel.

    Returns:
        One sample per channel, empty when the case has no foreground.
    """
    random = np.random.RandomState(SEED)
    foreground = label.T > 0
    drawn = []
    for channel in image:
        intensities = channel.T[foreground]
        counts = _draw_counts(random, len(intensities), samples)
        values, index = np.unique(intensities, return_inverse=True)
        total = np.bincount(index, weights=counts, minlength=len(values)).astype(np.int64)
        drawn.append(Sample(values[total > 0], total[total > 0]))
    return tuple(drawn)


def _draw_counts(random: np.random.RandomState, population: int, samples: int) -> NDArray[np.int64]:
    """How often each of ``population`` items is drawn in ``samples`` draws with replacement."""
    counts = np.zeros(population, dtype=np.int64)
    if population:
        for start in range(0, samples, _CHUNK):
            index = random.randint(0, population, size=min(_CHUNK, samples - start))
            counts += np.bincount(index, minlength=population)
    return counts


def statistics(samples: Sequence[Sample]) -> IntensityStatistics:
    """Statistics of one channel over the samples of all cases.

    Raises:
        ValueError: if nothing was drawn.
    """
    values, index = np.unique(np.concatenate([sample.values for sample in samples]), return_inverse=True)
    if not len(values):
        raise ValueError("statistics need at least one foreground voxel, all samples are empty")
    weights = np.concatenate([sample.counts for sample in samples])
    counts = np.bincount(index, weights=weights).astype(np.int64)
    exact = values.astype(np.float64)
    total = int(counts.sum())
    mean = float(np.dot(exact, counts)) / total
    low, median, high = (_percentile(exact, counts, percent) for percent in (0.5, 50.0, 99.5))
    return IntensityStatistics(
        mean=mean,
        median=median,
        std=float(np.sqrt(np.dot((exact - mean) ** 2, counts) / total)),
        min=float(exact[0]),
        max=float(exact[-1]),
        percentile_00_5=low,
        percentile_99_5=high,
    )


def _percentile(values: NDArray[np.float64], counts: NDArray[np.int64], percent: float) -> float:
    """Percentile of a sorted sample in which ``values[i]`` occurs ``counts[i]`` times, by linear interpolation."""
    last = np.cumsum(counts)
    position = (int(last[-1]) - 1) * percent / 100
    below = int(position)
    lower, upper = (
        values[np.searchsorted(last, place, side="right")] for place in (below, min(below + 1, last[-1] - 1))
    )
    return float(lower + (upper - lower) * (position - below))
