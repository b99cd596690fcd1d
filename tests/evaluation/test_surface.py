"""Distances between surfaces: answers known by hand, and DeepMind's package as the judge."""

from __future__ import annotations

import math

import numpy as np
import pytest
import surface_distance
from hypothesis import given, settings
from hypothesis import strategies as st

from medmamba.evaluation.surface import assd, hausdorff, surface_dice, surface_distances
from tests.mask_factory import blobs, box


def test_distances_between_shifted_boxes_are_the_shift_in_millimetres() -> None:
    prediction, reference = box((20, 12, 12), (2, 2, 2), (8, 8, 8)), box((20, 12, 12), (5, 2, 2), (11, 8, 8))
    distances = surface_distances(prediction, reference, (2.0, 1.0, 1.0))
    assert hausdorff(distances, 100) == pytest.approx(6.0)
    assert surface_dice(distances, 6.0) == 1.0
    assert 0 < surface_dice(distances, 1.0) < 1
    assert 0 < assd(distances) < 6


def test_areas_add_up_to_the_surface_of_a_box() -> None:
    mask = box((40, 40, 40), (5, 5, 5), (35, 25, 15))
    distances = surface_distances(mask, mask, (1.0, 2.0, 3.0))
    sides = np.array([30 * 1.0, 20 * 2.0, 10 * 3.0])
    exact = 2 * (sides[0] * sides[1] + sides[1] * sides[2] + sides[0] * sides[2])
    # Marching cubes cuts the edges of the box off.
    assert distances.reference_areas.sum() == pytest.approx(exact, rel=0.1)
    assert distances.reference_areas.sum() < exact


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 1.3, 2.9), (5.0, 0.4, 0.4)])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_readings_equal_those_of_deepmind(seed: int, spacing: tuple[float, float, float]) -> None:
    prediction, reference = blobs(seed, (23, 31, 17))
    ours = surface_distances(prediction, reference, spacing)
    theirs = surface_distance.compute_surface_distances(reference, prediction, spacing)
    for percentile in (50, 95, 99, 100):
        oracle = surface_distance.compute_robust_hausdorff(theirs, percentile)
        assert hausdorff(ours, percentile) == pytest.approx(oracle, abs=1e-5)
    for tolerance in (0.5, 1.1, 3.0):
        oracle = surface_distance.compute_surface_dice_at_tolerance(theirs, tolerance)
        assert surface_dice(ours, tolerance) == pytest.approx(oracle, abs=1e-9)
    to_prediction, to_reference = surface_distance.compute_average_surface_distance(theirs)
    assert np.average(ours.reference_to_prediction_mm, weights=ours.reference_areas) == pytest.approx(
        to_prediction, abs=1e-5
    )
    assert np.average(ours.prediction_to_reference_mm, weights=ours.prediction_areas) == pytest.approx(
        to_reference, abs=1e-5
    )
    assert min(to_prediction, to_reference) <= assd(ours) <= max(to_prediction, to_reference)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.4, 2.3)])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_contours_equal_those_of_deepmind(seed: int, spacing: tuple[float, float]) -> None:
    prediction, reference = blobs(seed, (40, 57))
    ours = surface_distances(prediction, reference, spacing)
    theirs = surface_distance.compute_surface_distances(reference, prediction, spacing)
    assert np.sort(ours.reference_areas) == pytest.approx(np.sort(theirs["surfel_areas_gt"]))
    assert hausdorff(ours, 95) == pytest.approx(surface_distance.compute_robust_hausdorff(theirs, 95), abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.1, 8.0), min_size=3, max_size=3), st.integers(0, 255))
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_area_of_every_neighbourhood_equals_deepminds(spacing: list[float], code: int) -> None:
    mask = np.array([code >> bit & 1 for bit in range(8)], dtype=bool).reshape(2, 2, 2)
    theirs = surface_distance.compute_surface_distances(mask, mask, spacing)
    ours = surface_distances(mask, mask, spacing)
    assert np.sort(ours.reference_areas) == pytest.approx(np.sort(theirs["surfel_areas_gt"]), rel=1e-9)


@pytest.mark.parametrize("axis", range(3))
def test_single_slice_is_measured_by_its_contour(axis: int) -> None:
    prediction, reference = blobs(5, (40, 57))
    flat = surface_distances(prediction, reference, (0.4, 2.3))
    spacing = np.insert([0.4, 2.3], axis, 9.0)
    slab = surface_distances(np.expand_dims(prediction, axis), np.expand_dims(reference, axis), spacing)
    assert hausdorff(slab) == hausdorff(flat)
    assert assd(slab) == assd(flat)


def test_masks_at_the_border_of_the_image_have_a_surface_there() -> None:
    inside, whole = box((6, 6, 6), (1, 1, 1), (5, 5, 5)), np.ones((6, 6, 6), dtype=bool)
    assert hausdorff(surface_distances(inside, whole, (1, 1, 1)), 100) == pytest.approx(math.sqrt(3))


def test_position_in_the_image_does_not_matter() -> None:
    prediction, reference = blobs(7, (20, 20, 20))
    shifted = [np.pad(mask, ((9, 0), (0, 5), (3, 3))) for mask in (prediction, reference)]
    assert assd(surface_distances(*shifted, (1, 2, 3))) == assd(surface_distances(prediction, reference, (1, 2, 3)))


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 0.0, 1.0), (1.0, math.nan, 1.0)])
def test_impossible_spacing_is_refused(spacing: tuple[float, ...]) -> None:
    mask = np.ones((4, 4, 4), dtype=bool)
    with pytest.raises(ValueError, match="spacing"):
        surface_distances(mask, mask, spacing)
