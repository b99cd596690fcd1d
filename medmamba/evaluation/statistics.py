"""What values over cases say together: sums of a metric, and how sure they are."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

FloatArray = NDArray[np.float64]

#: What the summary over all labels is called where labels have names.
MEAN_OVER_LABELS = "mean over labels"
#: With fewer cases an interval would pretend to know more than it does.
MINIMUM_FOR_INTERVAL = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What the cases say together about one label and one metric.

    Args:
        label: name of the structure, or `MEAN_OVER_LABELS`.
        metric: name of the metric.
        n: cases with a finite value.
        values: how many values there are of all cases that have a reference, one per case and label;
            the sum of the next four.
        finite: values that are plain numbers.
        infinite: distances to something that is not there.
        undefined: values left out because they are undefined.
        missing: values of cases that take no part: skipped, or without a readable reference.
        mean: infinite when a value is, NaN when none is defined.
        finite_mean: over the finite values alone; NaN when there are none. Better than the truth when any are infinite.
        std: sample standard deviation over cases; NaN with fewer than two, or when a value is infinite.
        median: over finite and infinite values.
        interval: 95 % bootstrap interval of the mean over cases; None with fewer than `MINIMUM_FOR_INTERVAL` cases, or
            when a value is infinite.
    """

    label: str
    metric: str
    n: int
    values: int
    finite: int
    infinite: int
    undefined: int
    missing: int
    mean: float
    finite_mean: float
    std: float
    median: float
    interval: tuple[float, float] | None


def summarize(values: FloatArray, *, label: str, metric: str, left_out: int = 0, seed: int = 0) -> Summary:
    """Boil the values of one metric down.

    Args:
        values: (cases, labels); with several labels, labels are averaged after cases, so that a label that is often
            undefined weighs as much as the others.
        label: what the summary is about.
        metric: likewise.
        left_out: cases that belong here but have no values.
        seed: of the bootstrap.
    """
    infinite = int(np.isinf(values).sum())
    finite = values[np.isfinite(values).any(axis=1)]
    defined = values[~np.isnan(values).all(axis=1)]
    per_case = _means(finite, axis=1)
    return Summary(
        label=label,
        metric=metric,
        n=len(finite),
        values=values.size + left_out * values.shape[1],
        finite=int(np.isfinite(values).sum()),
        infinite=infinite,
        undefined=int(np.isnan(values).sum()),
        missing=left_out * values.shape[1],
        mean=float("inf") if infinite else float(_mean_of_means(finite)),
        finite_mean=float(_mean_of_means(finite)),
        std=float(per_case.std(ddof=1)) if len(finite) > 1 and not infinite else float("nan"),
        median=float(np.median(np.nanmean(defined, axis=1))) if len(defined) else float("nan"),
        interval=_interval(finite, seed) if len(finite) >= MINIMUM_FOR_INTERVAL and not infinite else None,
    )


def _means(values: FloatArray, axis: int) -> FloatArray:
    """Means over finite values along an axis; NaN where there are none."""
    finite = np.isfinite(values)
    count = finite.sum(axis=axis)
    total = np.where(finite, values, 0.0).sum(axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _mean_of_means(values: FloatArray) -> FloatArray:
    """(..., cases, labels) to (...): over cases first, then over labels."""
    return _means(_means(values, axis=-2), axis=-1)


def _interval(values: FloatArray, seed: int) -> tuple[float, float]:
    """95 % bootstrap interval of the mean: whole cases are drawn, so that labels of one case stay together."""
    if (values == values[0]).all():
        return float(_mean_of_means(values)), float(_mean_of_means(values))

    def statistic(index: NDArray[np.int_], axis: int) -> FloatArray:
        return _mean_of_means(values[index])

    # About 30 MB of draws at a time.
    batch = max(1, 4_000_000 // values.size)
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings(), np.errstate(invalid="ignore"):
            warnings.simplefilter("ignore", stats.DegenerateDataWarning)
            result = stats.bootstrap(
                (np.arange(len(values)),), statistic, n_resamples=4999, batch=batch, method=method, rng=seed
            )
        low, high = (float(bound) for bound in result.confidence_interval)
        # BCa has no answer when nearly all cases are equal; the plain percentiles always have one.
        if math.isfinite(low) and math.isfinite(high):
            break
    return low, high
