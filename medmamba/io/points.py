"""Landmarks in files that say in which space they are; those that do not are refused, for a guess mirrors them.

Read and written are tables (.csv, also with semicolons or tabs) whose header names the space, and the two kinds of
files of 3D Slicer (.fcsv, .mrk.json), which name it too. Millimetres everywhere.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medmamba.files import write_bytes
from medmamba.io.errors import PointsFileError
from medmamba.io.remarks import Remark, tell
from medmamba.volume import FloatArray

#: RAS: x to the patient's right, y to the front (NIfTI, NiBabel). LPS: to the left, to the back (DICOM, ITK, ANTs).
Space = Literal["RAS", "LPS"]

#: Columns that name a point, by what is left of their header without case and signs.
_NAMES = ("name", "label", "landmark", "point", "id")
#: Spaces as Slicer has written them in .fcsv over the years.
_SLICERS = {"RAS": "RAS", "0": "RAS", "LPS": "LPS", "1": "LPS"}
_TO_RAS = {"RAS": np.ones(3), "LPS": np.array([-1.0, -1.0, 1.0])}
_REMEDY = (
    "say it in the header: x_lps,y_lps,z_lps for millimetres of DICOM, ITK, ANTs or elastix, x_ras,y_ras,z_ras for "
    "those of NIfTI, FreeSurfer or Slicer's display"
)


@dataclass(frozen=True, eq=False)
class Points:
    """Named points in space.

    Args:
        names: one each; numbers from 1 where a file has none.
        mm: (N, 3) float64, RAS millimetres.
        space: in which their file holds them, and the next one will.

    Raises:
        ValueError: if these do not fit, or a coordinate is not finite.
    """

    names: tuple[str, ...]
    mm: FloatArray
    space: Space = "RAS"

    def __post_init__(self) -> None:
        mm = np.asarray(self.mm, dtype=np.float64)
        if mm.shape != (len(self.names), 3) or not np.isfinite(mm).all():
            raise ValueError(f"{len(self.names)} points have (N, 3) finite coordinates, got {mm.shape}")
        object.__setattr__(self, "mm", mm)


def is_points(path: Path) -> bool:
    """Whether a file is one of points, by its name."""
    return _kind(path) is not None


def read_points(path: Path) -> Points:
    """Read landmarks.

    Args:
        path: .csv, .tsv, .fcsv or .mrk.json.

    Raises:
        FileNotFoundError: if there is no such file.
        PointsFileError: if it names no space or holds no points, naming the line where there is one.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file of points")
    kind = _kind(path)
    if kind is None:
        raise PointsFileError(path, f"points are read from files that end in {', '.join(_KINDS)}; convert it to one")
    try:
        points = kind[0](path, path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise PointsFileError(path, f"this is no text in UTF-8 ({error.reason} at byte {error.start})") from error
    if not points.names:
        raise PointsFileError(path, "there are no points in it; put one into each line below the header")
    return points


def write_points(points: Points, path: Path, space: Space | None = None) -> None:
    """Write landmarks: names and places, and nothing else that their file may have held.

    Args:
        points: what to write.
        path: .csv, .tsv, .fcsv or .mrk.json.
        space: None for that of the points.

    Raises:
        FileNotFoundError: if the folder does not exist.
        PointsFileError: if the name ends in none of these.
    """
    kind = _kind(path)
    if kind is None:
        raise PointsFileError(path, f"points are written to files that end in {', '.join(_KINDS)}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: there is no such folder to write {path.name} into")
    space = space or points.space
    rows = [(name, *place) for name, place in zip(points.names, (points.mm * _TO_RAS[space]).tolist(), strict=True)]
    write_bytes(kind[1](rows, space, path).encode(), path)


def _kind(path: Path) -> tuple[Callable[[Path, str], Points], Callable[[Any, Space, Path], str]] | None:
    return next((kind for suffix, kind in _KINDS.items() if path.name.lower().endswith(suffix)), None)


def _points(path: Path, names: Sequence[str], places: Sequence[Sequence[Any]], space: Space) -> Points:
    """Points of the words or numbers of a file."""
    found = []
    for number, place in enumerate(places, start=1):
        try:
            numbers = [float(coordinate) for coordinate in place]
        except (TypeError, ValueError):
            numbers = []
        if len(numbers) != 3 or not np.isfinite(numbers).all():
            raise PointsFileError(path, f"point {number} should be three numbers of millimetres, but is {list(place)}")
        found.append(numbers)
    named = tuple(name or str(number) for number, name in enumerate(names, start=1))
    return Points(named, np.array(found).reshape(-1, 3) * _TO_RAS[space], space)


def _read_table(path: Path, text: str) -> Points:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not lines:
        raise PointsFileError(path, f"the file is empty; {_REMEDY}")
    delimiter = max(",;\t", key=lines[0].count)
    header, *rows = csv.reader(lines, delimiter=delimiter)
    columns, space = _columns(path, header)
    called = [re.sub(r"[^a-z]", "", title.lower()) for title in header]
    name = next((called.index(known) for known in _NAMES if known in called), None)
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise PointsFileError(
                path, f"point {number} has {len(row)} columns, the header {len(header)}; separate them by {delimiter!r}"
            )
    places = [[row[column] for column in columns] for row in rows]
    names = ["" if name is None else row[name].strip() for row in rows]
    return _points(path, names, places, space)


def _columns(path: Path, header: Sequence[str]) -> tuple[list[int], Space]:
    """Which columns hold x, y and z, and in which space: x_lps, lps_x, X (LPS, mm), or the letters L, P, S alone."""
    words = [[word for word in re.split(r"[^a-z]+", title.lower()) if word and word != "mm"] for title in header]
    for space in ("LPS", "RAS"):
        for wanted in ([{axis, space.lower()} for axis in "xyz"], [{letter} for letter in space.lower()]):
            found = [[n for n, title in enumerate(words) if set(title) == each] for each in wanted]
            if all(len(columns) == 1 for columns in found):
                return [columns[0] for columns in found], space
    raise PointsFileError(
        path, f"the header {','.join(header)!r} does not tell in which space the points are; {_REMEDY}"
    )


def _write_table(rows: Any, space: Space, path: Path) -> str:
    text = StringIO()
    writer = csv.writer(text, delimiter="\t" if path.name.lower().endswith(".tsv") else ",", lineterminator="\n")
    writer.writerow(["name", *(f"{axis}_{space.lower()}" for axis in "xyz")])
    writer.writerows(rows)
    return text.getvalue()


def _read_fcsv(path: Path, text: str) -> Points:
    said = {
        key.strip().lower(): value.strip()
        for key, _, value in (line[1:].partition("=") for line in text.splitlines() if line.startswith("#"))
    }
    space = _space(path, _SLICERS.get(said.get("coordinatesystem", "").upper()), said.get("coordinatesystem"))
    columns = [column.strip() for column in said.get("columns", "id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label").split(",")]
    rows = list(csv.reader(line for line in text.splitlines() if line.strip() and not line.startswith("#")))
    of_rows = [dict(zip(columns, row, strict=False)) for row in rows]
    places = [[row.get(axis) for axis in "xyz"] for row in of_rows]
    return _points(path, [row.get("label", "") for row in of_rows], places, space)


def _write_fcsv(rows: Any, space: Space, path: Path) -> str:
    text = StringIO()
    text.write(f"# Markups fiducial file version = 5.0\n# CoordinateSystem = {space}\n")
    text.write("# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows((n, x, y, z, 0, 0, 0, 1, 1, 1, 0, name, "", "") for n, (name, x, y, z) in enumerate(rows, start=1))
    return text.getvalue()


def _read_markups(path: Path, text: str) -> Points:
    try:
        lists = [each for each in json.loads(text)["markups"] if isinstance(each["controlPoints"], list)]
        names, places, spaces = [], [], set()
        for markups in lists:
            spaces.add((markups.get("coordinateSystem"), markups.get("coordinateUnits", "mm")))
            for point in markups["controlPoints"]:
                if point.get("positionStatus", "defined") != "defined":
                    tell([Remark(f"point {point.get('label')!r} is not placed, and left out")], path)
                    continue
                names.append(str(point.get("label", "")))
                places.append(point["position"])
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise PointsFileError(
            path, f"these are no markups of Slicer ({error!r}); save them again from there"
        ) from error
    if len(spaces) != 1 or not {unit for _, unit in spaces} <= {"mm", None}:
        raise PointsFileError(
            path, f"points must be of one space in mm, but are of {sorted(map(str, spaces)) or 'none'}"
        )
    [(said, _)] = spaces
    space = _space(path, _SLICERS.get(str(said)), said)
    return _points(path, names, places, space)


def _write_markups(rows: Any, space: Space, path: Path) -> str:
    points = [{"id": str(n), "label": name, "position": place} for n, (name, *place) in enumerate(rows, start=1)]
    markups = {"type": "Fiducial", "coordinateSystem": space, "coordinateUnits": "mm", "controlPoints": points}
    return json.dumps({"markups": [markups]}, indent=1) + "\n"


def _space(path: Path, space: Any, said: object) -> Space:
    if space not in _TO_RAS:
        told = f"its coordinate system is {said!r}" if said else "it names no coordinate system"
        raise PointsFileError(
            path, f"{told}, but points are in LPS or RAS; save it again from Slicer, which says which"
        )
    found: Space = space
    return found


#: Reading and writing, by how names end; the first that fits counts.
_KINDS: dict[str, tuple[Callable[[Path, str], Points], Callable[[Any, Space, Path], str]]] = {
    ".fcsv": (_read_fcsv, _write_fcsv),
    ".mrk.json": (_read_markups, _write_markups),
    ".csv": (_read_table, _write_table),
    ".tsv": (_read_table, _write_table),
}
