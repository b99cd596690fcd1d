"""What ITK's reader of NRRD leaves undone: spaces with time, axes without a direction, units.

A header that needs it is put into words that ITK understands, as a detached header of the same voxels.

Source: Definition of NRRD file format, teem.sourceforge.net/nrrd/format.html.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medmamba.io.formats._text_header import PLACE, TextHeader

#: What the file of voxels is called in a rewritten header.
VOXELS = "voxels"
_PATIENT = {
    "right-anterior-superior": ("ras", "rast"),
    "left-anterior-superior": ("las", "last"),
    "left-posterior-superior": ("lps", "lpst"),
}
_NO_PATIENT = ("scanner-xyz", "3d-right-handed", "3d-left-handed")
#: Name without time, and whether there is time, of each space with three dimensions, by all its names.
_SPACES = {
    **{name: (name, False) for name in (*_PATIENT, *_NO_PATIENT)},
    **{f"{name}-time": (name, True) for name in (*_PATIENT, *_NO_PATIENT)},
    **{shorts[0]: (name, False) for name, shorts in _PATIENT.items()},
    **{shorts[1]: (name, True) for name, shorts in _PATIENT.items()},
}
#: Kinds of an axis along which positions change, as ITK counts them, an unknown kind being one.
_DOMAIN = ("domain", "space", "time", "???", "none")
#: Millimetres in a unit of length, by its names.
UNITS_MM = {
    **dict.fromkeys(("nm", "nanometer", "nanometers"), 1e-6),
    **dict.fromkeys(("um", "µm", "μm", "micron", "microns", "micrometer", "micrometers"), 1e-3),
    **dict.fromkeys(("cm", "centimeter", "centimeters"), 10.0),
    **dict.fromkeys(("m", "meter", "meters"), 1000.0),
}

Vector = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A header in ITK's words.

    Args:
        text: of a detached header, which calls its file of voxels `VOXELS`.
        voxels: that file.
        remark: what was taken for granted, or nothing.
    """

    text: bytes
    voxels: Path
    remark: str


def rewritten(header: TextHeader) -> Rewritten | None:
    """The header of a file in ITK's words; None if it is in them already, or is none of NRRD."""
    changes, remark = _changes(header.fields) if header.is_nrrd else ({}, "")
    if not changes or header.several_files:
        return None
    if not header.voxels:
        changes["line skip"] = str(len(header.lines) + 1)
    kept = [line for line in header.lines if header.field(line)[0] not in {*changes, *PLACE}]
    added = [f"{name}: {value}" for name, value in changes.items() if value]
    text = "\n".join((*kept, *added, f"data file: {VOXELS}", ""))
    return Rewritten(os.fsencode(text), header.voxels[0] if header.voxels else header.path, remark)


def foreign_space(header: TextHeader) -> str | None:
    """The space of a file that does not say where the patient's left is; None if it says so, or is none of NRRD."""
    space, _ = _space(header.fields)
    return None if not header.is_nrrd or space in _PATIENT else (space or "of no name")


def _space(fields: dict[str, str]) -> tuple[str | None, bool]:
    return _SPACES.get(re.sub(r"[ _]+", "-", fields.get("space", "").lower()), (None, False))


def _changes(fields: dict[str, str]) -> tuple[dict[str, str], str]:
    """Fields to be replaced, or removed where empty, and what to say of it."""
    space, timed = _space(fields)
    before = directions = _vectors(fields.get("space directions", ""))
    first = origin = next(iter(_vectors(fields.get("space origin", ""))), None)
    changes, remarks = {}, []
    if timed and space:
        changes["space"] = space
        directions, origin = [_within_space(vector) for vector in directions], origin and origin[:3]
    if space and not directions and (directions := _along_axes(fields.get("spacings", ""))):
        changes["spacings"] = ""
        remarks.append("it has a space and no directions; voxels are taken to lie along its axes")
    factor, unit = _unit(fields)
    if factor != 1 and (directions or "spacings" in fields):
        changes["space units"] = changes["units"] = ""
        remarks.append(f"lengths are in {unit} by the header; converted to mm")
        directions = [vector and _scaled(vector, factor) for vector in directions]
        origin = origin and _scaled(origin, factor)
        if not directions:
            changes["spacings"] = " ".join(repr(size) for size in _scaled(_numbers(fields["spacings"]), factor))
    kinds = _kinds(fields.get("kinds", "").split(), directions)
    if kinds:
        changes["kinds"] = " ".join(kinds)
    if directions != before:
        changes["space directions"] = " ".join(map(_written, directions))
    if origin != first:
        changes["space origin"] = _written(origin)
    return changes, "; ".join(remarks)


def _vectors(text: str) -> list[Vector | None]:
    """Steps along the axes; None for one that leads nowhere, which older programs wrote as no numbers."""
    found = [_numbers(part.strip("()").replace(",", " ")) for part in re.findall(r"none|\([^)]*\)", text)]
    return [vector if vector and not any(map(math.isnan, vector)) else None for vector in found]


def _numbers(text: str) -> Vector:
    try:
        return tuple(float(part) for part in text.split())
    except ValueError:
        return ()  # ITK says what is wrong with it


def _within_space(vector: Vector | None) -> Vector | None:
    """A step without its time; None if it leads along time alone."""
    return vector[:3] if vector and any(vector[:3]) else None


def _along_axes(spacings: str) -> list[Vector | None]:
    """Directions of three axes that have a spacing, one for each of the space; none where there are more or fewer."""
    sizes = _numbers(spacings)
    places = [axis for axis, size in enumerate(sizes) if math.isfinite(size)]
    if len(places) != 3:
        return []
    steps: list[Vector | None] = [None] * len(sizes)
    for along, axis in enumerate(places):
        steps[axis] = tuple(sizes[axis] * (along == i) for i in range(3))
    return steps


def _unit(fields: dict[str, str]) -> tuple[float, str]:
    """Millimetres in the unit of lengths, and its name; (1, "") where that is not told or is not one for all axes."""
    names = re.findall(r'"([^"]*)"', fields.get("space units") or fields.get("units") or "")
    lengths = {name.strip() for name in names if name.strip().lower() in UNITS_MM}
    if len(lengths) != 1 or "mm" in names:
        return 1.0, ""
    name = lengths.pop()
    return UNITS_MM[name.lower()], name


def _kinds(kinds: list[str], directions: Sequence[Vector | None]) -> list[str]:
    """Kinds that call an axis without a direction a list, which ITK takes for channels; empty if they do already."""
    kinds = kinds or ["domain"] * len(directions)
    if len(kinds) != len(directions) or not any(map(_is_nameless, kinds, directions)):
        return []
    return ["list" if _is_nameless(*axis) else axis[0] for axis in zip(kinds, directions, strict=True)]


def _is_nameless(kind: str, direction: Vector | None) -> bool:
    return direction is None and kind.lower() in _DOMAIN


def _scaled(vector: Vector, factor: float) -> Vector:
    return tuple(part * factor for part in vector)


def _written(vector: Vector | None) -> str:
    return "none" if vector is None else f"({','.join(map(repr, vector))})"
