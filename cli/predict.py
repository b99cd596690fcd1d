"""``medmamba predict``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medmamba.cli._console import Exit, err, note, pairs, say, table, track
from medmamba.errors import UsageError

if TYPE_CHECKING:
    from medmamba.case import Case
    from medmamba.io.dicom.series import Choice
    from medmamba.prediction.predictor import Outcome
    from medmamba.training.run import Run

#: Heading of the options for it.
DICOM = "Exports in DICOM"


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
        typer.Option(
            "--input",
            "-i",
            exists=True,
            help="An image, a folder of images or of BraTS's cases, or an export in DICOM: a folder, zip or DICOMDIR.",
        ),
    ] = None,
    series: Annotated[
        list[str] | None,
        typer.Option(
            "--series",
            metavar="UID",
            help="Of an export in DICOM: the series to segment, as `medmamba scan` lists it, such as UID#2 for its "
            "second stack or UID@2 for that of study 2; once for each.",
            rich_help_panel=DICOM,
        ),
    ] = None,
    channel: Annotated[
        list[str] | None,
        typer.Option(
            "--channel",
            metavar="NAME=UID|FOLDER",
            help="Of an export in DICOM: the series of one of the model's channels, once for each.",
            show_default="by the rules of the plan",
            rich_help_panel=DICOM,
        ),
    ] = None,
    uneven: Annotated[
        Literal["refuse", "resample"],
        typer.Option(
            help="Slices in uneven steps, with gaps, or some of them lost: bring them to even ones.",
            rich_help_panel=DICOM,
        ),
    ] = "refuse",
    tilt: Annotated[
        Literal["refuse", "resample"],
        typer.Option(help="Slices of a tilted gantry: bring them to a right-angled grid.", rich_help_panel=DICOM),
    ] = "refuse",
    phase: Annotated[
        str,
        typer.Option(
            metavar="NUMBER|NAME",
            help="Which of several time points, echoes, ... that lie at the same positions.",
            show_default="refuse",
            rich_help_panel=DICOM,
        ),
    ] = "",
    duplicates: Annotated[
        Literal["refuse", "first", "last"],
        typer.Option(
            help="Which of two slices at one position, where a few are there twice or two stacks overlap.",
            rich_help_panel=DICOM,
        ),
    ] = "refuse",
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
            "format; several with commas, such as nii.gz,seg.dcm,rtstruct.dcm; a wrong one lists all.",
            show_default="that of each case's first image; seg.dcm for DICOM",
        ),
    ] = None,
    seg_type: Annotated[
        Literal["binary", "labelmap", "fractional", "itk"],
        typer.Option(
            help="Kind of DICOM SEG: a mask for each structure, one map where none overlap, probabilities, or "
            "a folder with a file of all slices for each structure, as ITK and SimpleITK read it.",
        ),
    ] = "binary",
    anonymise: Annotated[
        bool,
        typer.Option(
            "--anonymise",
            help="Keep nothing of the patient in DICOM objects, and replace UIDs, the same by the same in the whole "
            "folder.",
        ),
    ] = False,
    codes: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="JSON file of codes and colours of structures for DICOM objects, see docs/dicom.md.",
            show_default="those of data sets we know",
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

    Of an export in DICOM, series are recognised by their content; `medmamba scan` shows them. One that lies in a folder
    of its own is called after that, any other by its UID. A model of several channels finds them by the rules of its
    plan (`channel_rules`). What is no stack of even, upright slices is refused, naming positions, unless you say how to
    go on. A study in which it is not clear which series are meant fails as a case does, and the others go on.

    Examples:
        medmamba predict -i scans/ -o segmentations/ -m medmamba-work/Hippocampus/3d_fullres__umamba_bot/fold_0

        medmamba predict -i export.zip -o segmentations/ -m RUN --series 1.2.840.113619.2.5.1762 --tilt resample

        medmamba predict --validation -o predictions/ -m medmamba-work/Hippocampus/3d_fullres__umamba_bot/fold_0
    """
    from medmamba.device import choose_device
    from medmamba.io.dicom.series import Choice
    from medmamba.io.places import check_output_folder
    from medmamba.prediction.objects import dicom_writers
    from medmamba.prediction.predictor import Predictor, predict_cases
    from medmamba.training.run import Run

    asked = Asked(
        images=images,
        series=tuple(series or ()),
        channels=pairs("--channel", channel or [], "UID or FOLDER"),
        choice=Choice(uneven=uneven, tilt=tilt, phase=phase, duplicates=duplicates),
    )
    if (images is None and not asked.channels) != validation:
        raise UsageError("give either -i IMAGES or --validation")
    if validation and asked.is_about_dicom:
        raise UsageError("options for DICOM choose among the series of an export, which is given with -i")
    if data is not None and not validation:
        raise UsageError("--data says where the cases of --validation are; images to segment are given with -i")

    # Once each, also when a fold is given twice or with the folder of its plan.
    folders = {folder.resolve(): folder for path in model for folder in fold_folders(path)}
    runs = [Run(folder) for folder in folders.values()]
    check_output_folder(output)
    writers = dicom_writers(output, runs[0].plan, seg_type=seg_type, anonymise=anonymise, codes=codes)
    with _validation_cases(runs, data, output) if validation else _inputs(asked, runs, output) as cases:
        used = choose_device(device)
        predictor = Predictor.from_runs(runs, used, precision=precision, weights=weights, mirror=mirror)
        outcomes = predict_cases(
            cases,
            predictor,
            output,
            overwrite=overwrite,
            endings=[f".{each.strip().lstrip('.')}" for each in ending.split(",")] if ending else (),
            writers=writers,
            progress=track,
        )
    count = Counter(outcome.status for outcome in outcomes)
    say(f"{count['done']} predicted, {count['skipped']} finished earlier, {count['failed']} failed: {output}")
    _explain(outcomes)
    if count["failed"]:
        failed = ([outcome.case, outcome.message] for outcome in outcomes if outcome.status == "failed")
        err.print(table(["case", "why it failed"], failed))
        raise typer.Exit(Exit.DATA)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a user said of the images."""

    images: Path | None
    series: tuple[str, ...]
    channels: dict[str, str]
    choice: Choice

    @property
    def is_about_dicom(self) -> bool:
        """Whether any of it makes sense for an export in DICOM alone."""
        return bool(self.series or self.channels) or self.choice != type(self.choice)()


@contextmanager
def _validation_cases(runs: list[Run], data: Path | None, output: Path) -> Iterator[list[Case]]:
    """The cases that the one fold did not learn from."""
    from medmamba.io.places import check_output_folder, places_of
    from medmamba.plans.workspace import planned_dataset
    from medmamba.training.fold import validation_cases

    if len(runs) != 1:
        given = ", ".join(str(run.folder) for run in runs)
        raise UsageError(
            f"--validation needs a single fold: the others learned from its cases; give one of {given} with -m"
        )
    if not runs[0].info.split.held_out:
        raise UsageError(
            f"{runs[0].folder} was left no cases to validate on; give images with -i instead of --validation"
        )
    dataset = planned_dataset(runs[0].plan, data)
    check_output_folder(output, inputs=places_of(dataset))
    yield validation_cases(runs[0], dataset)


@contextmanager
def _inputs(asked: Asked, runs: list[Run], output: Path) -> Iterator[list[Case]]:
    """The images of a user; what a zip holds is there until the block ends."""
    from medmamba.io import find_inputs
    from medmamba.io.datasets import is_export
    from medmamba.io.dicom.inputs import PLACE, Wanted, export_cases
    from medmamba.io.layouts.brats import coding_remark

    plan = runs[0].plan
    channels = tuple(channel.name for channel in plan.channels)
    if asked.images is not None and not asked.is_about_dicom and not is_export(asked.images, len(channels)):
        known = {case for run in runs for case in (*run.info.split.train, *run.info.split.validation)}
        cases = find_inputs(asked.images, len(channels), known=known, names_of_channels=channels)
        if remark := coding_remark(asked.images, plan.labels):
            note(remark)
        yield cases
        return
    wanted = Wanted(
        channels=channels,
        rules=plan.channel_rules,
        given=asked.channels,
        series=asked.series,
        choice=asked.choice,
    )
    with export_cases(asked.images, wanted, output / PLACE, track) as (cases, passed_over):
        if passed_over:
            note(passed_over)
        yield cases


def _explain(outcomes: list[Outcome]) -> None:
    """Why cases were predicted again, or are finished although another version made them: a line for each reason."""
    from medmamba.case import some

    cases: dict[tuple[str, str], list[str]] = {}
    for outcome in outcomes:
        if outcome.status != "failed" and outcome.message:
            cases.setdefault((outcome.status, outcome.message), []).append(outcome.case)
    for (status, reason), names in cases.items():
        note(f"{'predicted again, because ' if status == 'done' else ''}{reason}: {some(names)}")


def fold_folders(path: Path) -> list[Path]:
    """The run folder itself, or those of all folds below the folder of a plan."""
    from medmamba.plans.workspace import run_folders

    folds = [folder for folder in (path, *run_folders(path)) if (folder / "run.json").is_file()]
    if not folds:
        raise UsageError(f"{path} holds no training run; give a folder such as .../3d_fullres__umamba_bot/fold_0")
    return folds
