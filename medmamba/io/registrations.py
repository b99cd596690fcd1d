"""What lies in a folder of registrations: one folder a pair, and the record of which pairs were asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medmamba.case import Pair
from medmamba.errors import DataError
from medmamba.records import from_json, read_json, to_json, write_json

#: In the folder: the pairs, and what became of them.
RECORD = "registration.json"
#: In the folder of each pair, what is read again: the transform and its inverse, the moving image and its label map on
#: the grid of the fixed image.
TRANSFORM, INVERSE, WARPED, LABELS = "transform.h5", "inverse.h5", "warped.nii.gz", "labels.nii.gz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """What became of a pair.

    Args:
        pair: the files.
        status: whether there is a transform that was read back and found right.
        notes: what a reader should know, the reason of a failure first.
        seconds: that it took, from reading to writing; None where it was not measured.
        peak_bytes: of memory; None likewise.
    """

    pair: Pair
    status: Literal["registered", "failed"] = "registered"
    notes: tuple[str, ...] = ()
    seconds: float | None = None
    peak_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Registrations:
    """All that is known of a folder.

    Args:
        pairs: that were asked for.
        method: what registered them, in a few words.
        plan_digest: of the plan that a network was trained by; empty without one.
        medmamba: version of the software; empty where another one registered.
    """

    pairs: tuple[Registered, ...] = ()
    method: str = ""
    plan_digest: str = ""
    medmamba: str = ""

    @classmethod
    def load(cls, folder: Path) -> Registrations:
        """The record of a folder.

        Raises:
            FileNotFoundError: if there is none.
            DataError: if the file is damaged, or of another program.
        """
        path = folder / RECORD
        data = read_json(path)
        if not isinstance(data, dict) or "pairs" not in data:
            raise DataError(f"{path} is no record of `medmamba register`; choose another folder")
        return from_json(cls, data, str(path))

    def save(self, folder: Path) -> None:
        """Write the record; a reader meets the old or the new one."""
        write_json(to_json(self), folder / RECORD)
