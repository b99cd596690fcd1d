"""Tasks: what the trainer asks of segmentation and of whatever else a network can be trained for.

A task is data to step on, a loss, scores, and the way back to a case. The trainer knows names and numbers, which of
them chooses the best weights, and whether it should rise; what they mean is the task's business.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from medmamba.case import Case, Pair, Split
from medmamba.plans.plan import Plan
from medmamba.progress import Progress

#: Cases to learn from, or to be judged on between epochs.
Part = Literal["train", "validation"]
#: The network that is trained, called as it is but in the run's precision.
Forward = Callable[..., Any]


class Batch(Protocol):
    """What a step learns from: a frozen dataclass of the task's own."""

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        ...


B = TypeVar("B", bound=Batch)


class Loss(NamedTuple):
    """A loss, and what it is made of.

    Attributes:
        total: scalar, float32, to be made small.
        parts: scalars without gradient, by name; for the log.
    """

    total: Tensor
    parts: dict[str, Tensor]


class Scores(NamedTuple):
    """How good a network is on validation batches.

    Attributes:
        loss: mean of the training loss.
        values: for each of the task's measures its named numbers, such as the Dice of each structure; NaN where the
            batches held nothing to measure.
        remarks: what is wrong with what the network does, in words.
    """

    loss: float
    values: dict[str, dict[str, float]]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """What some numbers of a validation are.

    Args:
        name: in a run's log, where it is the key of the numbers.
        title: for people.
        higher_is_better: whether the numbers should rise.
        limits: least and largest value, which the picture of a run then shows; None for those that occur.
    """

    name: str
    title: str
    higher_is_better: bool = True
    limits: tuple[float, float] | None = None


class Task(Protocol[B]):
    """What differs between segmentation, registration and video."""

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Of a validation. The mean over the numbers of the first one chooses the best weights."""
        ...

    def network(self) -> nn.Module:
        """What to train, freshly initialised from PyTorch's random numbers; several networks come as one module."""
        ...

    def batches(self, part: Part, start: int) -> Generator[B, None, None]:
        """Batches of the steps ``start``, ``start + 1``, ... without end, on the CPU.

        Each is a function of seed and step alone. Whoever takes them closes the generator.
        """
        ...

    def loss(self, network: Forward, batch: B) -> Loss:
        """Loss of one batch."""
        ...

    def score(self, network: Forward, batches: Iterable[B]) -> Scores:
        """Judge a network on a few batches; numbers may need all of them together, as sums of voxels do."""
        ...

    def restore(self, output: Any, trail: Any) -> Any:
        """Bring what the network made of a prepared case back to the case's own grid, by the trail that led there."""
        ...


class PlannedTask(Task[B], Protocol):
    """A task that is made from a plan.

    Args:
        plan: network and recipe.
        prepared: what `prepare` gave; None for a task without batches.
        split: which cases to learn from, and which to be judged on.
        workers: processes that draw batches ahead, which change the speed and nothing else; None for what suits the
            machine, 0 for none.
    """

    def __init__(
        self, plan: Plan, prepared: Any = None, split: Split | None = None, workers: int | None = None
    ) -> None: ...

    @staticmethod
    def prepare(
        cases: Sequence[Case],
        plan: Plan,
        folder: Path,
        *,
        progress: Progress,
        workers: int | None,
        pairs: Sequence[Pair] = (),
        reference: Case | None = None,
    ) -> Any:
        """Bring cases, or pairs of them, into the form that batches are drawn from, and keep them in a folder.

        Args:
            cases: of the fold.
            plan: says how.
            folder: for all folds and runs that prepare alike.
            progress: shows how far it is.
            workers: processes; None for what suits the machine, 0 for this one.
            pairs: of the fold, where the data set is of pairs.
            reference: the case that a plan for registration brings all others to; it need not be of the fold.
        """
        ...

    def noise(self, size: int) -> B:
        """A batch of the planned shape, to measure the time of a step with."""
        ...
