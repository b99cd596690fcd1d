"""Hold predictions against references, case by case, and count what could not be held.

Nothing is resampled: a prediction has to lie on its reference's grid. What is wrong with one case never stops the
others; it is listed, and by default a case without a usable prediction gets the worst values instead of vanishing
from the mean.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medmamba import io
from medmamba.case import MANIFEST
from medmamba.io.datasets import split_ending
from medmamba.labels import Label, Labels
from medmamba.metrics import METRICS, Masks
from medmamba.plans._json import read_json
from medmamba.progress import Progress, silent
from medmamba.scores import CaseScore, LabelScore, Report
from medmamba.volume import Volume

logger = logging.getLogger(__name__)

Missing = Literal["fail", "skip"]


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
    """

    pairs: tuple[Match, ...]
    extra: tuple[Path, ...] = ()


def match_files(prediction: Path, reference: Path) -> Matches:
    """Find the prediction of each reference by the name of its file, without ending.

    Args:
        prediction: a label map, or a folder of them.
        reference: a label map, a folder of them, or a data set, whose training labels are taken. When
            ``medmamba predict`` wrote the predictions, only cases that it was asked for are expected.

    Raises:
        FileNotFoundError: if one of them does not exist.
        ValueError: if one is a file and the other a folder, two files bear one id, or no id is on both sides.
    """
    for path in (prediction, reference):
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist")
    if prediction.is_dir() != reference.is_dir():
        raise ValueError(f"compare two files or two folders, got {prediction} and {reference}")
    if reference.is_file():
        return Matches(pairs=(Match(id=split_ending(reference)[0], reference=reference, prediction=prediction),))
    references, predictions = _references(reference), _label_files(prediction)
    asked_for = _asked_for(prediction)
    if asked_for is not None:
        references = {name: path for name, path in references.items() if name in asked_for}
    found = sorted(set(references) & set(predictions))
    if not found:
        raise ValueError(
            f"no prediction bears the name of a reference: {prediction} has {_examples(predictions)}, "
            f"{reference} has {_examples(references)}; rename the files so that they match"
        )
    return Matches(
        pairs=tuple(
            Match(id=name, reference=path, prediction=predictions.get(name))
            for name, path in sorted(references.items())
        ),
        extra=tuple(path for name, path in sorted(predictions.items()) if name not in references),
    )


def _asked_for(prediction: Path) -> set[str] | None:
    """Ids that `medmamba.predict.predict_cases` was asked for; None for segmentations from elsewhere."""
    path = prediction / MANIFEST
    if not path.is_file():
        return None
    manifest = read_json(path)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("cases"), list):
        raise ValueError(f"{path} must list its 'cases'; delete it to compare with all references")
    return {str(case) for case in manifest["cases"]}


def find_labels(prediction: Path, reference: Path) -> Labels | None:
    """The labels of the dataset.json that lies with the files, where there is one.

    Looked for in the folder of the references, in the one above it (a data set keeps label maps in a folder of their
    own) and in the folder of the predictions (to which nnU-Net copies it).

    Raises:
        ValueError: if a dataset.json is wrong.
    """
    ours, theirs = (path if path.is_dir() else path.parent for path in (prediction, reference))
    for folder in (theirs, theirs.parent, ours):
        if (folder / "dataset.json").is_file():
            logger.info("labels as in %s", folder / "dataset.json")
            return io.open_dataset(folder).labels
    return None


def labels_in(pairs: Sequence[Match], progress: Progress = silent) -> Labels:
    """One label per value that occurs in the references, called ``label_1`` and so on.

    Files that cannot be read are passed over here; `evaluate` lists them.

    Raises:
        ValueError: if no reference holds anything but background.
    """
    values: set[int] = set()
    for pair in progress(pairs, title="Looking for labels", total=len(pairs)):
        try:
            values.update(np.unique(io.read_label(pair.reference).array).tolist())
        except (ValueError, OSError) as error:
            logger.info("passed over while looking for labels: %s", error)
    if not values - {0}:
        raise ValueError(
            f"no label besides background in {len(pairs)} references, the first being {pairs[0].reference}; "
            "are these label maps?"
        )
    return Labels(foreground=tuple(Label(name=f"label_{value}", values=(value,)) for value in sorted(values - {0})))


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
        metrics: names out of `medmamba.metrics.METRICS`.
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

    def score(pair: Match) -> CaseScore:
        return _score_case(pair, labels, tuple(metrics), missing)

    with ThreadPoolExecutor(max(1, workers)) as pool:
        try:
            cases = tuple(progress(pool.map(score, pairs), title="Comparing", total=len(pairs)))
        except BaseException:
            # Without this an interrupted run would first finish every case that waits.
            pool.shutdown(cancel_futures=True)
            raise
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
    except (ValueError, OSError) as error:
        # There is nothing to hold a prediction against, so no score would be right, not even the worst.
        return CaseScore(id=pair.id, status="failed", notes=(f"reference: {error}",))
    if pair.prediction is None:
        if missing == "skip":
            return CaseScore(id=pair.id, status="skipped", notes=("no prediction",))
        return _failure(pair, "no prediction", labels, metrics, missing)
    try:
        prediction = io.read_label(pair.prediction)
    except (ValueError, OSError) as error:
        return _failure(pair, f"prediction: {error}", labels, metrics, missing)
    if not prediction.geometry.allclose(reference.geometry):
        reason = (
            f"{pair.prediction} lies on another grid than {pair.reference}: "
            f"{prediction.geometry.difference(reference.geometry)}; write it on the reference's grid"
        )
        return _failure(pair, reason, labels, metrics, missing)
    notes = _notes(prediction, reference, labels)
    for note in notes:
        logger.warning("%s: %s", pair.id, note)
    scores = _score_labels(prediction, reference, labels, metrics)
    return CaseScore(id=pair.id, status="scored", notes=notes, scores=scores)


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
                values=tuple(METRICS[name].measure(masks) for name in metrics),
                prediction_ml=np.count_nonzero(masks.prediction) * voxel_ml,
                reference_ml=np.count_nonzero(masks.reference) * voxel_ml,
            )
        )
    return tuple(scores)


def _mask(array: NDArray[Any], label: Label, annotated: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    mask = np.isin(array, label.values)
    return mask if annotated is None else mask & annotated


def _notes(prediction: Volume, reference: Volume, labels: Labels) -> tuple[str, ...]:
    notes = []
    for name, volume in (("prediction", prediction), ("reference", reference)):
        unknown = sorted(set(np.unique(volume.array).tolist()) - set(labels.allowed_values))
        if unknown:
            notes.append(f"the {name} holds {unknown}, which no label has, counted as background")
    if not reference.geometry.is_orthogonal():
        notes.append("the grid is sheared: distances are measured as if its axes were perpendicular")
    return tuple(notes)


def _references(folder: Path) -> dict[str, Path]:
    """Label maps by case id: those in the folder itself, else those of the data set it holds."""
    files = _label_files(folder)
    if files:
        return files
    training = io.open_dataset(folder).training
    return {case.id: case.label for case in training if case.label is not None}


def _label_files(folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.name.lower().endswith(io.suffixes()):
            continue
        name = split_ending(path)[0]
        if name in files:
            raise ValueError(f"{files[name]} and {path} bear the same id {name!r}; keep one of them")
        files[name] = path
    return files


def _examples(files: dict[str, Path]) -> str:
    return ", ".join(sorted(files)[:3]) + (", ..." if len(files) > 3 else "") if files else "no images"
