"""A report of scores on the console."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from medmamba.cli._console import note, out, say, track
from medmamba.errors import UsageError
from medmamba.files import OutputError

if TYPE_CHECKING:
    from medmamba.evaluation.report import Report
    from medmamba.evaluation.scores import Policy
    from medmamba.evaluation.statistics import Summary

#: More metrics than this share one table, with a column for each label as long as these are few.
METRICS_APART = 4
LABELS_BESIDE = 6
#: Names of labels and metrics have at least this room in a table, and wrap where they need more.
TITLE_WIDTH = 12
#: Likewise means, beside which counts may stand.
MEAN_WIDTH = 14
#: Between the columns of a table.
GAP = 2
#: Definitions of more metrics than this are in the report alone; whose they are is always told.
DEFINITIONS = 12


def show_report(report: Report) -> None:
    """Print the summaries of a report with what they mean: a table per metric, or one for many."""
    from medmamba.evaluation.metrics import metric
    from medmamba.evaluation.report import SUMS
    from medmamba.evaluation.statistics import MINIMUM_FOR_INTERVAL

    if len(report.metrics) > METRICS_APART and len(report.labels.foreground) <= LABELS_BESIDE:
        for table in _tables_of_many(report):
            # The console does not wrap lines, so that paths can be copied; the columns of a table must.
            out.print(table, soft_wrap=False)
            out.print()
        _define(report.metrics, report.policy)
    else:
        for name in report.metrics:
            out.print(_table(name, [found for found in report.summaries if found.metric == name]), soft_wrap=False)
            _define([name], report.policy)
            out.print()
    say("Values that are no plain numbers:", "dim")
    for option, sentence in report.policy.by_option.items():
        say(f"  {option}: {sentence}", "dim")
    for sentence in (*report.exceptions, *SUMS):
        say(f"  {sentence}", "dim")
    if all(summary.n < MINIMUM_FOR_INTERVAL for summary in report.summaries):
        say("No intervals: they need at least five cases.", "dim")
    if any(summary.infinite for summary in report.summaries):
        say(
            "A distance is infinite where one segmentation lacks the structure or there is none, and so is the mean. "
            f"That of the finite values, in brackets, is better than the truth{_safe(report)}.",
            "dim",
        )
    worst = report.worst(3)
    if len(report.cases) > len(worst) > 0:
        words = ", ".join(f"{case} ({_figure(value)})" for case, value in worst)
        say(f"worst in {metric(report.metrics[0]).title}: {words}")


def show_pairs(reports: Sequence[Report]) -> None:
    """Print means over registered pairs as a whole, a column for each report."""
    whole = [report.whole(report.figures) for report in reports]
    names = dict.fromkeys(name for report in whole for name in report.metrics)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("mean over pairs")
    for report in reports:
        table.add_column(Text(report.name), justify="right")
    for name in names:
        cells = []
        for report in whole:
            found = next((each for each in report.summaries if each.metric == name), None)
            sure = f" ({_interval(found)})" if found and found.interval else ""
            cells.append(f"{_mean(found)}{sure}" if found else "-")
        table.add_row(Text(_titled(name), "cyan"), *cells)
    out.print(table, soft_wrap=False)
    _define(list(names), reports[0].policy)
    out.print()


def _safe(report: Report) -> str:
    """What compares where distances are infinite: medians that are finite, and measured shares; empty for neither."""
    from medmamba.evaluation.metrics import metric

    rows = [metric(name) for name in report.metrics]
    shares = [row.title for row in rows if row.higher_is_better and not row.own_policy]
    far = [summary for summary in report.summaries if summary.infinite]
    safe = ["the median"] if all(math.isfinite(summary.median) for summary in far) else []
    if not any(row.of_pair for row in rows):
        safe.append(f"{', '.join(shares)}, where such a case counts 0" if shares else "a share such as --metric dice")
    return f": compare {'methods' if report.figures else 'models'} by {', or by '.join(safe)}" if safe else ""


#: How cases on a page are looked at; words for the option of each command that writes one.
Viewer = Literal["auto", "slices", "3d"]
VIEWER = (
    "How cases are looked at there: in slices, which needs nothing, or in 3D as well, which needs `pip install "
    "'medmamba[viewer]'` and makes the page 2 MB larger; auto takes 3D where it is installed."
)
TITLE = "Heading of the page."


def check_page(path: Path, viewer: Viewer, *, inputs: Iterable[Path] = ()) -> None:
    """Refuse, before anything is measured, a page that could not be written as asked, or would replace a foreign file.

    Raises:
        OutputError: if a folder, an input, or a file that is no page of ours is in its place.
        UsageError: if its name is not that of a page.
        MachineError: if a viewer is asked for that is not installed.
    """
    from medmamba.evaluation.page import is_page, numbers
    from medmamba.evaluation.page.viewer import bundle
    from medmamba.io.places import check_output_files

    check_output_files([path, *numbers.beside(path)], inputs=inputs)
    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"a page is an HTML file, but {path} is not called so; give a name that ends in .html")
    if path.exists() and not is_page(path):
        raise OutputError(f"{path} exists and is no page of medmamba, so it is kept; give another name, or remove it")
    for each in numbers.beside(path):
        if each.exists() and not numbers.is_ours(each):
            raise OutputError(
                f"{each}, where the numbers of the page go, exists and is not of medmamba, so it is kept; give the "
                "page another name, or remove it"
            )
    bundle(viewer)


def write_page(
    reports: Sequence[Report],
    path: Path,
    *,
    images: Path | None,
    subgroups: Path | None,
    title: str,
    viewer: Viewer,
) -> tuple[Path, ...]:
    """Write a page about reports, with scans of the data set that the references belong to unless told otherwise.

    Returns:
        The page, and the files of its numbers.
    """
    from medmamba.evaluation import page
    from medmamba.evaluation.page import numbers
    from medmamba.evaluation.sources import dataset_of
    from medmamba.evaluation.subgroups import read

    path.parent.mkdir(parents=True, exist_ok=True)
    page.write(
        reports,
        path,
        images=images or dataset_of(reports[0].origin.reference),
        subgroups=read(subgroups) if subgroups else None,
        title=title,
        viewer=viewer,
        progress=track,
    )
    return path, *numbers.beside(path)


def complain(report: Report) -> None:
    """What is wrong with single cases, on standard error."""
    from medmamba.case import some

    without = report.without_prediction
    if report.figures:
        _complain_of_pairs(report)
    elif without:
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
        have = "prediction has" if len(report.extra_predictions) == 1 else "predictions have"
        note(f"{len(report.extra_predictions)} {have} no reference and cannot be scored: {names}")


def _complain_of_pairs(report: Report) -> None:
    """How many registrations failed, and what that does to the means."""
    from medmamba.case import some

    for cases, fate in (
        (
            [case for case in report.failed if case.scores or case.figures],
            "count with the worst values (--missing skip leaves them out)",
        ),
        (
            [case for case in report.failed if not case.scores and not case.figures],
            "take no part, as no label maps or landmarks of theirs are known",
        ),
        ([case for case in report.cases if case.status == "skipped"], "are left out"),
    ):
        if cases:
            names = some([case.id for case in cases])
            note(f"{len(cases)} of {len(report.cases)} pairs were not registered and {fate}: {names}", "red")


def _define(names: Sequence[str], policy: Policy) -> None:
    """What numbers mean and whose definition that is."""
    from medmamba.evaluation.metrics import metric

    rows = [metric(name) for name in names]
    if any(row.challenge for row in rows) and not all(row.challenge for row in rows):
        say("Rows with the name of a challenge follow its rules, also about empty masks; the others do not.", "dim")
    if len(rows) <= DEFINITIONS:
        for row in rows:
            say(f"{row.title}: {row.defined(policy)} [{row.source}]", "dim")
        for how in dict.fromkeys(row.how for row in rows if row.how):
            say(f"{', '.join(row.title for row in rows if row.how == how)}: {how}", "dim")
        return
    for source in dict.fromkeys(row.source for row in rows):
        titles = [row.title for row in rows if row.source == source]
        say(f"[{source}]: {', '.join(titles)}", "dim")
    say("What each means stands in report.json.", "dim")


def _titled(name: str) -> str:
    from medmamba.evaluation.metrics import metric

    row = metric(name)
    return f"{row.title} ({row.unit})" if row.unit else row.title


def _table(name: str, summaries: list[Summary]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(_titled(name), overflow="fold", min_width=TITLE_WIDTH)
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
    for title in shown:
        table.add_column(title, justify="right", no_wrap=title != "mean")
    for number, summary in enumerate(summaries):
        table.add_row(Text(summary.label, "cyan"), *(cells[number] for cells in shown.values()))
    return table


def _tables_of_many(report: Report) -> Iterator[Table]:
    """Means alone: a row for each metric, a column for each label; as many tables as it takes to cut no column."""
    means = {(summary.metric, summary.label): _mean(summary) for summary in report.summaries}
    labels = list(dict.fromkeys(summary.label for summary in report.summaries))
    columns = {label: [means[name, label] for name in report.metrics] for label in labels}
    widths = {label: min(MEAN_WIDTH, max(map(cell_len, (label, *cells)))) for label, cells in columns.items()}
    while labels:
        ends = accumulate(widths[label] + GAP for label in labels)
        fitting = max(1, sum(end <= out.width - TITLE_WIDTH for end in ends))
        shown, labels = labels[:fitting], labels[fitting:]
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("mean of", overflow="fold", min_width=TITLE_WIDTH)
        for label in shown:
            table.add_column(Text(label), justify="right", min_width=widths[label])
        for number, name in enumerate(report.metrics):
            table.add_row(Text(_titled(name), "cyan"), *(columns[label][number] for label in shown))
        yield table


def _mean(summary: Summary) -> str:
    """The mean and, when it is not over all values, over how many; in brackets that of the finite ones."""
    if summary.infinite:
        return f"inf ({_figure(summary.finite_mean)} over the {summary.finite} finite of {summary.values})"
    figure = _figure(summary.finite_mean)
    return figure if summary.finite == summary.values else f"{figure} over {summary.finite} of {summary.values}"


def _interval(summary: Summary) -> str:
    return "" if summary.interval is None else " to ".join(_figure(bound) for bound in summary.interval)


def _figure(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
