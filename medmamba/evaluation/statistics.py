"""What values over cases say together: sums of a metric, and how sure they are."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

FloatArray = NDArray[np.float64]

#: What the summary over all labels is called where labels have names.
MEAN_OVER_LABELS = "mean over labels"
#: With fewer cases an interval would pretend to know more than it does.
MINIMUM_FOR_INTERVAL = 5
#: So many draws make an interval.
RESAMPLES = 4999
#: Values that differ in later decimals alone are taken as equal: rounding made the difference.
DECIMALS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number and how sure it is.

    Args:
        value: NaN where it is undefined, infinite where it is.
        interval: of 95 %; None where nothing is claimed.
    """

    value: float
    interval: tuple[float, float] | None = None


def reason_for_silence(n: int, what: str = "cases") -> str:
    """Why nothing is claimed from so few; empty where they are enough."""
    few = n < MINIMUM_FOR_INTERVAL
    return f"n = {n}; nothing is claimed for fewer than {MINIMUM_FOR_INTERVAL} {what}" if few else ""


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
        median_interval: of at least 95 % by order statistics, also over infinite values; None with fewer than six.
        interval: 95 % bootstrap interval of the mean over cases; None with fewer than `MINIMUM_FOR_INTERVAL` cases,
            when a value is infinite, or when all cases are equal.
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
    median_interval: tuple[float, float] | None
    interval: tuple[float, float] | None

    @property
    def why_no_interval(self) -> str:
        """Why the mean has no interval, in a few words; empty where it has one."""
        if self.interval:
            return ""
        if self.infinite:
            return f"infinite: {self.infinite} of {self.values}"
        return f"n = {self.n}" if self.n < MINIMUM_FOR_INTERVAL else f"all {self.n} equal"


def summarize(values: FloatArray, *, label: str, metric: str, left_out: int = 0, seed: int = 0) -> Summary:
    """Boil the values of one metric down; arguments as of `summarize_all`."""
    return summarize_all({(metric, label): values}, left_out=left_out, seed=seed)[0]


def summarize_all(
    columns: Mapping[tuple[str, str], FloatArray], *, left_out: int = 0, seed: int = 0
) -> tuple[Summary, ...]:
    """Boil values down, those of all metrics and labels at once: their bootstraps share what takes time.

    Args:
        columns: by name of the metric and the label, (cases, labels) values; with several labels, labels are averaged
            after cases, so that a label that is often undefined weighs as much as the others.
        left_out: cases that belong here but have no values.
        seed: of the bootstrap.
    """
    finite = {key: values[np.isfinite(values).any(axis=1)] for key, values in columns.items()}
    claimed = [
        key
        for key, values in columns.items()
        if len(finite[key]) >= MINIMUM_FOR_INTERVAL and not np.isinf(values).any()
    ]
    intervals = dict(zip(claimed, mean_intervals([finite[key] for key in claimed], seed=seed), strict=True))
    return tuple(
        _summary(values, finite[key], key, left_out=left_out, interval=intervals.get(key))
        for key, values in columns.items()
    )


def _summary(
    values: FloatArray,
    finite: FloatArray,
    key: tuple[str, str],
    *,
    left_out: int,
    interval: tuple[float, float] | None,
) -> Summary:
    infinite = int(np.isinf(values).sum())
    per_case = _means(finite, axis=1)
    medians = np.nanmean(values[~np.isnan(values).all(axis=1)], axis=1)
    return Summary(
        label=key[1],
        metric=key[0],
        n=len(finite),
        values=values.size + left_out * values.shape[1],
        finite=int(np.isfinite(values).sum()),
        infinite=infinite,
        undefined=int(np.isnan(values).sum()),
        missing=left_out * values.shape[1],
        mean=float("inf") if infinite else float(_mean_of_means(finite)),
        finite_mean=float(_mean_of_means(finite)),
        std=float(per_case.std(ddof=1)) if len(finite) > 1 and not infinite else float("nan"),
        median=float(np.median(medians)) if len(medians) else float("nan"),
        median_interval=median_interval(medians),
        interval=interval,
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


def mean_intervals(columns: Sequence[FloatArray], *, seed: int) -> list[tuple[float, float] | None]:
    """95 % bootstrap intervals (BCa) of means over cases.

    Whole cases are drawn, so that labels of one case stay together. Columns with as many cases share their draws, as
    each would draw the same from the seed.

    Args:
        columns: (cases, labels) each; labels are averaged after cases; values that are not finite are left out.
        seed: of the draws.

    Returns:
        Bounds in the order of ``columns``; None where all cases are equal, as draws of them tell nothing about others.
        Where nearly all are, BCa has no answer and the plain percentiles are taken.

    References:
        Efron, "Better bootstrap confidence intervals", JASA 1987; `scipy.stats.bootstrap`.
    """
    found: dict[int, tuple[float, float] | None] = {}
    by_size: dict[int, list[int]] = {}
    for number, column in enumerate(columns):
        if (column == column[0]).all():
            found[number] = None
        else:
            by_size.setdefault(len(column), []).append(number)
    for members in by_size.values():
        found |= zip(members, _bootstrap([columns[number] for number in members], seed), strict=True)
    return [found[number] for number in range(len(columns))]


def drawn(index: NDArray[np.int_], cases: int) -> FloatArray:
    """How often each draw has each case: (draws, any length) case numbers to (draws, cases) counts."""
    rows = index + cases * np.arange(len(index))[:, None]
    return np.bincount(rows.ravel(), minlength=cases * len(index)).reshape(len(index), cases).astype(np.float64)


def _bootstrap(columns: Sequence[FloatArray], seed: int) -> list[tuple[float, float] | None]:
    """As `mean_intervals`, of columns of one length with something to draw."""
    cases, widths = len(columns[0]), [column.shape[1] for column in columns]
    values = np.concatenate(columns, axis=1)
    finite = np.isfinite(values).astype(np.float64)
    values = np.where(finite, values, 0.0)
    starts = np.cumsum([0, *widths[:-1]])

    def means(index: NDArray[np.int_], axis: int) -> FloatArray:
        # Sums over draws are products of matrices; a column each would take a hundred times as long.
        counts = drawn(index.reshape(-1, index.shape[-1]), cases)
        with np.errstate(invalid="ignore"):
            label_means = counts @ values / (counts @ finite)
        known = ~np.isnan(label_means)
        total = np.add.reduceat(np.where(known, label_means, 0.0), starts, axis=1)
        with np.errstate(invalid="ignore"):
            found = total / np.add.reduceat(known, starts, axis=1, dtype=np.int64)
        # Equal means are counted as equal ones, which the order of summation must not decide.
        found = np.round(found, DECIMALS)
        return np.moveaxis(found.reshape(*index.shape[:-1], len(columns)), -1, 0)

    # About 30 MB of draws at a time.
    options: dict[str, Any] = {"batch": max(1, 4_000_000 // cases), "rng": seed, "vectorized": True}
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        best = stats.bootstrap((np.arange(cases),), means, n_resamples=RESAMPLES, method="BCa", **options)
        # BCa has no answer when nearly all cases are equal; the plain percentiles always have one.
        plain = stats.bootstrap(
            (np.arange(cases),), means, n_resamples=0, method="percentile", bootstrap_result=best, **options
        )
    bounds, others = (np.transpose(result.confidence_interval) for result in (best, plain))
    bounds = np.where(np.isfinite(bounds).all(axis=1, keepdims=True), bounds, others)
    return [(float(low), float(high)) if low < high else None for low, high in bounds]


def median_interval(values: FloatArray) -> tuple[float, float] | None:
    """Interval of at least 95 % for a median by order statistics, for any distribution and with infinite values.

    Bootstrap intervals of a median are too short for few cases, and for rounded or equal values there is often none:
    BCa needs the jackknife, which is known to fail for medians.

    Args:
        values: (cases,) without undefined ones.

    Returns:
        Lower and upper bound; None with fewer than six values, of which even the whole range holds less than 95 %.

    References:
        Conover, "Practical nonparametric statistics", section 3.2; `scipy.stats.quantile_test`.
    """
    if len(values) < MINIMUM_FOR_INTERVAL:
        return None
    found = stats.quantile_test(values, p=0.5).confidence_interval(0.95)
    bounds = float(found.low), float(found.high)
    return None if np.isnan(bounds).any() else bounds
