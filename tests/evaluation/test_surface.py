"""Distances between surfaces: answers known by hand, and DeepMind's package as the judge."""

from __future__ import annotations

import itertools
import math
import os
from pathlib import Path

import numpy as np
import pytest
import surface_distance
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from medmamba import io
from medmamba.evaluation import surface
from medmamba.evaluation.surface import (
    Distances,
    assd,
    border_distances,
    hausdorff,
    surface_dice,
    surface_distances,
)
from medmamba.volume import bounding_box
from tests.mask_factory import Mask, blobs, box

SHARED = Path(os.environ.get("MEDMAMBA_SHARED", Path(__file__).resolve().parents[3] / "shared"))
#: So many random pairs, and as many real ones; ten of each are enough for every day.
HUNDRED = range(100)


def each_area(distances: Distances) -> NDArray[np.float64]:
    """Of every element, those that are alike among them."""
    return np.repeat(distances.areas, distances.counts)


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
    assert distances.from_reference.total_areas.sum() == pytest.approx(exact, rel=0.1)
    assert distances.from_reference.total_areas.sum() < exact


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
    for direction, mean in ((ours.from_reference, to_prediction), (ours.from_prediction, to_reference)):
        assert np.average(direction.mm, weights=direction.total_areas) == pytest.approx(mean, abs=1e-5)
    assert min(to_prediction, to_reference) <= assd(ours) <= max(to_prediction, to_reference)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.4, 2.3)])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_contours_equal_those_of_deepmind(seed: int, spacing: tuple[float, float]) -> None:
    prediction, reference = blobs(seed, (40, 57))
    ours = surface_distances(prediction, reference, spacing)
    theirs = surface_distance.compute_surface_distances(reference, prediction, spacing)
    assert np.sort(each_area(ours.from_reference)) == pytest.approx(np.sort(theirs["surfel_areas_gt"]))
    assert hausdorff(ours, 95) == pytest.approx(surface_distance.compute_robust_hausdorff(theirs, 95), abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.1, 8.0), min_size=3, max_size=3), st.integers(0, 255))
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_area_of_every_neighbourhood_equals_deepminds(spacing: list[float], code: int) -> None:
    mask = np.array([code >> bit & 1 for bit in range(8)], dtype=bool).reshape(2, 2, 2)
    theirs = surface_distance.compute_surface_distances(mask, mask, spacing)
    ours = surface_distances(mask, mask, spacing)
    assert np.sort(each_area(ours.from_reference)) == pytest.approx(np.sort(theirs["surfel_areas_gt"]), rel=1e-9)


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


def scattered(seed: int) -> tuple[Mask, Mask, tuple[float, float, float]]:
    """Random masks of any shape on a grid of any proportions."""
    rng = np.random.default_rng(seed)
    shape = tuple(int(size) for size in rng.integers(4, 34, size=3))
    spacing = tuple(float(size) for size in rng.uniform(0.3, 4.0, size=3))
    return *blobs(seed, shape, likeness=float(rng.random())), (spacing[0], spacing[1], spacing[2])


def real(number: int) -> tuple[Mask, Mask, tuple[float, float, float]]:
    """A part of one real mask and another part of the same size, or one part moved, on a grid of any proportions."""
    folders = [SHARED / "data" / name for name in ("ms_lesions/lesion_masks", "msd_hippocampus/labelsTr")]
    files = [path for folder in folders for path in sorted(folder.glob("[!.]*.nii.gz"))]
    rng = np.random.default_rng(number)
    mask = io.read_label(files[number % len(files)]).array[0] > 0
    box = bounding_box(mask)
    size = [min(part.stop - part.start, 48) for part in box]
    starts = [[int(rng.integers(part.start, part.stop - length + 1)) for part, length in zip(box, size, strict=True)]]
    starts.append([max(start + int(rng.integers(-2, 3)), 0) for start in starts[0]])
    one, other = (
        np.pad(
            cut := mask[tuple(slice(a, a + b) for a, b in zip(start, size, strict=True))],
            [(0, length - have) for length, have in zip(size, cut.shape, strict=True)],
        )
        for start in starts
    )
    spacing = rng.uniform(0.4, 3.0, size=3)
    return one, other, (float(spacing[0]), float(spacing[1]), float(spacing[2]))


def check_against_deepmind(prediction: Mask, reference: Mask, spacing: tuple[float, float, float]) -> None:
    assert prediction.any()
    assert reference.any()
    ours = surface_distances(prediction, reference, spacing)
    theirs = surface_distance.compute_surface_distances(reference, prediction, spacing)
    for percentile in (50, 95, 100):
        oracle = surface_distance.compute_robust_hausdorff(theirs, percentile)
        assert hausdorff(ours, percentile) == pytest.approx(oracle, rel=1e-9)
    for tolerance in (0.5, 1.0, 2.0):
        oracle = surface_distance.compute_surface_dice_at_tolerance(theirs, tolerance)
        assert surface_dice(ours, tolerance) == pytest.approx(oracle, rel=1e-9)
    to_prediction, to_reference = surface_distance.compute_average_surface_distance(theirs)
    areas = theirs["surfel_areas_gt"].sum(), theirs["surfel_areas_pred"].sum()
    mean = (to_prediction * areas[0] + to_reference * areas[1]) / sum(areas)
    assert assd(ours) == pytest.approx(mean, rel=1e-9)


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=() if seed < 10 else pytest.mark.slow) for seed in range(100)]
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_random_anisotropic_masks_are_measured_as_by_deepmind(seed: int) -> None:
    check_against_deepmind(*scattered(seed))


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason=f"{SHARED}/data is missing; MEDMAMBA_SHARED names its place")
@pytest.mark.parametrize(
    "number", [pytest.param(number, marks=() if number < 10 else pytest.mark.slow) for number in HUNDRED]
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_real_masks_on_anisotropic_grids_are_measured_as_by_deepmind(number: int) -> None:
    check_against_deepmind(*real(number))


def ball(radius: float, spacing: tuple[float, float, float]) -> Mask:
    """A ball in mm around the middle of a grid."""
    half = [int(30 / step) for step in spacing]
    axes = np.ogrid[tuple(slice(-size, size + 1) for size in half)]
    return sum((axis * step) ** 2 for axis, step in zip(axes, spacing, strict=True)) <= radius**2


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 1.0, 2.0)])
def test_nested_spheres_are_as_far_apart_as_their_radii(spacing: tuple[float, float, float]) -> None:
    inner, outer = 12.0, 20.0
    distances = surface_distances(ball(inner, spacing), ball(outer, spacing), spacing)
    voxel = max(spacing)
    assert hausdorff(distances, 95) == pytest.approx(outer - inner, abs=voxel)
    assert hausdorff(distances, 100) == pytest.approx(outer - inner, abs=1.5 * voxel)
    assert assd(distances) == pytest.approx(outer - inner, abs=0.75 * voxel)
    assert surface_dice(distances, outer - inner + 1.5 * voxel) == 1
    assert surface_dice(distances, outer - inner - 2 * voxel) == 0
    assert distances.from_prediction.total_areas.sum() / distances.from_reference.total_areas.sum() == pytest.approx(
        (inner / outer) ** 2, rel=0.05
    )


@given(
    st.tuples(*[st.integers(-4, 4)] * 3),
    st.tuples(*[st.floats(0.2, 5.0)] * 3),
)
@settings(max_examples=40, deadline=None)
def test_single_voxels_are_as_far_apart_as_they_were_moved(
    step: tuple[int, int, int], spacing: tuple[float, float, float]
) -> None:
    one, other = (np.zeros((9, 9, 9), dtype=bool) for _ in range(2))
    one[4, 4, 4] = other[tuple(4 + move for move in step)] = True
    distances = surface_distances(one, other, spacing)
    # The surface of a voxel is the eight corners of a cube, alike in area; of two cubes each corner of one is nearest
    # to that corner of the other which is one voxel less away along every axis where it can.
    corners = list(itertools.product((0, 1), repeat=3))
    nearest = sorted(
        math.sqrt(
            min(
                sum(((move + b - a) * size) ** 2 for move, a, b, size in zip(step, here, there, spacing, strict=True))
                for there in corners
            )
        )
        for here in corners
    )
    assert hausdorff(distances, 100) == pytest.approx(nearest[-1])
    assert hausdorff(distances, 95) == pytest.approx(nearest[-1])
    assert assd(distances) == pytest.approx(sum(nearest) / 8)
    for tolerance in (0.3, 1.7, 6.1):
        share = sum(value <= tolerance for value in nearest) / 8
        assert surface_dice(distances, tolerance) == pytest.approx(share)


@pytest.mark.parametrize("order", ["C", "F"])
def test_order_in_memory_does_not_matter(order: str) -> None:
    prediction, reference = blobs(9, (20, 33, 26))
    spacing = (0.7, 1.1, 3.0)
    turned = surface_distances(np.asarray(prediction, order=order), np.asarray(reference, order="F"), spacing)
    plain = surface_distances(prediction, reference, spacing)
    assert assd(turned) == pytest.approx(assd(plain), rel=1e-12)
    assert hausdorff(turned) == pytest.approx(hausdorff(plain), rel=1e-12)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.6, 1.0, 2.2)])
@pytest.mark.parametrize("seed", range(3))
def test_distances_between_borders_are_those_of_a_distance_transform(
    seed: int, spacing: tuple[float, float, float]
) -> None:
    prediction, reference = blobs(seed, (17, 21, 19))
    borders = [mask & ~ndimage.binary_erosion(mask) for mask in (prediction, reference)]
    there, back = border_distances(prediction, reference, spacing)
    for ours, source, target in ((there, *borders), (back, *borders[::-1])):
        theirs = ndimage.distance_transform_edt(~target, sampling=spacing)[source]
        np.testing.assert_allclose(np.sort(ours), np.sort(theirs), rtol=1e-12)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 1.3, 2.9)])
@pytest.mark.parametrize("seed", range(4))
def test_looking_in_parts_of_a_surface_changes_nothing(
    seed: int, spacing: tuple[float, float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    prediction, reference = blobs(seed, (23, 31, 17))
    prediction[:3, :3, :3] = True  # far from what is there
    whole = surface_distances(prediction, reference, spacing)
    monkeypatch.setattr(surface, "LEAST", 64)
    monkeypatch.setattr(surface, "VOXELS", prediction.size)
    parts = surface_distances(prediction, reference, spacing)
    for one, other in zip(parts.directions, whole.directions, strict=True):
        np.testing.assert_allclose(np.repeat(one.mm, one.counts), np.repeat(other.mm, other.counts), rtol=1e-12)
        np.testing.assert_allclose(one.total_areas.sum(), other.total_areas.sum(), rtol=1e-12)
