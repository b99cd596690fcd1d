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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmamba import io
from medmamba.engines import Failure, map_cases, suited
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
from medmamba.evaluation.origin import versions
from medmamba.evaluation.registered_folder import MUCH_FOLDING, RegisteredPair, Unregistered, read_pairs
from medmamba.evaluation.registered_labels import LabelMaps
from medmamba.evaluation.report import WHOLE_PAIR, Report
from medmamba.evaluation.scores import CaseScore, Origin, Policy, Status
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
#: Figures of a pair with landmarks that failed: an error that is worse than any other; the rest is not known.
LOST = {"tre": math.inf}


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
        policy: likewise; a pair that failed is a missing prediction, whose landmarks are infinitely far apart.
        least_ml: structures of less volume than this in the mean of the fixed label maps are left out.
        name: of the method; with none, the folder's.
        workers: pairs worked on at the same time; each needs memory for images and fields.
        progress: told after each pair.

    Returns:
        After registration and, where there are label maps or landmarks, before it. Structures that one of a pair's
        label maps lacks are undefined for that pair. Pairs without label maps have figures alone; where no pair has
        any, these are the report's metrics.

    Raises:
        DataError: if the folder or its labels are wrong.
        UsageError: for an unknown metric, or where no structure is large enough.
    """
    pairs, failed = read_pairs(folder)
    policy = policy or Policy()
    how: dict[str, Any] = {
        "metrics": metrics or ("standard",), "policy": policy, "workers": workers, "progress": progress
    }  # fmt: skip
    with TemporaryDirectory() as temporary:
        place = Path(temporary)
        voxels = largest_voxels([side.image for pair in pairs for side in (pair.fixed, pair.moving)])
        engine = suited(len(pairs), at_most=workers, case_bytes=VOXEL_BYTES * voxels)
        outcomes = map_cases(partial(_measure, place=place), pairs, engine, title="Transforms", progress=progress)
        measured = {
            pair.id: _Measured(notes=(outcome.reason,), failed=True) if isinstance(outcome, Failure) else outcome
            for pair, outcome in zip(pairs, outcomes, strict=True)
        } | {each.id: _Measured(notes=(each.reason,), failed=True) for each in failed}
        asked: tuple[RegisteredPair | Unregistered, ...] = (*pairs, *failed)
        for pair in asked:
            if policy.missing == "fail" and measured[pair.id].failed and pair.points is not None:
                measured[pair.id] = replace(measured[pair.id], after=LOST, before=LOST)
        maps = LabelMaps.read(asked, workers=workers, progress=progress)
        structures = maps.meaning(labels) if maps.pairs else None
        made = [
            maps.large(maps.of_pairs(evaluate(maps.matches(place / when), structures, **how)), least_ml)
            if structures
            else None
            for when in ("after", "before")
        ]
    model = _words(pairs)
    origin = Origin(prediction=folder.resolve(), model=model, versions=versions())
    aligned = any(isinstance(step, Affine) for step in read_transform(pairs[0].transform).steps)
    after = _with_figures(made[0], {pair: (known, known.after) for pair, known in measured.items()}, policy)
    after = replace(after, origin=origin, name=name or folder.resolve().name)
    if made[1] is None and not any(known.before for known in measured.values()):
        return (after,)
    before = _with_figures(
        made[1], {pair: (known, known.before) for pair, known in measured.items()}, policy, after.metrics
    )
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
    if pair.points is not None:
        ours, theirs, left_out = matched_points(*pair.points)
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
        found["memory"] = pair.peak_bytes / 1e9
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


def _words(pairs: Sequence[RegisteredPair]) -> str:
    """What registered, by the record of the first pair."""
    told = pairs[0].decisions
    return ", ".join(f"{what}: {told[what]}" for what in ("alignment", "network", "refinement") if what in told)


def _with_figures(
    report: Report | None,
    measured: dict[str, tuple[_Measured, dict[str, float]]],
    policy: Policy,
    names: Sequence[str] = (),
) -> Report:
    """A report with figures of whole pairs, also of those without label maps; without any these are its metrics."""
    scored = {case.id: case for case in report.cases} if report else {}
    cases = []
    for pair, (known, figures) in sorted(measured.items()):
        case = scored.get(pair, CaseScore(id=pair, status="scored"))
        if known.failed:  # for a reason that is known, other than a prediction that was never made
            left_out = policy.missing == "skip"
            status: Status = "skipped" if left_out else "failed"
            case = replace(case, status=status, notes=(), scores=() if left_out else case.scores)
        notes = dict.fromkeys((*known.notes, *case.notes))
        cases.append(replace(case, figures=figures, notes=tuple(notes)))
    if report is not None:
        return replace(report, cases=tuple(cases))
    labels = Labels(foreground=(Label(name=WHOLE_PAIR, values=(1,)),))
    alone = Report(labels=labels, metrics=(), cases=tuple(cases), policy=policy)
    return alone.whole(names or alone.figures)
