"""Scores by group, whether groups differ, and how many lesions of each size are found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from medmamba.evaluation.breakdown import SIZES_ML, break_down, detection_by_size, wilson
from medmamba.evaluation.paired import holm
from medmamba.evaluation.report import Report
from medmamba.evaluation.scores import CaseScore, LabelScore, Lesion, LesionKind
from medmamba.evaluation.statistics import summarize
from medmamba.evaluation.subgroups import Column, Group
from medmamba.labels import Labels

NAN, INF = float("nan"), float("inf")
CASES = tuple(f"c{number:02d}" for number in range(20))
HALVES = Column(name="site", groups=(Group(name="x", cases=CASES[:10]), Group(name="y", cases=CASES[10:])))


def report(dice: list[float], *more: CaseScore, lesions: tuple[tuple[Lesion, ...], ...] = ((),) * 20) -> Report:
    return Report(
        labels=Labels.of_values((1,)),
        metrics=("dice",),
        cases=(
            *(
                CaseScore(
                    id=case, status="scored", scores=(LabelScore(label="label_1", values=(value,), lesions=found),)
                )
                for case, value, found in zip(CASES, dice, lesions, strict=True)
            ),
            *more,
        ),
    )


def lesion(kind: LesionKind, volume_ml: float) -> Lesion:
    return Lesion(kind=kind, volume_ml=volume_ml, voxel=(0, 0, 0), dice=0.5 if kind == "found" else 0.0)


def test_each_group_has_the_summary_of_its_cases_alone() -> None:
    dice = list(np.random.default_rng(0).uniform(size=20))
    ((found,),) = break_down([report(dice)], [HALVES])
    for group, values in zip(found.groups, (dice[:10], dice[10:]), strict=True):
        assert group.summary == summarize(np.array(values)[:, None], label="label_1", metric="dice")
    assert found.p_value == stats.kruskal(dice[:10], dice[10:]).pvalue


def test_cases_of_a_group_that_have_no_scores_are_counted_as_missing() -> None:
    column = Column(name="site", groups=(Group(name="x", cases=(*CASES[:10], "lost", "unheard of")), HALVES.groups[1]))
    ((found,),) = break_down([report([0.5] * 20, CaseScore(id="lost", status="failed"))], [column])
    assert (found.groups[0].summary.n, found.groups[0].summary.missing) == (10, 1)


def test_groups_that_are_all_the_same_are_not_tested() -> None:
    uneven, equal = report(list(np.linspace(0, 1, 20))), report([1.0] * 20)
    (first,), (second,) = break_down([uneven, equal], [HALVES])
    assert (second.p_value, second.p_holm, second.reason) == (None, None, "all values are equal")
    assert first.p_holm == first.p_value, "what cannot differ is no test to be adjusted for"


def test_test_takes_groups_of_five_defined_values_and_infinite_ones_as_the_largest() -> None:
    dice = [1.0, 2, 3, INF, INF, NAN, NAN, NAN, NAN, NAN, *np.arange(4, 14)]
    ((found,),) = break_down([report(dice)], [HALVES])
    assert found.p_value == pytest.approx(stats.kruskal([1, 2, 3, 99, 99], dice[10:]).pvalue)
    ((found,),) = break_down([report([NAN, *dice[1:]])], [HALVES])
    assert (found.p_value, found.p_holm) == (None, None)
    assert "1 of 2 groups have 5 defined values" in found.reason


def test_cases_whose_group_is_not_known_have_a_summary_and_take_no_part_in_the_test() -> None:
    rest = Group(name="(not given)", cases=CASES[15:], compared=False)
    column = Column(name="site", groups=(HALVES.groups[0], Group(name="y", cases=CASES[10:15]), rest))
    dice = list(np.random.default_rng(1).uniform(size=20))
    ((found,),) = break_down([report(dice)], [column])
    assert found.p_value == stats.kruskal(dice[:10], dice[10:15]).pvalue
    assert [group.summary.n for group in found.groups] == [10, 5, 5]


def test_tests_of_all_columns_are_adjusted_together_and_a_column_without_groups_is_passed_over() -> None:
    odd = Column(name="odd", groups=(Group(name="a", cases=CASES[::2]), Group(name="b", cases=CASES[1::2])))
    dice = list(np.linspace(0, 1, 20))
    (found,) = break_down([report(dice)], [HALVES, Column(name="name", reason="no value is shared"), odd])
    p_values = [each.p_value for each in found]
    assert [each.column for each in found] == ["site", "odd"]
    assert [each.p_holm for each in found] == holm(np.array(p_values)).tolist()


def test_tests_of_all_models_that_are_read_together_are_adjusted_together() -> None:
    rng = np.random.default_rng(2)
    reports = [report([*rng.uniform(0, 0.6, 10), *rng.uniform(0.3, 1, 10)]) for _ in range(3)]
    found = [each for own in break_down(reports, [HALVES]) for each in own]
    assert [each.p_holm for each in found] == holm(np.array([each.p_value for each in found])).tolist()


def test_column_about_one_structure_breaks_down_that_one_alone() -> None:
    assert break_down([report([0.5] * 20)], [replace(HALVES, label="another")]) == ((),)
    assert len(break_down([report([0.5] * 20)], [replace(HALVES, label="label_1")])[0]) == 1


def test_lesions_are_counted_by_size_and_those_that_are_invented_are_not() -> None:
    per_case = [(lesion("found", 0.1), lesion("missed", 0.05), lesion("false", 0.05))] * 6 + [()] * 13
    rates = detection_by_size(report([0.5] * 20, lesions=(*per_case, (lesion("missed", 50.0), lesion("found", 0.1)))))
    assert [(each.low_ml, each.high_ml, each.lesions, each.cases, each.found) for each in rates] == [
        (0.01, 0.1, 6, 6, 0),
        (0.1, 1.0, 7, 7, 7),
        (10.0, INF, 1, 1, 0),
    ]
    assert [each.rate for each in rates] == [wilson(0, 6), wilson(7, 7), None]
    assert "n = 1; nothing is claimed for fewer than 5 lesions" in rates[-1].reason
    assert list(SIZES_ML) == sorted(SIZES_ML)


def test_interval_of_a_share_is_wilsons() -> None:
    # Newcombe, Statistics in Medicine 17: 857 (1998), table I, method 3.
    for successes, trials, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611)):
        assert wilson(successes, trials).interval == pytest.approx((low, high), abs=5e-5)
    assert wilson(1, 29).interval == pytest.approx((0.0061, 0.1718), abs=5e-5)
