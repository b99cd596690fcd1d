"""The command line as a whole: quick help, known options, one paragraph per error."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from medmamba.cli.main import app, main
from medmamba.cli.train import parse_time
from tests.data_factory import write_dataset

COMMANDS = [
    [],
    ["dataset"],
    ["dataset", "check"],
    ["plan"],
    ["train"],
    ["predict"],
    ["evaluate"],
    ["networks"],
    ["model"],
    ["model", "import"],
    ["demo"],
]
#: A new option is a decision: it is added here on purpose.
OPTIONS = {
    "dataset check": {"--json", "--strict", "--workers"},
    "train": {
        "--fold", "--network", "--configuration", "--steps", "--budget", "--device", "--precision", "--work",
        "--resume", "--restart", "--set", "--workers", "--data",
    },
    "predict": {
        "--output", "-o", "--model", "-m", "--input", "-i", "--validation", "--device", "--precision", "--mirror",
        "--no-mirror", "--weights", "--overwrite", "--data",
    },
    "networks": {"--json"},
    "model import": {"--from", "--output", "-o", "--config", "--entry", "--overwrite", "--trust-pickle"},
    "demo": {"--output", "-o", "--steps", "--budget", "--seed", "--device"},
}  # fmt: skip


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str]:
    """The command as it is installed: exit code and what it wrote to standard error."""
    monkeypatch.setattr(sys, "argv", ["medmamba", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0), capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command) or "medmamba")
def test_help_teaches_and_needs_no_torch(command: list[str]) -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom medmamba.cli.main import app\n"
        f"result = CliRunner().invoke(app, {[*command, '--help']!r})\n"
        "heavy = {'torch', 'numpy', 'monai', 'nnunetv2', 'scipy', 'nibabel', 'SimpleITK', 'numba', 'matplotlib'}\n"
        "heavy &= set(sys.modules)\n"
        "assert result.exit_code == 0, result.output\nassert not heavy, heavy\nprint(result.output)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > 8


@pytest.mark.parametrize("name", OPTIONS)
def test_options_are_those_that_were_decided_on(name: str) -> None:
    command: object = get_command(app)
    for part in name.split():
        command = command.commands[part]  # type: ignore[attr-defined]
    found = {text for option in command.params for text in (*option.opts, *option.secondary_opts)}  # type: ignore[attr-defined]
    assert {text for text in found if text.startswith("-")} - {"--help"} == OPTIONS[name]


def test_version_and_networks_are_listed() -> None:
    runner = CliRunner()
    assert re.match(r"medmamba \d+\.\d+", runner.invoke(app, ["--version"]).stdout)
    listed = json.loads(runner.invoke(app, ["networks", "--json"]).stdout)
    assert {"umamba_bot", "umamba_enc", "unet"} <= {entry["name"] for entry in listed}
    assert all(entry["summary"] and entry["source"] for entry in listed)


def damage(dataset: Path, kind: str) -> None:
    """Spoil a sound data set in one way."""
    image = dataset / "imagesTr" / "case_01_0000.nii.gz"
    label = dataset / "labelsTr" / "case_01.nii.gz"
    description = dataset / "dataset.json"
    facts = json.loads(description.read_text())
    if kind == "empty-file":
        image.write_bytes(b"")
    elif kind == "cut-short":
        image.write_bytes(image.read_bytes()[:-100])
    elif kind == "web-page":
        image.write_bytes(b"<html><body>404 not found</body></html>")
    elif kind == "singular":
        header = nibabel.load(image).header.copy()
        header["srow_z"] = 0
        header["qform_code"] = 0  # a qform would take the sform's place
        nibabel.save(nibabel.Nifti1Image(np.asarray(nibabel.load(image).dataobj), None, header), image)
    elif kind == "nan":
        loaded = nibabel.load(image)
        values = np.asarray(loaded.dataobj).copy()
        values[3, 3, 3] = np.nan
        nibabel.save(nibabel.Nifti1Image(values, loaded.affine), image)
    elif kind == "label-missing":
        label.unlink()
    elif kind == "label-value":
        loaded = nibabel.load(label)
        values = np.asarray(loaded.dataobj).copy()
        values[0, 0, 0] = 7
        nibabel.save(nibabel.Nifti1Image(values, loaded.affine), label)
    elif kind == "interpolated-label":
        loaded = nibabel.load(label)
        nibabel.save(nibabel.Nifti1Image(np.asarray(loaded.dataobj) * np.float32(0.5), loaded.affine), label)
    elif kind == "mirrored-label":
        loaded = nibabel.load(label)
        affine = loaded.affine @ np.diag([-1, 1, 1, 1])
        nibabel.save(nibabel.Nifti1Image(np.asarray(loaded.dataobj), affine), label)
    elif kind == "other-shape":
        loaded = nibabel.load(label)
        nibabel.save(nibabel.Nifti1Image(np.asarray(loaded.dataobj)[:-2], loaded.affine), label)
    elif kind == "no-background":
        del facts["labels"]["background"]
        description.write_text(json.dumps(facts))
    elif kind == "regions-without-order":
        facts["labels"]["block"] = [1, 2]
        description.write_text(json.dumps(facts))
    elif kind == "broken-json":
        description.write_text('{"labels": ')


FAULTS = {
    "empty-file": ("case_01_0000.nii.gz", "empty"),
    "cut-short": ("case_01_0000.nii.gz", "cut short"),
    "web-page": ("case_01_0000.nii.gz", "<html"),
    "singular": ("case_01_0000.nii.gz", "singular"),
    "nan": ("case_01", "NaN"),
    "label-missing": ("case_01", "label"),
    "label-value": ("case_01", "7"),
    "interpolated-label": ("case_01.nii.gz", "integers"),
    "mirrored-label": ("case_01", "L"),
    "other-shape": ("case_01", "18"),
    "no-background": ("dataset.json", "background"),
    "regions-without-order": ("dataset.json", "regions_class_order"),
    "broken-json": ("dataset.json", "JSON"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_bad_input_is_named_by_check_and_stops_training_in_one_paragraph(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = write_dataset(tmp_path / "data")
    damage(dataset, kind)
    checked = CliRunner().invoke(app, ["dataset", "check", str(dataset), "--json"])
    assert checked.exit_code == 3
    errors = [finding for finding in json.loads(checked.stdout) if finding["severity"] == "error"]
    told = " ".join(f"{error['case']} {error['file']} {error['message']}" for error in errors)
    for word in FAULTS[kind]:
        assert word in told
    work = str(tmp_path / "work")
    code, words = run(capsys, monkeypatch, "train", str(dataset), "--steps", "1", "--work", work, "--device", "cpu")
    assert code == 3, words
    lines = [line for line in words.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, words
    assert FAULTS[kind][0] in lines[0]
    assert not list(tmp_path.glob("work/**/fold_*"))
    assert not list(tmp_path.glob("work/**/*.tmp"))


def test_wrong_usage_has_its_own_exit_code(tmp_path: Path) -> None:
    runner = CliRunner()
    assert runner.invoke(app, ["plan", str(tmp_path / "absent")]).exit_code == 2
    both = ["train", str(tmp_path), "--steps", "1", "--budget", "1m"]
    assert runner.invoke(app, both).exit_code == 2
    assert runner.invoke(app, ["train", str(tmp_path), "--budget", "soon"]).exit_code == 2
    assert runner.invoke(app, ["predict", "-o", str(tmp_path), "-m", str(tmp_path)]).exit_code == 2


def test_absent_device_is_a_fault_of_the_machine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = write_dataset(tmp_path / "data")
    work = str(tmp_path / "work")
    code, words = run(capsys, monkeypatch, "train", str(dataset), "--device", "cuda:99", "--work", work)
    assert code == 4
    assert "cuda:99" in words


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("20m", 1200), ("1h30m", 5400), ("0.5m", 30)])
def test_times_are_understood(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["20", "m", "-5m", "5 m", "0s", "5m!"])
def test_times_that_are_not_are_refused(text: str) -> None:
    with pytest.raises(typer.Exit):
        parse_time(text)


@pytest.mark.parametrize("command", [["networks"], ["dataset", "check", "."], ["demo"]], ids=" ".join)
def test_interruption_anywhere_has_its_own_exit_code(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.chdir(tmp_path)
    for place in (
        "medmamba.networks.names",
        "medmamba.io.open_dataset",
        "medmamba.io.check.check_dataset",
        "medmamba.demo.demo.Demo",
    ):
        monkeypatch.setattr(place, interrupt)
    code, words = run(capsys, monkeypatch, *command)
    assert code == 5
    assert "interrupted; the same command goes on" in words


@pytest.mark.parametrize(
    ("given", "rounds"), [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)], ids=str
)
def test_threads_do_not_spin_while_they_wait_unless_told_to(
    given: dict[str, str], rounds: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that both are put back
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    run(capsys, monkeypatch, "--version")
    assert os.environ.get("GOMP_SPINCOUNT") == rounds
