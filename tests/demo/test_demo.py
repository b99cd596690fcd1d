"""The demonstration runs the commands it shows, and goes on where it was interrupted."""

from __future__ import annotations

import shlex
import signal
import sys
from pathlib import Path

import pytest

import medmamba.demo.demo
import medmamba.evaluation.evaluate
from medmamba.cli.main import main
from medmamba.demo.demo import Demo
from medmamba.demo.phantom import cohort_seed
from medmamba.plans.plan import Plan
from medmamba.training.run import Run, Schedule

SMALL = {"topology.features": [4, 6, 8, 8], "topology.patch_size": [24, 24, 24]}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A demonstration of seconds."""
    monkeypatch.setattr(medmamba.demo.demo, "TRAINING_CASES", 2)
    monkeypatch.setattr(medmamba.demo.demo, "UNSEEN_CASES", 1)
    monkeypatch.setattr(medmamba.demo.demo, "SETTINGS", SMALL)
    monkeypatch.setattr(medmamba.demo.demo, "NETWORK", "unet")


def medmamba_(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The command as it is installed; its exit code."""
    monkeypatch.setattr(sys, "argv", ["medmamba", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


@pytest.mark.usefixtures("small")
def test_demo_is_what_its_commands_do_and_goes_on_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a demo"
    demo = ["demo", "--output", str(folder), "--steps", "2", "--device", "cpu"]

    def interrupt(*_: object) -> None:
        # After training Ctrl-C is Ctrl-C again, not a request to the trainer.
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(medmamba.evaluation.evaluate, "match_files", interrupt)
        assert medmamba_(monkeypatch, *demo) == 5
    assert "the same command goes on" in capsys.readouterr().err
    run = Run(folder / "medmamba-work" / medmamba.demo.demo.DATASET / "3d_fullres__unet" / "fold_all")
    trained = run.weights_path("final").stat().st_mtime_ns

    assert medmamba_(monkeypatch, *demo) == 0
    said = capsys.readouterr()
    assert run.weights_path("final").stat().st_mtime_ns == trained
    assert "1 finished earlier" in said.out
    assert (folder / "overlay.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "predictions" / "report.json").is_file()

    # Every command that was shown, typed again: it finds its work done, by the same plan and schedule.
    shown = [line.removeprefix("> ") for line in said.out.splitlines() if line.startswith("> medmamba ")]
    assert [shlex.split(line)[1] for line in shown] == ["plan", "train", "predict", "evaluate"]
    assert Path(shlex.split(shown[1])[2]) == run.folder.parent / "plan.json"
    for line in shown:
        assert medmamba_(monkeypatch, *shlex.split(line)[1:]) == 0, line
    assert run.weights_path("final").stat().st_mtime_ns == trained
    plan = Plan.load(run.folder / "plan.json")
    assert list(plan.topology.features) == SMALL["topology.features"]
    assert list(plan.topology.patch_size) == SMALL["topology.patch_size"]
    assert run.info.schedule == Schedule(steps=2)
    assert run.info.precision == "fp32"


def test_demo_does_not_go_by_the_clock_unless_asked_to() -> None:
    assert "--budget" not in Demo(folder=Path("x")).commands()[1]
    train = Demo(folder=Path("x"), budget="5m").commands()[1]
    assert train[train.index("--budget") + 1] == "5m"
    assert "--steps" not in train


@pytest.mark.usefixtures("small")
def test_demo_refuses_the_scans_of_another_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(medmamba.demo.demo, "TRAINING_CASES", 1)
    monkeypatch.setattr(medmamba.demo.demo, "UNSEEN_CASES", 0)
    Demo(folder=tmp_path, seed=3).invent()
    assert cohort_seed(tmp_path / medmamba.demo.demo.DATASET) == 3
    Demo(folder=tmp_path, seed=3).invent()
    with pytest.raises(ValueError, match="invented with seed 3, but --seed is 4"):
        Demo(folder=tmp_path, seed=4).invent()
