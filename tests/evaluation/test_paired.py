"""Tests and sizes of differences between two models, against counting by hand and published examples."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from medmamba.evaluation.paired import (
    EXACT,
    PairedTest,
    gains,
    hodges_lehmann,
    holm,
    paired_tests,
    rank_biserial,
    signed_rank_p,
)

NAN, INF = float("nan"), float("inf")
#: Hamilton depression scale factor IV before and after a tranquillizer: Hollander and Wolfe, table 3.1.
BEFORE = np.array([1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30])
AFTER = np.array([0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29])


def by_all_signs(gain: np.ndarray) -> float:
    """The two-sided p by its definition: the share of signs that make a rank sum at least as far from its mean."""
    differing = gain[gain != 0]
    ranks = stats.rankdata(np.abs(differing))
    sums = np.array([ranks @ np.array(signs) for signs in product((0, 1), repeat=len(ranks))])
    middle = ranks.sum() / 2
    return float(np.mean(np.abs(sums - middle) >= abs(ranks[differing > 0].sum() - middle) - 1e-9))


def one(*gain: float) -> PairedTest:
    return paired_tests([np.array(gain)], seed=0)[0]


@pytest.mark.parametrize(
    "gain",
    [
        (1, 2, 3, 4, 5),
        (1, 1, 2, 2, -1, 3, 3, 4, -2, 5),
        (0, 0, 0, 1, 1, -1, 2),
        (0, 1, -1, 2, -2),
        (INF, INF, -INF, 1, 2, 3, -4, 0),
        (-1, -1, -1, -1, -1, -1),
    ],
)
def test_p_value_is_that_of_all_signs_also_with_ties_zeros_and_infinite_gains(gain: tuple[float, ...]) -> None:
    assert signed_rank_p(np.array(gain, dtype=float)) == pytest.approx(by_all_signs(np.array(gain)), abs=1e-14)


@pytest.mark.parametrize("n", [6, 20, EXACT, EXACT + 1, 300])
def test_p_value_without_ties_is_scipys(n: int) -> None:
    gain = np.random.default_rng(n).normal(0.2, 1, n)
    assert signed_rank_p(gain) == pytest.approx(stats.wilcoxon(gain).pvalue, rel=1e-12)


def test_p_value_goes_over_to_the_normal_one_without_a_step() -> None:
    gain = np.round(np.random.default_rng(3).normal(0.3, 1, EXACT + 1), 1)
    gain[gain == 0] = 0.1
    counted, approximate = signed_rank_p(gain[:-1]), stats.wilcoxon(gain[:-1], method="asymptotic").pvalue
    assert counted == pytest.approx(approximate, rel=0.05)
    assert signed_rank_p(gain) == stats.wilcoxon(gain, method="asymptotic").pvalue


def test_two_models_that_are_the_same_do_not_differ_whatever_their_number_of_cases() -> None:
    for n in (5, 14, 80):
        test = one(*[0.0] * n)
        assert (test.p_value, test.effect, test.wins, test.ties, test.reason) == (1.0, 0.0, 0, n, "")


def test_ties_do_not_make_a_p_value_smaller_as_they_do_in_scipy() -> None:
    gain = np.array([1.0, 2, 3, 4, 5] + [0.0] * 9)
    assert stats.wilcoxon(gain).pvalue < 0.05  # findings/scipy_wilcoxon_ties.sh
    assert signed_rank_p(gain) == signed_rank_p(gain[:5]) == 2 / 2**5


def test_textbook_example_has_its_p_value_estimate_and_interval() -> None:
    gain = gains(BEFORE, AFTER, higher_is_better=True)
    assert signed_rank_p(gain) == pytest.approx(2 * 0.0195, abs=1e-4)  # example 3.1, there one-sided
    estimate = hodges_lehmann(gain)
    assert estimate.value == pytest.approx(0.46)  # example 3.3
    assert estimate.interval == pytest.approx((0.010, 0.786))  # example 3.4, of 96 %


def test_typical_difference_is_the_median_of_all_means_of_two() -> None:
    gain = np.round(np.random.default_rng(0).normal(size=31), 2)
    means = [(a + b) / 2 for i, a in enumerate(gain) for b in gain[i:]]
    assert hodges_lehmann(gain).value == pytest.approx(np.median(means), abs=1e-14)


@pytest.mark.parametrize("n", [7, 20, EXACT, 80])
def test_interval_of_the_typical_difference_ends_where_the_test_starts_to_refuse(n: int) -> None:
    gain = np.random.default_rng(n).normal(0.5, 1, n)
    interval = hodges_lehmann(gain).interval
    assert interval is not None
    for bound, outwards in zip(interval, (-1, 1), strict=True):
        assert signed_rank_p(gain - bound + outwards * 1e-9) > 0.05
        assert signed_rank_p(gain - bound - outwards * 1e-9) == pytest.approx(0.05, abs=0.035)
        assert signed_rank_p(gain - bound - outwards * 1e-9) <= 0.05


def test_typical_difference_stays_defined_with_infinite_gains() -> None:
    assert hodges_lehmann(np.array([1, 2, 3, 4, 5, INF])).value == 3.5
    assert hodges_lehmann(np.array([1, 2, 3, 4, 5, INF])).interval == (1.0, INF)
    assert hodges_lehmann(np.array([INF, INF, -INF, -INF, 1.0, -1.0])).value == 0.0
    assert hodges_lehmann(np.array([-INF] * 6)).value == -INF


def test_five_gains_have_a_typical_difference_and_no_interval_as_no_shift_is_refused() -> None:
    assert hodges_lehmann(np.array([1.0, 2, 3, 4, 5])).interval is None
    assert hodges_lehmann(np.array([1.0, 2, 3, 4, 5, 6])).interval == (1.0, 6.0)


def test_rank_biserial_is_the_difference_of_favourable_and_unfavourable_ranks() -> None:
    assert rank_biserial(np.array([1.0, 2, 3, 4, 5])) == 1.0
    assert rank_biserial(np.array([-1.0, 2, 3, 4, 0, 0])) == pytest.approx((9 - 1) / 10)
    assert rank_biserial(np.array([3.0, -1, -2])) == 0.0


def test_gain_is_positive_where_the_first_is_better_in_either_direction_of_a_metric() -> None:
    first, second = np.array([0.9, 0.5, NAN, 0.7]), np.array([0.8, 0.5, 0.5, 0.9])
    assert gains(first, second, higher_is_better=True) == pytest.approx([0.1, 0, NAN, -0.2], nan_ok=True)
    assert gains(first, second, higher_is_better=False) == pytest.approx([-0.1, 0, NAN, 0.2], nan_ok=True)


def test_infinite_distance_is_worse_than_any_other_and_two_of_them_are_a_tie() -> None:
    gain = gains(np.array([INF, 3.0, INF, INF]), np.array([5.0, INF, INF, NAN]), higher_is_better=False)
    assert gain[:3].tolist() == [-INF, INF, 0.0]
    assert np.isnan(gain[3])


def test_gains_that_rounding_alone_tells_apart_are_equal() -> None:
    gain = gains(np.array([0.8, 0.9]), np.array([0.7, 0.8]), higher_is_better=True)
    assert 0.8 - 0.7 != 0.9 - 0.8
    assert gain[0] == gain[1]


def test_cases_are_counted_and_undefined_ones_left_out() -> None:
    test = one(0.1, 0.2, -0.1, 0.0, NAN, 0.3, INF, 0.2, NAN)
    assert (test.n, test.undefined, test.wins, test.ties, test.losses) == (7, 2, 5, 1, 1)
    assert test.mean_gain is not None
    assert (test.mean_gain.value, test.mean_gain.interval) == (INF, None)


def test_mean_gain_has_scipys_bca_interval() -> None:
    gain = np.random.default_rng(5).normal(size=9)

    def mean(values: np.ndarray, axis: int) -> np.ndarray:
        return np.mean(values, axis=axis).round(12)  # of nine, one draw in a thousand is the sample in another order

    oracle = stats.bootstrap((gain,), mean, n_resamples=4999, rng=2).confidence_interval
    (test,) = paired_tests([gain], seed=2)
    assert test.mean_gain is not None
    assert test.mean_gain.interval == pytest.approx((oracle.low, oracle.high))


def test_nothing_but_counts_is_told_of_fewer_than_five_pairs() -> None:
    test = one(0.1, 0.2, 0.3, 0.4, NAN)
    assert (test.n, test.wins) == (4, 4)
    assert (test.p_value, test.effect, test.shift, test.mean_gain) == (None, None, None, None)
    assert "n = 4; nothing is claimed for fewer than 5 pairs" in test.reason


def test_no_effect_size_is_told_where_fewer_than_five_pairs_differ() -> None:
    test = one(*[0.0] * 95, 0.1, 0.2)
    assert (test.p_value, test.effect) == (0.5, None)
    assert "n = 2; nothing is claimed for fewer than 5 pairs that differ" in test.reason


def test_holm_adjusts_as_by_hand_and_leaves_out_what_is_no_test() -> None:
    adjusted = holm(np.array([0.01, 0.04, NAN, 0.03, 0.005]))
    assert adjusted == pytest.approx([0.03, 0.06, NAN, 0.06, 0.02], nan_ok=True)
    assert holm(np.array([0.6, 0.7])).tolist() == [1.0, 1.0]
    assert holm(np.array([])).size == 0


def test_holm_is_the_largest_of_all_smaller_steps() -> None:
    p = np.random.default_rng(1).uniform(size=12) ** 3
    expected = [min(1, max((len(p) - sum(p < q)) * q for q in p if q <= value)) for value in p]
    assert holm(p) == pytest.approx(expected, abs=1e-15)
