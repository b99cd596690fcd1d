"""``medmamba plan``: measure a data set and decide how to train on it."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table
from rich.text import Text

from medmamba.cli._console import EDITION, Exit, command, note, out, pairs, say, track
from medmamba.cli._pairs import ATLAS, DIRECTION, MOVING, pairing_of
from medmamba.cli._plans import SET, USUAL, changed
from medmamba.errors import DataError, UsageError

if TYPE_CHECKING:
    from medmamba.plans.plan import Configuration
    from medmamba.plans.workspace import PlannedResult

#: What nnU-Net's environment variables name.
_NNUNET_FOLDERS = ("raw", "preprocessed", "results")


def plan(
    dataset: Annotated[
        Path,
        typer.Argument(
            exists=True,
            readable=True,
            resolve_path=True,
            help="Folder of the data set, as datasets.md has them, of films too; for registration also of subjects, of "
            "fixed images, "
            "or a table of pairs (.csv). It is only read.",
            show_default=False,
        ),
    ],
    task: Annotated[
        Literal["segmentation", "registration", "video"] | None,
        typer.Option(help="What to train for.", show_default="what network and data set are for"),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(
            "--network",
            "-n",
            help="Network to train; a wrong name lists the right ones.",
            show_default=f"{USUAL['segmentation']}, for registration {USUAL['registration']}, "
            f"for video {USUAL['video']}",
        ),
    ] = None,
    mixer: Annotated[
        Literal["none", "mamba", "bimamba", "tri", "cross", "moe"] | None,
        typer.Option(
            "--mixer",
            help="What mixes the voxels where a network has Mamba; 'none' shows what Mamba is good for on your data.",
            show_default="the network's own",
        ),
    ] = None,
    configuration: Annotated[
        Literal["2d", "3d_fullres", "all"] | None,
        typer.Option(
            "--configuration",
            "-c",
            help="Slices, volumes, or a plan for each.",
            show_default="3d_fullres, 2d for slices",
        ),
    ] = None,
    gpu_memory: Annotated[
        float,
        typer.Option(min=0.1, metavar="GB", help="GPU memory that training may take; more makes larger patches."),
    ] = 8.0,
    work: Annotated[
        Path,
        typer.Option(envvar="MEDMAMBA_WORK", file_okay=False, help="Folder for everything that is computed."),
    ] = Path("medmamba-work"),
    export_nnunet: Annotated[
        Path | None,
        typer.Option(
            "--export-nnunet",
            metavar="DIR",
            file_okay=False,
            help="Also write the plans for stock nnU-Net, which then trains and predicts with this network.",
        ),
    ] = None,
    channel_rule: Annotated[
        list[str] | None,
        typer.Option(
            "--channel-rule",
            metavar="NAME=REGEX",
            help="How a channel's series is told in an export in DICOM, such as T1ce='T1.*(GD|post)': by modality, "
            "description, protocol and sequence; once for each channel.",
            show_default=False,
        ),
    ] = None,
    edition: Annotated[str, typer.Option(metavar="NAME", help=EDITION, show_default=False)] = "",
    moving: MOVING = None,
    atlas: ATLAS = "",
    direction: DIRECTION = "to_atlas",
    set_: SET = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a plan that is there and differs.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Measure a data set and decide how to train on it, with a reason for each decision.

    The data set is measured once (sizes, spacings, intensities of the labelled voxels); later calls reuse the
    measurements as long as its files stay the same. From them follow, by nnU-Net's rules, voxel size, patch and batch
    size, the depth of the network and how images are normalised and augmented. The outcome is a file, plan.json, that
    can be read and edited before training; an edited plan is never overwritten without --force. Its folder is called
    after configuration, network and options, so that plans with other options lie side by side.

    For example:

        medmamba plan data/Dataset004_Hippocampus

        medmamba plan data/Dataset004_Hippocampus --network umamba_enc --gpu-memory 24

        medmamba plan data/Dataset004_Hippocampus --configuration all --json

        medmamba plan data/BraTS-PEDs2024_Training --edition brats2024-ped

        medmamba plan data/Dataset004_Hippocampus --network umamba_bot --mixer none

        medmamba plan data/Dataset004_Hippocampus --network segmamba --export-nnunet nnunet

    For registration, pairs come from a table, from two folders or from one, and what is decided are the working grid,
    how images are aligned and normalised before the network, the similarity, and how much fits into memory:

        medmamba plan brains --task registration

        medmamba plan ct --task registration --moving mr --network voxelmorph

        medmamba plan brains --task registration --set registration.affine=rigid --set train.epochs=50

    Films are told by how their folder is laid out; what is decided of them are how many frames a clip has, how far
    apart they are, and how large:

        medmamba plan endoscopies

        medmamba plan endoscopies --set video.clip_length=8 --set video.causal=true
    """
    from medmamba import networks
    from medmamba.io import open_dataset, open_pairs
    from medmamba.io.places import check_output_folder, places_of
    from medmamba.plans import nnunet
    from medmamba.plans.planner import possible_configurations
    from medmamba.plans.workspace import Workspace, measured, plan_dataset

    tasks = {name: networks.describe(name).task for name in networks.names()}
    if network is not None and network not in tasks:
        known = ", ".join(networks.names(task or "segmentation"))
        raise UsageError(f"there is no network {network!r} for {task or 'segmentation'}; choose one of {known}")
    if task and network and tasks[network] != task:
        raise UsageError(f"network {network!r} is not for {task}; choose one of {', '.join(networks.names(task))}")
    is_registration = (tasks[network] if network else task) == "registration"
    if not is_registration and (moving or atlas):
        raise UsageError("--moving and --atlas are for registration; add --task registration")
    pairing = pairing_of(moving, atlas, direction)
    data = open_pairs(dataset, pairing) if is_registration else open_dataset(dataset, edition=edition)
    if data.task != "segmentation" and (configuration or export_nnunet or channel_rule or edition):
        raise UsageError("--configuration, --export-nnunet, --channel-rule and --edition are for segmentation")
    if task not in (None, data.task):
        raise UsageError(
            f"{dataset} is laid out as a data set for {data.task}, not for {task}; datasets.md shows the layouts"
        )
    network = network or USUAL[data.task]
    if tasks[network] != data.task:
        fault = f"network {network!r} is for {tasks[network]}, and {dataset} is for {data.task}"
        raise UsageError(f"{fault}; choose one of {', '.join(networks.names(data.task))}")
    workspace = Workspace(work, data.name)
    check_output_folder(workspace.folder, inputs=places_of(data))
    if export_nnunet is not None:
        nnunet.check_export(export_nnunet.resolve(), data)
    chosen: tuple[Configuration, ...] = ("3d_fullres",)
    if data.task == "segmentation":
        fingerprint = measured(data, workspace, track)
        possible = possible_configurations(fingerprint)
        chosen = possible if configuration == "all" else (configuration or possible[0],)
    options = {} if mixer is None else {"mixer": mixer}
    if unknown := options.keys() - networks.describe(network).options.keys():
        raise UsageError(f"network {network!r} has no option {', '.join(unknown)}: nothing in it to exchange")
    rules = pairs("--channel-rule", channel_rule or [], "REGEX")
    results = [
        plan_dataset(
            data,
            network,
            each,
            work=work,
            gpu_memory_gb=gpu_memory,
            force=force,
            network_options=options,
            channel_rules=rules,
            change=lambda plan: changed(plan, set_ or []),
            network_bytes=partial(networks.registration_bytes, network, options=options),
            progress=track,
        )
        for each in chosen
    ]
    weights = [_weights(result) for result in results]
    counted = "clips" if data.task == "video" else "training cases"
    if export_nnunet is not None:
        number = nnunet.export_nnunet(export_nnunet.resolve(), data, fingerprint, [each.plan for each in results])
    if as_json:
        plans = [_as_json(result, n) for result, n in zip(results, weights, strict=True)]
        typer.echo(json.dumps({"dataset": data.name, "plans": plans}, indent=2))
    else:
        for result, n in zip(results, weights, strict=True):
            _show(result, f"{len(data.pairs)} pairs" if data.pairs else f"{len(data.training)} {counted}", n)
        if export_nnunet is not None:
            _show_nnunet(export_nnunet.resolve(), number, chosen[-1])
    if any(result.outcome == "kept" for result in results):
        raise typer.Exit(Exit.USAGE)


def _show_nnunet(folder: Path, number: int, configuration: str) -> None:
    """The commands with which stock nnU-Net goes on."""
    from medmamba.plans.nnunet import PLANS_NAME

    folders = (f"nnUNet_{kind}={shlex.quote(str(folder / f'nnUNet_{kind}'))}" for kind in _NNUNET_FOLDERS)
    for line in (
        f"for stock nnU-Net, in {folder}:",
        f"  export {' '.join(folders)}",
        f"  nnUNetv2_preprocess -d {number} -plans_name {PLANS_NAME} -c {configuration}",
        f"  nnUNetv2_train {number} {configuration} 0 -p {PLANS_NAME}",
        f"  nnUNetv2_predict -d {number} -c {configuration} -f 0 -p {PLANS_NAME} -i IMAGES -o PREDICTIONS",
    ):
        say(line)


def _next_command(result: PlannedResult) -> str:
    return command("train", result.path, "--fold", result.fold)


def _as_json(result: PlannedResult, weights: int) -> dict[str, Any]:
    return {
        "configuration": result.plan.configuration,
        "network": result.plan.network.name,
        "weights": weights,
        "outcome": result.outcome,
        "digest": result.plan.digest(),
        "plan": str(result.path),
        "fingerprint": str(result.fingerprint_path),
        "differences": list(result.differences),
        # Those of the plan in the file: an edited plan has decisions that nobody gave a reason for.
        "decisions": [
            {key: value for key, value in asdict(decision).items() if key != "is_warning"}
            for decision in (result.decisions if result.outcome != "kept" else ())
        ],
        "next": _next_command(result),
    }


def _weights(result: PlannedResult) -> int:
    """How many weights the planned network has; finds out early when it cannot be built."""
    import torch

    from medmamba import networks
    from medmamba.training.fold import TASKS, task_of

    plan = result.plan
    # Without memory for the weights, which takes no time.
    with torch.device("meta"):
        try:
            if plan.task in TASKS:
                network = task_of(plan)(plan).network()
            else:
                wanted, sizes = plan.network, (len(plan.channels), plan.labels.output_channels)
                network = networks.create(wanted.name, *sizes, plan.topology, **wanted.options)
        except DataError as error:
            raise DataError(f"{result.path} was made, but its network cannot be built: {error}") from error
    return sum(parameter.numel() for parameter in network.parameters())


def _show(result: PlannedResult, source: str, weights: int) -> None:
    plan = result.plan
    if result.outcome == "kept":
        note(f"kept: {result.path} differs from what would be planned now:")
        for line in result.differences:
            note(f"  {line}", None)
        note(f"Train with it as it is ({_next_command(result)}), or add --force to replace it.", None)
        return
    kind = plan.configuration if plan.task == "segmentation" else plan.task
    say(f"{plan.dataset}: {kind} plan for {plan.network.name} from {source}", "bold")
    table = Table.grid(padding=(0, 2))
    for decision in result.decisions:
        style = "yellow" if decision.is_warning else "cyan"
        table.add_row(Text(decision.what, style), Text(decision.value), Text(decision.reason, "dim"))
    table.add_row(Text("network", "cyan"), plan.network.name, Text(f"{weights / 1e6:.3g} million weights", "dim"))
    # The console does not wrap lines, so that paths can be copied; the columns of a table must.
    out.print(table, soft_wrap=False)
    for line in result.differences:
        say(f"replaced {line}")
    state = "as before" if result.outcome == "unchanged" else result.outcome
    say(f"plan         {result.path} ({state}, digest {plan.digest()})")
    say(f"measurements {result.fingerprint_path}")
    say(f"next         {_next_command(result)}\n")
