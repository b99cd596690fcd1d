"""Transforms and resampling against SimpleITK, on grids that lie askew to one another."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from medmamba.transform import (
    Affine,
    Field,
    Mode,
    Transform,
    field_of_voxels,
    resample,
    resample_telling,
    voxels_of_field,
)
from medmamba.volume import Geometry, Volume
from tests.transform_factory import FLIP, oblique, sitk_transform, smooth_field, tilt, to_sitk


def moving() -> Volume:
    return Volume(
        np.random.default_rng(1).uniform(-1000, 1000, (1, 21, 17, 14)).astype(np.float32),
        oblique((21, 17, 14), 2, axes="kIj"),
    )


FIXED = oblique((19, 23, 11), 3, axes="jiK", spacing=2.3)
STEPS = {
    "nothing": (),
    "affine": (tilt(),),
    "field": (smooth_field(oblique((12, 13, 11), 5, spacing=3), 4),),
    "field then affine": (smooth_field(oblique((12, 13, 11), 5, spacing=3), 4), tilt()),
    "affine then field": (tilt(), smooth_field(oblique((9, 8, 7), 6, spacing=4), 7)),
}


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS.keys())
def test_points_go_where_simpleitk_takes_them_also_at_the_edge_of_a_field_and_beyond(
    steps: tuple[Affine | Field, ...],
) -> None:
    transform = Transform(steps)
    theirs = sitk_transform(transform)
    mm = np.random.default_rng(0).uniform(-40, 40, (4000, 3))
    expected = [FLIP @ theirs.TransformPoint((FLIP @ point).tolist()) for point in mm]
    np.testing.assert_allclose(transform.points(mm), expected, atol=1e-9)


def test_the_border_of_a_field_is_half_a_voxel_out_and_belongs_to_it_on_one_side() -> None:
    field = Field(np.ones((3, 3, 3, 3), np.float32), Geometry((3, 3, 3), np.eye(4)))
    theirs = sitk.DisplacementFieldTransform(
        sitk.Cast(sitk.GetImageFromArray(np.ones((3, 3, 3, 3)), isVector=True), sitk.sitkVectorFloat64)
    )
    for place in (-0.75, -0.5, -0.25, 2.25, 2.5, 2.75):
        ours = field.points(np.array([[place, 1, 1]]))[0] - (place, 1, 1)
        assert ours.tolist() == (np.array(theirs.TransformPoint((place, 1, 1))) - (place, 1, 1)).tolist()


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS.keys())
@pytest.mark.parametrize(
    ("mode", "theirs"),
    [("linear", sitk.sitkLinear), ("nearest", sitk.sitkNearestNeighbor), ("label", sitk.sitkLabelLinear)],
)
def test_images_come_out_as_from_simpleitk(steps: tuple[Affine | Field, ...], mode: Mode, theirs: int) -> None:
    volume = moving()
    if mode != "linear":
        volume = volume.with_array((volume.array // 300).astype(np.int16))
    ours, share = resample_telling(volume, Transform(steps), FIXED, mode, outside=-7)
    assert ours.array.dtype == volume.array.dtype
    reference = sitk.Image(*FIXED.shape, sitk.sitkUInt8)
    reference.CopyInformation(to_sitk(Volume(np.zeros((1, *FIXED.shape), np.uint8), FIXED)))
    image = sitk.Resample(to_sitk(volume), reference, sitk_transform(Transform(steps)), theirs, -7.0)
    expected = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    assert 0.1 < share < 1
    if mode == "linear":
        np.testing.assert_allclose(ours.array[0], expected, atol=2e-4)
    else:
        assert (ours.array[0] != expected).mean() < 1e-3  # shares that are equal but for rounding


def test_every_channel_is_brought_along_and_labels_of_any_size_are_kept() -> None:
    labels = np.random.default_rng(0).integers(0, 3, (2, 8, 9, 7)) + 2**40
    volume = Volume(labels, oblique((8, 9, 7), 1))
    for mode in ("nearest", "label"):
        both = resample(volume, Transform((tilt(),)), FIXED, mode)
        assert both.array.dtype == np.int64
        assert np.isin(both.array, [0, *np.unique(labels)]).all()
        for channel in (0, 1):
            alone = resample(volume.with_array(labels[channel : channel + 1]), Transform((tilt(),)), FIXED, mode)
            np.testing.assert_array_equal(alone.array[0], both.array[channel])


def test_onto_its_own_grid_nothing_changes() -> None:
    volume = moving()
    np.testing.assert_allclose(resample(volume, Transform(), volume.geometry).array, volume.array, atol=1e-3)
    flat = Volume(volume.array[..., :1], Geometry((21, 17, 1), volume.geometry.affine))
    np.testing.assert_allclose(resample(flat, Transform(), flat.geometry).array, flat.array, atol=1e-3)
    integers = volume.with_array(volume.array.astype(np.int16))
    assert resample(integers, Transform(), volume.geometry).array.dtype == np.float32


def test_blocks_leave_no_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    transform = Transform(STEPS["field then affine"])
    whole = resample(moving(), transform, FIXED).array
    monkeypatch.setattr("medmamba.transform.SLAB_VOXELS", 5**3)
    np.testing.assert_allclose(resample(moving(), transform, FIXED).array, whole, atol=1e-3)


def test_points_come_back_and_so_do_fields() -> None:
    transform = Transform(STEPS["field then affine"])
    grid = transform.steps[0].geometry
    mm = np.random.default_rng(0).uniform(0, np.array(grid.shape) - 1, (500, 3)) @ grid.affine[:3, :3].T
    mm += grid.affine[:3, 3]
    there = transform.points(mm)
    np.testing.assert_allclose(transform.points_back(there), mm, atol=1e-3)
    back, residual_mm = transform.inverse()
    assert residual_mm < 1e-3
    assert np.linalg.norm(back.points(there) - mm, axis=1).max() < 0.5  # interpolated between voxels of 3 to 5 mm
    assert np.linalg.norm(there - mm, axis=1).max() > 5


def test_a_field_that_stretches_more_than_twice_is_inverted_all_the_same() -> None:
    """Where each step of plain fixed-point iteration doubles the error."""
    geometry = Geometry((41, 5, 5), np.eye(4))
    along = np.linspace(-1, 1, 41)
    vectors = np.zeros((3, 41, 5, 5), np.float32)
    vectors[0] = (20 * np.sin(np.pi * along) / 2)[:, None, None]
    field = Field(vectors, geometry)
    mm = np.array([[x, 2.0, 2.0] for x in np.linspace(15, 25, 21)])
    np.testing.assert_allclose(field.points(field.points_back(mm)), mm, atol=1e-3)


def test_what_cannot_be_inverted_is_told_by_the_residual() -> None:
    torn = np.random.default_rng(0).uniform(-3, 3, (3, 9, 9, 9)).astype(np.float32)
    assert Transform((Field(torn, Geometry((9, 9, 9), np.eye(4))),)).inverse().residual_mm > 0.1


def test_points_beyond_a_field_stay_where_they_are_both_ways() -> None:
    field = Field(np.full((3, 4, 4, 4), 0.25, np.float32), Geometry((4, 4, 4), np.eye(4)))
    far = np.array([[50.0, 0, 0]])
    assert field.points(far).tolist() == field.points_back(far).tolist() == far.tolist()
    assert field.points_back(np.array([[3.6, 1.0, 1.0]])).tolist() == [[3.35, 0.75, 0.75]]  # comes from the border


def test_voxels_become_millimetres_by_the_whole_matrix_of_the_grid() -> None:
    grid = oblique((3, 4, 5), 8, axes="Jki")
    voxels = np.random.default_rng(0).standard_normal((3, 3, 4, 5)).astype(np.float32)
    field = field_of_voxels(voxels, grid)
    np.testing.assert_allclose(field.vectors_mm[:, 1, 2, 3], grid.affine[:3, :3] @ voxels[:, 1, 2, 3], rtol=1e-5)
    np.testing.assert_allclose(voxels_of_field(field), voxels, atol=1e-5)
    index = np.array([1, 2, 3])
    start = grid.affine[:3, :3] @ index + grid.affine[:3, 3]
    end = grid.affine[:3, :3] @ (index + voxels[:, 1, 2, 3]) + grid.affine[:3, 3]
    np.testing.assert_allclose(field.points(start[None])[0], end, atol=1e-5)


def test_the_whole_as_one_field_is_exact_at_its_voxels() -> None:
    transform = Transform(STEPS["field then affine"])
    one = transform.displacement(FIXED)
    index = np.stack(np.meshgrid(*map(np.arange, FIXED.shape), indexing="ij"), -1).reshape(-1, 3)
    mm = index @ FIXED.affine[:3, :3].T + FIXED.affine[:3, 3]
    np.testing.assert_allclose(one.points(mm), transform.points(mm), atol=1e-4)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Affine(np.diag([1.0, 1, 0, 1])), "cannot be inverted"),
        (lambda: Affine(np.eye(3)), "4x4"),
        (lambda: Field(np.zeros((2, 3, 3)), Geometry((2, 3, 3), np.eye(4))), "holds"),
        (lambda: Field(np.full((3, 1, 1, 1), np.nan), Geometry((1, 1, 1), np.eye(4))), "NaN"),
        (lambda: resample(moving(), Transform(), FIXED, "cubic"), "linear, nearest, label"),
        (
            lambda: resample(
                Volume(np.zeros((1, 1, 1, 1), np.uint8), Geometry((1, 1, 1), np.eye(4))),
                Transform(),
                FIXED,
                "nearest",
                -1,
            ),
            "cannot be -1",
        ),
    ],
)
def test_what_cannot_be_is_refused(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
