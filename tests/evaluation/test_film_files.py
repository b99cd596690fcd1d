"""Masks of films on disk against a data set of films, and the page that is made of both."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from medmamba.cli.main import app
from medmamba.errors import DataError
from medmamba.evaluation.film_files import evaluate_film_files, films_of
from medmamba.evaluation.page import write
from medmamba.evaluation.report import Report
from tests.clips_factory import write_clip, write_films
from tests.evaluation.page.factory import Parsed

CLIPS = ("p1_seq1", "p1_seq2", "p2_seq1")


@pytest.fixture
def films(tmp_path: Path) -> tuple[Path, Path]:
    """Predictions that are the reference but for some rows of one frame, and films with gaps in their numbers."""
    dataset = write_films(tmp_path / "films", CLIPS, numbers=(1, 2, 5, 9), labelled=(1, 2, 9))
    predicted = tmp_path / "predicted"
    for start, clip in enumerate(CLIPS):
        write_clip(tmp_path / "other" / clip, predicted / clip, numbers=(1, 2, 5, 9), start=start)
    wrong = predicted / CLIPS[0] / "0002.png"
    mask = np.array(Image.open(wrong))
    mask[:24] = 0
    Image.fromarray(mask).save(wrong)
    return predicted, dataset


def test_films_are_scored_with_the_frames_of_the_film(films: tuple[Path, Path]) -> None:
    predicted, dataset = films
    report, matches = evaluate_film_files(predicted, dataset, name="ours")
    assert [case.status for case in report.cases] == ["scored"] * 3
    assert [pair.id for pair in matches.pairs] == list(CLIPS)
    first, second, _ = report.cases
    assert first.film is not None
    assert first.film.numbers == (1, 2, 5, 9)
    frames = first.scores[0].frames
    assert frames is not None
    assert frames.dice[2] is None
    assert frames.dice[1] is not None
    assert frames.dice[1] < 1 == frames.dice[0]
    assert dict(zip(report.metrics, second.scores[0].values, strict=True)) == {
        "frame_dice": 1, "boundary_f": 1, "flicker": 0, "delay": 0, "dice": 1
    }  # fmt: skip
    same, _ = evaluate_film_files(predicted, dataset / "masks", name="ours")
    assert [case.scores for case in same.cases] == [case.scores for case in report.cases]


def test_page_of_a_report_on_disk_has_players(films: tuple[Path, Path], tmp_path: Path) -> None:
    predicted, dataset = films
    report, _ = evaluate_film_files(predicted, dataset, name="ours")
    report.save(predicted)
    page = Parsed(write([Report.load(predicted)], tmp_path / "page.html").read_text())
    assert sorted(page.attributes("data-film")) == ["0", "1", "2"]
    facts = json.loads(page.scripts["film-0"])
    assert facts["numbers"] == [1, 2, 5, 9]
    assert len(facts["pictures"]) == 4
    shutil.rmtree(dataset)
    page = Parsed(write([Report.load(predicted)], tmp_path / "page.html").read_text())
    assert page.attributes("data-film") == []
    assert "No player" in page.words


def test_predictions_of_no_film_are_refused_with_what_there_is(films: tuple[Path, Path], tmp_path: Path) -> None:
    predicted, dataset = films
    with pytest.raises(DataError, match="masks of none of the films p1_seq1"):
        evaluate_film_files(tmp_path, dataset)
    with pytest.raises(DataError, match="no data set of films"):
        evaluate_film_files(predicted, predicted)
    assert films_of(predicted) is None


def test_missing_and_extra_films_are_told(films: tuple[Path, Path]) -> None:
    predicted, dataset = films
    (predicted / CLIPS[1]).rename(predicted / "nobody")
    report, matches = evaluate_film_files(predicted, dataset)
    assert [case.status for case in report.cases] == ["scored", "missing", "scored"]
    assert [path.name for path in matches.extra] == ["nobody"]


def test_command_writes_report_frames_and_page(films: tuple[Path, Path], tmp_path: Path) -> None:
    predicted, dataset = films
    told = CliRunner().invoke(app, ["evaluate", str(predicted), str(dataset), "--report", str(tmp_path / "page.html")])
    assert told.exit_code == 0, told.output
    rows = list(csv.DictReader((predicted / "frames.csv").open()))
    assert len(rows) == 3 * 2 * 4
    assert "data-film" in (tmp_path / "page.html").read_text()
    for words, options in (
        ("films are measured by", ["--metric", "hd95"]),
        ("leave out --summary-json", ["--summary-json"]),
    ):
        told = CliRunner().invoke(app, ["evaluate", str(predicted), str(dataset), *options])
        assert told.exit_code == 2
        assert words in " ".join(told.output.split())
