"""Masks of films held against their references, clip by clip.

A frame of the prediction belongs to the frame of the reference that bears its number. Nothing is resampled. As with
single images, what is wrong with one clip never stops the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmamba.clip import UNLABELLED
from medmamba.engines import Engine, Failure, Here, map_cases
from medmamba.errors import DataError, UsageError
from medmamba.evaluation.frames import FilmMasks
from medmamba.evaluation.matching import Match
from medmamba.evaluation.metrics import COUNTING, OF_FILMS, STANDARD_OF_FILMS, Metric, metric
from medmamba.evaluation.report import NO_PREDICTION, Report
from medmamba.evaluation.scores import CaseScore, Film, LabelScore, Origin, Policy, Status
from medmamba.files import in_words
from medmamba.labels import Labels
from medmamba.progress import Progress, silent

#: So many frames are named that a prediction lacks.
NAMED = 5
Values = NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FilmLabels:
    """Label maps of a film as they were read.

    Args:
        values: (T, H, W), `medmamba.clip.UNLABELLED` in frames without a mask.
        film: what the frames are called.

    Raises:
        DataError: if there is no frame, or these are not as many as numbers.
    """

    values: Values
    film: Film

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or not len(self.values) or len(self.values) != len(self.film.numbers):
            raise DataError(
                f"masks of a film are frames of rows and columns, at least one, got {self.values.shape} for "
                f"{len(self.film.numbers)} numbers"
            )

    @property
    def masked(self) -> NDArray[np.bool_]:
        """(T,) which frames have a mask."""
        return np.asarray((self.values != UNLABELLED).any(axis=(1, 2)))


#: What reads masks of a clip, by its id and where they lie.
Reading = Callable[[str, Path], FilmLabels]


def evaluate_films(
    pairs: Sequence[Match],
    labels: Labels,
    read: Reading,
    *,
    metrics: Sequence[str] = STANDARD_OF_FILMS,
    policy: Policy | None = None,
    extra: Sequence[Path] = (),
    origin: Origin | None = None,
    name: str = "",
    engine: Engine | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Report:
    """Score every clip.

    Args:
        pairs: files or folders of masks, of the reference and the prediction.
        labels: the structures to score. Pixels with the ignore value in the reference count in neither mask.
        read: the masks of one clip.
        metrics: of `medmamba.evaluation.metrics.OF_FILMS` and `COUNTING`. Without times in any clip, what is told in
            seconds is left out.
        policy: as for `medmamba.evaluation.evaluate.evaluate`; frames in which both masks are empty follow ``empty``.
        extra: predictions without a reference, to be mentioned.
        origin: where the masks come from.
        name: of the predictions.
        engine: where clips are worked on; None for this process.
        seed: of the bootstrap.
        progress: told after each clip.

    Raises:
        UsageError: for a metric that is none of films.
        ValueError: when there is nothing to compare.
    """
    names = tuple(dict.fromkeys(metrics))
    known = (*OF_FILMS, *COUNTING)
    if not names or not set(names) <= set(known):
        asked = ", ".join(each for each in names if each not in known) or "nothing"
        raise UsageError(f"films are measured by {', '.join(known)}, and not by {asked}; name some of these")
    if not pairs:
        raise ValueError("there is no reference to compare with")
    policy = policy or Policy()
    function = partial(_score_pair, read=read, asked=_Asked(labels=labels, metrics=names, policy=policy))
    outcomes = map_cases(function, pairs, engine or Here(), title="Comparing films", progress=progress)
    cases = [
        CaseScore(id=pair.id, status="failed", notes=(outcome.reason,)) if isinstance(outcome, Failure) else outcome
        for pair, outcome in zip(pairs, outcomes, strict=True)
    ]
    report = Report(
        labels=labels,
        metrics=names,
        cases=tuple(sorted(cases, key=lambda case: case.id)),
        extra_predictions=tuple(path.name for path in extra),
        seed=seed,
        policy=policy,
        origin=origin or Origin(),
        name=name,
    )
    timed = any(case.film and case.film.times_s for case in cases)
    return report if timed else report.only([each for each in names if metric(each).unit != "s"] or names)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What is to be measured, and by which policy."""

    labels: Labels
    metrics: tuple[str, ...]
    policy: Policy

    @property
    def of_empty(self) -> float:
        """What a share is where both masks are empty."""
        return 1.0 if self.policy.empty == "perfect" else math.nan


def _score_pair(pair: Match, read: Reading, asked: _Asked) -> CaseScore:
    try:
        reference = read(pair.id, pair.reference)
        _check_reference(pair, reference, asked.labels)
    except (DataError, OSError) as error:
        return CaseScore(id=pair.id, status="failed", notes=(f"reference: {in_words(error)}",))
    if pair.prediction is None:
        status: Status = "skipped" if asked.policy.missing == "skip" else "missing"
        return _unusable(pair, NO_PREDICTION, reference, asked, status)
    try:
        prediction = read(pair.id, pair.prediction)
        ours, theirs, film = aligned(prediction, reference)
    except (DataError, OSError) as error:
        return _unusable(pair, f"prediction: {in_words(error)}", reference, asked)
    return score_film(pair.id, ours, theirs, film, asked.labels, metrics=asked.metrics, policy=asked.policy)


def score_film(
    clip: str,
    prediction: Values,
    reference: Values,
    film: Film,
    labels: Labels,
    *,
    metrics: Sequence[str] = STANDARD_OF_FILMS,
    policy: Policy | None = None,
) -> CaseScore:
    """Score one clip.

    Args:
        clip: what it is called.
        prediction: (T, H, W).
        reference: likewise, `medmamba.clip.UNLABELLED` in frames without a mask.
        film: what the frames are called.
        labels: the structures.
        metrics: as for `evaluate_films`.
        policy: likewise.

    Raises:
        ValueError: if shapes differ.
    """
    asked = _Asked(labels=labels, metrics=tuple(metrics), policy=policy or Policy())
    masked = int(FilmLabels(values=reference, film=film).masked.sum())
    notes = (f"{masked} of {len(reference)} frames have a reference mask; the others do not count",)
    return CaseScore(
        id=clip,
        status="scored",
        notes=notes if masked < len(reference) else (),
        scores=_scores(prediction, reference, film, asked),
        film=film,
    )


def aligned(prediction: FilmLabels, reference: FilmLabels) -> tuple[Values, Values, Film]:
    """Both on the frames of the prediction, the reference's by their numbers.

    Where a source has no numbers of its own, frames are counted from 0; then as many frames are the same frames.

    Returns:
        (T, H, W) of the prediction and of the reference, and what the frames are called.

    Raises:
        DataError: if pictures differ in size, or the prediction lacks a frame that has a reference mask.
    """
    if prediction.values.shape[1:] != reference.values.shape[1:]:
        sizes = " and not ".join("{1} x {2}".format(*each.values.shape) for each in (prediction, reference))
        raise DataError(f"frames of {sizes} pixels as in the reference; write masks in the film's own size")
    times = prediction.film.times_s or reference.film.times_s
    spacing = prediction.film.spacing_mm or reference.film.spacing_mm
    ours, theirs = prediction.film.numbers, reference.film.numbers
    counted = tuple(range(len(ours)))
    if len(ours) == len(theirs) and counted in (ours, theirs):
        numbers = theirs if ours == counted else ours
        _check_masked(prediction.masked | ~reference.masked, numbers)
        return prediction.values, reference.values, Film(numbers=numbers, times_s=times, spacing_mm=spacing)
    place = {number: row for row, number in enumerate(ours)}
    there = np.array([number in place for number in theirs])
    _check_masked(there | ~reference.masked, theirs)
    on_frames = np.full(prediction.values.shape, UNLABELLED, dtype=reference.values.dtype)
    on_frames[[place[number] for number, known in zip(theirs, there, strict=True) if known]] = reference.values[there]
    film = Film(numbers=ours, times_s=prediction.film.times_s, spacing_mm=spacing)
    _check_masked(prediction.masked | (on_frames == UNLABELLED).all(axis=(1, 2)), ours)
    return prediction.values, on_frames, film


def _check_masked(fine: NDArray[np.bool_], numbers: Sequence[int]) -> None:
    """Refuse a prediction that lacks frames."""
    lacking = [number for number, good in zip(numbers, fine, strict=True) if not good]
    if lacking:
        more = f" and {len(lacking) - NAMED} more" if len(lacking) > NAMED else ""
        listed = ", ".join(map(str, lacking[:NAMED]))
        raise DataError(f"no mask for frames {listed}{more}, which have one in the reference; predict the whole film")


def _check_reference(pair: Match, reference: FilmLabels, labels: Labels) -> None:
    """Refuse a reference with values that mean nothing, or with no mask at all."""
    if not reference.masked.any():
        raise DataError(f"no frame of {pair.reference} has a mask; give masks for some")
    known = np.array([UNLABELLED, *labels.allowed_values])
    unknown = np.setdiff1d(reference.values, known)
    if unknown.size:
        frame = int(np.isin(reference.values, unknown[:1]).any(axis=(1, 2)).argmax())
        raise DataError(
            f"undeclared label {int(unknown[0])} in frame {reference.film.numbers[frame]} of the reference of "
            f"{pair.id}; declared are {', '.join(map(str, labels.allowed_values))}; correct {pair.reference} or the "
            "labels"
        )


def _scores(prediction: Values, reference: Values, film: Film, asked: _Asked) -> tuple[LabelScore, ...]:
    made = []
    for label in asked.labels.foreground:
        masks = FilmMasks.of(
            prediction,
            reference,
            label,
            ignore=asked.labels.ignore,
            times_s=film.times_s,
            of_empty=asked.of_empty,
        )
        values = tuple(_measure(metric(name), masks, asked) for name in asked.metrics)
        made.append(LabelScore(label=label.name, values=values, voxels=masks.masks.voxels, frames=masks.scores))
    return tuple(made)


def _measure(row: Metric, masks: FilmMasks, asked: _Asked) -> float:
    """The metric's value; of those that count pixels what the policy says of two empty masks, and of a missed one."""
    if row.of_film:
        return row.of_film(masks)
    value = row.measure(masks.masks)
    if not math.isnan(value):
        return value
    return row.worst if masks.masks.voxels.either else asked.of_empty


def _unusable(pair: Match, reason: str, reference: FilmLabels, asked: _Asked, status: Status = "failed") -> CaseScore:
    """A clip whose prediction cannot be used: the worst values, but for what is undefined of an empty one."""
    if asked.policy.missing != "fail":
        return CaseScore(id=pair.id, status=status, notes=(reason,), film=reference.film)
    nothing = np.zeros_like(reference.values)
    of_nothing = _scores(nothing, reference.values, reference.film, asked)
    rows = [metric(name) for name in asked.metrics]

    def worst(score: LabelScore) -> LabelScore:
        values = tuple(
            math.nan if row.own_policy and math.isnan(value) else row.worst
            for row, value in zip(rows, score.values, strict=True)
        )
        return LabelScore(label=score.label, values=values)

    scores = tuple(map(worst, of_nothing))
    return CaseScore(id=pair.id, status=status, notes=(reason,), scores=scores, film=reference.film)
