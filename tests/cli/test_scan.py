"""``medmamba scan`` shows what ``medmamba predict`` then segments, and neither says whose it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medmamba.files import WRITING
from medmamba.plans.plan import Plan
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


def test_table_shows_series_and_what_is_wrong_with_them(export: tuple[Path, factory.Made, factory.Made]) -> None:
    path, good, bad = export
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


def test_phase_of_one_file_is_not_written_as_seg(tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture) -> None:
    contents = [factory.HEAD, factory.RAMP]
    factory.series(tmp_path / "export", contents, shape=(20, 18), slices=12, enhanced=True)
    out = tmp_path / "out"
    code, said = run("predict", "-i", tmp_path / "export", "-o", out, "-m", model, "--device", "cpu", "--phase", "1")
    assert code == 3
    words = "".join((said + caplog.text).split())  # lines of a log are folded
    assert "give--formatnii.gz" in words
    assert f"{out}/" in words
    assert WRITING not in words
    assert not [file for file in out.rglob("*") if "".join(file.suffixes[-2:]) in (".seg.dcm", ".nii.gz")]


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
