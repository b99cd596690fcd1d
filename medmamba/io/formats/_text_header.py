"""The headers of NRRD and MetaImage, which are text: what they say, and which files hold the voxels."""

from __future__ import annotations

import os
import re
from functools import cached_property
from pathlib import Path

#: Longer headers than this are none; those of Slicer's segmentations grow with every segment.
_HEADER_BYTES = 2**24
#: Lines that are fields; in NRRD ``key:=value`` is a key of a program's own.
_NRRD_FIELD = re.compile(r"([a-zA-Z][a-zA-Z ]*):(?!=) *(.*)")
_META_FIELD = re.compile(r"\s*([a-zA-Z]+)\s*= *(.*)")
#: The field that says where the voxels are, by its names.
PLACE = ("data file", "datafile", "elementdatafile")


class TextHeader:
    """A header up to where voxels, or the names of other files, begin.

    Args:
        path: of the file.

    Raises:
        OSError: if it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.is_nrrd = path, False
        self.lines: list[str] = []
        #: Values by name, names in lower case.
        self.fields: dict[str, str] = {}
        self._names: list[str] = []
        with path.open("rb") as file:
            while (line := file.readline(_HEADER_BYTES)) and file.tell() <= _HEADER_BYTES:
                text = os.fsdecode(line.rstrip(b"\r\n"))
                self.is_nrrd = (self.lines[0] if self.lines else text).startswith("NRRD")
                if self.is_nrrd and not text.strip():
                    break
                self.lines.append(text)
                name, value = self.field(text)
                if name:
                    self.fields[name] = value
                if name in PLACE and _is_list(value):
                    self._names = os.fsdecode(file.read(_HEADER_BYTES)).splitlines()
                if name == "elementdatafile":
                    break
            #: Bytes before the voxels, where they are in this file.
            self.end = file.tell()

    def field(self, line: str) -> tuple[str, str]:
        """Name, in lower case, and value of a line; empty for comments and keys of a program's own."""
        match = (_NRRD_FIELD if self.is_nrrd else _META_FIELD).match(line)
        return (match[1].strip().lower(), match[2].strip()) if match else ("", "")

    @property
    def place(self) -> str:
        """Where the voxels are: the name of a file, a rule or a list of names, or ``LOCAL``."""
        return next((self.fields[name] for name in PLACE if self.fields.get(name)), "LOCAL")

    @property
    def compression(self) -> str:
        """How the voxels are encoded, in the words of either format."""
        return (self.fields.get("encoding") or self.fields.get("compresseddata") or "raw").lower()

    @property
    def several_files(self) -> bool:
        """Whether the voxels are in several files."""
        return _is_list(self.place) or "%" in self.place

    @cached_property
    def voxels(self) -> list[Path]:
        """Other files that hold the voxels, be they there or not."""
        names = [] if self.place == "LOCAL" else [self.place]
        if self.several_files:
            names = _numbered(self.place) if "%" in self.place else self._names
        return [self.path.parent / name.strip() for name in names if name.strip()]


def _is_list(place: str) -> bool:
    return place.split()[:1] == ["LIST"]


def _numbered(rule: str) -> list[str]:
    """Names of slices by a rule such as ``slice%03d.raw 1 20 1``."""
    pattern, *numbers = rule.split()
    try:
        first, last, step = (int(number) for number in numbers[:3])
        return [pattern % number for number in range(first, last + 1, step)]
    except (ValueError, TypeError):
        return []  # a damaged header, which reading will find
