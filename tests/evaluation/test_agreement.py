"""Agreement of volumes, against the published example and other ways to the same numbers."""

from __future__ import annotations

import numpy as np
import pytest

from medmamba.evaluation.agreement import LIMITS, agreement, concordance

NAN = float("nan")
#: Peak expiratory flow in l/min of 17 people by two meters: Bland and Altman, Lancet 1986, table 1.
WRIGHT = np.array([494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427], dtype=float)
MINI = np.array([512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451], dtype=float)


def test_published_example_has_its_bias_and_limits() -> None:
    found = agreement(WRIGHT, MINI)
    assert found.bias is not None
    assert found.limits is not None
    assert found.n == 17
    assert found.bias.value == pytest.approx(-2.1, abs=0.05)
    assert found.deviation == pytest.approx(38.8, abs=0.05)
    assert found.bias.interval == pytest.approx((-22.0, 17.8), abs=0.06)
    # The paper takes two deviations where it takes 1.96 later.
    assert [limit.value for limit in found.limits] == pytest.approx(
        [-2.118 - 1.96 * 38.765, -2.118 + 1.96 * 38.765], abs=0.01
    )
    # Its intervals of the limits come from a rougher standard error, 3 s^2 / n: -114.3 to -45.1, and 40.9 to 110.1.
    assert found.limits[0].interval == pytest.approx((-114.3, -45.1), abs=2.5)
    assert found.limits[1].interval == pytest.approx((40.9, 110.1), abs=2.5)


def test_interval_of_the_limits_holds_the_true_ones_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    found = [agreement(rng.normal(size=30), np.zeros(30)).limits for _ in range(400)]
    uppers = [limits[1].interval for limits in found if limits is not None]
    assert np.mean([low <= LIMITS <= high for low, high in filter(None, uppers)]) == pytest.approx(0.95, abs=0.03)


def test_concordance_is_one_less_the_squared_distance_over_that_of_independent_values() -> None:
    found = concordance(WRIGHT, MINI)
    apart = np.mean((WRIGHT - MINI) ** 2)
    independent = np.mean((WRIGHT[:, None] - MINI[None]) ** 2)
    assert found is not None
    assert found.interval is not None
    assert found.value == pytest.approx(1 - apart / independent, rel=1e-12)
    assert found.value == pytest.approx(0.943, abs=5e-4)
    assert found.interval[0] < found.value < found.interval[1]


def test_interval_of_the_concordance_holds_the_true_one_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    held = []
    for _ in range(600):
        truth = rng.normal(size=60)
        found = concordance(truth + 0.3 + rng.normal(scale=0.5, size=60), truth)
        assert found is not None
        assert found.interval is not None
        held.append(found.interval[0] <= 2 / (1 + 1.25 + 0.09) <= found.interval[1])
    assert np.mean(held) == pytest.approx(0.95, abs=0.025)


def test_prediction_that_is_a_tenth_too_large_has_a_proportional_bias_and_that_relative_difference() -> None:
    reference = np.array([0.0, 1, 2, 4, 8, 16, 32])
    found = agreement(1.1 * reference, reference)
    assert found.slope is not None
    assert found.slope_p is not None
    assert found.relative is not None
    assert found.slope.value == pytest.approx(0.1 / 1.05)
    assert found.slope_p < 1e-6
    assert found.relative.value == pytest.approx(0.1)  # over the six references that have a volume
    assert found.relative.interval == pytest.approx((0.1, 0.1))


def test_perfect_agreement_is_no_division_by_zero() -> None:
    found = agreement(WRIGHT, WRIGHT)
    assert found.bias is not None
    assert (found.bias.value, found.bias.interval, found.deviation) == (0, (0, 0), 0)
    assert found.slope is not None
    assert (found.slope.value, found.slope_p) == (0, None)
    assert found.concordance is not None
    assert (found.concordance.value, found.concordance.interval) == (pytest.approx(1), None)


def test_volumes_that_are_all_nothing_have_no_slope_and_no_concordance() -> None:
    found = agreement(np.zeros(6), np.zeros(6))
    assert (found.slope, found.slope_p, found.concordance, found.relative) == (None, None, None, None)
    assert found.reason == ""


def test_nothing_is_claimed_of_four_pairs_of_volumes() -> None:
    found = agreement(np.array([1.0, 2, 3, 4, NAN, 6]), np.array([1.0, 2, 3, 4, 5, NAN]))
    assert (found.n, found.left_out, found.bias, found.limits, found.concordance) == (4, 2, None, None, None)
    assert "n = 4; nothing is claimed" in found.reason
