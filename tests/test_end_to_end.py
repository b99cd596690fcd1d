"""From a folder of scans to scores, also when the machine dies in the middle."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from medmamba import io
from medmamba.cli.main import app
from tests.data_factory import write_dataset

SMALL = ["--set", "topology.features=[4, 8, 8]", "--set", "train.batch_size=2", "--workers", "0"]


def run(*arguments: str | Path) -> str:
    """What a command says that ends well."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, f"{arguments} ended {done.exit_code}\n{done.output}"
    return done.output


def stop_when(condition: Callable[[], bool], number: signal.Signals, *arguments: str | Path) -> tuple[int, str]:
    """Send a signal to a command of its own process as soon as the condition holds; its exit code and words."""
    command = [sys.executable, "-P", "-m", "medmamba.cli.main", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 600  # a busy machine takes long to import
        while not condition():
            assert process.poll() is None, "ended before it could be stopped"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(number)
        _, words = process.communicate(timeout=600)
    finally:
        process.kill()
        process.wait()
    return process.returncode, words


def has_logged(fold: Path, step: int) -> Callable[[], bool]:
    """Whether a training has come so far."""
    log = fold / "log.jsonl"
    return lambda: log.is_file() and f'"step": {step},' in log.read_text()


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan, of ``data`` three folders above it."""
    root = tmp_path_factory.mktemp("end_to_end")
    write_dataset(root / "data", cases=6)
    run("plan", root / "data", "--network", "umamba_bot", "--work", root / "work")
    (path,) = root.glob("work/*/*/plan.json")
    return path


@pytest.fixture(scope="module")
def fold(plan: Path) -> Path:
    """A finished run that was interrupted on its way."""
    command = ["train", plan, "--fold", "0", "--steps", "80", *SMALL]
    folder = plan.parent / "fold_0"
    code, words = stop_when(has_logged(folder, 3), signal.SIGINT, *command)
    assert code == 5
    assert "the same command goes on" in words
    assert (folder / "checkpoint.safetensors").is_file()
    assert not (folder / "final.safetensors").exists()
    assert "predict" in run(*command)
    assert (folder / "progress.png").read_bytes().startswith(b"\x89PNG")
    return folder


def test_scans_become_scores_that_beat_guessing(fold: Path, tmp_path: Path) -> None:
    data = fold.parents[3] / "data"
    run("predict", "-m", fold, "--validation", "-o", tmp_path / "predictions", "--no-mirror")
    run("evaluate", tmp_path / "predictions", data)
    report = json.loads((tmp_path / "predictions" / "report.json").read_text())
    means = [s["mean"] for s in report["summary"] if s["metric"] == "dice"]
    assert min(means) > 0.5, report["summary"]
    predictions = list((tmp_path / "predictions").glob("*.nii.gz"))
    assert predictions
    for prediction in predictions:
        image = data / "imagesTr" / prediction.name.replace(".nii", "_0000.nii")
        assert io.read_geometry(prediction) == io.read_geometry(image)


def test_killed_prediction_is_finished_by_the_same_command(fold: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    command = ["predict", "-m", fold, "-i", fold.parents[3] / "data" / "imagesTr", "-o"]
    run(*command, whole)
    code, _ = stop_when(lambda: len(list(killed.glob("case_*.nii.gz"))) >= 2, signal.SIGKILL, *command, killed)
    assert code == -signal.SIGKILL
    for path in killed.glob("case_*.nii.gz"):
        io.read_label(path)  # sound
    assert "finished earlier" in run(*command, killed)
    for path in whole.glob("*.nii.gz"):
        assert np.array_equal(io.read_label(path).array, io.read_label(killed / path.name).array)
    assert {path.name for path in killed.iterdir()} == {path.name for path in whole.iterdir()}


@pytest.mark.slow  # tests/training kills a smaller one, and stops this one in other ways
def test_killed_training_ends_with_the_weights_of_an_undisturbed_one(plan: Path) -> None:
    command = ["train", plan, "--fold", "1", "--steps", "12", *SMALL]
    run(*command)
    whole = plan.parent / "fold_1"
    aside = whole.rename(whole.with_name("whole"))
    for step in (4, 9):
        code, _ = stop_when(has_logged(whole, step), signal.SIGKILL, *command)
        assert code == -signal.SIGKILL
        assert not (whole / "final.safetensors").exists()
        load_file(whole / "checkpoint.safetensors")  # sound
    run(*command)
    ours, theirs = load_file(whole / "final.safetensors"), load_file(aside / "final.safetensors")
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
