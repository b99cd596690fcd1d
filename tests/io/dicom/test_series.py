"""Files are grouped to stacks, and what is wrong with a stack is told with its place and the option to go on."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from medmamba.io.dicom.instances import dicom_files
from medmamba.io.dicom.planes import Series
from medmamba.io.dicom.series import Choice, Export, explore, needed, settled
from medmamba.io.dicom.stack import geometry_of, remarks_of
from tests import dicom_damage
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


def test_small_differences_that_add_up_are_refused(tmp_path: Path) -> None:
    steps = np.repeat([1.0, 1.009], 100)
    factory.series(tmp_path, heights_mm=np.cumsum(steps), shape=(4, 4))
    [problem] = only(tmp_path).problems
    assert problem.kind == "uneven"
    assert "lie up to 0.45 mm, at 105.00 mm, away from even steps of 1.005 mm" in problem.message
    planes = only(tmp_path, Choice(uneven="resample")).planes
    assert geometry_of(planes).shape[2] == 199  # the usual step is that of the larger half


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
    [problem] = only(tmp_path, Choice(phase="3")).problems
    assert problem.kind == "repeated"
    assert problem.message.startswith("there is no phase '3': 2 slices at each position")


def edited(made: factory.Made, number: int, edit: Callable[[Dataset], None]) -> Path:
    """The file of a slice, with something changed in it."""
    dataset = pydicom.dcmread(made.slices[number].file)
    edit(dataset)
    dataset.save_as(made.slices[number].file)
    return made.slices[number].file


def overlapping(folder: Path, **more: Any) -> None:
    """Positions 0 to 18 and 15 to 33 mm (6.5 above in the files), of which 15 and 18 are there twice."""
    for number, start in enumerate((0, 15), start=1):
        acquired = {"AcquisitionNumber": number, "AcquisitionTime": f"10{number:02d}00", **more}
        heights = np.arange(start, start + 21, 3)
        factory.series(folder, heights_mm=heights, file_name=f"{number}_{{}}.dcm", attributes=acquired)


@pytest.mark.parametrize("more", [{}, {"AcquisitionNumber": 1}])
def test_stacks_that_overlap_are_one_or_each_by_itself_but_nothing_is_left_out_silently(
    tmp_path: Path, more: dict[str, Any]
) -> None:
    overlapping(tmp_path, **more)
    [problem] = only(tmp_path).problems
    assert problem.kind == "overlap"
    assert problem.option == "--duplicates first"
    assert "share 2 of 12 positions (20.00, 23.00 mm)" in problem.message
    assert "7 of 12 positions, 5.00 to 23.00 mm" in problem.message
    assert len(only(tmp_path, Choice(duplicates="first")).planes) == 12
    second = only(tmp_path, Choice(phase="2"))
    assert [round(plane.depth_mm) for plane in second.planes] == [20, 23, 26, 29, 32, 35, 38]
    assert "7 of 12 positions" in remarks_of(second)[0]


def test_stacks_that_overlap_keep_the_first_or_the_last_slices(tmp_path: Path) -> None:
    overlapping(tmp_path)
    for keep, wanted in (("first", "1_"), ("last", "2_")):
        planes = only(tmp_path, Choice(duplicates=keep)).planes  # type: ignore[arg-type]
        assert [plane.file.name[:2] for plane in planes[5:7]] == [wanted, wanted]


def test_time_point_that_is_incomplete_says_what_it_has(tmp_path: Path) -> None:
    whole = factory.series(tmp_path, [factory.HEAD, factory.RAMP], slices=8)
    for each in [each for each in whole.slices if each.repetition == 1][5:]:
        each.file.unlink()
    [problem] = only(tmp_path).problems
    assert problem.kind == "overlap"
    assert "1 time point 1, 2 time point 2 (5 of 8 positions, -5.50 to 6.50 mm)" in problem.message
    assert not remarks_of(only(tmp_path, Choice(phase="1")))
    assert "5 of 8 positions" in remarks_of(only(tmp_path, Choice(phase="2")))[0]


def test_some_places_that_are_there_twice_are_listed_and_not_a_range(tmp_path: Path) -> None:
    factory.series(tmp_path, duplicates=(0, 9), slices=10)
    assert "more than once: -8.50, 18.50 mm" in only(tmp_path).problems[0].message


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


def test_slices_that_share_an_instance_uid_are_no_copies(tmp_path: Path) -> None:
    made = factory.series(tmp_path, slices=4)
    for number in range(4):
        edited(made, number, lambda dataset: setattr(dataset, "SOPInstanceUID", "1.2.3"))
    series = only(tmp_path)
    assert len(series.planes) == 4
    assert "3 files have the SOP instance UID of another slice" in scan(tmp_path).series[0].problems[0].message


def test_one_uid_of_two_patients_or_studies_is_two_series_with_a_word(tmp_path: Path) -> None:
    made = factory.series(tmp_path / "a", slices=3)
    apart = {"PatientID": "another", "FrameOfReferenceUID": "1.2.4"}
    other = factory.series(tmp_path / "b", slices=3, attributes=apart)
    third = factory.series(
        tmp_path / "c", slices=3, attributes={"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": made.uid}
    )
    assert made.uid == other.uid == pydicom.dcmread(third.files[0]).SeriesInstanceUID
    series = scan(tmp_path).series
    assert [each.id for each in series] == [f"{made.uid}@{study}" for study in (1, 3, 2)]
    assert [each.patient for each in series] == [1, 1, 2]
    assert [each.files[0].parent.name for each in series] == ["a", "c", "b"]
    for each in series:
        assert "3 studies or patients have series of this UID" in each.problems[0].message
        assert not settled(each, Choice()).problems


@pytest.mark.parametrize("id_", ["", "  PID-1 ", "pid-1"])
def test_patient_of_one_series_may_be_written_in_several_ways(tmp_path: Path, id_: str) -> None:
    made = factory.series(tmp_path, slices=4, attributes={"PatientID": "PID-1", "PatientName": "Doe^Jane"})
    edited(made, 3, lambda dataset: setattr(dataset, "PatientID", id_))
    edited(made, 3, lambda dataset: setattr(dataset, "PatientName", ""))
    assert len(only(tmp_path).planes) == 4


def test_name_of_one_series_without_an_id_may_be_written_in_several_ways(tmp_path: Path) -> None:
    made = factory.series(tmp_path, slices=4, attributes={"PatientID": "", "PatientName": "Doe^Jane"})
    edited(made, 0, lambda dataset: setattr(dataset, "PatientName", "DOE^JANE^"))
    assert len(only(tmp_path).planes) == 4


def test_series_with_the_ids_of_two_patients_is_refused_until_it_is_named(tmp_path: Path) -> None:
    made = factory.series(tmp_path, slices=5)
    edited(made, 4, lambda dataset: setattr(dataset, "PatientID", "another"))
    first, second = scan(tmp_path).series
    assert [len(each.planes) for each in (first, second)] == [4, 1]
    for each in (first, second):
        [problem] = settled(each, Choice()).problems
        assert "the ids of 2 patients" in problem.message
        assert problem.option == f"--series {each.id}"
        assert not settled(each, Choice(), named=True).problems


def test_stacks_that_overlap_are_put_together_also_where_a_phase_of_others_is_asked_for(tmp_path: Path) -> None:
    overlapping(tmp_path)
    assert len(only(tmp_path, Choice(phase="1", duplicates="first")).planes) == 12


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda dataset: setattr(dataset, "RescaleSlope", "0"), "scaled by 0 and -1024"),
        (lambda dataset: dataset.__delitem__("RescaleSlope") or dataset.__delitem__("RescaleIntercept"), "12.50 mm"),
        (lambda dataset: setattr(dataset, "PhotometricInterpretation", "MONOCHROME1"), "MONOCHROME1 and MONOCHROME2"),
        (lambda dataset: setattr(dataset, "PhotometricInterpretation", "PALETTE COLOR"), "in colours"),
        (lambda dataset: setattr(dataset, "ImageType", ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]), "mosaics of slices"),
    ],
)
def test_values_that_would_be_wrong_in_one_slice_are_refused(tmp_path: Path, edit: Any, words: str) -> None:
    made = factory.series(tmp_path, slices=6)
    edited(made, 5, edit)
    [problem] = only(tmp_path).problems
    assert problem.kind == "pixels"
    assert words in problem.message
    assert not problem.option


def test_series_of_several_multi_frame_files_says_early_that_no_seg_can_refer_to_it(tmp_path: Path) -> None:
    for number, start in enumerate((0, 9)):
        heights = (start, start + 3, start + 6)
        factory.series(tmp_path, heights_mm=heights, enhanced=True, file_name=f"{number}_{{}}")
    [series] = scan(tmp_path).series
    assert "several multi-frame files" in series.problems[0].message
    assert len(settled(series, Choice()).planes) == 6
    assert not settled(series, Choice()).problems


def test_monochrome1_is_told_and_read(tmp_path: Path) -> None:
    factory.series(tmp_path, slices=3, photometric="MONOCHROME1")
    [series] = scan(tmp_path).series
    assert "MONOCHROME1" in series.problems[0].message
    assert not settled(series, Choice()).problems


@pytest.mark.parametrize("how", ["no position", "cut", "cut early", "locked"])
def test_slice_at_the_end_that_is_lost_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Else nothing would tell that the stack ended further up."""
    made = factory.series(tmp_path, slices=6)
    last = made.slices[-1].file
    if how == "no position":
        edited(made, -1, lambda dataset: delattr(dataset, "ImagePositionPatient"))
    elif how == "locked":
        dicom_damage.lock(monkeypatch, last)
    else:
        last.write_bytes(last.read_bytes()[: 300 if how == "cut early" else 900])
    [problem] = only(tmp_path).problems
    assert problem.kind == "lost"
    assert last.name in problem.message
    assert problem.option == "--uneven resample"
    assert len(only(tmp_path, Choice(uneven="resample")).planes) == 5
    assert [each.file for each in scan(tmp_path).faulty] == ([] if how == "no position" else [last])


def test_damage_among_several_series_refuses_none_of_them(tmp_path: Path) -> None:
    made = factory.series(tmp_path, slices=4, file_name="a{}")
    factory.series(tmp_path, slices=4, file_name="b{}", name="other")
    (tmp_path / "c").write_bytes(made.files[0].read_bytes()[:300])
    export = scan(tmp_path)
    assert not [problem for each in export.series for problem in each.problems]
    assert [each.file.name for each in export.faulty] == ["c"]


def test_of_a_choice_only_what_makes_a_difference_is_needed(tmp_path: Path) -> None:
    everything = Choice(uneven="resample", tilt="resample", phase="1", duplicates="last")
    for folder, odd, wanted in (
        ("even", {}, Choice()),
        ("tilt", {"tilt_deg": 10}, Choice(tilt="resample")),
        ("uneven", {"missing": (2,)}, Choice(uneven="resample")),
        ("phases", {"content": [factory.HEAD, factory.RAMP]}, Choice(phase="1")),
        ("twice", {"duplicates": (1,)}, Choice(duplicates="last")),
    ):
        factory.series(tmp_path / folder, **odd)  # type: ignore[arg-type]
        [series] = scan(tmp_path / folder).series
        assert needed(series, everything) == wanted


def test_series_of_two_studies_and_two_of_one_are_apart(tmp_path: Path) -> None:
    for number, (name, study) in enumerate([("a", "x"), ("b", "x"), ("a", "y")]):
        factory.series(tmp_path / str(number), name=name, study=study, slices=3)
    series = scan(tmp_path).series
    assert len({each.uid for each in series}) == 3
    assert len({each.study_uid for each in series}) == 2
