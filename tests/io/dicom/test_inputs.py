"""Which series become the channels of which case: what is not clear is refused and listed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medmamba import io
from medmamba.case import Case
from medmamba.errors import UsageError
from medmamba.io.dicom.inputs import Wanted, export_cases
from medmamba.io.dicom.series import Choice
from medmamba.io.errors import DatasetError
from tests import dicom_factory as factory

RULES = {"T1ce": "^MR .*T1.*(GD|post)", "FLAIR": "flair"}


def found(
    path: Path | None,
    place: Path,
    channels: tuple[str, ...] = ("image",),
    *,
    rules: Mapping[str, str] | None = None,
    given: Mapping[str, str] | None = None,
    series: tuple[str, ...] = (),
    choice: Choice | None = None,
) -> list[Case]:
    wanted = Wanted(channels=channels, rules=rules or {}, given=given or {}, series=series, choice=choice or Choice())
    with export_cases(path, wanted, place) as (cases, _):
        return cases


@pytest.fixture
def export(tmp_path: Path) -> dict[str, factory.Made]:
    """A study of three series in one folder, told apart by their headers alone."""
    return {
        name: factory.series(
            tmp_path / "export",
            factory.HEAD if name == "T1ce" else factory.RAMP,
            name=name,
            description=description,
            modality="MR",
            slices=4,
            file_name=name + "{}",
        )
        for name, description in (("T1ce", "t1 axial POST"), ("FLAIR", "FLAIR"), ("T1", "t1 axial"))
    }


def test_channels_are_found_by_the_rules_of_the_plan(tmp_path: Path, export: dict[str, factory.Made]) -> None:
    [case] = found(tmp_path / "export", tmp_path / "out", ("FLAIR", "T1ce"), rules=RULES)
    assert case.id == export["FLAIR"].uid
    volume = io.read_case(case)
    np.testing.assert_array_equal(volume.array[0], export["FLAIR"].array())
    np.testing.assert_array_equal(volume.array[1], export["T1ce"].array())


def test_rule_that_fits_two_series_is_refused_and_lists_them(tmp_path: Path, export: dict[str, factory.Made]) -> None:
    with pytest.raises(DatasetError, match="2 series may be channel T1ce by the rule 't1'") as caught:
        found(tmp_path / "export", tmp_path / "out", ("FLAIR", "T1ce"), rules={**RULES, "T1ce": "t1"})
    message = str(caught.value)
    assert export["T1"].uid in message
    assert export["T1ce"].uid in message
    assert "--channel T1ce=UID" in message


def test_rule_that_fits_none_is_refused_and_lists_all(tmp_path: Path, export: dict[str, factory.Made]) -> None:
    with pytest.raises(DatasetError, match="no series is channel T1ce") as caught:
        found(tmp_path / "export", tmp_path / "out", ("FLAIR", "T1ce"), rules={**RULES, "T1ce": "T2"})
    assert all(made.uid in str(caught.value) for made in export.values())


def test_series_or_folder_may_be_given_for_a_channel(tmp_path: Path, export: dict[str, factory.Made]) -> None:
    other = factory.series(tmp_path / "other", name="other", study="of last year", slices=4)
    given = {"FLAIR": export["FLAIR"].uid, "T1ce": str(other.folder)}
    [case] = found(tmp_path / "export", tmp_path / "out", ("FLAIR", "T1ce"), given=given)
    np.testing.assert_array_equal(io.read_case(case).array[1], other.array())


def test_folders_alone_are_enough_where_each_channel_has_one(tmp_path: Path) -> None:
    for name in ("a", "b"):
        factory.series(tmp_path / name, name=name, slices=3)
    [case] = found(None, tmp_path / "out", ("x", "y"), given={"x": str(tmp_path / "b"), "y": str(tmp_path / "a")})
    assert case.id == "b"
    with pytest.raises(UsageError, match="nothing says where y lies"):
        found(None, tmp_path / "out", ("x", "y"), given={"x": str(tmp_path / "b")})


def test_several_series_for_one_channel_are_refused_until_one_is_named(
    tmp_path: Path, export: dict[str, factory.Made]
) -> None:
    with pytest.raises(DatasetError, match=r"3 series may be the image.*--series UID"):
        found(tmp_path / "export", tmp_path / "out")
    [case] = found(tmp_path / "export", tmp_path / "out", series=(export["T1"].uid,))
    np.testing.assert_array_equal(io.read_case(case).array[0], export["T1"].array())


def test_unknown_series_and_channels_are_usage_errors(tmp_path: Path, export: dict[str, factory.Made]) -> None:
    with pytest.raises(UsageError, match=r"no series 1\.2\.3"):
        found(tmp_path / "export", tmp_path / "out", series=("1.2.3",))
    with pytest.raises(UsageError, match="no channel T7"):
        found(tmp_path / "export", tmp_path / "out", given={"T7": "1.2.3"})


def test_each_study_with_one_series_is_a_case_of_its_own(tmp_path: Path) -> None:
    for name in ("anna", "ben"):
        factory.series(tmp_path / "in" / name, study=name, slices=3)
    assert [case.id for case in found(tmp_path / "in", tmp_path / "out")] == ["anna", "ben"]


def test_case_is_called_after_the_outer_folder_that_holds_nothing_else(tmp_path: Path) -> None:
    for name in ("anna", "ben"):
        factory.series(tmp_path / "in" / name / "S1" / "T1", study=name, slices=3)
    assert [case.id for case in found(tmp_path / "in", tmp_path / "out")] == ["anna", "ben"]


def shared_uid(folder: Path, **of_second: str) -> tuple[factory.Made, factory.Made]:
    """Series of two patients, or else studies, with one UID, in folders a and b."""
    first = factory.series(folder / "a", slices=4)
    others = {"PatientID": "another", "StudyInstanceUID": "1.2.3", "SeriesInstanceUID": first.uid, **of_second}
    second = factory.series(folder / "b", factory.RAMP, slices=4, centre_mm=(0, 0, 40), attributes=others)
    return first, second


@pytest.mark.parametrize("other", [{}, {"PatientID": factory.PATIENT["PatientID"]}])
def test_each_of_two_series_with_one_uid_is_read_from_its_own_files(tmp_path: Path, other: dict[str, str]) -> None:
    made = shared_uid(tmp_path / "in", **other)
    cases = found(tmp_path / "in", tmp_path / "out")
    assert [case.id for case in cases] == ["a", "b"]
    for case, each in zip(cases, made, strict=True):
        volume = io.read_case(case)
        np.testing.assert_array_equal(volume.array[0], each.array())
        np.testing.assert_allclose(volume.geometry.affine, each.affine, atol=1e-6)


def test_uid_of_two_series_has_to_say_which(tmp_path: Path) -> None:
    first, second = shared_uid(tmp_path / "in")
    with pytest.raises(UsageError, match=f"several studies have a series .*{first.uid}@1 .*{first.uid}@2 "):
        found(tmp_path / "in", tmp_path / "out", series=(first.uid,))
    [case] = found(tmp_path / "in", tmp_path / "out", series=(f"{first.uid}@2",))
    np.testing.assert_array_equal(io.read_case(case).array[0], second.array())


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ({"attributes": {"PatientID": "another"}}, "channels x and y are of two patients"),
        ({"study": "other", "attributes": {"PatientID": "another"}}, "channels x and y are of two patients"),
        ({"frame_of_reference": "other"}, "channels x and y have two frames of reference"),
        ({"study": "other", "attributes": {"FrameOfReferenceUID": None}}, "channels x and y are of two studies"),
    ],
)
def test_channels_that_do_not_belong_together_are_refused(tmp_path: Path, others: dict[str, Any], words: str) -> None:
    lacks_frame = {"attributes": {"FrameOfReferenceUID": None}} if "two studies" in words else {}
    first = factory.series(tmp_path / "in" / "a", name="a", slices=3, **lacks_frame)  # type: ignore[arg-type]
    second = factory.series(tmp_path / "in" / "b", name="b", slices=3, **others)
    for given in ({"x": first.uid, "y": second.uid}, {"x": str(first.folder), "y": str(second.folder)}):
        with pytest.raises(DatasetError, match=words) as caught:
            found(tmp_path / "in", tmp_path / "out", ("x", "y"), given=given)
        assert not [secret for secret in factory.SECRETS if secret in str(caught.value)]


def test_channels_on_two_grids_are_named_before_anything_is_predicted(tmp_path: Path) -> None:
    for name, slices in (("a", 3), ("b", 4)):
        factory.series(tmp_path / "in" / name, name=name, slices=slices)
    given = {"x": str(tmp_path / "in" / "a"), "y": str(tmp_path / "in" / "b")}
    with pytest.raises(DatasetError, match=r"one grid, but against x \(.*\) y \(.*\) has .*resample it"):
        found(tmp_path / "in", tmp_path / "out", ("x", "y"), given=given)


def test_one_series_is_not_two_channels(tmp_path: Path, export: dict[str, factory.Made]) -> None:
    uid = export["T1"].uid
    with pytest.raises(DatasetError, match=f"channels x and y are the same series, {uid}"):
        found(tmp_path / "export", tmp_path / "out", ("x", "y"), given={"x": uid, "y": uid})


def test_study_that_is_not_clear_fails_by_its_name_and_the_others_go_on(tmp_path: Path) -> None:
    clear = factory.series(tmp_path / "in" / "clear", study="clear", slices=3)
    factory.series(tmp_path / "in" / "two" / "a", name="a", study="two", slices=3)
    factory.series(tmp_path / "in" / "two" / "b", name="b", study="two", slices=3)
    cases = {case.id: case for case in found(tmp_path / "in", tmp_path / "out")}
    assert sorted(cases) == ["clear", "two"]
    np.testing.assert_array_equal(io.read_case(cases["clear"]).array[0], clear.array())
    with pytest.raises(io.ImageFileError, match=r"in/two: 2 series may be the image.*--series UID"):
        io.read_case(cases["two"])


def test_every_study_that_is_not_clear_is_named(tmp_path: Path) -> None:
    made = [
        factory.series(tmp_path / "in" / study / name, name=name, study=study, slices=3)
        for study in ("x", "y")
        for name in ("a", "b")
    ]
    with pytest.raises(DatasetError, match=r"study 1: 2 series may be the image.*study 2: 2 series may be") as caught:
        found(tmp_path / "in", tmp_path / "out")
    assert all(each.uid in str(caught.value) for each in made)


def test_studies_that_a_given_channel_leaves_out_are_named(
    tmp_path: Path, export: dict[str, factory.Made], caplog: pytest.LogCaptureFixture
) -> None:
    other = factory.series(tmp_path / "export", name="x", study="other", slices=3, file_name="x{}")
    given = {"T1ce": export["T1ce"].uid}
    for channels in (("T1ce", "FLAIR"), ("T1ce",)):
        caplog.clear()
        assert len(found(tmp_path / "export", tmp_path / "out", channels, rules=RULES, given=given)) == 1
        assert "left out, since --channel does not name them: study 2" in caplog.text
        assert other.study_uid in caplog.text


def test_option_that_another_case_needs_changes_nothing_of_what_is_read(tmp_path: Path) -> None:
    factory.series(tmp_path / "in" / "even", study="even", slices=4)
    factory.series(tmp_path / "in" / "tilt", study="tilt", slices=4, tilt_deg=10)
    texts = []
    for choice in (Choice(), Choice(tilt="resample", uneven="resample")):
        [even, tilt] = found(tmp_path / "in", tmp_path / "out", choice=choice)
        texts.append((even.images[0].read_bytes(), tilt.images[0].read_bytes()))
    assert texts[0][0] == texts[1][0]
    assert texts[0][1] != texts[1][1]


def test_refusal_names_the_folder_of_the_user(tmp_path: Path) -> None:
    factory.series(tmp_path / "in" / "even", study="even", slices=4)
    factory.series(tmp_path / "in" / "tilt", study="tilt", slices=4, tilt_deg=10)
    [_, tilt] = found(tmp_path / "in", tmp_path / "out")
    with pytest.raises(io.ImageFileError) as caught:
        io.read_case(tilt)
    assert str(caught.value).startswith(f"{tmp_path / 'in' / 'tilt'}: series ")


def test_series_among_others_is_called_by_its_uid(tmp_path: Path, export: dict[str, factory.Made]) -> None:
    [case] = found(tmp_path / "export", tmp_path / "out", series=(export["T1"].uid,))
    assert case.id == export["T1"].uid


def test_way_to_go_on_is_part_of_what_is_read(tmp_path: Path) -> None:
    made = factory.series(tmp_path / "in", [factory.HEAD, factory.RAMP], slices=4)
    with pytest.raises(DatasetError, match="--phase 1"):
        found(tmp_path / "in", tmp_path / "out")
    for phase in (1, 2):
        [case] = found(tmp_path / "in", tmp_path / f"out{phase}", choice=Choice(phase=str(phase)))
        np.testing.assert_array_equal(io.read_case(case).array[0], made.array(phase - 1))


def test_one_part_of_a_series_is_read_where_it_is_named(tmp_path: Path) -> None:
    factory.series(tmp_path / "in", slices=6, file_name="A{}")
    other = factory.series(tmp_path / "in", slices=4, plane="sagittal", file_name="B{}")
    with pytest.raises(DatasetError, match="2 orientations"):
        found(tmp_path / "in", tmp_path / "out", series=(other.uid,))
    [case] = found(tmp_path / "in", tmp_path / "out", series=(f"{other.uid}#2",))
    np.testing.assert_array_equal(io.read_case(case).array[0], other.array())


def test_series_that_is_refused_does_not_stop_the_others(tmp_path: Path) -> None:
    factory.series(tmp_path / "in" / "good", study="good", slices=4)
    factory.series(tmp_path / "in" / "bad", study="bad", tilt_deg=10, slices=4)
    cases = {case.id: case for case in found(tmp_path / "in", tmp_path / "out")}
    io.read_case(cases["good"])
    with pytest.raises(io.ImageFileError, match="--tilt resample"):
        io.read_case(cases["bad"])
