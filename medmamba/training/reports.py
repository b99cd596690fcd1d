"""What a training tells of itself, to the log and to whoever watches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

#: A line of the log.
Record = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """How a step went; a loss of NaN says that it was skipped, ``parts`` what the loss was made of."""

    step: int
    progress: float
    loss: float
    learning_rate: float
    elapsed_s: float
    parts: dict[str, float] = field(default_factory=dict)

    def record(self) -> Record:
        """For the log."""
        parts = {"parts": defined(self.parts)} if self.parts else {}
        return _line("step", self, ("loss", "learning_rate", "elapsed_s")) | parts


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochReport:
    """How an epoch went; ``scores`` on validation batches, by measure and name, NaN for what they do not hold.

    ``remarks`` say in words what is wrong with what the network does.
    """

    epoch: int
    epochs: int
    step: int
    loss: float
    validation_loss: float
    scores: dict[str, dict[str, float]]
    elapsed_s: float
    validating_s: float = 0.0
    saving_s: float = 0.0
    remarks: tuple[str, ...] = ()

    def record(self) -> Record:
        """For the log, in which each measure has a key of its own."""
        scores = {measure: defined(values) for measure, values in self.scores.items()}
        first, last = ("epoch", "loss", "validation_loss"), ("elapsed_s", "validating_s", "saving_s")
        remarks: Record = {"remarks": list(self.remarks)} if self.remarks else {}
        return _line("epoch", self, first) | scores | _line("epoch", self, last) | remarks


def defined(values: dict[str, float]) -> dict[str, float]:
    """The numbers that are some."""
    return {name: value for name, value in values.items() if math.isfinite(value)}


def _line(event: str, report: StepReport | EpochReport, names: Sequence[str]) -> Record:
    """Some fields; JSON has no NaN."""
    values = ((name, getattr(report, name)) for name in names)
    return {"event": event, "step": report.step} | {name: v if math.isfinite(v) else None for name, v in values}
