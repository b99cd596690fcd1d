"""Do predictions have the volume of their references: bias, limits of agreement and concordance.

References:
    Bland and Altman, "Statistical methods for assessing agreement between two methods of clinical measurement", Lancet
    1986, and "Measuring agreement in method comparison studies", Statistical Methods in Medical Research 1999.
    Lin, "A concordance correlation coefficient to evaluate reproducibility", Biometrics 1989.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from medmamba.evaluation.scores import LabelScore
from medmamba.evaluation.statistics import (
    MINIMUM_FOR_INTERVAL,
    Estimate,
    FloatArray,
    median_interval,
    reason_for_silence,
)

#: So many standard deviations around the bias lie 95 % of normal differences.
LIMITS = 1.96

METHODS = (
    "Agreement of volumes (Bland and Altman): differences are prediction less reference; the bias is their mean, "
    f"the limits of agreement lie {LIMITS} standard deviations on either side. Intervals of 95 % are from Student's "
    "t; the standard error of a limit is that of Bland and Altman 1999, s times the root of 1/n + 1.96^2 / (2 (n - "
    "1)). They take differences to be normal and of one width for small and large volumes; the picture shows "
    "whether they are.",
    "Proportional bias is the slope of the difference over the mean of both volumes (least squares): 0 where large "
    "structures are measured as well as small ones. It also moves where one of both scatters more.",
    "Concordance is Lin's coefficient (1 is perfect agreement, variances over n), with the 95 % interval of "
    "Fisher's z.",
    "Relative difference is the difference over the reference's volume, as the median over the cases whose "
    "reference is not empty, with the 95 % interval by order statistics, which needs six cases.",
    "Cases without one of both volumes are left out and counted; nothing is claimed for fewer than "
    f"{MINIMUM_FOR_INTERVAL} cases.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How volumes of predictions agree with those of references; what is not claimed is None.

    Args:
        n: cases that have both volumes.
        left_out: cases that lack one.
        bias: mean of prediction less reference, in the unit of the volumes.
        deviation: standard deviation of the differences.
        limits: lower and upper limit of agreement.
        slope: of differences over means; also None where all means are equal.
        slope_p: two-sided p of a slope of zero; also None where all differences are equal.
        concordance: Lin's coefficient; also None where neither varies and both are equal.
        relative: median of the difference over the reference's volume; also None where fewer than five references
            have a volume.
        reason: why nothing is claimed; empty where something is.
    """

    n: int
    left_out: int
    bias: Estimate | None = None
    deviation: float | None = None
    limits: tuple[Estimate, Estimate] | None = None
    slope: Estimate | None = None
    slope_p: float | None = None
    concordance: Estimate | None = None
    relative: Estimate | None = None
    reason: str = ""


def agreement(prediction: FloatArray, reference: FloatArray) -> Agreement:
    """Hold volumes against each other.

    Args:
        prediction: (cases,) volumes; NaN where there is none.
        reference: (cases,) likewise, in the same unit.
    """
    known = np.isfinite(prediction) & np.isfinite(reference)
    ours, theirs = prediction[known], reference[known]
    n, left_out = len(ours), len(prediction) - len(ours)
    if n < MINIMUM_FOR_INTERVAL:
        return Agreement(n=n, left_out=left_out, reason=reason_for_silence(n))
    difference = ours - theirs
    bias, deviation = float(difference.mean()), float(difference.std(ddof=1))
    error_of_limit = deviation * math.sqrt(1 / n + LIMITS**2 / (2 * (n - 1)))
    lower, upper = (bias + side * LIMITS * deviation for side in (-1, 1))
    slope, slope_p = _slope(difference, (ours + theirs) / 2)
    return Agreement(
        n=n,
        left_out=left_out,
        bias=_student(bias, deviation / math.sqrt(n), n - 1),
        deviation=deviation,
        limits=(_student(lower, error_of_limit, n - 1), _student(upper, error_of_limit, n - 1)),
        slope=slope,
        slope_p=slope_p,
        concordance=concordance(ours, theirs),
        relative=_relative(difference, theirs),
    )


def volume_agreement(scores: Sequence[LabelScore]) -> Agreement:
    """Volumes of one label in ml, a score per case."""
    volumes = [[math.nan if ml is None else ml for ml in (score.prediction_ml, score.reference_ml)] for score in scores]
    prediction, reference = np.array(volumes, dtype=np.float64).reshape(-1, 2).T
    return agreement(prediction, reference)


def concordance(first: FloatArray, second: FloatArray) -> Estimate | None:
    """Lin's concordance correlation coefficient.

    Args:
        first: (cases,) finite numbers.
        second: likewise.

    Returns:
        With the interval of Fisher's z, which perfect or no correlation takes away; None where both are the same
        number throughout.
    """
    n, (spread, other_spread) = len(first), (float(first.var()), float(second.var()))
    apart = float(first.mean() - second.mean())
    total = spread + other_spread + apart**2
    if not total:
        return None
    both = float(np.cov(first, second, ddof=0)[0, 1])
    value = 2 * both / total
    scale = math.sqrt(spread * other_spread)
    correlation = both / scale if scale else 0.0
    if not correlation or n < 3 or abs(value) >= 1:
        return Estimate(value=value)
    # Lin 1989, equation 2.2 with the correction of Biometrics 56: 324 (2000).
    shift = apart**2 / scale
    ratio = value / correlation
    variance = (
        (1 - correlation**2) * ratio**2 / (1 - value**2)
        + 2 * value**3 * (1 - value) * shift / (correlation * (1 - value**2) ** 2)
        - value**4 * shift**2 / (2 * correlation**2 * (1 - value**2) ** 2)
    ) / (n - 2)
    half = stats.norm.ppf(0.975) * math.sqrt(max(variance, 0.0))
    low, high = (math.tanh(math.atanh(value) + side * half) for side in (-1, 1))
    return Estimate(value=value, interval=(low, high))


def _student(value: float, error: float, freedom: int) -> Estimate:
    half = float(stats.t.ppf(0.975, freedom)) * error
    return Estimate(value=value, interval=(value - half, value + half))


def _slope(difference: FloatArray, mean: FloatArray) -> tuple[Estimate | None, float | None]:
    if np.ptp(mean) == 0:
        return None, None
    if np.ptp(difference) == 0:
        return Estimate(value=0.0), None
    line = stats.linregress(mean, difference)
    return _student(float(line.slope), float(line.stderr), len(mean) - 2), float(line.pvalue)


def _relative(difference: FloatArray, reference: FloatArray) -> Estimate | None:
    share = difference[reference > 0] / reference[reference > 0]
    if len(share) < MINIMUM_FOR_INTERVAL:
        return None
    return Estimate(value=float(np.median(share)), interval=median_interval(share))
