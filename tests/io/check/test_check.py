"""All problems of a data set are found in one pass."""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner

from medmamba import io
from medmamba.cli.dataset import app
from medmamba.engines import Failure, Outcomes, Processes
from medmamba.io.check import Finding, check_dataset, report
from tests.data_factory import write_dataset


def rules(findings: list[Finding], severity: str = "error") -> set[tuple[str, str | None]]:
    """(rule, case) of the findings of a severity."""
    return {(finding.rule, finding.case) for finding in findings if finding.severity == severity}


def change(path: Path, affine: np.ndarray | None = None, **voxels: object) -> None:
    """Rewrite a NIfTI file with other voxels or another affine."""
    loaded = nibabel.load(path)
    array = np.asarray(loaded.dataobj).astype(np.float32)
    if "fill" in voxels:
        array[:] = voxels["fill"]
    if "first" in voxels:
        array[0, 0, 0] = voxels["first"]
    if "shorter" in voxels:
        array = array[:-1]
    nibabel.save(nibabel.Nifti1Image(array, loaded.affine if affine is None else affine), path)


class Unlucky:
    """An engine whose first case ends the process that works on it."""

    def run(self, function: Callable[[Any], Any], cases: Sequence[Any]) -> Outcomes[Any]:
        yield 0, Failure("killed", "the process was ended, most likely for lack of memory")
        yield from ((number, function(case)) for number, case in enumerate(cases) if number)


def test_case_that_ends_its_process_is_a_finding_and_the_others_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_dataset(tmp_path / "data")
    change(root / "labelsTr" / "case_03.nii.gz", first=9)
    monkeypatch.setattr(report, "suited", lambda *_, **__: Unlucky())
    findings = check_dataset(root)
    assert rules(findings) == {("unreadable", "case_00"), ("label-values", "case_03")}
    assert "the process was ended" in next(found.message for found in findings if found.case == "case_00")


def test_cases_are_checked_alike_in_other_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_dataset(tmp_path / "data")
    (root / "imagesTr" / "case_01_0000.nii.gz").write_bytes(b"")
    change(root / "labelsTr" / "case_03.nii.gz", first=9)
    here = check_dataset(root)
    monkeypatch.setattr(report, "suited", lambda *_, **__: Processes(2))
    assert check_dataset(root) == here
    assert rules(here) == {("unreadable", "case_01"), ("label-values", "case_03")}


def test_sound_data_set_has_no_findings(tmp_path: Path) -> None:
    assert check_dataset(write_dataset(tmp_path / "data")) == []


def test_all_faults_are_listed_at_once(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "data", cases=10)
    images = [root / "imagesTr" / f"case_{n:02d}_0000.nii.gz" for n in range(10)]
    labels = [root / "labelsTr" / f"case_{n:02d}.nii.gz" for n in range(10)]
    affine = nibabel.load(images[0]).affine
    images[0].write_bytes(b"")
    change(images[1], first=np.nan)
    change(images[2], fill=5)
    labels[3].unlink()
    change(labels[4], first=9)
    change(labels[5], first=0.5)
    change(labels[6], affine @ np.diag([-1, 1, 1, 1]))
    change(labels[7], shorter=True)
    shifted = affine.copy()
    shifted[0, 3] += 0.2
    change(labels[8], shifted)
    change(labels[9], fill=0)
    images[8].write_bytes(images[9].read_bytes())
    (root / "labelsTr" / "orphan.nii.gz").write_bytes(labels[9].read_bytes())
    (root / "splits_final.json").write_text(
        json.dumps([{"train": ["case_00", "who"], "val": ["case_00"]}, {"train": [], "val": []}])
    )
    findings = check_dataset(root)
    assert rules(findings) >= {
        ("unreadable", "case_00"),
        ("not-finite", "case_01"),
        ("missing-label", "case_03"),
        ("label-values", "case_04"),
        ("label-not-integer", "case_05"),
        ("mirrored", "case_06"),
        ("misaligned", "case_07"),
        ("splits", None),
    }
    assert rules(findings, "warning") >= {
        ("constant-channel", "case_02"),
        ("slightly-shifted", "case_08"),
        ("empty-label", "case_09"),
        ("duplicate-image", None),
        ("label-without-image", None),
    }
    assert sum(finding.rule == "splits" for finding in findings) == 4
    # Cases 08 and 09 are the same image, read at the same time: neither hides the other, and no other case has errors.
    assert {case for _, case in rules(findings)} == {None, *(f"case_{n:02d}" for n in (0, 1, 3, 4, 5, 6, 7))}


def test_description_ids_and_orientation(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "data")
    facts = json.loads((root / "dataset.json").read_text())
    facts.update(numTraining=99, channel_names={"0": "CT"})
    facts["labels"] = {"background": 0, "block": 1, "core": 2, "rare": 4, "ignore": 3}
    (root / "dataset.json").write_text(json.dumps(facts))
    for kind, ending in (("imagesTr", "_0000"), ("labelsTr", "")):
        (root / kind / f"CASE_01{ending}.nii.gz").write_bytes((root / kind / f"case_01{ending}.nii.gz").read_bytes())
        path = root / kind / f"case_02{ending}.nii.gz"
        change(path, nibabel.load(path).affine @ np.diag([-1, 1, 1, 1]))
    for number in range(6):
        path = root / "imagesTr" / f"case_{number:02d}_0000.nii.gz"
        change(path, fill=0, first=200)
    found = {finding.rule for finding in check_dataset(root)}
    assert found >= {
        "num-training",
        "ids-collide",
        "mixed-orientation",
        "absent-label",
        "label-gaps",
        "ignore-label",
        "not-hounsfield",
        "duplicate-image",
    }


def describe(root: Path, **changes: object) -> Path:
    """Change a data set's description."""
    facts = {**json.loads((root / "dataset.json").read_text()), **changes}
    (root / "dataset.json").write_text(json.dumps({key: value for key, value in facts.items() if value is not None}))
    return root


def test_wrong_layout_is_one_finding(tmp_path: Path) -> None:
    assert [finding.rule for finding in check_dataset(tmp_path)] == ["layout"]
    (tmp_path / "dataset.json").write_text("{")
    assert [finding.rule for finding in check_dataset(tmp_path)] == ["layout"]


def test_wrong_description_hides_no_file(tmp_path: Path) -> None:
    root = describe(write_dataset(tmp_path / "data"), file_ending=None, labels={"background": 0, "a": "x"})
    (root / "splits_final.json").write_text("{}")
    (root / "imagesTr" / "case_01_0000.nii.gz").write_bytes(b"")
    (root / "labelsTr" / "case_02.nii.gz").write_bytes(b"<html>")
    found = check_dataset(root)
    assert sorted(finding.rule for finding in found) == ["layout"] * 3 + ["unreadable"] * 2


def test_broken_label_of_plain_folders_hides_no_other(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "data")
    (root / "dataset.json").unlink()
    (root / "labelsTr").rename(root / "labels")
    (root / "imagesTr").rename(root / "images")
    assert check_dataset(root) == []
    (root / "labels" / "case_01.nii.gz").write_bytes(b"")
    (root / "images" / "case_02_0000.nii.gz").write_bytes(b"")
    change(root / "labels" / "case_03.nii.gz", first=-1)
    assert rules(check_dataset(root)) == {
        ("unreadable", "case_01"),
        ("unreadable", "case_02"),
        ("label-values", None),
    }


def test_missing_channel_is_named(tmp_path: Path) -> None:
    root = describe(write_dataset(tmp_path / "data"), channel_names={"0": "T1", "1": "T2"})
    for number in range(6):
        path = root / "imagesTr" / f"case_{number:02d}_0000.nii.gz"
        other = 2 if number == 3 else 1  # case_03 has as many files as it should
        image = nibabel.load(path)
        nibabel.save(
            nibabel.Nifti1Image(np.asarray(image.dataobj)[::-1] * (number != 4), image.affine),
            path.with_name(f"case_{number:02d}_{other:04d}.nii.gz"),
        )
    (root / "imagesTr" / "case_05_0001.nii.gz").write_bytes((root / "imagesTr" / "case_05_0000.nii.gz").read_bytes())
    findings = check_dataset(root)
    assert rules(findings) == {("channels", "case_03")}
    assert "lacks channel 1 (T2)" in findings[0].message
    assert rules(findings, "warning") == {("constant-channel", "case_04"), ("same-channels", "case_05")}
    describe(root, channel_names={"0": "T1"})
    assert ("channels", "case_00") in rules(check_dataset(root))


def test_empty_modality_of_all_cases_is_no_duplicate(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "data")
    for path in (root / "imagesTr").iterdir():
        change(path, fill=0)
    assert {rule for rule, _ in rules(check_dataset(root), "warning")} == {"constant-channel"}


def test_grids_are_compared_between_cases(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "data")
    affine = nibabel.load(root / "imagesTr" / "case_00_0000.nii.gz").affine
    sheared = affine.copy()
    sheared[0, 1] += 0.2
    centimetres = affine @ np.diag([0.1, 0.1, 0.1, 1])
    for number, changed in ((1, sheared), (2, centimetres)):
        for path in (
            root / "imagesTr" / f"case_{number:02d}_0000.nii.gz",
            root / "labelsTr" / f"case_{number:02d}.nii.gz",
        ):
            change(path, changed)
    for path in (root / "imagesTr" / "case_03_0000.nii.gz", root / "labelsTr" / "case_03.nii.gz"):
        array = np.asarray(nibabel.load(path).dataobj)[:, :, 8:9]
        nibabel.save(nibabel.Nifti1Image(array, affine), path)
    found = check_dataset(root)
    assert not rules(found)
    assert rules(found, "warning") == {
        ("sheared", "case_01"),
        ("odd-spacing", "case_02"),
        ("mixed-dimensions", None),
    }


REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [1, 3], "enhancing": 3}


@pytest.mark.parametrize(
    ("labels", "order", "lost"),
    [
        (REGIONS, [2, 1, 3], set()),
        (dict(sorted(REGIONS.items())), [1, 3, 2], {"core", "enhancing"}),  # sorted, the whole is painted last
        (REGIONS, [1, 2, 3], {"core"}),  # the core paints 2, which is not part of it
        ({"background": 0, "all": [1, 2, 3], "a": 1, "b": 2, "c": 3}, [1, 1, 2, 3], set()),
        ({"background": 0, "both": [1, 2], "c": 3}, [1, 3], set()),  # regions need not tell all values apart
    ],
)
def test_regions_must_survive_being_painted(
    labels: dict[str, object], order: list[int], lost: set[str], tmp_path: Path
) -> None:
    root = describe(write_dataset(tmp_path / "data"), labels=labels, regions_class_order=order)
    found = [finding for finding in check_dataset(root) if finding.rule == "region-order"]
    assert {finding.message.split()[1] for finding in found} == lost
    assert all("whole, core, enhancing" in finding.message for finding in found)


def test_undeclared_value_comes_with_a_suggestion(tmp_path: Path) -> None:
    root = describe(write_dataset(tmp_path / "data"), labels={"background": 0, "block": 1, "core": 4})
    messages = [finding.message for finding in check_dataset(root) if finding.rule == "label-values"]
    assert len(messages) == 6
    assert "holds [2], declared are [0, 1, 4]" in messages[0]
    assert "perhaps 2 to 4" in messages[0]


def test_header_that_asks_for_terabytes_is_one_bad_case(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "data")
    header = nibabel.Nifti2Header()
    header.set_data_shape((2500, 2500, 2500))
    header.set_data_dtype(np.float64)
    (root / "imagesTr" / "case_01_0000.nii.gz").write_bytes(gzip.compress(header.binaryblock + bytes(99)))
    assert rules(check_dataset(root)) == {("unreadable", "case_01")}


def test_header_oddities_become_findings_of_their_case(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_dataset(tmp_path / "data")
    path = root / "imagesTr" / "case_03_0000.nii.gz"
    image = nibabel.load(path)
    odd = nibabel.Nifti1Image(np.asarray(image.dataobj), image.affine)
    odd.set_sform(image.affine, 1)
    odd.set_qform(np.diag([2.0, 2.0, 2.0, 1.0]), 1)
    nibabel.save(odd, path)
    data = bytearray(gzip.decompress((root / "imagesTr" / "case_04_0000.nii.gz").read_bytes()))
    data[112:116] = np.array([np.nan], "<f4").tobytes()
    (root / "imagesTr" / "case_04_0000.nii.gz").write_bytes(gzip.compress(data))
    findings = check_dataset(root)
    assert [(finding.rule, finding.severity, finding.case) for finding in findings] == [
        ("header", "warning", "case_03"),
        ("header", "note", "case_04"),
    ]
    assert findings[0].file == str(path)
    assert findings[0].message.startswith("sform and qform differ")
    assert not caplog.records  # told once, as findings


def test_command_has_exit_codes_text_and_json(tmp_path: Path) -> None:
    runner = CliRunner()
    root = write_dataset(tmp_path / "data")
    sound = runner.invoke(app, ["check", str(root)])
    assert sound.exit_code == 0
    assert "no problems found" in sound.stdout
    change(root / "imagesTr" / "case_02_0000.nii.gz", fill=5)
    assert runner.invoke(app, ["check", str(root)]).exit_code == 0
    assert runner.invoke(app, ["check", str(root), "--strict"]).exit_code == 3
    (root / "labelsTr" / "case_00.nii.gz").unlink()
    bad = runner.invoke(app, ["check", str(root), "--json"])
    assert bad.exit_code == 3
    assert {entry["rule"] for entry in json.loads(bad.stdout)} == {"constant-channel", "missing-label"}
    assert runner.invoke(app, ["check", str(tmp_path / "absent")]).exit_code == 2


def test_many_cases_with_one_problem_are_one_line(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "data", cases=7)
    for path in (root / "imagesTr").iterdir():
        change(path, fill=5)
    lines = CliRunner().invoke(app, ["check", str(root)]).stdout.splitlines()
    assert len(lines) == 2
    assert "7 cases (case_00, case_01, case_02, case_03, case_04 and 2 more): channel MR is 5 everywhere" in lines[0]
    assert "7 warnings" in lines[1]


def test_names_that_are_no_utf8_can_be_shown(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "data")
    path = root / "imagesTr" / "case_01_0000.nii.gz"
    path.rename(path.with_name(os.fsdecode(b"caf\xe9_0000.nii.gz")))
    runner = CliRunner()
    text = runner.invoke(app, ["check", str(root)])
    assert text.exit_code == 3
    assert r"caf\udce9" in text.stdout
    parsed = json.loads(runner.invoke(app, ["check", str(root), "--json"]).stdout)
    assert parsed[0]["case"] == os.fsdecode(b"caf\xe9")


def test_real_scans_are_clean(shared: Path, tmp_path: Path) -> None:
    real = shared / "data" / "msd_hippocampus"
    assert check_dataset(real) == []
    for name in ("dataset.json", "imagesTr"):
        (tmp_path / name).symlink_to(real / name)
    (tmp_path / "labelsTr").mkdir()
    for path in (real / "labelsTr").iterdir():
        (tmp_path / "labelsTr" / path.name).symlink_to(path)
    spoiled = tmp_path / "labelsTr" / "hippocampus_001.nii.gz"
    spoiled.unlink()
    image = nibabel.load(real / "labelsTr" / spoiled.name)
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), image.affine @ np.diag([-1, 1, 1, 1])), spoiled)
    assert [(finding.rule, finding.case) for finding in check_dataset(tmp_path)] == [("mirrored", "hippocampus_001")]


def test_every_rule_is_documented() -> None:
    folder = Path(io.__file__).parent
    source = "".join(path.read_text() for path in sorted(folder.rglob("*.py")))
    used = set(re.findall(r'rule(?:: str)? ?= ?"([a-z-]+)"', source))
    used |= set(re.findall(r'\("(?:error|warning|note)",\s*"([a-z-]+)"', source))
    used |= {"absent-label", "rare-label", "extreme-values", "not-finite"}  # chosen at run time
    assert len(used) > 25
    page = Path(__file__).resolve().parents[3] / "datasets.md"
    if not page.is_file():
        pytest.skip("datasets.md is not part of the installed package")
    documented = set(re.findall(r"`([a-z-]+)`", page.read_text()))
    assert used <= documented, used - documented
    rows = re.findall(r"^\| (`[^|]+) \| (?:error|warning|note)", page.read_text(), re.M)
    assert {rule for row in rows for rule in re.findall(r"`([a-z-]+)`", row)} == used
