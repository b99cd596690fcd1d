"""What a page says and shows of films."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medmamba.clip import UNLABELLED
from medmamba.errors import DataError
from medmamba.evaluation.films import FilmLabels, evaluate_films, score_film
from medmamba.evaluation.matching import Match
from medmamba.evaluation.page import player
from medmamba.evaluation.page.player import MOST_FRAMES, UNMASKED, Player, Sight, pack, shown_frames
from medmamba.evaluation.report import Report
from medmamba.evaluation.scores import Film, FrameScores
from tests.evaluation.page.factory import Parsed, parsed, unpacked
from tests.film_factory import TWO, moving

METRICS = ("frame_dice", "boundary_f", "flicker", "delay", "dice")
FILM = Film(numbers=(1, 2, 5, 9, 10, 30))


def reference() -> player.Values:
    """A frame of which has no mask."""
    values = moving()
    values[2] = UNLABELLED
    return values


def scored(name: str, shift: int, clips: int = 2) -> Report:
    cases = tuple(
        score_film(f"clip_{clip}", moving(shift=shift + clip), reference(), FILM, TWO, metrics=METRICS)
        for clip in range(clips)
    )
    return Report(labels=TWO, metrics=METRICS, cases=cases, name=name)


def look(clip: str) -> Sight:
    grey = np.stack([np.full((40, 48, 1), 20 * frame, dtype=np.uint8) for frame in range(6)])
    return Sight(pictures=lambda: grey, reference=reference(), predictions=(moving(shift=int(clip[-1])), None))


def facts(page: Parsed, number: int = 0) -> dict[str, object]:
    return dict(json.loads(page.scripts[f"film-{number}"]))


def packed(sight: Sight, most_bytes: int = 10**7) -> Player | None:
    return pack(sight, FILM, TWO, [[None, None]] * len(sight.predictions), most_bytes)


def test_page_has_a_player_and_curves_of_each_film(tmp_path: Path) -> None:
    page = parsed(scored("ours", 1), folder=tmp_path, look=look)
    assert page.unmatched == []
    assert page.attributes("data-film") == ["1", "0"]  # the worst first
    assert "Scored: 10 of 12 frames in 2 films; the others have no reference mask." in page.words
    assert "Worst, median and best films" in page.words
    labels = [label for label in page.attributes("aria-label") if " of clip_0" in label]
    assert labels == ["Dice of clip_0", "boundary F of clip_0", "area (pixels) of clip_0"]
    assert "frames.csv" in page.words
    assert "davis2017-evaluation" in page.words
    shown = facts(page)
    assert shown["numbers"] == [1, 2, 5, 9, 10, 30]
    assert (shown["first"], shown["frames"]) == (0, 6)
    assert len(page.scripts["film-0"]) < 20_000


def test_curves_have_a_gap_where_there_is_no_mask(tmp_path: Path) -> None:
    page = parsed(scored("ours", 1, clips=1), folder=tmp_path)
    lines = [facts for tag, facts in page.tags if tag == "polyline" and facts["class"] == "curve c0"]
    square = [str(facts["points"]).split() for facts in lines]
    assert [len(points) for points in square[:2]] == [2, 3]  # of Dice before and after the gap
    assert [len(points) for points in square[-1:]] == [6]  # the area of the prediction is known in every frame


def test_several_models_share_a_player_and_its_curves(tmp_path: Path) -> None:
    page = parsed(scored("ours", 1), scored("theirs", 3), folder=tmp_path, look=look)
    shown = facts(page)
    predictions = shown["predictions"]
    assert isinstance(predictions, list)
    assert [each is None for each in predictions] == [False, True]
    assert page.words.count("(mean over labels)") == 4
    assert "theirs · Dice over frames" in page.words


def test_masks_on_the_page_are_those_that_were_scored() -> None:
    made = packed(look("clip_1"))
    assert made is not None
    assert made.size == (40, 48)
    places = np.frombuffer(unpacked(made.reference), dtype=np.uint8).reshape(6, 40, 48)
    assert (places[2] == UNMASKED).all()
    assert (places[[0, 1, 3, 4, 5]] == reference()[[0, 1, 3, 4, 5]]).all()
    prediction = made.predictions[0]
    assert prediction is not None
    assert (np.frombuffer(unpacked(prediction), dtype=np.uint8).reshape(6, 40, 48) == moving(shift=1)).all()


def test_pictures_are_those_of_their_frames() -> None:
    made = packed(look("clip_0"))
    assert made is not None
    assert made.pictures is not None
    for frame, source in enumerate(made.pictures):
        data = base64.b64decode(source.removeprefix("data:image/webp;base64,"))
        assert np.asarray(Image.open(io.BytesIO(data))).mean() == pytest.approx(20 * frame, abs=3)


def test_large_films_become_smaller_until_they_fit() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (6, 400, 500, 3)).astype(np.uint8)
    values = moving(shape=(400, 500))
    sight = Sight(pictures=lambda: noise, reference=values, predictions=(values,))
    sizes = [made.size if made else None for made in (packed(sight), packed(sight, 500_000), packed(sight, 1000))]
    assert sizes == [(307, 384), (205, 256), None]


def test_long_films_are_stepped_through_around_their_worst_frame() -> None:
    frames = 2 * MOST_FRAMES
    dice = [1.0] * frames
    dice[frames - 5] = 0.2
    scores = FrameScores(
        dice=tuple(dice), boundary_f=tuple(dice), flicker=(None,) * frames, prediction_px=(1,) * frames,
        reference_px=(1,) * frames,
    )  # fmt: skip
    assert shown_frames([[scores, None]], frames) == slice(MOST_FRAMES, frames)
    assert shown_frames([[None]], frames) == slice(0, MOST_FRAMES)
    assert shown_frames([[scores]], 30) == slice(0, 30)


def test_film_without_prediction_is_shown_with_its_reference(tmp_path: Path) -> None:
    def read(clip: str, path: Path) -> FilmLabels:
        return FilmLabels(values=reference(), film=FILM)

    lost = evaluate_films([Match(id="clip_0", reference=tmp_path, prediction=None)], TWO, read, metrics=METRICS)
    page = parsed(
        lost, folder=tmp_path, look=lambda clip: Sight(pictures=None, reference=reference(), predictions=(None,))
    )
    shown = facts(page)
    assert shown["predictions"] == [None]
    assert shown["pictures"] is None
    assert "1 film without a usable prediction" in page.words


def test_page_without_files_has_curves_and_says_why_there_is_no_player(tmp_path: Path) -> None:
    def gone(clip: str) -> Sight:
        raise DataError(f"{clip} is damaged")

    def others(clip: str) -> Sight:
        return Sight(pictures=None, reference=moving(4), predictions=())

    for looking, words in (
        (None, "No player: the masks that the report was made of are not at hand."),
        (gone, "Some films have no player, as their files cannot be read any more"),
        (others, "their files are not those that were scored any more"),
    ):
        page = parsed(scored("ours", 1), folder=tmp_path, look=looking)
        assert words in page.words
        assert page.attributes("data-film") == []
        assert "Dice of clip_1" in page.attributes("aria-label")


def test_report_of_films_read_back_makes_the_same_page(tmp_path: Path) -> None:
    report = scored("ours", 1)
    report.save(tmp_path)
    again = parsed(Report.load(tmp_path), folder=tmp_path, look=look)
    assert again.words == parsed(report, folder=tmp_path, look=look).words
