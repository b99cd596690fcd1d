"""``medmamba scan`` shows what ``medmamba predict`` then segments, and neither says whose it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medmamba.cli import _console
from medmamba.files import WRITING
from medmamba.plans.plan import Plan
from tests import dicom_damage
from tests import dicom_factory as factory
from tests.cli.remedies import run

#: A DICOM series has DICOM SEG as its segmentation otherwise, which holds the patient as the series does.
NIFTI = ("--format", "nii.gz", "--device", "cpu")


@pytest.fixture(scope="module")
def model(trained: tuple[Path, str]) -> Path:
    return trained[0]


@pytest.fixture
def export(tmp_path: Path) -> tuple[Path, factory.Made, factory.Made]:
    good = factory.series(tmp_path / "export" / "a" / "b", name="good", modality="MR", slices=10, file_name="{}")
    bad = factory.series(tmp_path / "export" / "a" / "c", name="bad", tilt_deg=12, missing=(3,), description="Head")
    factory.localizer(tmp_path / "export" / "a", good)
    return tmp_path / "export", good, bad


def test_table_shows_series_and_what_is_wrong_with_them(
    export: tuple[Path, factory.Made, factory.Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, good, bad = export
    monkeypatch.setattr(_console.out, "width", 160)
    code, said = run("scan", path)
    assert code == 0
    for word in (good.uid, bad.uid, "T1 post GD", "Head", "1.4 x 1.8 x 3", "axial", "a tilt of 12.0 degrees"):
        assert word in said
    assert "1 slice is missing: steps are 3 mm, but there are gaps from -2.50 to 3.50 (6) mm" in said
    assert "(to go on: --tilt resample)" in said
    assert "passed over: 2 localizer" in said
    assert "Reading headers" in said


def test_json_holds_what_the_table_shows(export: tuple[Path, factory.Made, factory.Made], model: Path) -> None:
    path, good, bad = export
    code, said = run("scan", path, "--json", "--model", model)
    assert code == 0
    found = json.loads(said)
    series = {each["uid"]: each for each in found["series"]}
    assert series[good.uid]["size"] == [32, 24, 10]
    assert series[good.uid]["spacing_mm"] == pytest.approx([1.4, 1.8, 3.0])
    assert series[good.uid]["problems"] == []
    assert series[good.uid]["channels"] == ["MR"]
    assert [each["kind"] for each in series[bad.uid]["problems"]] == ["missing", "tilt"]
    assert found["passed_over"] == {"localizer": 2}


def test_rules_of_a_plan_say_which_series_a_model_could_use(
    export: tuple[Path, factory.Made, factory.Made], model: Path
) -> None:
    path, good, bad = export
    plan = Plan.load(model / "plan.json")
    plan.override("channel_rules", {"MR": "^MR .*post"}).save(model / "plan.json")
    try:
        code, said = run("scan", path, "--json", "--model", model)
    finally:
        plan.save(model / "plan.json")
    assert code == 0, said
    channels = {each["uid"]: each["channels"] for each in json.loads(said)["series"]}
    assert channels == {good.uid: ["MR"], bad.uid: []}


def test_nothing_in_dicom_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no scan")
    code, said = run("scan", tmp_path)
    assert code == 0
    assert "holds nothing in DICOM" in said


def test_finished_series_of_a_zip_is_not_segmented_again(tmp_path: Path, model: Path) -> None:
    made = factory.series(tmp_path / "export", shape=(20, 18), slices=12)
    archive = factory.zipped(made.folder, tmp_path / "a.zip")
    command = ("predict", "-i", archive, "-o", tmp_path / "out", "-m", model, *NIFTI)
    assert "1 predicted" in run(*command)[1]
    assert "1 finished earlier" in run(*command)[1]
    assert (tmp_path / "out" / f"{made.uid}.nii.gz").is_file()


def test_other_phase_is_another_segmentation(tmp_path: Path, model: Path) -> None:
    contents = [factory.HEAD, factory.RAMP]
    factory.series(tmp_path / "export", contents, shape=(20, 18), slices=12, enhanced=True)
    command = ("predict", "-i", tmp_path / "export", "-o", tmp_path / "out", "-m", model, *NIFTI)
    code, said = run(*command)
    assert (code, "--phase 1" in said) == (3, True)
    assert not (tmp_path / "out").exists()
    assert "1 predicted" in run(*command, "--phase", "1")[1]
    assert "1 finished" in run(*command, "--phase", "1")[1]
    assert "predicted again" in run(*command, "--phase", "2")[1]


def test_series_of_two_multi_frame_files_is_not_written_as_seg(
    tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number, start in enumerate((0, 18)):
        heights = range(start, start + 18, 3)
        factory.series(
            tmp_path / "export", shape=(20, 18), heights_mm=heights, enhanced=True, file_name=f"{number}_{{}}"
        )
    out = tmp_path / "out"
    code, said = run("predict", "-i", tmp_path / "export", "-o", out, "-m", model, "--device", "cpu")
    assert code == 3
    words = "".join((said + caplog.text).split())  # lines of a log are folded
    assert "severalmulti-framefiles" in words
    assert f"{out}/" in words
    assert WRITING not in words
    assert not [file for file in out.rglob("*") if "".join(file.suffixes[-2:]) in (".seg.dcm", ".nii.gz")]


def test_option_for_one_case_does_not_predict_the_others_again(tmp_path: Path, model: Path) -> None:
    for name, tilt in (("even", 0), ("tilt", 10)):
        factory.series(tmp_path / "in" / name, study=name, tilt_deg=tilt, shape=(20, 18), slices=12)
    command = ("predict", "-i", tmp_path / "in", "-o", tmp_path / "out", "-m", model, *NIFTI)
    code, said = run(*command)
    assert (code, "1 predicted, 0 finished earlier, 1 failed" in said) == (3, True)
    code, said = run(*command, "--tilt", "resample")
    assert (code, "1 predicted, 1 finished earlier, 0 failed" in said) == (0, True), said


def test_study_that_is_not_clear_is_a_case_that_fails(tmp_path: Path, model: Path) -> None:
    factory.series(tmp_path / "in" / "clear", study="clear", shape=(20, 18), slices=12)
    for name in ("a", "b"):
        factory.series(tmp_path / "in" / "two" / name, name=name, study="two", slices=3)
    code, said = run("predict", "-i", tmp_path / "in", "-o", tmp_path / "out", "-m", model, *NIFTI)
    assert (code, "1 predicted, 0 finished earlier, 1 failed" in said) == (3, True), said
    assert "2 series may be the image" in said
    assert (tmp_path / "out" / "clear.nii.gz").is_file()


def test_files_without_preamble_are_segmented(tmp_path: Path, model: Path) -> None:
    for file in factory.series(tmp_path / "in" / "old", shape=(20, 18), slices=12).files:
        factory.without_preamble(file)
    _, said = run("scan", tmp_path / "in", "--json")
    assert json.loads(said)["series"][0]["problems"] == []
    command = ("predict", "-i", tmp_path / "in", "-o", tmp_path / "out", "-m", model, "--device", "cpu")
    code, said = run(*command, "--format", "seg.dcm,rtstruct.dcm,nii.gz")
    assert code == 0, said
    assert (tmp_path / "out" / "old.seg.dcm").is_file()


def test_studies_are_numbered_and_series_have_their_folder(tmp_path: Path) -> None:
    for patient in ("p", "q"):
        for name in ("T1", "FLAIR"):
            folder = tmp_path / "in" / f"{patient} ü" / name
            of = {"PatientID": patient}
            factory.series(folder, name=name, study=patient, description=name, slices=2, attributes=of)
    code, said = run("scan", tmp_path / "in")
    assert code == 0
    order = ["patient 1, study 1", "p ü/FLAIR", "p ü/T1", "patient 2, study 2", "q ü/FLAIR", "q ü/T1"]
    places = [said.index(words) for words in order]
    assert places[0] < min(places[1:3]) < max(places[1:3]) < places[3] < min(places[4:])
    shown = json.loads(run("scan", tmp_path / "in", "--json")[1])["series"]
    assert {(each["patient"], each["study"], each["folder"][0]) for each in shown} == {(1, 1, "p"), (2, 2, "q")}


def test_file_that_may_not_be_read_is_named_and_the_others_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = factory.series(tmp_path / "in", slices=6)
    locked = made.slices[2].file
    dicom_damage.lock(monkeypatch, locked)
    code, said = run("scan", tmp_path / "in")
    assert code == 4
    assert "1 slice is missing" in said
    assert f"cannot be read: {locked.name}: Permission denied" in said
    code, said = run("scan", tmp_path / "in", "--json")
    assert (code, json.loads(said)["cannot_be_read"]) == (4, [f"{locked.name}: Permission denied"])


def test_nobody_is_named_in_tables_messages_and_files(
    export: tuple[Path, factory.Made, factory.Made], tmp_path: Path, model: Path
) -> None:
    path, good, bad = export
    predict = ("predict", "-i", path, "-o", tmp_path / "out", "-m", model, *NIFTI)
    said = [
        run("--verbose", "scan", path)[1],
        run("scan", path, "--json", "--model", model)[1],
        run("--verbose", *predict)[1],
        run("--verbose", *predict, "--series", bad.uid)[1],
        run("--verbose", *predict, "--series", good.uid)[1],
        run("--verbose", *predict, "--series", bad.uid, "--tilt", "resample", "--uneven", "resample")[1],
    ]
    written = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert len([file for file in written if file.name.endswith(".nii.gz")]) == 2
    for word in factory.SECRETS:
        assert not any(word in each for each in said)
        assert not any(word.encode() in file.read_bytes() for file in written)
        assert not any(word in str(file.relative_to(tmp_path)) for file in written)


def test_options_for_dicom_are_not_for_validation(tmp_path: Path, model: Path) -> None:
    code, said = run("predict", "--validation", "-o", tmp_path / "out", "-m", model, "--tilt", "resample")
    assert code == 2
    assert "options for DICOM" in said
