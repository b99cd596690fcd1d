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
    p_text,
    p_words,
    percent,
    spread,
    value_text,
)
from medmamba.evaluation.page.plots import Dot, figure
from medmamba.evaluation.page.summary import say
from medmamba.evaluation.page.tables import metric_head, model_mark, telling
from medmamba.evaluation.paired import PairedTest
from medmamba.evaluation.ranking import Ranking
from medmamba.evaluation.statistics import Estimate

#: Pairs of models, metrics and labels that are plotted at most.
MOST_PLOTS = 8


def section(about: Subjects, comparison: Comparison) -> Section:
    """All about which model is better."""
    words: list[str | Markup] = [
        say("Over the {} that all {}s have scores for.", count(len(comparison.cases), about.case), about.model)
    ]
    words += _filled(about, comparison)
    if comparison.left_out:
        names = listed([about.link(each.case) for each in comparison.left_out], 5)
        words.append(say("Left out of all comparisons: {}.", names))
    words.append(_family(comparison))
    return Section(
        id="comparison",
        title=f"{about.model.capitalize()}s side by side",
        words=tuple(words),
        tables=(_contrasts(about, comparison), _standings(about, comparison)),
        figures=tuple(_scatters(about))[:MOST_PLOTS],
    )


def _filled(about: Subjects, comparison: Comparison) -> list[Markup]:
    """What wins against the worst values are worth, where these stand for predictions."""
    if not comparison.filled:
        return []
    both, every = len(comparison.cases) - len(comparison.filled), len(comparison.cases)
    return [
        say("<strong>Only {} of {} were {}ed by all {}s.</strong> In the others the worst values stand for "
            "{}ions that are missing or unusable, and wins against these are counted.",
            both, count(every, about.case), *(("register", about.model, "registrat") if about.case == "pair"
                                              else ("predict", about.model, "predict")))
    ]  # fmt: skip


def _family(comparison: Comparison) -> Markup:
    silent = len(comparison.contrasts) - comparison.tests
    more = say(" Fewer than six pairs differ in {} more, which cannot tell anything at 5 %; these are not counted.",
               silent) if silent else ""  # fmt: skip
    return say("P values are adjusted by Holm for m = {}.{}", count(comparison.tests, "test"), more)


def verdict(about: Subjects, comparison: Comparison) -> Iterator[Markup]:
    """Which model is better, in the first two metrics; nothing is claimed where the comparison claims nothing."""
    names = {model.name: model_mark(model) for model in about.models}
    overall = comparison.overall
    if overall.reason:
        yield say("Nothing is claimed about which is better: {}.", _reason(about, overall))
        return
    yield from _filled(about, comparison)
    if all(contrast.same for contrast in comparison.contrasts):
        yield say("{} have <strong>identical scores</strong> in every metric and label on all {}.",
                  listed(list(names.values()), len(names)), count(len(comparison.cases), about.case))  # fmt: skip
        return
    if len(about.models) > 2:
        first = [name for name, place in zip(comparison.names, overall.places, strict=True) if place == 1]
        stable = [share[0] for share, place in zip(overall.shares, overall.places, strict=True) if place == 1]
        yield say(
            "<strong>{}</strong> has the best mean rank over all labels and metrics, and keeps it in {} of draws with "
            "replacement from these same {}s.", listed([names[name] for name in first]), percent(max(stable)),
            about.case,
        )  # fmt: skip
    for contrast in comparison.contrasts:
        if contrast.metric in about.metrics[:2] and len(about.models) <= 3:
            yield _judged(about, contrast, names)


def _judged(about: Subjects, contrast: Contrast, names: dict[str, Markup]) -> Markup:
    test, title = contrast.test, metric(contrast.metric).title
    where = f"{title} of {contrast.label}" if len(about.labels) > 1 else title
    first, second = names[contrast.first], names[contrast.second]
    if contrast.same:
        return say("{}: {} and {} are <strong>identical</strong> on all {}.", where, first, second,
                   count(test.n, about.case))  # fmt: skip
    if test.p_value is None:
        return say("{} of {} and {}: {}.", where, first, second, _reason(about, test) or "nothing is claimed")
    if contrast.better:
        unit = f" {metric(contrast.metric).unit}" if metric(contrast.metric).unit else ""
        by = ""
        if test.shift and math.isfinite(test.shift.value):
            by = f", typically by {value_text(abs(test.shift.value), contrast.metric)}{unit}"
        worse = second if contrast.better == contrast.first else first
        than = say(" than {}", worse) if len(names) > 2 else ""  # of two it is clear
        return say("{}: <strong>{} is better</strong>{}{}, more than chance explains (adjusted {}; {}).", where,
                   names[contrast.better], than, by, p_words(contrast.p_holm), _record(about, contrast))  # fmt: skip
    if not contrast.could_tell:
        least = "the smallest p that {} can have{} is {}".format(
            count(test.wins + test.losses, "differing pair"),
            "" if contrast.least_p_holm is None else " after adjustment",
            p_text(_least(contrast)),
        )
        return say("{}: <strong>too few {}s to tell</strong> {} and {} apart ({}); {}.", where, about.case, first,
                   second, _record(about, contrast), least)  # fmt: skip
    return say("{}: <strong>no difference shown</strong> between {} and {} (adjusted {}; {}), which does not mean "
               "that there is none.", where, first, second, p_words(contrast.p_holm),
               _record(about, contrast))  # fmt: skip


def _record(about: Subjects, contrast: Contrast) -> str:
    """Wins, ties and losses of the better model, of the first where neither is."""
    test = contrast.test
    wins, losses = (test.losses, test.wins) if contrast.better == contrast.second else (test.wins, test.losses)
    return f"of {count(test.n, about.case)} {wins} won, {test.ties} tied, {losses} lost"


def _contrasts(about: Subjects, comparison: Comparison) -> Table:
    heads = (
        Head(text="metric", choices=True),
        Head(text="label", choices=True),
        Head(text=f"first {about.model}", choices=True),
        Head(text=f"second {about.model}", choices=True),
        Head(text="won", title=f"{about.case.capitalize()}s where the first {about.model} is better.", numeric=True),
        Head(text="tied", numeric=True),
        Head(text="lost", title=f"{about.case.capitalize()}s where the second {about.model} is better.", numeric=True),
        Head(
            text="undefined",
            title=f"{about.case.capitalize()}s left out, undefined for either.",
            numeric=True,
            droppable=True,
        ),
        Head(text="typical gain", title="Hodges-Lehmann estimate; positive: the first is better.", numeric=True),
        Head(text="95 % interval", numeric=True),
        Head(text="effect", title="Rank-biserial correlation, −1 to 1; positive: the first is better.", numeric=True),
        Head(text="p", title="Two-sided Wilcoxon signed-rank test, this one alone.", numeric=True),
        Head(text="p (Holm)", title=f"Adjusted for m = {comparison.tests} tests.", numeric=True),
        Head(text="better", choices=True),
        Head(text="remark", droppable=True),
    )
    marks = {model.name: model_mark(model) for model in about.models}
    lines = tuple(Line(cells=_contrast_cells(about, contrast, marks)) for contrast in comparison.contrasts)
    return telling(Table(id="contrasts", caption="Paired comparison", heads=heads, lines=lines))


def _contrast_cells(about: Subjects, contrast: Contrast, marks: dict[str, Markup]) -> tuple[str | Markup, ...]:
    test, head = contrast.test, metric_head(contrast.metric)
    return (
        head.text,
        contrast.label,
        marks[contrast.first],
        marks[contrast.second],
        *(str(number) for number in (test.wins, test.ties, test.losses, test.undefined)),
        _value(test.shift, contrast.metric),
        _shift_interval(contrast),
        "–" if test.effect is None else figure(test.effect),
        p_text(test.p_value),
        p_text(contrast.p_holm),
        marks[contrast.better] if contrast.better else "same" if contrast.same else "not known",
        _remark(about, contrast),
    )


def _reason(about: Subjects, found: PairedTest | Ranking) -> str:
    """Why nothing is claimed, of what is scored here."""
    return found.reason.replace("cases", f"{about.case}s")


def _remark(about: Subjects, contrast: Contrast) -> str:
    test = contrast.test
    if test.reason or test.p_value is None or contrast.same or contrast.could_tell:
        return _reason(about, test)
    adjusted = "(Holm) " if test.telling else ""
    return f"too few {about.case}s to tell: p {adjusted}cannot be below {p_text(_least(contrast))}"


def _least(contrast: Contrast) -> float:
    """The smallest p value possible, adjusted where that of the test is."""
    return contrast.test.least_p if contrast.least_p_holm is None else contrast.least_p_holm


def _value(estimate: Estimate | None, name: str) -> str:
    return "–" if estimate is None else value_text(estimate.value, name)


def _standings(about: Subjects, comparison: Comparison) -> Table:
    places = tuple(
        Head(
            text=f"place {place}",
            title=f"Share of draws from these {about.case}s in which it takes this place.",
            numeric=True,
        )
        for place in range(1, min(len(about.models), 5) + 1)
    )
    heads = (
        Head(text="metric", choices=True),
        Head(text="label", choices=True),
        Head(text=about.model, choices=True),
        Head(text="mean rank", title=f"Mean over {about.case}s of the rank on each; 1 is best.", numeric=True),
        Head(text="95 % interval", numeric=True),
        *places,
        Head(text=f"{about.case}s", numeric=True),
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
                _rank_interval(each.mean_ranks[number]) if known else "–",
                *((percent(share) for share in each.shares[number][:places]) if known else ["–"] * places),
                str(each.n),
                _reason(about, each),
            )
        )


def _shift_interval(contrast: Contrast) -> str:
    bounds = contrast.test.shift.interval if contrast.test.shift else None
    return spread(bounds, contrast.metric) if bounds and bounds[0] < bounds[1] else "–"


def _rank_interval(rank: Estimate) -> str:
    low, high = rank.interval or (math.nan, math.nan)
    return f"{figure(low, 2)} to {figure(high, 2)}" if low < high else "equal in all draws"


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
        svg=svg,
        caption=f"{where}: each point a {about.case} in the colour of the better {about.model}, grey for ties.{more}",
    )


def _winner(name: str, ours: float, theirs: float, first: Model, second: Model) -> str:
    if ours == theirs:
        return "tie"
    return f"c{(first if (ours > theirs) == metric(name).higher_is_better else second).colour}"
