"""How a training looks on the terminal, and how signals stop it."""

from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from medmamba.cli._training import TrainingDisplay
from medmamba.plans.plan import TrainSettings
from medmamba.training.run import Schedule
from medmamba.training.trainer import StepReport, Trainer


class IdleTrainer:
    """Has what a display looks at, and does nothing."""

    def __init__(self, schedule: Schedule, folder: Path) -> None:
        self.schedule, self.stopped = schedule, 0
        self.settings = TrainSettings(batch_size=2, batch_dice=False)
        self.device = "cpu"
        self.run = SimpleNamespace(info=SimpleNamespace(schedule=schedule, precision="fp32"), folder=folder)

    def stop(self) -> None:
        self.stopped += 1


def watch(schedule: Schedule, step_s: float, folder: Path, *, first: int = 1) -> None:
    """Let a display see ten steps; the first one takes a minute, as it compiles."""
    with TrainingDisplay("test") as display:
        display.start(cast(Trainer, IdleTrainer(schedule, folder)))
        for number in range(10):
            elapsed_s = 60.0 + number * step_s
            display.on_step(
                StepReport(step=first + number, progress=0.1, loss=1.0, learning_rate=0.01, elapsed_s=elapsed_s)
            )


def test_signals_stop_the_trainer_and_afterwards_do_what_they_did_before(tmp_path: Path) -> None:
    before: list[Any] = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    trainer = IdleTrainer(Schedule(steps=10), tmp_path)
    with TrainingDisplay("test") as display:
        display.start(cast(Trainer, trainer))
        signal.raise_signal(signal.SIGINT)
        assert trainer.stopped == 1
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


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
