"""What is said of one model: of infinite, undefined and equal values, of lesions, of cases without a prediction."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from medmamba.evaluation.page.parts import value_text
from medmamba.evaluation.report import Report
from medmamba.evaluation.scores import CaseScore, LabelScore, Lesion, Status
from tests.evaluation.page.factory import LESIONS, ONE, Parsed, made_up, parsed

NAN, INF = float("nan"), float("inf")
IDS = tuple(f"case_{number:02d}" for number in range(8))
MISSED = Lesion(kind="missed", volume_ml=0.02, voxel=(1, 1, 1), dice=0.0)


def report(*rows: tuple[float, ...], predicted: float = 1.0, reference: float = 1.0, name: str = "") -> Report:
    """One label of Dice and HD95."""
    cases = tuple(
        CaseScore(
            id=f"c{number:02d}",
            status="scored",
            scores=(LabelScore(label="lesion", values=row, prediction_ml=predicted, reference_ml=reference),),
        )
        for number, row in enumerate(rows)
    )
    return Report(labels=ONE, metrics=("dice", "hd95")[: len(rows[0])], cases=cases, name=name)


def with_status(made: Report, number: int, status: Status, *lesions: Lesion) -> Report:
    """One case as a failed one that has the worst values."""
    cases = list(made.cases)
    row = replace(cases[number].scores[0], values=(0.0, INF), prediction_ml=None, lesions=lesions)
    cases[number] = replace(cases[number], status=status, scores=(row,))
    return replace(made, cases=tuple(cases))


def plots(page: Parsed) -> list[str]:
    """What the plots of the page are called."""
    return [str(facts["aria-label"]) for tag, facts in page.tags if tag == "svg"]


def test_counts_may_be_whole_numbers() -> None:
    assert [value_text(value, "lesions_missed") for value in (3, 3.0, 2.5)] == ["3", "3", "2.5"]


def test_infinite_values_are_said_to_be_of_what_they_are_of(tmp_path: Path) -> None:
    lost = [(0.0, INF)] * 2 + [(0.5, 2.0 + number) for number in range(6)]
    assert "2 of 8 values are infinite, where one mask is empty" in parsed(report(*lost), folder=tmp_path).words
    whole = report(*[(0.5, 2.0 + number) for number in range(8)])
    words = parsed(with_status(whole, 0, "failed"), folder=tmp_path).words
    assert "1 of 8 values are infinite, of cases without a usable prediction" in words
    assert "where one mask is empty; median" not in words
    both = parsed(with_status(report(*lost), 5, "missing"), folder=tmp_path).words
    assert "3 of 8 values are infinite, 1 of cases without a usable prediction, 2 where one mask is empty" in both


def test_mean_of_finite_values_alone_is_never_drawn_as_the_mean(tmp_path: Path) -> None:
    made = parsed(report(*[(0.0, INF)] * 2, *[(0.5, 2.0 + number) for number in range(6)]), folder=tmp_path)
    assert "Mean HD95" not in plots(made), "there is no finite mean at all"
    assert "too few values for an interval" not in made.words
    assert "∞ (4.50 of 6 finite)" in made.words
    assert "infinite: 2 of 8" in made.words
    good = report(*[(0.5, 2.0 + number) for number in range(8)], name="good")
    bad = report(*[(0.0, INF)] * 2, *[(0.5, 2.0)] * 6, name="bad")
    made = parsed(good, bad, folder=tmp_path)
    assert "Mean HD95" in plots(made)
    assert "(nothing is drawn where values are infinite, as their mean is)" in made.words
    assert "2.00 (" not in made.words


def test_label_whose_mean_is_infinite_is_the_weakest(tmp_path: Path) -> None:
    made = made_up(IDS, metrics=("hd95", "dice"), lesions=())
    lost, *others = made.cases
    scores = (lost.scores[0], replace(lost.scores[1], values=(INF, 0.0)))
    words = parsed(replace(made, cases=(replace(lost, scores=scores), *others)), folder=tmp_path).words
    assert "Weakest label: core with a mean HD95 of ∞; strongest: lesion with 0." in words


def test_all_infinite_and_all_undefined_are_not_the_same(tmp_path: Path) -> None:
    undefined = parsed(report(*[(NAN, NAN)] * 8, predicted=0.0, reference=0.0), folder=tmp_path).words
    assert "Dice of lesion: undefined in all of 8 cases, as both masks are empty" in undefined
    nothing = parsed(report(*[(0.0, INF)] * 8, predicted=0.0), folder=tmp_path).words
    assert "HD95 of lesion: 8 of 8 values are infinite, as nothing at all was predicted" in nothing
    unknown = parsed(report(*[(NAN, NAN)] * 8, predicted=0.0), folder=tmp_path).words
    assert "Dice of lesion: undefined in all of 8 cases." in unknown


def test_equal_values_are_no_certainty_and_no_order(tmp_path: Path) -> None:
    made = parsed(report(*[(1.0, 2.0)] * 6), folder=tmp_path)
    assert "Dice of lesion: 1.000 in each of 6 cases, which tells nothing of how others spread" in made.words
    assert "1.000 to 1.000" not in made.words
    assert "2.00 to 2.00" not in made.words
    assert "0.000 ml in all 6 cases" in made.words  # volumes
    assert "Worst in Dice" not in made.words
    assert "Weakest label" not in made.words


def test_missed_lesions_of_cases_without_a_prediction_are_counted_and_that_is_said(tmp_path: Path) -> None:
    whole = made_up(IDS, labels=ONE)
    words = parsed(with_status(whole, 0, "missing", MISSED, MISSED, MISSED), folder=tmp_path).words
    assert "7 of 17 lesions found (41 %; 1.0 invented per case)" in words
    assert "Lesions of 1 case without a usable prediction count as missed" in words
    assert "not in these counts" not in words


@pytest.mark.parametrize("status", ["failed", "skipped"])
def test_lesions_that_are_not_known_are_said_to_be_left_out(status: Status, tmp_path: Path) -> None:
    whole = made_up(IDS, labels=ONE)
    cases = (replace(whole.cases[0], status=status, scores=()), *whole.cases[1:])
    for made in (replace(whole, cases=cases), with_status(whole, 0, "failed")):
        words = parsed(made, folder=tmp_path).words
        assert "7 of 14 lesions found (50 %; 1.0 invented per case)" in words
        assert "Lesions of 1 case without a usable prediction are not known, and not in these counts" in words
        assert "count as missed" not in words


def test_lesions_of_few_cases_are_counts_and_no_percentage(tmp_path: Path) -> None:
    words = parsed(made_up(IDS[:3], labels=ONE, lesions=LESIONS * 4), folder=tmp_path).words
    assert "12 of 24 lesions found (in 3 cases; 12 invented)." in words
    assert "50 %" not in words
