"""From files to series: what belongs together, in which order, and what keeps it from being an even stack."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np

from medmamba.io.dicom.instances import MARKS, Instance, Skipped, Slice, no_decoder, read_headers
from medmamba.io.dicom.planes import Kind, Phase, Plane, Problem, Series
from medmamba.progress import Progress, silent
from medmamba.volume import FloatArray

#: Steps between slices may differ by this share.
EVEN_SHARE = 0.01
#: Slices may be shifted against one another, away from their normal, by this share of a pixel.
UPRIGHT_PIXELS = 0.2
#: Slices closer than this share of a pixel lie at one position.
_SAME_PIXELS = 0.01
#: Directions of one stack differ by no more than this, each coordinate.
_SAME_DIRECTION = 1e-3
#: Positions that a message names.
_NAMED = 5

Going = Literal["refuse", "resample"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """How to go on where a series is no even, right-angled stack; by default not at all.

    Args:
        uneven: resample steps that differ, also where slices are missing, to even ones.
        tilt: resample slices that are shifted against one another to a right-angled grid.
        phase: number from 1, or name, of what is repeated at each position.
        duplicates: where some positions are there twice, take the slice that was made first or last.
    """

    uneven: Going = "refuse"
    tilt: Going = "refuse"
    phase: str = ""
    duplicates: Literal["refuse", "first", "last"] = "refuse"


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What is in a folder of DICOM files.

    Args:
        series: stacks, those of one series behind one another; sorted by study, series number and UID.
        skipped: what is no scan, and how many files are.
    """

    series: tuple[Series, ...]
    skipped: tuple[tuple[str, int], ...]


def explore(files: Iterable[Path], progress: Progress = silent) -> Export:
    """Group files to series by their headers.

    Raises:
        OSError: if a file cannot be read.
    """
    read = read_headers(list(files), progress)
    skipped = Counter(each.kind for each in read if isinstance(each, Skipped))
    grouped: dict[tuple[str, str], dict[str, Instance]] = {}
    for each in read:
        if isinstance(each, Instance):
            known = grouped.setdefault((each.study_uid, each.series_uid), {})
            skipped["copy of another file"] += each.uid in known
            known.setdefault(each.uid, each)
    for known in grouped.values():
        lost = [uid for uid, each in known.items() if each.lost]
        if len(lost) < len(known):  # such as a summary that is derived from the slices
            skipped["image without a place in space"] += len(lost)
            for uid in lost:
                del known[uid]
    series = [stack for known in grouped.values() for stack in _stacks(list(known.values()))]
    series.sort(key=lambda each: (each.study_uid, each.number or 0, each.uid, each.part))
    return Export(series=tuple(series), skipped=tuple(sorted((+skipped).items())))


def _stacks(instances: Sequence[Instance]) -> Iterator[Series]:
    """The stacks of one series, told apart by frame of reference, size of slices and pixels, and orientation."""
    if instances[0].lost:
        yield _series(instances[0], (), [Problem(kind="position", message=f"no place in space: {instances[0].lost}")])
    groups = list[tuple[Instance, list[Slice]]]()
    for instance in instances:
        for each in instance.slices:
            for first, members in groups:
                if first.frame_of_reference_uid == instance.frame_of_reference_uid and _alike(members[0], each):
                    members.append(each)
                    break
            else:
                groups.append((instance, [each]))
    groups.sort(key=lambda group: (-len(group[1]), min(each.order for each in group[1])))
    several = _several([members for _, members in groups])
    for part, (instance, members) in enumerate(groups, start=1):
        phases, problems = _arranged(members)
        found = _series(instance, phases, problems)
        if several is not None:
            option = f"--series {instance.series_uid}#{part}"
            apart = replace(several, option=option)
            found = replace(found, part=part, problems=(apart, *found.problems))
        yield found


def _series(instance: Instance, phases: tuple[Phase, ...], problems: Iterable[Problem]) -> Series:
    unreadable = []
    if instance.colours:
        unreadable.append(f"it is in colours ({instance.colours}), which have no intensity")
    if reason := no_decoder(instance.transfer_syntax):
        unreadable.append(reason)
    return Series(
        uid=instance.series_uid,
        study_uid=instance.study_uid,
        frame_of_reference_uid=instance.frame_of_reference_uid,
        modality=instance.modality,
        description=instance.description,
        sequence=instance.sequence,
        number=instance.number,
        phases=phases,
        problems=(*problems, *(Problem(kind="pixels", message=message) for message in unreadable)),
        transfer_syntax=instance.transfer_syntax,
    )


def _alike(one: Slice, other: Slice) -> bool:
    a, b = one.plane, other.plane
    return (
        a.shape == b.shape
        and np.allclose(a.spacing_mm, b.spacing_mm, rtol=EVEN_SHARE, atol=0)
        and np.allclose((a.row, a.column), (b.row, b.column), rtol=0, atol=_SAME_DIRECTION)
    )


def _several(groups: Sequence[Sequence[Slice]]) -> Problem | None:
    """What is said of a series of several stacks; None for one."""
    if len(groups) < 2:
        return None
    firsts = [group[0].plane for group in groups]
    kind: Kind = "orientation"
    what = f"{len(groups)} orientations or frames of reference"
    if len({plane.shape for plane in firsts}) > 1 or not all(
        np.allclose(plane.spacing_mm, firsts[0].spacing_mm, rtol=EVEN_SHARE, atol=0) for plane in firsts
    ):
        kind, what = "size", f"slices of {len(groups)} sizes or orientations"
    stacks = "; ".join(
        f"#{part} {len(group)} of {plane.shape[1]} x {plane.shape[0]} pixels, {facing(plane)}, at "
        f"{_places([each.plane.depth_mm for each in group])}"
        for part, (group, plane) in enumerate(zip(groups[:_NAMED], firsts, strict=False), start=1)
    )
    more = f"; and {len(groups) - _NAMED} more" if len(groups) > _NAMED else ""
    return Problem(kind=kind, message=f"one series holds {what}: {stacks}{more}")


def facing(plane: Plane) -> str:
    """How a plane lies, by the axis of the body that its normal is closest to."""
    axis = int(np.abs(plane.normal).argmax())
    angle = math.degrees(math.acos(min(1.0, float(np.abs(plane.normal[axis])))))
    return f"{('sagittal', 'coronal', 'axial')[axis]}{f', {angle:.0f} degrees oblique' if angle > 1 else ''}"


def _arranged(slices: list[Slice]) -> tuple[tuple[Phase, ...], list[Problem]]:
    """Slices in order along their normal, phase by phase, and what is wrong with them."""
    places = _by_place(slices)
    phases = _phases(places)
    if len(phases) == 1:
        return phases, problems_of(phases[0].planes)
    depths = [group[0].plane.depth_mm for group in places]
    names = ", ".join(f"{number} {phase.name}" for number, phase in enumerate(phases[:_NAMED], start=1))
    more = f" and {len(phases) - _NAMED} more" if len(phases) > _NAMED else ""
    message = f"{len(phases)} slices at each position ({_places(depths)}): {names}{more}"
    first = problems_of(phases[0].planes)
    return phases, [Problem(kind="repeated", message=message, option="--phase 1"), *first]


def _by_place(slices: list[Slice]) -> list[list[Slice]]:
    tolerance = _SAME_PIXELS * min(slices[0].plane.spacing_mm)
    places: list[list[Slice]] = []
    for each in sorted(slices, key=lambda each: each.plane.depth_mm):
        if places and each.plane.depth_mm - places[-1][0].plane.depth_mm <= tolerance:
            places[-1].append(each)
        else:
            places.append([each])
    for place in places:
        place.sort(key=lambda each: each.order)
    return places


def _phases(places: list[list[Slice]]) -> tuple[Phase, ...]:
    """Whole stacks at the same positions; one where positions are there once, or some of them twice by mistake."""
    whole = (Phase(name="", planes=tuple(each.plane for place in places for each in place)),)
    if max(map(len, places)) == 1:
        return whole
    words = tuple(dict.fromkeys(MARKS.values()))
    for marks in (*combinations(words, 1), *combinations(words, 2)):
        if phases := _told_by(marks, places):
            return phases
    count = len(places[0])
    if any(len(place) != count for place in places):
        return whole
    return tuple(
        Phase(name=f"in order {number + 1}", planes=tuple(place[number].plane for place in places))
        for number in range(count)
    )


def _told_by(marks: tuple[str, ...], places: list[list[Slice]]) -> tuple[Phase, ...]:
    """Phases by the values of some attributes, if these make stacks of them that each have most of the positions."""
    found: dict[tuple[str, ...], list[Plane]] = {}
    for place in places:
        values = [tuple(each.marks.get(mark, "") for mark in marks) for each in place]
        if len(set(values)) < len(values):
            return ()
        for value, each in zip(values, place, strict=True):
            found.setdefault(value, []).append(each.plane)
    if len(found) < 2 or min(map(len, found.values())) * 2 < len(places):
        return ()
    ordered = sorted(found, key=lambda value: tuple(map(_rank, value)))
    return tuple(
        Phase(name=_phase_name(marks, value, number), planes=tuple(found[value]))
        for number, value in enumerate(ordered, start=1)
    )


def _rank(value: str) -> tuple[float, str]:
    try:
        return float(value), ""
    except ValueError:
        return math.inf, value


def _phase_name(marks: tuple[str, ...], value: tuple[str, ...], number: int) -> str:
    # Of a time of the day only the order matters.
    return ", ".join(
        f"{m} {number if m == 'time' else v.replace(chr(92), '/')}" for m, v in zip(marks, value, strict=True)
    )


def problems_of(planes: Sequence[Plane]) -> list[Problem]:
    """What keeps the planes of one phase, sorted by depth, from being an even, right-angled stack."""
    depths = np.array([plane.depth_mm for plane in planes])
    tolerance = _SAME_PIXELS * min(planes[0].spacing_mm)
    steps = np.diff(depths)
    found = list[Problem]()
    if len(twice := depths[1:][steps <= tolerance]):
        message = f"positions are there more than once: {_places(twice)}"
        found.append(Problem(kind="duplicate", message=message, option="--duplicates first"))
    steps = steps[steps > tolerance]
    once = depths[np.concatenate([[True], np.diff(depths) > tolerance])]
    if len(steps) and (gap := _gaps(once, steps)) is not None:
        found.append(gap)
    shifts = shifts_pixels(planes)
    if np.abs(shifts).max() > UPRIGHT_PIXELS:
        found.append(_tilt(planes, shifts))
    return found


def is_even(steps: FloatArray) -> bool:
    """Whether steps between slices count as equal."""
    usual = np.median(steps)
    return bool((np.abs(steps - usual) <= EVEN_SHARE * usual).all())


def base_step(steps: FloatArray) -> tuple[float, bool]:
    """The step that a stack is made of, and whether all steps are whole numbers of it, so that slices are missing."""
    smallest = float(steps[steps <= steps.min() * (1 + EVEN_SHARE)].mean())
    whole = np.rint(steps / smallest)
    are_whole = (np.abs(steps / smallest - whole) <= EVEN_SHARE * whole).all()
    if are_whole and whole.max() > 1 and 2 * (whole == 1).sum() >= len(steps):
        return smallest, True
    return float(np.median(steps)), False


def step_mm(planes: Sequence[Plane]) -> float:
    """The usual distance between slices, sorted by depth; of a single one its thickness."""
    steps = np.diff([plane.depth_mm for plane in planes])
    steps = steps[steps > _SAME_PIXELS * min(planes[0].spacing_mm)]
    return base_step(steps)[0] if len(steps) else planes[0].thickness_mm


def _gaps(depths: FloatArray, steps: FloatArray) -> Problem | None:
    if is_even(steps):
        return None
    base, is_whole = base_step(steps)
    odd = np.abs(steps - base) > EVEN_SHARE * base
    named = [f"{depths[i]:.2f} to {depths[i + 1]:.2f} ({steps[i]:.3g})" for i in np.flatnonzero(odd)]
    where = ", ".join(named[:_NAMED]) + (f" and {len(named) - _NAMED} more" if len(named) > _NAMED else "")
    if is_whole:
        count = int(np.rint(steps / base).sum()) - len(steps)
        missing = f"{count} slice{'s are' if count > 1 else ' is'} missing"
        message = f"{missing}: steps are {base:.4g} mm, but there are gaps from {where} mm"
        return Problem(kind="missing", message=message, option="--uneven resample")
    message = f"steps between slices differ, from {steps.min():.4g} to {steps.max():.4g} mm: {where} mm"
    return Problem(kind="uneven", message=message, option="--uneven resample")


def shifts_pixels(planes: Sequence[Plane]) -> FloatArray:
    """(planes, 2) how far slices lie from the normal through the first one's corner, in columns and in rows."""
    first = planes[0]
    away = np.array([plane.position_mm for plane in planes]) - first.position_mm
    between_rows, between_columns = first.spacing_mm
    return np.column_stack([away @ first.row / between_columns, away @ first.column / between_rows])


def _tilt(planes: Sequence[Plane], shifts: FloatArray) -> Problem:
    shift_mm = np.linalg.norm(shifts * planes[0].spacing_mm[::-1], axis=1)
    worst = int(shift_mm.argmax())
    first, last = planes[0].depth_mm, planes[worst].depth_mm
    angle = math.degrees(math.atan2(float(shift_mm[worst]), abs(last - first)))
    message = (
        f"slices are shifted against one another, by {shift_mm[worst]:.2f} mm from {first:.2f} to {last:.2f} mm: a "
        f"tilt of {angle:.1f} degrees"
    )
    return Problem(kind="tilt", message=message, option="--tilt resample")


def settled(series: Series, choice: Choice, *, named: bool = False) -> Series:
    """The phase that is read, and those problems alone that the choice does not go on with.

    Args:
        series: as `explore` found it.
        choice: how to go on.
        named: whether this part of a series was asked for by name.
    """
    phases, open_problems = series.phases, list[Problem]()
    for problem in series.problems:
        if problem.kind in ("position", "pixels") or (problem.kind in ("orientation", "size") and not named):
            open_problems.append(problem)
        elif problem.kind == "repeated":
            chosen = [phase for number, phase in enumerate(phases, 1) if choice.phase in (str(number), phase.name)]
            if len(chosen) == 1:
                phases = tuple(chosen)
            else:
                open_problems.append(problem)
    if len(phases) != 1:
        return replace(series, problems=tuple(open_problems))
    planes = phases[0].planes
    if choice.duplicates != "refuse":
        planes = _without_duplicates(planes, choice.duplicates)
    goes_on = {"uneven": choice.uneven, "missing": choice.uneven, "tilt": choice.tilt}
    open_problems += [each for each in problems_of(planes) if goes_on.get(each.kind) != "resample"]
    phase = replace(phases[0], planes=planes)
    return replace(series, phases=(phase,), problems=tuple(open_problems))


def _without_duplicates(planes: tuple[Plane, ...], keep: str) -> tuple[Plane, ...]:
    tolerance = _SAME_PIXELS * min(planes[0].spacing_mm)
    kept = list[Plane]()
    for plane in planes:
        if kept and plane.depth_mm - kept[-1].depth_mm <= tolerance:
            kept[-1] = plane if keep == "last" else kept[-1]
        else:
            kept.append(plane)
    return tuple(kept)


def _places(depths: Iterable[float]) -> str:
    """Places along the normal for people."""
    ordered = sorted(depths)
    if len(ordered) <= _NAMED:
        return f"{', '.join(f'{depth:.2f}' for depth in ordered)} mm"
    return f"{ordered[0]:.2f} to {ordered[-1]:.2f} mm"
