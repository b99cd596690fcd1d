"""``medmamba dataset``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medmamba.cli._console import EDITION, Exit, say, track
from medmamba.cli._pairs import MOVING, pairing_of

if TYPE_CHECKING:
    from medmamba.io.check import Finding

app = typer.Typer(help="Look after data sets.", no_args_is_help=True)

_STYLES = {"error": "red", "warning": "yellow", "note": "cyan"}


@app.callback()
def _group() -> None:
    """A group, also while it has one command."""


@app.command()
def check(
    path: Annotated[Path, typer.Argument(exists=True, help="Folder of the data set, or a table of pairs (.csv).")],
    as_json: Annotated[bool, typer.Option("--json", help="For machines: a list of findings.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Fail on warnings as well.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Cases to read at the same time, at most.")] = 4,
    edition: Annotated[str, typer.Option(metavar="NAME", help=EDITION, show_default=False)] = "",
    task: Annotated[
        Literal["segmentation", "registration"],
        typer.Option(help="What the images are for; a table, or a second folder, is for registration."),
    ] = "segmentation",
    moving: MOVING = None,
) -> None:
    """List all problems of a data set at once, before anything is computed.

    Reads every file of the training cases once and changes nothing: layout, readable files, grids of channels and
    labels, label values, intensities that are not finite, duplicates, folds. Exits 3 when there are errors.

    Examples:
        medmamba dataset check Task04_Hippocampus

        medmamba dataset check ASNR-MICCAI-BraTS2023-PED-Challenge-TrainingData --edition brats2023-ped

    Of pairs to register it looks at each image and at what two of them have in common: whether they overlap in space,
    are the same, or are of other label sets:

        medmamba dataset check pairs.csv

        medmamba dataset check ct --moving mr
    """
    from medmamba.io.check import check_dataset, check_pairs

    if task == "registration" or moving is not None or path.suffix.lower() in (".csv", ".tsv"):
        findings = check_pairs(path, pairing_of(moving, "", "to_atlas"), track, workers=workers)
    else:
        findings = check_dataset(path, track, workers=workers, edition=edition)
    counts = {kind: sum(finding.severity == kind for finding in findings) for kind in _STYLES}
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        _show(findings)
        summary = ", ".join(f"{number} {kind}{'s' * (number != 1)}" for kind, number in counts.items() if number)
        say(_printable(f"{path}: {summary or 'no problems found'}"))
    if counts["error"] or (strict and counts["warning"]):
        raise typer.Exit(Exit.DATA)


def _show(findings: list[Finding]) -> None:
    """One line for each thing that is wrong, however many cases have it."""
    from medmamba.case import some

    same: dict[tuple[str, str, str], list[Finding]] = {}
    for finding in findings:
        same.setdefault((finding.severity, finding.rule, finding.message), []).append(finding)
    for (severity, rule, message), group in same.items():
        cases = [finding.case for finding in group if finding.case]
        if len(group) > 1 and cases:
            place = f"{len(cases)} cases ({some(cases)})"
        else:
            place = " ".join(filter(None, (group[0].case, f"({group[0].file})" if group[0].file else "")))
        say(f"{severity} [{rule}] ", _STYLES[severity], end="")
        say(_printable(f"{place}: {message}" if place else message))


def _printable(text: str) -> str:
    """File names may hold bytes that no terminal's encoding knows."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
