"""The sums of a metric's values over cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from medmamba.evaluation.statistics import MEAN_OVER_LABELS, summarize

NAN, INF = float("nan"), float("inf")


def column(*values: float) -> np.ndarray:
    return np.array(values)[:, None]


def test_plain_numbers_are_summed_as_everyone_expects() -> None:
    summary = summarize(column(0.5, 0.7, 0.9), label="liver", metric="dice")
    assert (summary.n, summary.undefined, summary.infinite) == (3, 0, 0)
    assert summary.mean == pytest.approx(0.7)
    assert summary.std == pytest.approx(0.2)
    assert summary.median == pytest.approx(0.7)


def test_undefined_values_are_left_out_and_counted() -> None:
    summary = summarize(column(0.5, NAN, 0.9, NAN), label="liver", metric="dice")
    assert (summary.n, summary.undefined) == (2, 2)
    assert summary.mean == pytest.approx(0.7)


def test_infinite_values_make_mean_and_median_infinite_and_the_finite_ones_have_a_mean_of_their_own() -> None:
    summary = summarize(column(2.0, 4.0, INF, INF, INF), label="liver", metric="hd95")
    assert (summary.n, summary.values, summary.finite, summary.infinite) == (2, 5, 2, 3)
    assert (summary.mean, summary.finite_mean, summary.median) == (INF, 3.0, INF)


def test_missed_structure_takes_deviation_and_interval_away() -> None:
    distances = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)
    found, missed = (summarize(column(*distances, last), label="liver", metric="hd95") for last in (6.0, INF))
    assert found.interval is not None
    assert (missed.mean, missed.interval, missed.median) == (INF, None, 3.0)
    assert math.isnan(missed.std)


def test_every_value_is_accounted_for() -> None:
    table = np.array([[1.0, NAN], [INF, 3.0], [2.0, INF]])
    summary = summarize(table, label=MEAN_OVER_LABELS, metric="hd95", left_out=2)
    assert (summary.values, summary.finite, summary.infinite, summary.undefined, summary.missing) == (10, 3, 2, 1, 4)
    assert summary.finite_mean == pytest.approx((1.5 + 3.0) / 2)


def test_nothing_defined_leaves_nothing_to_say() -> None:
    summary = summarize(column(NAN, NAN), label="liver", metric="dice")
    assert (summary.n, summary.undefined, summary.interval) == (0, 2, None)
    assert all(math.isnan(value) for value in (summary.mean, summary.std, summary.median))


def test_interval_is_withheld_below_five_cases() -> None:
    assert summarize(column(0.1, 0.2, 0.3, 0.4), label="liver", metric="dice").interval is None
    assert summarize(column(0.1, 0.2, 0.3, 0.4, NAN), label="liver", metric="dice").interval is None
    assert summarize(column(0.1, 0.2, 0.3, 0.4, 0.5), label="liver", metric="dice").interval is not None


def test_interval_is_close_to_the_normal_one_for_many_cases() -> None:
    values = np.random.default_rng(0).normal(0.8, 0.05, size=200)
    summary = summarize(column(*values), label="liver", metric="dice")
    half = 1.96 * values.std(ddof=1) / math.sqrt(200)
    assert summary.interval == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)


def test_interval_is_scipys_bca_bootstrap_of_the_mean() -> None:
    values = np.random.default_rng(2).beta(8, 1, size=12)
    oracle = stats.bootstrap((values,), np.mean, method="BCa", n_resamples=4999, rng=7).confidence_interval
    summary = summarize(column(*values), label="liver", metric="dice", seed=7)
    assert summary.interval == pytest.approx((oracle.low, oracle.high))


def test_interval_depends_on_nothing_but_values_and_seed() -> None:
    values = column(*np.random.default_rng(1).uniform(size=8))
    first, again, other = (summarize(values, label="liver", metric="dice", seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first.interval != other.interval


@pytest.mark.parametrize("values", [(0.5,) * 6, (1.0,) * 5 + (0.99999,), (0.0,) * 9 + (1.0,)])
def test_interval_of_nearly_equal_cases_is_finite_and_holds_the_mean(values: tuple[float, ...]) -> None:
    summary = summarize(column(*values), label="liver", metric="dice")
    assert summary.interval is not None
    assert summary.interval[0] <= summary.mean <= summary.interval[1]


def test_interval_is_a_point_when_labels_make_up_for_each_other_in_every_case() -> None:
    summary = summarize(np.array([[1.0, 0.0], [0.0, 1.0]] * 4), label=MEAN_OVER_LABELS, metric="dice")
    assert summary.interval == pytest.approx((0.5, 0.5))


def test_mean_over_labels_weighs_a_rare_label_like_the_others() -> None:
    table = np.array([[0.8, NAN], [0.8, NAN], [0.8, 0.2]])
    summary = summarize(table, label=MEAN_OVER_LABELS, metric="dice")
    assert summary.mean == pytest.approx(0.5)
    assert summary.undefined == 2
