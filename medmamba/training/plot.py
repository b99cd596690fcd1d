"""The log of a run as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from medmamba.files import replacing

#: Okabe and Ito's palette, which people with any colour vision can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def plot_progress(records: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """Draw loss, validation Dice and learning rate over the steps of a run.

    Args:
        records: of the run's log, see `medmamba.training.run.Run.read_log`.
        path: PNG to write.
        title: above the picture.
    """
    steps = [record for record in records if record["event"] == "step" and record["loss"] is not None]
    epochs = [record for record in records if record["event"] == "epoch"]
    figure = Figure(figsize=(9, 9), layout="constrained")
    FigureCanvasAgg(figure)
    loss, dice, rate = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1.2))
    figure.suptitle(title)
    at = [record["step"] for record in epochs]
    loss.plot([r["step"] for r in steps], [r["loss"] for r in steps], color=COLOURS[0], alpha=0.25, linewidth=0.8)
    # Marked, so that a run with a single epoch shows it.
    loss.plot(at, [r["loss"] for r in epochs], marker=".", color=COLOURS[0], label="training, mean of epoch")
    loss.plot(at, [r["validation_loss"] for r in epochs], marker=".", color=COLOURS[1], label="validation")
    loss.set_ylabel("loss")
    loss.legend()
    for number, name in enumerate(sorted({name for record in epochs for name in record["dice"]})):
        scores = [record["dice"].get(name) for record in epochs]
        colour = COLOURS[(number + 2) % len(COLOURS)]
        dice.plot(at, scores, marker=".", color=colour, label=name)
    dice.set_ylabel("Dice on validation patches")
    dice.set_ylim(0, 1)
    if epochs:
        dice.legend(loc="lower right")
    rate.plot([r["step"] for r in steps], [r["learning_rate"] for r in steps], color="black")
    rate.set_ylabel("learning rate")
    rate.set_xlabel("step")
    for axes in (loss, dice, rate):
        axes.grid(alpha=0.3)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
