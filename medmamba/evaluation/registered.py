"""Registrations held against label maps and landmarks, before and after, and what their transforms do to space.

A folder is one that `medmamba register` wrote, or of any other software in the same form: ``registration.json`` with
``{"pairs": {ID: {"status": "done"}}}``, and for each pair a folder with ``transform.h5`` (from the fixed to the moving
image), ``inverse.h5`` where there is one, and ``run.json`` with the files of both sides::

    {"fixed": {"image": PATH, "label": PATH, "points": PATH, "mask": PATH}, "moving": {...}, "seconds": {"all": 12.5}}

Everything is measured anew from these: the moving label map is brought onto the grid of the fixed one, by one
interpolation, with the whole transform and with its affine maps alone.
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
from medmamba.case import some
from medmamba.engines import Failure, map_cases, suited
from medmamba.errors import DataError, UsageError
from medmamba.evaluation.deformation import (
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
from medmamba.evaluation.report import WHOLE_PAIR, Report
from medmamba.evaluation.scores import CaseScore, Origin, Policy
from medmamba.io.formats.transforms import read_transform
from medmamba.io.landmarks import matched_points
from medmamba.io.sizes import largest_voxels
from medmamba.labels import Label, Labels
from medmamba.progress import Progress, silent
from medmamba.records import RecordError, from_json, read_json, write_json
from medmamba.transform import Affine, Field, Transform, resample
from medmamba.volume import Geometry, Volume

#: What the folder holds: the pairs, and of each what it was made of; transforms both ways.
OVERVIEW, RECORD, TRANSFORM, INVERSE = "registration.json", "run.json", "transform.h5", "inverse.h5"
#: The report of the same pairs before their fields, beside that of registration.
BEFORE_FILE = "before.json"
#: What a report calls the pairs aligned by affine maps alone, and as their headers have them where there are none.
ALIGNED, UNTOUCHED = "affine alone", "before"
#: A voxel is background up to this share of the range from the smallest value to the 99.5th percentile.
BACKGROUND = 0.02
#: More folding than this, in percent, and less displacement than this, in voxels, is worth a word.
MUCH_FOLDING, LITTLE_VOXELS = 1.0, 0.02
#: Memory a voxel takes about while a pair is measured.
VOXEL_BYTES = 160
GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """The files of one image, as a record has them."""

    image: Path
    id: str = ""
    label: Path | None = None
    points: Path | None = None
    mask: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredPair:
    """A pair in a folder of registrations.

    Args:
        id: also the name of its folder.
        folder: where its transforms are.
        fixed: files of the fixed image.
        moving: of the moving one.
        seconds: that it took, by stage.
        peak_bytes: memory.
        warnings: what makes the result doubtful.
        decisions: how it was done, by what it is about.
    """

    id: str
    folder: Path
    fixed: Side
    moving: Side
    seconds: dict[str, float] = field(default_factory=dict)
    peak_bytes: int | None = None
    warnings: tuple[str, ...] = ()
    decisions: dict[str, str] = field(default_factory=dict)

    @property
    def labels(self) -> tuple[Path, Path] | None:
        """Label maps of the fixed and the moving image, where both have one."""
        return None if self.fixed.label is None or self.moving.label is None else (self.fixed.label, self.moving.label)

    def read_transform(self) -> Transform:
        """From the fixed to the moving image."""
        return read_transform(self.folder / TRANSFORM)


def is_registered(folder: Path) -> bool:
    """Whether this is a folder of registrations."""
    return (folder / OVERVIEW).is_file()


def read_pairs(folder: Path) -> tuple[tuple[RegisteredPair, ...], dict[str, str]]:
    """The pairs in a folder of registrations, sorted by id, and why others have no transform.

    Raises:
        DataError: if a record is damaged, or the folder holds no pair that is registered.
    """
    path = folder / OVERVIEW
    overview = read_json(path)
    if not isinstance(overview, dict) or not isinstance(overview.get("pairs"), dict):
        raise RecordError(f"{path} does not list 'pairs', as a record of `medmamba register` does; give another folder")
    found, failed = [], {}
    for name in sorted(overview["pairs"]):
        place = folder / name
        if (place / RECORD).is_file() and (place / TRANSFORM).is_file():
            found.append(_pair(name, place))
        else:
            told = overview["pairs"][name]
            reason = told.get("message") if isinstance(told, dict) else ""
            failed[name] = reason or f"there is no {TRANSFORM}"
    if not found:
        raise DataError(f"{folder} holds no pair that is registered; {some(list(failed.values()), 1) or 'it is empty'}")
    return tuple(found), failed


def _pair(name: str, place: Path) -> RegisteredPair:
    facts, where = read_json(place / RECORD), str(place / RECORD)
    if not isinstance(facts, dict) or not {"fixed", "moving"} <= facts.keys():
        raise RecordError(f"{where} does not name the files of 'fixed' and 'moving', as that of a registered pair does")

    def known(data: Any, names: Sequence[str]) -> Any:
        return {key: data[key] for key in names if key in data} if isinstance(data, dict) else data

    sides = {side: known(facts[side], ("image", "id", "label", "points", "mask")) for side in ("fixed", "moving")}
    rest = known(facts, ("seconds", "peak_bytes", "warnings", "decisions"))
    return from_json(RegisteredPair, {"id": name, "folder": str(place), **sides, **rest}, where)


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
        policy: likewise.
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
        } | {pair: _Measured(notes=(reason,), failed=True) for pair, reason in failed.items()}
        matches = {when: _matches(pairs, place / when) for when in ("after", "before")}
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
    aligned = any(isinstance(step, Affine) for step in pairs[0].read_transform().steps)
    after = _with_figures(made[0], {pair: (known, known.after) for pair, known in measured.items()})
    after = replace(after, origin=origin, name=name or folder.resolve().name)
    if made[1] is None and not any(known.before for known in measured.values()):
        return (after,)
    before = _with_figures(made[1], {pair: (known, known.before) for pair, known in measured.items()}, after.metrics)
    return after, replace(before, origin=origin, name=ALIGNED if aligned else UNTOUCHED)


def save_before(report: Report, folder: Path) -> Path:
    """Write the report of pairs before registration beside that after it, for `medmamba report` to show both."""
    write_json(report.to_json(), folder / BEFORE_FILE)
    return folder / BEFORE_FILE


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
    whole = pair.read_transform()
    ways = {"after": whole, "before": before_fields(whole)}
    if pair.labels is not None:
        fixed, moving = io.read_geometry(pair.labels[0]), io.read_label(pair.labels[1])
        for when, transform in ways.items():
            (place / when).mkdir(exist_ok=True)
            io.write(resample(moving, transform, fixed, "label"), place / when / f"{pair.id}.nii.gz")
    figures = _figures(pair, whole)
    errors = {}
    if pair.fixed.points is not None and pair.moving.points is not None:
        ours, theirs = matched_points(pair.fixed.points, pair.moving.points)
        errors = {when: {"tre": float(tre_mm(each, ours.mm, theirs.mm).mean())} for when, each in ways.items()}
    return _Measured(
        after={**figures, **errors.get("after", {})},
        before=errors.get("before", {}),
        notes=(*pair.warnings, *_doubts(pair, whole, figures)),
    )


def _figures(pair: RegisteredPair, whole: Transform) -> dict[str, float]:
    image = io.read(pair.fixed.image)
    grid, mask = image.geometry, counted(image, pair.fixed.mask)
    determinants = jacobian(whole, grid)
    found = {
        "folding": folding_percent(determinants, mask),
        "sd_log_jacobian": sd_log_jacobian(determinants, mask),
        "min_jacobian": min_jacobian(determinants, mask),
        "displacement": _displacement_mm(whole, grid, mask),
    }
    if (pair.folder / INVERSE).is_file():
        errors = inverse_consistency_mm(whole, read_transform(pair.folder / INVERSE), grid, mask)
        found |= {"inverse_consistency": float(errors.mean()), "inverse_consistency_max": float(errors.max())}
    if pair.seconds:
        found["seconds"] = math.fsum(pair.seconds.values())
    if pair.peak_bytes is not None:
        found["memory"] = pair.peak_bytes / GIB
    return found


def counted(image: Volume, mask: Path | None) -> NDArray[np.bool_]:
    """(I, J, K) which voxels of the fixed image count: those in its mask, or those that are not background.

    Raises:
        DataError: if the mask lies on another grid, or marks nothing.
    """
    array = image.array[0]
    if mask is None:
        low, high = float(array.min()), float(np.percentile(array, 99.5))
        inside = np.asarray(array > low + BACKGROUND * (high - low))
        return inside if inside.any() else np.ones(array.shape, dtype=bool)
    volume = io.read_label(mask, within=image.geometry)
    marked = resample(Volume((volume.array != 0).astype(np.uint8), volume.geometry), Transform(), image.geometry,
                      "nearest").array[0] > 0  # fmt: skip
    if not marked.any():
        raise DataError(f"{mask} marks nothing of the fixed image; look at both")
    return np.asarray(marked)


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


def _matches(pairs: Sequence[RegisteredPair], place: Path) -> list[Match]:
    """The moved label map of each pair that has two, against the fixed one."""
    found = []
    for pair in pairs:
        if pair.labels is not None:
            moved = place / f"{pair.id}.nii.gz"
            found.append(Match(id=pair.id, reference=pair.labels[0], prediction=moved if moved.is_file() else None))
    return found


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
        notes = dict.fromkeys((*known.notes, *case.notes))
        cases.append(replace(case, figures=figures, notes=tuple(notes)))
    if report is not None:
        return replace(report, cases=tuple(cases))
    labels = Labels(foreground=(Label(name=WHOLE_PAIR, values=(1,)),))
    alone = Report(labels=labels, metrics=(), cases=tuple(cases))
    return alone.whole(names or alone.figures)
