"""How a training looks on the terminal, and how signals stop it."""

from __future__ import annotations

import math
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from typer.testing import CliRunner

from medmamba.cli._training import TrainingDisplay
from medmamba.cli.main import app
from medmamba.plans.plan import TrainSettings
from medmamba.plans.workspace import plan_dataset
from medmamba.tasks import Measure
from medmamba.training import plot
from medmamba.training.reports import EpochReport, StepReport
from medmamba.training.run import Schedule
from medmamba.training.trainer import Trainer
from tests.data_factory import write_dataset

MEASURES = (
    Measure(name="dice", title="Dice", limits=(0.0, 1.0)),
    Measure(name="landmarks_mm", title="landmark error in mm", higher_is_better=False),
)


class IdleTrainer:
    """Has what a display looks at, and does nothing; its run has no log that could be read."""

    def __init__(self, schedule: Schedule, folder: Path) -> None:
        self.schedule, self.stopped = schedule, 0
        self.task = SimpleNamespace(measures=MEASURES)
        self.settings = TrainSettings(batch_size=2, batch_dice=False)
        self.device = "cpu"
        self.run = SimpleNamespace(info=SimpleNamespace(schedule=schedule, precision="fp32"), folder=folder)

    def stop(self) -> None:
        self.stopped += 1


def watch(schedule: Schedule, step_s: float, folder: Path, *, first: int = 1) -> None:
    """Let a display see ten steps; the first one takes a minute, as it compiles."""
    with TrainingDisplay("test") as display:
        display.on_start(cast(Trainer, IdleTrainer(schedule, folder)), [])
        for number in range(10):
            elapsed_s = 60.0 + number * step_s
            display.on_step(
                StepReport(step=first + number, progress=0.1, loss=1.0, learning_rate=0.01, elapsed_s=elapsed_s)
            )


STOPS = (signal.SIGINT, signal.SIGTERM)


@pytest.mark.parametrize("first", STOPS)
def test_first_signal_stops_the_trainer_and_the_next_of_either_kind_the_process(
    tmp_path: Path, first: signal.Signals
) -> None:
    trainer = IdleTrainer(Schedule(steps=10), tmp_path)
    with TrainingDisplay("test") as display:
        display.on_start(cast(Trainer, trainer), [])
        signal.raise_signal(first)
        assert trainer.stopped == 1
        assert [signal.getsignal(number) for number in STOPS] == [signal.SIG_DFL] * 2


class BrokenBarError(Exception):
    """What a terminal that went away may bring about."""


@pytest.mark.parametrize("way_out", [None, RuntimeError, KeyboardInterrupt, SystemExit, BrokenBarError], ids=str)
@pytest.mark.parametrize("signalled", [(), (signal.SIGINT,), (signal.SIGTERM,)], ids=str)
def test_signals_do_what_they_did_before_whatever_ended_the_training(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    way_out: type[BaseException] | None,
    signalled: tuple[signal.Signals, ...],
) -> None:
    before: list[Any] = [signal.getsignal(number) for number in STOPS]

    def training() -> None:
        with TrainingDisplay("test") as display:
            display.on_start(cast(Trainer, IdleTrainer(Schedule(steps=10), tmp_path)), [])
            for number in signalled:
                signal.raise_signal(number)
            if way_out is BrokenBarError:
                monkeypatch.setattr(display._progress, "stop", break_bar)
            elif way_out is not None:
                raise way_out

    def break_bar() -> None:
        raise BrokenBarError

    if way_out is None:
        training()
    else:
        with pytest.raises(way_out):
            training()
    assert [signal.getsignal(number) for number in STOPS] == before
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def step(number: int) -> StepReport:
    return StepReport(step=number, progress=0.1, loss=1.0, learning_rate=0.01, elapsed_s=1.0)


def epoch(number: int, **scores: dict[str, float]) -> EpochReport:
    facts = {"loss": 0.5, "validation_loss": 0.5, "elapsed_s": 1.0}
    return EpochReport(epoch=number, epochs=2, step=2 * number, scores=scores, **facts)


def test_mean_of_a_part_of_the_numbers_says_so_and_every_measure_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with TrainingDisplay("test") as display:
        display.on_start(cast(Trainer, IdleTrainer(Schedule(steps=4), tmp_path)), [])
        display.on_epoch(epoch(1, dice={"block": 0.25, "core": math.nan}, landmarks_mm={"mean": 3.5}))
        assert display._score == "Dice 0.250 over 1 of 2"
    said = capsys.readouterr().err
    assert "Dice block 0.250 (core in none of the batches); landmark error in mm mean 3.500" in said


def test_picture_of_a_resumed_run_is_that_of_its_whole_log_without_reading_it_again(tmp_path: Path) -> None:
    scores = {"dice": {"block": 0.25}, "landmarks_mm": {"mean": 3.5}}
    reports = [step(1), step(2), epoch(1, **scores), step(3), step(4), epoch(2, **scores)]
    with TrainingDisplay("test") as display:
        display.on_start(
            cast(Trainer, IdleTrainer(Schedule(steps=4), tmp_path)), [report.record() for report in reports[:3]]
        )
        display.on_step(reports[3])
        display.on_step(reports[4])
        display.on_epoch(reports[5])
    plot.Curves(MEASURES, [report.record() for report in reports]).draw(tmp_path / "whole.png", "test")
    assert (tmp_path / "progress.png").read_bytes() == (tmp_path / "whole.png").read_bytes()


@pytest.mark.parametrize(
    ("steps", "first", "step_s", "words"),
    [
        (200, 1, 12.0, "needs about 39 min for the 194 steps left, 12 s each"),
        (1000, 401, 60.0, "needs about 9.9 hours for the 594 steps left, 60 s each"),
        (250_000, 1, 10.0, "needs about 28.9 days for the 249994 steps left, 10 s each"),
    ],
)
def test_time_that_a_number_of_steps_takes_is_told_once_after_the_first_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], steps: int, first: int, step_s: float, words: str
) -> None:
    watch(Schedule(steps=steps), step_s, tmp_path, first=first)
    assert capsys.readouterr().err.count(words) == 1


def test_short_training_and_time_budget_are_not_announced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    watch(Schedule(steps=200), 0.1, tmp_path)
    watch(Schedule(budget_s=1000.0), 12.0, tmp_path)
    assert "this machine needs" not in capsys.readouterr().err


def test_plan_that_lies_in_no_work_folder_keeps_everything_beside_it(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", cases=3)
    planned = plan_dataset(data, "unet", work=tmp_path / "work")
    shallow = tmp_path / "some" / "where" / "plan.json"
    planned.plan.save(shallow)
    before = set(tmp_path.rglob("*"))
    command = ["--steps", "1", "--set", "topology.features=[4, 8, 8]", "--set", "train.batch_size=2", "--workers", "0"]
    result = CliRunner().invoke(app, ["train", str(shallow), *command])
    assert result.exit_code == 0, result.output
    written = set(tmp_path.rglob("*")) - before
    assert [path for path in written if not path.is_relative_to(shallow.parent)] == []
    assert list(shallow.parent.glob("preprocessed/*/case_00.json"))
    # In a work folder, plans that prepare cases alike share them.
    result = CliRunner().invoke(app, ["train", str(planned.path), *command])
    assert result.exit_code == 0, result.output
    assert list((tmp_path / "work" / "data").glob("preprocessed/*/case_00.json"))
