"""The report in plain words, each sentence made from its numbers: how good, how sure, where it fails."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from markupsafe import Markup

from medmamba.evaluation.metrics import metric
from medmamba.evaluation.page.parts import Model, Subjects, count, listed, percent, spread, value_text
from medmamba.evaluation.page.plots import figure
from medmamba.evaluation.scores import CaseScore, Lesion
from medmamba.evaluation.statistics import MEAN_OVER_LABELS, MINIMUM_FOR_INTERVAL, Summary

#: Cases named as the worst ones.
NAMED = 3
#: Labels whose lesions are told in words; the table has all.
MOST_LABELS = 4


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
        yield say(
            "None of {} could be scored; the table of {}s says why.", count(len(report.cases), about.case), about.case
        )
        return
    for name in report.metrics[:2]:
        yield _level(about, model, _overall(model, name), name)
    if scored < MINIMUM_FOR_INTERVAL:
        yield say(
            "<strong>Only {}:</strong> the figures describe these and nothing is claimed about others; that takes at "
            "least {}.", count(scored, about.case), MINIMUM_FOR_INTERVAL,
        )  # fmt: skip


def _overall(model: Model, name: str) -> Summary:
    """The sum over all labels, or of the only one."""
    return [each for each in model.report.summaries if each.metric == name][-1]


def _level(about: Subjects, model: Model, summary: Summary, name: str) -> Markup:
    known = metric(name)
    where = f"of {summary.label}" if summary.label != MEAN_OVER_LABELS else f"over {count(len(about.labels), 'label')}"
    unit = f" {known.unit}" if known.unit else ""
    if not summary.finite and not summary.infinite:
        return say("{} {}: undefined in all of {}{}.", known.title, where, count(len(model.report.table), about.case),
                   ", as both masks are empty" if _nothing(model, "prediction_ml", "reference_ml") else "")  # fmt: skip
    if summary.infinite:
        finite = f"; mean of the {summary.finite} finite ones {value_text(summary.finite_mean, name)}{unit}"
        return say(
            "{} {}: <strong>{} of {} values are infinite</strong>, {}; median {}{}{}.",
            known.title, where, summary.infinite, summary.values, _why_infinite(model, name),
            value_text(summary.median, name), unit, finite if summary.finite else "",
        )  # fmt: skip
    left_out = f", {count(summary.undefined, 'undefined value')} left out" if summary.undefined else ""
    sure = f" (95 % interval {spread(summary.interval, name)})" if summary.interval else ""
    if summary.n >= MINIMUM_FOR_INTERVAL and not sure:
        sure = f" in each of {summary.n} {about.case}s, which tells nothing of how others spread"
        return say("{} {}: <strong>{}{}</strong>{}.", known.title, where, value_text(summary.mean, name), unit, sure)
    return say(
        "Mean {} {}: <strong>{}{}</strong>{}, from {}{}; median {}{}.",
        known.title, where, value_text(summary.mean, name), unit, sure,
        count(summary.n, about.case), left_out, value_text(summary.median, name), unit,
    )  # fmt: skip


def _nothing(model: Model, *masks: str) -> bool:
    """Whether masks are known to be empty in all cases and labels."""
    return all(getattr(score, mask) == 0 for _, score in model.scores() for mask in masks)


def _why_infinite(model: Model, name: str) -> str:
    """Of how many infinite values a mask is empty, and of how many there is no usable prediction."""
    column = model.report.metrics.index(name)
    statuses = [case.status for case, score in model.scores() if math.isinf(score.values[column])]
    unusable = sum(status != "scored" for status in statuses)
    if not unusable:
        empty = _nothing(model, "prediction_ml")
        return "as nothing at all was predicted" if empty else "where one mask is empty"
    without = "without a usable prediction"
    if unusable == len(statuses):
        return f"of cases {without}"
    return f"{unusable} of cases {without}, {len(statuses) - unusable} where one mask is empty"


def _where(about: Subjects, model: Model) -> Iterator[Markup]:
    report = model.report
    if report.failed:
        names = listed([about.link(case.id) for case in report.failed], NAMED)
        scored = [case for case in report.failed if case.scores]
        fate = "count with the worst values" if scored else "take no part"
        lost = "that {} not registered" if about.case == "pair" else "without a usable prediction or reference"
        yield say("<strong>{}</strong> {} {}: {}.", count(len(report.failed), about.case),
                  lost.format("was" if len(report.failed) == 1 else "were"), fate, names)  # fmt: skip
    skipped = [case for case in report.cases if case.status == "skipped"]
    if skipped:
        without = "registration" if about.case == "pair" else "prediction"
        yield say("{} without a {}, left out on request.", count(len(skipped), about.case), without)
    yield from _weakest_label(model)
    yield from _worst_cases(about, model)
    yield from _lesions(about, model)


def _weakest_label(model: Model) -> Iterator[Markup]:
    name = model.report.metrics[0]
    sums = [
        each
        for each in model.report.summaries
        if each.metric == name and each.label != MEAN_OVER_LABELS and each.n >= MINIMUM_FOR_INTERVAL
    ]
    if len(sums) < 2:
        return
    ranked = sorted(sums, key=lambda each: each.mean, reverse=not metric(name).higher_is_better)
    worst, best = ranked[0], ranked[-1]
    if value_text(worst.mean, name) == value_text(best.mean, name):
        return
    yield say(
        "Weakest label: <strong>{}</strong> with a mean {} of {}; strongest: {} with {}.",
        worst.label, metric(name).title, value_text(worst.mean, name),
        best.label, value_text(best.mean, name),
    )  # fmt: skip


def _worst_cases(about: Subjects, model: Model) -> Iterator[Markup]:
    worst = model.report.worst(NAMED)
    if len(model.report.table) <= NAMED or not worst:
        return
    name = model.report.metrics[0]
    if len({value for _, value in model.report.worst(len(model.report.cases))}) == 1:
        return
    cases = [say("{} ({})", about.link(case), value_text(value, name)) for case, value in worst]
    yield say("Worst in {}: {}.", metric(name).title, listed(cases, NAMED))


def _lesions(about: Subjects, model: Model) -> Iterator[Markup]:
    """What was found of each label: a lesion of nested regions is one in each of them, and no sum over labels."""
    known = {
        label: [(case, score.lesions) for case, score in model.scores() if score.label == label]
        for label in about.labels
    }
    told = {label: _Found.of(rows) for label, rows in known.items() if any(lesions for _, lesions in rows)}
    if not told:
        return
    if len(about.labels) == 1:
        yield from (_at_length(found) for found in told.values())
    else:
        yield say("Lesions found: {}.", listed([_in_short(label, found) for label, found in told.items()], MOST_LABELS))
    lost = sum(case.status != "scored" and _any(case) for case in model.report.cases)
    untold = sum(case.status != "scored" and not _any(case) for case in model.report.cases)
    if lost:
        yield say("Lesions of {} without a usable prediction count as missed.", count(lost, "case"))
    if untold:
        yield say("Lesions of {} without a usable prediction are not known, and <strong>not in these counts</strong>.",
                  count(untold, "case"))  # fmt: skip


def _any(case: CaseScore) -> bool:
    return any(score.lesions for score in case.scores)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What became of the lesions of one label.

    Args:
        there: those of the reference.
        cases: that have any in the reference.
        false: how many others were predicted.
        predicted: in how many cases.
    """

    there: tuple[Lesion, ...]
    cases: int
    false: int
    predicted: int

    @classmethod
    def of(cls, rows: Sequence[tuple[CaseScore, tuple[Lesion, ...]]]) -> _Found:
        """Count the lesions of cases."""
        there = [tuple(lesion for lesion in lesions if lesion.kind != "false") for _, lesions in rows]
        return cls(
            there=tuple(chain.from_iterable(there)),
            cases=sum(map(bool, there)),
            false=sum(len(lesions) for _, lesions in rows) - sum(map(len, there)),
            predicted=sum(case.status == "scored" for case, _ in rows),
        )

    @property
    def met(self) -> int:
        """How many were found."""
        return sum(lesion.kind == "found" for lesion in self.there)

    @property
    def few(self) -> bool:
        """Whether shares would be told of too little."""
        return min(self.cases, len(self.there)) < MINIMUM_FOR_INTERVAL

    @property
    def in_brackets(self) -> str:
        """Share, and how many were invented; counts of few."""
        if self.few:
            return f"in {count(self.cases, 'case')}; {self.false} invented"
        invented = f"; {self.false / self.predicted:.1f} invented per case" if self.predicted else ""
        return f"{percent(self.met / len(self.there))}{invented}"


def _in_short(label: str, found: _Found) -> Markup:
    return say("{} <strong>{} of {}</strong> ({})", label, found.met, len(found.there), found.in_brackets)


def _at_length(found: _Found) -> Markup:
    words = say("<strong>{} of {} found</strong> ({})", found.met, count(len(found.there), "lesion"), found.in_brackets)
    if found.few:
        return words + "."
    middle = float(np.median([lesion.volume_ml for lesion in found.there]))
    small = [lesion.kind for lesion in found.there if lesion.volume_ml <= middle]
    return words + say("; of the smaller half (up to {} ml) {} were missed.", figure(middle),
                       percent(small.count("missed") / len(small)))  # fmt: skip


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
