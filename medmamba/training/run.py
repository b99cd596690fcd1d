"""A run folder on disk: what training leaves behind and prediction needs.

::

    fold_0/
      plan.json                 the plan, with everything the run overrode
      run.json                  fold, cases, schedule, precision, versions
      checkpoint.safetensors    weights, optimiser state and position, to go on from
      best.safetensors          weights with the best validation score so far
      final.safetensors         weights at the end; its presence means the run is finished
      log.jsonl                 a line per step and per epoch
      progress.png              the log as a picture

Every file is written beside its name and renamed, so that a reader, or a run that was killed, never meets half of one.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

import medmamba
from medmamba.case import Split
from medmamba.device import Precision
from medmamba.errors import DataError
from medmamba.files import append, write_bytes
from medmamba.plans.plan import Plan, TrainSettings
from medmamba.records import RecordError, from_json, read_json, to_json, write_json
from medmamba.training.pace import Speed
from medmamba.training.reports import Record
from medmamba.training.weights import WeightsError, load_network, read_tensors, with_prefix, write_tensors

Weights = Literal["final", "best", "checkpoint"]
#: The weights there can be, those to predict with first.
WEIGHTS: tuple[Weights, ...] = ("final", "best", "checkpoint")
#: The way out where a run cannot go on.
RESTART = "start over with --restart, which sets this run aside"


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long to train: a number of steps, or a time on the clock; exactly one of them.

    Args:
        steps: optimiser steps.
        budget_s: seconds of training. The learning rate then follows the clock, so two runs with the same seed
            differ; use ``steps`` where runs must be repeatable.
    """

    steps: int | None = None
    budget_s: float | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.budget_s is None):
            raise ValueError("a schedule is either a number of steps or a time budget")
        if (self.steps is not None and self.steps < 1) or (self.budget_s is not None and self.budget_s <= 0):
            raise ValueError(f"a schedule must be positive, got {self.steps or self.budget_s}")

    def epochs(self, settings: TrainSettings) -> int:
        """Into how many parts the run is divided; after each the network is validated.

        nnU-Net's 250 steps, but at least twenty parts, so that a short run shows how it is doing; with a time budget
        parts of ten minutes at most. A part has no fewer steps than keep nnU-Net's share of a batch of validation to
        five of training; with a time budget, where steps are known by their number only when they are done, parts that
        turn out shorter are joined (`medmamba.training.trainer.Trainer`).
        """
        if self.steps is not None:
            wanted = max(20, self.steps // settings.steps_per_epoch)
            return max(1, min(wanted, self.steps // settings.steps_per_validation))
        assert self.budget_s is not None
        return max(20, round(self.budget_s / 600))

    def progress(self, step: int, elapsed_s: float) -> float:
        """Share of the schedule that is done, 0 to 1."""
        if self.steps is not None:
            return min(1.0, step / self.steps)
        assert self.budget_s is not None
        return min(1.0, elapsed_s / self.budget_s)

    def __str__(self) -> str:
        return f"{self.steps} steps" if self.steps is not None else f"{self.budget_s:g} s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What the recipe of a time budget was fitted from.

    Args:
        speed: of the plan.
        steps: that the budget was expected to hold.
    """

    speed: Speed
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """What a run was started with, besides its plan.

    Args:
        fold: ``0`` to ``4``, or ``all``.
        split: which cases it learns from and is judged on.
        schedule: how long it trains.
        precision: of the network's arithmetic.
        overrides: fields of the data set's plan that the run changed, such as a batch size fitted to the schedule.
        versions: of the software.
        planned: with a time budget, what its recipe was fitted from; None in runs that do not fit it again.
    """

    fold: str
    split: Split
    schedule: Schedule
    precision: Precision
    overrides: dict[str, Any]
    versions: dict[str, str]
    planned: Planned | None = None


@dataclass(slots=True, kw_only=True)
class Position:
    """Where a run is: everything that changes from step to step besides weights and optimiser state."""

    step: int = 0
    epoch: int = 0
    validated: int = 0  # the step of the latest validation
    elapsed_s: float = 0.0
    score_average: float | None = None  # running mean of what chooses the best weights
    best_score: float | None = None
    skipped_steps: int = 0
    failures: int = 0  # steps in a row, up to this one, whose loss or gradient was not finite
    lost: bool = False  # the latest epoch ended without finite losses


#: Fields of `Position` as versions up to 0.2.0 wrote them into checkpoints.
_FORMER = {"dice_average": "score_average", "best_dice": "best_score"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _StepLine:
    """What is read of a step's line in the log; a loss of None says that it was skipped."""

    step: int
    loss: float | None
    learning_rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _EpochLine:
    """What is read of an epoch's line; ``scores`` are under the names of the task's measures, beside the rest."""

    step: int
    loss: float | None
    validation_loss: float | None
    epoch: int | None = None
    elapsed_s: float | None = None
    validating_s: float | None = None
    saving_s: float | None = None
    remarks: tuple[str, ...] = ()
    scores: dict[str, dict[str, float | None]] = field(default_factory=dict)


class RunError(DataError):
    """The run folder does not allow what was asked."""


class Run:
    """One training run on disk.

    Args:
        folder: of one fold, as `Run.create` made it.

    Raises:
        RunError: if there is no run in the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not self.exists(folder):
            raise RunError(f"{folder} holds no training run (plan.json and run.json); give the folder of a fold")
        self.plan = Plan.load(folder / "plan.json")
        try:
            self.info = from_json(RunInfo, read_json(folder / "run.json"), str(folder / "run.json"))
        except ValueError as error:
            raise RunError(
                f"{error}; restore the file from a copy, or start over with `medmamba train` and --restart, which sets "
                "the run aside"
            ) from error

    @staticmethod
    def exists(folder: Path) -> bool:
        """Whether a run was started in this folder."""
        return (folder / "plan.json").is_file() and (folder / "run.json").is_file()

    @classmethod
    def create(cls, folder: Path, plan: Plan, info: RunInfo) -> Run:
        """Start a run in an empty folder.

        Raises:
            RunError: if there already is one.
        """
        if cls.exists(folder):
            raise RunError(f"{folder} already holds a run; go on with it, or choose another folder")
        folder.mkdir(parents=True, exist_ok=True)
        plan.save(folder / "plan.json")
        write_json(to_json(info), folder / "run.json")
        return cls(folder)

    @property
    def finished(self) -> bool:
        """Whether training came to its end."""
        return self.weights_path("final").is_file()

    def weights_path(self, weights: Weights) -> Path:
        """The file that holds these weights."""
        return self.folder / f"{weights}.safetensors"

    @property
    def log_path(self) -> Path:
        """The log, a JSON object per line."""
        return self.folder / "log.jsonl"

    def use_precision(self, precision: Precision) -> None:
        """Go on in another precision and remember it."""
        self.info = replace(self.info, precision=precision)
        write_json(to_json(self.info), self.folder / "run.json")

    def move_data(self, root: Path) -> None:
        """Remember where the data set lies now."""
        if self.plan.dataset_root != str(root):
            self.plan = replace(self.plan, dataset_root=str(root))
            self.plan.save(self.folder / "plan.json")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training in this folder.

        Raises:
            RunError: if one already does.
        """
        lock = FileLock(self.folder / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise RunError(f"another process is training in {self.folder}; wait for it or stop it") from None
        try:
            yield
        finally:
            lock.release()

    def save(self, network: nn.Module, optimizer: torch.optim.Optimizer, position: Position) -> None:
        """Write the checkpoint to go on from."""
        tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
        names = {id(parameter): name for name, parameter in network.named_parameters()}
        for parameter, state in optimizer.state.items():
            for key, value in state.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer.{names[id(parameter)]}.{key}"] = value
        self.save_weights("checkpoint", tensors, position)

    def restore(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> Position | None:
        """Load the checkpoint into network and optimiser; None when there is none yet.

        Raises:
            WeightsError: if the file is damaged or belongs to another network.
        """
        path = self.weights_path("checkpoint")
        if not path.is_file():
            return None
        tensors, metadata = read_tensors(path, RESTART)
        if "position" not in metadata:
            raise WeightsError(f"{path} says of no step that it was written after; {RESTART}")
        load_network(network, with_prefix(tensors, "network."), path)
        parameters = dict(network.named_parameters())
        optimizer.state.clear()
        for key, tensor in with_prefix(tensors, "optimizer.").items():
            name, _, field = key.rpartition(".")
            # Adam counts its steps on the CPU.
            device = parameters[name].device if tensor.dim() else tensor.device
            optimizer.state[parameters[name]][field] = tensor.to(device)
        position = json.loads(metadata["position"])
        return from_json(Position, {_FORMER.get(key, key): value for key, value in position.items()}, str(path))

    def save_weights(self, weights: Weights, tensors: Mapping[str, Tensor], position: Position) -> None:
        """Write weights as a network's ``state_dict`` has them; of a checkpoint, what else there is, too."""
        metadata = {
            "plan": self.plan.digest(),
            "position": json.dumps(asdict(position)),
            "medmamba": medmamba.__version__,
        }
        contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        write_tensors(contiguous, self.weights_path(weights), metadata, mode_like=self.folder / "run.json")

    def load_weights(self, network: nn.Module, weights: Weights | None = None) -> Weights:
        """Load weights for prediction: the final ones if there are, else the best, else the last checkpoint's.

        Returns:
            Which weights were loaded.

        Raises:
            RunError: if there are none.
            WeightsError: if they are damaged or do not fit the network.
        """
        choices = (weights,) if weights else WEIGHTS
        for choice in choices:
            path = self.weights_path(choice)
            if path.is_file():
                tensors, _ = read_tensors(path, self._instead_of(choice))
                if choice == "checkpoint":
                    tensors = with_prefix(tensors, "network.")
                load_network(network, tensors, path)
                return choice
        raise RunError(f"{self.folder} has no {' or '.join(choices)} weights; {self._instead_of(choices[0])}")

    def _instead_of(self, weights: Weights) -> str:
        """What to predict with when some weights are of no use."""
        there = [other for other in WEIGHTS if other != weights and self.weights_path(other).is_file()]
        return f"predict with others, --weights {' or '.join(there)}" if there else "train it first"

    def log(self, record: Record) -> None:
        """Append a line to the log."""
        append((json.dumps(record) + "\n").encode(), self.log_path)

    def read_log(self) -> list[Record]:
        """The log's records; a last line that was cut short, as when the run was killed, is left out.

        Raises:
            RunError: if another line is no record of a step or an epoch, naming it.
        """
        if not self.log_path.is_file():
            return []
        whole = self.log_path.read_bytes().rpartition(b"\n")[0]
        records: list[Record] = []
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise RunError(f"line {number} of {self.log_path} is no JSON ({error}); remove it") from error
            try:
                _check_line(record)
            except RecordError as error:
                raise RunError(
                    f"line {number} of {self.log_path} is no record of training ({error}); remove it"
                ) from error
            records.append(record)
        return records

    def rewind_log(self, step: int) -> list[Record]:
        """Drop from the log what was written after a step, which a run that was killed takes again.

        Returns:
            The records up to that step.
        """
        records = [record for record in self.read_log() if record["step"] <= step]
        if self.log_path.is_file():
            write_bytes("".join(json.dumps(record) + "\n" for record in records).encode(), self.log_path)
        return records


def _check_line(record: Any) -> None:
    """Refuse what whoever reads the log would stumble over.

    Raises:
        RecordError: naming the field.
    """
    event = record.get("event") if isinstance(record, dict) else None
    if event == "step":
        known = {one.name for one in fields(_StepLine)}
        from_json(_StepLine, {key: value for key, value in record.items() if key in known}, "step")
    elif event == "epoch":
        known = {one.name for one in fields(_EpochLine)} - {"scores"}
        line = {key: value for key, value in record.items() if key in known}
        scores = {key: value for key, value in record.items() if key not in known | {"event"}}
        from_json(_EpochLine, line | {"scores": scores}, "epoch")
    else:
        raise RecordError("event must be 'step' or 'epoch'")


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on, for the record."""
    return {"medmamba": medmamba.__version__, "torch": torch.__version__, "python": platform.python_version()}
