"""How a training looks on the terminal, and how it is stopped."""

from __future__ import annotations

import math
import signal
from typing import TYPE_CHECKING, Any

from rich.progress import TextColumn, TimeElapsedColumn, TimeRemainingColumn

from medmamba.cli._console import bars, err, note
from medmamba.training.pace import KNOWN_AFTER, SideJob

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medmamba.training.plot import Curves
    from medmamba.training.reports import EpochReport, Record, StepReport
    from medmamba.training.trainer import Trainer

#: What asks a training to stop.
STOPS = (signal.SIGINT, signal.SIGTERM)
#: Of the time of training, for the picture that shows how far it is.
PICTURE_SHARE = 0.01
#: Longer trainings are announced with the time they will take.
SHORT_S = 60.0


class TrainingDisplay:
    """Progress of a training on the terminal: a bar with loss, score and time left, a line per epoch."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._trainer: Trainer | None = None
        self._curves: Curves | None = None
        self._handlers: dict[signal.Signals, Any] = {}
        self._first: StepReport | None = None
        self._picture = SideJob(PICTURE_SHARE)
        self._score = ""
        self._progress = bars(
            TextColumn("{task.percentage:>3.0f}% step {task.fields[step]} loss {task.fields[loss]}"),
            TextColumn("{task.fields[score]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=True),
            hidden=not err.is_terminal,
        )
        self._task = self._progress.add_task(title, total=1.0, step=0, loss="-", score="", start=False, visible=False)

    def __enter__(self) -> TrainingDisplay:
        return self

    def __exit__(self, *exception: object) -> None:
        """The bar goes, and signals do again what they did before."""
        try:
            self._progress.stop()
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            self._handlers.clear()

    def on_start(self, trainer: Trainer, past: Sequence[Record]) -> None:
        """Training begins: show the bar, and let signals stop it in an orderly way."""
        from medmamba.training.plot import Curves

        self._trainer, self._curves = trainer, Curves(trainer.task.measures, past)
        settings = trainer.settings
        note(
            f"Training {self.title}: {trainer.schedule}, batches of {settings.batch_size}, learning rate "
            f"{settings.learning_rate:g}, momentum {settings.momentum:g}, {trainer.run.info.precision} on "
            f"{trainer.device}",
            None,
        )

        def request_stop(number: int, frame: Any) -> None:
            for stop in STOPS:
                signal.signal(stop, signal.SIG_DFL)
            note("stopping after this step; once more stops at once")
            trainer.stop()

        for number in STOPS:
            self._handlers[number] = signal.signal(number, request_stop)
        self._picture = SideJob(PICTURE_SHARE)
        self._progress.start_task(self._task)
        self._progress.update(self._task, visible=True)
        self._progress.start()

    def on_step(self, report: StepReport) -> None:
        if self._trainer is None or self._curves is None:
            return
        self._curves.add(report.record())
        self._progress.update(
            self._task, completed=report.progress, step=report.step, loss=f"{report.loss:.3f}", score=self._score
        )
        self._first = self._first or report  # compiles as well, so time runs from its end
        steps = self._trainer.schedule.steps
        if steps and report.step == self._first.step + KNOWN_AFTER:
            self._tell_time_left(self._first, report, steps)

    def _tell_time_left(self, first: StepReport, now: StepReport, steps: int) -> None:
        """What a number of steps costs on this machine, once it is known; a time budget says it itself."""
        each_s = (now.elapsed_s - first.elapsed_s) / (now.step - first.step)
        left_s = (steps - now.step) * each_s
        if left_s > SHORT_S:
            note(
                f"this machine needs about {_span(left_s)} for the {steps - now.step} steps left, {each_s:.2g} s each; "
                "stopped with Ctrl-C, the same command goes on",
                None,
            )

    def on_epoch(self, report: EpochReport) -> None:
        if self._trainer is None or self._curves is None:
            return
        self._curves.add(report.record())
        measures = self._trainer.task.measures
        self._score = _mean(measures[0].title, report.scores[measures[0].name])
        scores = "; ".join(f"{measure.title} {_each(report.scores[measure.name])}" for measure in measures)
        note(
            f"epoch {report.epoch}/{report.epochs}, step {report.step}, {report.elapsed_s:.0f} s: "
            f"loss {report.loss:.3f}, validation {report.validation_loss:.3f}, {scores}",
            None,
        )
        if self._picture.affordable:
            with self._picture.timed():
                self._curves.draw(self._trainer.run.folder / "progress.png", self.title)


def _mean(title: str, values: dict[str, float]) -> str:
    """The mean of what could be measured, and of how many it is."""
    known = [value for value in values.values() if math.isfinite(value)]
    if not known:
        return f"{title} -"
    part = f" over {len(known)} of {len(values)}" if len(known) < len(values) else ""
    return f"{title} {sum(known) / len(known):.3f}{part}"


def _each(values: dict[str, float]) -> str:
    """Each number with its name, and the names of those that validation could not measure."""
    known = ", ".join(f"{name} {value:.3f}" for name, value in values.items() if math.isfinite(value))
    absent = ", ".join(name for name, value in values.items() if not math.isfinite(value))
    return f"{known or 'undefined'}{f' ({absent} in none of the batches)' if absent else ''}"


def _span(seconds: float) -> str:
    """A time as people say it."""
    for unit, size in (("days", 86400.0), ("hours", 3600.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{max(1, round(seconds / 60))} min"
