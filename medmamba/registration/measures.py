"""What labels and landmarks say of a registration: before it, after the affine map alone, and after all of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmamba import io
from medmamba.case import Case, Pair, some
from medmamba.errors import DataError
from medmamba.evaluation.deformation import tre_mm
from medmamba.io.landmarks import check_within, matched_points
from medmamba.io.points import Points
from medmamba.registration.records import Overlap, PointErrors
from medmamba.transform import Transform, resample
from medmamba.volume import Geometry, Volume


@dataclass(slots=True)
class Annotations:
    """Labels and landmarks of a pair, and where its masks lie, read and found to be of it.

    Args:
        pair: whose they are.
        fixed: grid of the fixed image.
        moving: of the moving one.
        remarks: what was odd about them.
        warnings: what may well be wrong about them.
    """

    pair: Pair
    fixed: Geometry
    moving: Geometry
    remarks: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    labels: tuple[Volume | None, Volume | None] = (None, None)
    points: tuple[Points, Points] | None = None

    @classmethod
    def read(cls, pair: Pair, fixed: Geometry, moving: Geometry) -> Annotations:
        """Read what there is.

        Raises:
            DataError: if a file cannot be read, a label map lies elsewhere than its image, most landmarks do, or they
                cannot be matched.
        """
        found = cls(pair, fixed, moving)
        grids = (("fixed", pair.fixed, fixed), ("moving", pair.moving, moving))
        found.labels = tuple(found._label(name, case, grid) for name, case, grid in grids)  # type: ignore[assignment]
        for name, case, grid in grids:
            if case.mask is not None:
                found._tell_apart(f"{name} mask", grid, io.read_geometry(case.mask))
        if pair.fixed.points is not None and pair.moving.points is not None:
            ours, theirs, remarks = matched_points(pair.fixed.points, pair.moving.points)
            found.points = ours, theirs
            found.remarks += remarks
            for points, (name, case, grid) in zip(found.points, grids, strict=True):
                assert case.points is not None
                if outside := check_within(points, grid, case.points, name):
                    found.remarks.append(f"landmarks outside of the {name} image: {some(list(outside))}")
        return found

    def overlap(self, aligned: Transform, whole: Transform) -> Overlap | None:
        """Dice of the structures, on the fixed map's own grid; None unless both images have a map."""
        fixed, moving = self.labels
        if fixed is None or moving is None:
            return None
        ours, theirs = ({int(value) for value in np.unique(map_.array)} - {0} for map_ in (fixed, moving))
        if lonely := sorted(ours ^ theirs):
            told = some([str(value) for value in lonely])
            self.remarks.append(f"structures in one of the label maps alone, left out of the Dice: {told}")
        shared = sorted(ours & theirs)
        dice = [
            _dice(resample(moving, each, fixed.geometry, "label").array[0], fixed.array[0], shared)
            for each in (Transform(), aligned, whole)
        ]
        return Overlap(before=dice[0], aligned=dice[1], after=dice[2])

    def errors(self, aligned: Transform, whole: Transform) -> PointErrors | None:
        """Distances of landmarks in the moving image; None unless both images have some."""
        if self.points is None:
            return None
        fixed, moving = self.points
        before, middle, after = (
            tuple(float(f"{mm:.4f}") for mm in tre_mm(each, fixed.mm, moving.mm))
            for each in (Transform(), aligned, whole)
        )
        beyond = [name for name, out in zip(fixed.names, whole.beyond(fixed.mm), strict=True) if out]
        if beyond and len(whole.steps) > 1:
            self.remarks.append(f"landmarks beyond the field, which does not move them: {some(beyond)}")
        if np.mean(after) > np.mean(before):
            self.remarks.append(
                f"landmarks are further apart after registration, {np.mean(before):.3g} to {np.mean(after):.3g} mm in "
                "the mean: see that both files are of these images, in the space they name and in the same order, and "
                "look at the warped image"
            )
        return PointErrors(names=fixed.names, before=before, aligned=middle, after=after)

    def _label(self, name: str, case: Case, grid: Geometry) -> Volume | None:
        if case.label is None:
            return None
        label = io.read_label(case.label, within=grid)
        if not label.geometry.overlaps(grid):
            raise DataError(f"{case.label} does not lie where the {name} image does; see that it is of that image")
        self._tell_apart(f"{name} label map", grid, label.geometry)
        return label

    def _tell_apart(self, what: str, image: Geometry, own: Geometry) -> None:
        """A map on another grid than its image may be meant; one of the same shape that lies elsewhere hardly is."""
        apart = image.apart(own)
        if apart and own.shape == image.shape:
            self.warnings.append(
                f"the {what} has the shape of its image, but lies up to {image.distance_mm(own):.3g} mm from it "
                f"({apart}): one of the headers is probably wrong. It is used where its own has it"
            )
        elif apart:
            self.remarks.append(f"the {what} has a grid of its own, and is used on it: {apart}")


def mean(values: dict[str, float]) -> float:
    """Of Dice over structures; NaN without any."""
    return float(np.mean(list(values.values()))) if values else math.nan


def summary(overlap: Overlap | None, points: PointErrors | None) -> Iterator[str]:
    """In words, from before to after, for people."""
    if overlap is not None and overlap.after:
        dice = [f"{mean(each):.3f}" for each in (overlap.before, overlap.aligned, overlap.after)]
        yield f"Dice of {len(overlap.after)} structures {' -> '.join(dice)}"
    if points is not None:
        errors = [f"{np.mean(each):.2f}" for each in (points.before, points.aligned, points.after)]
        yield f"{len(points.names)} landmarks {' -> '.join(errors)} mm apart"


def _dice(moved: NDArray[Any], fixed: NDArray[Any], values: list[int]) -> dict[str, float]:
    known = np.array(values, dtype=np.int64)
    size = len(values) + 1

    def places(array: NDArray[Any]) -> NDArray[np.int64]:
        """0 for what is none of the values, else 1 and on."""
        at = np.searchsorted(known, array).clip(max=len(known) - 1)
        return np.where(known[at] == array, at + 1, 0).ravel()

    if not values:
        return {}
    ours, theirs = places(moved), places(fixed)
    both = np.bincount(np.where(ours == theirs, theirs, 0), minlength=size)[1:]
    total = np.bincount(ours, minlength=size)[1:] + np.bincount(theirs, minlength=size)[1:]
    return {str(value): round(2 * float(b) / float(t), 5) for value, b, t in zip(values, both, total, strict=True)}
