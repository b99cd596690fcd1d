"""Hold predictions against references, case by case, and count what could not be held.

Nothing is resampled: a prediction has to lie on its reference's grid. What is wrong with one case never stops the
others; it is listed, and by default a case without a usable prediction gets the worst values instead of vanishing
from the mean. So does a structure that was missed altogether, also in metrics that are undefined for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medmamba import io
from medmamba.engines import Failure, map_cases, suited
from medmamba.errors import DataError, UsageError
from medmamba.evaluation import probabilities
from medmamba.evaluation.maps import LabelMaps, holding
from medmamba.evaluation.masks import Masks
from medmamba.evaluation.matching import (
    Match,
    Matches,
    Meaning,
    find_meaning,
    labels_in,
    match_files,
)
from medmamba.evaluation.meaning import (
    challenge_of,
    challenges_of,
    check_challenges,
    labels_by_objects,
    meaning_by_challenges,
)
from medmamba.evaluation.metrics import GROUPS, TELLING_LESIONS_APART, Metric, expand, metric
from medmamba.evaluation.origin import origin as origin_of
from medmamba.evaluation.report import NO_PREDICTION, Report
from medmamba.evaluation.scores import CaseScore, LabelScore, Lesion, Origin, Policy, Status
from medmamba.files import in_words
from medmamba.io.sizes import largest_voxels
from medmamba.labels import Labels
from medmamba.progress import Progress, silent
from medmamba.volume import Geometry, Volume, marked_box

#: (structures, I, J, K), how sure the network is of each.
Probabilities = NDArray[np.float32]
#: So many unknown values are named for each label map.
NAMED = 10
#: Memory a voxel takes about while its masks are compared, both maps as they are stored among it.
VOXEL_BYTES = 24
#: And for each output of a network, whose probabilities are read and checked.
OUTPUT_BYTES = 12


def evaluate(
    pairs: Sequence[Match],
    labels: Labels,
    *,
    metrics: Sequence[str] = ("standard",),
    policy: Policy | None = None,
    extra: Sequence[Path] = (),
    origin: Origin | None = None,
    name: str = "",
    workers: int = 1,
    seed: int = 0,
    progress: Progress = silent,
) -> Report:
    """Score every pair.

    Args:
        pairs: what to compare, from `medmamba.evaluation.matching.match_files`.
        labels: the structures to score; regions are scored as the union of their values. Voxels with the ignore value
            in the reference count in neither mask.
        metrics: names that `medmamba.evaluation.metrics.metric` knows, or of groups of them.
        policy: what becomes of empty masks, infinite distances, and references without a usable prediction (none,
            broken, on another grid); None for the defaults.
        extra: predictions without a reference, to be mentioned in the report.
        origin: where the masks come from, to be kept in the report.
        name: what the predictions are called where several are compared.
        workers: cases worked on at the same time; each needs memory for both label maps.
        seed: of the bootstrap.
        progress: told after each case.

    Raises:
        UsageError: for an unknown metric, or none.
        ValueError: when there is nothing to compare.
    """
    names, policy = expand(metrics), policy or Policy()
    if not names:
        raise UsageError("no metric was asked for; name one such as dice, or a group such as standard")
    if not pairs:
        raise ValueError("there is no reference to compare with")

    files = [path for pair in pairs for path in (pair.reference, pair.prediction) if path is not None]
    voxel_bytes = VOXEL_BYTES
    if _ask_for_probabilities(names):
        voxel_bytes += OUTPUT_BYTES * labels.output_channels
    engine = suited(len(pairs), at_most=workers, case_bytes=voxel_bytes * largest_voxels(files))
    function = partial(_score_case, asked=_Asked(labels=labels, metrics=names, policy=policy))
    outcomes = map_cases(function, pairs, engine, title="Comparing", progress=progress)
    cases = [
        CaseScore(id=pair.id, status="failed", notes=(outcome.reason,)) if isinstance(outcome, Failure) else outcome
        for pair, outcome in zip(pairs, outcomes, strict=True)
    ]
    return Report(
        labels=labels,
        metrics=names,
        cases=tuple(sorted(cases, key=lambda case: case.id)),
        extra_predictions=tuple(path.name for path in extra),
        seed=seed,
        policy=policy,
        origin=origin or Origin(),
        name=name,
    )


def evaluate_files(
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
    """Match files by their names, find out what their values mean, and score every pair.

    Args:
        prediction: a label map, or a folder of them.
        reference: a label map, a folder of them, or a data set.
        labels: data set or dataset.json with their names, or an edition of BraTS; empty to look beside the files.
        metrics: as for `evaluate`; with none, those of the group ``standard`` and, where it is known of which edition
            of BraTS the labels are, those of its challenge.
        policy: as for `evaluate`.
        name: as for `evaluate`.
        workers: as for `evaluate`.
        progress: told after each case.

    Returns:
        The report, and what was compared with what.

    Raises:
        FileNotFoundError: if one of them does not exist.
        DataError: as from `match_files`, and if the labels are wrong.
        UsageError: for an unknown metric or edition, or metrics of a challenge that other labels belong to.
    """
    challenges = challenges_of(expand(metrics))
    matches = match_files(prediction, reference)
    meaning = (
        find_meaning(prediction, reference, labels)
        or meaning_by_challenges(challenges)
        or Meaning(labels_by_objects(matches.pairs) or labels_in(matches.pairs, progress))
    )
    check_challenges(challenges, meaning)
    report = evaluate(
        matches.pairs,
        meaning.labels,
        metrics=metrics or ("standard", *challenge_of(meaning.edition)),
        policy=policy,
        extra=matches.extra,
        origin=origin_of(prediction, reference),
        name=name,
        workers=workers,
        progress=progress,
    )
    return report, matches


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What is to be measured, and by which policy."""

    labels: Labels
    metrics: tuple[str, ...]
    policy: Policy

    @property
    def rows(self) -> tuple[Metric, ...]:
        return tuple(metric(name) for name in self.metrics)


def _score_case(pair: Match, asked: _Asked) -> CaseScore:
    try:
        reference = io.read_label(pair.reference, as_stored=True)
        _check_reference(pair, reference, asked.labels)
    except (DataError, OSError) as error:
        # There is nothing to hold a prediction against, so no score would be right, not even the worst.
        return CaseScore(id=pair.id, status="failed", notes=(f"reference: {in_words(error)}",))
    if pair.prediction is None:
        status: Status = "skipped" if asked.policy.missing == "skip" else "missing"
        return _unusable(pair, NO_PREDICTION, reference, asked, status)
    try:
        prediction = io.read_label(pair.prediction, within=reference.geometry, as_stored=True)
        if not prediction.geometry.same_grid(reference.geometry):  # it may be the reference that leaves slices out
            reference = io.read_label(pair.reference, within=prediction.geometry, as_stored=True)
    except (DataError, OSError) as error:
        return _unusable(pair, f"prediction: {in_words(error)}", reference, asked)
    if apart := prediction.geometry.apart(reference.geometry):
        reason = (
            f"{pair.prediction} lies on another grid than {pair.reference}: {apart}; write it on the reference's grid"
        )
        return _unusable(pair, reason, reference, asked)
    outputs, remark = _probabilities(pair.prediction, prediction, asked)
    maps = LabelMaps(
        prediction=prediction.array[0],
        reference=reference.array[0],
        spacing_mm=reference.geometry.spacing_mm,
        ignore=asked.labels.ignore,
    )
    return CaseScore(
        id=pair.id,
        status="scored",
        notes=(*_notes(prediction, reference, asked.labels), *remark),
        scores=_score_labels(maps, reference.geometry, outputs, asked),
    )


def _ask_for_probabilities(metrics: Sequence[str]) -> bool:
    return not set(metrics).isdisjoint(GROUPS["calibration"])


def _probabilities(path: Path, prediction: Volume, asked: _Asked) -> tuple[Probabilities | None, tuple[str, ...]]:
    """Those beside a prediction, where they are asked for, or why there are none."""
    if not _ask_for_probabilities(asked.metrics):
        return None, ()
    file = probabilities.beside(path)
    if file is None:
        return None, ("there are no probabilities beside the prediction",)
    try:
        return probabilities.read(file, asked.labels, prediction.array[0]), ()
    except (DataError, OSError) as error:
        return None, (in_words(error),)


def _unusable(pair: Match, reason: str, reference: Volume, asked: _Asked, status: Status = "failed") -> CaseScore:
    """A case whose prediction cannot be used: the worst values, and every lesion missed; or nothing."""
    scores = _worst(reference, asked) if asked.policy.missing == "fail" else ()
    return CaseScore(id=pair.id, status=status, notes=(reason,), scores=scores)


def _worst(reference: Volume, asked: _Asked) -> tuple[LabelScore, ...]:
    """Of a case without a usable prediction: the worst values, and those of an empty prediction where none is worst."""
    grid, array = reference.geometry, reference.array[0]
    nothing = np.broadcast_to(array.dtype.type(0), array.shape)
    maps = LabelMaps(prediction=nothing, reference=array, spacing_mm=grid.spacing_mm, ignore=asked.labels.ignore)
    scores = []
    for label in asked.labels.foreground:
        masks = maps.masks(label)
        values = tuple(
            _measure(row, masks, asked.policy, grid) if row.of_empty else _told(row, row.worst, asked.policy, grid)
            for row in asked.rows
        )
        scores.append(LabelScore(label=label.name, values=values, lesions=_lesions(masks, grid, asked)))
    return tuple(scores)


def _score_labels(
    maps: LabelMaps, grid: Geometry, outputs: Probabilities | None, asked: _Asked
) -> tuple[LabelScore, ...]:
    voxel_ml = _voxel_ml(grid)
    scores = []
    for number, label in enumerate(asked.labels.foreground):
        masks = maps.masks(label, None if outputs is None else outputs[number])
        scores.append(
            LabelScore(
                label=label.name,
                values=tuple(_measure(row, masks, asked.policy, grid) for row in asked.rows),
                prediction_ml=masks.voxels.prediction * voxel_ml,
                reference_ml=masks.voxels.reference * voxel_ml,
                voxels=masks.voxels,
                lesions=_lesions(masks, grid, asked),
                reliability=masks.reliability,
            )
        )
    return tuple(scores)


def _lesions(masks: Masks, grid: Geometry, asked: _Asked) -> tuple[Lesion, ...]:
    """Every lesion by itself, where a metric is asked for that tells them apart."""
    if TELLING_LESIONS_APART.isdisjoint(asked.metrics):
        return ()
    return masks.lesions.table(grid.spacing_mm, _voxel_ml(grid))


def _voxel_ml(grid: Geometry) -> float:
    return abs(float(np.linalg.det(grid.affine[:3, :3]))) / 1000


def _measure(row: Metric, masks: Masks, policy: Policy, grid: Geometry) -> float:
    """The metric's value, or what the policy says instead of one that is no plain number."""
    value = row.measure(masks)
    if math.isnan(value) and not row.own_policy:
        if not masks.voxels.either:
            return row.best if policy.empty == "perfect" else value
        if not masks.voxels.prediction:  # undefined because a structure that is there was missed
            value = row.worst
    return _told(row, value, policy, grid)


def _told(row: Metric, value: float, policy: Policy, grid: Geometry) -> float:
    """The value, or what stands for an infinite distance."""
    if not math.isinf(value) or row.unit != "mm" or row.own_policy or policy.infinite == "keep":
        return value
    if policy.infinite == "diagonal":
        return float(np.linalg.norm(np.multiply(grid.shape, grid.spacing_mm)))
    return math.nan if policy.infinite_mm is None else policy.infinite_mm


def _check_reference(pair: Match, reference: Volume, labels: Labels) -> None:
    """Refuse a reference with values that mean nothing: whoever declared the labels meant another one."""
    if unknown := _unknown(reference, labels):
        raise DataError(
            f"undeclared label {unknown} in the reference of {pair.id}; declared are "
            f"{', '.join(map(str, labels.allowed_values))}; say --labels with the data set or edition whose labels "
            f"these are, or correct {pair.reference}"
        )


def _unknown(volume: Volume, labels: Labels) -> str:
    """The values in a map that no label has, with the number of their voxels; empty where there are none."""
    box = marked_box(volume.array[0])
    if box is None:
        return ""
    near = volume.array[0][box]
    known = holding(near, labels.allowed_values)
    if known.all():
        return ""
    values, counts = np.unique(near[~known], return_counts=True)
    listed = ", ".join(f"{value} ({count} voxels)" for value, count in zip(values[:NAMED], counts[:NAMED], strict=True))
    return f"{listed} and {len(values) - NAMED} more" if len(values) > NAMED else listed


def _notes(prediction: Volume, reference: Volume, labels: Labels) -> tuple[str, ...]:
    notes = []
    if unknown := _unknown(prediction, labels):
        notes.append(f"the prediction holds values that no label has, counted as background: {unknown}")
    if rounded := prediction.geometry.rounded(reference.geometry):
        notes.append(f"prediction and reference lie less than half a voxel apart, taken as one grid: {rounded}")
    if not reference.geometry.is_orthogonal():
        notes.append("the grid is sheared: distances and differences of volumes are as if its axes were perpendicular")
    return tuple(notes)
