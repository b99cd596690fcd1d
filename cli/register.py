"""``medmamba register``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medmamba.cli._console import Exit, err, note, say, table, track
from medmamba.cli._pairs import ATLAS, DIRECTION, pairing_of
from medmamba.errors import UsageError

if TYPE_CHECKING:
    from medmamba.case import Pair
    from medmamba.registration.records import Outcome, PairRecord

#: Headings of options.
ONE, MANY, HOW = "One pair", "Many pairs", "How"


def register(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results, one in it for each pair.")],
    fixed: Annotated[
        Path | None,
        typer.Option(
            "--fixed",
            "-f",
            exists=True,
            help="The image onto whose grid the other comes, a DICOM series, or a folder of such images.",
            show_default=False,
        ),
    ] = None,
    moving: Annotated[
        Path | None,
        typer.Option(
            "--moving",
            exists=True,
            help="The image that is brought there, or a folder of those of the same names.",
            show_default="with a folder: each of its images to each other",
        ),
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Table (.csv) with the columns fixed and moving, and id, fixed_label, moving_label, fixed_points, "
            "moving_points, fixed_mask, moving_mask where there are some.",
            rich_help_panel=MANY,
            show_default=False,
        ),
    ] = None,
    atlas: ATLAS = "",
    direction: DIRECTION = "to_atlas",
    validation: Annotated[
        bool,
        typer.Option("--validation", help="With -m: the pairs that the fold did not learn from.", rich_help_panel=MANY),
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            help="With --validation: where the images lie now, if they were moved.",
            rich_help_panel=MANY,
            show_default="where the plan says",
        ),
    ] = None,
    fixed_label: Annotated[
        Path | None, typer.Option(exists=True, help="Label map of it.", rich_help_panel=ONE, show_default=False)
    ] = None,
    moving_label: Annotated[
        Path | None,
        typer.Option(exists=True, help="Label map, warped as well.", rich_help_panel=ONE, show_default=False),
    ] = None,
    fixed_points: Annotated[
        Path | None,
        typer.Option(
            exists=True, help="Landmarks in mm, see `medmamba warp`.", rich_help_panel=ONE, show_default=False
        ),
    ] = None,
    moving_points: Annotated[
        Path | None,
        typer.Option(exists=True, help="Landmarks, taken along as well.", rich_help_panel=ONE, show_default=False),
    ] = None,
    fixed_mask: Annotated[
        Path | None,
        typer.Option(exists=True, help="Where the fixed image counts.", rich_help_panel=ONE, show_default=False),
    ] = None,
    moving_mask: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            help="Where the moving image counts for the alignment.",
            rich_help_panel=ONE,
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            "-m",
            exists=True,
            file_okay=False,
            help="Run folder of a network that was trained for registration.",
            rich_help_panel=HOW,
            show_default="none: align and refine",
        ),
    ] = None,
    affine: Annotated[
        Literal["none", "centres", "rigid", "affine"] | None,
        typer.Option(
            help="Before all else: nothing, centres of mass together, or also turned, or also sheared and scaled, by "
            "mutual information.",
            rich_help_panel=HOW,
            show_default="affine, or as the model was trained",
        ),
    ] = None,
    refine: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Deform by N steps downhill for this pair alone, from what the model found or from nothing.",
            rich_help_panel=HOW,
            show_default="50, or 0 with a model",
        ),
    ] = None,
    similarity: Annotated[
        Literal["lncc", "mse", "mi", "mind"] | None,
        typer.Option(
            help="By which refinement compares: local correlation for one contrast, MIND-SSC for different ones, "
            "mutual information, or squared differences.",
            rich_help_panel=HOW,
            show_default="by intensities and names of files",
        ),
    ] = None,
    deformation: Annotated[
        Literal["free", "stiff"] | None,
        typer.Option(
            help="What refinement lets the field do: follow each border, or move smoothly and no further than the "
            "images insist, for contrasts that agree in few borders.",
            rich_help_panel=HOW,
            show_default="stiff for CT with another kind, else free",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.", rich_help_panel=HOW)] = "auto",
    tfm: Annotated[
        bool,
        typer.Option(
            "--tfm",
            help="Also write transform.tfm and inverse.tfm, the same as .h5 in text: 2.5 times the bytes, and slow.",
        ),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Also register pairs that are finished, and replace what is not ours."),
    ] = False,
) -> None:
    """Bring images onto one another, and write transforms that other software can use.

    The moving image is aligned to the fixed one, deformed by a trained network if there is one, and refined. No
    training is needed: without a model, alignment and refinement do it.

    A transform says for each point of the FIXED image where it lies in the MOVING one; so images are pulled by it onto
    the fixed grid, and points of the moving image go along by the inverse. OUTPUT/MOVING_to_FIXED holds

    | file | what |
    |---|---|
    | warped.nii.gz | the moving image on the fixed grid, interpolated once |
    | transform.h5 | deformation and affine map as a composite of ITK: for SimpleITK, ANTs, Slicer |
    | inverse.h5 | the way back: brings the fixed image onto the moving one |
    | field.nii.gz | all of the transform as one field on the fixed grid, LPS mm, for ITK and ANTs |
    | inverse_field.nii.gz | the same of the inverse, on the moving grid |
    | affine.tfm | the alignment alone |
    | jacobian.nii.gz | how much the deformation stretches each voxel; 0 or less: folded |
    | labels.nii.gz, points.csv | labels and landmarks of the moving image in the fixed one, each point exactly |
    | checkerboard.png, difference.png | to look at: before and after |
    | run.json | what was decided and why, numbers before and after, seconds, memory |

    Each transform is read back by SimpleITK and has to make the same image. More images, labels and points go along
    by `medmamba warp -t transform.h5`.

    Finished pairs are skipped, so that an interrupted command can simply be repeated; a pair that fails leaves nothing
    and does not stop the others. With other options, or when a file was exchanged, a pair is done again.

    Examples:
        medmamba register --fixed mr.nii.gz --moving ct.nii.gz -o registered

        medmamba register --fixed brains/ --atlas 1000 -o to_atlas -m RUN --refine 20

        medmamba register --pairs pairs.csv -o registered --affine rigid --similarity mind

        medmamba register --validation -m RUN -o registered
    """
    from medmamba.device import choose_device
    from medmamba.registration.folder import register_pairs
    from medmamba.registration.records import Asked

    beside = {
        "label": (fixed_label, moving_label),
        "points": (fixed_points, moving_points),
        "mask": (fixed_mask, moving_mask),
    }
    if data is not None and not validation:
        raise UsageError("--data says where the images of --validation are; others are named by --fixed or --pairs")
    if validation:
        if fixed or moving or pairs or atlas or any(file for files in beside.values() for file in files):
            raise UsageError("--validation names the pairs itself; leave out --fixed, --moving, --pairs and their like")
        found = _validation_pairs(model, data)
    else:
        found = _pairs(fixed, moving, pairs, beside, atlas, direction)
    _check_among(output, [fixed, moving])
    outcomes = register_pairs(
        found,
        output,
        Asked(affine=affine, refine=refine, similarity=similarity, deformation=deformation, text=tfm),
        run=model,
        device=choose_device(device),
        overwrite=overwrite,
        progress=track,
    )
    _tell(outcomes, output)
    if any(outcome.status == "failed" for outcome in outcomes):
        raise typer.Exit(Exit.DATA)


def _check_among(output: Path, given: list[Path | None]) -> None:
    """Results do not belong among images that a folder was given for."""
    from medmamba import io
    from medmamba.files import OutputError

    folders = [place.resolve() for place in given if place is not None and not io.is_image(place)]
    if output.resolve() in folders:
        raise OutputError(
            f"{output} is a folder of images to register, and results would lie among them; give another folder, such "
            f"as {output / 'registered'}"
        )


def _pairs(
    fixed: Path | None,
    moving: Path | None,
    given: Path | None,
    beside: dict[str, tuple[Path | None, Path | None]],
    atlas: str,
    direction: Literal["to_atlas", "from_atlas", "both"],
) -> tuple[Pair, ...]:
    """What the options ask for."""
    from medmamba import io
    from medmamba.case import Case, Pair
    from medmamba.io.layouts.names import split_ending

    if (fixed is None) == (given is None) or (fixed is None and moving is not None):
        raise UsageError("give either --fixed and --moving, a table with --pairs, or --validation with a model")
    one = fixed is not None and io.is_image(fixed)
    if not one and any(file for files in beside.values() for file in files):
        raise UsageError(
            "labels, points and masks by options are those of one pair; for more, name them in a table (--pairs), or "
            "keep label maps in the folder as datasets.md shows"
        )
    if given is not None:
        return io.find_pairs(given, pairing_of(None, atlas, direction))
    assert fixed is not None
    if not one:
        if moving is not None and io.is_image(moving):
            raise UsageError(f"{fixed} is a folder of images, but {moving} is one; give two images or two folders")
        return io.find_pairs(fixed, pairing_of(moving, atlas, direction))
    if moving is None:
        raise UsageError(f"{fixed} is one image; name the image to bring onto it with --moving")
    if not io.is_image(moving):
        raise UsageError(f"{fixed} is one image, but {moving} is a folder; give two images or two folders")
    if atlas:
        raise UsageError("--atlas is of a folder of images, given with --fixed")
    sides = [
        Case(
            id=split_ending(image)[0],
            images=(image,),
            label=beside["label"][side],
            points=beside["points"][side],
            mask=beside["mask"][side],
        )
        for side, image in enumerate((fixed, moving))
    ]
    return (Pair(id=f"{sides[1].id}_to_{sides[0].id}", fixed=sides[0], moving=sides[1]),)


def _validation_pairs(model: Path | None, data: Path | None) -> tuple[Pair, ...]:
    """Those that a fold did not learn from."""
    from medmamba.plans.workspace import planned_dataset
    from medmamba.training.fold import validation_pairs
    from medmamba.training.run import Run

    if model is None:
        raise UsageError("--validation is of the pairs that a network did not learn from; name its run folder with -m")
    run = Run(model)
    if run.plan.registration is None:
        raise UsageError(f"{model} was trained for {run.plan.task}, not for registration; give another run with -m")
    if not run.info.split.held_out:
        raise UsageError(f"{model} learned from all its images; name others with --fixed or --pairs")
    return validation_pairs(run, planned_dataset(run.plan, data))


def _tell(outcomes: tuple[Outcome, ...], output: Path) -> None:
    """What became of the pairs; of a single one also what was decided."""
    from medmamba.registration.records import PairRecord

    count = Counter(outcome.status for outcome in outcomes)
    for outcome in outcomes:
        if outcome.status in ("done", "skipped"):
            record = PairRecord.load(output / outcome.pair)
            if len(outcomes) == 1:
                for what, decision in record.decisions.items():
                    say(f"{what}: {decision}")
            say(f"{outcome.pair}: {_in_words(record)}")
            for text in record.remarks:
                note(f"{outcome.pair}: {text}")
            for text in record.warnings:
                note(f"{outcome.pair}: {text}", "red")
        if outcome.status == "done" and outcome.message:
            note(f"{outcome.pair}: registered again, because {outcome.message}")
    say(f"{count['done']} registered, {count['skipped']} finished earlier, {count['failed']} failed: {output}")
    if count["failed"]:
        failed = ([outcome.pair, outcome.message] for outcome in outcomes if outcome.status == "failed")
        err.print(table(["pair", "why it failed"], failed))


def _in_words(record: PairRecord) -> str:
    """The numbers of a pair in a line."""
    from medmamba.memory import gigabytes
    from medmamba.registration.measures import summary

    measures = record.measures
    parts = [*summary(record.overlap, record.points)]
    if "refine" in record.seconds or "network" in record.seconds:
        parts.append(f"deformed by {measures['displacement_mm'] or 0:.2g} mm in the mean")
        parts.append(f"{measures['folding_percent'] or 0:.2g} % folded")
    parts.append(f"{sum(record.seconds.values()):.0f} s, up to {gigabytes(record.peak_bytes)} of memory")
    return ", ".join(parts)
