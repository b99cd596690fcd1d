"""The training loop: one for all tasks.

What a step does depends only on the plan, the seed, the step's number and the weights before it: batches
and the random numbers inside the network are drawn from the step's number, never from a generator that runs along. So a
checkpoint needs no generator states, and a run that was stopped anywhere ends with the weights it would have had
anyway (bit for bit on a CPU). The clock decides when a checkpoint is written, and with a time budget how fast weights
move; when to validate goes by the number of steps, and validating changes nothing.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from medmamba.device import Precision
from medmamba.errors import DataError, StoppedError
from medmamba.plans.plan import TrainSettings
from medmamba.tasks import Batch, Scores, Task
from medmamba.training.pace import Clock, Pace, SideJob, Speed
from medmamba.training.reports import EpochReport, Record, StepReport, defined
from medmamba.training.run import Position, Run

log = logging.getLogger(__name__)

#: A checkpoint is written at the end of an epoch, and whenever the last one is older than this,
CHECKPOINT_EVERY_S = 120.0
#: as long as writing takes no more than this share of the time;
SAVING_SHARE = 0.02
#: and whatever it takes when the last one is older than this, after the first step, and at the end.
CHECKPOINT_AT_LAST_S = 1200.0
#: A time budget that holds fewer steps than this teaches a network little.
FEW_STEPS = 100
#: So many steps in a row without a finite gradient end the run, or its 16-bit arithmetic.
PATIENCE_STEPS = 10
#: nnU-Net's weight of the past in the running mean of the validation score that chooses the best weights.
SCORE_MEMORY = 0.9


class Listener(Protocol):
    """Whoever watches a training."""

    def on_start(self, trainer: Trainer, past: Sequence[Record]) -> None:
        """Before the first step; ``past`` holds the log of the steps that an earlier process took."""
        ...

    def on_step(self, report: StepReport) -> None:
        """After each step."""
        ...

    def on_epoch(self, report: EpochReport) -> None:
        """After each validation."""
        ...


class DivergedError(DataError):
    """Loss or gradient stayed NaN or infinite, so that nothing more was learned."""


def build_optimizer(network: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """The recipe's optimiser: SGD with Nesterov momentum, as nnU-Net's, or Adam.

    But no weight decay for what is marked ``_no_weight_decay``.

    So Mamba's authors mark the decays and skips of a block.
    """
    groups: list[dict[str, Any]] = [{"params": []}, {"params": [], "weight_decay": 0.0}]
    for parameter in network.parameters():
        groups[hasattr(parameter, "_no_weight_decay")]["params"].append(parameter)
    if settings.optimizer == "adam":
        betas = (settings.momentum, 0.999)
        return torch.optim.Adam(groups, lr=settings.learning_rate, betas=betas, weight_decay=settings.weight_decay)
    return torch.optim.SGD(
        groups,
        lr=settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=settings.momentum > 0,
    )


class Trainer:
    """Trains a network in a run folder, from wherever the folder's checkpoint is.

    Args:
        run: the folder; its plan and schedule rule.
        task: batches, loss and scores.
        device: where to train.
        listener: told about every step and epoch.
        clock: seconds.
    """

    def __init__(
        self, run: Run, task: Task[Any], device: torch.device, listener: Listener, clock: Clock = time.monotonic
    ) -> None:
        self.run = run
        self.settings = run.plan.train
        self.schedule = run.info.schedule
        self.device = device
        self.listener = listener
        self.task = task
        torch.manual_seed(self.settings.seed)
        self.network = task.network().to(device)
        self.optimizer = build_optimizer(self.network, self.settings)
        self.position = Position()
        self.clock = clock
        self.speed = Speed.of(self.settings)
        self._best: tuple[dict[str, Tensor], Position] | None = None  # not on disk yet
        self._stop = False
        self._warned = False

    def stop(self) -> None:
        """Ask the loop to save and leave after the current step; safe to call from a signal handler."""
        self._stop = True

    def fit(self) -> None:
        """Train to the end of the schedule.

        Raises:
            StoppedError: after `stop`, with a checkpoint on disk.
            DivergedError: when the loss stays NaN or infinite in float32 as well, or to the end of the schedule.
            RunError: when another process trains in this folder.
            WeightsError: when its checkpoint is damaged.
        """
        with self.run.locked():
            self.position = self.run.restore(self.network, self.optimizer) or Position()
            past = self.run.rewind_log(self.position.step)
            self.listener.on_start(self, past)
            self._losses = _losses(past, after=self.position.validated)
            self._began = self.clock() - self.position.elapsed_s
            self._validating = SideJob(1.0, self.clock)
            self._saving = SideJob(SAVING_SHARE, self.clock)
            with closing(self.task.batches("train", self.position.step)) as batches:
                self._take_steps(batches)
            if self.position.lost:
                raise self._diverged()
            self.run.save_weights("final", self.network.state_dict(), self.position)
            log.info("%s", self._account(self.clock() - self._began))

    def _take_steps(self, batches: Iterator[Batch]) -> None:
        position, schedule = self.position, self.schedule
        pace = Pace(schedule.budget_s) if schedule.budget_s is not None else None
        epochs = schedule.epochs(self.settings)
        while (progress := schedule.progress(position.step, position.elapsed_s)) < 1.0:
            self._step(next(batches), self.speed.learning_rate * (1.0 - progress) ** self.settings.poly_exponent)
            progress = schedule.progress(position.step, position.elapsed_s)
            epoch = math.floor(progress * epochs + 1e-9)
            part_done = progress >= 1.0 or (epoch > position.epoch and self._affords_validation())
            if part_done:
                # Not necessarily the next one: with a time budget slow steps may skip parts.
                position.epoch = epoch
                self._finish_epoch(epochs)
            if progress >= 1.0 or self._stop or self._owes_checkpoint(part_done):
                self._save()
            if self._stop and progress < 1.0:
                raise StoppedError(f"stopped after step {position.step}; the same command goes on from there")
            if pace:
                pace.note(position.step, position.elapsed_s)
                self._refit(pace.expected_steps)

    def _refit(self, expected_steps: float | None) -> None:
        """Fit momentum and learning rate to the steps that the budget turns out to hold; the rate never rises."""
        planned = self.run.info.planned
        if expected_steps is None or planned is None:
            return
        fitted = planned.speed.fitted(expected_steps)
        rate = min(fitted.learning_rate, self.speed.learning_rate)
        self.speed = replace(fitted, learning_rate=rate)
        if not self._warned and expected_steps < min(FEW_STEPS, planned.steps / 2):
            self._warned = True
            log.warning(
                "steps take longer than when the schedule was fitted: %s will hold about %d steps, not %d; give more "
                "time, or train with --steps, which no load of the machine shortens",
                self.schedule,
                expected_steps,
                planned.steps,
            )

    def _owes_checkpoint(self, part_done: bool) -> bool:
        age_s = self._saving.since_s
        if self._saving.times == 0 or age_s > CHECKPOINT_AT_LAST_S:
            return True  # the first step's shows what writing takes, and that it can be done
        return self._saving.affordable and (part_done or age_s > CHECKPOINT_EVERY_S)

    def _save(self) -> None:
        """Write the checkpoint, and before it the best weights that it knows of."""
        with self._saving.timed():
            self._save_best()
            self.run.save(self.network, self.optimizer, self.position)

    def _save_best(self) -> None:
        if self._best is not None:
            self.run.save_weights("best", *self._best)
            self._best = None

    def _account(self, whole_s: float) -> str:
        """Where time went besides the steps."""
        validating, saving = self._validating, self._saving
        share = (validating.spent_s + saving.spent_s) / max(whole_s, 1e-9)
        return (
            f"{validating.times} validations took {validating.spent_s:.1f} s, {saving.times} checkpoints "
            f"{saving.spent_s:.1f} s: {share:.1%} of {whole_s:.1f} s of training"
        )

    def _step(self, batch: Batch, learning_rate: float) -> None:
        """One optimiser step, and its line in the log."""
        loss, parts = self._learn(batch, learning_rate)
        position = self.position
        position.step += 1
        position.elapsed_s = self.clock() - self._began
        self._losses.append(loss)
        report = StepReport(
            step=position.step,
            progress=self.schedule.progress(position.step, position.elapsed_s),
            loss=loss,
            learning_rate=learning_rate,
            elapsed_s=position.elapsed_s,
            parts=parts,
        )
        self.run.log(report.record())
        self.listener.on_step(report)

    def _learn(self, batch: Batch, learning_rate: float) -> tuple[float, dict[str, float]]:
        """Move the weights; returns the loss and its parts, NaN and none when the step was skipped."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
            if self.settings.optimizer == "sgd":
                group["momentum"], group["nesterov"] = self.speed.momentum, self.speed.momentum > 0
        torch.manual_seed(self.settings.seed * 1_000_003 + self.position.step)
        self.network.train()
        loss, parts = self.task.loss(self._forward, batch.to(self.device))
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.gradient_clip)
        if torch.isfinite(loss) and torch.isfinite(norm):
            self.optimizer.step()
            self.position.failures = 0
            return float(loss.detach()), {name: float(part) for name, part in parts.items()}
        self._skip()
        return math.nan, {}

    def _forward(self, *inputs: Any, **options: Any) -> Any:
        """The network in the run's precision."""
        with autocast(self.device, self.run.info.precision):
            return self.network(*inputs, **options)

    def _skip(self) -> None:
        """Count a step whose gradient is not finite; give up 16 bits, then the run, when it keeps happening."""
        self.position.skipped_steps += 1
        self.position.failures += 1
        log.warning("step %d skipped: its loss or gradient is not finite", self.position.step + 1)
        if self.position.failures < PATIENCE_STEPS:
            return
        if self.run.info.precision == "fp32":
            self._save_best()
            self.position.step += 1  # this one, which the loop has not counted yet
            raise self._diverged()
        log.warning("going on in float32: bfloat16 gave no finite gradient in %d steps", PATIENCE_STEPS)
        self.run.use_precision("fp32")
        self.position.failures = 0

    def _diverged(self) -> DivergedError:
        position, checkpoint = self.position, self.run.weights_path("checkpoint")
        lasting = (
            f"loss or gradient is not finite at step {position.step} ({position.skipped_steps} of {position.step} "
            "steps were skipped for that)"
        )
        if position.skipped_steps == position.step:
            good = "no step had a finite loss, so nothing was learned"
        elif checkpoint.is_file():
            good = f"the last good weights are in {checkpoint} (predict with --weights checkpoint)"
        else:
            good = "no weights were saved yet"
        # Of the plan, whose rate a short schedule raises by itself.
        lower = min(0.001, self.settings.learning_rate / 10)
        return DivergedError(
            f"{lasting}; {good}. Look for wrong intensities with `medmamba dataset check`, or start over with "
            f"--restart --set train.learning_rate={lower:g}, which sets this run aside"
        )

    def _finish_epoch(self, epochs: int) -> None:
        with self._validating.timed():
            validation_loss, scores, remarks = self._validate()
        position, losses = self.position, self._losses
        self._choose(list(defined(scores[self.task.measures[0].name]).values()))
        if not math.isfinite(validation_loss):
            log.warning("the validation loss is not finite at step %d; look at the validation cases", position.step)
        finite = [loss for loss in losses if math.isfinite(loss)]
        # A single step may fail by chance; where half of the epoch fails up to its end, nothing is learned any more.
        position.lost = not finite or 2 * position.failures >= len(losses)
        report = EpochReport(
            epoch=position.epoch,
            epochs=epochs,
            step=position.step,
            loss=sum(finite) / len(finite) if finite else math.nan,
            validation_loss=validation_loss,
            scores=scores,
            elapsed_s=position.elapsed_s,
            validating_s=self._validating.spent_s,
            saving_s=self._saving.spent_s,
            remarks=remarks,
        )
        self.run.log(report.record())
        self.listener.on_epoch(report)
        for remark in remarks:
            log.warning("step %d: %s", position.step, remark)
        position.validated = position.step
        losses.clear()
        position.elapsed_s = self.clock() - self._began

    def _choose(self, values: list[float]) -> None:
        """Keep the weights when the running mean of their score is the best so far."""
        if not values:
            return
        position, mean = self.position, sum(values) / len(values)
        average = position.score_average
        position.score_average = mean if average is None else SCORE_MEMORY * average + (1 - SCORE_MEMORY) * mean
        rise = 0.0 if position.best_score is None else position.score_average - position.best_score
        if position.best_score is None or (rise > 0 if self.task.measures[0].higher_is_better else rise < 0):
            position.best_score = position.score_average
            # Goes to disk with the next checkpoint, which is when it is needed: an earlier one leads here again.
            state = self.network.state_dict().items()
            weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in state}
            self._best = weights, replace(position)

    @torch.no_grad()
    def _validate(self) -> Scores:
        """Scores on validation batches, always the same ones."""
        self.network.eval()
        with closing(self.task.batches("validation", 0)) as batches:
            few = islice(batches, self._validation_steps())
            return self.task.score(self._forward, (batch.to(self.device) for batch in few))

    def _affords_validation(self) -> bool:
        """Whether one more batch of validation keeps nnU-Net's share."""
        return self.position.step - self.position.validated >= self.settings.steps_per_validation

    def _validation_steps(self) -> int:
        """nnU-Net's share of validation batches per training step, also when an epoch is shorter than usual."""
        share = self.settings.validation_steps / self.settings.steps_per_epoch
        per_epoch = self.position.step / max(1, self.position.epoch)
        return max(1, min(self.settings.validation_steps, round(share * per_epoch)))


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Arithmetic of convolutions and products in the run's precision; bfloat16 needs no loss scaling."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def _losses(past: Sequence[Record], *, after: int) -> list[float]:
    """Of the steps that no epoch has told of yet."""
    steps = (record for record in past if record["event"] == "step" and record["step"] > after)
    return [math.nan if record["loss"] is None else record["loss"] for record in steps]
