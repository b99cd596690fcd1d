"""Files are grouped to stacks, and what is wrong with a stack is told with its place and the option to go on."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from medmamba.io.dicom.instances import dicom_files
from medmamba.io.dicom.planes import Series
from medmamba.io.dicom.series import Choice, Export, explore, settled
from tests import dicom_factory as factory


def scan(folder: Path) -> Export:
    return explore(dicom_files(folder))


def only(folder: Path, choice: Choice | None = None) -> Series:
    [series] = scan(folder).series
    return settled(series, choice or Choice())


@pytest.mark.parametrize("plane", sorted(factory.PLANES))
@pytest.mark.parametrize("order", ["ascending", "reversed", "shuffled"])
def test_slices_are_sorted_along_their_normal_whatever_names_and_numbers_say(
    tmp_path: Path, plane: str, order: Any
) -> None:
    made = factory.series(tmp_path, plane=plane, order=order, numbers="shuffled", file_name="{:d}", slices=7)
    series = only(tmp_path)
    assert not series.problems
    positions = np.array([plane.position_mm for plane in series.planes])
    np.testing.assert_allclose(positions, [each.position_mm for each in made.slices], atol=1e-8)


@pytest.mark.parametrize(
    ("odd", "kind", "words", "option"),
    [
        ({"missing": (3, 4)}, "missing", "2 slices are missing: steps are 3 mm.*-2.50 to 6.50 [(]9[)]", "--uneven"),
        ({"heights_mm": (0, 3, 6, 10.4, 13)}, "uneven", "from 2.6 to 4.4 mm: 11.00 to 15.40 [(]4.4[)]", "--uneven"),
        ({"tilt_deg": 12.0}, "tilt", "from -8.50 to 18.50 mm: a tilt of 12.0 degrees", "--tilt resample"),
        ({"duplicates": (2,)}, "duplicate", "more than once: -2.50 mm", "--duplicates first"),
        ({"content": [factory.HEAD, factory.RAMP]}, "repeated", "-8.50 to 18.50 mm.*2 time point 2", "--phase 1"),
        ({"odd_shapes": {2: (10, 12)}}, "size", "#2 1 of 12 x 10 pixels, axial, at -2.50 mm", "--series .*#1"),
    ],
)
def test_what_is_no_even_stack_is_refused_naming_places(
    tmp_path: Path, odd: dict[str, Any], kind: str, words: str, option: str
) -> None:
    factory.series(tmp_path, order="shuffled", **odd)
    series = settled(scan(tmp_path).series[0], Choice())
    assert series.problems[0].kind == kind
    assert re.search(words, series.problems[0].message), series.problems[0].message
    assert re.search(option, series.problems[0].option)


@pytest.mark.parametrize(("share", "is_refused"), [(0.008, False), (0.015, True)])
def test_steps_may_differ_by_one_in_a_hundred(tmp_path: Path, share: float, is_refused: bool) -> None:
    factory.series(tmp_path, heights_mm=(0, 2, 4, 6 + 2 * share, 8 + 2 * share))
    assert bool(only(tmp_path).problems) == is_refused


def test_one_option_does_not_go_on_with_the_other_problem(tmp_path: Path) -> None:
    factory.series(tmp_path, missing=(3,), tilt_deg=10)
    assert [each.kind for each in only(tmp_path, Choice(uneven="resample")).problems] == ["tilt"]
    assert [each.kind for each in only(tmp_path, Choice(tilt="resample")).problems] == ["missing"]
    assert not only(tmp_path, Choice(tilt="resample", uneven="resample")).problems


@pytest.mark.parametrize("told_by", ["time", "trigger", "echo", "b_value", "acquisition", "nothing"])
@pytest.mark.parametrize("enhanced", [False, True])
def test_phase_that_is_asked_for_is_read(tmp_path: Path, told_by: Any, enhanced: bool) -> None:
    contents = [factory.HEAD, factory.RAMP]
    made = factory.series(tmp_path, contents, told_by=told_by, modality="MR", enhanced=enhanced, slices=4)
    for phase in (1, 2):
        planes = only(tmp_path, Choice(phase=str(phase))).planes
        theirs = [each for each in made.slices if each.repetition == phase - 1]
        assert [(each.file, each.frame) for each in planes] == [(each.file, each.frame) for each in theirs]
    assert [each.kind for each in only(tmp_path, Choice(phase="3")).problems] == ["repeated"]


def test_phase_is_also_known_by_its_name(tmp_path: Path) -> None:
    factory.series(tmp_path, [factory.HEAD, factory.RAMP], told_by="echo", modality="MR", slices=3)
    assert not only(tmp_path, Choice(phase="echo 2")).problems


def test_two_orientations_are_two_stacks_of_one_series(tmp_path: Path) -> None:
    made = factory.series(tmp_path, slices=6, file_name="A{}.dcm")
    factory.series(tmp_path, slices=4, plane="sagittal", file_name="B{}.dcm")
    export = scan(tmp_path)
    assert [each.id for each in export.series] == [f"{made.uid}#1", f"{made.uid}#2"]
    assert [len(each.planes) for each in export.series] == [6, 4]
    assert not settled(export.series[1], Choice(), named=True).problems
    assert export.series[1].problems[0].kind == "orientation"


def test_slice_that_was_sent_twice_is_taken_once_or_the_last(tmp_path: Path) -> None:
    factory.series(tmp_path, duplicates=(2,), slices=5)
    for keep in ("first", "last"):
        planes = only(tmp_path, Choice(duplicates=keep)).planes  # type: ignore[arg-type]
        assert len(planes) == 5
    first, last = (only(tmp_path, Choice(duplicates=keep)).planes[2].file for keep in ("first", "last"))
    assert first != last


def test_copies_of_a_file_are_passed_over_with_a_word(tmp_path: Path) -> None:
    made = factory.series(tmp_path / "a", slices=4)
    shutil.copytree(made.folder, tmp_path / "b")
    export = scan(tmp_path)
    assert len(export.series[0].planes) == 4
    assert dict(export.skipped) == {"copy of another file": 4}


def test_what_is_no_scan_is_passed_over_with_a_word(tmp_path: Path, shared: Path) -> None:
    made = factory.series(tmp_path, slices=4)
    factory.localizer(tmp_path, made)
    capture = pydicom.dcmread(made.files[0])
    capture.SOPClassUID = capture.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    capture.SOPInstanceUID = "1.2.3.4"
    del capture.ImagePositionPatient
    capture.save_as(tmp_path / "capture")
    shutil.copy(shared / "data/dicom/seg/dcmqi/liver.dcm", tmp_path)
    (tmp_path / "broken").write_bytes(made.files[0].read_bytes()[:300])
    (tmp_path / "notes.txt").write_text("about the scan")
    export = scan(tmp_path)
    assert [each.uid for each in export.series] == [made.uid]
    assert dict(export.skipped)["localizer"] == 2
    assert dict(export.skipped)["secondary capture"] == 1
    assert dict(export.skipped)["Segmentation"] == 1


@pytest.mark.parametrize("colour", [False, True])
def test_film_of_ultrasound_has_no_place_in_space(tmp_path: Path, colour: bool) -> None:
    factory.ultrasound(tmp_path / "cine", colour=colour)
    problems = only(tmp_path).problems
    assert "5 frames without positions" in problems[0].message
    assert any(each.kind == "pixels" for each in problems) == colour


@pytest.mark.parametrize("keyword", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"])
def test_slices_without_a_place_are_refused_by_what_they_lack(tmp_path: Path, keyword: str) -> None:
    for file in factory.series(tmp_path, slices=3).files:
        dataset = pydicom.dcmread(file)
        delattr(dataset, keyword)
        dataset.save_as(file)
    [problem] = only(tmp_path).problems
    assert problem.message == f"no place in space: {keyword} is missing"


def test_series_of_two_studies_and_two_of_one_are_apart(tmp_path: Path) -> None:
    for number, (name, study) in enumerate([("a", "x"), ("b", "x"), ("a", "y")]):
        factory.series(tmp_path / str(number), name=name, study=study, slices=3)
    series = scan(tmp_path).series
    assert len({each.uid for each in series}) == 3
    assert len({each.study_uid for each in series}) == 2
