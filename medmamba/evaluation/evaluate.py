"""Hold predictions against references, case by case, and count what could not be held.

Nothing is resampled: a prediction has to lie on its reference's grid. What is wrong with one case never stops the
others; it is listed, and by default a case without a usable prediction gets the worst values instead of vanishing
from the mean. So does a structure that was missed altogether, also in metrics that are undefined for it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medmamba import io
from medmamba.engines import Failure, map_cases, suited
from medmamba.errors import DataError
from medmamba.evaluation.metrics import METRICS, Masks, Metric
from medmamba.evaluation.report import NO_PREDICTION, Report
from medmamba.evaluation.scores import CaseScore, LabelScore
from medmamba.files import in_words
from medmamba.io.layouts import Folder, listing, survey
from medmamba.io.layouts.brats import Brats
from medmamba.io.layouts.names import maps_in, split_ending
from medmamba.io.manifest import MANIFEST, Maker, Manifest
from medmamba.io.sizes import largest_voxels
from medmamba.labels import Label, Labels
from medmamba.progress import Progress, silent
from medmamba.records import read_json
from medmamba.volume import Volume

logger = logging.getLogger(__name__)

Missing = Literal["fail", "skip"]
#: So many unknown values are named for each label map.
NAMED = 10
#: Memory a voxel takes about while its masks are compared.
VOXEL_BYTES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A reference and its prediction.

    Args:
        id: name of the case.
        reference: label map made by an expert.
        prediction: label map to be judged; None when there is none.
    """

    id: str
    reference: Path
    prediction: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Matches:
    """What belongs together, and what is left over.

    Args:
        pairs: one per reference, sorted by id.
        extra: predictions without a reference.
        not_asked_for: ids of references that have no prediction because none was asked for.
        by_maker: ids of the predictions of each model or set of options, by the record of `medmamba predict`; those
            with the most first.
    """

    pairs: tuple[Match, ...]
    extra: tuple[Path, ...] = ()
    not_asked_for: tuple[str, ...] = ()
    by_maker: tuple[tuple[str, ...], ...] = ()


def match_files(prediction: Path, reference: Path) -> Matches:
    """Find the prediction of each reference by the name of its file, without ending.

    Args:
        prediction: a label map, or a folder of them.
        reference: a label map, a folder of them, or a data set, whose training labels are taken. Every prediction that
            is there is compared. Where `medmamba predict` wrote the predictions, of the other references only those
            of cases that it was asked for count as missing, elsewhere all.

    Raises:
        FileNotFoundError: if one of them does not exist.
        DataError: if one is a file and the other a folder, two files bear one id, no id is on both sides, or a
            prediction and its reference are one file.
    """
    for path in (prediction, reference):
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist")
    alone = io.is_image(reference)
    if io.is_image(prediction) != alone:
        raise DataError(f"compare two files or two folders, got {prediction} and {reference}")
    if alone:
        pair = Match(id=split_ending(reference)[0], reference=reference, prediction=prediction)
        return Matches(pairs=_different([pair]))
    references, predictions = _references(reference), _label_files(prediction)
    if not references.keys() & predictions.keys():
        raise DataError(
            f"no prediction bears the name of a reference: {prediction} has {_examples(predictions)}, "
            f"{reference} has {_examples(references)}; give the folder of the other references, or rename files so "
            "that they match"
        )
    wanted = _asked_for(prediction)
    expected = references.keys() if wanted is None else references.keys() & (predictions.keys() | wanted)
    return Matches(
        pairs=_different(
            Match(id=name, reference=references[name], prediction=predictions.get(name)) for name in sorted(expected)
        ),
        extra=tuple(path for name, path in sorted(predictions.items()) if name not in references),
        not_asked_for=tuple(sorted(references.keys() - expected)),
        by_maker=_by_maker(prediction, {name: predictions[name] for name in sorted(expected & predictions.keys())}),
    )


def _asked_for(folder: Path) -> frozenset[str] | None:
    """Ids of the cases that `medmamba predict` was asked to segment into a folder; None when nothing says so."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    manifest = read_json(path)
    cases = manifest.get("cases") if isinstance(manifest, dict) else None
    # A mapping is from the id to what became of the case.
    if not isinstance(cases, list | dict) or not all(isinstance(case, str) for case in cases):
        logger.warning("%s does not list its 'cases', as those of medmamba do, and is passed over", path)
        return None
    return frozenset(cases)


def _by_maker(folder: Path, predictions: dict[str, Path]) -> tuple[tuple[str, ...], ...]:
    """Ids of the predictions that `medmamba predict` recorded as made alike, the most first."""
    try:
        made = Manifest.load(folder).made
    except DataError:  # of another program
        return ()
    ids: dict[Maker, list[str]] = {}
    for name, path in predictions.items():
        if record := made.get(path.name):
            ids.setdefault(record.maker, []).append(name)
    return tuple(sorted((tuple(names) for names in ids.values()), key=len, reverse=True))


def _different(matches: Iterable[Match]) -> tuple[Match, ...]:
    """The same matches, unless a reference is compared with itself, which would be perfect and mean nothing."""
    pairs = tuple(matches)
    for pair in pairs:
        if pair.prediction is not None and pair.reference.exists() and pair.prediction.samefile(pair.reference):
            raise DataError(
                f"{pair.prediction} is both prediction and reference; give the folder that holds the predictions"
            )
    return pairs


def find_labels(prediction: Path, reference: Path) -> Labels | None:
    """The labels of the data set that the files belong to, where that can be told.

    They are those of the dataset.json in the folder of the references, in the one above it (a data set keeps label maps
    in a folder of their own) or in the folder of the predictions (to which nnU-Net copies it). Of a data set of plain
    folders they are the values in all its label maps, also in those that nothing is compared with.

    Raises:
        DataError: if a dataset.json is wrong about its labels.
    """
    ours, theirs = (path.parent if io.is_image(path) else path for path in (prediction, reference))
    for folder in (theirs, theirs.parent, ours):
        if (folder / "dataset.json").is_file():
            logger.info("labels as in %s", folder / "dataset.json")
            return labels_of(folder)
    if (theirs / "images").is_dir() and (theirs / "labels").is_dir():
        return labels_of(theirs)
    return labels_of(theirs) if Brats().recognises(Folder(theirs)) else None


def labels_of(dataset: Path) -> Labels:
    """The labels of a data set, whatever else may be wrong with it: its description may have been copied away alone.

    Args:
        dataset: its folder, or its dataset.json.

    Raises:
        FileNotFoundError: if it is neither.
        DataError: if they are wrong, or, in plain folders, no label map holds any.
    """
    if dataset.is_file() and dataset.name != "dataset.json":
        raise FileNotFoundError(f"labels are read from a data set or its dataset.json, not from {dataset}")
    found = survey(dataset)
    if found.labels is not None:
        return found.labels
    if found.is_described or found.layout == "brats":
        raise found.problems[0]
    return labels_in(
        [Match(id=case.id, reference=case.label, prediction=None) for case in found.training if case.label is not None]
    )


def labels_in(pairs: Sequence[Match], progress: Progress = silent) -> Labels:
    """One label per value that occurs in the references, called ``label_1`` and so on.

    Files that cannot be read are passed over here; `evaluate` lists them.

    Raises:
        DataError: if no reference can be read, with the reason, or none holds anything but background.
    """
    outcomes = map_cases(_values, pairs, suited(len(pairs)), title="Looking for labels", progress=progress)
    unread = [outcome.reason for outcome in outcomes if isinstance(outcome, Failure)]
    values = {value for outcome in outcomes if not isinstance(outcome, Failure) for value in outcome}
    for reason in unread:
        logger.info("passed over while looking for labels: %s", reason)
    if unread and len(unread) == len(pairs):
        more = f" ({len(unread) - 1} more have errors as well)" if len(unread) > 1 else ""
        raise DataError(f"no reference can be read: {unread[0]}{more}")
    if not values - {0}:
        first = f", the first being {pairs[0].reference}" if pairs else ""
        raise DataError(f"no label besides background in {len(pairs)} references{first}; are these label maps?")
    return Labels.of_values(values - {0})


def _values(pair: Match) -> list[int]:
    values: list[int] = np.unique(io.read_label(pair.reference).array).tolist()
    return values


def evaluate(
    pairs: Sequence[Match],
    labels: Labels,
    *,
    metrics: Sequence[str] = ("dice", "hd95"),
    missing: Missing = "fail",
    extra: Sequence[Path] = (),
    workers: int = 1,
    seed: int = 0,
    progress: Progress = silent,
) -> Report:
    """Score every pair.

    Args:
        pairs: what to compare, from `match_files`.
        labels: the structures to score; regions are scored as the union of their values. Voxels with the ignore value
            in the reference count in neither mask.
        metrics: names out of `medmamba.evaluation.metrics.METRICS`.
        missing: what a reference without a usable prediction (none, broken, on another grid) becomes: ``fail`` gives it
            the worst value of every metric, ``skip`` leaves it out of the summary.
        extra: predictions without a reference, to be mentioned in the report.
        workers: cases worked on at the same time; each needs memory for both label maps.
        seed: of the bootstrap.
        progress: told after each case.

    Raises:
        ValueError: for an unknown metric, or when there is nothing to compare.
    """
    unknown = [name for name in metrics if name not in METRICS]
    if unknown or not metrics:
        raise ValueError(f"unknown metric {', '.join(unknown) or '(none given)'}; known are {', '.join(METRICS)}")
    if not pairs:
        raise ValueError("there is no reference to compare with")

    files = [path for pair in pairs for path in (pair.reference, pair.prediction) if path is not None]
    engine = suited(len(pairs), at_most=workers, case_bytes=VOXEL_BYTES * largest_voxels(files))
    function = partial(_score_case, labels=labels, metrics=tuple(metrics), missing=missing)
    outcomes = map_cases(function, pairs, engine, title="Comparing", progress=progress)
    cases = [
        CaseScore(id=pair.id, status="failed", notes=(outcome.reason,)) if isinstance(outcome, Failure) else outcome
        for pair, outcome in zip(pairs, outcomes, strict=True)
    ]
    return Report(
        labels=labels,
        metrics=tuple(metrics),
        cases=tuple(sorted(cases, key=lambda case: case.id)),
        extra_predictions=tuple(path.name for path in extra),
        seed=seed,
    )


def _score_case(pair: Match, labels: Labels, metrics: tuple[str, ...], missing: Missing) -> CaseScore:
    try:
        reference = io.read_label(pair.reference)
    except (DataError, OSError) as error:
        # There is nothing to hold a prediction against, so no score would be right, not even the worst.
        return CaseScore(id=pair.id, status="failed", notes=(f"reference: {in_words(error)}",))
    if pair.prediction is None:
        if missing == "skip":
            return CaseScore(id=pair.id, status="skipped", notes=(NO_PREDICTION,))
        return replace(_failure(pair, NO_PREDICTION, labels, metrics, missing), status="missing")
    try:
        prediction = io.read_label(pair.prediction)
    except (DataError, OSError) as error:
        return _failure(pair, f"prediction: {in_words(error)}", labels, metrics, missing)
    if apart := prediction.geometry.apart(reference.geometry):
        reason = (
            f"{pair.prediction} lies on another grid than {pair.reference}: {apart}; write it on the reference's grid"
        )
        return _failure(pair, reason, labels, metrics, missing)
    scores = _score_labels(prediction, reference, labels, metrics)
    return CaseScore(id=pair.id, status="scored", notes=_notes(prediction, reference, labels), scores=scores)


def _failure(pair: Match, reason: str, labels: Labels, metrics: tuple[str, ...], missing: Missing) -> CaseScore:
    scores: tuple[LabelScore, ...] = ()
    if missing == "fail":
        worst = tuple(METRICS[name].worst for name in metrics)
        scores = tuple(LabelScore(label=label.name, values=worst) for label in labels.foreground)
    return CaseScore(id=pair.id, status="failed", notes=(reason,), scores=scores)


def _score_labels(
    prediction: Volume, reference: Volume, labels: Labels, metrics: tuple[str, ...]
) -> tuple[LabelScore, ...]:
    spacing = reference.geometry.spacing_mm
    voxel_ml = abs(float(np.linalg.det(reference.geometry.affine[:3, :3]))) / 1000
    predicted, expected = prediction.array[0], reference.array[0]
    annotated = expected != labels.ignore if labels.ignore is not None else None
    scores = []
    for label in labels.foreground:
        masks = Masks(
            prediction=_mask(predicted, label, annotated),
            reference=_mask(expected, label, annotated),
            spacing_mm=spacing,
        )
        scores.append(
            LabelScore(
                label=label.name,
                values=tuple(_measure(METRICS[name], masks) for name in metrics),
                prediction_ml=np.count_nonzero(masks.prediction) * voxel_ml,
                reference_ml=np.count_nonzero(masks.reference) * voxel_ml,
            )
        )
    return tuple(scores)


def _measure(metric: Metric, masks: Masks) -> float:
    """The metric's value; the worst one where it is undefined because a structure that is there was missed."""
    value = metric.measure(masks)
    missed = masks.reference.any() and not masks.prediction.any()
    return metric.worst if math.isnan(value) and missed else value


def _mask(array: NDArray[Any], label: Label, annotated: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    mask = np.isin(array, label.values)
    return mask if annotated is None else mask & annotated


def _notes(prediction: Volume, reference: Volume, labels: Labels) -> tuple[str, ...]:
    notes = []
    for name, volume in (("prediction", prediction), ("reference", reference)):
        values, counts = np.unique(volume.array, return_counts=True)
        unknown = [
            f"{value} ({count} voxels)"
            for value, count in zip(values.tolist(), counts.tolist(), strict=True)
            if value not in labels.allowed_values
        ]
        if unknown:
            more = f" and {len(unknown) - NAMED} more" if len(unknown) > NAMED else ""
            listed = ", ".join(unknown[:NAMED])
            notes.append(f"the {name} holds values that no label has, counted as background: {listed}{more}")
    if rounded := prediction.geometry.rounded(reference.geometry):
        notes.append(f"prediction and reference lie less than half a voxel apart, taken as one grid: {rounded}")
    if not reference.geometry.is_orthogonal():
        notes.append("the grid is sheared: distances are measured as if its axes were perpendicular")
    return tuple(notes)


def _references(folder: Path) -> dict[str, Path]:
    """Label maps by case id: those of the data set that the folder holds, else those in the folder itself."""
    here = _label_files(folder)
    # A description alone does not make a data set: copies of it lie beside label maps.
    if here and not any((folder / inner).is_dir() for inner in ("imagesTr", "images")):
        return here
    training = listing(folder).training
    listed = {case.id: case.label for case in training if case.label is not None}
    return listed or here


def _label_files(folder: Path) -> dict[str, Path]:
    """The label maps in a folder by id."""
    files: dict[str, Path] = {}
    for path in maps_in(folder):
        name = split_ending(path)[0]
        if name in files:
            raise DataError(f"{files[name]} and {path} bear the same id {name!r}; keep one of them")
        files[name] = path
    return files


def _examples(files: dict[str, Path]) -> str:
    return ", ".join(sorted(files)[:3]) + (", ..." if len(files) > 3 else "") if files else "no images"
