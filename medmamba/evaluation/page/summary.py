"""The report in plain words, each sentence made from its numbers: how good, how sure, where it fails."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from markupsafe import Markup

from medmamba.evaluation.metrics import metric
from medmamba.evaluation.page.parts import Model, Subjects, count, listed, percent, spread, value_text
from medmamba.evaluation.page.plots import figure
from medmamba.evaluation.statistics import MEAN_OVER_LABELS, MINIMUM_FOR_INTERVAL, Summary

#: Cases named as the worst ones.
NAMED = 3


def sentences(about: Subjects, model: Model) -> list[Markup]:
    """What a report says of one model."""
    return [*_how_good(about, model), *_where(about, model)]


def say(words: str, *parts: object) -> Markup:
    """A sentence: its words may hold markup, what is filled in may not."""
    return Markup(words).format(*parts)


def _how_good(about: Subjects, model: Model) -> Iterator[Markup]:
    report = model.report
    scored = len(report.table)
    if not scored:
        yield say("None of {} could be scored; the table of cases says why.", count(len(report.cases), "case"))
        return
    for name in report.metrics[:2]:
        yield _level(about, _overall(model, name), name)
    if scored < MINIMUM_FOR_INTERVAL:
        yield say(
            "<strong>Only {}:</strong> the figures describe these and nothing is claimed about others; that takes at "
            "least {}.", count(scored, "case"), MINIMUM_FOR_INTERVAL,
        )  # fmt: skip


def _overall(model: Model, name: str) -> Summary:
    """The sum over all labels, or of the only one."""
    return [each for each in model.report.summaries if each.metric == name][-1]


def _level(about: Subjects, summary: Summary, name: str) -> Markup:
    known = metric(name)
    where = f"of {summary.label}" if summary.label != MEAN_OVER_LABELS else f"over {count(len(about.labels), 'label')}"
    unit = f" {known.unit}" if known.unit else ""
    if not summary.finite:
        return say("{} {}: no value is a plain number.", known.title, where)
    if summary.infinite:
        return say(
            "{} {}: <strong>{} of {} values are infinite</strong>, where one mask is empty; median {}{}.",
            known.title, where, summary.infinite, summary.values, value_text(summary.median, name), unit,
        )  # fmt: skip
    left_out = f", {count(summary.undefined, 'undefined value')} left out" if summary.undefined else ""
    sure = f" (95 % interval {spread(summary.interval, name)})" if summary.interval else ""
    return say(
        "Mean {} {}: <strong>{}{}</strong>{}, from {}{}; median {}{}.",
        known.title, where, value_text(summary.mean, name), unit, sure,
        count(summary.n, "case"), left_out, value_text(summary.median, name), unit,
    )  # fmt: skip


def _where(about: Subjects, model: Model) -> Iterator[Markup]:
    report = model.report
    if report.failed:
        names = listed([about.link(case.id) for case in report.failed], NAMED)
        scored = [case for case in report.failed if case.scores]
        fate = "count with the worst values" if scored else "take no part"
        yield say("<strong>{}</strong> without a usable prediction or reference {}: {}.",
                  count(len(report.failed), "case"), fate, names)  # fmt: skip
    skipped = [case for case in report.cases if case.status == "skipped"]
    if skipped:
        yield say("{} without a prediction, left out on request.", count(len(skipped), "case"))
    yield from _weakest_label(model)
    yield from _worst_cases(about, model)
    yield from _lesions(model)


def _weakest_label(model: Model) -> Iterator[Markup]:
    name = model.report.metrics[0]
    sums = [
        each
        for each in model.report.summaries
        if each.metric == name and each.label != MEAN_OVER_LABELS and each.n >= MINIMUM_FOR_INTERVAL
    ]
    if len(sums) < 2:
        return
    ranked = sorted(sums, key=lambda each: each.finite_mean, reverse=not metric(name).higher_is_better)
    worst, best = ranked[0], ranked[-1]
    yield say(
        "Weakest label: <strong>{}</strong> with a mean {} of {}; strongest: {} with {}.",
        worst.label, metric(name).title, value_text(worst.finite_mean, name),
        best.label, value_text(best.finite_mean, name),
    )  # fmt: skip


def _worst_cases(about: Subjects, model: Model) -> Iterator[Markup]:
    worst = model.report.worst(NAMED)
    if len(model.report.table) <= NAMED or not worst:
        return
    name = model.report.metrics[0]
    cases = [say("{} ({})", about.link(case), value_text(value, name)) for case, value in worst]
    yield say("Worst in {}: {}.", metric(name).title, listed(cases, NAMED))


def _lesions(model: Model) -> Iterator[Markup]:
    """How many were found and invented: in more words of one label, label by label of several, which may overlap."""
    found: dict[str, Markup] = {}
    labels = [label.name for label in model.report.labels.foreground]
    for label in labels:
        lesions = [lesion for _, score in model.scores() if score.label == label for lesion in score.lesions]
        there = [lesion for lesion in lesions if lesion.kind != "false"]
        if len(there) < MINIMUM_FOR_INTERVAL:
            continue
        met = sum(lesion.kind == "found" for lesion in there)
        false = (len(lesions) - len(there)) / sum(1 for case in model.report.cases if case.scores)
        invented = say("{:.1f} invented per case", false)
        if len(labels) == 1:
            middle = float(np.median([lesion.volume_ml for lesion in there]))
            small = [lesion.kind for lesion in there if lesion.volume_ml <= middle]
            yield say(
                "<strong>{} of {} lesions found</strong> ({}); of the smaller half (up to {} ml) {} were missed; {}.",
                met, len(there), percent(met / len(there)), figure(middle),
                percent(small.count("missed") / len(small)), invented,
            )  # fmt: skip
        found[label] = say("{} <strong>{} of {}</strong> ({}; {})", label, met, len(there),
                           percent(met / len(there)), invented)  # fmt: skip
    if len(labels) > 1 and found:
        yield say("Lesions found: {}.", listed(list(found.values()), len(found)))


def order(about: Subjects) -> list[str]:
    """Cases that were scored by their mean over labels in the first metric, worst first, over all models together."""
    places: dict[str, list[float]] = {}
    for model in about.models:
        ranked = model.report.worst(len(model.report.cases))
        for place, (case, _) in enumerate(ranked):
            places.setdefault(case, []).append(place / max(len(ranked) - 1, 1))
    return sorted(places, key=lambda case: (math.fsum(places[case]) / len(places[case]), case))


def value_words(model: Model, case: str) -> str:
    """The first two metrics of a case, over its labels."""
    score = model.cases.get(case)
    if score is None or not score.scores:
        return "not scored"
    words = []
    for column, name in enumerate(model.report.metrics[:2]):
        values = [each.values[column] for each in score.scores if not math.isnan(each.values[column])]
        mean = math.fsum(values) / len(values) if values else math.nan
        unit = f" {metric(name).unit}" if metric(name).unit else ""
        words.append(f"{metric(name).title} {value_text(mean, name)}{unit}")
    return ", ".join(words)
