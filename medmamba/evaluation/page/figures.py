"""Which plots the page shows, and what stands below them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from markupsafe import Markup

from medmamba.evaluation.agreement import Agreement, agreement
from medmamba.evaluation.breakdown import SIZES_ML, Detection, detection_by_size
from medmamba.evaluation.metrics import metric
from medmamba.evaluation.page import plots
from medmamba.evaluation.page.parts import Figure, Model, Subjects, anchor, is_share, spread, sure, value_text
from medmamba.evaluation.page.plots import Dot, Point, Row, figure
from medmamba.evaluation.page.tables import metric_head
from medmamba.evaluation.scores import Reliability
from medmamba.evaluation.statistics import MEAN_OVER_LABELS, MINIMUM_FOR_INTERVAL, Summary

#: So many points are drawn at most in all distributions together; metrics beyond show quartiles and means alone.
MOST_POINTS = 12_000
#: So many labels are in a plot of means at a glance.
MOST_LABELS = 12


def forests(about: Subjects, most: int = 2) -> list[Figure]:
    """Means and intervals of the first metrics, at a glance."""
    made = []
    for name in about.metrics[:most]:
        summaries = _worst_labels(list(_summaries(about, name)))
        if not any(math.isfinite(each.mean) for _, each in summaries):
            continue  # the sentences say why
        rows = [_mean_row(about, model, each) for model, each in summaries]
        title = f"{f'Mean over {about.case}s of' if metric(name).of_structures else 'Mean'} {metric(name).title}"
        svg = plots.forest(rows, title=title, axis=metric_head(name).text, share=is_share(name))
        sure = _interval_words([each for _, each in summaries])
        made.append(Figure(svg=svg, caption=f"{title}{sure} {_direction(name)}{_cut_words(about)}"))
    return made


def _interval_words(summaries: Sequence[Summary]) -> str:
    """That there are intervals, and why not everywhere."""
    sure = " and its 95 % interval" if any(each.interval for each in summaries) else ""
    reasons = {
        "none from fewer than five cases": any(
            each.n < MINIMUM_FOR_INTERVAL and not each.infinite for each in summaries
        ),
        "none where all cases are equal": any(each.why_no_interval.startswith("all") for each in summaries),
        "nothing is drawn where values are infinite, as their mean is": any(each.infinite for each in summaries),
    }
    told = "; ".join(reason for reason, holds in reasons.items() if holds)
    return f"{sure} ({told})." if told else f"{sure}."


def _worst_labels(summaries: list[tuple[Model, Summary]]) -> list[tuple[Model, Summary]]:
    """Those of the mean over labels and of the labels that some model is worst in, in their order."""
    labels = list(dict.fromkeys(each.label for _, each in summaries))
    if len(labels) <= MOST_LABELS + 1:
        return summaries
    sign = 1 if metric(summaries[0][1].metric).higher_is_better else -1

    def badness(label: str) -> float:
        means = [sign * each.mean for _, each in summaries if each.label == label and not math.isnan(each.mean)]
        return min(means, default=math.inf)

    kept = {
        MEAN_OVER_LABELS,
        *sorted(set(labels) - {MEAN_OVER_LABELS}, key=lambda label: (badness(label), label))[:MOST_LABELS],
    }
    return [(model, each) for model, each in summaries if each.label in kept]


def _cut_words(about: Subjects) -> str:
    labels = len(about.labels)
    return f" The worst {MOST_LABELS} of {labels} labels; the results have all." if labels > MOST_LABELS else ""


def _summaries(about: Subjects, name: str) -> Iterator[tuple[Model, Summary]]:
    labels = dict.fromkeys(each.label for model in about.models for each in model.report.summaries)
    for label in labels:
        for model in about.models:
            for each in model.report.summaries:
                if (each.metric, each.label) == (name, label):
                    yield model, each


def _mean_row(about: Subjects, model: Model, summary: Summary) -> Row:
    words = sure(summary)
    if not summary.infinite:
        words = f"{value_text(summary.mean, summary.metric)} ({words})"
    return Row(
        name=_row_name(about, model, summary.label),
        colour=model.colour,
        mean=summary.mean,
        interval=summary.interval,
        words=words,
    )


def _row_name(about: Subjects, model: Model, label: str) -> str:
    if not about.several:
        return label
    return model.name if len(about.labels) == 1 else f"{label}\n{model.name}"


def _direction(name: str) -> str:
    return "Higher is better." if metric(name).higher_is_better else "Lower is better."


def distributions(about: Subjects) -> list[Figure]:
    """The values of every metric and label, each a point."""
    made, left = [], MOST_POINTS
    for name in about.metrics:
        rows = [_distribution(about, model, name, label) for label in about.labels for model in about.models]
        rows = [row for row in rows if row.points]
        if not rows:
            continue
        left -= sum(len(row.points) for row in rows)
        bare = left < 0
        svg = plots.strips(
            rows,
            title=f"{metric(name).title} of every case",
            axis=metric_head(name).text,
            share=is_share(name),
            bare=bare,
        )
        more = " Too many cases on this page to draw their points here as well." if bare else ""
        made.append(Figure(svg=svg, caption=f"{_direction(name)}{more}"))
    return made


def _distribution(about: Subjects, model: Model, name: str, label: str) -> Row:
    found = [each for each in model.report.summaries if (each.metric, each.label) == (name, label)]
    points = tuple(
        Point(value, f"{case}: {value_text(value, name)}", anchor(about.numbers[case]))
        for case, value in model.values(name, label).items()
        if not math.isnan(value)
    )
    return Row(
        name=_row_name(about, model, label),
        colour=model.colour,
        points=points,
        mean=found[0].mean if found else math.nan,
        interval=found[0].interval if found else None,
    )


def volumes(about: Subjects) -> list[Figure]:
    """Bland-Altman plots: how much more was predicted than there is, over the mean of both volumes."""
    made = []
    for label in about.labels:
        for model in about.models:
            pairs = [
                (case.id, score.prediction_ml, score.reference_ml)
                for case, score in model.scores()
                if score.label == label and score.prediction_ml is not None and score.reference_ml is not None
            ]
            if pairs:
                made.append(_bland_altman(about, model, label, pairs))
    return made


def _bland_altman(about: Subjects, model: Model, label: str, pairs: Sequence[tuple[str, float, float]]) -> Figure:
    dots = [
        Dot(
            (predicted + there) / 2,
            predicted - there,
            f"{case}: {figure(predicted)} ml predicted, {figure(there)} ml in the reference",
            anchor(about.numbers[case]),
            f"c{model.colour}",
        )
        for case, predicted, there in pairs
    ]
    _, ours, theirs = (list(part) for part in zip(*pairs, strict=True))
    lines, words = _limits(agreement(np.array(ours, dtype=np.float64), np.array(theirs, dtype=np.float64)))
    name = _row_name(about, model, label).replace("\n", ", ")
    svg = plots.plane(
        dots,
        title=f"Bland-Altman plot of volumes, {name}",
        across="mean of both volumes (ml)",
        up="prediction − reference (ml)",
        lines=[(0.0, "reference", ""), *lines],
    )
    return Figure(svg=svg, caption=f"{name}: {words}.")


def _limits(found: Agreement) -> tuple[list[tuple[float, str, str]], str]:
    """Bias and limits of agreement as lines and in words."""
    if not found.bias or not found.limits:
        return [], found.reason
    low, high = found.limits
    if math.isclose(low.value, high.value, abs_tol=1e-9):
        return [], f"{figure(found.bias.value)} ml in all {found.n} cases, which tells nothing of how others spread"
    lines = [(found.bias.value, "bias", f"bias {figure(found.bias.value)}")]
    lines += [(limit.value, "limit", figure(limit.value)) for limit in found.limits]
    words = (
        f"bias {figure(found.bias.value)} ml (95 % interval {spread(found.bias.interval)}), 95 % of differences "
        f"between {figure(low.value)} and {figure(high.value)} ml"
    )
    return lines, words + (f"; concordance {figure(found.concordance.value)}" if found.concordance else "")


def detection(about: Subjects) -> list[Figure]:
    """For each label, the share of the lesions that was found, by their size, and of which size false ones are."""
    return [figure for label in about.labels for figure in _detection(about, label)]


def _detection(about: Subjects, label: str) -> Iterator[Figure]:
    found = [{each.low_ml: each for each in _sizes(model, label)} for model in about.models]
    lows = sorted({low for by_size in found for low in by_size})
    if not lows:
        return
    lows = list(SIZES_ML[SIZES_ML.index(lows[0]) : SIZES_ML.index(lows[-1]) + 1])
    borders = [f"{low:g}" for low in lows[1:]]
    there = [max(by_size[low].lesions if low in by_size else 0 for by_size in found) for low in lows]
    curves = []
    for model, by_size in zip(about.models, found, strict=True):
        rates = [by_size[low].rate if low in by_size else None for low in lows]
        values = [rate.value if rate else math.nan for rate in rates]
        curves.append((model.colour, values, [rate.interval if rate else None for rate in rates]))
    svg = plots.steps(
        borders, curves, [f"n = {n}" for n in there], title=f"Share of lesions found by size, {label}",
        across="volume of the lesion (ml)", up="share of the reference's lesions found", share=True,
    )  # fmt: skip
    few = f"no point for fewer than {MINIMUM_FOR_INTERVAL}."
    yield Figure(svg=svg, caption=f"{label}: which lesions are found, with 95 % intervals (Wilson); {few}")
    false = [(model.colour, _false_by_size(model, label, lows), [None] * len(lows)) for model in about.models]
    svg = plots.steps(
        borders, false, [""] * len(lows), title=f"False lesions a case by size, {label}",
        across="volume of the lesion (ml)", up="false lesions a case", share=False,
    )  # fmt: skip
    yield Figure(svg=svg, caption=f"{label}: how many false lesions there are a case, by their size.")


def _sizes(model: Model, label: str) -> list[Detection]:
    return [each for each in detection_by_size(model.report) if each.label == label]


def _false_by_size(model: Model, label: str, lows: Sequence[float]) -> list[float]:
    """How many false lesions a case has in each class; those beyond the last one count there."""
    volumes = [
        lesion.volume_ml
        for _, score in model.scores()
        if score.label == label
        for lesion in score.lesions
        if lesion.kind == "false"
    ]
    classes = np.searchsorted(lows, volumes, side="right").clip(min=1) - 1
    predicted = sum(case.status == "scored" for case in model.report.cases)
    return [float(number) / max(predicted, 1) for number in np.bincount(classes, minlength=len(lows))]


def reliability(about: Subjects) -> list[Figure]:
    """How often a network was right, over how sure it was, for each label whose probabilities were at hand."""
    made = []
    for label in about.labels:
        lines = []
        for model in about.models:
            found = [score.reliability for _, score in model.scores() if score.label == label and score.reliability]
            if found:
                lines.append((model.colour, _curve(found)))
        if lines:
            svg = plots.curves(
                lines, title=f"Reliability, {label}", across="probability given", up="share that holds the structure"
            )
            caption = (
                f"{label}: over all voxels of all cases, in bins of probability. On the dashed line a network is as "
                "sure as it is right; below it, too sure."
            )
            made.append(Figure(svg=svg, caption=caption))
    return made


def _curve(found: Sequence[Reliability]) -> list[tuple[float, float]]:
    voxels, confidence, positives = (
        np.sum([getattr(each, name) for each in found], axis=0) for name in ("voxels", "confidence", "positives")
    )
    return [
        (float(sure / count), float(right / count))
        for count, sure, right in zip(voxels, confidence, positives, strict=True)
        if count
    ]


def legend(about: Subjects) -> Markup:
    """The models' colours; empty where there is one."""
    if not about.several:
        return Markup("")
    items = (Markup('<li><span class="model c{}">{}</span></li>').format(m.colour, m.name) for m in about.models)
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(items))
