"""What the page is put together from: plain values that the template lays out, and words for numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from markupsafe import Markup

from medmamba.evaluation.metrics import metric
from medmamba.evaluation.page.plots import figure
from medmamba.evaluation.report import Report
from medmamba.evaluation.scores import CaseScore, LabelScore
from medmamba.evaluation.statistics import Summary

#: What stands before the last slash of a path; numbers on both sides of one are a fraction.
_FOLDERS = re.compile(r"""(?<![\w./])(?:[^\s'"(:;,/]*/)*[^\s'"(:;,/]*[A-Za-z._~][^\s'"(:;,/]*/|(?<!\S)/(?=\w)""")
#: What a model is called of which nothing is known, with a number.
UNNAMED = "model"
#: The page has so many colours for models; more models share them.
COLOURS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The head of a column.

    Args:
        text: what stands there.
        title: what it means, in a sentence.
        source: whose definition it is.
        numeric: whether it holds numbers, which stand at the right.
        droppable: whether to leave it out where it says nothing in any row.
        choices: whether rows can be chosen by its values.
    """

    text: str
    title: str = ""
    source: str = ""
    numeric: bool = False
    droppable: bool = False
    choices: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A row of a table.

    Args:
        cells: text or markup, one per column.
        anchor: what links lead to; empty where none does.
        case: number of the case that a viewer may show; None where it is about none.
        kind: a class of the style sheet.
    """

    cells: tuple[str | Markup, ...]
    anchor: str = ""
    case: int | None = None
    kind: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table that can be sorted and, where some column has choices or there are many rows, filtered."""

    id: str
    caption: str
    heads: tuple[Head, ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A plot and what it shows."""

    svg: Markup
    caption: str | Markup


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the page under a heading of its own."""

    id: str
    title: str
    words: tuple[str | Markup, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A report on the page.

    Args:
        name: one of its own.
        colour: which of the page's colours.
        report: its scores.
        cases: by id.
    """

    name: str
    colour: int
    report: Report
    cases: dict[str, CaseScore] = field(repr=False)

    def column(self, metric: str) -> int | None:
        """Where the report has a metric; None where it has not."""
        return self.report.metrics.index(metric) if metric in self.report.metrics else None

    def values(self, metric: str, label: str) -> dict[str, float]:
        """Value by case id, of the cases that take part."""
        column = self.column(metric)
        if column is None:
            return {}
        return {
            case.id: score.values[column] for case in self.report.cases for score in case.scores if score.label == label
        }

    def scores(self) -> Iterable[tuple[CaseScore, LabelScore]]:
        """Every case and label that takes part."""
        return ((case, score) for case in self.report.cases for score in case.scores)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subjects:
    """What the page is about.

    Args:
        models: one per report.
        numbers: of all cases by id, sorted: what the page calls them by, as ids may hold anything.
        labels: names of all structures, in the order of the reports.
        metrics: names of all metrics, likewise.
    """

    models: tuple[Model, ...]
    numbers: dict[str, int]
    labels: tuple[str, ...]
    metrics: tuple[str, ...]

    @property
    def several(self) -> bool:
        """Whether models are compared."""
        return len(self.models) > 1

    @property
    def case(self) -> str:
        """What is scored: a case, a pair of images that were registered, or a film."""
        if any(model.report.films for model in self.models):
            return "film"
        return "pair" if any(model.report.figures for model in self.models) else "case"

    @property
    def model(self) -> str:
        """What is compared: models, or methods of registration, of which few are models."""
        return "method" if self.case == "pair" else "model"

    @property
    def named(self) -> bool:
        """Whether anything is known of what made the predictions."""
        return self.several or not self.models[0].name.startswith(f"{UNNAMED} ")

    def link(self, case: str) -> Markup:
        """The case's id, leading to its row."""
        return Markup('<a href="#{}">{}</a>').format(anchor(self.numbers[case]), case)


def subjects(reports: Sequence[Report]) -> Subjects:
    """Give every report a name of its own and list what there is."""
    models: list[Model] = []
    for number, report in enumerate(reports):
        name = report.name or without_paths(report.origin.model, report) or f"{UNNAMED} {number + 1}"
        while name in [model.name for model in models]:
            name += "′"
        cases = {case.id: case for case in report.cases}
        named = replace(report, name=name)  # or a comparison would call it by its folder
        models.append(Model(name=name, colour=number % COLOURS, report=named, cases=cases))
    return Subjects(
        models=tuple(models),
        numbers={case: n for n, case in enumerate(sorted({case for model in models for case in model.cases}))},
        labels=_union([label.name for label in report.labels.foreground] for report in reports),
        metrics=_union(report.metrics for report in reports),
    )


def _union(lists: Iterable[Iterable[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for names in lists for name in names))


def anchor(case: int) -> str:
    """What links to a case lead to."""
    return f"case-{case}"


def without_paths(text: str, report: Report) -> str:
    """Text without folders, of which only the files' names remain: a page may go where they are nobody's business."""
    origin = report.origin
    known = [path for path in (origin.prediction, origin.reference, *origin.more) if path is not None]
    places = {place for path in known for place in (path, path.absolute(), path.resolve())} | {Path.home()}
    folders = {str(folder) for place in places for folder in (place, *place.parents) if len(folder.parts) > 1}
    for folder in sorted(folders, key=len, reverse=True):
        text = text.replace(f"{folder}/", "")
    return _FOLDERS.sub("", text)


def spread(interval: tuple[float, float] | None, name: str = "") -> str:
    """An interval in words, of a metric if one is named; empty where there is none."""
    return "" if interval is None else " to ".join(value_text(bound, name) for bound in interval)


def sure(summary: Summary) -> str:
    """The interval of a mean, or why there is none."""
    return spread(summary.interval, summary.metric) or summary.why_no_interval


def p_text(value: float | None) -> str:
    """A p value in a table."""
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def p_words(value: float | None) -> str:
    """A p value in a sentence."""
    text = p_text(value)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def value_text(value: float, name: str = "") -> str:
    """A value of a metric, with as many decimals as all others of it, so that columns stand in line."""
    if not name or not math.isfinite(value):
        return figure(value)
    if metric(name).count:
        return figure(value, 0 if float(value).is_integer() else 1)  # counts may be whole numbers
    return figure(value, 3 if is_share(name) or not metric(name).unit or metric(name).unit == "%" else 2)


def is_share(name: str) -> bool:
    """Whether a metric lies between 0 and 1."""
    known = metric(name)
    return not known.unit and not known.count and not known.of_pair


def percent(share: float) -> str:
    """A share as people write it."""
    return f"{100 * share:.0f}\u00a0%"


def count(number: int, singular: str, plural: str = "") -> str:
    """A number and what it counts."""
    return f"{number} {singular if number == 1 else plural or singular + 's'}"


def listed(parts: Sequence[str | Markup], most: int = 3) -> Markup:
    """Words joined as people do, the rest counted."""
    shown = list(parts[:most]) + ([f"{len(parts) - most} more"] if len(parts) > most else [])
    head, last = Markup(", ").join(shown[:-1]), shown[-1]
    return head + Markup(" and ") + last if head else Markup("{}").format(last)
