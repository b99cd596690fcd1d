"""Slices in order along their normal, phase by phase, and what keeps them from being even, right-angled stacks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np

from medmamba.io.dicom.planes import Phase, Plane, Problem
from medmamba.io.dicom.slices import MARKS, TIMES, Slice
from medmamba.volume import FloatArray

#: Steps between slices may differ by this share.
EVEN_SHARE = 0.01
#: Slices may lie this share of a step away from where an even stack has them: small steps add up.
_OFF_GRID = 0.05
#: Slices may be shifted against one another, away from their normal, by this share of a pixel.
UPRIGHT_PIXELS = 0.2
#: Slices closer than this share of a pixel lie at one position.
_SAME_PIXELS = 0.01
#: Positions that a message names.
NAMED = 5


def arranged(slices: list[Slice]) -> tuple[tuple[Phase, ...], list[Problem]]:
    """Slices in order along their normal, phase by phase, and what is wrong with them."""
    places = _by_place(slices)
    phases = _phases(places)
    if len(phases) == 1:
        return phases, problems_of(phases[0].planes)
    found = problems_of(phases[0].planes)
    for phase in phases[1:]:
        known = [each.message for each in found]
        found += [
            Problem(kind=each.kind, message=f"{phase.name}: {each.message}", option=each.option)
            for each in problems_of(phase.planes)
            if each.message not in known
        ]
    return phases, [_repeated(places, phases), *found]


def _repeated(places: list[list[Slice]], phases: tuple[Phase, ...]) -> Problem:
    """That there are several slices at one position: at each, or where stacks overlap."""
    depths = [group[0].plane.depth_mm for group in places]
    lacking = any(phase.lacks for phase in phases)
    names = ", ".join(
        f"{number} {phase.name}" + (f" ({phase.lacks})" if lacking and phase.lacks else "")
        for number, phase in enumerate(phases[:NAMED], start=1)
    )
    more = f" and {len(phases) - NAMED} more" if len(phases) > NAMED else ""
    if not lacking:
        message = f"{len(phases)} slices at each position ({places_in_words(depths)}): {names}{more}"
        return Problem(kind="repeated", message=message, option="--phase 1")
    several = [depth for depth, group in zip(depths, places, strict=True) if len(group) > 1]
    message = (
        f"{len(phases)} stacks that share {len(several)} of {len(places)} positions ({listed_places(several)}): "
        f"{names}{more}"
    )
    if 2 * len(several) > len(places):
        return Problem(kind="overlap", message=message, option="--phase 1")
    message += "; --phase takes one stack, and leaves the other positions out"
    return Problem(kind="overlap", message=message, option="--duplicates first")


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
    """Stacks that share positions: all of them, or some where they overlap.

    One where positions are there once, or some of them twice by mistake.
    """
    whole = (Phase(name="", planes=tuple(each.plane for place in places for each in place)),)
    if max(map(len, places)) == 1:
        return whole
    words = tuple(dict.fromkeys(MARKS.values()))
    told = [
        phases for marks in (*combinations(words, 1), *combinations(words, 2)) if (phases := _told_by(marks, places))
    ]
    if complete := [phases for phases in told if not any(phase.lacks for phase in phases)]:
        return complete[0]
    count = len(places[0])
    if all(len(place) == count for place in places):
        return tuple(
            Phase(name=f"in order {number + 1}", planes=tuple(place[number].plane for place in places))
            for number in range(count)
        )
    return told[0] if told else whole


def _told_by(marks: tuple[str, ...], places: list[list[Slice]]) -> tuple[Phase, ...]:
    """Phases by the values of some attributes, if these make stacks: each of most positions, or without gaps."""
    found: dict[tuple[str, ...], list[Plane]] = {}
    for place in places:
        values = [tuple(each.marks.get(mark, "") for mark in marks) for each in place]
        if len(set(values)) < len(values):
            return ()
        for value, each in zip(values, place, strict=True):
            found.setdefault(value, []).append(each.plane)
    if len(found) < 2 or not all(_is_stack(planes, len(places)) for planes in found.values()):
        return ()
    ordered = sorted(found, key=lambda value: tuple(map(_rank, value)))
    return tuple(
        Phase(
            name=_phase_name(marks, value, number),
            planes=tuple(found[value]),
            lacks="" if len(found[value]) == len(places) else _part(found[value], len(places)),
        )
        for number, value in enumerate(ordered, start=1)
    )


def _is_stack(planes: Sequence[Plane], positions: int) -> bool:
    if 2 * len(planes) >= positions:
        return True
    return len(planes) > 2 and is_even(np.diff([plane.depth_mm for plane in planes]))


def _part(planes: Sequence[Plane], positions: int) -> str:
    depths = [plane.depth_mm for plane in planes]
    return f"{len(planes)} of {positions} positions, {depths[0]:.2f} to {depths[-1]:.2f} mm"


def _rank(value: str) -> tuple[float, str]:
    try:
        return float(value), ""
    except ValueError:
        return math.inf, value


def _phase_name(marks: tuple[str, ...], value: tuple[str, ...], number: int) -> str:
    # Of a time of the day only the order matters.
    return ", ".join(
        f"{m} {number if m in TIMES else v.replace(chr(92), '/')}" for m, v in zip(marks, value, strict=True)
    )


def problems_of(planes: Sequence[Plane]) -> list[Problem]:
    """What keeps the planes of one phase, sorted by depth, from being an even, right-angled stack."""
    depths = np.array([plane.depth_mm for plane in planes])
    tolerance = _SAME_PIXELS * min(planes[0].spacing_mm)
    steps = np.diff(depths)
    found = list[Problem]()
    if len(twice := depths[1:][steps <= tolerance]):
        message = f"positions are there more than once: {listed_places(twice)}"
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
    """Whether steps between slices count as equal, one by one and all together."""
    usual = np.median(steps)
    return bool((np.abs(steps - usual) <= EVEN_SHARE * usual).all() and _drift(steps).max() <= _OFF_GRID * usual)


def _drift(steps: FloatArray) -> FloatArray:
    """How far slices lie from where they would in even steps from the first to the last one."""
    places = np.concatenate([[0.0], np.cumsum(steps)])
    drift: FloatArray = np.abs(places - np.linspace(0, places[-1], len(places)))
    return drift


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
    where = ", ".join(named[:NAMED]) + (f" and {len(named) - NAMED} more" if len(named) > NAMED else "")
    if is_whole:
        count = int(np.rint(steps / base).sum()) - len(steps)
        missing = f"{count} slice{'s are' if count > 1 else ' is'} missing"
        message = f"{missing}: steps are {base:.4g} mm, but there are gaps from {where} mm"
        return Problem(kind="missing", message=message, option="--uneven resample")
    if not len(named):
        drift = _drift(steps)
        where = f"up to {drift.max():.2f} mm, at {depths[drift.argmax()]:.2f} mm,"
        message = f"small differences add up: slices lie {where} away from even steps of {steps.mean():.4g} mm"
        return Problem(kind="uneven", message=message, option="--uneven resample")
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


def without_duplicates(phases: Sequence[Phase], keep: str) -> tuple[Plane, ...]:
    """Planes of one or several phases, sorted by depth: at each position the first or the last one.

    Args:
        phases: the planes of an earlier one come before those of a later one.
        keep: ``first`` or ``last``.
    """
    numbered = [(number, plane) for number, phase in enumerate(phases) for plane in phase.planes]
    tolerance = _SAME_PIXELS * min(numbered[0][1].spacing_mm)
    places: list[list[tuple[int, Plane]]] = []
    for each in sorted(numbered, key=lambda each: each[1].depth_mm):
        if places and each[1].depth_mm - places[-1][-1][1].depth_mm <= tolerance:
            places[-1].append(each)
        else:
            places.append([each])
    ordered = [sorted(place, key=lambda each: each[0]) for place in places]
    return tuple(place[-1 if keep == "last" else 0][1] for place in ordered)


def places_in_words(depths: Iterable[float]) -> str:
    """Places along the normal for people; of many the first and the last one."""
    ordered = sorted({round(depth, 2) for depth in depths})
    return listed_places(ordered) if len(ordered) <= NAMED else f"{ordered[0]:.2f} to {ordered[-1]:.2f} mm"


def listed_places(depths: Iterable[float]) -> str:
    """Places along the normal that may be far apart, for people."""
    ordered = sorted(depths)
    more = f" and {len(ordered) - NAMED} more" if len(ordered) > NAMED else ""
    return f"{', '.join(f'{depth:.2f}' for depth in ordered[:NAMED])} mm{more}"
