"""Groups of cases on the page: scores by site, scanner, size or whatever a table says."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from markupsafe import Markup

from medmamba.evaluation.breakdown import Breakdown, break_down
from medmamba.evaluation.metrics import metric
from medmamba.evaluation.page import plots
from medmamba.evaluation.page.parts import (
    Figure,
    Head,
    Line,
    Model,
    Section,
    Subjects,
    Table,
    anchor,
    count,
    is_share,
    p_text,
    p_words,
    sure,
    value_text,
)
from medmamba.evaluation.page.plots import Point, Row
from medmamba.evaluation.page.summary import say
from medmamba.evaluation.page.tables import mean_text, metric_head, model_mark, telling
from medmamba.evaluation.statistics import MINIMUM_FOR_INTERVAL
from medmamba.evaluation.subgroups import Column, Subgroups, by_lesion_size

#: A model, and its scores by the groups of one column.
Found = tuple[Model, Breakdown]
#: Plots at most; the table has all.
MOST_PLOTS = 8


def section(about: Subjects, table: Subgroups | None) -> tuple[Section | None, list[Markup], list[Found]]:
    """The section, where there are groups, and what is worth saying of them at the top of the page, and all numbers.

    Raises:
        DataError: if the table has none of the cases.
    """
    columns = [*(table.columns(list(about.numbers)) if table else ())]
    if not any(model.report.figures for model in about.models):  # sizes of brains do not tell of registrations
        columns += by_lesion_size(about.models[0].report)
    broken_down = break_down([model.report for model in about.models], columns)
    found = [(model, each) for model, own in zip(about.models, broken_down, strict=True) for each in own]
    if not found:
        return None, [], []
    silent = [say("{}: no groups, as {}.", column.name, column.reason) for column in columns if column.reason]
    together = ", those of all models together" if about.several else ""
    family = f"P values are adjusted by Holm for m = {count(_tests(found), 'test')}{together}."
    made = Section(
        id="subgroups",
        title="Subgroups",
        words=("Whether a model is as good in every group; a p value tells whether groups differ.", family, *silent),
        tables=(_table(about, found),),
        figures=tuple(_plots(about, columns))[:MOST_PLOTS],
    )
    return made, list(_sentences(about, found)), found


def _tests(found: Sequence[tuple[Model, Breakdown]]) -> int:
    return sum(each.p_holm is not None for _, each in found)


def _table(about: Subjects, found: Sequence[tuple[Model, Breakdown]]) -> Table:
    heads = (
        Head(text="grouped by", choices=True),
        Head(text="group", choices=True),
        *((Head(text="label", choices=True),) if len(about.labels) > 1 else ()),
        Head(text="metric", choices=True),
        *((Head(text=about.model, choices=True),) if about.several else ()),
        Head(text="mean", title="Infinite where a value is; then that of the finite ones is beside it.", numeric=True),
        Head(text="95 % interval", numeric=True),
        Head(text="median", numeric=True),
        Head(text="n", numeric=True),
        Head(text="infinite", numeric=True, droppable=True),
        Head(text="p", title="Kruskal-Wallis test over all groups, this one alone.", numeric=True),
        Head(text="p (Holm)", title=f"Adjusted for m = {_tests(found)} tests.", numeric=True),
        Head(text="remark", droppable=True),
    )
    lines = [line for model, each in found for line in _lines(about, model, each)]
    return telling(Table(id="groups", caption="Scores by group", heads=heads, lines=tuple(lines)))


def _lines(about: Subjects, model: Model, each: Breakdown) -> Iterator[Line]:
    for one in each.groups:
        summary = one.summary
        yield Line(
            cells=(
                each.column,
                one.group.name,
                *((each.label,) if len(about.labels) > 1 else ()),
                metric_head(each.metric).text,
                *((model_mark(model),) if about.several else ()),
                mean_text(summary),
                sure(summary),
                value_text(summary.median, each.metric),
                str(summary.n),
                str(summary.infinite),
                p_text(each.p_value),
                p_text(each.p_holm),
                each.reason,
            )
        )


def _plots(about: Subjects, columns: Sequence[Column]) -> Iterator[Figure]:
    """The first metric by group, for each column and label."""
    name = about.metrics[0]
    for column in columns:
        for label in about.labels:
            if column.label not in (None, label):
                continue
            rows = [
                _row(about, model, label, group.name, group.cases) for group in column.groups for model in about.models
            ]
            rows = [row for row in rows if row.points]
            if rows:
                title = f"{metric(name).title} of {label} by {column.name}"
                svg = plots.strips(rows, title=title, axis=metric_head(name).text, share=is_share(name))
                yield Figure(svg=svg, caption=f"{title}.")


def _row(about: Subjects, model: Model, label: str, group: str, cases: Sequence[str]) -> Row:
    values = model.values(about.metrics[0], label)
    return Row(
        name=f"{group}\n{model.name}" if about.several else group,
        colour=model.colour,
        points=tuple(
            Point(values[case], f"{case}: {value_text(values[case], about.metrics[0])}", anchor(about.numbers[case]))
            for case in cases
            if not math.isnan(values.get(case, math.nan))
        ),
    )


def _sentences(about: Subjects, found: Sequence[tuple[Model, Breakdown]]) -> Iterator[Markup]:
    """Where groups differ more than by chance in the first metric."""
    for model, each in found:
        if each.metric != about.metrics[0] or each.p_holm is None or each.p_holm > 0.05:
            continue
        groups = [one for one in each.groups if one.group.compared and one.summary.n >= MINIMUM_FOR_INTERVAL]
        ranked = sorted(groups, key=lambda one: one.summary.mean, reverse=metric(each.metric).higher_is_better)
        worst, best = ranked[-1], ranked[0]
        whose = say("{}: ", model_mark(model)) if about.several else ""
        yield say(
            "{}{} differs with the {}: mean {} where it is {}, {} where it is {} ({}).", whose,
            metric(each.metric).title, each.column,
            value_text(worst.summary.mean, each.metric), worst.group.name,
            value_text(best.summary.mean, each.metric), best.group.name,
            p_words(each.p_holm),
        )  # fmt: skip
