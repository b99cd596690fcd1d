"""``medmamba train``."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medmamba.cli._console import EDITION, command, note, say, track
from medmamba.cli._plans import SET, USUAL, changed
from medmamba.cli._training import TrainingDisplay
from medmamba.errors import UsageError

if TYPE_CHECKING:
    from medmamba.plans.workspace import PlannedResult
    from medmamba.training.run import Run


def train(
    source: Annotated[
        Path,
        typer.Argument(
            exists=True,
            metavar="PLAN|DATASET",
            help="A plan.json that `medmamba plan` wrote, or a data set, which is then planned first: its folder, for "
            "registration also that of subjects, or a table of pairs (.csv).",
        ),
    ],
    fold: Annotated[
        str, typer.Option(help="Which of the five folds to leave out for validation, or `all` to leave out none.")
    ] = "0",
    network: Annotated[
        str | None,
        typer.Option(
            help="Network to plan for when given a data set; see `medmamba networks`.",
            show_default=f"{USUAL['segmentation']}, for a table of pairs {USUAL['registration']}",
        ),
    ] = None,
    configuration: Annotated[
        Literal["2d", "3d_fullres"] | None,
        typer.Option(help="When given a data set.", show_default="what suits the data"),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Optimiser steps.", show_default="the plan's epochs, 250000 steps")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Time to train, such as 20m, 12h or 90s; the schedule is fitted to it."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    precision: Annotated[
        Literal["fp32", "bf16"] | None,
        typer.Option(help="Arithmetic of the network.", show_default="bf16 where the processor has it"),
    ] = None,
    work: Annotated[Path, typer.Option(envvar="MEDMAMBA_WORK", help="Work folder, when given a data set.")] = Path(
        "medmamba-work"
    ),
    resume: Annotated[
        bool, typer.Option("--resume/--restart", help="Go on with a run that is there, or set it aside and start over.")
    ] = True,
    set_: SET = None,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that prepare cases, and draw batches ahead; 0: none.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            help="When given a plan: where its data set lies now, if it was moved; plan and run remember it.",
            show_default="where the plan says",
        ),
    ] = None,
    edition: Annotated[
        str, typer.Option(metavar="NAME", help=f"When given a data set. {EDITION}", show_default=False)
    ] = "",
) -> None:
    """Train a network on one fold of a data set.

    Cases are prepared once and kept in the work folder, or beside a plan that lies in none. The run folder, beside the
    plan, gets weights, a log and progress.png. Ctrl-C saves a checkpoint and stops; the same command goes on from
    there, also after a crash.

    A plan for registration learns from pairs of images instead, which are aligned once and kept in the same way. A
    folder is taken for one to segment unless --network is one for registration.

    Examples:
        medmamba train medmamba-work/Hippocampus/3d_fullres__umamba_bot/plan.json --fold 0

        medmamba train Task04_Hippocampus --network umamba_enc --budget 20m

        medmamba train medmamba-work/Hippocampus/3d_fullres__umamba_bot/plan.json --data /new/place/Task04_Hippocampus
    """
    if steps is not None and budget is not None:
        raise UsageError("--steps and --budget both say how long to train; give one of them")
    is_table = source.suffix.lower() in (".csv", ".tsv")
    is_data = source.is_dir() or is_table
    if data is not None and is_data:
        raise UsageError("--data is for a plan whose data set was moved; of a data set, give its folder alone")
    if edition and not is_data:
        raise UsageError(f"{source} is a plan, which holds the edition of its data set; leave out --edition")
    budget_s = None if budget is None else parse_time(budget)

    from medmamba import networks
    from medmamba.device import choose_device
    from medmamba.io import open_dataset, open_pairs
    from medmamba.io.places import check_output_folder, places_of
    from medmamba.plans.plan import Plan
    from medmamba.plans.workspace import Workspace, plan_dataset, planned_dataset, run_folder
    from medmamba.training.fold import FoldRequest, task_of, train_fold
    from medmamba.training.plot import Curves
    from medmamba.training.run import Schedule

    if is_data:
        is_registration = networks.describe(network).task == "registration" if network else is_table
        dataset = open_pairs(source) if is_registration else open_dataset(source, edition=edition)
        network = network or USUAL[dataset.task]
        check_output_folder(Workspace(work, dataset.name).folder, inputs=places_of(dataset))
        planned = plan_dataset(dataset, network, configuration, work=work, progress=track)
        plan_path = planned.path
        if planned.outcome == "kept":
            _tell_kept(planned)
        plan = Plan.load(plan_path)
    else:
        plan_path, plan = source, Plan.load(source)
        dataset = planned_dataset(plan, data)
    if data is not None:
        plan = replace(plan, dataset_root=str(dataset.root))
        plan.save(plan_path)
    wanted = changed(plan, set_ or [])
    folder = run_folder(plan_path.parent, fold)
    check_output_folder(folder.parent, inputs=places_of(dataset))
    if not resume and folder.exists():
        say(f"The run that was here is now {_set_aside(folder)}")
    request = FoldRequest(
        plan=wanted,
        dataset=dataset,
        prepared=_home(plan_path) / "preprocessed",
        folder=folder,
        fold=fold,
        schedule=None if steps is None and budget_s is None else Schedule(steps=steps, budget_s=budget_s),
        device=choose_device(device),
        precision=precision,
        workers=workers,
    )
    kind = plan.configuration if plan.task == "segmentation" else plan.task
    with TrainingDisplay(f"{plan.network.name} {kind} fold {fold}") as display:
        run = train_fold(request, display, progress=track)
    Curves(task_of(run.plan)(run.plan).measures, run.read_log()).draw(run.folder / "progress.png", display.title)
    say(f"Finished: {run.folder}")
    say(f"Next: {_next_commands(run, dataset.root)}")


def _home(plan: Path) -> Path:
    """Where prepared cases are kept: in the data set's part of the work folder, or beside a plan that lies in none."""
    folder = plan.absolute().parent
    return folder.parent if any(folder.parent.glob("fingerprint*.json")) else folder


def _tell_kept(planned: PlannedResult) -> None:
    """Training goes by the plan that is there; whoever changed the data set or the options must hear of it."""
    note(
        f"{planned.path} differs from what would be planned now, and is used as it is; `medmamba plan` with --force "
        "replaces it:"
    )
    for line in planned.differences:
        note(f"  {line}", None)


def _next_commands(run: Run, dataset: Path) -> str:
    if run.plan.task == "registration":
        return _next_for_pairs(run)
    if not run.info.split.held_out:
        return command("predict", "-m", run.folder, "-i", "IMAGES", "-o", "SEGMENTATIONS")
    # Beside the weights, so that the folds do not write into one another's folder.
    predictions = run.folder / "predictions"
    predict = command("predict", "-m", run.folder, "--validation", "-o", predictions)
    # An edition that had to be told when the plan was made is not found by looking either.
    edition = ("--labels", run.plan.edition) if run.plan.edition else ()
    return f"{predict} && {command('evaluate', predictions, dataset, *edition)}"


def _next_for_pairs(run: Run) -> str:
    if not run.info.split.held_out:
        return command("register", "-m", run.folder, "--fixed", "FIXED", "--moving", "MOVING", "-o", "REGISTERED")
    registered = run.folder / "registered"
    register = command("register", "-m", run.folder, "--validation", "-o", registered)
    return f"{register} && {command('evaluate', registered)}"


def parse_time(text: str) -> float:
    """Seconds of a time such as ``90s``, ``20m``, ``1h30m`` or ``2d``."""
    units = {"d": 86400, "h": 3600, "m": 60, "s": 1}
    parts = re.findall(r"(\d+(?:\.\d+)?)([dhms])", text)
    seconds = sum(float(number) * units[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or seconds <= 0:
        raise UsageError(f"--budget must be a time such as 90s, 20m, 1h30m or 2d, got {text!r}")
    return seconds


def _set_aside(folder: Path) -> Path:
    """Move a run out of the way, unless a process is training in it, which would go on writing under the old name."""
    from medmamba.training.run import Run

    if Run.exists(folder):
        with Run(folder).locked():
            pass
    number = 1
    while (aside := folder.with_name(f"{folder.name}.old{number}")).exists():
        number += 1
    return folder.rename(aside)
