"""Which model comes first, and would it also with other cases: ranks by case, and their stability.

Ranked first and averaged then, as in BraTS: of every case the models get ranks (1 is best, equal ones share their mean
rank, an infinite value is worse than any number), and models are ordered by their mean rank over cases.

References:
    Wiesenfarth et al., "Methods and open-source toolkit for analyzing and visualizing challenge results", Scientific
    Reports 2021 (challengeR): stability of a ranking by the bootstrap over cases.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import stats

from medmamba.evaluation.statistics import (
    DECIMALS,
    MINIMUM_FOR_INTERVAL,
    Estimate,
    FloatArray,
    drawn,
    reason_for_silence,
)

RESAMPLES = 2000

METHODS = (
    "Ranks: on every case the models are ranked (1 is best; equal ones share their mean rank; an infinite value is "
    "worse than any number), and ordered by their mean rank over cases. A case where the metric is undefined for "
    "any model is left out and counted. The rank over everything is, as in BraTS, that of the mean over labels and "
    "metrics of the ranks of each case.",
    f"Stability: cases are drawn with replacement {RESAMPLES} times and the models ordered anew; told is the share "
    "of draws in which a model takes each place (models that tie for places share them), and the 95 % interval of "
    f"its mean rank (percentiles). Nothing is claimed for fewer than {MINIMUM_FOR_INTERVAL} cases.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """The order of models, and how sure it is.

    Args:
        n: cases that all models have a rank on.
        undefined: cases left out because a value is undefined.
        mean_ranks: of each model, in the order in which they were given; 1 is best. Empty where nothing is claimed.
        places: of each model by its mean rank, from 1 on; models with equal mean ranks have the same. Empty likewise.
        shares: for each model, the share of draws in which it takes each place. Empty likewise.
        reason: why nothing is claimed; empty where something is.
    """

    n: int
    undefined: int
    mean_ranks: tuple[Estimate, ...] = ()
    places: tuple[int, ...] = ()
    shares: tuple[tuple[float, ...], ...] = ()
    reason: str = ""


def case_ranks(values: FloatArray, *, higher_is_better: bool) -> FloatArray:
    """Ranks of models on every case: 1 is best, NaN for a case that is undefined for any of them.

    Args:
        values: (models, cases), or with any further axes.
        higher_is_better: which direction of the metric is.
    """
    rounded = np.round(values, DECIMALS)
    ranks = stats.rankdata(-rounded if higher_is_better else rounded, axis=0)
    return np.where(np.isnan(values).any(axis=0), np.nan, ranks)


def mean_ranks(ranks: FloatArray) -> FloatArray:
    """Mean over all axes after the second, (models, cases, ...) to (models, cases); NaN where none is defined."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        return np.asarray(np.nanmean(ranks.reshape(*ranks.shape[:2], -1), axis=2))


def ranking(ranks: FloatArray, *, seed: int) -> Ranking:
    """The order of models by their ranks on cases.

    Args:
        ranks: (models, cases) from `case_ranks` or `mean_ranks`.
        seed: of the draws.
    """
    defined = ranks[:, ~np.isnan(ranks).any(axis=0)]
    n, undefined = defined.shape[1], ranks.shape[1] - defined.shape[1]
    if n < MINIMUM_FOR_INTERVAL:
        return Ranking(n=n, undefined=undefined, reason=reason_for_silence(n))
    means = _rounded_mean(np.ones((1, n)), defined)
    draws = _rounded_mean(_draws(n, seed), defined)
    bounds = np.quantile(draws, (0.025, 0.975), axis=0).T
    return Ranking(
        n=n,
        undefined=undefined,
        mean_ranks=tuple(
            Estimate(value=float(mean), interval=(float(low), float(high)))
            for mean, (low, high) in zip(means[0], bounds, strict=True)
        ),
        places=tuple(int(place) for place in stats.rankdata(means[0], method="min")),
        shares=tuple(tuple(float(share) for share in row) for row in _shares(draws)),
    )


@lru_cache(maxsize=1)
def _draws(n: int, seed: int) -> FloatArray:
    return drawn(np.random.default_rng(seed).integers(n, size=(RESAMPLES, n)), n)


def _rounded_mean(counts: FloatArray, ranks: FloatArray) -> FloatArray:
    """(draws, cases) counts and (models, cases) ranks to (draws, models); equal means are equal to the last bit."""
    means: FloatArray = counts @ ranks.T / ranks.shape[1]
    return means.round(DECIMALS)


def _shares(means: FloatArray) -> FloatArray:
    """(draws, models) mean ranks to (models, places): in which share of draws a model takes a place."""
    models = means.shape[1]
    better = (means[:, None, :] < means[:, :, None]).sum(axis=2)
    equal = (means[:, None, :] == means[:, :, None]).sum(axis=2)
    places = np.arange(models)
    takes = (places >= better[..., None]) & (places < (better + equal)[..., None])
    return np.asarray((takes / equal[..., None]).mean(axis=0))
