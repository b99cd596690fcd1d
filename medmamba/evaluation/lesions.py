"""Lesions: the connected components of two masks, and which of them meet.

Voxels that share a face, an edge or a corner belong to one component (26 neighbours; 8 in the plane). Everything works
in the box around both masks, and what concerns one lesion in the box around that: nothing is computed where neither
mask is, and no number depends on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmamba.evaluation.scores import Lesion, LesionKind, ratio
from medmamba.evaluation.surface import Mask, same_shape, slabs
from medmamba.labels import integer_type
from medmamba.volume import bounding_box

Ids = NDArray[np.int64]
Box = tuple[slice, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Components:
    """The connected components of a mask, numbered from 1 in the order in which the first axis runs fastest.

    Args:
        labels: number of the component at each voxel, 0 outside; as small a type as holds them.
        voxels: (N + 1,) how many each has; of 0 nothing.
        boxes: N + 1 boxes around each; that of 0 is without meaning.
    """

    labels: NDArray[Any]
    voxels: Ids
    boxes: tuple[Box, ...]

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.voxels) - 1

    @property
    def ids(self) -> Ids:
        """Their numbers."""
        return np.arange(1, self.count + 1)


@dataclass(frozen=True, slots=True)
class Overlaps:
    """In how many voxels the things that two arrays number lie on one another: one entry for each two that do.

    Args:
        one: (N,) numbers in the first array, ascending.
        other: (N,) in the second.
        voxels: (N,) which they share.
    """

    one: Ids
    other: Ids
    voxels: Ids


def components(mask: Mask) -> Components:
    """The connected components of a mask of two or three axes."""
    import cc3d  # late: who asks for overlap alone need not wait for it

    # Numbered as an ITK reader would find them; cc3d goes through memory in one direction.
    turned = np.ascontiguousarray(mask.T)
    # Where the number of voxels along an axis is odd, cc3d 4.1.1 fails on as many lesions as there can be.
    odd = [(0, size % 2) for size in turned.shape]
    room = np.pad(turned, odd) if np.any(odd) else turned
    labels = cc3d.connected_components(room, connectivity=26 if mask.ndim == 3 else 8, binary_image=True)
    return measured(labels[tuple(slice(size) for size in turned.shape)].T)


def measured(labels: NDArray[Any]) -> Components:
    """What is known of components that an array numbers."""
    import cc3d  # late, as above

    found = cc3d.statistics(labels)
    voxels = found["voxel_counts"].astype(np.int64)
    voxels[0] = 0
    small = labels.astype(integer_type(0, len(voxels)), copy=False)
    return Components(labels=small, voxels=voxels, boxes=tuple(found["bounding_boxes"]))


def overlaps(one: NDArray[Any], other: NDArray[Any]) -> Overlaps:
    """Which things that one array numbers share voxels with which of another array of its shape; 0 is nothing."""
    from scipy.sparse import coo_array, csr_array  # late, as above

    shape = (int(one.max(initial=0)) + 1, int(other.max(initial=0)) + 1)
    table = csr_array(shape, dtype=np.int64)
    for rows in slabs(one.T.shape):
        here, there = one.T[rows], other.T[rows]
        both = (here != 0) & (there != 0)
        if both.any():
            table = table + coo_array(
                (np.ones(np.count_nonzero(both), dtype=np.int64), (here[both], there[both])), shape=shape
            )
    entries = table.tocoo()
    return Overlaps(*(np.asarray(values, dtype=np.int64) for values in (entries.row, entries.col, entries.data)))


def union(boxes: Sequence[Box]) -> Box:
    """The box around boxes."""
    return tuple(
        slice(min(part.start for part in parts), max(part.stop for part in parts)) for parts in zip(*boxes, strict=True)
    )


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
    """The components of a prediction and of its reference, all in one box of the image.

    Args:
        prediction: (I, J, K) mask, or (I, J).
        reference: mask of the same shape.
        margin: voxels that the box reaches beyond both masks, where the image does.

    Raises:
        ValueError: if shapes differ.
    """

    prediction: Mask
    reference: Mask
    margin: int = 0

    def __post_init__(self) -> None:
        same_shape(self.prediction, self.reference)

    @cached_property
    def box(self) -> Box:
        """Where they are in the image; as small as it gets where both masks are empty."""
        around = [bounding_box(mask) for mask in (self.prediction, self.reference) if mask.any()]
        if not around:
            return (slice(0, 1),) * self.reference.ndim
        return tuple(
            slice(max(part.start - self.margin, 0), min(part.stop + self.margin, size))
            for part, size in zip(union(around), self.reference.shape, strict=True)
        )

    @cached_property
    def predicted(self) -> Components:
        """Those of the prediction."""
        return components(self.prediction[self.box])

    @cached_property
    def expected(self) -> Components:
        """Those of the reference."""
        return components(self.reference[self.box])

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
        voxels = np.argwhere(found.labels[box] == lesion)
        apart = (((voxels - voxels.mean(axis=0)) * spacing_mm) ** 2).sum(axis=1)
        start = [inner.start + outer.start for inner, outer in zip(box, self.box, strict=True)]
        i, j, k = (*(voxels[apart.argmin()] + start), 0)[:3]
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
    from scipy.optimize import linear_sum_assignment  # late, as above

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
