"""``medmamba scan``: what is in an export in DICOM, and what of it can be segmented."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medmamba.cli._console import Exit, note, out, say, table, track
from medmamba.cli.predict import fold_folders
from medmamba.records import to_json

if TYPE_CHECKING:
    from medmamba.io.dicom.planes import Series
    from medmamba.io.dicom.series import Export
    from medmamba.plans.plan import Plan

#: Titles of the table.
#: They are short, and nothing in them is long, so that they fit into 80 columns.
_COLUMNS = ("", "study", "type", "description", "size", "mm", "facing", "slices")


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

    Files are recognised by their content, and no pixels are read. Patients and studies are numbered. A series that
    holds several stacks, of two orientations or sizes, has a line for each. What `medmamba predict` would refuse is
    told with positions in mm along the normal of the slices, and with the option to go on. No names, dates of birth or
    accession numbers are shown.

    The exit code is 4 where the system does not let files be read; the others are shown all the same.

    For example:

        medmamba scan export/

        medmamba scan export.zip --model medmamba-work/Hippocampus/3d_fullres__umamba_bot/fold_0 --json
    """
    from medmamba.io.dicom.instances import UNREADABLE
    from medmamba.io.dicom.media import opened
    from medmamba.io.dicom.selection import faulty_words
    from medmamba.io.dicom.series import explore
    from medmamba.progress import silent

    plan = None
    if model is not None:  # which takes PyTorch, and so seconds
        from medmamba.training.run import Run

        plan = Run(fold_folders(model)[0]).plan
    with opened(path) as files:
        export = explore(files, silent if as_json else track)
    faulty = faulty_words(export, path)
    if as_json:
        found = {
            "series": [_as_json(each, path, plan) for each in export.series],
            "passed_over": dict(export.skipped),
            "cannot_be_read": faulty,
        }
        typer.echo(json.dumps(found, indent=2))
    else:
        _show(export, path, plan)
        skipped = ", ".join(f"{count} {kind}" for kind, count in export.skipped)
        note(f"passed over: {skipped}" if skipped else ("" if export.series else f"{path} holds nothing in DICOM"))
        for words in faulty:
            note(f"cannot be read: {words}", "red")
    if any(each.kind == UNREADABLE for each in export.faulty):
        raise typer.Exit(Exit.ENVIRONMENT)


def _show(export: Export, path: Path, plan: Plan | None) -> None:
    """The table of all series; below it what they are called, where they lie, and what is wrong with them."""
    told = [_as_json(each, path, plan) for each in export.series]
    if told:
        titles = (*_COLUMNS, *(["channels"] if plan is not None else []), "problems")
        rows = (_row(number, *each) for number, each in enumerate(zip(export.series, told, strict=True), start=1))
        out.print(table(titles, rows))
    several, study = len({each.patient for each in export.series}) > 1, 0
    for number, (each, facts) in enumerate(zip(export.series, told, strict=True), start=1):
        if each.study != study:
            study = each.study
            say(f"{f'patient {each.patient}, ' if several else ''}study {study}: {each.study_uid}")
        place = "" if facts["folder"] == "." else f"  in {facts['folder']}"
        say(f"{number:4}  {each.id}{place}")
        for problem in each.problems:
            way_out = f" (to go on: {problem.option})" if problem.option else ""
            remark = "to be known, " if problem.is_remark else ""
            say(f"      {remark}{problem.kind}: {problem.message}{way_out}", "yellow")


def _row(number: int, series: Series, told: dict[str, Any]) -> list[str]:
    size, spacing = told["size"], told["spacing_mm"]
    counts = [str(len(phase.planes)) for phase in series.phases]
    is_whole = not any(phase.lacks for phase in series.phases)
    phases = f"{counts[0]} x {len(counts)}" if is_whole and len(counts) > 1 else " + ".join(counts)
    return [
        str(number),
        str(series.study),
        series.modality,
        series.description,
        " x ".join(map(str, size[:2])),
        " x ".join(f"{length:.3g}" for length in spacing),
        told["orientation"],
        phases,
        *([", ".join(told["channels"])] if "channels" in told else []),
        ", ".join(dict.fromkeys(problem.kind for problem in series.problems if not problem.is_remark)),
    ]


def _as_json(series: Series, path: Path, plan: Plan | None) -> dict[str, Any]:
    """What is known of a series: its id, and nothing of whose it is."""
    from medmamba.io.dicom.order import step_mm
    from medmamba.io.dicom.selection import folder_of, relative
    from medmamba.io.dicom.series import facing
    from medmamba.io.dicom.stack import syntax_name

    planes = series.phases[0].planes if series.phases else ()
    told: dict[str, Any] = {
        "id": series.id,
        "uid": series.uid,
        "patient": series.patient,
        "study": series.study,
        "study_uid": series.study_uid,
        "folder": relative(folder_of([series], path), path),
        "frame_of_reference_uid": series.frame_of_reference_uid,
        "modality": series.modality,
        "description": series.description,
        "number": series.number,
        "size": [planes[0].shape[1], planes[0].shape[0], len(planes)] if planes else [],
        "spacing_mm": [planes[0].spacing_mm[1], planes[0].spacing_mm[0], step_mm(planes)] if planes else [],
        "orientation": facing(planes[0]) if planes else "",
        "stored_as": syntax_name(series),
        "phases": [phase.name for phase in series.phases] if len(series.phases) > 1 else [],
        "problems": [to_json(problem) for problem in series.problems],
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
