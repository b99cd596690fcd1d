"""The log of a run as a picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from medmamba.files import replacing
from medmamba.tasks import Measure
from medmamba.training.reports import Record

T = TypeVar("T")

#: Okabe and Ito's palette, which people with any colour vision can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
#: More points than this lie closer together than a picture of this width can show.
MOST_POINTS = 2000


class Curves:
    """What a picture of a run shows; drawn thinned out, so that a long run costs no more than a short one.

    Args:
        measures: of the run's task.
        records: of the run's log so far, see `medmamba.training.run.Run.read_log`.
    """

    def __init__(self, measures: Sequence[Measure], records: Iterable[Record] = ()) -> None:
        self.measures = measures
        self._steps: list[tuple[int, float, float]] = []
        self._epochs: list[Record] = []
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        """One more line of the log."""
        if record["event"] == "epoch":
            self._epochs.append(record)
        elif record["loss"] is not None:
            self._steps.append((record["step"], record["loss"], record["learning_rate"]))

    def draw(self, path: Path, title: str) -> None:
        """Draw loss, validation scores and learning rate over the steps of the run.

        Args:
            path: PNG to write.
            title: above the picture.
        """
        steps, epochs = _thinned(self._steps), _thinned(self._epochs)
        figure = Figure(figsize=(9, 6 + 3 * len(self.measures)), layout="constrained")
        FigureCanvasAgg(figure)
        heights = (3, *(3 for _ in self.measures), 1.2)
        loss, *panels, rate = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
        figure.suptitle(title)
        at, taken = [record["step"] for record in epochs], [step for step, _, _ in steps]
        loss.plot(taken, [value for _, value, _ in steps], color=COLOURS[0], alpha=0.25, linewidth=0.8)
        # Marked, so that a run with a single epoch shows it.
        loss.plot(at, [r["loss"] for r in epochs], marker=".", color=COLOURS[0], label="training, mean of epoch")
        loss.plot(at, [r["validation_loss"] for r in epochs], marker=".", color=COLOURS[1], label="validation")
        loss.set_ylabel("loss")
        loss.legend()
        for axes, measure in zip(panels, self.measures, strict=True):
            _draw_scores(axes, measure, epochs)
        rate.plot(taken, [value for _, _, value in steps], color="black")
        rate.set_ylabel("learning rate")
        rate.set_xlabel("step")
        for axes in (loss, *panels, rate):
            axes.grid(alpha=0.3)
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png", dpi=100)


def _draw_scores(axes: Axes, measure: Measure, epochs: Sequence[Record]) -> None:
    scores = [record.get(measure.name, {}) for record in epochs]
    for number, name in enumerate(sorted({name for values in scores for name in values})):
        colour = COLOURS[(number + 2) % len(COLOURS)]
        values = [values.get(name) for values in scores]
        axes.plot([record["step"] for record in epochs], values, marker=".", color=colour, label=name)
    axes.set_ylabel(f"{measure.title} in validation")
    if measure.limits:
        axes.set_ylim(*measure.limits)
    if axes.has_data():
        axes.legend(loc="lower right")


def _thinned(points: list[T]) -> list[T]:
    """As many points as can be told apart, the last one among them."""
    return points[:: -max(1, len(points) // MOST_POINTS)][::-1]
