"""``medmamba report``: a page about one model, or about several side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medmamba.cli._console import note, say, track
from medmamba.cli._scores import TITLE, VIEWER, Viewer, check_page, write_page


def report(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN_OR_FOLDER...",
            exists=True,
            help="One for each model: a folder with the report.json of `medmamba evaluate`, or that file; a training "
            "run, or the folder of its plan for all folds, whose predictions were evaluated; a folder of nnU-Net's "
            "with summary.json, of a fold, or of a trainer with its folds; or, with --reference, a folder of "
            "segmentations.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", dir_okay=False, help="Page to write.", show_default=True)
    ] = Path("report.html"),
    name: Annotated[
        list[str] | None,
        typer.Option("--name", help="What each model is called, in order.", show_default="by their folders"),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(exists=True, help="What segmentations without scores are compared with: a folder or data set."),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels",
            "-l",
            help="As for `medmamba evaluate`, with --reference.",
            show_default="beside the files",
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            help="As for `medmamba evaluate`, with --reference; repeat for several.",
            show_default="that of the first report, or standard",
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            help="Data set or folder of the scans, to lie under the segmentations.",
            show_default="the data set that the references belong to",
        ),
    ] = None,
    subgroups: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Table of cases (CSV) with a column case and others such as site.",
        ),
    ] = None,
    title: Annotated[str, typer.Option(help=TITLE, show_default="made of the names")] = "",
    viewer: Annotated[Viewer, typer.Option(help=VIEWER)] = "auto",
    workers: Annotated[
        int, typer.Option("--workers", "-w", min=1, help="Cases to compare at the same time; each needs memory.")
    ] = 2,
) -> None:
    """Make a page of what was measured: one model in detail, several compared case by case.

    The page is a single file that needs no network: summary in plain words, tables, distributions, worst and best cases
    as pictures with their errors coloured, each case slice by slice, and how everything was defined and counted. With
    several models: paired tests, how stable their ranking is, and who wins where. Only ids of cases are on it.
    Its numbers in full precision lie beside it, in files named like it that end in .json and .csv: p values raw and
    adjusted, effects, intervals, ranks, groups. SOURCE_DATE_EPOCH, where set, gives the date on it.

    Nothing is trained or predicted. Scores come from reports that are there; of nnU-Net that is what it wrote, without
    the masks. Pictures are made where masks (and scans) still lie where the report says.

    For example:

        medmamba report predictions/umamba predictions/unet -o comparison.html

        medmamba report nnUNet_results/Dataset004/nnUNetTrainer__nnUNetPlans__3d_fullres predictions/ --name nnunet
        --name ours

        medmamba report theirs/ ours/ --reference data/Dataset004_Hippocampus --subgroups sites.csv
    """
    from medmamba.evaluation.sources import read_reports

    check_page(output, viewer, inputs=[path for path in (*sources, reference, subgroups) if path and path.is_file()])
    reports = read_reports(
        sources,
        names=name or (),
        reference=reference,
        labels=labels or "",
        metrics=metric or (),
        workers=workers,
        progress=track,
    )
    for each in reports:
        if each.failed:
            what = "pairs" if each.figures else "cases"
            note(f"{each.name}: {len(each.failed)} of {len(each.cases)} {what} failed, which the page lists")
    _, *numbers = write_page(reports, output, images=images, subgroups=subgroups, title=title, viewer=viewer)
    say(f"page {output}")
    say(f"numbers {' '.join(map(str, numbers))}")
