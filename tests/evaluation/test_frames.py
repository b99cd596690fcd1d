"""What the frames of a film come to: answers known by hand, and laws over every metric of films."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from medmamba.clip import UNLABELLED
from medmamba.errors import UsageError
from medmamba.evaluation.frames import FilmMasks
from medmamba.evaluation.masks import count_voxels
from medmamba.evaluation.metrics import OF_FILMS, expand, metric
from medmamba.labels import Label

ONE = Label(name="one", values=(1,))
Values = NDArray[np.int16]


def moving(frames: int = 6, classes: int = 1, seed: int = 0) -> Values:
    """(T, 32, 32) squares that wander, so that many pixels change from frame to frame."""
    rng = np.random.default_rng(seed)
    values = np.zeros((frames, 32, 32), dtype=np.int16)
    for frame in values:
        for label in range(1, classes + 1):
            row, column = rng.integers(0, 20, size=2)
            frame[row : row + 10, column : column + 10] = label
    return values


def measured(
    prediction: Values, reference: Values, *, ignore: int | None = None, of_empty: float = math.nan
) -> dict[str, float]:
    times = [0.5 * frame for frame in range(len(reference))]
    film = FilmMasks.of(prediction, reference, ONE, ignore=ignore, times_s=times, of_empty=of_empty)
    return {name: row.of_film(film) for name, row in OF_FILMS.items() if row.of_film}


@pytest.mark.parametrize("seed", range(3))
def test_reference_itself_is_perfect_however_much_it_moves(seed: int) -> None:
    reference = moving(seed=seed, classes=3)
    assert measured(reference, reference) == {name: OF_FILMS[name].best for name in OF_FILMS}


def test_frames_without_a_mask_change_nothing_and_empty_masks_count() -> None:
    reference = moving()
    prediction = np.roll(reference, 2, axis=1)
    with_gap = np.concatenate([reference, np.full((2, 32, 32), UNLABELLED, dtype=np.int16)])
    noise = np.concatenate([prediction, moving(2, seed=5)])
    assert measured(noise, with_gap) == measured(prediction, reference)
    with_empty = np.concatenate([reference, np.zeros((2, 32, 32), dtype=np.int16)])
    counted = measured(noise, with_empty)
    for name in ("frame_dice", "boundary_f"):
        assert counted[name] == pytest.approx(measured(prediction, reference)[name] * 6 / 8)


def test_frames_in_which_both_are_empty_are_left_out_or_perfect() -> None:
    reference = moving()
    reference[:3] = 0
    prediction = np.roll(reference, 2, axis=1)
    assert measured(prediction, reference)["frame_dice"] == measured(prediction[3:], reference[3:])["frame_dice"]
    perfect = measured(prediction, reference, of_empty=1.0)["frame_dice"]
    assert perfect == pytest.approx((3 + 3 * measured(prediction[3:], reference[3:])["frame_dice"]) / 6)
    nothing = measured(0 * prediction, 0 * reference)
    assert all(map(math.isnan, nothing.values()))


def test_dice_is_that_of_each_frame() -> None:
    reference = moving()
    prediction = np.roll(reference, 3, axis=2)
    film = FilmMasks.of(prediction, reference, ONE)
    by_frame = [count_voxels(a == 1, b == 1).dice for a, b in zip(prediction, reference, strict=True)]
    assert list(film.dice) == by_frame
    assert film.masks.voxels.dice == count_voxels(prediction == 1, reference == 1).dice


def test_flicker_is_what_changes_and_the_reference_does_not() -> None:
    still = np.zeros((5, 8, 8), dtype=np.int16)
    still[:, 2:6, 2:6] = 1
    blinking = still.copy()
    blinking[1::2] = 0
    assert measured(blinking, still)["flicker"] == 1
    assert measured(0 * still, still)["flicker"] == 0
    one_row = still.copy()
    one_row[2, 5] = 0  # 4 of 16 pixels go and come back: two of four changes
    assert measured(one_row, still)["flicker"] == (4 + 4) / (4 * 16)


@pytest.mark.parametrize("seed", range(3))
def test_flicker_is_that_of_pixels_counted_one_by_one(seed: int) -> None:
    reference, prediction = moving(5, seed=seed), moving(5, seed=seed + 10)
    reference[3] = UNLABELLED
    reference[:, :4, :4] = np.where(reference[:, :4, :4] < 0, UNLABELLED, 9)
    other = held = 0
    for before, after in ((0, 1), (1, 2)):
        for row, column in np.ndindex(32, 32):
            there = [int(reference[frame, row, column]) for frame in (before, after)]
            said = [int(prediction[frame, row, column]) for frame in (before, after)]
            if 9 in there:
                continue
            held += 1 in there or 1 in said
            other += (said[0] == 1) != (said[1] == 1) and [each == 1 for each in said] != [each == 1 for each in there]
    assert measured(prediction, reference, ignore=9)["flicker"] == other / held


def test_flicker_counts_a_change_that_goes_against_that_of_the_reference() -> None:
    reference, prediction = np.zeros((2, 2, 4, 4), dtype=np.int16)
    reference[1, 0], prediction[0, 0] = 1, 1
    assert measured(prediction, reference)["flicker"] == 1
    prediction[:] = 0
    prediction[1, :2] = 1  # one row as the reference, one that comes by itself
    assert measured(prediction, reference)["flicker"] == 4 / 8


def test_flicker_is_undefined_without_successive_masks() -> None:
    reference = moving()
    reference[1::2] = UNLABELLED
    assert math.isnan(measured(moving(seed=3), reference)["flicker"])


def test_delay_goes_from_what_is_there_to_what_is_found() -> None:
    reference = moving(8)
    reference[:2] = 0
    prediction = reference.copy()
    prediction[:5] = 0
    prediction[0, 0, 0] = 1  # a false alarm finds nothing
    found = measured(prediction, reference)
    assert (found["delay"], found["delay_s"]) == (3, 1.5)
    assert measured(reference, reference)["delay"] == 0
    assert measured(0 * reference, reference)["delay"] == math.inf
    assert math.isnan(measured(reference, 0 * reference)["delay"])
    reference[5] = UNLABELLED  # nobody can tell whether it was found there
    assert measured(prediction, reference)["delay"] == 4


def test_pixels_to_ignore_are_in_no_mask_and_no_change() -> None:
    reference = moving()
    prediction = reference.copy()
    reference[2, :, :16] = 9
    prediction[2, :, :16] = 1
    assert measured(prediction, reference, ignore=9) == {name: OF_FILMS[name].best for name in OF_FILMS}


def test_table_of_frames_says_the_area_also_where_there_is_no_mask() -> None:
    reference = moving(3)
    reference[1] = UNLABELLED
    scores = FilmMasks.of(moving(3), reference, ONE).scores
    assert scores.prediction_px == (100, 100, 100)
    assert scores.reference_px == (100, None, 100)
    assert scores.dice == (1, None, 1)
    assert scores.flicker == (None, None, None)


def test_films_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="same shape"):
        FilmMasks.of(moving(3), moving(4), ONE)
    with pytest.raises(ValueError, match="3 frames need as many times"):
        FilmMasks.of(moving(3), moving(3), ONE, times_s=(0.0, 1.0))


@pytest.mark.parametrize("name", OF_FILMS)
def test_metrics_of_films_are_refused_of_single_images(name: str) -> None:
    assert metric(name).of_film is not None
    with pytest.raises(UsageError, match=f"'{name}' is measured of films"):
        expand([name])
