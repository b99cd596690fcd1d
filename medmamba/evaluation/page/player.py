"""A film for the page's player: pictures a frame each, masks a byte a pixel and gzipped, and what each frame scored."""

from __future__ import annotations

import base64
import gzip
import io as streams
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medmamba.clip import UNLABELLED
from medmamba.evaluation.films import Values
from medmamba.evaluation.page.scene import places_of
from medmamba.evaluation.scores import Film, FrameScores
from medmamba.labels import Labels

#: What a mask holds in frames that have none: no place of a label, of which there are at most as many.
UNMASKED = 255
#: So many frames in a row can be stepped through; of a longer film those around the worst.
MOST_FRAMES = 600
#: The longer side of a picture, in pixels, and of those that take the place of ones that would take too much.
SIDES = (384, 256, 160)
QUALITY = 72
#: Colours of labels, by Okabe and Ito and by Tol, none of which is one of an error's; more labels share them.
COLOURS = (
    (230, 159, 0), (0, 114, 178), (68, 170, 153), (204, 121, 167),
    (136, 34, 85), (153, 153, 51), (102, 85, 180), (221, 204, 119),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sight:
    """What there is to be seen of a clip.

    Args:
        pictures: gives the frames, (H, W, C) of one channel or three, as often as it is asked; None where the film is
            not at hand.
        reference: (T, H, W) values, `medmamba.clip.UNLABELLED` in frames without a mask.
        predictions: likewise, one per report; None where there is none.
    """

    pictures: Callable[[], Iterable[NDArray[np.uint8]]] | None
    reference: Values
    predictions: tuple[Values | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Player:
    """A clip on the page.

    Args:
        numbers: of the frames that can be looked at.
        times_s: likewise; None where they are not known.
        first: which of the film's frames the first one is.
        frames: how many the film has.
        size: (H, W) of pictures and masks.
        pictures: a data URL for each frame; None where the film is not at hand.
        reference: each pixel's place among the labels' allowed values, `UNMASKED` in frames without a mask.
        predictions: likewise, one per report; None where there is none.
        scores: of each report and label, the values of each of these frames; None where there are none.
        colours: of each label.
    """

    numbers: tuple[int, ...]
    times_s: tuple[float, ...] | None
    first: int
    frames: int
    size: tuple[int, int]
    pictures: tuple[str, ...] | None
    reference: str
    predictions: tuple[str | None, ...]
    scores: tuple[tuple[FrameScores | None, ...], ...]
    colours: tuple[tuple[int, int, int], ...]

    def to_json(self) -> dict[str, Any]:
        """For the page's script."""
        return asdict(self)

    @property
    def bytes(self) -> int:
        """What pictures and masks take."""
        masks = (self.reference, *(part for part in self.predictions if part is not None))
        return sum(map(len, (*masks, *(self.pictures or ()))))


def pack(
    sight: Sight,
    film: Film,
    labels: Labels,
    scores: Sequence[Sequence[FrameScores | None]],
    most_bytes: int,
) -> Player | None:
    """A clip for the player, as large as fits; None where it does not at any size.

    Args:
        sight: pictures and masks.
        film: what the frames are called.
        labels: what the values mean; up to 254 of them can be told apart.
        scores: of each report and label.
        most_bytes: it may take.

    Raises:
        ValueError: if pictures, masks and scores are not of the same frames.
    """
    masks = [sight.reference, *(each for each in sight.predictions if each is not None)]
    if any(each.shape != sight.reference.shape for each in masks) or len(sight.reference) != len(film.numbers):
        raise ValueError(f"masks of one film have one shape, got {[each.shape for each in masks]}")
    if len(labels.allowed_values) >= UNMASKED:
        return None
    shown = shown_frames(scores, len(film.numbers))
    for side in SIDES:
        made = _packed(sight, film, labels, scores, shown, side)
        if made.bytes <= most_bytes:
            return made
    return None


def shown_frames(scores: Sequence[Sequence[FrameScores | None]], frames: int) -> slice:
    """Frames to step through: all, or as many as there may be around the one with the worst Dice."""
    if frames <= MOST_FRAMES:
        return slice(0, frames)
    dice = [(value, frame) for labels in scores for each in labels if each for frame, value in enumerate(each.dice)
            if value is not None]  # fmt: skip
    worst = min(dice)[1] if dice else 0
    first = min(max(worst - MOST_FRAMES // 2, 0), frames - MOST_FRAMES)
    return slice(first, first + MOST_FRAMES)


def _packed(
    sight: Sight,
    film: Film,
    labels: Labels,
    scores: Sequence[Sequence[FrameScores | None]],
    shown: slice,
    side: int,
) -> Player:
    rows, columns = (_kept(size, side, max(sight.reference.shape[1:])) for size in sight.reference.shape[1:])
    size = (len(rows), len(columns))
    frames = None if sight.pictures is None else islice(sight.pictures(), shown.start, shown.stop)

    def masks(values: Values) -> str:
        part = values[shown][:, rows][:, :, columns]
        places = np.where(part == UNLABELLED, UNMASKED, places_of(part, labels))
        return base64.b64encode(gzip.compress(places.astype(np.uint8).tobytes(), 9, mtime=0)).decode()

    return Player(
        numbers=film.numbers[shown],
        times_s=None if film.times_s is None else film.times_s[shown],
        first=shown.start,
        frames=len(film.numbers),
        size=size,
        pictures=None if frames is None else tuple(_data_url(each, size) for each in frames),
        reference=masks(sight.reference),
        predictions=tuple(None if each is None else masks(each) for each in sight.predictions),
        scores=tuple(tuple(None if each is None else each.of(shown) for each in labels) for labels in scores),
        colours=tuple(COLOURS[number % len(COLOURS)] for number in range(len(labels.foreground))),
    )


def _kept(size: int, side: int, longer: int) -> NDArray[np.intp]:
    """Which rows or columns of a mask stay: those in the middles of as many equal parts."""
    count = size if longer <= side else max(1, round(size * side / longer))
    return ((np.arange(count) + 0.5) * size / count).astype(np.intp)


def _data_url(picture: NDArray[np.uint8], size: tuple[int, int]) -> str:
    whole = Image.fromarray(picture if picture.shape[-1] == 3 else picture[..., 0])
    small = whole if whole.size == size[::-1] else whole.resize(size[::-1], Image.Resampling.BOX)
    buffer = streams.BytesIO()
    small.convert("RGB").save(buffer, "WEBP", quality=QUALITY, method=2)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
