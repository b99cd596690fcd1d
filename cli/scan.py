"""``medmamba scan``: what is in an export in DICOM, and what of it can be segmented."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medmamba.cli._console import note, out, say, table, track
from medmamba.cli.predict import fold_folders

if TYPE_CHECKING:
    from medmamba.io.dicom.planes import Series
    from medmamba.plans.plan import Plan

#: Titles of the table.
_COLUMNS = ("", "modality", "description", "size", "spacing mm", "orientation", "slices")


def scan(
    path: Annotated[
        Path,
        typer.Argument(exists=True, help="Folder, zip, DICOMDIR or DICOM file; it is only read.", show_default=False),
    ],
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            "-m",
            exists=True,
            help="Also say which series this model could use: run folder of a fold, or the folder of its plan.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Show the series of an export in DICOM: what they are, and what is wrong with them.

    Files are recognised by their content, and no pixels are read. A series that holds several stacks, of two
    orientations or sizes, has a line for each. What `medmamba predict` would refuse is told with positions in mm along
    the normal of the slices, and with the option to go on. No names, dates of birth or accession numbers are read.

    For example:

        medmamba scan export/

        medmamba scan export.zip --model medmamba-work/Hippocampus/3d_fullres__umamba_bot/fold_0 --json
    """
    from medmamba.io.dicom.media import opened
    from medmamba.io.dicom.series import explore
    from medmamba.progress import silent

    plan = None
    if model is not None:  # which takes PyTorch, and so seconds
        from medmamba.training.run import Run

        plan = Run(fold_folders(model)[0]).plan
    with opened(path) as files:
        export = explore(files, silent if as_json else track)
    if as_json:
        series = [_as_json(each, plan) for each in export.series]
        typer.echo(json.dumps({"series": series, "passed_over": dict(export.skipped)}, indent=2))
        return
    titles = (*_COLUMNS, *(["channels"] if plan is not None else []))
    if export.series:
        out.print(table(titles, [_row(*numbered, plan) for numbered in enumerate(export.series, start=1)]))
    for number, each in enumerate(export.series, start=1):
        say(f"{number}  {each.id}")
        for problem in each.problems:
            way_out = f" (to go on: {problem.option})" if problem.option else ""
            say(f"   {problem.kind}: {problem.message}{way_out}", "yellow")
    skipped = ", ".join(f"{count} {kind}" for kind, count in export.skipped)
    note(f"passed over: {skipped}" if skipped else ("" if export.series else f"{path} holds nothing in DICOM"))


def _row(number: int, series: Series, plan: Plan | None) -> list[str]:
    told = _as_json(series, plan)
    size, spacing = told["size"], told["spacing_mm"]
    phases = f" x {len(series.phases)}" if len(series.phases) > 1 else ""
    return [
        str(number),
        series.modality,
        series.description,
        " x ".join(map(str, size[:2])),
        " x ".join(f"{length:.3g}" for length in spacing),
        told["orientation"],
        f"{size[2]}{phases}" if size else "",
        *([", ".join(told["channels"])] if plan is not None else []),
    ]


def _as_json(series: Series, plan: Plan | None) -> dict[str, Any]:
    """What is known of a series: its id, and nothing of whose it is."""
    from medmamba.io.dicom.series import facing, step_mm
    from medmamba.io.dicom.stack import syntax_name

    planes = series.phases[0].planes if series.phases else ()
    told: dict[str, Any] = {
        "id": series.id,
        "uid": series.uid,
        "study_uid": series.study_uid,
        "frame_of_reference_uid": series.frame_of_reference_uid,
        "modality": series.modality,
        "description": series.description,
        "number": series.number,
        "size": [planes[0].shape[1], planes[0].shape[0], len(planes)] if planes else [],
        "spacing_mm": [planes[0].spacing_mm[1], planes[0].spacing_mm[0], step_mm(planes)] if planes else [],
        "orientation": facing(planes[0]) if planes else "",
        "stored_as": syntax_name(series),
        "phases": [phase.name for phase in series.phases] if len(series.phases) > 1 else [],
        "problems": [
            {"kind": problem.kind, "message": problem.message, "option": problem.option} for problem in series.problems
        ],
    }
    return told if plan is None else {**told, "channels": _channels(series, plan)}


def _channels(series: Series, plan: Plan) -> list[str]:
    """The channels of a model that a series could be: by the rules of its plan, or any where it has none."""
    from medmamba.io.dicom.inputs import matching

    if not series.phases:
        return []
    names = [channel.name for channel in plan.channels]
    rules = plan.channel_rules
    return [name for name in names if name not in rules or matching(rules[name], [series])]
