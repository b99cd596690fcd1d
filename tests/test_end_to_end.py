"""From a folder of scans to scores, also when the machine dies in the middle."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from medmamba import io
from tests.data_factory import write_dataset

NETWORK = ["--set", "topology.features=[4, 8, 8]", "--set", "train.batch_size=2"]


def medmamba(*arguments: str, cwd: Path) -> list[str]:
    """The command line."""
    return [sys.executable, "-P", "-m", "medmamba.cli.main", *arguments]


def run(*arguments: str, cwd: Path, expect: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    done = subprocess.run(medmamba(*arguments, cwd=cwd), cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == expect, f"{arguments} ended {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def kill_when(condition: object, *arguments: str, cwd: Path) -> None:
    """Start a command and kill it, without a chance to clean up, as soon as the condition holds."""
    process = subprocess.Popen(
        medmamba(*arguments, cwd=cwd), cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 600  # a busy machine takes long to import
        while not condition():  # type: ignore[operator]
            assert process.poll() is None, "ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set and its plan."""
    root = tmp_path_factory.mktemp("end_to_end")
    write_dataset(root / "data", cases=6)
    run("plan", "data", "--network", "umamba_bot", cwd=root)
    return root


def plan_of(root: Path) -> Path:
    """Its only plan, relative to the folder."""
    (plan,) = root.glob("medmamba-work/*/*/plan.json")
    return plan.relative_to(root)


def test_scans_become_scores_that_beat_guessing(planned: Path) -> None:
    plan = plan_of(planned)
    trained = run("train", str(plan), "--fold", "0", "--steps", "150", *NETWORK, cwd=planned)
    fold = plan.parent / "fold_0"
    assert "predict" in trained.stdout
    assert (planned / fold / "progress.png").read_bytes().startswith(b"\x89PNG")
    run("predict", "-m", str(fold), "--validation", "-o", "predictions", "--no-mirror", cwd=planned)
    run("evaluate", "predictions", "data", cwd=planned)
    report = json.loads((planned / "predictions" / "report.json").read_text())
    means = [s["mean"] for s in report["summary"] if s["metric"] == "dice"]
    assert min(means) > 0.5, report["summary"]
    for prediction in (planned / "predictions").glob("*.nii.gz"):
        image = planned / "data" / "imagesTr" / prediction.name.replace(".nii", "_0000.nii")
        assert io.read_geometry(prediction) == io.read_geometry(image)


def test_killed_training_ends_with_the_weights_of_an_undisturbed_one(planned: Path) -> None:
    plan = plan_of(planned)
    command = ["train", str(plan), "--steps", "12", *NETWORK]
    run(*command, "--fold", "1", cwd=planned)
    whole = planned / plan.parent / "fold_1"
    aside = whole.rename(whole.with_name("whole"))
    log = whole / "log.jsonl"
    for step in (4, 9):
        kill_when(
            lambda step=step: log.is_file() and f'"step": {step}' in log.read_text(),
            *command,
            "--fold",
            "1",
            cwd=planned,
        )
        assert not (whole / "final.safetensors").exists()
        load_file(whole / "checkpoint.safetensors")  # sound
    run(*command, "--fold", "1", cwd=planned)
    ours, theirs = load_file(whole / "final.safetensors"), load_file(aside / "final.safetensors")
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def test_killed_prediction_is_finished_by_the_same_command(planned: Path) -> None:
    plan = plan_of(planned)
    run("train", str(plan), "--fold", "2", "--steps", "2", *NETWORK, cwd=planned)
    command = ["predict", "-m", str(plan.parent / "fold_2"), "-i", "data/imagesTr", "-o"]
    run(*command, "undisturbed", cwd=planned)
    killed = planned / "killed"
    kill_when(lambda: len(list(killed.glob("case_*.nii.gz"))) >= 2, *command, "killed", cwd=planned)
    for path in killed.glob("case_*.nii.gz"):
        io.read_label(path)  # sound
    finished = run(*command, "killed", cwd=planned)
    assert "finished earlier" in finished.stdout
    for path in (planned / "undisturbed").glob("*.nii.gz"):
        assert np.array_equal(io.read_label(path).array, io.read_label(killed / path.name).array)
    assert {path.name for path in killed.iterdir()} == {path.name for path in (planned / "undisturbed").iterdir()}


def test_interrupted_training_says_how_to_go_on(planned: Path) -> None:
    plan = plan_of(planned)
    command = ["train", str(plan), "--fold", "3", "--steps", "2000", *NETWORK]
    log = planned / plan.parent / "fold_3" / "log.jsonl"
    process = subprocess.Popen(medmamba(*command, cwd=planned), cwd=planned, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 600  # a busy machine takes long to import
    while not log.is_file() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, words = process.communicate(timeout=600)
    assert process.returncode == 5
    assert "the same command goes on" in words
    assert (log.parent / "checkpoint.safetensors").is_file()
