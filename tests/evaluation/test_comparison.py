"""Several reports against one another: which cases count, who wins, and what cannot be compared."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medmamba.errors import DataError
from medmamba.evaluation.comparison import Comparison, Contrast, compare, distinct_names
from medmamba.evaluation.paired import gains, holm, signed_rank_p
from medmamba.evaluation.report import Report
from medmamba.evaluation.scores import CaseScore, LabelScore, Origin, Policy
from medmamba.labels import Label, Labels

NAN, INF = float("nan"), float("inf")
TWO = Labels(foreground=(Label(name="core", values=(1,)), Label(name="edema", values=(2,))))
CASES = tuple(f"case_{number:02d}" for number in range(12))


def report(
    name: str,
    table: np.ndarray,
    *,
    labels: Labels = TWO,
    metrics: tuple[str, ...] = ("dice", "hd95"),
    cases: tuple[str, ...] = CASES,
    without: tuple[str, ...] = (),
    reference_ml: float = 2.0,
) -> Report:
    """A report of a (cases, labels, metrics) table; ``without`` are cases that have no scores."""
    scores = {
        case: tuple(
            LabelScore(label=label.name, values=tuple(map(float, values)), prediction_ml=1.0, reference_ml=reference_ml)
            for label, values in zip(labels.foreground, row, strict=True)
        )
        for case, row in zip(cases, table, strict=True)
    }
    return Report(
        labels=labels,
        metrics=metrics,
        cases=tuple(
            CaseScore(id=case, status="skipped")
            if case in without
            else CaseScore(id=case, status="scored", scores=rows)
            for case, rows in scores.items()
        ),
        name=name,
    )


def table(seed: int, better: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    dice = np.clip(rng.uniform(0.4, 0.8, (12, 2)) + better, 0, 1)
    return np.stack([dice, 10 * (1 - dice) + rng.uniform(size=(12, 2))], axis=-1)


def found(comparison: Comparison, metric: str, label: str) -> Contrast:
    (contrast,) = (each for each in comparison.contrasts if (each.metric, each.label) == (metric, label))
    return contrast


def test_better_model_wins_in_either_direction_of_a_metric() -> None:
    one = table(0)
    comparison = compare([report("a", one + np.array([0.1, -1.0])), report("b", one)])
    for metric in ("dice", "hd95"):
        contrast = found(comparison, metric, "core")
        assert (contrast.first, contrast.second, contrast.better) == ("a", "b", "a")
        assert (contrast.test.wins, contrast.test.losses, contrast.test.effect) == (12, 0, 1.0)
        assert contrast.test.p_value == pytest.approx(2 / 2**12)
    assert comparison.overall.places == (1, 2)
    assert [standing.ranking.shares for standing in comparison.standings] == [((1, 0), (0, 1))] * 4


def test_p_values_are_adjusted_for_all_metrics_labels_and_pairs_together() -> None:
    tables = [table(0), table(1), table(2, better=0.15)]
    comparison = compare([report(name, each) for name, each in zip("abc", tables, strict=True)])
    p_values = [
        signed_rank_p(gains(tables[a][:, label, m], tables[b][:, label, m], higher_is_better=m == 0))
        for m in (0, 1)
        for label in (0, 1)
        for a, b in ((0, 1), (0, 2), (1, 2))
    ]
    assert comparison.tests == 12
    assert [contrast.test.p_value for contrast in comparison.contrasts] == p_values
    assert [contrast.p_holm for contrast in comparison.contrasts] == holm(np.array(p_values)).tolist()
    assert [(each.metric, each.label, each.first, each.second) for each in comparison.contrasts[:4]] == [
        ("dice", "core", "a", "b"),
        ("dice", "core", "a", "c"),
        ("dice", "core", "b", "c"),
        ("dice", "edema", "a", "b"),
    ]


def test_only_cases_that_all_have_scores_for_count_and_the_others_are_named() -> None:
    first = report("a", table(0), without=("case_03",))
    second = report("b", table(0)[:-1], cases=CASES[:-1], without=("case_03", "case_05"))
    comparison = compare([first, second])
    assert comparison.cases == tuple(case for case in CASES if case not in ("case_03", "case_05", "case_11"))
    assert [(each.case, each.lacking) for each in comparison.left_out] == [
        ("case_03", ("a", "b")),
        ("case_05", ("b",)),
        ("case_11", ("b",)),
    ]
    assert {contrast.test.n for contrast in comparison.contrasts} == {9}


def test_order_of_cases_labels_and_metrics_in_a_report_does_not_matter() -> None:
    mine, theirs = table(0), table(1)
    turned = report(
        "b",
        theirs[::-1, ::-1, ::-1],
        labels=Labels(foreground=TWO.foreground[::-1]),
        metrics=("hd95", "dice"),
        cases=CASES[::-1],
    )
    assert compare([report("a", mine), turned]) == compare([report("a", mine), report("b", theirs)])


def test_model_that_misses_a_structure_loses_that_case_in_the_distance() -> None:
    mine, theirs = table(0), table(0)
    mine[:7, 0, 1], theirs[6, 0, 1] = INF, INF
    contrast = found(compare([report("a", mine), report("b", theirs)]), "hd95", "core")
    assert (contrast.test.wins, contrast.test.ties, contrast.test.losses) == (0, 6, 6)
    assert contrast.test.mean_gain is not None
    assert (contrast.test.mean_gain.value, contrast.test.mean_gain.interval) == (-INF, None)


def test_undefined_values_are_left_out_of_their_test_alone() -> None:
    mine = table(0)
    mine[:8, 0, 0] = NAN
    comparison = compare([report("a", mine), report("b", table(1))])
    contrast = found(comparison, "dice", "core")
    assert (contrast.test.n, contrast.test.undefined, contrast.p_holm, contrast.better) == (4, 8, None, None)
    assert "n = 4; nothing is claimed for fewer than 5 pairs" in contrast.test.reason
    assert found(comparison, "hd95", "core").test.n == 12
    assert (comparison.tests, comparison.overall.n) == (3, 12)


def test_four_cases_claim_nothing_and_say_so() -> None:
    comparison = compare([report(name, table(n)[:4], cases=CASES[:4]) for n, name in enumerate("ab")])
    assert (comparison.tests, comparison.overall.places) == (0, ())
    assert {contrast.p_holm for contrast in comparison.contrasts} == {None}
    assert "n = 4; nothing is claimed" in comparison.overall.reason


def test_same_name_twice_is_told_apart_by_numbers_that_are_free() -> None:
    same = report("mine", table(0))
    assert distinct_names([same, replace(same, name="mine (1)"), same]) == ("mine (2)", "mine (1)", "mine (3)")
    assert compare([same, same]).names == ("mine (1)", "mine (2)")


def test_report_without_a_name_has_that_of_its_model_or_folder() -> None:
    nameless = report("", table(0))
    of_model = replace(nameless, origin=Origin(model="segmamba"))
    of_folder = replace(nameless, origin=Origin(prediction=Path("runs") / "fold_0"))
    assert distinct_names([of_model, of_folder, nameless]) == ("segmamba", "fold_0", "model")


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (
            report("b", table(1), labels=Labels(foreground=(*TWO.foreground[:1], Label(name="edema", values=(4,))))),
            ("same labels", "edema = 2", "'b' has core = 1, edema = 4", "--labels"),
        ),
        (report("b", table(1), metrics=("dice", "assd")), ("same metrics", "dice, hd95", "assd, dice", "--metric")),
        (
            replace(report("b", table(1)), policy=Policy(empty="perfect")),
            ("same policies", "left out of every summary", "the best value", "same policy"),
        ),
        (report("b", table(1), reference_ml=3.0), ("same references", "case_00", "and 7 more", "same folder")),
        (report("b", table(1), cases=tuple("abcdefghijkl")), ("'a', 'b' have no case in common", "same references")),
    ],
)
def test_reports_that_cannot_be_compared_are_refused_with_the_difference_and_the_way_out(
    other: Report, words: tuple[str, ...]
) -> None:
    with pytest.raises(DataError) as error:
        compare([report("a", table(0)), other])
    assert all(word in str(error.value) for word in words), error.value


def test_tests_in_which_too_few_pairs_differ_take_no_power_from_the_others() -> None:
    mine, theirs = table(0), table(0)
    mine[:, 0, 0] += 0.01  # 12 pairs differ
    mine[:5, 1, 0] += 0.01  # five do: of all signs, no p is below 0.06
    comparison = compare([report("a", mine), report("b", theirs)])
    better, few, same = (found(comparison, *key) for key in (("dice", "core"), ("dice", "edema"), ("hd95", "core")))
    assert comparison.tests == 1
    assert (better.p_holm, better.better) == (better.test.p_value, "a")
    assert (few.test.p_value, few.p_holm, few.could_tell) == (2 / 2**5, None, False)
    assert (same.test.p_value, same.p_holm, same.same, better.same) == (1.0, None, True, False)


def test_it_is_told_whether_any_outcome_could_have_shown_a_difference() -> None:
    one, both = table(0)[:8], table(0)[:8] + np.array([0.01, -0.1])
    few = compare([report(n, t, cases=CASES[:8]) for n, t in (("a", both), ("b", one), ("c", table(1)[:8]))])
    contrast = found_between(few, "a", "b")
    assert (contrast.test.wins, contrast.test.p_value, few.tests) == (8, 2 / 2**8, 12)
    assert contrast.least_p_holm == contrast.p_holm == pytest.approx(12 * 2 / 2**8)
    assert not contrast.could_tell
    enough = compare([report("a", table(0)), report("b", table(1))])
    assert all(each.could_tell for each in enough.contrasts)
    assert None in {each.better for each in enough.contrasts}


def found_between(comparison: Comparison, first: str, second: str) -> Contrast:
    return next(each for each in comparison.contrasts if (each.first, each.second) == (first, second))


def test_cases_whose_prediction_is_missing_are_told_from_those_that_all_predicted() -> None:
    lost = report("a", table(0))
    cases = (*lost.cases[:3], replace(lost.cases[3], status="missing"), *lost.cases[4:])
    comparison = compare([replace(lost, cases=cases), report("b", table(1))])
    assert len(comparison.cases) == 12
    assert [(each.case, each.lacking) for each in comparison.filled] == [("case_03", ("a",))]


def test_one_report_is_no_comparison() -> None:
    with pytest.raises(ValueError, match="two reports"):
        compare([report("a", table(0))])


def test_comparison_is_the_same_whenever_it_is_made_and_goes_into_json() -> None:
    mine = table(0)
    mine[:7, 0, 1] = INF
    reports = [report("a", mine), report("b", table(1))]
    assert compare(reports, seed=3) == compare(reports, seed=3)
    data = json.loads(json.dumps(compare(reports).to_json(), allow_nan=False))
    assert data["contrasts"][2]["test"]["mean_gain"] == {"value": "-inf", "interval": None}
    assert data["names"] == ["a", "b"]
