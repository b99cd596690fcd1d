"""Models side by side: which is better and whether that is more than chance, in sentences, tables and plots."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations

from markupsafe import Markup

from medmamba.evaluation.comparison import Comparison, Contrast, Standing
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
    listed,
    percent,
    spread,
    value_text,
)
from medmamba.evaluation.page.plots import Dot, figure
from medmamba.evaluation.page.summary import say
from medmamba.evaluation.page.tables import metric_head, model_mark, telling
from medmamba.evaluation.statistics import Estimate

#: Pairs of models, metrics and labels that are plotted at most.
MOST_PLOTS = 8


def section(about: Subjects, comparison: Comparison) -> Section:
    """All about which model is better."""
    words: list[str | Markup] = [
        say("Over the {} that all models have scores for.", count(len(comparison.cases), "case"))
    ]
    if comparison.left_out:
        names = listed([about.link(each.case) for each in comparison.left_out], 5)
        words.append(say("Left out of all comparisons: {}.", names))
    return Section(
        id="comparison",
        title="Models side by side",
        words=tuple(words),
        tables=(_contrasts(about, comparison), _standings(about, comparison)),
        figures=tuple(_scatters(about))[:MOST_PLOTS],
    )


def verdict(about: Subjects, comparison: Comparison) -> Iterator[Markup]:
    """Which model is better, in the first two metrics; nothing is claimed where the comparison claims nothing."""
    names = {model.name: model_mark(model) for model in about.models}
    overall = comparison.overall
    if overall.reason:
        yield say("Nothing is claimed about which is better: {}.", overall.reason)
        return
    if len(about.models) > 2:
        first = [name for name, place in zip(comparison.names, overall.places, strict=True) if place == 1]
        stable = [share[0] for share, place in zip(overall.shares, overall.places, strict=True) if place == 1]
        yield say("<strong>{}</strong> has the best mean rank over all labels and metrics, and keeps it in {} of draws "
                  "of other cases.", listed([names[name] for name in first]), percent(max(stable)))  # fmt: skip
    for contrast in comparison.contrasts:
        if contrast.metric in about.metrics[:2] and len(about.models) <= 3:
            yield _judged(about, contrast, names)


def _judged(about: Subjects, contrast: Contrast, names: dict[str, Markup]) -> Markup:
    test, title = contrast.test, metric(contrast.metric).title
    where = f"{title} of {contrast.label}" if len(about.labels) > 1 else title
    if contrast.p_holm is None:
        return say("{}: {}.", where, test.reason or "nothing is claimed")
    better = contrast.better
    if better is None:
        leads = f"better on {test.wins} and {test.losses} of {test.n} cases"
        tied = f", equal on {test.ties}," if test.ties else ","
        return say("{}: <strong>no difference shown</strong>: {} and {} are {}{} which chance may explain "
                   "(adjusted {}).", where, names[contrast.first], names[contrast.second], leads, tied,
                   _p(contrast.p_holm))  # fmt: skip
    wins = test.wins if better == contrast.first else test.losses
    unit = f" {metric(contrast.metric).unit}" if metric(contrast.metric).unit else ""
    by = ""
    if test.shift and math.isfinite(test.shift.value):
        by = f", typically by {value_text(abs(test.shift.value), contrast.metric)}{unit}"
    return say("{}: <strong>{} is better</strong> on {} of {} cases{}, more than chance explains (adjusted {}).", where,
               names[better], wins, test.n, by, _p(contrast.p_holm))  # fmt: skip


def _p(value: float | None) -> str:
    if value is None:
        return "–"
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def _contrasts(about: Subjects, comparison: Comparison) -> Table:
    heads = (
        Head(text="metric", choices=True),
        Head(text="label", choices=True),
        Head(text="first model", choices=True),
        Head(text="second model", choices=True),
        Head(text="won", title="Cases where the first model is better.", numeric=True),
        Head(text="tied", numeric=True),
        Head(text="lost", title="Cases where the second model is better.", numeric=True),
        Head(text="undefined", title="Cases left out, undefined for either.", numeric=True, droppable=True),
        Head(text="typical gain", title="Hodges-Lehmann estimate; positive: the first is better.", numeric=True),
        Head(text="95 % interval", numeric=True),
        Head(text="effect", title="Rank-biserial correlation, −1 to 1; positive: the first is better.", numeric=True),
        Head(text="p (Holm)", title="Two-sided Wilcoxon signed-rank test, adjusted for all tests.", numeric=True),
        Head(text="better", choices=True),
        Head(text="remark", droppable=True),
    )
    marks = {model.name: model_mark(model) for model in about.models}
    lines = tuple(Line(cells=_contrast_cells(contrast, marks)) for contrast in comparison.contrasts)
    return telling(Table(id="contrasts", caption="Paired comparison", heads=heads, lines=lines))


def _contrast_cells(contrast: Contrast, marks: dict[str, Markup]) -> tuple[str | Markup, ...]:
    test, head = contrast.test, metric_head(contrast.metric)
    return (
        head.text,
        contrast.label,
        marks[contrast.first],
        marks[contrast.second],
        *(str(number) for number in (test.wins, test.ties, test.losses, test.undefined)),
        _value(test.shift, contrast.metric),
        spread(test.shift.interval, contrast.metric) if test.shift and test.shift.interval else "–",
        "–" if test.effect is None else figure(test.effect),
        _p(contrast.p_holm).removeprefix("p = ").removeprefix("p "),
        marks[contrast.better] if contrast.better else "not shown",
        test.reason,
    )


def _value(estimate: Estimate | None, name: str) -> str:
    return "–" if estimate is None else value_text(estimate.value, name)


def _standings(about: Subjects, comparison: Comparison) -> Table:
    places = tuple(
        Head(text=f"place {place}", title="Share of draws of other cases in which it takes this place.", numeric=True)
        for place in range(1, min(len(about.models), 5) + 1)
    )
    heads = (
        Head(text="metric", choices=True),
        Head(text="label", choices=True),
        Head(text="model", choices=True),
        Head(text="mean rank", title="Mean over cases of the rank on each; 1 is best.", numeric=True),
        Head(text="95 % interval", numeric=True),
        *places,
        Head(text="cases", numeric=True),
        Head(text="remark", droppable=True),
    )
    overall = Standing(metric="", label="", ranking=comparison.overall)
    lines = [line for standing in (overall, *comparison.standings) for line in _standing(about, standing, len(places))]
    return telling(Table(id="ranks", caption="Stability of ranks", heads=heads, lines=tuple(lines)))


def _standing(about: Subjects, standing: Standing, places: int) -> Iterator[Line]:
    each = standing.ranking
    title = metric_head(standing.metric).text if standing.metric else "all"
    for number, model in enumerate(about.models):
        known = bool(each.mean_ranks)
        yield Line(
            cells=(
                title,
                standing.label or "all",
                model_mark(model),
                figure(each.mean_ranks[number].value, 2) if known else "–",
                " to ".join(figure(rank, 2) for rank in each.mean_ranks[number].interval or ()) if known else "–",
                *((percent(share) for share in each.shares[number][:places]) if known else ["–"] * places),
                str(each.n),
                each.reason,
            )
        )


def _scatters(about: Subjects) -> Iterator[Figure]:
    """One model against the other, case by case."""
    for name in about.metrics:
        for label in about.labels:
            for first, second in combinations(about.models, 2):
                if found := _scatter(about, name, label, first, second):
                    yield found


def _scatter(about: Subjects, name: str, label: str, first: Model, second: Model) -> Figure | None:
    ours, theirs = first.values(name, label), second.values(name, label)
    common = [case for case in ours if case in theirs and math.isfinite(ours[case]) and math.isfinite(theirs[case])]
    if not common:
        return None
    dots = [
        Dot(
            ours[case],
            theirs[case],
            f"{case}: {first.name} {value_text(ours[case], name)}, {second.name} {value_text(theirs[case], name)}",
            anchor(about.numbers[case]),
            _winner(name, ours[case], theirs[case], first, second),
        )
        for case in common
    ]
    unit = metric_head(name).text
    svg = plots.plane(
        dots, title=f"{unit} of {label}: {second.name} against {first.name}", across=f"{first.name}: {unit}",
        up=f"{second.name}: {unit}", diagonal=True, share=is_share(name),
    )  # fmt: skip
    left_out = len(set(ours) | set(theirs)) - len(common)
    more = f" {left_out} without two finite values are not drawn." if left_out else ""
    where = f"{metric(name).title} of {label}" if len(about.labels) > 1 else metric(name).title
    return Figure(
        svg=svg, caption=f"{where}: each point a case in the colour of the better model, grey for ties.{more}"
    )


def _winner(name: str, ours: float, theirs: float, first: Model, second: Model) -> str:
    if ours == theirs:
        return "tie"
    return f"c{(first if (ours > theirs) == metric(name).higher_is_better else second).colour}"
