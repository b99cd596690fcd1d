"""Calibration: answers known by hand, and which voxels count."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from medmamba.evaluation.calibration import BINS, expected_calibration_error, reliability
from medmamba.evaluation.masks import Masks
from medmamba.evaluation.metrics import METRICS
from tests.mask_factory import Mask, box

ALL = (1.0, 1.0, 1.0)


def cube() -> Mask:
    return box((10, 10, 10), (2, 2, 2), (6, 6, 6))


def error(probability: NDArray[np.float32], reference: Mask, **more: Mask) -> float:
    return expected_calibration_error(reliability(probability, reference, reference, ALL, **more))


def test_network_that_is_sure_and_right_has_no_error_and_one_that_is_sure_and_wrong_all_of_it() -> None:
    assert error(cube().astype(np.float32), cube()) == 0
    assert error(1 - cube().astype(np.float32), cube()) == 1


def test_error_is_that_counted_by_hand() -> None:
    # A structure of 64 of 1000 voxels: 0.9 in it and 0.25 elsewhere.
    probability = np.where(cube(), np.float32(0.9), np.float32(0.25))
    by_hand = (64 * (1 - 0.9) + 936 * 0.25) / 1000
    assert error(probability, cube()) == pytest.approx(by_hand, abs=1e-6)


def test_probabilities_that_hold_what_they_say_have_next_to_no_error() -> None:
    rng = np.random.default_rng(0)
    probability = rng.uniform(size=(60, 60, 60)).astype(np.float32)
    reference = rng.uniform(size=probability.shape) < probability
    assert error(probability, reference) < 0.01
    assert error(probability**2, reference) > 0.1


def test_bins_hold_every_voxel_once_and_1_lies_in_the_last() -> None:
    probability = np.full((10, 10, 10), 0.5, np.float32)
    probability[0, 0, 0], probability[0, 0, 1], probability[0, 0, 2] = 0.0, 1.0, 1 / BINS + 1e-6
    found = reliability(probability, cube(), cube(), ALL)
    assert sum(found.voxels) == 1000
    assert (found.voxels[0], found.voxels[1], found.voxels[-1]) == (1, 1, 1)
    assert sum(found.positives) == 64
    assert sum(found.confidence) == pytest.approx(float(probability.sum()), abs=1e-3)


def test_background_far_from_both_masks_does_not_count() -> None:
    reference, prediction = box((60, 60, 60), (20, 20, 20), (24, 24, 24)), box((60, 60, 60), (22, 20, 20), (26, 24, 24))
    probability = np.zeros((60, 60, 60), np.float32)
    spacing = (2.0, 1.0, 4.0)
    found = reliability(probability, prediction, reference, spacing)
    assert sum(found.voxels) == (6 + 2 * 5) * (4 + 2 * 10) * (4 + 2 * 3)


def test_voxels_to_ignore_do_not_count() -> None:
    annotated = np.ones((10, 10, 10), dtype=bool)
    annotated[8:] = False
    wrong = np.where(annotated, cube(), True).astype(np.float32)
    assert error(wrong, cube()) > 0
    assert error(wrong, cube(), annotated=annotated) == 0


def test_nothing_to_be_sure_of_is_undefined() -> None:
    empty = np.zeros((4, 4, 4), dtype=bool)
    assert math.isnan(error(np.zeros((4, 4, 4), np.float32), empty))
    assert math.isnan(METRICS["ece"].measure(Masks(prediction=cube(), reference=cube(), spacing_mm=ALL)))
