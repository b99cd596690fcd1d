"""A folder with the slices of one series is an image to all that reads images."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medmamba import io
from medmamba.errors import UsageError
from medmamba.io.check import check_dataset
from medmamba.io.dicom import find_series
from medmamba.io.dicom.selection import Selection
from medmamba.io.dicom.series import Choice
from medmamba.io.errors import ImageFileError
from medmamba.plans.fingerprint import fingerprint
from medmamba.volume import Volume
from tests import dicom_factory as factory


def test_folder_and_multi_frame_file_are_images(tmp_path: Path) -> None:
    folder = factory.series(tmp_path / "1.2.3.0000", slices=4, file_name="{}")
    frames = factory.series(tmp_path / "frames", slices=4, enhanced=True)
    for path, made in ((folder.folder, folder), (frames.files[0], frames)):
        assert io.is_image(path)
        assert io.read_channels(path) == 1
        volume = io.read(path)
        np.testing.assert_array_equal(volume.array[0], made.array())
        assert volume.array.dtype == np.float32
        np.testing.assert_allclose(volume.geometry.affine, made.affine, atol=1e-9)
        assert io.read_geometry(path) == volume.geometry
    assert sorted(io.files(folder.folder)) == sorted(folder.files)


def test_folder_of_anything_else_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("nothing to see here, and that for more than a hundred and thirty bytes" * 3)
    assert not io.is_image(tmp_path)


def test_folder_that_is_no_even_stack_is_refused(tmp_path: Path) -> None:
    factory.series(tmp_path, tilt_deg=10)
    way = "`medmamba predict` goes on all the same with --tilt resample; for other commands, make an even stack"
    with pytest.raises(ImageFileError, match=rf"a tilt of 10\.0 degrees; {way}"):
        io.read(tmp_path)


def test_folder_of_two_series_is_refused_naming_both(tmp_path: Path) -> None:
    made = [factory.series(tmp_path, name=name, slices=3, file_name=name + "{}") for name in "ab"]
    with pytest.raises(ImageFileError, match="it holds 2 series") as caught:
        io.read(tmp_path)
    assert all(each.uid in str(caught.value) for each in made)


def test_more_voxels_than_allowed_are_refused_by_the_headers(tmp_path: Path) -> None:
    factory.series(tmp_path, slices=4)
    with pytest.raises(ImageFileError, match="voxels"):
        io.read(tmp_path, max_voxels=1000)


def test_file_that_cannot_hold_what_it_promises_is_refused_before_memory_is_asked_for(tmp_path: Path) -> None:
    made = factory.series(tmp_path, slices=3)
    made.files[0].write_bytes(
        made.files[0].read_bytes().replace(b"\x28\0\x10\0US\2\0\x18\0", b"\x28\0\x10\0US\2\0\xff\xff")
    )
    with pytest.raises(ImageFileError, match=r"cut short|sizes"):
        io.read(made.files[0])


def test_scans_are_not_written(tmp_path: Path) -> None:
    made = factory.series(tmp_path / "in", slices=3)
    with pytest.raises(UsageError, match="not written as DICOM"):
        io.images.FORMATS[-1].write(io.read(made.folder), tmp_path / "out", like=None, labels=None)


def test_segmentation_of_a_series_lies_on_its_grid(tmp_path: Path) -> None:
    made = factory.series(tmp_path / "in", plane="oblique", slices=4)
    volume = io.read(made.folder)
    io.write(volume.with_array((volume.array > 300).astype(int)), tmp_path / "out.nii.gz", like=made.folder)
    np.testing.assert_allclose(nib.load(tmp_path / "out.nii.gz").affine, made.affine, atol=1e-4)


def test_selection_stands_for_an_image_and_says_how_it_is_read(tmp_path: Path) -> None:
    factory.series(tmp_path / "in", tilt_deg=10)
    path = tmp_path / "out" / "a.json"
    [found] = find_series(tmp_path / "in")
    Selection(dicom_series=found.uid, choice=Choice(tilt="resample")).save(path, found.files, tmp_path / "in")
    assert io.read(path).geometry.is_orthogonal(1e-9)
    assert io.files(path)[0] == path


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    for number in range(5):
        made = factory.series(tmp_path / "images" / f"case_{number}", name=str(number), slices=6, order="shuffled")
        volume = io.read(made.folder)
        (tmp_path / "labels").mkdir(exist_ok=True)
        mask = Volume((volume.array > 500).astype(np.uint8), volume.geometry)
        io.write(mask, tmp_path / "labels" / f"case_{number}.nii.gz")
    return tmp_path


def test_data_set_of_folders_is_opened_checked_and_measured(dataset: Path) -> None:
    found = io.open_dataset(dataset)
    assert [case.id for case in found.training] == [f"case_{number}" for number in range(5)]
    assert found.file_ending == ".nii.gz"
    assert [each for each in check_dataset(dataset, workers=1) if each.severity == "error"] == []
    assert [case.shape for case in fingerprint(found, workers=1).cases] == [(32, 24, 6)] * 5


def test_folders_are_inputs_of_a_prediction(dataset: Path) -> None:
    assert [case.id for case in io.find_inputs(dataset / "images", 1)] == [f"case_{number}" for number in range(5)]
    assert [case.id for case in io.find_inputs(dataset / "images" / "case_3", 1)] == ["case_3"]
