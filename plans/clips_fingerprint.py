"""What is measured about films: size, length, rate, intensities, shares of the labels, and how much moves."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medmamba.case import Case, Dataset
from medmamba.clip import UNLABELLED
from medmamba.engines import all_done, map_cases, suited
from medmamba.errors import DataError
from medmamba.files import signature
from medmamba.io.clips import open_clip, open_clip_masks
from medmamba.labels import Labels
from medmamba.plans.intensities import Sample, statistics
from medmamba.plans.plan import IntensityStatistics
from medmamba.progress import Progress, silent
from medmamba.records import from_json, read_json, to_json, write_json

SCHEMA = 1
#: Pixels of a frame whose intensities are kept, at most, on an even grid.
FRAME_PIXELS = 4000
#: Intensities that differ by more than this share of the film's range are changed.
CHANGED = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipFingerprint:
    """What was measured about one clip.

    Args:
        id: of the case.
        size: rows and columns of a frame.
        frames: how many.
        rate: frames a second; None where it is not known.
        spacing_mm: of a pixel; None where it is not known.
        labelled: frames with a mask.
        label_pixels: how often each value occurs in the masks.
        motion: share of pixels whose label changes from a frame to the next one, where both are labelled; None where
            none are.
        flicker: share of pixels whose intensity does; None of a single frame.
        source: signature of its files, see `clip_signature`.
    """

    id: str
    size: tuple[int, int]
    frames: int
    rate: float | None
    spacing_mm: tuple[float, float] | None
    labelled: int
    label_pixels: dict[str, int]
    motion: float | None
    flicker: float | None
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipsFingerprint:
    """What was measured about the clips of a data set, in its order, and of all pixels of each channel."""

    dataset: str
    dataset_root: str
    channels: tuple[str, ...]
    clips: tuple[ClipFingerprint, ...]
    intensities: tuple[IntensityStatistics, ...]
    schema: int = SCHEMA

    @classmethod
    def load(cls, path: Path) -> ClipsFingerprint:
        """Read a fingerprint.

        Raises:
            FileNotFoundError: if there is no such file.
            DataError: if it is not a fingerprint of clips.
        """
        return from_json(cls, read_json(path), str(path))

    def save(self, path: Path) -> None:
        """Write the fingerprint as readable JSON."""
        write_json(to_json(self), path)

    def describes(self, dataset: Dataset) -> bool:
        """Whether these are the measurements of the data set's clips as they are on disk now."""
        measured = {clip.id: clip.source for clip in self.clips}
        return self.channels == dataset.channels and measured == {
            case.id: clip_signature(case) for case in dataset.training
        }


def clip_signature(case: Case) -> str:
    """Twelve hexadecimal digits that change when a frame or mask is exchanged, edited, added or taken away.

    Raises:
        FileNotFoundError: if a file is gone.
    """
    files = [
        file for path in case.files for file in (sorted(path.iterdir()) if path.is_dir() else [path]) if file.is_file()
    ]
    facts = [(file.parent.name, file.name, signature(file)) for file in files]
    text = "\n".join(f"{folder}\0{name}\0{one.size}\0{one.changed_ns}" for folder, name, one in facts)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:12]


def clips_fingerprint(dataset: Dataset, progress: Progress = silent, *, workers: int | None = None) -> ClipsFingerprint:
    """Measure the clips of a data set.

    Raises:
        FileNotFoundError: if a file is missing.
        DataError: if there are no clips, clips cannot be measured, each with the reason, or no mask has any foreground.
    """
    cases = dataset.training
    if not cases:
        raise DataError(f"{dataset.root} has no clips with masks: there is nothing to learn from")
    function = partial(_measure, channels=dataset.channels, labels=dataset.labels)
    outcomes = map_cases(
        function, cases, suited(len(cases), at_most=workers), title="Measuring clips", progress=progress
    )
    found = all_done(cases, outcomes, "measured")
    if not any(int(value) for each in found for value in each.clip.label_pixels):
        raise DataError(f"no mask of {dataset.root} has a pixel of foreground: there is nothing to learn")
    return ClipsFingerprint(
        dataset=dataset.name,
        dataset_root=str(dataset.root),
        channels=dataset.channels,
        clips=tuple(each.clip for each in found),
        intensities=tuple(
            statistics([each.samples[channel] for each in found]) for channel in range(len(dataset.channels))
        ),
    )


class _Measurement(NamedTuple):
    clip: ClipFingerprint
    samples: tuple[Sample, ...]


def _measure(case: Case, channels: tuple[str, ...], labels: Labels) -> _Measurement:
    (path,), label = case.images, case.label
    assert label is not None
    with open_clip(path) as reader:
        info = reader.info
        if info.channels != len(channels):
            raise DataError(f"it has {info.channels} channels, the data set has {len(channels)}: {', '.join(channels)}")
        step = max(1, int(np.sqrt(info.size[0] * info.size[1] / FRAME_PIXELS)))
        pixels = np.stack([frame.pixels[::step, ::step].reshape(-1, info.channels) for frame in reader])
    with open_clip_masks(label, reader, labels) as masks:
        marks = _marks(masks)
    return _Measurement(
        ClipFingerprint(
            id=case.id,
            size=info.size,
            frames=len(pixels),
            rate=None if info.rate is None else float(info.rate),
            spacing_mm=info.spacing_mm,
            labelled=marks.labelled,
            label_pixels={str(value): count for value, count in sorted(marks.pixels.items())},
            motion=_mean(marks.changes),
            flicker=_mean(_changes(pixels)),
            source=clip_signature(case),
        ),
        tuple(_sample(pixels[..., channel]) for channel in range(info.channels)),
    )


class _Marks(NamedTuple):
    """Of masks: frames that have one, pixels of each value, and changes where a frame and the one before have one."""

    labelled: int
    pixels: Counter[int]
    changes: list[float]


def _marks(masks: Iterable[NDArray[np.int16]]) -> _Marks:
    pixels, changes, labelled = Counter[int](), list[float](), 0
    before = None
    for mask in masks:
        marked = mask != UNLABELLED
        values, counts = np.unique(mask[marked], return_counts=True)
        pixels.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        now = mask if marked.any() else None
        labelled += now is not None
        if now is not None and before is not None:
            changes.append(float((now != before).mean()))
        before = now
    return _Marks(labelled, pixels, changes)


def _changes(pixels: NDArray[Any]) -> list[Any]:
    """(T, N, C) to the share of N pixels, T - 1 times, of which a channel changes by much."""
    low, high = float(pixels.min()), float(pixels.max())
    limit = CHANGED * (high - low)
    return [(np.abs(one.astype(np.float32) - two) > limit).any(axis=-1).mean() for one, two in pairwise(pixels)]


def _mean(shares: Sequence[Any]) -> float | None:
    return float(np.mean(shares)) if len(shares) else None


def _sample(intensities: NDArray[Any]) -> Sample:
    values, counts = np.unique(intensities, return_counts=True)
    return Sample(values.astype(np.float32), counts.astype(np.int64))
