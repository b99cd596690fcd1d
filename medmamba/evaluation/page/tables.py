"""The page's tables: sums over cases, single cases, lesions."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

from markupsafe import Markup

from medmamba.evaluation.metrics import metric
from medmamba.evaluation.page.parts import Head, Line, Model, Subjects, Table, anchor, sure, value_text, without_paths
from medmamba.evaluation.page.plots import figure
from medmamba.evaluation.scores import CaseScore, LabelScore
from medmamba.evaluation.statistics import Summary

#: What a status is called where people read it.
STATUS = {"scored": "scored", "failed": "failed", "missing": "no prediction", "skipped": "left out"}


def metric_head(name: str) -> Head:
    """The column of a metric, with its definition."""
    known = metric(name)
    title = f"{known.title} ({known.unit})" if known.unit else known.title
    better = "Higher is better." if known.higher_is_better else "Lower is better."
    words = " ".join(filter(None, (known.definition, known.how, better)))
    return Head(text=title, title=words, source=known.source, numeric=True)


def _model_head(about: Subjects) -> tuple[Head, ...]:
    return (Head(text=about.model, choices=True),) if about.several else ()


def _model_cell(about: Subjects, model: Model) -> tuple[Markup, ...]:
    return (model_mark(model),) if about.several else ()


def model_mark(model: Model) -> Markup:
    """The model's name behind its colour."""
    return Markup('<span class="model c{}">{}</span>').format(model.colour, model.name)


def summary_table(about: Subjects) -> Table:
    """One line for each label, metric and model."""
    heads = (
        Head(text="metric", choices=len(about.metrics) > 1),
        Head(text="label", choices=len(about.labels) > 1),
        *_model_head(about),
        Head(text="mean", title="Infinite where a value is; then that of the finite ones is beside it.", numeric=True),
        Head(
            text="95 % interval",
            title=f"Bootstrap (BCa) of the mean over {about.case}s, or why there is none.",
            numeric=True,
        ),
        Head(text="median", title="Over finite and infinite values.", numeric=True),
        Head(text="SD", title=f"Sample standard deviation over {about.case}s.", numeric=True),
        Head(text="n", title=f"{about.case.capitalize()}s with a finite value.", numeric=True),
        Head(text="infinite", title="Distances to something that is not there.", numeric=True, droppable=True),
        Head(text="undefined", title="Values that are undefined and left out.", numeric=True, droppable=True),
        Head(text="not scored", title=f"Values of {about.case}s that take no part.", numeric=True, droppable=True),
        Head(text="definition by"),
    )
    labels = [*about.labels, *{each.label: 0 for model in about.models for each in model.report.summaries}]
    lines = [
        Line(cells=_summary_cells(about, model, summary))
        for name in about.metrics
        for label in dict.fromkeys(labels)
        for model in about.models
        for summary in model.report.summaries
        if (summary.metric, summary.label) == (name, label)
    ]
    return telling(Table(id="sums", caption=f"Sums over {about.case}s", heads=heads, lines=tuple(lines)))


def telling(table: Table) -> Table:
    """The table without columns that say nothing in any row: where nothing is infinite, it need not be said."""
    silent = {
        column
        for column, head in enumerate(table.heads)
        if head.droppable and all(line.cells[column] in ("", "0") for line in table.lines)
    }

    def kept(cells: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(cell for column, cell in enumerate(cells) if column not in silent)

    return replace(
        table, heads=kept(table.heads), lines=tuple(replace(line, cells=kept(line.cells)) for line in table.lines)
    )


def _summary_cells(about: Subjects, model: Model, summary: Summary) -> tuple[str | Markup, ...]:
    head = metric_head(summary.metric)
    name = summary.metric
    return (
        Markup('<span title="{}">{}</span>').format(head.title, head.text),
        summary.label,
        *_model_cell(about, model),
        mean_text(summary),
        sure(summary),
        value_text(summary.median, name),
        value_text(summary.std, name),
        str(summary.n),
        *(str(number) for number in (summary.infinite, summary.undefined, summary.missing)),
        Markup('<span class="source">{}</span>').format(head.source),
    )


def mean_text(summary: Summary) -> str:
    """The mean; that of the finite values alone is named so."""
    if not summary.infinite or not summary.finite:
        return value_text(summary.mean, summary.metric)
    return f"∞ ({value_text(summary.finite_mean, summary.metric)} of {summary.finite} finite)"


def case_table(about: Subjects) -> Table:
    """One line for each case, label and model, also of cases without scores."""
    heads = (
        Head(text="case"),
        *((Head(text="label", choices=True),) if len(about.labels) > 1 else ()),
        *_model_head(about),
        *map(metric_head, about.metrics),
        Head(text="predicted (ml)", title="Volume of the prediction.", numeric=True),
        Head(text="reference (ml)", title="Volume of the reference.", numeric=True),
        Head(text="status", choices=True),
        Head(text="notes", droppable=True),
    )
    lines: list[Line] = []
    for case, number in about.numbers.items():
        first = len(lines)
        for model in about.models:
            if case in model.cases:
                lines += _case_lines(about, model, model.cases[case], number)
        if len(lines) > first:
            begun = lines[first]
            lines[first] = Line(cells=begun.cells, anchor=anchor(number), case=number, kind=begun.kind)
    return telling(Table(id="cases-table", caption="Single cases", heads=heads, lines=tuple(lines)))


def _case_lines(about: Subjects, model: Model, case: CaseScore, number: int) -> list[Line]:
    notes = "; ".join(without_paths(note, model.report) for note in case.notes)
    kind = "" if case.status == "scored" else "bad"
    scores: tuple[LabelScore | None, ...] = case.scores or (None,)
    return [
        Line(
            cells=(
                case.id,
                *((score.label if score else "–",) if len(about.labels) > 1 else ()),
                *_model_cell(about, model),
                *(_value(model, name, score) for name in about.metrics),
                _volume(score.prediction_ml if score else None),
                _volume(score.reference_ml if score else None),
                STATUS[case.status],
                notes if place == 0 else "",
            ),
            case=number,
            kind=kind,
        )
        for place, score in enumerate(scores)
    ]


def _value(model: Model, name: str, score: LabelScore | None) -> str:
    column = model.column(name)
    return "–" if score is None or column is None else value_text(score.values[column], name)


def _volume(volume_ml: float | None) -> str:
    return "–" if volume_ml is None else figure(volume_ml, 3)


def lesion_table(about: Subjects) -> Table | None:
    """How many lesions were found, missed and invented, by case, label and model; None where none were told apart."""
    heads = (
        Head(text="case"),
        *((Head(text="label", choices=True),) if len(about.labels) > 1 else ()),
        *_model_head(about),
        Head(text="lesions", title="Components of the reference.", numeric=True),
        Head(text="found", title="Of the reference, sharing a voxel with the prediction.", numeric=True),
        Head(text="missed", title="Of the reference, sharing none.", numeric=True),
        Head(text="false", title="Components of the prediction that share no voxel with the reference.", numeric=True),
        Head(text="missed (ml)", title="Volume of the missed ones together.", numeric=True),
        Head(text="false (ml)", title="Volume of the false ones together.", numeric=True),
    )
    lines = []
    for model in about.models:
        for case, score in model.scores():
            if not score.lesions:
                continue
            kinds = Counter(lesion.kind for lesion in score.lesions)
            volumes = {
                kind: math.fsum(lesion.volume_ml for lesion in score.lesions if lesion.kind == kind) for kind in kinds
            }
            lines.append(
                Line(
                    cells=(
                        about.link(case.id),
                        *((score.label,) if len(about.labels) > 1 else ()),
                        *_model_cell(about, model),
                        str(kinds["found"] + kinds["missed"]),
                        *(str(kinds[kind]) for kind in ("found", "missed", "false")),
                        *(figure(volumes.get(kind, 0.0)) for kind in ("missed", "false")),
                    ),
                    case=about.numbers[case.id],
                )
            )
    if not lines:
        return None
    return Table(id="lesion-counts", caption="Lesions by case", heads=heads, lines=tuple(lines))


def lesion_rows(about: Subjects) -> list[list[Any]]:
    """Every lesion for the page's script: case, label, model (by number), kind, volume in ml, Dice, voxel."""
    return [
        [
            about.numbers[case.id],
            about.labels.index(score.label),
            number,
            lesion.kind,
            float(f"{lesion.volume_ml:.4g}"),
            round(lesion.dice, 4),
            list(lesion.voxel),
        ]
        for number, model in enumerate(about.models)
        for case, score in model.scores()
        for lesion in score.lesions
    ]
