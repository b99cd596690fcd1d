"""How a training looks on the terminal, and how it is stopped."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from medmamba.cli._console import err

if TYPE_CHECKING:
    from medmamba.checkpoint import Run
    from medmamba.train import EpochReport, StepReport, Trainer


class TrainingDisplay:
    """Progress of a training on the terminal: a bar with loss, Dice and time left, a line per epoch."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._run: Run | None = None
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
        self._progress.stop()

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

        signal.signal(signal.SIGINT, request_stop)
        signal.signal(signal.SIGTERM, request_stop)
        self._progress.start_task(self._task)
        self._progress.update(self._task, visible=True)
        self._progress.start()

    def on_step(self, report: StepReport) -> None:
        self._progress.update(
            self._task, completed=report.progress, step=report.step, loss=f"{report.loss:.3f}", dice=self._dice
        )

    def on_epoch(self, report: EpochReport) -> None:
        from medmamba.progress_plot import plot_progress

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
        if self._run is not None:
            plot_progress(self._run.read_log(), self._run.folder / "progress.png", self.title)
