"""What is said of several models: no claim that the cases cannot carry, and none that they are equal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from medmamba.evaluation.evaluate import evaluate
from medmamba.evaluation.matching import match_files
from medmamba.evaluation.report import Report
from medmamba.evaluation.scores import Origin
from tests.evaluation.page.factory import ONE, TWO, made_up, parsed, write_masks

IDS = tuple(f"case_{number:02d}" for number in range(12))


def shifted(made: Report, gains: list[float], name: str) -> Report:
    """A report that is better by so much in Dice, case by case."""
    cases = tuple(
        replace(
            case,
            scores=tuple(
                replace(score, values=(score.values[0] + gain, *score.values[1:]), lesions=()) for score in case.scores
            ),
        )
        for case, gain in zip(made.cases, gains, strict=True)
    )
    return replace(made, cases=cases, name=name)


def test_that_nothing_is_shown_is_no_claim_of_equality(tmp_path: Path) -> None:
    base = made_up(IDS, labels=ONE, name="a", metrics=("dice",), lesions=())
    gains = [0.01 * (-1) ** number * (number + 1) for number in range(12)]
    words = parsed(base, shifted(base, gains, "b"), folder=tmp_path).words
    assert "no difference shown between a and b (adjusted p = 0.850; of 12 cases 6 won, 0 tied, 6 lost)" in words
    same = parsed(base, shifted(base, [0.0] * 11 + [0.1], "b"), folder=tmp_path).words
    assert "too few cases to tell a and b apart (of 12 cases 0 won, 11 tied, 1 lost)" in same
    assert "0.000 to 0.000" not in same
    assert "which does not mean that there is none" in words
    assert "beyond chance" not in words


def test_too_few_cases_are_said_to_be_too_few_whoever_wins_them(tmp_path: Path) -> None:
    five = made_up(IDS[:5], labels=ONE, name="a", metrics=("dice",), lesions=())
    words = parsed(five, shifted(five, [0.1] * 5, "b"), folder=tmp_path).words
    assert "too few cases to tell a and b apart (of 5 cases 0 won, 0 tied, 5 lost)" in words
    assert "the smallest p that 5 differing pairs can have is 0.062" in words
    assert "m = 0 tests" in words
    metrics = ("dice", "hd95", *(f"nsd_{number}mm" for number in range(1, 6)))
    eight = made_up(IDS[:8], labels=ONE, name="a", metrics=metrics, lesions=())
    other = made_up(IDS[:8], labels=ONE, name="b", metrics=metrics, lesions=(), seed=3, better=0.3)
    words = parsed(eight, other, folder=tmp_path).words
    assert (
        "of 8 cases 0 won, 0 tied, 8 lost); the smallest p that 8 differing pairs can have after adjustment is 0.05"
        in words
    )


def test_wins_ties_and_losses_are_told_and_are_those_of_the_better_model(tmp_path: Path) -> None:
    base = made_up(IDS, labels=ONE, name="a", metrics=("dice",), lesions=())
    gains = [0.1, 0.11, 0.12, 0.13, 0.14, 0.15, 0.16, 0.17, 0.18, 0.0, 0.0, -0.01]
    words = parsed(base, shifted(base, gains, "b"), folder=tmp_path).words
    assert "b is better, typically by 0.1" in words
    assert "of 12 cases 9 won, 2 tied, 1 lost)" in words


def test_of_three_models_both_that_a_sentence_is_about_are_named(tmp_path: Path) -> None:
    base = made_up(IDS, labels=ONE, name="a", metrics=("dice",), lesions=())
    same, better = shifted(base, [0.0] * 12, "b"), shifted(base, [0.01 * (n + 1) for n in range(12)], "c")
    words = parsed(base, same, better, folder=tmp_path).words
    assert "a and b are identical on all 12 cases." in words
    assert "c is better than a, " in words
    assert "c is better than b, " in words


def test_wins_against_missing_predictions_are_called_so(tmp_path: Path) -> None:
    a, b = made_up(IDS, labels=ONE, name="a"), made_up(IDS, labels=ONE, name="b", seed=1)
    cases = tuple(replace(case, status="missing") if number < 5 else case for number, case in enumerate(a.cases))
    words = parsed(replace(a, cases=cases), b, folder=tmp_path).words
    assert words.count("Only 7 of 12 cases were predicted by all models.") == 2  # in the summary and above the table
    assert "wins against these are counted" in words
    assert "were predicted by all models" not in parsed(a, b, folder=tmp_path).words


def test_redraws_of_the_same_cases_are_not_called_other_cases(tmp_path: Path) -> None:
    reports = [made_up(IDS, labels=ONE, name=name, seed=n, better=0.1 * n) for n, name in enumerate("abc")]
    made = parsed(*reports, folder=tmp_path)
    assert "of draws with replacement from these same cases" in made.words
    assert "other cases" not in " ".join([made.words, *made.attributes("title")])


def test_p_value_alone_stands_beside_the_adjusted_one(tmp_path: Path) -> None:
    made = parsed(made_up(IDS, name="a"), made_up(IDS, name="b", seed=1), folder=tmp_path)
    assert "Adjusted for m = 4 tests." in made.attributes("title")
    assert "Two-sided Wilcoxon signed-rank test, this one alone." in made.attributes("title")
    assert any(title.startswith("Kruskal-Wallis test over all groups, this one") for title in made.attributes("title"))


def test_cases_in_the_middle_of_several_models_are_called_so(tmp_path: Path) -> None:
    predictions, references, _ = write_masks(tmp_path, 9, shape=(8, 8, 6))
    report = evaluate(match_files(predictions, references).pairs, TWO)
    origin = Origin(prediction=predictions, reference=references)
    words = parsed(*(replace(report, origin=origin, name=name) for name in "ab"), folder=tmp_path).words
    assert "Median cases by the mean over models" in words
    assert "in the middle together may be the worst of one model" in words
    alone = parsed(replace(report, origin=origin), folder=tmp_path).words
    assert "Median cases" in alone
    assert "over models" not in alone
