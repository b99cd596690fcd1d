"""``medmamba predict``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medmamba.cli._console import Exit, err, note, say, table, track
from medmamba.errors import UsageError

if TYPE_CHECKING:
    from medmamba.prediction.predictor import Outcome


def predict(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the segmentations.")],
    model: Annotated[
        list[Path],
        typer.Option(
            "--model",
            "-m",
            exists=True,
            help="Run folder of a fold, or the folder of its plan for all folds trained there. Several are averaged.",
        ),
    ],
    images: Annotated[
        Path | None,
        typer.Option("--input", "-i", exists=True, help="An image, or a folder of images or of BraTS's cases."),
    ] = None,
    validation: Annotated[
        bool, typer.Option("--validation", help="Instead of -i: the cases that the fold did not learn from.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    precision: Annotated[
        Literal["fp32", "bf16"] | None, typer.Option(help="Arithmetic of the network.", show_default="as in training")
    ] = None,
    mirror: Annotated[
        bool | None,
        typer.Option(
            "--mirror/--no-mirror",
            help="Average over flipped images: slower, a little better.",
            show_default="the plan's",
        ),
    ] = None,
    weights: Annotated[
        Literal["final", "best", "checkpoint"] | None,
        typer.Option(help="Which weights of the run.", show_default="final, or the best so far"),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Also predict cases that are finished, and replace segmentations that were not predicted here.",
        ),
    ] = False,
    ending: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="ENDING",
            help="Write all segmentations so, for example .nrrd, into a folder that has none of these cases in another "
            "format; a wrong one lists all.",
            show_default="that of each case's first image",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            help="With --validation: where the data set lies now, if it was moved.",
            show_default="where the plan says",
        ),
    ] = None,
) -> None:
    """Segment images with a trained network.

    Each segmentation is on the grid of its image, and in its format. Finished cases are skipped, so that an interrupted
    command can simply be repeated; a case that fails does not stop the others. With another model or other options, or
    when an image was exchanged, a case is predicted again: prediction.json in the folder says what made each file. A
    file that was not predicted there, or was edited since, is kept unless you say --overwrite; images are never
    overwritten.

    Channels of a case are files that end in _0000, _0001, ... or one file that holds them all. In case folders of BraTS
    they are found by the modality in their names, also where the model was trained on another edition.

    Examples:
        medmamba predict -i scans/ -o segmentations/ -m medmamba-work/Hippocampus/3d_fullres__umamba_bot/fold_0

        medmamba predict --validation -o predictions/ -m medmamba-work/Hippocampus/3d_fullres__umamba_bot/fold_0
    """
    if (images is None) != validation:
        raise UsageError("give either -i IMAGES or --validation")
    if data is not None and not validation:
        raise UsageError("--data says where the cases of --validation are; images to segment are given with -i")

    from medmamba.device import choose_device
    from medmamba.io import find_inputs
    from medmamba.io.layouts.brats import coding_remark
    from medmamba.io.places import check_output_folder, places_of
    from medmamba.plans.workspace import planned_dataset
    from medmamba.prediction.predictor import Predictor, predict_cases
    from medmamba.training.fold import validation_cases
    from medmamba.training.run import Run

    # Once each, also when a fold is given twice or with the folder of its plan.
    folders = {folder.resolve(): folder for path in model for folder in _fold_folders(path)}
    runs = [Run(folder) for folder in folders.values()]
    plan = runs[0].plan
    check_output_folder(output)
    if images is not None:
        known = {case for run in runs for case in (*run.info.split.train, *run.info.split.validation)}
        channels = [channel.name for channel in plan.channels]
        cases = find_inputs(images, len(channels), known=known, names_of_channels=channels)
        if remark := coding_remark(images, plan.labels):
            note(remark)
    else:
        if len(runs) != 1:
            given = ", ".join(str(run.folder) for run in runs)
            raise UsageError(
                f"--validation needs a single fold: the others learned from its cases; give one of {given} with -m"
            )
        if not runs[0].info.split.held_out:
            raise UsageError(
                f"{runs[0].folder} was left no cases to validate on; give images with -i instead of --validation"
            )
        dataset = planned_dataset(plan, data)
        check_output_folder(output, inputs=places_of(dataset))
        cases = validation_cases(runs[0], dataset)
    predictor = Predictor.from_runs(runs, choose_device(device), precision=precision, weights=weights, mirror=mirror)
    if ending is not None:
        ending = f".{ending.lstrip('.')}"
    outcomes = predict_cases(cases, predictor, output, overwrite=overwrite, ending=ending, progress=track)
    count = Counter(outcome.status for outcome in outcomes)
    say(f"{count['done']} predicted, {count['skipped']} finished earlier, {count['failed']} failed: {output}")
    _explain(outcomes)
    if count["failed"]:
        failed = ([outcome.case, outcome.message] for outcome in outcomes if outcome.status == "failed")
        err.print(table(["case", "why it failed"], failed))
        raise typer.Exit(Exit.DATA)


def _explain(outcomes: list[Outcome]) -> None:
    """Why cases were predicted again, or are finished although another version made them: a line for each reason."""
    from medmamba.case import some

    cases: dict[tuple[str, str], list[str]] = {}
    for outcome in outcomes:
        if outcome.status != "failed" and outcome.message:
            cases.setdefault((outcome.status, outcome.message), []).append(outcome.case)
    for (status, reason), names in cases.items():
        note(f"{'predicted again, because ' if status == 'done' else ''}{reason}: {some(names)}")


def _fold_folders(path: Path) -> list[Path]:
    """The run folder itself, or those of all folds below the folder of a plan."""
    from medmamba.plans.workspace import run_folders

    folds = [folder for folder in (path, *run_folders(path)) if (folder / "run.json").is_file()]
    if not folds:
        raise UsageError(f"{path} holds no training run; give a folder such as .../3d_fullres__umamba_bot/fold_0")
    return folds
