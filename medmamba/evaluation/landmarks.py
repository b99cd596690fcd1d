"""Landmarks of two images: which belong together, whether they are where they say, and how far apart they are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medmamba.case import some
from medmamba.errors import DataError
from medmamba.evaluation.deformation import tre_mm
from medmamba.evaluation.report import plain, write_csv
from medmamba.io.points import Points, read_points
from medmamba.records import to_json
from medmamba.transform import Transform, is_inside, voxel_positions
from medmamba.volume import FloatArray, Geometry

#: Landmarks that lie so many times closer together once one file's x and y are taken for the other space's are told.
_SUSPICIOUS = 4
#: The two spaces that files are in, from one to the other.
_OTHER_SPACE = np.array([-1.0, -1.0, 1.0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """Distances of landmarks in sum, millimetres.

    Args:
        sd: sample standard deviation; NaN of one landmark.
        p95: 95th percentile, interpolated.
    """

    n: int
    mean: float
    median: float
    sd: float
    max: float
    p95: float

    @classmethod
    def of(cls, mm: FloatArray) -> Errors:
        """Of (N,) distances, one or more."""
        return cls(
            n=len(mm),
            mean=float(mm.mean()),
            median=float(np.median(mm)),
            sd=float(mm.std(ddof=1)) if len(mm) > 1 else math.nan,
            max=float(mm.max()),
            p95=float(np.percentile(mm, 95)),
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Landmarks:
    """The same places in two images, in one order.

    Args:
        names: one each.
        fixed_mm: (N, 3) RAS millimetres.
        moving_mm: likewise.
        notes: what a reader should know.
    """

    names: tuple[str, ...]
    fixed_mm: FloatArray
    moving_mm: FloatArray
    notes: tuple[str, ...] = ()

    def errors_mm(self, transform: Transform) -> FloatArray:
        """(N,) how far each landmark of the fixed image is taken from that of the moving one."""
        return tre_mm(transform, self.fixed_mm, self.moving_mm)


def read_landmarks(
    fixed: Path, moving: Path, *, fixed_grid: Geometry | None = None, moving_grid: Geometry | None = None
) -> Landmarks:
    """Read both files and put what belongs together side by side: by name where both have the same, else in order.

    Args:
        fixed: landmarks of the fixed image, see `medmamba.io.points`.
        moving: those of the moving image.
        fixed_grid: of the fixed image, in which its landmarks must lie; None if it is not at hand.
        moving_grid: likewise.

    Raises:
        FileNotFoundError: if there is no such file.
        DataError: if a file cannot be read, both do not have as many, or most landmarks lie outside of their image.
    """
    ours, theirs = read_points(fixed), read_points(moving)
    if len(ours.names) != len(theirs.names):
        alone = [*sorted(set(ours.names) ^ set(theirs.names))]
        raise DataError(
            f"{fixed} has {len(ours.names)} landmarks and {moving} {len(theirs.names)}, but they belong together one by "
            f"one; add or remove those that one file lacks{f': {some(alone)}' if alone else ''}"
        )
    notes = []
    for path, points, grid in ((fixed, ours, fixed_grid), (moving, theirs, moving_grid)):
        if grid is not None:
            notes += _outside(path, points, grid)
    order = list(range(len(ours.names)))
    if len(set(ours.names)) == len(order) and set(ours.names) == set(theirs.names):
        order = [theirs.names.index(name) for name in ours.names]
    elif ours.names != theirs.names:
        notes.append("the names of the landmarks differ, so the first belongs to the first, and so on")
    moving_mm = theirs.mm[order]
    return Landmarks(
        names=ours.names, fixed_mm=ours.mm, moving_mm=moving_mm, notes=(*notes, *_mixed_up(ours.mm, moving_mm))
    )


def _outside(path: Path, points: Points, grid: Geometry) -> list[str]:
    """Names of landmarks outside of their image, if any.

    Raises:
        DataError: if most are, with the space that they seem to be in.
    """
    outside = ~is_inside(voxel_positions(grid, points.mm), grid)
    if 2 * outside.sum() <= len(outside):
        names = [name for name, is_one in zip(points.names, outside, strict=True) if is_one]
        return [f"outside of the image: {some(names)} of {path.name}"] if names else []
    stored = points.mm * (_OTHER_SPACE if points.space == "LPS" else 1)
    readings = {
        f"{'RAS' if points.space == 'LPS' else 'LPS'} mm": voxel_positions(grid, points.mm * _OTHER_SPACE),
        "voxels": stored,
    }
    likely = [name for name, index in readings.items() if is_inside(index, grid).mean() > 0.9]
    hint = f"; they would lie in it as {' or '.join(likely)}" if likely else ""
    raise DataError(
        f"{path}: {outside.sum()} of {len(outside)} landmarks lie outside of their image as {points.space} mm, as the "
        f"file says{hint}; correct the header or the numbers, or give the image that they are of"
    )


def _mixed_up(fixed_mm: FloatArray, moving_mm: FloatArray) -> list[str]:
    """A word where one file seems to be in another space than it says."""
    apart, mirrored = (
        float(np.median(np.linalg.norm(fixed_mm - moving_mm * sign, axis=1))) for sign in (1.0, _OTHER_SPACE)
    )
    if apart <= _SUSPICIOUS * mirrored:
        return []
    return [
        f"landmarks lie {apart:.0f} mm apart in the median, and {mirrored:.0f} mm if x and y of one file had the other "
        "sign: see whether one is LPS and the other RAS, unlike what they say"
    ]


def to_data(landmarks: Landmarks, transform: Transform | None) -> dict[str, Any]:
    """Errors before and, with a transform, after registration, of each landmark and in sum, as JSON data."""
    errors = {"before": landmarks.errors_mm(Transform())}
    if transform is not None:
        errors["after"] = landmarks.errors_mm(transform)
    each = [
        {"name": name, **{f"{when}_mm": float(mm[number]) for when, mm in errors.items()}}
        for number, name in enumerate(landmarks.names)
    ]
    return {
        **{f"{when}_mm": plain(to_json(Errors.of(mm))) for when, mm in errors.items()},
        "landmarks": each,
        "notes": list(landmarks.notes),
    }


def save(data: dict[str, Any], path: Path) -> None:
    """Write what `to_data` tells of each landmark as a table (CSV)."""
    rows = data["landmarks"]
    write_csv([tuple(rows[0]), *(tuple(row.values()) for row in rows)], path)
