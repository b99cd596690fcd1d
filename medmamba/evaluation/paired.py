"""Is one model better than another: tests and sizes of differences between values of the same cases.

A gain is by how much the first model is better than the second on a case: positive where it is, in either direction of
a metric. Where both values are infinite, the gain is 0; where one is, it is infinite and larger than any number. Cases
where either value is undefined are left out and counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy import stats

from medmamba.evaluation.statistics import (
    DECIMALS,
    MINIMUM_FOR_INTERVAL,
    Estimate,
    FloatArray,
    mean_intervals,
    reason_for_silence,
)

#: Up to so many pairs the distribution of the ranks is counted out; above, it is normal enough (as `scipy` has it).
EXACT = 50
_ALPHA = 0.05

METHODS = (
    "Models are compared in pairs on the same cases. A case where a metric is undefined for either is left out of "
    "that test and counted. An infinite value is worse than any number; where both are infinite, it is a tie.",
    "P values are those of the two-sided Wilcoxon signed-rank test. Ties (differences of zero) are left out as "
    f"Wilcoxon did (zero_method 'wilcox'); equal differences share their mean rank. Up to {EXACT} differences the p "
    "value is exact, counted over all signs with ties as they are; above, it is from the normal distribution, with "
    "the variance corrected for ties and without correction for continuity.",
    "P values are adjusted by Holm over all metrics, labels and pairs of models together, but for tests that could not "
    "tell anything at 5 % even alone, whatever the signs: those where fewer than six pairs differ. A p value above "
    "0.05 does not mean that models are equal.",
    "The effect size is the matched-pairs rank-biserial correlation: the share of the rank sum that favours the "
    "first model less the share that favours the second, from -1 to 1, over the cases that differ.",
    "The typical difference is the Hodges-Lehmann estimate (the median of the means of all pairs of differences, "
    "ties included) with the 95 % interval that belongs to the signed-rank test, which needs six cases. The mean "
    "difference has a 95 % bootstrap interval (BCa), and none where a difference is infinite.",
    f"Nothing but counts is told for fewer than {MINIMUM_FOR_INTERVAL} pairs, and no effect size for fewer than "
    f"{MINIMUM_FOR_INTERVAL} pairs that differ.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedTest:
    """What the same cases say about two models.

    Args:
        n: cases where both values are defined.
        undefined: cases left out because one is not.
        wins: cases where the first model is better.
        ties: cases where both are equal, or infinitely bad.
        losses: cases where the second is better.
        p_value: two-sided, of the signed-rank test, for this test alone; None where nothing is claimed.
        effect: rank-biserial correlation, positive where the first is better; None likewise.
        shift: the Hodges-Lehmann estimate of the gain; infinite where most gains are; None likewise.
        mean_gain: the mean gain, infinite or undefined where gains are infinite; None likewise.
        reason: why something is None; empty where nothing is.
        method: how the p value was found.
    """

    n: int
    undefined: int
    wins: int
    ties: int
    losses: int
    p_value: float | None = None
    effect: float | None = None
    shift: Estimate | None = None
    mean_gain: Estimate | None = None
    reason: str = ""
    method: str = ""

    @property
    def least_p(self) -> float:
        """The smallest p value that so many differing pairs can have: that of all in favour of one model."""
        return min(1.0, math.ldexp(1.0, 1 - self.wins - self.losses))

    @property
    def telling(self) -> bool:
        """Whether it could refuse at 5 %, were it the only test; which signs the differences have plays no part."""
        return self.p_value is not None and self.least_p <= _ALPHA


def gains(first: FloatArray, second: FloatArray, *, higher_is_better: bool) -> FloatArray:
    """By how much the first is better: 0 where both are infinite, NaN where either is undefined.

    Args:
        first: values of one model, any shape.
        second: values of the other, for the same cases.
        higher_is_better: which direction of the metric is.
    """
    with np.errstate(invalid="ignore"):
        difference: FloatArray = np.where(first == second, 0.0, first - second if higher_is_better else second - first)
    return difference.round(DECIMALS)


def paired_tests(columns: list[FloatArray], *, seed: int) -> list[PairedTest]:
    """The test of each column of gains, (cases,) each, undefined ones included; ``seed`` is of the bootstrap."""
    defined = [column[~np.isnan(column)] for column in columns]
    bounded = [n for n, gain in enumerate(defined) if len(gain) >= MINIMUM_FOR_INTERVAL and np.isfinite(gain).all()]
    intervals = dict(zip(bounded, mean_intervals([defined[n][:, None] for n in bounded], seed=seed), strict=True))
    return [
        _paired_test(gain, undefined=len(column) - len(gain), interval=intervals.get(number))
        for number, (column, gain) in enumerate(zip(columns, defined, strict=True))
    ]


def _paired_test(gain: FloatArray, *, undefined: int, interval: tuple[float, float] | None) -> PairedTest:
    wins, losses = int((gain > 0).sum()), int((gain < 0).sum())
    differ, ties = wins + losses, len(gain) - wins - losses
    counts = PairedTest(n=len(gain), undefined=undefined, wins=wins, ties=ties, losses=losses)
    if len(gain) < MINIMUM_FOR_INTERVAL:
        return replace(counts, reason=reason_for_silence(len(gain), "pairs"))
    with np.errstate(invalid="ignore"):
        mean = float(gain.mean())
    return replace(
        counts,
        p_value=signed_rank_p(gain),
        effect=rank_biserial(gain) if differ >= MINIMUM_FOR_INTERVAL or not differ else None,
        shift=hodges_lehmann(gain),
        mean_gain=Estimate(value=mean, interval=interval),
        reason=reason_for_silence(differ, "pairs that differ") if differ else "",
        method="exact" if differ <= EXACT else "normal approximation",
    )


def signed_rank_p(gain: FloatArray) -> float:
    """Two-sided p of the Wilcoxon signed-rank test, zeros left out; 1 where all are.

    Up to `EXACT` differences it is counted over all signs, ties as they are: `scipy.stats.wilcoxon` does that for at
    most 13 values, takes the normal approximation above as soon as there is one tie, and NaN for nothing but zeros.

    Args:
        gain: (cases,) without undefined ones; infinite ones share the largest rank.
    """
    differing = gain[gain != 0]
    if not differing.size:
        return 1.0
    ranks = stats.rankdata(np.abs(differing))
    if differing.size > EXACT:
        return float(stats.wilcoxon(np.sign(differing) * ranks, method="asymptotic").pvalue)
    doubled = np.rint(2 * ranks).astype(np.int64)  # mean ranks of ties are halves
    favouring = int(doubled[differing > 0].sum())
    smaller = min(favouring, int(doubled.sum()) - favouring)
    ways = float(_ways(tuple(doubled.tolist()))[: smaller + 1].sum())
    return min(1.0, math.ldexp(ways, 1 - differing.size))


def rank_biserial(gain: FloatArray) -> float:
    """Rank sum of positive gains less that of negative ones, over both; 0 where nothing differs.

    Args:
        gain: (cases,) without undefined ones.

    References:
        King and Minium, "Statistical reasoning in psychology and education", 2003; Kerby, "The simple difference
        formula", Comprehensive Psychology 2014.
    """
    differing = gain[gain != 0]
    ranks = stats.rankdata(np.abs(differing))
    return float(np.average(np.sign(differing), weights=ranks)) if differing.size else 0.0


def hodges_lehmann(gain: FloatArray) -> Estimate:
    """Median of the means of all pairs of gains (each with itself too), with the interval of the signed-rank test.

    The interval holds every shift that the test does not refuse at 5 %; with ties it is a little wider than it needs
    to be. With fewer than six gains there is none, as nothing is refused.

    Args:
        gain: (cases,) without undefined ones. An infinite one counts as larger than any number; with one of the other
            sign it makes 0.

    References:
        Hollander, Wolfe and Chicken, "Nonparametric statistical methods", 2014, sections 3.2 and 3.3.
    """
    finite = np.isfinite(gain)
    # Stands for infinity: its mean with any gain is still larger than a quarter of it, and no mean of gains is.
    beyond = 8 * float(np.abs(gain[finite]).max(initial=0.0)) + 1
    numbers = np.where(finite, gain, np.sign(gain) * beyond)
    means = np.add.outer(numbers, numbers)[np.triu_indices(len(gain))] / 2
    half, outside = len(means) // 2, _outside(len(gain))
    sides = [(place, len(means) - 1 - place) for place in (half, outside)]
    means.partition(sorted({place for side in sides for place in side}))
    (value, other), (low, high) = ([float(means[place]) for place in side] for side in sides)
    value, low, high = (
        math.copysign(math.inf, mean) if abs(mean) > beyond / 4 else mean for mean in ((value + other) / 2, low, high)
    )
    return Estimate(value=value, interval=(low, high) if 2.0 ** (1 - len(gain)) <= _ALPHA else None)


def holm(p_values: FloatArray) -> FloatArray:
    """P values adjusted for as many tests as there are, in the order given; those that are NaN are no tests.

    References:
        Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 1979.
    """
    adjusted = np.full(p_values.shape, np.nan)
    order = np.argsort(p_values)[: np.count_nonzero(~np.isnan(p_values))]  # NaN comes last
    steps = p_values[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


@lru_cache(maxsize=512)
def _ways(steps: tuple[int, ...]) -> FloatArray:
    """In how many ways some of the steps make each sum from 0 on; whole numbers up to 2^53 are exact."""
    ways = np.zeros(sum(steps) + 1)
    ways[0] = 1
    for step in steps:
        ways[step:] += ways[:-step].copy()
    return ways


@lru_cache(maxsize=64)
def _outside(n: int) -> int:
    """How many of the sorted means of pairs of ``n`` gains lie below the interval, and as many above."""
    if n > EXACT:
        spread = math.sqrt(n * (n + 1) * (2 * n + 1) / 24)
        return int(n * (n + 1) / 4 + stats.norm.ppf(_ALPHA / 2) * spread)
    below = np.cumsum(_ways(tuple(range(1, n + 1)))) / 2.0**n
    return max(int(np.count_nonzero(below <= _ALPHA / 2)) - 1, 0)
