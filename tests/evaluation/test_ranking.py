"""The order of models and how sure it is, against small cases by hand and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from medmamba.evaluation.ranking import RESAMPLES, case_ranks, mean_ranks, ranking

NAN, INF = float("nan"), float("inf")


def test_best_value_of_a_case_has_rank_one_and_equal_ones_share_theirs() -> None:
    values = np.array([[0.9, 0.5, 0.7], [0.8, 0.5, 0.9], [0.7, 0.1, 0.7]])
    assert case_ranks(values, higher_is_better=True).tolist() == [[1, 1.5, 2.5], [2, 1.5, 1], [3, 3, 2.5]]
    assert case_ranks(values, higher_is_better=False).tolist() == [[3, 2.5, 1.5], [2, 2.5, 3], [1, 1, 1.5]]


def test_infinite_distance_is_last_and_an_undefined_value_takes_the_case_out() -> None:
    ranks = case_ranks(np.array([[INF, INF, NAN], [3.0, INF, 1.0], [5.0, 2.0, 2.0]]), higher_is_better=False)
    assert ranks[:, :2].tolist() == [[3, 2.5], [1, 2.5], [2, 1]]
    assert np.isnan(ranks[:, 2]).all()
    found = ranking(np.concatenate([ranks] * 3, axis=1), seed=0)
    assert (found.n, found.undefined) == (6, 3)


def test_mean_over_labels_and_metrics_is_of_what_is_defined() -> None:
    ranks = np.array([[[1.0, 2.0], [NAN, 1.0], [NAN, NAN]]])
    assert mean_ranks(ranks) == pytest.approx(np.array([[1.5, 1.0, NAN]]), nan_ok=True)


def test_model_that_always_wins_is_first_in_all_draws() -> None:
    found = ranking(case_ranks(np.array([[0.9] * 6, [0.5] * 6, [0.7] * 6]), higher_is_better=True), seed=0)
    assert found.places == (1, 3, 2)
    assert found.shares == ((1, 0, 0), (0, 0, 1), (0, 1, 0))
    assert [(rank.value, rank.interval) for rank in found.mean_ranks] == [(1, (1, 1)), (3, (3, 3)), (2, (2, 2))]


def test_models_that_are_the_same_share_all_places() -> None:
    found = ranking(case_ranks(np.full((2, 5), 0.5), higher_is_better=True), seed=0)
    assert found.places == (1, 1)
    assert found.shares == ((0.5, 0.5), (0.5, 0.5))


def test_shares_are_those_of_drawing_cases_one_draw_after_another() -> None:
    values = np.random.default_rng(0).normal(size=(3, 12)) + np.array([[0.4], [0.2], [0.0]])
    ranks = case_ranks(values, higher_is_better=True)
    draws = np.random.default_rng(7).integers(12, size=(RESAMPLES, 12))
    places = np.array([stats.rankdata(ranks[:, draw].mean(axis=1).round(9), method="ordinal") for draw in draws])
    untied = np.array([len(set(ranks[:, draw].mean(axis=1).round(9))) == 3 for draw in draws])
    found = ranking(ranks, seed=7)
    expected = [[np.mean(places[:, model] == place) for place in (1, 2, 3)] for model in range(3)]
    assert np.array(found.shares) == pytest.approx(np.array(expected), abs=float(np.mean(~untied)))
    assert np.sum(found.shares, axis=0) == pytest.approx(np.ones(3))
    assert np.sum(found.shares, axis=1) == pytest.approx(np.ones(3))


def test_sure_win_by_two_to_one_is_as_often_first_as_the_binomial_says() -> None:
    ranks = case_ranks(np.array([[1.0] * 6 + [0.0] * 3, [0.0] * 6 + [1.0] * 3]), higher_is_better=True)
    assert ranking(ranks, seed=1).shares[0][0] == pytest.approx(stats.binom.sf(4, 9, 2 / 3), abs=0.02)


def test_seed_decides() -> None:
    ranks = case_ranks(np.random.default_rng(0).normal(size=(3, 9)), higher_is_better=True)
    assert ranking(ranks, seed=1) == ranking(ranks, seed=1)
    assert ranking(ranks, seed=1) != ranking(ranks, seed=2)


def test_nothing_is_claimed_of_four_cases() -> None:
    found = ranking(case_ranks(np.random.default_rng(0).normal(size=(2, 4)), higher_is_better=True), seed=0)
    assert (found.n, found.mean_ranks, found.places, found.shares) == (4, (), (), ())
    assert "n = 4; nothing is claimed" in found.reason
