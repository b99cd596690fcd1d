"""Train one fold of a plan: from the data set to a finished run folder."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from medmamba import networks
from medmamba.case import Case, Dataset, Pair, Split, some
from medmamba.device import Precision, choose_precision
from medmamba.errors import UsageError
from medmamba.io import DatasetError
from medmamba.memory import memory_errors
from medmamba.plans import splits
from medmamba.plans.plan import Plan
from medmamba.plans.workspace import differences
from medmamba.progress import Progress, silent
from medmamba.tasks import PlannedTask
from medmamba.tasks.registration import RegistrationTask
from medmamba.tasks.segmentation import Segmentation
from medmamba.training.pace import Speed, fastest
from medmamba.training.run import Planned, Run, RunError, RunInfo, Schedule, versions
from medmamba.training.trainer import FEW_STEPS, Listener, Trainer, autocast, build_optimizer

log = logging.getLogger(__name__)

#: The task that a network is trained for, by what the registry of networks says that it is for.
TASKS: dict[str, type[PlannedTask[Any]]] = {"segmentation": Segmentation, "registration": RegistrationTask}

#: A schedule with fewer steps than this gets smaller batches, so that it has more of them.
MANY_STEPS = 600
#: Share of a time budget that measuring the time of a step may take.
MEASURING_SHARE = 0.02
#: Smallest batch that a schedule is fitted with; nnU-Net's smallest.
SMALLEST_BATCH = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldRequest:
    """What to train.

    Args:
        plan: of the data set.
        dataset: where the cases are.
        prepared: where prepared cases are kept, in a folder for each way to prepare them.
        folder: of the run; one that holds a run is continued.
        fold: ``"0"`` to ``"4"``, or ``"all"``.
        schedule: how long; None for the plan's epochs, or what the run was started with.
        device: where to train.
        precision: None for what the device does best, or what the run was started with.
        workers: processes that prepare cases, and that draw batches ahead; None for what suits the machine, 0 for none.
    """

    plan: Plan
    dataset: Dataset
    prepared: Path
    folder: Path
    fold: str
    schedule: Schedule | None
    device: torch.device
    precision: Precision | None = None
    workers: int | None = None


def task_of(plan: Plan) -> type[PlannedTask[Any]]:
    """The task that the plan's network is for.

    Raises:
        UsageError: if there is no training for it.
    """
    name = networks.describe(plan.network.name).task
    if name in TASKS and name != plan.task:
        raise UsageError(
            f"network {plan.network.name!r} is for {name}, and the plan is for {plan.task}; plan anew for {name}, or "
            f"choose one of {', '.join(networks.names(plan.task))}"
        )
    if name not in TASKS:
        raise UsageError(
            f"network {plan.network.name!r} is for {name}, and training is for {', '.join(TASKS)}; `medmamba networks` "
            "lists those to choose from"
        )
    return TASKS[name]


@memory_errors()
def train_fold(request: FoldRequest, listener: Listener, *, progress: Progress = silent) -> Run:
    """Prepare the cases and train, or go on where an earlier run of the same command stopped.

    Args:
        request: what to train.
        listener: told about the start, which lets a signal stop the trainer, and about steps and epochs.
        progress: shows how far the preparation is.

    Returns:
        The finished run.

    Raises:
        RunError: if the folder holds a run of another plan or schedule.
        MemoryError: if training needs more than there is; smaller batches (``train.batch_size``) need less.
        StoppedError: if it was stopped; a checkpoint is on disk.
        DataError: if cases cannot be prepared, naming them.
    """
    split, task = splits.split(request.dataset, request.fold), task_of(request.plan)
    if Run.exists(request.folder):
        run = _reopen(request, split)
        if run.finished:
            return run
    else:
        # Without memory for the weights. A run that cannot begin would stand in the way of the corrected command.
        with torch.device("meta"):
            task(request.plan).network()
    data, plan = request.dataset, request.plan
    wanted = plan.registration.reference if plan.registration else ""
    cache = task.prepare(
        [case for case in data.training if case.id in {*split.train, *split.validation}],
        plan,
        request.prepared / plan.preprocessing_digest(),
        progress=progress,
        workers=request.workers,
        pairs=(*dict.fromkeys((*splits.pairs_among(data, split.train), *splits.pairs_among(data, split.validation))),),
        reference=next((case for case in data.training if case.id == wanted), None),
    )
    if not Run.exists(request.folder):
        run = _start(request, split)
    Trainer(run, task(run.plan, cache, split, request.workers), request.device, listener).fit()
    return run


def validation_cases(run: Run, dataset: Dataset) -> list[Case]:
    """The cases that a fold did not learn from.

    Args:
        run: of the fold.
        dataset: that it was trained with.

    Raises:
        DatasetError: if the data set lacks cases of the fold.
    """
    cases = {case.id: case for case in dataset.training}
    missing = [case for case in run.info.split.held_out if case not in cases]
    if missing:
        raise DatasetError(
            f"{dataset.root} no longer has {len(missing)} of the cases that {run.folder} is to be judged on: "
            f"{some(missing)}; put them back, name the images that are left instead of --validation, or say with "
            "--data PATH where the data set lies that it was trained with"
        )
    return [cases[case] for case in sorted(run.info.split.held_out)]


def validation_pairs(run: Run, dataset: Dataset) -> tuple[Pair, ...]:
    """The pairs that a fold for registration did not learn from; their atlas, where they have one, is in others too.

    Args:
        run: of the fold.
        dataset: that it was trained with.

    Raises:
        DatasetError: if the data set lacks images of the fold.
    """
    validation_cases(run, dataset)
    return splits.pairs_among(dataset, run.info.split.validation)


def _start(request: FoldRequest, split: Split) -> Run:
    schedule = request.schedule or Schedule(steps=request.plan.train.epochs * request.plan.train.steps_per_epoch)
    precision = request.precision or choose_precision(request.device)
    batch_size, steps = fit_steps(request.plan, schedule, request.device, precision)
    overrides = fit_recipe(request.plan, batch_size, steps)
    info = RunInfo(
        fold=request.fold,
        split=split,
        schedule=schedule,
        precision=precision,
        overrides=overrides,
        versions=versions(),
        planned=None if schedule.steps is not None else Planned(speed=Speed.of(request.plan.train), steps=steps),
    )
    plan = replace(request.plan.overridden(overrides), dataset_root=str(request.dataset.root))
    return Run.create(request.folder, plan, info)


def _reopen(request: FoldRequest, split: Split) -> Run:
    run = Run(request.folder)
    wanted = request.plan.overridden(run.info.overrides)
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
    run.move_data(request.dataset.root)
    return run


def fit_steps(plan: Plan, schedule: Schedule, device: torch.device, precision: Precision) -> tuple[int, int]:
    """Batch size, and number of steps of that size, that a schedule holds.

    A network learns from the number of steps more than from the size of batches, so a time budget that allows few
    steps gets smaller batches. How many it holds is an estimate, made before the first step; training corrects what
    follows from it (`medmamba.training.trainer.Trainer`).
    """
    wanted = plan.train.batch_size
    if schedule.steps is not None:
        return wanted, schedule.steps
    assert schedule.budget_s is not None
    patch_s = seconds_per_patch(plan, device, precision, within_s=MEASURING_SHARE * schedule.budget_s)
    affordable = int(schedule.budget_s / (MANY_STEPS * patch_s))
    batch_size = max(min(SMALLEST_BATCH, wanted), min(wanted, affordable))
    steps = max(1, int(schedule.budget_s / (batch_size * patch_s)))
    log.info("%.2f s per patch: about %d steps of %d patches in %s", patch_s, steps, batch_size, schedule)
    if steps < FEW_STEPS:
        size = " x ".join(map(str, plan.topology.patch_size))
        log.warning(
            "%s hold about %d steps of %d patches of %s voxels, too few to learn much; give more time, or make steps "
            "cheaper with --set topology.patch_size=... or --set topology.features=...",
            schedule,
            steps,
            batch_size,
            size,
        )
    return batch_size, steps


def fit_recipe(plan: Plan, batch_size: int, steps: int) -> dict[str, Any]:
    """Changes to the recipe that a short schedule needs; none for nnU-Net's thousand epochs.

    Returns:
        Fields of the plan and their values, for `Plan.overridden`.
    """
    overrides: dict[str, Any] = {}
    if batch_size != plan.train.batch_size:
        overrides["train.batch_size"] = batch_size
    fitted = Speed.of(plan.train).fitted(steps)
    if fitted.momentum != plan.train.momentum:
        overrides["train.momentum"] = fitted.momentum
        overrides["train.learning_rate"] = fitted.learning_rate
    return overrides


def seconds_per_patch(plan: Plan, device: torch.device, precision: Precision, within_s: float) -> float:
    """Time of a training step per patch, measured on noise.

    Args:
        plan: network, patch and recipe.
        device: where it will train.
        precision: of the network's arithmetic.
        within_s: how long to go on measuring for a quiet moment of the machine; two steps are timed anyway.
    """
    torch.manual_seed(0)
    task = task_of(plan)(plan)
    network = task.network().to(device).train()
    optimizer = build_optimizer(network, plan.train)
    size = min(SMALLEST_BATCH, plan.train.batch_size)
    batch = task.noise(size).to(device)

    def forward(*inputs: Any) -> Any:
        with autocast(device, precision):
            return network(*inputs)

    def step() -> None:
        loss = task.loss(forward, batch).total
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
        float(loss.detach())  # waits for the device

    return fastest(step, within_s) / size
