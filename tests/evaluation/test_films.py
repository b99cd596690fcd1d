"""Folders of masks of films, held against one another clip by clip, and the files that this makes."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medmamba.clip import UNLABELLED
from medmamba.errors import DataError, UsageError
from medmamba.evaluation.films import aligned, evaluate_films, score_film
from medmamba.evaluation.matching import Match
from medmamba.evaluation.metrics import OF_FILMS, STANDARD_OF_FILMS
from medmamba.evaluation.report import Report
from medmamba.evaluation.scores import Film, Policy
from medmamba.labels import Labels
from medmamba.records import RecordError
from tests.film_factory import TWO, Values, labels_of, moving, read_masks, write_masks


def pair(folder: Path, clip: str, prediction: Values | None, reference: Values, numbers: tuple[int, ...] = ()) -> Match:
    ours = None if prediction is None else write_masks(prediction, folder / "ours" / clip, numbers)
    return Match(id=clip, prediction=ours, reference=write_masks(reference, folder / "theirs" / clip, numbers))


@pytest.fixture
def report(tmp_path: Path) -> Report:
    """Of a good clip, one with few masks and gaps in its numbers, and one without prediction."""
    few = moving(6)
    few[1::2] = UNLABELLED
    numbers = (1, 2, 5, 9, 10, 30)
    pairs = [
        pair(tmp_path, "good", moving(), moving()),
        Match(
            id="few",
            prediction=write_masks(moving(shift=2), tmp_path / "ours" / "few", numbers),
            reference=write_masks(few, tmp_path / "theirs" / "few", numbers),
        ),
        pair(tmp_path, "lost", None, moving()),
    ]
    return evaluate_films(pairs, TWO, read_masks, name="ours")


def values(report: Report, clip: str, label: str) -> dict[str, float]:
    case = next(case for case in report.cases if case.id == clip)
    score = next(score for score in case.scores if score.label == label)
    return dict(zip(report.metrics, score.values, strict=True))


def test_clips_are_scored_by_every_metric_of_films(report: Report) -> None:
    assert report.metrics == tuple(name for name in STANDARD_OF_FILMS if name != "delay_s")  # no times, no seconds
    assert values(report, "good", "square") == {
        name: OF_FILMS[name].best if name in OF_FILMS else 1 for name in report.metrics
    }
    assert values(report, "lost", "bar") == {
        "frame_dice": 0, "boundary_f": 0, "flicker": 1, "delay": math.inf, "dice": 0
    }  # fmt: skip
    assert [case.status for case in report.cases] == ["scored", "scored", "missing"]


def test_frames_are_matched_by_their_numbers_and_only_those_with_a_mask_count(report: Report) -> None:
    few = next(case for case in report.cases if case.id == "few")
    assert few.film == Film(numbers=(1, 2, 5, 9, 10, 30))
    assert few.notes == ("3 of 6 frames have a reference mask; the others do not count",)
    frames = few.scores[0].frames
    assert frames is not None
    assert [value is None for value in frames.dice] == [False, True] * 3
    assert frames.dice[0] == pytest.approx(2 * 12 / 28)
    assert values(report, "few", "square")["frame_dice"] == pytest.approx(2 * 12 / 28)
    assert math.isnan(values(report, "few", "square")["flicker"])


def test_report_is_read_back_as_it_was_written(report: Report, tmp_path: Path) -> None:
    paths = report.save(tmp_path)
    assert [path.name for path in paths] == ["report.json", "report.csv", "frames.csv"]
    read = Report.load(tmp_path)
    assert json.dumps(read.to_json()) == json.dumps(report.to_json())
    assert read.films


def test_table_of_frames_has_a_line_for_each_frame_and_label_and_areas_in_mm2(tmp_path: Path) -> None:
    film = Film(numbers=(3, 4, 8), times_s=(0.0, 0.1, 0.5), spacing_mm=(0.5, 0.25))
    reference = moving(3)
    reference[2] = UNLABELLED
    case = score_film("clip", moving(3), reference, film, TWO)
    Report(labels=TWO, metrics=STANDARD_OF_FILMS, cases=(case,)).save(tmp_path)
    rows = list(csv.DictReader((tmp_path / "frames.csv").open()))
    assert len(rows) == 2 * 3
    assert [row["number"] for row in rows[:3]] == ["3", "4", "8"]
    assert [row["time_s"] for row in rows[:3]] == ["0.0", "0.1", "0.5"]
    assert [row["dice"] for row in rows[:3]] == ["1.0", "1.0", ""]
    assert [float(row["prediction_mm2"]) for row in rows[:3]] == [14 * 14 * 0.125] * 3
    assert rows[2]["reference_mm2"] == ""


def test_seconds_are_told_where_a_clip_has_times() -> None:
    reference, late = moving(), moving()
    late[:5][late[:5] == 2] = 0
    film = Film(numbers=tuple(range(6)), times_s=(0.0, 0.1, 0.2, 0.5, 0.9, 1.4))
    case = score_film("clip", late, reference, film, TWO)
    found = dict(zip(STANDARD_OF_FILMS, case.scores[1].values, strict=True))
    assert (found["delay"], found["delay_s"]) == (2, pytest.approx(0.9))


def test_frames_without_numbers_of_their_own_are_counted() -> None:
    counted, numbered = labels_of(moving(3), times_s=(0.0, 1.0, 2.0)), labels_of(moving(3), (4, 7, 9))
    *_, film = aligned(counted, numbered)
    assert film == Film(numbers=(4, 7, 9), times_s=(0.0, 1.0, 2.0))
    ours, theirs, film = aligned(labels_of(moving(4), (1, 2, 3, 4)), labels_of(moving(4)[[1, 3]], (2, 4)))
    assert film.numbers == (1, 2, 3, 4)
    assert (theirs[[1, 3]] == ours[[1, 3]]).all()
    assert (theirs[[0, 2]] == UNLABELLED).all()


def test_predictions_that_do_not_fit_are_failures_with_a_reason(tmp_path: Path) -> None:
    reference = moving()
    odd = pair(tmp_path, "odd", moving(shape=(40, 50)), reference)
    short = Match(
        id="short",
        prediction=write_masks(moving()[:4], tmp_path / "ours" / "short", (0, 1, 2, 3)),
        reference=write_masks(reference, tmp_path / "theirs" / "short"),
    )
    cases = evaluate_films([odd, short], TWO, read_masks).cases
    assert [case.status for case in cases] == ["failed", "failed"]
    assert "40 x 50 and not 40 x 48" in cases[0].notes[0]
    assert "no mask for frames 4, 5" in cases[1].notes[0]
    assert cases[0].scores[0].values[0] == 0
    skipped = evaluate_films([odd, short], TWO, read_masks, policy=Policy(missing="skip")).cases
    assert [case.scores for case in skipped] == [(), ()]


def test_reference_with_an_undeclared_value_fails_its_clip_alone(tmp_path: Path) -> None:
    strange = moving()
    strange[4, 0, 0] = 7
    pairs = [pair(tmp_path, "good", moving(), moving()), pair(tmp_path, "strange", moving(), strange)]
    good, bad = evaluate_films(pairs, TWO, read_masks).cases
    assert good.status == "scored"
    assert (bad.status, bad.scores) == ("failed", ())
    assert "undeclared label 7 in frame 4 of the reference of strange; declared are 0, 1, 2" in bad.notes[0]


def test_frames_in_which_both_are_empty_follow_the_policy(tmp_path: Path) -> None:
    pairs = [pair(tmp_path, "clip", moving(shift=2), moving())]
    by_policy = {
        empty: values(evaluate_films(pairs, TWO, read_masks, policy=Policy(empty=empty)), "clip", "bar")["frame_dice"]
        for empty in ("undefined", "perfect")
    }  # fmt: skip
    assert by_policy["perfect"] == pytest.approx((1 + by_policy["undefined"]) / 2)
    assert "undefined if both are" in OF_FILMS["frame_dice"].defined(Policy())
    assert "1 if both are" in OF_FILMS["frame_dice"].defined(Policy(empty="perfect"))


def test_metrics_that_films_do_not_have_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"films are measured by frame_dice, .*, and not by hd95"):
        evaluate_films([pair(tmp_path, "clip", moving(), moving())], TWO, read_masks, metrics=["dice", "hd95"])


def test_ignored_pixels_count_in_neither_mask() -> None:
    reference, prediction = moving(), moving()
    reference[:, :, :10] = 9
    prediction[:, :, :10] = 2
    film = Film(numbers=tuple(range(6)))
    labels: Labels = replace(TWO, ignore=9)
    case = score_film("clip", prediction, reference, film, labels, metrics=("frame_dice", "flicker", "dice"))
    assert [score.values for score in case.scores] == [(1, 0, 1), (1, 0, 1)]
    voxels = case.scores[0].voxels
    assert voxels is not None
    assert voxels.all == 6 * 40 * 38


def test_damaged_table_of_frames_in_a_report_is_told(report: Report, tmp_path: Path) -> None:
    report.save(tmp_path)
    facts = json.loads((tmp_path / "report.json").read_text())
    facts["cases"][0]["scores"][0]["frames"]["dice"].pop()
    (tmp_path / "report.json").write_text(json.dumps(facts))
    with pytest.raises(RecordError, match="need as many"):
        Report.load(tmp_path)


def test_masks_without_frames_are_refused() -> None:
    with pytest.raises(DataError, match="at least one"):
        labels_of(np.zeros((0, 4, 4), dtype=np.int16), ())
