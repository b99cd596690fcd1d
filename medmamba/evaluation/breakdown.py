"""Where does a model fail: its scores in groups of cases, and how many lesions of each size it finds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from scipy import stats

from medmamba.evaluation.paired import holm
from medmamba.evaluation.report import Report
from medmamba.evaluation.statistics import (
    DECIMALS,
    MINIMUM_FOR_INTERVAL,
    Estimate,
    FloatArray,
    Summary,
    reason_for_silence,
    summarize_all,
)
from medmamba.evaluation.subgroups import Column, Group

#: Bounds between sizes of lesions, in ml.
SIZES_ML = (0.0, 0.01, 0.1, 1.0, 10.0, math.inf)

METHODS = (
    "Whether groups differ is told by the Kruskal-Wallis test over the groups with at least "
    f"{MINIMUM_FOR_INTERVAL} defined values (an infinite one is larger than any number; ties are corrected for), "
    "adjusted by Holm over all metrics, labels, groupings and models on the page together, but for tests of nothing "
    "but equal values. Cases whose group is not known take no part in the test.",
    "Detection by size is the share of the reference's lesions (connected components) that the prediction meets, with "
    "the 95 % interval of Wilson. It takes lesions to be independent, which those of one case are not quite: with "
    f"many lesions in few cases it is too narrow. Nothing is claimed for fewer than {MINIMUM_FOR_INTERVAL} lesions.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSummary:
    """One group in one metric and label."""

    group: Group
    summary: Summary


@dataclass(frozen=True, slots=True, kw_only=True)
class Breakdown:
    """One metric and label by the groups of one column.

    Args:
        column: name of the column.
        metric: name of the metric.
        label: name of the structure.
        groups: one summary each.
        p_value: of the Kruskal-Wallis test, for this test alone; None where nothing is claimed.
        p_holm: adjusted for all tests made together, those of other reports among them; None likewise.
        reason: why nothing is claimed; empty where something is.
    """

    column: str
    metric: str
    label: str
    groups: tuple[GroupSummary, ...]
    p_value: float | None
    p_holm: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """How many lesions of one size were found.

    Args:
        label: name of the structure.
        low_ml: lesions are at least as large.
        high_ml: and smaller than that; may be infinite.
        lesions: how many there are in the references.
        cases: in how many cases.
        found: how many of the lesions the predictions meet.
        rate: share that was found; None where nothing is claimed.
        reason: why nothing is claimed; empty where something is.
    """

    label: str
    low_ml: float
    high_ml: float
    lesions: int
    cases: int
    found: int
    rate: Estimate | None
    reason: str = ""


def break_down(reports: Sequence[Report], columns: Sequence[Column]) -> tuple[tuple[Breakdown, ...], ...]:
    """Summaries of each group in each metric and label, and whether groups differ.

    Args:
        reports: that are read together, whose cases are grouped; ids that one lacks are passed over.
        columns: from `Subgroups.columns` or `by_lesion_size`; those without groups are passed over.

    Returns:
        For each report, its breakdowns; p values are adjusted for the tests of all reports.
    """
    found = [[each for column in columns if column.groups for each in _of_column(report, column)] for report in reports]
    p_values = [each.p_value for of_report in found for each in of_report]
    adjusted = iter(holm(np.array([np.nan if p is None else p for p in p_values])).tolist())
    return tuple(
        tuple(
            replace(each, p_holm=None if each.p_value is None else p)
            for each, p in zip(of_report, adjusted, strict=False)
        )
        for of_report in found
    )


def detection_by_size(report: Report) -> tuple[Detection, ...]:
    """For each structure and size, the share of the reference's lesions that was found; sizes without any are none."""
    found = []
    for row, label in enumerate(report.labels.foreground):
        lesions = [
            (case.id, lesion.volume_ml, lesion.kind == "found")
            for case in report.cases
            if case.scores
            for lesion in case.scores[row].lesions
            if lesion.kind != "false"
        ]
        for low, high in pairwise(SIZES_ML):
            here = [(case, met) for case, volume_ml, met in lesions if low <= volume_ml < high]
            if here:
                found.append(_detection(label.name, low, high, here))
    return tuple(found)


def wilson(successes: int, trials: int) -> Estimate:
    """A share with the 95 % interval of Wilson (JASA 1927)."""
    interval = stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    return Estimate(value=successes / trials, interval=(float(interval.low), float(interval.high)))


def _of_column(report: Report, column: Column) -> list[Breakdown]:
    scored = [case.id for case in report.cases if case.scores]
    without = {case.id for case in report.cases} - set(scored)
    place, table = {case: number for number, case in enumerate(scored)}, report.table
    values = {
        (metric, label.name): table[:, row, number]
        for number, metric in enumerate(report.metrics)
        for row, label in enumerate(report.labels.foreground)
        if column.label in (None, label.name)
    }
    rows = [[place[case] for case in group.cases if case in place] for group in column.groups]
    summaries = [
        summarize_all(
            {key: every[chosen, None] for key, every in values.items()},
            left_out=len(without & set(group.cases)),
            seed=report.seed,
        )
        for group, chosen in zip(column.groups, rows, strict=True)
    ]
    compared = [chosen for group, chosen in zip(column.groups, rows, strict=True) if group.compared]
    found = []
    for key, each in zip(values, zip(*summaries, strict=True), strict=True):
        p_value, reason = _kruskal([values[key][chosen] for chosen in compared])
        groups = tuple(GroupSummary(group=group, summary=one) for group, one in zip(column.groups, each, strict=True))
        found.append(
            Breakdown(column=column.name, metric=key[0], label=key[1], groups=groups, p_value=p_value, reason=reason)
        )
    return found


def _kruskal(groups: Sequence[FloatArray]) -> tuple[float | None, str]:
    """The p value over groups with enough defined values, or why there is none."""
    defined = [np.round(values[~np.isnan(values)], DECIMALS) for values in groups]
    enough = [values for values in defined if len(values) >= MINIMUM_FOR_INTERVAL]
    if len(enough) < 2:
        return (
            None,
            f"{len(enough)} of {len(groups)} groups have {MINIMUM_FOR_INTERVAL} defined values; a test needs two",
        )
    if len(np.unique(np.concatenate(enough))) == 1:  # of which scipy has no p value
        return None, "all values are equal"
    return float(stats.kruskal(*enough).pvalue), ""


def _detection(label: str, low: float, high: float, lesions: Sequence[tuple[str, bool]]) -> Detection:
    met, reason = sum(found for _, found in lesions), reason_for_silence(len(lesions), "lesions")
    return Detection(
        label=label,
        low_ml=low,
        high_ml=high,
        lesions=len(lesions),
        cases=len({case for case, _ in lesions}),
        found=met,
        rate=None if reason else wilson(met, len(lesions)),
        reason=reason,
    )
