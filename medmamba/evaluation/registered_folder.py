"""Folders of registrations: what lies in them, read without a library that is slow to load.

Such a folder is one that `medmamba register` wrote, or of any other software in the same form: ``registration.json``
with ``{"pairs": {ID: {"status": "done"}}}``, and for each pair that is done a folder with ``transform.h5`` (from the
fixed to the moving image), ``inverse.h5`` where there is one, and ``run.json`` with the files of both sides::

    {"fixed": {"image": PATH, "label": PATH, "points": PATH, "mask": PATH}, "moving": {...}, "seconds": {"all": 12.5}}

A pair that failed has the status ``failed`` and the same ``fixed`` and ``moving`` beside it, where these are known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medmamba.case import some
from medmamba.errors import DataError
from medmamba.evaluation.report import Report
from medmamba.records import RecordError, from_json, read_json, write_json

#: What the folder holds: the pairs, and of each what it was made of; transforms both ways.
OVERVIEW, RECORD, TRANSFORM, INVERSE = "registration.json", "run.json", "transform.h5", "inverse.h5"
#: The report of the same pairs before their fields, beside that of registration.
BEFORE_FILE = "before.json"
#: More folding than this, in percent, is worth a word.
MUCH_FOLDING = 1.0
#: What a record says of a side.
_FILES = ("image", "id", "label", "points", "mask")
#: States of pairs without a transform of the last command, and what to say of them.
_WITHOUT = {"failed": "", "waiting": "not registered yet: the command that was to do it was stopped, and goes on"}


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
        return _both(self.fixed.label, self.moving.label)

    @property
    def points(self) -> tuple[Path, Path] | None:
        """Likewise of landmarks."""
        return _both(self.fixed.points, self.moving.points)

    @property
    def transform(self) -> Path:
        """From the fixed to the moving image."""
        return self.folder / TRANSFORM

    @property
    def inverse(self) -> Path:
        """From the moving to the fixed image; need not be there."""
        return self.folder / INVERSE


@dataclass(frozen=True, slots=True, kw_only=True)
class Unregistered:
    """A pair that was asked for and has no transform.

    Args:
        id: of the pair.
        reason: why, for people.
        labels: label maps of the fixed and the moving image, where both are known to have one.
        points: likewise of landmarks.
    """

    id: str
    reason: str
    labels: tuple[Path, Path] | None = None
    points: tuple[Path, Path] | None = None


def _both(fixed: Path | None, moving: Path | None) -> tuple[Path, Path] | None:
    return None if fixed is None or moving is None else (fixed, moving)


def is_registered(folder: Path) -> bool:
    """Whether this is a folder of registrations."""
    return (folder / OVERVIEW).is_file()


def read_pairs(folder: Path) -> tuple[tuple[RegisteredPair, ...], tuple[Unregistered, ...]]:
    """The pairs in a folder of registrations, sorted by id, and those that have no transform.

    What a command left that failed or was stopped is of an earlier one, with other options or images, and not taken.

    Raises:
        DataError: if a record is damaged, or the folder holds no pair that is registered.
    """
    path = folder / OVERVIEW
    overview = read_json(path)
    if not isinstance(overview, dict) or not isinstance(overview.get("pairs"), dict):
        raise RecordError(f"{path} does not list 'pairs', as a record of `medmamba register` does; give another folder")
    found, failed = [], []
    for name in sorted(overview["pairs"]):
        place, told = folder / name, overview["pairs"][name]
        facts = told if isinstance(told, dict) else {}
        there = (place / RECORD).is_file() and (place / TRANSFORM).is_file()
        if there and facts.get("status") not in _WITHOUT:
            found.append(_pair(name, place))
        else:
            failed.append(_without(name, facts, f"{path}: {name}"))
    if not found:
        reason = some([each.reason for each in failed], 1) if failed else "it is empty"
        raise DataError(f"{folder} holds no pair that is registered; {reason}")
    return tuple(found), tuple(failed)


def _without(name: str, facts: dict[str, Any], where: str) -> Unregistered:
    """What is known of a pair that was not registered."""
    known = [from_json(Side, _known(facts[side], _FILES), where) for side in ("fixed", "moving") if facts.get(side)]
    fixed, moving = known if len(known) == 2 else (None, None)
    words = _WITHOUT.get(str(facts.get("status")), "")
    reason = "; ".join(filter(None, (words, facts.get("message")))) or f"there is no {TRANSFORM}"
    if fixed is None or moving is None:
        return Unregistered(id=name, reason=reason)
    labels, points = _both(fixed.label, moving.label), _both(fixed.points, moving.points)
    return Unregistered(id=name, reason=reason, labels=labels, points=points)


def _pair(name: str, place: Path) -> RegisteredPair:
    facts, where = read_json(place / RECORD), str(place / RECORD)
    if not isinstance(facts, dict) or not {"fixed", "moving"} <= facts.keys():
        raise RecordError(f"{where} does not name the files of 'fixed' and 'moving', as that of a registered pair does")

    sides = {side: _known(facts[side], _FILES) for side in ("fixed", "moving")}
    rest = _known(facts, ("seconds", "peak_bytes", "warnings", "decisions"))
    return from_json(RegisteredPair, {"id": name, "folder": str(place), **sides, **rest}, where)


def _known(data: Any, names: Sequence[str]) -> Any:
    return {key: data[key] for key in names if key in data} if isinstance(data, dict) else data


def save_before(report: Report, folder: Path) -> Path:
    """Write the report of pairs before registration beside that after it, for `medmamba report` to show both."""
    write_json(report.to_json(), folder / BEFORE_FILE)
    return folder / BEFORE_FILE
