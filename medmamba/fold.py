"""Train one fold of a plan: from the data set to a finished run folder."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from medmamba.case import Dataset, Split
from medmamba.checkpoint import Precision, Run, RunError, RunInfo, Schedule, versions
from medmamba.data.augment import augmentation
from medmamba.data.cache import prepare
from medmamba.data.patches import PatchSampler, stream
from medmamba.device import choose_precision
from medmamba.plans import splits
from medmamba.plans.plan import Plan
from medmamba.plans.workspace import Workspace, differences
from medmamba.progress import Progress, silent
from medmamba.tasks.segmentation import Segmentation, build_network
from medmamba.train import Listener, Trainer, autocast, build_optimizer

log = logging.getLogger(__name__)

#: A schedule with fewer steps than this gets smaller batches, so that it has more of them.
MANY_STEPS = 600
#: Steps that the momentum should look back over at most, as a share of the schedule.
MOMENTUM_SHARE = 1 / 20
#: Smallest batch that a schedule is fitted with; nnU-Net's smallest.
SMALLEST_BATCH = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldRequest:
    """What to train.

    Args:
        plan: of the data set.
        dataset: where the cases are.
        workspace: where preprocessed cases are kept.
        folder: of the run; one that holds a run is continued.
        fold: ``"0"`` to ``"4"``, or ``"all"``.
        schedule: how long; None for the plan's epochs, or what the run was started with.
        device: where to train.
        precision: None for what the device does best, or what the run was started with.
        workers: processes that prepare cases.
    """

    plan: Plan
    dataset: Dataset
    workspace: Workspace
    folder: Path
    fold: str
    schedule: Schedule | None
    device: torch.device
    precision: Precision | None = None
    workers: int | None = None


def train_fold(
    request: FoldRequest,
    listener: Listener,
    *,
    on_start: Callable[[Trainer], None] = lambda trainer: None,
    progress: Progress = silent,
) -> Run:
    """Prepare the cases and train, or go on where an earlier run of the same command stopped.

    Args:
        request: what to train.
        listener: told about steps and epochs.
        on_start: called with the trainer before its first step, so that a signal can stop it.
        progress: shows how far the preparation is.

    Returns:
        The finished run.

    Raises:
        RunError: if the folder holds a run of another plan or schedule.
        StoppedError: if it was stopped; a checkpoint is on disk.
        ValueError: if cases cannot be prepared, naming them.
    """
    split = splits.split(request.dataset, request.fold)
    if Run.exists(request.folder):
        run = _reopen(request, split)
        if run.finished:
            return run
    else:
        # Without memory for the weights. A run that cannot begin would stand in the way of the corrected command.
        with torch.device("meta"):
            build_network(request.plan)
    cases = [case for case in request.dataset.training if case.id in {*split.train, *split.validation}]
    cache = prepare(
        cases, request.plan, request.workspace.cache(request.plan), progress=progress, workers=request.workers
    )
    if not Run.exists(request.folder):
        run = _start(request, split)
    training = PatchSampler(cache, split.train, run.plan)
    validation = PatchSampler(cache, split.validation, run.plan)
    trainer = Trainer(run, Segmentation(run.plan), request.device, listener)
    on_start(trainer)
    trainer.fit(
        partial(stream, training, augment=augmentation(run.plan)),
        partial(stream, validation, augment=None),
    )
    return run


def _start(request: FoldRequest, split: Split) -> Run:
    schedule = request.schedule or Schedule(steps=request.plan.train.epochs * request.plan.train.steps_per_epoch)
    precision = request.precision or choose_precision(request.device)
    overrides = fit_recipe(request.plan, schedule, request.device, precision)
    info = RunInfo(
        fold=request.fold,
        split=split,
        schedule=schedule,
        precision=precision,
        overrides=overrides,
        versions=versions(),
    )
    return Run.create(request.folder, overridden(request.plan, overrides), info)


def _reopen(request: FoldRequest, split: Split) -> Run:
    run = Run(request.folder)
    wanted = overridden(request.plan, run.info.overrides)
    changes = list(differences(replace(run.plan, dataset_root=wanted.dataset_root), wanted))
    if run.info.split != split:
        changes.append("the cases of the fold")
    if request.schedule not in (None, run.info.schedule):
        changes.append(f"schedule: {run.info.schedule} before, {request.schedule} now")
    if request.precision not in (None, run.info.precision):
        changes.append(f"precision: {run.info.precision} before, {request.precision} now")
    if changes:
        raise RunError(
            f"{request.folder} holds a run that was started differently ({'; '.join(changes)}); "
            "go on with the same settings, or start over with --restart, which sets the old run aside"
        )
    return run


def overridden(plan: Plan, overrides: dict[str, Any]) -> Plan:
    """The plan with several fields changed, keys as in `Plan.override`."""
    for key, value in overrides.items():
        plan = plan.override(key, value)
    return plan


def fit_recipe(plan: Plan, schedule: Schedule, device: torch.device, precision: Precision) -> dict[str, Any]:
    """Changes to the recipe that a short schedule needs; none for nnU-Net's thousand epochs.

    A network learns from the number of steps more than from the size of batches, so a time budget that allows few
    steps gets smaller batches. Momentum that looks back further than a twentieth of the schedule would still be
    gathering speed when training ends, so it is lowered. The learning rate rises with the square root of what that
    takes from the length of a step: part of the speed is made good, and the noise of short averages stays in bounds.

    Returns:
        Fields of the plan and their values, for `overridden`.
    """
    overrides: dict[str, Any] = {}
    batch_size = plan.train.batch_size
    steps = schedule.steps
    if steps is None:
        assert schedule.budget_s is not None
        patch_s = seconds_per_patch(plan, device, precision)
        affordable = int(schedule.budget_s / (MANY_STEPS * patch_s))
        batch_size = max(min(SMALLEST_BATCH, batch_size), min(batch_size, affordable))
        steps = max(1, int(schedule.budget_s / (batch_size * patch_s)))
        log.info("%.2f s per patch: about %d steps of %d patches in %s", patch_s, steps, batch_size, schedule)
    if batch_size != plan.train.batch_size:
        overrides["train.batch_size"] = batch_size
    momentum = round(max(0.0, 1 - 1 / max(1.0, steps * MOMENTUM_SHARE)), 3)
    if momentum < plan.train.momentum:
        overrides["train.momentum"] = momentum
        shorter = (1 - momentum) / (1 - plan.train.momentum)
        overrides["train.learning_rate"] = round(plan.train.learning_rate * math.sqrt(shorter), 4)
    return overrides


def seconds_per_patch(plan: Plan, device: torch.device, precision: Precision) -> float:
    """Time of a training step per patch, measured on noise."""
    torch.manual_seed(0)
    task = Segmentation(plan).to(device)
    network = task.build_network().to(device).train()
    optimizer = build_optimizer(network, plan.train)
    image = torch.randn(SMALLEST_BATCH, len(plan.channels), *plan.topology.patch_size, device=device)
    label = torch.zeros(SMALLEST_BATCH, *plan.topology.patch_size, dtype=torch.int16, device=device)
    seconds = float("inf")
    for _ in range(2):  # the first step also compiles
        started = time.monotonic()
        with autocast(device, precision):
            outputs = network(image)
        optimizer.zero_grad(set_to_none=True)
        loss = task.loss(outputs, label)
        torch.autograd.backward(loss)
        optimizer.step()
        float(loss.detach())  # waits for the device
        seconds = min(seconds, time.monotonic() - started)
    return seconds / SMALLEST_BATCH
