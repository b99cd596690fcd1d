"""Predicted masks of films, and the data set of films that they are held against."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medmamba import io
from medmamba.case import Case, Dataset, some
from medmamba.engines import suited
from medmamba.errors import DataError
from medmamba.evaluation.films import FilmLabels, evaluate_films
from medmamba.evaluation.matching import Match, Matches, labels_of
from medmamba.evaluation.metrics import STANDARD_OF_FILMS
from medmamba.evaluation.origin import origin as origin_of
from medmamba.evaluation.report import Report
from medmamba.evaluation.scores import Film, Policy
from medmamba.io.clips import open_clip, read_clip_masks
from medmamba.io.clips.overlay import as_bytes
from medmamba.io.layouts import Folder
from medmamba.io.layouts.clips import CLIP_LAYOUTS
from medmamba.io.layouts.names import split_ending
from medmamba.progress import Progress, silent

#: Files of masks; a folder of pictures is one as well.
SUFFIXES = (".tif", ".tiff", ".nii", ".nii.gz", ".dcm")


def films_of(reference: Path) -> Path | None:
    """The data set of films that a folder is, or holds the masks of; None where it is no such thing."""
    for place in (reference, reference.parent):
        if place.is_dir() and any(layout.recognises(Folder(place)) for layout in CLIP_LAYOUTS):
            return place
    return None


@dataclass(frozen=True, slots=True)
class FilmFiles:
    """Reads masks of films, and the films.

    Args:
        films: by the id of the clip.
    """

    films: dict[str, Path]

    @classmethod
    def of(cls, cases: Sequence[Case]) -> FilmFiles:
        """Those of a data set."""
        return cls({case.id: case.images[0] for case in cases})

    def __call__(self, clip: str, path: Path) -> FilmLabels:
        """The masks of a clip, on all frames of its film.

        Raises:
            DataError: if film or masks cannot be read, or do not belong together.
            OSError: if one is not there.
        """
        with open_clip(self.films[clip]) as reader:
            told = [(frame.number, frame.time_s) for frame in reader]
        times = [float(time) for _, time in told if time is not None]
        film = Film(
            numbers=tuple(number for number, _ in told),
            times_s=tuple(times) if len(times) == len(told) else None,
            spacing_mm=reader.info.spacing_mm,
        )
        return FilmLabels(values=read_clip_masks(path, reader), film=film)

    def pictures(self, clip: str) -> Iterator[NDArray[np.uint8]]:
        """The frames as they are shown, (H, W, 3).

        Raises:
            DataError: if the film cannot be read.
            OSError: if it is not there.
        """
        with open_clip(self.films[clip]) as reader:
            for frame in reader:
                yield as_bytes(frame.pixels)


def match_films(prediction: Path, cases: Sequence[Case]) -> Matches:
    """Find the predicted masks of each film that has a reference, by the film's name.

    Args:
        prediction: folder with a folder of pictures, or a file, for each film.
        cases: of a data set of films.

    Raises:
        DataError: if there are no masks, or none of any of these films.
    """
    inside = sorted(prediction.iterdir()) if prediction.is_dir() else []
    found = {
        split_ending(path)[0]: path
        for path in inside
        if not path.name.startswith(".") and (path.is_dir() or path.name.lower().endswith(SUFFIXES))
    }
    known = {case.id: case.label for case in cases if case.label is not None}
    if not found.keys() & known.keys():
        there = f"it holds {some(sorted(found))}" if found else "it holds no folder and no file of masks"
        raise DataError(
            f"{prediction} has masks of none of the films {some(sorted(known))}; {there}; masks bear the name of their "
            "film"
        )
    pairs = tuple(Match(id=clip, reference=label, prediction=found.get(clip)) for clip, label in sorted(known.items()))
    return Matches(pairs=pairs, extra=tuple(path for name, path in found.items() if name not in known))


def evaluate_film_files(
    prediction: Path,
    reference: Path,
    *,
    labels: str = "",
    metrics: Sequence[str] = (),
    policy: Policy | None = None,
    name: str = "",
    workers: int = 1,
    progress: Progress = silent,
) -> tuple[Report, Matches]:
    """Match predicted masks with films of a data set, and score every clip.

    Args:
        prediction: folder of masks.
        reference: a data set of films, or its folder of masks.
        labels: a data set or dataset.json with names of labels; empty for those of the films.
        metrics: of films; with none, `STANDARD_OF_FILMS`.
        policy: as for `medmamba.evaluation.evaluate.evaluate`.
        name: likewise.
        workers: clips worked on at the same time.
        progress: told after each clip.

    Returns:
        The report, and what was compared with what.

    Raises:
        DataError: if this is no data set of films, or nothing belongs together.
        UsageError: for a metric that is none of films.
    """
    dataset = dataset_of_films(reference)
    matches = match_films(prediction, dataset.training)
    report = evaluate_films(
        matches.pairs,
        labels_of(Path(labels)) if labels else dataset.labels,
        FilmFiles.of(dataset.training),
        metrics=metrics or STANDARD_OF_FILMS,
        policy=policy,
        extra=matches.extra,
        origin=origin_of(prediction, reference),
        name=name,
        engine=suited(len(matches.pairs), at_most=workers),
        progress=progress,
    )
    return report, matches


def dataset_of_films(reference: Path) -> Dataset:
    """The data set that a folder is, or holds the masks of.

    Raises:
        DataError: if it is none of films.
    """
    place = films_of(reference)
    if place is None:
        raise DataError(f"{reference} is no data set of films, and no folder of the masks of one; see datasets.md")
    return io.open_dataset(place)
