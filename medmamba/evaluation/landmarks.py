"""How far the landmarks of two images are apart, before and after a registration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medmamba.case import some
from medmamba.evaluation.deformation import tre_mm
from medmamba.evaluation.report import plain, write_csv
from medmamba.io.landmarks import check_within, matched_points
from medmamba.records import to_json
from medmamba.transform import Transform
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
    """Read both files and put what belongs together side by side: by name, or in order where they share no name.

    Args:
        fixed: landmarks of the fixed image, see `medmamba.io.points`.
        moving: those of the moving image.
        fixed_grid: of the fixed image, in which its landmarks must lie; None if it is not at hand.
        moving_grid: likewise.

    Raises:
        FileNotFoundError: if there is no such file.
        DataError: if a file cannot be read, both cannot be matched, or most landmarks lie outside of their image.
    """
    ours, theirs, remarks = matched_points(fixed, moving)
    notes = [*remarks]
    for path, points, grid, image in ((fixed, ours, fixed_grid, "fixed"), (moving, theirs, moving_grid, "moving")):
        if grid is not None and (outside := check_within(points, grid, path, image)):
            notes.append(f"landmarks of {path.name} outside of the {image} image: {some(outside)}")
    notes += _mixed_up(ours.mm, theirs.mm)
    return Landmarks(names=ours.names, fixed_mm=ours.mm, moving_mm=theirs.mm, notes=tuple(notes))


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
