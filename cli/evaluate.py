"""``medmamba evaluate``: how good segmentations are."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table
from rich.text import Text

from medmamba.cli._console import Exit, note, out, say, track
from medmamba.errors import UsageError
from medmamba.evaluation.words import WORDS

if TYPE_CHECKING:
    from medmamba.evaluation.report import Report
    from medmamba.evaluation.statistics import Summary


def evaluate(
    prediction: Annotated[
        Path,
        typer.Argument(exists=True, help="Segmentation to judge, or a folder of them.", show_default=False),
    ],
    reference: Annotated[
        Path,
        typer.Argument(
            exists=True,
            help="Reference segmentation, a folder of them, or a data set, whose training labels are taken.",
            show_default=False,
        ),
    ],
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels",
            "-l",
            exists=True,
            help="Data set or dataset.json with names, regions and ignore value of the labels.",
            show_default="the dataset.json beside the references or predictions, else every value in the references",
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            help="What to measure; repeat for several: "
            f"{', '.join(f'{name} ({words})' for name, words in WORDS.items())}.",
            show_default="dice and hd95",
        ),
    ] = None,
    missing: Annotated[
        Literal["fail", "skip"],
        typer.Option(
            help="A reference without a usable prediction gets the worst values (fail) or is left out (skip)."
        ),
    ] = "fail",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            file_okay=False,
            help="Folder for report.json and report.csv.",
            show_default="the folder of the predictions",
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", "-w", min=1, help="Cases to work on at the same time; each needs memory.")
    ] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Compare segmentations with references and report how good they are.

    Files belong together when their names are equal up to the ending. Dice is the overlap: 1 is perfect, 0 is none.
    HD95 is the distance in mm within which 95 % of both surfaces lie.

    The interval tells where the mean would lie with other cases like these. A score is undefined when neither
    segmentation holds the label, and infinite when only one does and a distance is asked for. A mean that is not over
    all cases says over how many it is; in the report it is infinite when a value is, and finite_mean is that of the
    finite ones. Worst cases are ranked by the first metric. A prediction on another grid than its reference is a
    failure: nothing is resampled.

    Exit code 3 says that cases failed; the report is written all the same.

    For example:

        medmamba evaluate predictions/ data/Dataset004_Hippocampus --missing skip

        medmamba evaluate predictions/ data/Dataset900_Phantom/labelsTs --metric dice --metric nsd_1mm

        medmamba evaluate mine.nii.gz theirs.nii.gz --json
    """
    from medmamba.case import some
    from medmamba.evaluation.evaluate import evaluate as score
    from medmamba.evaluation.evaluate import find_labels, labels_in, labels_of, match_files
    from medmamba.evaluation.report import REPORT_FILES
    from medmamba.io import is_image
    from medmamba.io.places import check_output_folder

    names = tuple(dict.fromkeys(metric or ("dice", "hd95")))
    unknown = [name for name in names if name not in WORDS]
    if unknown:
        raise UsageError(f"unknown metric {', '.join(unknown)}; choose from {', '.join(WORDS)}")
    folder = output or (prediction.parent if is_image(prediction) else prediction)
    read = [reference, labels] if labels else [reference]
    check_output_folder(
        folder,
        files=[folder / name for name in REPORT_FILES],
        # Below a folder of references there may be one of predictions, with its report.
        inputs=[path for path in read if path.is_file() or path.resolve() == folder.resolve()],
    )
    matches = match_files(prediction, reference)
    meaning = labels_of(labels) if labels else find_labels(prediction, reference)
    if meaning is None:
        meaning = labels_in(matches.pairs, track)
    report = score(
        matches.pairs,
        meaning,
        metrics=names,
        missing=missing,
        extra=matches.extra,
        workers=workers,
        progress=track,
    )
    paths = report.save(folder)
    if as_json:
        typer.echo(json.dumps(report.to_json(), indent=2, allow_nan=False))
    else:
        show_report(report)
        say(f"report {paths[0]}\ntable  {paths[1]}")
    if matches.not_asked_for:
        note(f"{len(matches.not_asked_for)} references are of cases that `medmamba predict` was not asked for")
    if len(matches.by_maker) > 1:
        most, *others = matches.by_maker
        note(
            f"predictions of {len(matches.by_maker)} models or sets of options, as after cross-validation: {len(most)} "
            f"of one, {some([name for group in others for name in group])} of others; if that is not meant, repeat "
            "`medmamba predict` with one for all"
        )
    _complain(report)
    if report.failed:
        raise typer.Exit(Exit.DATA)


def show_report(report: Report) -> None:
    """Print the summaries of a report, a table per metric."""
    from medmamba.evaluation.metrics import METRICS
    from medmamba.evaluation.statistics import MINIMUM_FOR_INTERVAL

    for metric in report.metrics:
        # The console does not wrap lines, so that paths can be copied; the columns of a table must.
        out.print(
            _table(metric, [summary for summary in report.summaries if summary.metric == metric]), soft_wrap=False
        )
        out.print()
    if all(summary.n < MINIMUM_FOR_INTERVAL for summary in report.summaries):
        say("No intervals: they need at least five cases.", "dim")
    if any(summary.infinite for summary in report.summaries):
        say(
            "A distance is infinite where one segmentation lacks the structure. The mean beside such a count is over "
            "the finite values alone: compare models by the median, or by Dice or nsd_2mm, which give such a case 0.",
            "dim",
        )
    worst = report.worst(3)
    if len(report.cases) > len(worst) > 0:
        words = ", ".join(f"{case} ({_figure(value)})" for case, value in worst)
        title = METRICS[report.metrics[0]].title
        say(f"worst in {title}: {words}")


def _table(metric: str, summaries: list[Summary]) -> Table:
    from medmamba.evaluation.metrics import METRICS

    title, unit = METRICS[metric].title, METRICS[metric].unit
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(f"{title} ({unit})" if unit else title, overflow="fold", min_width=16)
    rows = {
        "mean": [_mean(summary) for summary in summaries],
        "95 % interval": [_interval(summary) for summary in summaries],
        "median": [_figure(summary.median) for summary in summaries],
        "cases": [str(summary.n) for summary in summaries],
        "undefined": [str(summary.undefined or "") for summary in summaries],
        "missing": [str(summary.missing or "") for summary in summaries],
    }
    # Columns with nothing to tell are left out.
    shown = {name: cells for name, cells in rows.items() if any(cells)}
    for name in shown:
        table.add_column(name, justify="right", no_wrap=name != "mean")
    for number, summary in enumerate(summaries):
        table.add_row(Text(summary.label, "cyan"), *(cells[number] for cells in shown.values()))
    return table


def _mean(summary: Summary) -> str:
    """The mean, and beside it over how many of the values it is when that is not all of them."""
    figure = _figure(summary.finite_mean)
    if summary.finite == summary.values:
        return figure
    infinite = f", {summary.infinite} infinite" if summary.infinite else ""
    return f"{figure} over {summary.finite} of {summary.values}{infinite}"


def _interval(summary: Summary) -> str:
    return "" if summary.interval is None else " to ".join(_figure(bound) for bound in summary.interval)


def _figure(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _complain(report: Report) -> None:
    """What is wrong with single cases, on standard error."""
    from medmamba.case import some

    without = report.without_prediction
    if without:
        fate = "left out" if without[0].status == "skipped" else "counted as failed (--missing skip leaves them out)"
        names = some([case.id for case in without])
        note(f"{len(without)} of {len(report.cases)} references have no prediction, {fate}: {names}")
    for case in report.failed:
        if case.status == "failed":
            note(f"failed {case.id}: {case.notes[0]}")
    remarks = [f"{case.id}: {text}" for case in report.cases if case.status == "scored" for text in case.notes]
    for remark in remarks[:20]:
        note(remark)
    if len(remarks) > 20:
        note(f"and {len(remarks) - 20} more remarks on single cases, all in the report")
    if report.extra_predictions:
        names = some(report.extra_predictions)
        note(f"{len(report.extra_predictions)} predictions have no reference and were not scored: {names}")
