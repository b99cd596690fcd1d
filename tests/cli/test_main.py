"""The command line as a whole: quick help, known options, one paragraph per error."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from medmamba.cli._console import bars
from medmamba.cli.main import app, main
from medmamba.cli.train import parse_time
from medmamba.errors import DataError, MachineError, StoppedError, UsageError
from medmamba.files import OutputError
from medmamba.memory import TooLittleMemoryError
from tests.data_factory import write_dataset

COMMANDS = [
    [],
    ["dataset"],
    ["dataset", "check"],
    ["plan"],
    ["train"],
    ["predict"],
    ["scan"],
    ["evaluate"],
    ["report"],
    ["register"],
    ["warp"],
    ["tre"],
    ["networks"],
    ["model"],
    ["model", "import"],
    ["demo"],
]
#: Options and their defaults (... where one must be given). A new one is a decision: it is added here on purpose.
OPTIONS: dict[str, dict[str, Any]] = {
    "plan": {
        "--task": None,
        "--network -n": None,
        "--mixer": None,
        "--configuration -c": None,
        "--gpu-memory": 8.0,
        "--work": Path("medmamba-work"),
        "--export-nnunet": None,
        "--channel-rule": None,
        "--force": False,
        "--json": False,
        "--edition": "",
        "--moving": None,
        "--atlas": "",
        "--direction": "to_atlas",
        "--set": None,
    },
    "train": {
        "--fold": "0",
        "--network": None,
        "--configuration": None,
        "--steps": None,
        "--budget": None,
        "--device": "auto",
        "--precision": None,
        "--work": Path("medmamba-work"),
        "--resume --restart": True,
        "--set": None,
        "--workers": None,
        "--data": None,
        "--edition": "",
    },
    "predict": {
        "--output -o": ...,
        "--model -m": ...,
        "--input -i": None,
        "--validation": False,
        "--device": "auto",
        "--precision": None,
        "--mirror --no-mirror": None,
        "--weights": None,
        "--overwrite": False,
        "--format": None,
        "--seg-type": "binary",
        "--anonymise": False,
        "--codes": None,
        "--data": None,
        "--series": None,
        "--channel": None,
        "--uneven": "refuse",
        "--tilt": "refuse",
        "--phase": "",
        "--duplicates": "refuse",
    },
    "scan": {"--model -m": None, "--json": False},
    "evaluate": {
        "--labels -l": None,
        "--metric": None,
        "--least-ml": 0.0,
        "--empty": "undefined",
        "--missing": "fail",
        "--infinite": "keep",
        "--output -o": None,
        "--summary-json": False,
        "--report": None,
        "--images": None,
        "--subgroups": None,
        "--name": "",
        "--title": "",
        "--viewer": "auto",
        "--workers -w": 2,
        "--json": False,
    },
    "report": {
        "--output -o": Path("report.html"),
        "--name": None,
        "--reference": None,
        "--labels -l": None,
        "--metric": None,
        "--images": None,
        "--subgroups": None,
        "--title": "",
        "--viewer": "auto",
        "--workers -w": 2,
    },
    "register": {
        "--output -o": ...,
        "--fixed -f": None,
        "--moving": None,
        "--pairs": None,
        "--atlas": "",
        "--direction": "to_atlas",
        "--validation": False,
        "--data": None,
        "--fixed-label": None,
        "--moving-label": None,
        "--fixed-points": None,
        "--moving-points": None,
        "--fixed-mask": None,
        "--moving-mask": None,
        "--model -m": None,
        "--affine": None,
        "--refine": None,
        "--similarity": None,
        "--deformation": None,
        "--device": "auto",
        "--tfm": False,
        "--overwrite": False,
    },
    "tre": {
        "--transform -t": None,
        "--fixed-image": None,
        "--moving-image": None,
        "--output -o": None,
        "--json": False,
    },
    "warp": {
        "--transform -t": ...,
        "--input -i": ...,
        "--output -o": ...,
        "--like": None,
        "--inverse": False,
        "--interpolation": "auto",
        "--outside": None,
    },
    "networks": {
        "--json": False,
    },
    "demo": {
        "--output -o": Path("medmamba-demo"),
        "--steps": None,
        "--budget": None,
        "--seed": 0,
        "--device": "auto",
    },
    "dataset check": {
        "--json": False,
        "--strict": False,
        "--workers": 4,
        "--edition": "",
        "--task": "segmentation",
        "--moving": None,
    },
    "model import": {
        "--from": ...,
        "--output -o": ...,
        "--config": None,
        "--entry": None,
        "--overwrite": False,
        "--trust-pickle": False,
    },
    "medmamba": {
        "--verbose -v": False,
        "--version": False,
        "--install-completion": None,
        "--show-completion": None,
    },
}


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str]:
    """The command as it is installed: exit code and what it wrote to standard error."""
    monkeypatch.setattr(sys, "argv", ["medmamba", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0), capsys.readouterr().err


HELP = """
import json, sys
from typer.testing import CliRunner
from medmamba.cli.main import app

heavy = {"torch", "numpy", "monai", "nnunetv2", "scipy", "nibabel", "SimpleITK", "numba", "matplotlib"}
for command in json.loads(sys.argv[1]):
    result = CliRunner().invoke(app, [*command, "--help"])
    found = {"code": result.exit_code, "lines": result.output.count("\\n"), "heavy": sorted(heavy & set(sys.modules))}
    print(json.dumps(found))
"""


def test_help_of_every_command_teaches_and_needs_no_torch() -> None:
    arguments = [sys.executable, "-P", "-c", HELP, json.dumps(COMMANDS)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command, line in zip(COMMANDS, done.stdout.splitlines(), strict=True):
        told = json.loads(line)
        assert (told["code"], told["heavy"]) == (0, []), command
        assert told["lines"] > 8, command


def options() -> dict[str, Any]:
    """What each command is given, by the name of the command."""

    def walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
        for inner, each in getattr(command, "commands", {}).items():
            yield from walk(each, f"{name} {inner}".strip())
        if not hasattr(command, "commands") or not name:
            yield name or "medmamba", [each for each in command.params if "--help" not in each.opts]

    return dict(walk(get_command(app), ""))


@pytest.mark.parametrize("name", OPTIONS)
def test_options_are_those_that_were_decided_on(name: str) -> None:
    found = {
        " ".join((*each.opts, *each.secondary_opts)): ... if each.required else each.default
        for each in options()[name]
        if each.param_type_name == "option"
    }
    assert found == OPTIONS[name]
    assert all(each.help for each in options()[name] if each.param_type_name == "option")


def test_options_of_every_command_were_decided_on() -> None:
    assert options().keys() == OPTIONS.keys()


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


def test_time_left_is_known_of_what_takes_minutes_each(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    progress = bars()
    monkeypatch.setattr(progress, "get_time", lambda: now[0])
    progress.add_task("Registering", total=10)
    [task] = progress.tasks
    for _ in range(3):
        now[0] += 150
        progress.advance(task.id)
    assert task.time_remaining == 7 * 150


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
    with pytest.raises(UsageError):
        parse_time(text)


KINDS: list[tuple[BaseException, int, str]] = [
    (UsageError("not so"), 2, "error: not so"),
    (OutputError("not there"), 2, "error: not there"),
    (DataError("strange [b] data"), 3, "error: strange [b] data"),
    (FileNotFoundError(errno.ENOENT, "No such file or directory", "a.nii"), 3, "error: a.nii: No such file"),
    (MachineError("no such device"), 4, "error: no such device"),
    (PermissionError(errno.EACCES, "Permission denied", "a.nii"), 4, "error: a.nii: Permission denied"),
    (OSError(errno.ENOSPC, "No space left", "a.nii"), 4, "error: no space left on the disk to write a.nii; make room"),
    (MemoryError("9 GB"), 4, "error: not enough memory: 9 GB"),
    (MemoryError(), 4, "error: not enough memory"),
    (TooLittleMemoryError("9 GB"), 4, "error: not enough memory: 9 GB"),
    (StoppedError("stopped after step 7"), 5, "error: stopped after step 7"),
    (KeyboardInterrupt(), 5, "interrupted; the same command goes on"),
]


@pytest.mark.parametrize(("error", "code", "words"), KINDS, ids=lambda value: type(value).__name__)
def test_foreseeable_error_is_one_paragraph_and_the_exit_code_of_its_kind(
    error: BaseException, code: int, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr("medmamba.networks.names", fail)
    found, said = run(capsys, monkeypatch, "networks")
    assert (found, said.startswith(words), said.count("\n")) == (code, True, 1), said
    # Where it comes from is shown when asked for.
    found, said = run(capsys, monkeypatch, "--verbose", "networks")
    assert found == code
    assert said.startswith("Traceback (most recent call last)")
    assert "raise error" in said
    assert said.splitlines()[-1].startswith(words)


def test_reader_that_has_seen_enough_ends_a_command_without_a_word(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed() -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("sys.stdout", sys.stdout)  # Typer puts another in their place
    monkeypatch.setattr("sys.stderr", sys.stderr)
    monkeypatch.setattr("medmamba.networks.names", closed)
    assert run(capsys, monkeypatch, "networks") == (1, "")


def test_bug_shows_where_it_is_and_says_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong() -> None:
        raise ValueError("not enough values [to] unpack")

    monkeypatch.setattr("medmamba.networks.names", wrong)
    code, said = run(capsys, monkeypatch, "networks")
    assert code == 1
    assert said.startswith("Traceback (most recent call last)")
    assert "in wrong" in said
    assert "ValueError: not enough values [to] unpack" in said
    assert re.match(r"This is a bug of medmamba \d+\.\d+.*report it", said.splitlines()[-1])


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
