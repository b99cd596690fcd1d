"""How a training looks on the terminal, and how it is stopped."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from medmamba.cli._console import err
from medmamba.training.pace import KNOWN_AFTER, SideJob

if TYPE_CHECKING:
    from medmamba.training.run import Run
    from medmamba.training.trainer import EpochReport, StepReport, Trainer


#: Of the time of training, for the picture that shows how far it is.
PICTURE_SHARE = 0.01
#: Longer trainings are announced with the time they will take.
SHORT_S = 60.0


class TrainingDisplay:
    """Progress of a training on the terminal: a bar with loss, Dice and time left, a line per epoch."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._run: Run | None = None
        self._handlers: dict[int, Any] = {}
        self._first: StepReport | None = None
        self._picture = SideJob(PICTURE_SHARE)
        self._dice = "-"
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}% step {task.fields[step]} loss {task.fields[loss]}"),
            TextColumn("Dice {task.fields[dice]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=True),
        )
        self._progress = Progress(*columns, console=err, disable=not err.is_terminal)
        self._task = self._progress.add_task(title, total=1.0, step=0, loss="-", dice="-", start=False, visible=False)

    def __enter__(self) -> TrainingDisplay:
        return self

    def __exit__(self, *exception: object) -> None:
        """The bar goes, and signals do again what they did before."""
        self._progress.stop()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def start(self, trainer: Trainer) -> None:
        """Training begins: show the bar, and let signals stop it in an orderly way."""
        self._run = trainer.run
        settings = trainer.settings
        err.print(
            f"Training {self.title}: {trainer.schedule}, batches of {settings.batch_size}, learning rate "
            f"{settings.learning_rate:g}, momentum {settings.momentum:g}, {trainer.run.info.precision} on "
            f"{trainer.device}",
            markup=False,
            highlight=False,
        )

        def request_stop(number: int, frame: Any) -> None:
            err.print("stopping after this step; once more stops at once", style="yellow")
            trainer.stop()
            signal.signal(number, signal.SIG_DFL)

        for number in (signal.SIGINT, signal.SIGTERM):
            self._handlers[number] = signal.signal(number, request_stop)
        self._picture = SideJob(PICTURE_SHARE)
        self._progress.start_task(self._task)
        self._progress.update(self._task, visible=True)
        self._progress.start()

    def on_step(self, report: StepReport) -> None:
        self._progress.update(
            self._task, completed=report.progress, step=report.step, loss=f"{report.loss:.3f}", dice=self._dice
        )
        self._first = self._first or report  # compiles as well, so time runs from its end
        if self._run and self._run.info.schedule.steps and report.step == self._first.step + KNOWN_AFTER:
            self._tell_time_left(self._first, report, self._run.info.schedule.steps)

    def _tell_time_left(self, first: StepReport, now: StepReport, steps: int) -> None:
        """What a number of steps costs on this machine, once it is known; a time budget says it itself."""
        each_s = (now.elapsed_s - first.elapsed_s) / (now.step - first.step)
        left_s = (steps - now.step) * each_s
        if left_s > SHORT_S:
            err.print(
                f"this machine needs about {_span(left_s)} for the {steps - now.step} steps left, {each_s:.2g} s each; "
                "stopped with Ctrl-C, the same command goes on",
                markup=False,
                highlight=False,
            )

    def on_epoch(self, report: EpochReport) -> None:
        from medmamba.training.plot import plot_progress

        scores = ", ".join(f"{name} {value:.3f}" for name, value in report.dice.items())
        self._dice = f"{sum(report.dice.values()) / len(report.dice):.3f}" if report.dice else "-"
        if self._run is not None:
            structures = [label.name for label in self._run.plan.labels.foreground]
            if absent := [name for name in structures if name not in report.dice]:
                scores = f"{scores or 'undefined'} ({', '.join(absent)} in none of the patches)"
                self._dice += f" over {len(report.dice)} of {len(structures)}"
        err.print(
            f"epoch {report.epoch}/{report.epochs}, step {report.step}, {report.elapsed_s:.0f} s: "
            f"loss {report.loss:.3f}, validation {report.validation_loss:.3f}, Dice {scores or 'undefined'}",
            markup=False,
            highlight=False,
        )
        if self._run is not None and self._picture.affordable:
            with self._picture.timed():
                plot_progress(self._run.read_log(), self._run.folder / "progress.png", self.title)


def _span(seconds: float) -> str:
    """A time as people say it."""
    for unit, size in (("days", 86400.0), ("hours", 3600.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{max(1, round(seconds / 60))} min"
