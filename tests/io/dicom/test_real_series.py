"""Series from scanners: what other software makes of them, and what is wrong with the hard ones."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from medmamba import io
from medmamba.io.dicom import find_series
from medmamba.io.dicom.series import Choice, settled
from medmamba.io.dicom.stack import geometry_of, voxels_of

SOUND = [
    "generic_anatomical/001",
    "generic_anatomical/001_implicit",
    "generic_anatomical/002_non_isotropic",
    "generic_compressed/001",
    "generic_compressed_j2k/001",
    "generic_compressed_jpeg/001",
    "generic_compressed_jpegls/001",
    "generic_compressed_rle/001",
    "slicecount/001",
]
REFUSED = {
    "gantrytilting/001": r"by 3\.63 mm from -122\.19 to -107\.64 mm: a tilt of 14\.0 degrees.*--tilt resample",
    "sliceincrement/001": r"1 slice is missing.*28\.11 to 38\.11 \(10\) mm.*--uneven resample",
    "sliceincrement/002": r"-133\.75 to -132\.25.*a tilt of 15\.5 degrees.*--uneven resample --tilt resample",
    "sliceorientation/001": r"#1 2 of 288 x 288 pixels, sagittal.*-17\.27, -13\.97 mm; #2.*axial.*--series \S+#1",
    "notavolume/001": r"4 slices at each position \(61\.50 mm\): 1 acquisition 12, .*--phase 1",
    "ct_tilt_uneven": r"from 1\.081 to 6\.999 mm: 18\.36 to 19\.44 .*a tilt of 18\.5 degrees.*--tilt resample",
    "generic_rgb/001": r"in colours \(RGB\), which have no intensity$",
}


@pytest.fixture
def hard(shared: Path) -> Path:
    return shared / "data/dicom/hard"


@pytest.mark.parametrize("name", ["brain_t1post", "hippocampus_crop"])
def test_series_is_voxel_for_voxel_the_nifti_that_simpleitk_makes_of_it(
    shared: Path, tmp_path: Path, name: str
) -> None:
    folder = shared / "data/dicom" / name
    theirs = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    sitk.WriteImage(theirs, str(tmp_path / "theirs.nii.gz"))
    ours, nifti = io.read(folder), io.read(tmp_path / "theirs.nii.gz")
    np.testing.assert_array_equal(ours.array, nifti.array)
    assert ours.geometry.distance_mm(nifti.geometry) < 1e-3


@pytest.mark.parametrize("name", SOUND)
def test_sound_series_is_the_image_that_lies_beside_it(hard: Path, name: str) -> None:
    if "jpeg" in name or "j2k" in name or name == "generic_compressed/001":
        [series] = find_series(hard / name)
        if series.problems and "medmamba[dicom]" in series.problems[0].message:
            pytest.skip("no decoder: the extra `dicom` is not installed")
    volume = io.read(hard / name)
    # That project turns some axes round.
    ours = nib.as_closest_canonical(nib.Nifti1Image(volume.array[0], volume.geometry.affine))
    truth = nib.as_closest_canonical(nib.load(hard / f"{name}_ground_truth.nii.gz"))
    np.testing.assert_allclose(ours.get_fdata(), truth.get_fdata(), rtol=1e-6)
    np.testing.assert_allclose(ours.affine, truth.affine, atol=1e-3)


@pytest.mark.parametrize("name", REFUSED)
def test_hard_series_is_refused_naming_positions_and_the_way_to_go_on(hard: Path, name: str) -> None:
    with pytest.raises(io.ImageFileError) as caught:
        io.read(hard / name)
    assert re.search(REFUSED[name], str(caught.value)), str(caught.value)


@pytest.mark.parametrize("name", ["gantrytilting/001", "sliceincrement/001", "sliceincrement/002", "ct_tilt_uneven"])
def test_hard_series_goes_on_with_its_slices_at_their_true_places(hard: Path, name: str) -> None:
    """The first and the last layer are the first and the last slice, found by way of the grid's positions in space."""
    [found] = find_series(hard / name)
    planes = settled(found, Choice(uneven="resample", tilt="resample")).planes
    voxels, grid = voxels_of(planes), geometry_of(planes)
    assert grid.is_orthogonal(1e-9)
    for layer, plane in ((0, planes[0]), (grid.shape[2] - 1, planes[-1])):
        own = voxels_of([plane])[..., 0].astype(float)
        i, j = np.meshgrid(np.arange(110, 400, 7), np.arange(130, 400, 7), indexing="ij")
        index = np.stack([i.ravel(), j.ravel(), np.full(i.size, layer)])
        places = np.diag([-1, -1, 1]) @ (grid.affine[:3, :3] @ index + grid.affine[:3, 3:])
        away = places - np.array(plane.position_mm)[:, None]
        assert np.abs(plane.normal @ away).max() < 1e-6
        pixels = np.linalg.lstsq(plane.steps_mm, away, rcond=None)[0]
        expected = ndimage.map_coordinates(own, pixels, order=1)
        np.testing.assert_allclose(voxels[index[0], index[1], layer], expected, atol=0.05)


def test_missing_tilted_slices_lie_where_another_project_puts_them(hard: Path) -> None:
    """It spaces its layers otherwise, so that not voxels but places are compared: no shift makes the two more alike."""
    [found] = find_series(hard / "sliceincrement/002")
    planes = settled(found, Choice(uneven="resample", tilt="resample")).planes
    ours, grid = voxels_of(planes).astype(float), geometry_of(planes)
    theirs = nib.load(hard / "sliceincrement/002_ground_truth.nii.gz")
    array = np.asarray(theirs.dataobj, dtype=float)[..., 1:4]
    index = np.indices(array.shape).reshape(3, -1) + np.array([[0], [0], [1]])
    places = np.linalg.inv(grid.affine) @ theirs.affine @ np.vstack([index, np.ones(index.shape[1])])
    tissue = array.ravel() > -900

    def apart(rows: float, layers: float) -> float:
        shifted = places[:3] + np.array([[0], [rows], [layers]])
        seen = ndimage.map_coordinates(ours, shifted[:, tissue], order=1, mode="nearest")
        return float(np.abs(seen - array.ravel()[tissue]).mean())

    shifts = [(rows, layers) for rows in (-0.5, -0.2, 0, 0.2, 0.5) for layers in (-0.4, -0.2, 0, 0.2, 0.4)]
    rows, layers = min(shifts, key=lambda shift: apart(*shift))
    assert max(abs(rows), abs(layers)) <= 0.2
