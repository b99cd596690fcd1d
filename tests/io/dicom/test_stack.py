"""Voxels are those that are stored, each slice's scaling applied, or those of their true place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom import uid
from pydicom.pixels.processing import apply_modality_lut

from medmamba.io.dicom.instances import dicom_files
from medmamba.io.dicom.planes import Series
from medmamba.io.dicom.series import Choice, explore, settled
from medmamba.io.dicom.stack import geometry_of, remarks_of, voxels_of
from medmamba.io.errors import ImageFileError
from tests import dicom_factory as factory

GOING_ON = Choice(uneven="resample", tilt="resample")


def only(folder: Path, choice: Choice | None = None) -> Series:
    [series] = explore(dicom_files(folder)).series
    settled_series = settled(series, choice or Choice())
    assert not settled_series.problems
    return settled_series


@pytest.mark.parametrize(
    "kind",
    [
        {"plane": "oblique", "shape": (64, 48), "spacing_mm": (0.7, 0.9), "order": "reversed"},
        {"plane": "sagittal", "order": "shuffled", "numbers": "none", "signed": True},
        {"plane": "coronal", "modality": "MR", "rescale": None},
        {"photometric": "MONOCHROME1"},
        {"photometric": "MONOCHROME1", "signed": True},
        {"modality": "PT", "rescale": lambda i: (0.5 + 0.01 * i, -1000.0 - i)},
        {"enhanced": True, "plane": "feet_up", "order": "shuffled"},
        {"enhanced": True, "modality": "MR", "rescale": lambda i: (0.5 + 0.01 * i, -1000.0 - i)},
        {"syntax": uid.RLELossless},
        {"syntax": uid.DeflatedExplicitVRLittleEndian},
        {"syntax": uid.ImplicitVRLittleEndian},
        {"slices": 1},
    ],
    ids=lambda kind: "-".join(kind),
)
def test_voxels_and_grid_are_those_that_were_scanned(tmp_path: Path, kind: dict[str, Any]) -> None:
    made = factory.series(tmp_path, **kind)
    series = only(tmp_path)
    np.testing.assert_allclose(voxels_of(series.planes), made.array(), atol=1e-4)
    if len(made.slices) > 1:
        np.testing.assert_allclose(geometry_of(series.planes).affine, made.affine, atol=1e-6)
    assert not remarks_of(series)


@pytest.mark.parametrize("signed", [False, True])
def test_voxels_are_those_of_another_reader(tmp_path: Path, signed: bool) -> None:
    made = factory.series(tmp_path, signed=signed, slices=3)
    names = [str(each.file) for each in made.slices]
    theirs = sitk.GetArrayFromImage(sitk.ReadImage(names)).transpose(2, 1, 0)
    np.testing.assert_array_equal(voxels_of(only(tmp_path).planes), theirs)


@pytest.mark.parametrize("signed", [False, True])
def test_hounsfield_units_stay_so_however_they_are_to_be_shown(tmp_path: Path, signed: bool) -> None:
    made = factory.series(tmp_path, photometric="MONOCHROME1", signed=signed, slices=3)
    datasets = [pydicom.dcmread(each.file) for each in made.slices]
    theirs = np.stack([apply_modality_lut(each.pixel_array, each) for each in datasets]).transpose(2, 1, 0)
    np.testing.assert_array_equal(voxels_of(only(tmp_path).planes), theirs)
    np.testing.assert_array_equal(theirs, made.array())


@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian])
def test_files_without_preamble_are_read_as_those_with_one(tmp_path: Path, syntax: str) -> None:
    made = factory.series(tmp_path, slices=3, syntax=syntax)
    for file in made.files:
        factory.without_preamble(file)
    np.testing.assert_array_equal(voxels_of(only(tmp_path).planes), made.array())


def test_intercept_alone_counts_as_well(tmp_path: Path) -> None:
    made = factory.series(tmp_path, slices=3)
    for file in made.files:
        dataset = pydicom.dcmread(file)
        del dataset.RescaleSlope
        dataset.save_as(file)
    np.testing.assert_array_equal(voxels_of(only(tmp_path).planes), made.array())


@pytest.mark.parametrize("keep", ["first", "last"])
def test_bits_above_the_stored_ones_are_not_part_of_a_number(tmp_path: Path, keep: str) -> None:
    made = factory.series(tmp_path, slices=2)
    for file in made.files:
        dataset = pydicom.dcmread(file)
        stored = dataset.pixel_array & 0x0FFF
        dataset.BitsStored, dataset.HighBit = 12, 11
        dataset.PixelData = (stored | 0x4000).astype(np.uint16).tobytes()
        dataset.save_as(file)
    expected = made.array() + 1024
    np.testing.assert_array_equal(voxels_of(only(tmp_path).planes) + 1024, expected.astype(int) & 0x0FFF)


@pytest.mark.parametrize(
    "odd",
    [
        {"tilt_deg": 18.5},
        {"tilt_deg": -12.0, "plane": "oblique"},
        {"heights_mm": (0, 3, 6, 10, 13, 20)},
        {"missing": (3, 6)},
        {"heights_mm": (-9, -5, -4, 1, 2, 8, 11), "tilt_deg": 20.0, "plane": "coronal"},
    ],
    ids=lambda odd: "-".join(odd),
)
def test_intensities_of_tilted_and_uneven_stacks_lie_at_their_true_places(tmp_path: Path, odd: dict[str, Any]) -> None:
    """On a ramp along each axis, an error of place is an error of value: 0.2 voxel is 0.2 of the step in value."""
    for axis in range(3):
        folder = tmp_path / str(axis)
        ramp = np.zeros(3)
        ramp[axis] = 20.0
        factory.series(folder, factory.Phantom(base=5000, ramp_per_mm=tuple(ramp)), order="shuffled", **odd)
        series = only(folder, GOING_ON)
        voxels, grid = voxels_of(series.planes), geometry_of(series.planes)
        assert grid.is_orthogonal(1e-9)
        index = np.indices(grid.shape).reshape(3, -1)
        places = (grid.affine[:3, :3] @ index + grid.affine[:3, 3:]).T * (-1, -1, 1)
        truth = (5000 + places @ ramp).reshape(grid.shape)
        seen = voxels > voxels.min()
        assert seen.mean() > 0.5
        error_mm = np.abs(voxels - truth)[seen].max() / 20.0
        assert error_mm <= 0.2 * min(grid.spacing_mm)
        assert remarks_of(series)


def test_structure_in_a_tilted_uneven_stack_has_its_true_centre_and_size(tmp_path: Path) -> None:
    ball = factory.Ellipsoid(centre_mm=(2, -1, 15), radii_mm=(8, 8, 8), value=1000)
    heights = (0, 2, 4, 6, 8, 9, 10, 12, 14, 16, 18, 21, 23, 25, 27, 29)
    factory.series(
        tmp_path,
        factory.Phantom(base=0, ramp_per_mm=(0, 0, 0), ellipsoids=(ball,)),
        heights_mm=heights,
        tilt_deg=15,
        shape=(40, 40),
    )
    series = only(tmp_path, GOING_ON)
    voxels, grid = voxels_of(series.planes), geometry_of(series.planes)
    weight = np.clip(voxels, 0, None)
    centre = [
        np.average(np.arange(n), weights=weight.sum(axis=tuple({0, 1, 2} - {i}))) for i, n in enumerate(grid.shape)
    ]
    place = (grid.affine[:3, :3] @ centre + grid.affine[:3, 3]) * (-1, -1, 1)
    assert (np.abs(place - ball.centre_mm) <= 0.2 * np.array(grid.spacing_mm)).all()


def test_places_that_no_tilted_slice_reaches_have_the_least_value(tmp_path: Path) -> None:
    factory.series(tmp_path, tilt_deg=20)
    voxels = voxels_of(only(tmp_path, GOING_ON).planes)
    assert voxels.shape[1] > 24
    assert np.isfinite(voxels).all()
    assert (voxels[:, -1, 0] == voxels.min()).all()


def test_damaged_pixels_are_refused(tmp_path: Path) -> None:
    file = factory.series(tmp_path, slices=3).files[1]
    file.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(ImageFileError, match="pixels cannot be read"):
        voxels_of(only(tmp_path).planes)


def test_scaling_by_nothing_is_refused(tmp_path: Path) -> None:
    for file in factory.series(tmp_path, slices=3).files:
        dataset = pydicom.dcmread(file)
        dataset.RescaleSlope = 0
        dataset.save_as(file)
    [series] = explore(dicom_files(tmp_path)).series
    assert "scaled by 0" in series.problems[0].message
    with pytest.raises(ImageFileError, match="scaled by 0"):
        voxels_of(series.planes)


def test_missing_decoder_is_told_by_the_method_and_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from medmamba.io.dicom import instances

    class Nothing:
        is_available = False

    factory.series(tmp_path, slices=2, syntax=uid.RLELossless)
    monkeypatch.setattr(instances, "get_decoder", lambda syntax: Nothing())
    [series] = explore(dicom_files(tmp_path)).series
    assert "RLE Lossless" in series.problems[0].message
    assert 'pip install "medmamba[dicom]"' in series.problems[0].message
