"""Lesions: the connected components of two masks, and which of them meet.

What concerns one lesion is computed in the box around it: no number depends on what is around that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from medmamba.evaluation.components import Components, Ids, Overlaps, overlaps
from medmamba.evaluation.scores import Lesion, LesionKind, ratio
from medmamba.evaluation.surface import same_shape
from medmamba.volume import slabs


@dataclass(frozen=True, slots=True, kw_only=True)
class Panoptic:
    """Panoptic quality and its two factors; without any component, NaN.

    Args:
        iou: sum over matched pairs.
        matched: how many pairs.
        all: components of both masks together.
    """

    iou: float
    matched: int
    all: int

    @property
    def quality(self) -> float:
        """Share of what both hold that is recognized, weighted by how well."""
        return ratio(2 * self.iou, self.all)

    @property
    def recognition(self) -> float:
        """The F1 of recognizing lesions."""
        return ratio(2 * self.matched, self.all)

    @property
    def segmentation(self) -> float:
        """Mean IoU of those that match; 0 where none does."""
        return self.iou / self.matched if self.matched else ratio(0, self.all)


@dataclass(frozen=True, kw_only=True)
class Lesions:
    """The components of a prediction and of its reference.

    Args:
        predicted: those of the prediction.
        expected: those of the reference, numbered in an array of the same shape.
        corner: where the first voxel of these arrays is in the image.
    """

    predicted: Components
    expected: Components
    corner: tuple[int, ...] = (0, 0, 0)

    def __post_init__(self) -> None:
        same_shape(self.predicted.labels, self.expected.labels)

    @cached_property
    def meetings(self) -> Overlaps:
        """Which of the reference share voxels with which of the prediction."""
        return overlaps(self.expected.labels, self.predicted.labels)

    @cached_property
    def found(self) -> int:
        """Those of the reference that the prediction meets."""
        return len(np.unique(self.meetings.one))

    @cached_property
    def false(self) -> int:
        """Those of the prediction that meet nothing."""
        return self.predicted.count - len(np.unique(self.meetings.other))

    @property
    def missed(self) -> int:
        """Those of the reference that the prediction does not meet."""
        return self.expected.count - self.found

    @property
    def sensitivity(self) -> float:
        """Share of the lesions that were found; NaN where there are none."""
        return ratio(self.found, self.expected.count)

    @property
    def precision(self) -> float:
        """Found over found and false; NaN where there are none of both."""
        return ratio(self.found, self.found + self.false)

    @property
    def f1(self) -> float:
        """Harmonic mean of sensitivity and precision; NaN where there is no lesion at all."""
        return ratio(2 * self.found, 2 * self.found + self.missed + self.false)

    @cached_property
    def panoptic(self) -> Panoptic:
        """What becomes of them where an IoU of half makes a match."""
        one, other, common = self.meetings.one, self.meetings.other, self.meetings.voxels
        iou = common / (self.expected.voxels[one] + self.predicted.voxels[other] - common)
        matching = np.flatnonzero(iou >= 0.5)
        # At exactly half, two pieces can match one lesion; only one of them does.
        matched = iou[matching][one_to_one(one[matching], other[matching], iou[matching])]
        return Panoptic(iou=float(matched.sum()), matched=len(matched), all=self.expected.count + self.predicted.count)

    def table(self, spacing_mm: Sequence[float], voxel_ml: float) -> tuple[Lesion, ...]:
        """Every lesion by itself: those of the reference, then the false ones.

        Args:
            spacing_mm: size of a voxel along each array axis.
            voxel_ml: its volume.
        """
        common, size = (np.zeros(self.expected.count + 1, dtype=np.int64) for _ in range(2))
        np.add.at(common, self.meetings.one, self.meetings.voxels)
        np.add.at(size, self.meetings.one, self.predicted.voxels[self.meetings.other])
        dice = 2 * common / np.maximum(self.expected.voxels + size, 1)
        rows: list[tuple[LesionKind, Components, int, float]] = [
            ("found" if common[each] else "missed", self.expected, each, dice[each]) for each in self.expected.ids
        ]
        false = np.setdiff1d(self.predicted.ids, self.meetings.other)
        rows += [("false", self.predicted, each, 0.0) for each in false]
        return tuple(
            Lesion(
                kind=kind,
                volume_ml=float(found.voxels[each]) * voxel_ml,
                voxel=self._voxel(found, each, spacing_mm),
                dice=float(score),
            )
            for kind, found, each, score in rows
        )

    def _voxel(self, found: Components, lesion: int, spacing_mm: Sequence[float]) -> tuple[int, int, int]:
        """The voxel of a component nearest to the mean of all its voxels, in the image."""
        box = found.boxes[lesion]
        inside = found.labels[box] == lesion
        every = range(inside.ndim)
        along = [inside.sum(axis=tuple(other for other in every if other != axis)) for axis in every]
        centre = [(np.arange(counts.size) * counts).sum() / counts.sum() for counts in along]
        nearest, best = np.zeros(inside.ndim, dtype=np.int64), np.inf
        for rows in slabs(inside.shape):
            voxels = np.argwhere(inside[rows])
            voxels[:, 0] += rows.start
            apart = (((voxels - centre) * spacing_mm) ** 2).sum(axis=1)
            if apart.size and apart.min() < best:
                nearest, best = voxels[apart.argmin()], apart.min()
        start = [side.start + first for side, first in zip(box, self.corner, strict=False)]
        i, j, k = (*(nearest + start), 0)[:3]
        return int(i), int(j), int(k)


def one_to_one(one: Ids, other: Ids, scores: NDArray[np.float64]) -> Ids:
    """The entries of a list of pairs, in which nothing occurs twice, whose scores add up to the most.

    Of two choices with one sum, that with more pairs counts.

    Args:
        one: (N,) what each pair has on one side.
        other: (N,) and on the other side.
        scores: (N,) above 0 and up to 1.

    Returns:
        (M,) which entries.
    """
    from scipy.optimize import linear_sum_assignment  # late: who asks for overlap alone need not wait for it

    if not scores.size:
        return np.zeros(0, dtype=np.int64)
    rows, row = np.unique(one, return_inverse=True)
    columns, column = np.unique(other, return_inverse=True)
    costs = np.full((len(rows), len(columns)), 1 + 1e-6)
    costs[row, column] = 1 - scores
    entry = np.full(costs.shape, -1)
    entry[row, column] = np.arange(len(scores))
    chosen: Ids = entry[linear_sum_assignment(costs)]
    return chosen[chosen >= 0]
