"""Landmarks of two images: which belong together, and whether they lie in their image at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from medmamba.case import some
from medmamba.io.errors import PointsFileError
from medmamba.io.points import Points, read_points
from medmamba.transform import is_inside, voxel_positions
from medmamba.volume import Geometry

#: RAS millimetres of LPS ones, and the other way round.
_TURN = np.array([-1.0, -1.0, 1.0])


class Matched(NamedTuple):
    """Landmarks that belong together, in the order and with the names of the first file, and what is worth a word."""

    fixed: Points
    moving: Points
    remarks: tuple[str, ...] = ()


def matched_points(fixed: Path, moving: Path) -> Matched:
    """Landmarks of two images that belong together: by their names, or by their order where they share none.

    Those whose names are in one of the files alone are left out, and named in the remarks.

    Raises:
        FileNotFoundError: if there is no such file.
        PointsFileError: if one cannot be read, or nothing tells which points belong together: a name that both have
            occurs twice, files of different length share no name, or have mere numbers for names.
    """
    ours, theirs = read_points(fixed), read_points(moving)
    shared = [name for name in ours.names if name in theirs.names]
    same_number = len(ours.names) == len(theirs.names)
    if same_number and not shared:
        return Matched(ours, Points(ours.names, theirs.mm, theirs.space))
    twice = [name for name in shared if ours.names.count(name) > 1 or theirs.names.count(name) > 1]
    by_place = not same_number and _are_numbers(ours.names) and _are_numbers(theirs.names)
    if not shared or twice or by_place:
        why = f"the name {twice[0]!r} occurs twice" if twice else "no name tells which belong together"
        raise PointsFileError(
            moving,
            f"it holds {len(theirs.names)} points and {fixed} {len(ours.names)}, and they cannot be matched: {why}; "
            "name each point, by the same name in both files",
        )
    lonely = [
        f"{some(names)} in {path.name}"
        for path, points in ((fixed, ours), (moving, theirs))
        if (names := [name for name in points.names if name not in shared])
    ]
    remarks = (f"landmarks whose names are in one file alone are left out: {', '.join(lonely)}",) if lonely else ()
    return Matched(_chosen(ours, shared), _chosen(theirs, shared), remarks)


def _are_numbers(names: Sequence[str]) -> bool:
    """Whether points are told apart by their places alone."""
    return list(names) == [str(number) for number in range(1, len(names) + 1)]


def _chosen(points: Points, names: Sequence[str]) -> Points:
    """Those of some names, in their order."""
    return Points(tuple(names), points.mm[[points.names.index(name) for name in names]], points.space)


def check_within(points: Points, grid: Geometry, path: Path, image: str) -> tuple[str, ...]:
    """Landmarks should lie in their image: where most do not, their space or unit is another one.

    Args:
        points: to look at.
        grid: of the image that they are of.
        path: where they are from, for the message.
        image: what it is called, for the message.

    Returns:
        Names of the points that lie outside.

    Raises:
        PointsFileError: if more than half of them do.
    """
    outside = ~is_inside(voxel_positions(grid, points.mm), grid)
    names = tuple(name for name, is_out in zip(points.names, outside, strict=True) if is_out)
    if 2 * len(names) <= len(points.names):
        return names
    raise PointsFileError(
        path,
        f"{len(names)} of {len(points.names)} points lie outside of the {image} image; {_cause(points, grid)}",
    )


def _cause(points: Points, grid: Geometry) -> str:
    """What is probably wrong with points that lie outside."""
    as_written = points.mm * (_TURN if points.space == "LPS" else 1)
    if is_inside(voxel_positions(grid, points.mm * _TURN), grid).all():
        other = "RAS" if points.space == "LPS" else "LPS"
        return f"they would lie in it in {other}, so the header seems to name the wrong space"
    if is_inside(as_written, grid).all():
        return "their numbers would fit as voxels, and points are in mm; convert them by the image's affine"
    return "see that they are of this image, in mm, and of the space that their header names"
