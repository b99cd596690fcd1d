from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medmamba.io.check import Finding, check_dataset
from tests.clips_factory import SIZE, frame, write_clip, write_films


def findings(root: Path) -> list[Finding]:
    return check_dataset(root, workers=1)


def told(root: Path, rule: str) -> Finding:
    (found,) = [each for each in findings(root) if each.rule == rule]
    return found


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """A data set in which nothing is wrong."""
    root = write_films(tmp_path / "films", names=("a_seq1", "a_seq2", "b_seq1", "c_seq1", "d_seq1"))
    facts = {"labels": {"background": 0, "disk": 1, "square": 2}}
    (root / "dataset.json").write_text(json.dumps(facts))
    return root


def redraw(path: Path, picture: np.ndarray) -> None:
    Image.fromarray(picture).save(path)


def test_a_data_set_of_films_in_order_has_no_findings(films: Path) -> None:
    assert findings(films) == []


def test_frames_without_a_mask_are_counted_and_numbered(films: Path) -> None:
    write_clip(films / "videos/e", films / "masks/e", range(10), labelled=(0, 5, 6), start=9)
    found = told(films, "unlabelled-frames")
    assert (found.severity, found.case) == ("note", "e")
    assert found.message.startswith("7 of 10 frames have no mask (1 to 4, 7 to 9)")


def test_values_that_no_label_has_are_an_error(films: Path) -> None:
    redraw(films / "masks/b_seq1/0003.png", np.full(SIZE, 7, np.uint8))
    found = told(films, "label-values")
    assert (found.severity, found.case) == ("error", "b_seq1")
    assert "[7], declared are [0, 1, 2]" in found.message


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.zeros((20, 20), np.uint8), "20 x 20"),
        (frame(3)[0], "colour"),
    ],
)
def test_masks_that_do_not_fit_their_frames_are_an_error(films: Path, mask: np.ndarray, words: str) -> None:
    redraw(films / "masks/b_seq1/0003.png", mask)
    found = told(films, "masks")
    assert (found.severity, found.case) == ("error", "b_seq1")
    assert words in found.message


def test_a_mask_without_a_frame_is_an_error(films: Path) -> None:
    redraw(films / "masks/b_seq1/0017.png", np.zeros(SIZE, np.uint8))
    assert "17" in told(films, "masks").message


def test_a_frame_of_another_size_is_an_error_with_its_number(films: Path) -> None:
    redraw(films / "videos/b_seq1/0004.png", frame(0, (10, 12))[0])
    found = told(films, "unreadable")
    assert found.severity == "error"
    assert "frame 4" in found.message
    assert "10 x 12" in found.message


def test_a_film_that_holds_nothing_is_told_of(films: Path) -> None:
    (films / "videos" / "z").mkdir()
    (films / "masks" / "z").mkdir()
    redraw(films / "masks/z/0001.png", np.zeros(SIZE, np.uint8))
    found = told(films, "unreadable")
    assert found.case == "z"
    assert "the folder holds no frames" in found.message


def test_masks_of_background_alone_are_a_warning(films: Path) -> None:
    for path in (films / "masks/b_seq1").iterdir():
        redraw(path, np.zeros(SIZE, np.uint8))
    assert told(films, "empty-label").severity == "warning"


def test_grey_films_among_colour_ones_are_an_error(films: Path) -> None:
    write_clip(films / "videos/e", films / "masks/e", colour=False)
    assert "has 1 channels, the data set declares 3 (red, green, blue)" in told(films, "channels").message


def test_the_same_film_twice_is_told_of(films: Path) -> None:
    write_clip(films / "videos/e", films / "masks/e", start=2)  # as b_seq1
    assert "b_seq1, e" in told(films, "duplicate-image").message


def test_one_patient_on_both_sides_of_a_fold_is_an_error(films: Path) -> None:
    (films / "splits.json").write_text(json.dumps([{"train": ["a_seq1", "b"], "val": ["a_seq2"]}]))
    found = told(films, "same-patient")
    assert found.severity == "error"
    assert "a (a_seq1, a_seq2)" in found.message
    assert str(found.file).endswith("splits.json")


def test_a_film_of_one_frame_is_noted(films: Path) -> None:
    write_clip(films / "videos/e", films / "masks/e", (0,), start=9)
    assert told(films, "one-frame").severity == "note"
