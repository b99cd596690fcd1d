"""Landmarks of two images: which belong together, and whether they lie in their image at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medmamba.io.errors import PointsFileError
from medmamba.io.points import Points, read_points
from medmamba.transform import is_inside, voxel_positions
from medmamba.volume import Geometry

#: RAS millimetres of LPS ones, and the other way round.
_TURN = np.array([-1.0, -1.0, 1.0])


def matched_points(fixed: Path, moving: Path) -> tuple[Points, Points]:
    """Landmarks of two images that belong together: by their names, or by their order where they share none.

    Returns:
        Both in the order of the first file, with its names.

    Raises:
        FileNotFoundError: if there is no such file.
        PointsFileError: if one cannot be read, or nothing tells which points belong together.
    """
    ours, theirs = read_points(fixed), read_points(moving)
    places = {name: place for place, name in enumerate(theirs.names)}
    same_number = len(ours.names) == len(theirs.names)
    if same_number and len(places) == len(theirs.names) and set(ours.names) == set(places):
        return ours, Points(ours.names, theirs.mm[[places[name] for name in ours.names]], theirs.space)
    if same_number and not set(ours.names) & set(places):
        return ours, Points(ours.names, theirs.mm, theirs.space)
    lonely = sorted(set(ours.names) ^ set(places))
    told = f" by name ({lonely[0]!r} is in one of them alone)" if lonely else ""
    raise PointsFileError(
        moving,
        f"it holds {len(theirs.names)} points and {fixed} {len(ours.names)}, and they cannot be matched{told}; list "
        "the same names, once each, in both",
    )


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
