"""A structure in a film, prediction against reference, and what its frames come to.

Letters: T frames, H rows, W columns. Frames without a reference mask are never counted: there is nothing to hold a
prediction against. Frames whose mask is empty are: somebody looked, and nothing was there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medmamba.clip import UNLABELLED
from medmamba.evaluation.boundary import boundary_f
from medmamba.evaluation.masks import Masks, count_voxels
from medmamba.evaluation.scores import FrameScores, ratio
from medmamba.evaluation.surface import Mask, same_shape
from medmamba.labels import Label


class Change(NamedTuple):
    """What changes from one frame to the next.

    Args:
        other: pixels whose prediction changes, and not as the reference does.
        held: pixels that prediction or reference have in one of both frames.
    """

    other: int
    held: int

    @property
    def share(self) -> float:
        """0 where the reference explains every change; NaN where nothing is there."""
        return ratio(self.other, self.held)


class Delay(NamedTuple):
    """When a structure is there, and when it is found: indices of frames.

    Args:
        appears: the first frame whose reference has it.
        found: the first one in which the prediction shares a pixel with it; None where none does.
    """

    appears: int
    found: int | None


@dataclass(frozen=True, kw_only=True)
class FilmMasks:
    """One structure in a film.

    Args:
        prediction: (T, H, W).
        reference: (T, H, W); what it holds in frames without a mask does not matter.
        masked: (T,) which frames have a reference mask.
        annotated: (T, H, W) the pixels that count; None where all of those frames do.
        times_s: T, since the first frame; None where they are not known.
        of_empty: the value of a frame in which both masks are empty.
    """

    prediction: Mask
    reference: Mask
    masked: NDArray[np.bool_]
    annotated: Mask | None = None
    times_s: Sequence[float] | None = None
    of_empty: float = math.nan

    def __post_init__(self) -> None:
        same_shape(self.prediction, self.reference)
        if self.prediction.ndim != 3 or self.masked.shape != self.prediction.shape[:1]:
            raise ValueError(f"masks are (T, H, W) and masked (T,), got {self.prediction.shape}, {self.masked.shape}")
        if self.times_s is not None and len(self.times_s) != len(self.masked):
            raise ValueError(f"{len(self.masked)} frames need as many times, got {len(self.times_s)}")

    @classmethod
    def of(
        cls,
        prediction: NDArray[Any],
        reference: NDArray[Any],
        label: Label,
        *,
        ignore: int | None = None,
        times_s: Sequence[float] | None = None,
        of_empty: float = math.nan,
    ) -> FilmMasks:
        """A structure out of label maps.

        Args:
            prediction: (T, H, W) values; frames without a mask hold nothing.
            reference: (T, H, W) values, `medmamba.clip.UNLABELLED` in frames without a mask.
            label: the structure.
            ignore: value of pixels of the reference that do not count; None where all do.
            times_s: as of `FilmMasks`.
            of_empty: likewise.

        Raises:
            ValueError: if shapes differ.
        """
        same_shape(prediction, reference)
        masked = (reference != UNLABELLED).any(axis=(1, 2))
        counts = reference != UNLABELLED if ignore is None else (reference != UNLABELLED) & (reference != ignore)
        ours, theirs = (np.isin(values, label.values) & counts for values in (prediction, reference))
        # Of frames without a mask the area of the prediction is told all the same.
        ours[~masked] = np.isin(prediction[~masked], label.values)
        annotated = None if counts[masked].all() else counts
        return cls(
            prediction=ours,
            reference=theirs,
            masked=masked,
            annotated=annotated,
            times_s=times_s,
            of_empty=of_empty,
        )

    @property
    def masks(self) -> Masks:
        """All frames with a mask together, for metrics that count pixels."""
        annotated = None if self.annotated is None else self.annotated[self.masked]
        return Masks(
            prediction=self.prediction[self.masked],
            reference=self.reference[self.masked],
            spacing_mm=(1.0, 1.0, 1.0),
            annotated=annotated,
        )

    @cached_property
    def dice(self) -> tuple[float, ...]:
        """Of each frame; NaN without a mask."""
        return self._of_frames(lambda prediction, reference: count_voxels(prediction, reference).dice)

    @cached_property
    def boundary_f(self) -> tuple[float, ...]:
        """Of each frame; NaN without a mask."""
        return self._of_frames(boundary_f)

    def _of_frames(self, measure: Callable[[Mask, Mask], float]) -> tuple[float, ...]:
        def of(frame: int) -> float:
            if not self.masked[frame]:
                return math.nan
            value = measure(self.prediction[frame], self.reference[frame])
            return self.of_empty if math.isnan(value) else value

        return tuple(map(of, range(len(self.masked))))

    @cached_property
    def changes(self) -> tuple[Change | None, ...]:
        """From the frame before to each; None where one of both has no mask, as of the first."""
        return (None, *(self._change(frame) for frame in range(1, len(self.masked))))

    def _change(self, frame: int) -> Change | None:
        both = slice(frame - 1, frame + 1)
        if not self.masked[both].all():
            return None
        prediction, reference = self.prediction[both], self.reference[both]
        counts = True if self.annotated is None else self.annotated[both].all(axis=0)
        wrong = (prediction != reference).any(axis=0)  # both right before and after is how the reference changes
        other = (prediction[0] != prediction[1]) & wrong & counts
        held = (prediction | reference).any(axis=0) & counts
        return Change(int(np.count_nonzero(other)), int(np.count_nonzero(held)))

    @cached_property
    def delay(self) -> Delay | None:
        """When it is there and when it is found; None where no frame with a mask has it."""
        there = (self.reference & self.masked[:, None, None]).any(axis=(1, 2))
        if not there.any():
            return None
        met = (self.prediction & self.reference)[self.masked].any(axis=(1, 2))
        found = np.flatnonzero(self.masked)[met]
        return Delay(int(there.argmax()), int(found[0]) if found.size else None)

    @property
    def scores(self) -> FrameScores:
        """Frame by frame, for tables and curves."""
        areas = self.prediction.sum(axis=(1, 2)), self.reference.sum(axis=(1, 2))
        return FrameScores(
            dice=_known(self.dice),
            boundary_f=_known(self.boundary_f),
            flicker=_known(math.nan if change is None else change.share for change in self.changes),
            prediction_px=tuple(map(int, areas[0])),
            reference_px=tuple(
                int(area) if masked else None for area, masked in zip(areas[1], self.masked, strict=True)
            ),
        )


def _known(values: Iterable[float]) -> tuple[float | None, ...]:
    return tuple(None if math.isnan(value) else value for value in values)


def frame_dice(film: FilmMasks) -> float:
    """Mean over frames of Dice; undefined ones are left out."""
    return _mean(film.dice)


def frame_boundary_f(film: FilmMasks) -> float:
    """Mean over frames of the boundary measure; undefined ones are left out."""
    return _mean(film.boundary_f)


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan


def flicker(film: FilmMasks) -> float:
    """Share of the pixels of a structure that change from frame to frame other than the reference does.

    Over all frames whose predecessor has a mask too, pixels taken together; NaN where there is none, or nothing in any.
    """
    known = [change for change in film.changes if change is not None]
    return Change(sum(change.other for change in known), sum(change.held for change in known)).share


def delay(film: FilmMasks) -> float:
    """Frames from when a structure is there to when it is found; infinite if it never is, NaN if it never is there."""
    if film.delay is None:
        return math.nan
    return math.inf if film.delay.found is None else float(film.delay.found - film.delay.appears)


def delay_s(film: FilmMasks) -> float:
    """Seconds likewise; NaN where the frames' times are not known."""
    if film.delay is None or film.times_s is None:
        return math.nan
    if film.delay.found is None:
        return math.inf
    return float(film.times_s[film.delay.found] - film.times_s[film.delay.appears])
