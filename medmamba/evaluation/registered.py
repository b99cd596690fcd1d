"""Registrations held against label maps and landmarks, before and after, and what their transforms do to space.

Everything is measured anew from a folder of `medmamba.evaluation.registered_folder`: the moving label map is brought
onto the grid of the fixed one, by one interpolation, with the whole transform and with its affine maps alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from medmamba import io
from medmamba.engines import Failure, map_cases, suited
from medmamba.errors import UsageError
from medmamba.evaluation.deformation import (
    counted,
    folding_percent,
    inverse_consistency_mm,
    jacobian,
    min_jacobian,
    sd_log_jacobian,
    tre_mm,
)
from medmamba.evaluation.evaluate import evaluate
from medmamba.evaluation.matching import Match, find_meaning, labels_in
from medmamba.evaluation.origin import versions
from medmamba.evaluation.registered_folder import MUCH_FOLDING, RegisteredPair, Unregistered, read_pairs
from medmamba.evaluation.report import WHOLE_PAIR, Report
from medmamba.evaluation.scores import CaseScore, Origin, Policy
from medmamba.io.formats.transforms import read_transform
from medmamba.io.landmarks import matched_points
from medmamba.io.sizes import largest_voxels
from medmamba.labels import Label, Labels
from medmamba.progress import Progress, silent
from medmamba.transform import Affine, Field, Transform, resample
from medmamba.volume import Geometry, Volume

#: What a report calls the pairs aligned by affine maps alone, and as their headers have them where there are none.
ALIGNED, UNTOUCHED = "affine alone", "before"
#: Less displacement than this, in voxels, is worth a word.
LITTLE_VOXELS = 0.02
#: Memory a voxel takes about while a pair is measured, where all voxels count; a head in air takes three quarters.
VOXEL_BYTES = 210
GIB = 2**30


def evaluate_registrations(
    folder: Path,
    *,
    labels: str = "",
    metrics: Sequence[str] = (),
    policy: Policy | None = None,
    least_ml: float = 0.0,
    name: str = "",
    workers: int = 1,
    progress: Progress = silent,
) -> tuple[Report, ...]:
    """Score every pair, and the same pairs without their fields.

    Args:
        folder: see above.
        labels: as for `medmamba.evaluation.evaluate.evaluate_files`.
        metrics: of label maps, as for `medmamba.evaluation.evaluate.evaluate`; with none, the group ``standard``.
        policy: likewise; a pair that failed is a missing prediction.
        least_ml: structures of less volume than this in the mean of the fixed label maps are left out.
        name: of the method; with none, the folder's.
        workers: pairs worked on at the same time; each needs memory for images and fields.
        progress: told after each pair.

    Returns:
        After registration and, where there are label maps or landmarks, before it. Pairs without label maps have
        figures alone; where no pair has any, these are the report's metrics.

    Raises:
        DataError: if the folder or its labels are wrong.
        UsageError: for an unknown metric, or where no structure is large enough.
    """
    pairs, failed = read_pairs(folder)
    with TemporaryDirectory() as temporary:
        place = Path(temporary)
        voxels = largest_voxels([side.image for pair in pairs for side in (pair.fixed, pair.moving)])
        engine = suited(len(pairs), at_most=workers, case_bytes=VOXEL_BYTES * voxels)
        outcomes = map_cases(partial(_measure, place=place), pairs, engine, title="Transforms", progress=progress)
        measured = {
            pair.id: _Measured(notes=(outcome.reason,), failed=True) if isinstance(outcome, Failure) else outcome
            for pair, outcome in zip(pairs, outcomes, strict=True)
        } | {each.id: _Measured(notes=(each.reason,), failed=True) for each in failed}
        matches = {when: _matches(pairs, failed, place / when) for when in ("after", "before")}
        structures = _structures(pairs, matches["after"], labels, progress) if matches["after"] else None
        made = [
            _large(
                evaluate(
                    each,
                    structures,
                    metrics=metrics or ("standard",),
                    policy=policy,
                    workers=workers,
                    progress=progress,
                ),
                least_ml,
            )
            if structures
            else None
            for each in matches.values()
        ]
    model = _words(pairs)
    origin = Origin(prediction=folder.resolve(), model=model, versions=versions())
    aligned = any(isinstance(step, Affine) for step in read_transform(pairs[0].transform).steps)
    after = _with_figures(made[0], {pair: (known, known.after) for pair, known in measured.items()})
    after = replace(after, origin=origin, name=name or folder.resolve().name)
    if made[1] is None and not any(known.before for known in measured.values()):
        return (after,)
    before = _with_figures(made[1], {pair: (known, known.before) for pair, known in measured.items()}, after.metrics)
    return after, replace(before, origin=origin, name=ALIGNED if aligned else UNTOUCHED)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    """What is known of a pair.

    Args:
        after: figures of it.
        before: of it without its fields.
        notes: what a reader should know.
        failed: there is no transform that could be used.
    """

    after: dict[str, float] = field(default_factory=dict)
    before: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    failed: bool = False


def before_fields(transform: Transform) -> Transform:
    """The affine maps of a transform alone."""
    return Transform(tuple(step for step in transform.steps if isinstance(step, Affine)))


def _measure(pair: RegisteredPair, place: Path) -> _Measured:
    """Figures of a pair; its moving label map, moved both ways, is left in a folder."""
    whole = read_transform(pair.transform)
    ways = {"after": whole, "before": before_fields(whole)}
    if pair.labels is not None:
        fixed, moving = io.read_geometry(pair.labels[0]), io.read_label(pair.labels[1])
        for when, transform in ways.items():
            (place / when).mkdir(exist_ok=True)
            io.write(resample(moving, transform, fixed, "label"), place / when / f"{pair.id}.nii.gz")
    figures = _figures(pair, whole)
    errors, left_out = {}, tuple[str, ...]()
    if pair.fixed.points is not None and pair.moving.points is not None:
        ours, theirs, left_out = matched_points(pair.fixed.points, pair.moving.points)
        errors = {when: {"tre": float(tre_mm(each, ours.mm, theirs.mm).mean())} for when, each in ways.items()}
    return _Measured(
        after={**figures, **errors.get("after", {})},
        before=errors.get("before", {}),
        notes=(*pair.warnings, *left_out, *_doubts(pair, whole, figures)),
    )


def _figures(pair: RegisteredPair, whole: Transform) -> dict[str, float]:
    image = io.read(pair.fixed.image)
    grid, mask = image.geometry, counted_of(pair, image)
    determinants = jacobian(whole, grid)
    found = {
        "folding": folding_percent(determinants, mask),
        "sd_log_jacobian": sd_log_jacobian(determinants, mask),
        "min_jacobian": min_jacobian(determinants, mask),
        "displacement": _displacement_mm(whole, grid, mask),
    }
    if pair.inverse.is_file():
        errors = inverse_consistency_mm(whole, read_transform(pair.inverse), grid, mask)
        found |= {"inverse_consistency": float(errors.mean()), "inverse_consistency_max": float(errors.max())}
    if pair.seconds:
        found["seconds"] = math.fsum(pair.seconds.values())
    if pair.peak_bytes is not None:
        found["memory"] = pair.peak_bytes / GIB
    return found


def counted_of(pair: RegisteredPair, image: Volume) -> NDArray[np.bool_]:
    """(I, J, K) which voxels of a pair's fixed image count, see `medmamba.evaluation.deformation.counted`.

    Raises:
        DataError: if its mask cannot be read, or marks nothing.
    """
    mask = pair.fixed.mask
    return counted(image, None if mask is None else io.read_label(mask, within=image.geometry))


def _displacement_mm(whole: Transform, grid: Geometry, mask: NDArray[np.bool_]) -> float:
    """Mean way that the fields take points, those after an affine map where it takes them."""
    mm = np.argwhere(mask) @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    way = np.zeros(len(mm))
    for step in whole.steps:
        moved = step.points(mm)
        if isinstance(step, Field):
            way += np.linalg.norm(moved - mm, axis=1)
        mm = moved
    return float(way.mean())


def _doubts(pair: RegisteredPair, whole: Transform, figures: dict[str, float]) -> list[str]:
    """What makes a field doubtful and was not said by who made it."""
    said, doubts = " ".join(pair.warnings), []
    if figures["folding"] > MUCH_FOLDING and "fold" not in said:
        doubts.append(f"the field folds in {figures['folding']:.2g} % of the voxels")
    spacings = [min(step.geometry.spacing_mm) for step in whole.steps if isinstance(step, Field)]
    if spacings and figures["displacement"] < LITTLE_VOXELS * min(spacings) and "zero" not in said:
        doubts.append(f"the field is next to zero, {figures['displacement']:.2g} mm in the mean")
    return doubts


def _matches(pairs: Sequence[RegisteredPair], failed: Sequence[Unregistered], place: Path) -> list[Match]:
    """The moved label map of each pair that has two, against the fixed one; of pairs that failed there is none."""
    found = []
    for pair in pairs:
        if pair.labels is not None:
            moved = place / f"{pair.id}.nii.gz"
            found.append(Match(id=pair.id, reference=pair.labels[0], prediction=moved if moved.is_file() else None))
    lost = [Match(id=each.id, reference=each.label, prediction=None) for each in failed if each.label is not None]
    return sorted((*found, *lost), key=lambda match: match.id)


def _structures(pairs: Sequence[RegisteredPair], matches: Sequence[Match], labels: str, progress: Progress) -> Labels:
    """What values mean, by what the user says or what lies beside the first label map, else every value there is."""
    fixed, moving = next(pair.labels for pair in pairs if pair.labels is not None)
    found = find_meaning(moving, fixed, labels)
    return found.labels if found else labels_in(_distinct(matches), progress)


def _distinct(matches: Sequence[Match]) -> list[Match]:
    """One of each reference: an atlas is in all pairs."""
    return list({match.reference: match for match in matches}.values())


def _large(report: Report, least_ml: float) -> Report:
    """The report with the structures that are large enough in the mean over pairs."""
    volumes: dict[str, list[float]] = {label.name: [] for label in report.labels.foreground}
    for case in report.cases:
        for score in case.scores:
            if score.reference_ml is not None:
                volumes[score.label].append(score.reference_ml)
    kept = [name for name, ml in volumes.items() if not least_ml or (ml and math.fsum(ml) / len(ml) >= least_ml)]
    if not kept:
        raise UsageError(f"no structure takes {least_ml:g} ml in the mean of the fixed label maps; ask for less")
    return report.of_labels(kept)


def _words(pairs: Sequence[RegisteredPair]) -> str:
    """What registered, by the record of the first pair."""
    told = pairs[0].decisions
    return ", ".join(f"{what}: {told[what]}" for what in ("alignment", "network", "refinement") if what in told)


def _with_figures(
    report: Report | None, measured: dict[str, tuple[_Measured, dict[str, float]]], names: Sequence[str] = ()
) -> Report:
    """A report with figures of whole pairs, also of those without label maps; without any these are its metrics."""
    scored = {case.id: case for case in report.cases} if report else {}
    cases = []
    for pair, (known, figures) in sorted(measured.items()):
        case = scored.get(pair, CaseScore(id=pair, status="failed" if known.failed else "scored"))
        if known.failed:  # for a reason that is known, other than a prediction that was never made
            case = replace(case, status="skipped" if case.status == "skipped" else "failed", notes=())
        notes = dict.fromkeys((*known.notes, *case.notes))
        cases.append(replace(case, figures=figures, notes=tuple(notes)))
    if report is not None:
        return replace(report, cases=tuple(cases))
    labels = Labels(foreground=(Label(name=WHOLE_PAIR, values=(1,)),))
    alone = Report(labels=labels, metrics=(), cases=tuple(cases))
    return alone.whole(names or alone.figures)
