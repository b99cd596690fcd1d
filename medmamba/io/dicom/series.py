"""From files to series: what belongs together, and what is read of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from medmamba.io.dicom.instances import Instance, Skipped, no_decoder, read_headers
from medmamba.io.dicom.order import (
    EVEN_SHARE,
    NAMED,
    arranged,
    listed_places,
    places_in_words,
    problems_of,
    without_duplicates,
)
from medmamba.io.dicom.planes import Kind, Phase, Plane, Problem, Series
from medmamba.io.dicom.slices import Slice
from medmamba.progress import Progress, silent

#: Directions of one stack differ by no more than this, each coordinate.
_SAME_DIRECTION = 1e-3

Going = Literal["refuse", "resample"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """How to go on where a series is no even, right-angled stack; by default not at all.

    Args:
        uneven: resample steps that differ, also where slices are missing or lost, to even ones.
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
        series: stacks, those of one series behind one another; sorted by patient, study, series number and UID.
        skipped: what is no scan, and how many files are.
        faulty: files of which it cannot be said what they are.
    """

    series: tuple[Series, ...]
    skipped: tuple[tuple[str, int], ...]
    faulty: tuple[Skipped, ...] = ()


#: Whose a series is: patient (a digest), study and series UID.
_Key = tuple[str, str, str]
_Some = TypeVar("_Some")


def explore(files: Iterable[Path], progress: Progress = silent) -> Export:
    """Group files to series by their headers; what cannot be read is passed over, and named."""
    read = read_headers(list(files), progress)
    skipped = Counter(each.kind for each in read if isinstance(each, Skipped))
    faulty = [each for each in read if isinstance(each, Skipped) and each.fault]
    grouped: dict[_Key, list[Instance]] = {}
    known = set[tuple[object, ...]]()
    instances = [each for each in read if isinstance(each, Instance)]
    owners = _owners(instances)
    for each in instances:
        own = owners[each.study_uid, each.series_uid]
        key = (each.patient or (own[0] if len(own) == 1 else ""), each.study_uid, each.series_uid)
        # With the places: careless anonymisers give one UID to many slices, which are no copies.
        copy = (*key, each.uid, *((at.plane.position_mm, at.plane.row, at.plane.column) for at in each.slices))
        skipped["copy of another file"] += copy in known
        if copy not in known:
            known.add(copy)
            grouped.setdefault(key, []).append(each)
    patients = _numbers(patient for patient, _, _ in grouped)
    studies = _numbers((patient, study) for patient, study, _ in grouped)
    users = Counter(series for _, _, series in grouped)
    series = list[Series]()
    for key, members in grouped.items():
        found = replace(
            _described(members[0]),
            patient=patients[key[0]],
            study=studies[key[:2]],
            is_shared=users[key[2]] > 1,
            sources=tuple(each.file for each in members),
        )
        placed, problems = _placed(members, skipped)
        problems += _faults_beside(key, grouped, faulty) + _identities(found, placed, users[key[2]])
        problems += _mixed(found, key, grouped)
        series += _stacks(found, placed, problems)
    series.sort(key=lambda each: (each.patient, each.study, each.number or 0, each.uid, each.part))
    return Export(series=tuple(series), skipped=tuple(sorted((+skipped).items())), faulty=tuple(faulty))


def _owners(instances: Iterable[Instance]) -> dict[tuple[str, str], list[str]]:
    """Which patients files of a series tell of, by study and series UID."""
    owners: dict[tuple[str, str], list[str]] = {}
    for each in instances:
        own = owners.setdefault((each.study_uid, each.series_uid), [])
        if each.patient and each.patient not in own:
            own.append(each.patient)
    return owners


def _numbers(keys: Iterable[_Some]) -> dict[_Some, int]:
    """1, 2, ... for each, in the order of their first ones."""
    return {key: number for number, key in enumerate(dict.fromkeys(keys), start=1)}


def _placed(instances: Sequence[Instance], skipped: Counter[str]) -> tuple[list[Instance], list[Problem]]:
    """The images of a series that have a place in space, where some have, and which are lost.

    What differs from them otherwise, such as a summary that is derived from the slices, is counted as passed over.
    """
    placed = [each for each in instances if not each.lost]
    if not placed:
        return list(instances), []
    kinds = {(each.sop_class, each.shape) for each in placed}
    lost = [each for each in instances if each.lost and (each.sop_class, each.shape) in kinds]
    skipped["image without a place in space"] += len(instances) - len(placed)
    return placed, _lost([(each.file, each.lost) for each in lost], "has no place in space")


def _lost(files: Sequence[tuple[Path, str]], what: str) -> list[Problem]:
    """That slices are left out whose place nobody knows, so that no gap may tell of them."""
    if not files:
        return []
    names = ", ".join(file.name for file, _ in files[:NAMED]) + (
        f" and {len(files) - NAMED} more" if len(files) > NAMED else ""
    )
    count = f"{len(files)} image{'s' if len(files) > 1 else ''}"
    message = f"{count} of it may be lost: {names} {what} ({files[0][1]})"
    return [Problem(kind="lost", message=message, option="--uneven resample")]


def _faults_beside(key: _Key, grouped: Mapping[_Key, Sequence[Instance]], faulty: Sequence[Skipped]) -> list[Problem]:
    """What is broken in a folder in which there is nothing but this series, and so may be a slice of it."""
    own = {each.file.parent for each in grouped[key]}
    others = {each.file.parent for other, instances in grouped.items() if other != key for each in instances}
    beside = [(each.file, each.fault) for each in faulty if each.file.parent in own - others]
    return _lost(beside, "cannot be read")


def _identities(series: Series, instances: Sequence[Instance], users: int) -> list[Problem]:
    """What is not as unique as it should be, and told apart here all the same."""
    found = []
    if series.is_shared:
        message = f"{users} studies or patients have series of this UID; here it is called {series.whole_id}"
        found.append(Problem(kind="identity", message=message, is_remark=True))
    if doubles := len(instances) - len({each.uid for each in instances}):
        message = (
            f"{doubles} files have the SOP instance UID of another slice, so that no object can refer to them alone"
        )
        found.append(Problem(kind="identity", message=message, is_remark=True))
    return found


def _mixed(series: Series, key: _Key, grouped: Mapping[_Key, Sequence[Instance]]) -> list[Problem]:
    """That files of one study, series and frame of reference are of several patients: parts of one scan, or not."""

    def frames(members: Sequence[Instance]) -> set[str]:
        return {each.frame_of_reference_uid for each in members}

    alike = [each for each in grouped if each[1:] == key[1:] and frames(grouped[each]) & frames(grouped[key])]
    if len(alike) < 2:
        return []
    message = (
        f"files of this study, series and frame of reference have the ids of {len(alike)} patients, so that it may be "
        f"a part of one scan; correct the ids, or take it as it is with --series {series.whole_id}"
    )
    return [Problem(kind="identity", message=message, option=f"--series {series.whole_id}")]


def _stacks(series: Series, instances: Sequence[Instance], problems: Sequence[Problem]) -> Iterator[Series]:
    """The stacks of one series, told apart by frame of reference, size of slices and pixels, and orientation."""
    if instances[0].lost:
        nowhere = Problem(kind="position", message=f"no place in space: {instances[0].lost}")
        yield replace(series, problems=(nowhere, *problems, *_unreadable(instances, ())))
        return
    groups = list[tuple[list[Instance], list[Slice]]]()
    for instance in instances:
        for each in instance.slices:
            for members, slices in groups:
                same_frame = members[0].frame_of_reference_uid == instance.frame_of_reference_uid
                if same_frame and _alike(slices[0], each):
                    members.append(instance)
                    slices.append(each)
                    break
            else:
                groups.append(([instance], [each]))
    groups.sort(key=lambda group: (-len(group[1]), min(each.order for each in group[1])))
    several = _several([slices for _, slices in groups])
    for part, (members, slices) in enumerate(groups, start=1):
        phases, found = arranged(slices)
        stack = replace(
            series,
            frame_of_reference_uid=members[0].frame_of_reference_uid,
            phases=phases,
            problems=(*found, *_unreadable(members, slices), *problems),
        )
        if several is not None:
            stack = replace(stack, part=part)
            apart = replace(several, option=f"--series {stack.id}")
            stack = replace(stack, problems=(apart, *stack.problems))
        yield stack


def _described(instance: Instance) -> Series:
    return Series(
        uid=instance.series_uid,
        study_uid=instance.study_uid,
        frame_of_reference_uid=instance.frame_of_reference_uid,
        modality=instance.modality,
        description=instance.description,
        sequence=instance.sequence,
        number=instance.number,
        transfer_syntax=instance.transfer_syntax,
    )


def _unreadable(instances: Sequence[Instance], slices: Sequence[Slice]) -> Iterator[Problem]:
    """Why values of a stack cannot be had, or would not be what they seem; and what else is odd about its files."""
    colours = sorted({each.colours for each in instances if each.colours})
    messages = [f"it is in colours ({', '.join(colours)}), which have no intensity"] if colours else []
    messages += sorted({reason for each in instances if (reason := no_decoder(each.transfer_syntax))})
    if any(each.is_mosaic for each in instances):
        messages.append(
            "its pictures are mosaics of slices (ImageType MOSAIC); convert it, such as with dcm2niix, and give that"
        )
    shown = sorted({each.photometric for each in instances if not each.colours})
    if len(shown) > 1:
        messages.append(f"slices are stored as {' and '.join(shown)}, so that values of some may be turned over")
    messages += _odd_scaling(slices)
    yield from (Problem(kind="pixels", message=message) for message in messages)
    if shown == ["MONOCHROME1"]:
        words = "it is stored for displays on which low values are bright (MONOCHROME1); values are read as they are"
        yield Problem(kind="pixels", message=words, is_remark=True)
    if len({each.plane.file for each in slices}) > 1 and any(each.plane.frame is not None for each in slices):
        words = "it is of several multi-frame files, to which no DICOM SEG can refer at once; give --format nii.gz"
        yield Problem(kind="identity", message=words, is_remark=True)


def _odd_scaling(slices: Sequence[Slice]) -> Iterator[str]:
    scaled = [each.scaling for each in slices if each.scaling is not None]
    if bad := [each for each in scaled if each[0] == 0 or not np.isfinite(each).all()]:
        yield f"intensities are scaled by {bad[0][0]:g} and {bad[0][1]:g}; export it again"
    without = [each.plane.depth_mm for each in slices if each.scaling is None]
    if scaled and without:
        yield f"slices lack the RescaleSlope and RescaleIntercept that others have: {listed_places(without)}"


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
        f"{places_in_words([each.plane.depth_mm for each in group])}"
        for part, (group, plane) in enumerate(zip(groups[:NAMED], firsts, strict=False), start=1)
    )
    more = f"; and {len(groups) - NAMED} more" if len(groups) > NAMED else ""
    return Problem(kind=kind, message=f"one series holds {what}: {stacks}{more}")


def facing(plane: Plane) -> str:
    """How a plane lies, by the axis of the body that its normal is closest to."""
    axis = int(np.abs(plane.normal).argmax())
    angle = math.degrees(math.acos(min(1.0, float(np.abs(plane.normal[axis])))))
    return f"{('sagittal', 'coronal', 'axial')[axis]}{f', {angle:.0f} degrees oblique' if angle > 1 else ''}"


def settled(series: Series, choice: Choice, *, named: bool = False) -> Series:
    """The phase that is read, and those problems alone that the choice does not go on with.

    Args:
        series: as `explore` found it.
        choice: how to go on.
        named: whether this part of a series was asked for by name.
    """
    phases, open_problems = series.phases, list[Problem]()
    unread = {"position", "pixels", *(() if named else ("orientation", "size", "identity"))}
    if choice.uneven != "resample":
        unread.add("lost")
    for problem in series.problems:
        if problem.is_remark:
            continue
        if problem.kind in unread:
            open_problems.append(problem)
        elif problem.kind in ("repeated", "overlap"):
            if chosen := _chosen(phases, problem, choice):
                phases = (chosen,)
            else:
                unknown = f"there is no phase {choice.phase!r}: " if choice.phase else ""
                open_problems.append(replace(problem, message=unknown + problem.message))
    if len(phases) != 1:
        return replace(series, problems=tuple(open_problems))
    planes = phases[0].planes
    if choice.duplicates != "refuse":
        planes = without_duplicates(phases, choice.duplicates)
    goes_on = {"uneven": choice.uneven, "missing": choice.uneven, "tilt": choice.tilt}
    open_problems += [each for each in problems_of(planes) if goes_on.get(each.kind) != "resample"]
    phase = replace(phases[0], planes=planes)
    return replace(series, phases=(phase,), problems=tuple(open_problems))


def _chosen(phases: tuple[Phase, ...], problem: Problem, choice: Choice) -> Phase | None:
    """All stacks that overlap in one, so that nothing is left out, or the phase that was asked for."""
    if choice.duplicates != "refuse" and problem.option == "--duplicates first":
        return Phase(name="", planes=without_duplicates(phases, choice.duplicates))
    named = [phase for number, phase in enumerate(phases, 1) if choice.phase in (str(number), phase.name)]
    return named[0] if len(named) == 1 else None


def needed(series: Series, choice: Choice, *, named: bool = False) -> Choice:
    """Of a choice what makes a difference to a series: the rest may be said, or not, of the same image."""
    for field in fields(choice):
        default: dict[str, Any] = {field.name: field.default}
        less = replace(choice, **default)
        if settled(series, less, named=named) == settled(series, choice, named=named):
            choice = less
    return choice
