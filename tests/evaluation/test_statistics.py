"""The sums of a metric's values over cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from medmamba.evaluation.statistics import MEAN_OVER_LABELS, mean_intervals, median_interval, summarize

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


@pytest.mark.parametrize("values", [(1.0,) * 5 + (0.99999,), (0.0,) * 9 + (1.0,)])
def test_interval_of_nearly_equal_cases_is_finite_and_holds_the_mean(values: tuple[float, ...]) -> None:
    summary = summarize(column(*values), label="liver", metric="dice")
    assert summary.interval is not None
    assert summary.interval[0] <= summary.mean <= summary.interval[1]


def test_equal_cases_have_no_interval_as_they_tell_nothing_of_others() -> None:
    summary = summarize(column(*(0.5,) * 6), label="liver", metric="dice")
    assert (summary.mean, summary.interval, summary.why_no_interval) == (0.5, None, "all 6 equal")
    assert summarize(column(0.5, 0.6), label="liver", metric="dice").why_no_interval == "n = 2"
    lost = summarize(column(*(1.0,) * 6, INF), label="liver", metric="hd95")
    assert (lost.interval, lost.why_no_interval) == (None, "infinite: 1 of 7")


def test_there_is_no_interval_either_when_labels_make_up_for_each_other_in_every_case() -> None:
    summary = summarize(np.array([[1.0, 0.0], [0.0, 1.0]] * 4), label=MEAN_OVER_LABELS, metric="dice")
    assert (summary.mean, summary.interval) == (0.5, None)


def test_mean_over_labels_weighs_a_rare_label_like_the_others() -> None:
    table = np.array([[0.8, NAN], [0.8, NAN], [0.8, 0.2]])
    summary = summarize(table, label=MEAN_OVER_LABELS, metric="dice")
    assert summary.mean == pytest.approx(0.5)
    assert summary.undefined == 2


def test_intervals_found_together_are_those_found_one_by_one() -> None:
    rng = np.random.default_rng(4)
    columns = [rng.beta(8, 1, shape) for shape in ((9, 1), (6, 1), (9, 3), (9, 1))]
    columns[2][0, 0] = NAN
    columns.append(np.full((9, 1), 0.5))
    together = mean_intervals(columns, seed=1)
    for interval, column in zip(together, columns, strict=True):
        alone = mean_intervals([column], seed=1)[0]
        assert interval == (None if alone is None else pytest.approx(alone, abs=1e-11))
    assert together[-1] is None


def test_draws_with_the_same_mean_are_equal_whatever_order_they_are_summed_in() -> None:
    # BCa asks which share of the draws lies below the mean; of (0.1, 0.2, 0.3) some sums are 0.6 and some are not.
    values = np.array([0.1, 0.2, 0.3, 0.1, 0.2, 0.3])
    whole = stats.bootstrap((values * 10,), np.mean, n_resamples=4999, rng=0).confidence_interval
    assert mean_intervals([values[:, None]], seed=0)[0] == pytest.approx((whole.low / 10, whole.high / 10), abs=1e-12)


def test_interval_of_a_median_is_of_order_statistics_of_the_binomial() -> None:
    values = np.arange(1.0, 21.0)
    assert median_interval(values) == (6.0, 15.0)  # Conover, table A3: ranks 6 and 15 of 20 hold 95.9 %
    assert median_interval(np.arange(6.0)) == (0.0, 5.0)
    assert median_interval(np.arange(5.0)) is None  # the whole range of five holds 93.75 %


def test_interval_of_a_median_may_end_in_infinity_and_be_a_point() -> None:
    assert median_interval(np.array([1.0, 2, 3, 4, 5, INF, INF])) == (1.0, INF)
    assert median_interval(np.full(8, 0.5)) == (0.5, 0.5)


@pytest.mark.slow
def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    rng, mean, median = np.random.default_rng(0), 8 / 9, stats.beta(8, 1).median()
    samples = rng.beta(8, 1, (1500, 20))
    intervals = mean_intervals([sample[:, None] for sample in samples], seed=1)
    assert np.mean([low <= mean <= high for low, high in filter(None, intervals)]) == pytest.approx(0.93, abs=0.025)
    medians = [median_interval(sample) for sample in samples]
    assert np.mean([low <= median <= high for low, high in filter(None, medians)]) == pytest.approx(0.959, abs=0.02)
