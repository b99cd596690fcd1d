"""The connected components of a mask.

Voxels that share a face, an edge or a corner belong to one component (26 neighbours; 8 in the plane).

A mask is read in slabs, and of each slab only the box around what is marked: cc3d numbers four bytes a voxel at times,
and numbers nothing but the slab at hand. What reaches over a cut is put together afterwards, so that numbers and boxes
are those of the whole.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmamba.evaluation.surface import Mask
from medmamba.labels import integer_type
from medmamba.volume import bounding_box, in_memory_order, slab_voxels, slabs

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


def components(mask: Mask, image: int | None = None) -> Components:
    """The connected components of a mask of two or three axes.

    Args:
        mask: or a part of one, around everything that is marked.
        image: how many voxels the whole has, which small parts need not be sparing of; None for those of the mask.
    """
    return components_in_slabs(lambda rows: mask.T[rows], mask.shape, mask.size if image is None else image)


def components_in_slabs(read: Callable[[slice], Mask], shape: Sequence[int], image: int) -> Components:
    """The connected components of a mask that is never there as a whole.

    Args:
        read: gives the part of the transposed mask that a slice along its first axis cuts out.
        shape: of the mask, two or three axes.
        image: how many voxels the image has that it may be a part of.
    """
    pieces = _Pieces(labels=np.zeros(tuple(shape)[::-1], dtype=np.uint8))
    for rows in slabs(pieces.labels.shape, slab_voxels(image)):
        part = read(rows)
        if part.any():
            pieces.add(part, rows)
    return pieces.joined()


def overlaps(one: NDArray[Any], other: NDArray[Any]) -> Overlaps:
    """Which things that one array numbers share voxels with which of another array of its shape; 0 is nothing."""
    from scipy.sparse import coo_array, csr_array  # late, as below

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


def told(labels: NDArray[Any], table: NDArray[Any]) -> NDArray[Any]:
    """What a table holds for each label; numpy by itself would make an index of eight bytes out of every label."""
    ordered = in_memory_order(labels)
    found = np.empty(ordered.shape, dtype=table.dtype)
    for rows in slabs(ordered.shape):
        found[rows] = table[ordered[rows]]
    return found if ordered is labels else found.T


def union(boxes: Sequence[Box]) -> Box:
    """The box around boxes."""
    return tuple(
        slice(min(part.start for part in parts), max(part.stop for part in parts)) for parts in zip(*boxes, strict=True)
    )


@dataclass(slots=True, kw_only=True)
class _Pieces:
    """Components of slab after slab of a transposed mask, those cut in two still counted as two.

    Args:
        labels: numbers of the pieces so far, transposed.
        places: boxes that hold all pieces.
        voxels: how many each has, from piece 1 on.
        first: first index of each along every axis.
        stop: and the index after the last.
        touching: (2, P) pieces on both sides of a cut that belong together.
        count: of pieces.
    """

    labels: NDArray[Any]
    places: list[Box] = field(default_factory=list)
    voxels: list[Ids] = field(default_factory=list)
    first: list[Ids] = field(default_factory=list)
    stop: list[Ids] = field(default_factory=list)
    touching: list[Ids] = field(default_factory=list)
    count: int = 0

    def add(self, part: Mask, rows: slice) -> None:
        """Number the pieces in a slab, in which something is."""
        box = bounding_box(part)
        self.places.append((slice(rows.start + box[0].start, rows.start + box[0].stop), *box[1:]))
        start = [side.start for side in self.places[-1]]
        found, voxels, first, stop = _numbered(part[box])
        before, self.count = self.count, self.count + len(voxels)
        self.labels = self.labels.astype(integer_type(0, self.count), copy=False)
        here = self.labels[self.places[-1]]
        np.add(found, before, out=here, where=part[box], dtype=here.dtype, casting="unsafe")
        self.voxels.append(voxels)
        self.first.append(first + start)
        self.stop.append(stop + start)
        if rows.start:
            self.touching.append(_touching(*self.labels[rows.start - 1 : rows.start + 1]))

    def joined(self) -> Components:
        """The components, pieces on both sides of a cut put together."""
        pairs = np.concatenate([np.zeros((2, 0), dtype=np.int64), *self.touching], axis=1)
        number = _in_order(pairs, self.count) if pairs.size else np.arange(self.count + 1)
        found = int(number.max(initial=0))
        axes = self.labels.ndim
        voxels = np.zeros(found + 1, dtype=np.int64)
        first, stop = np.full((found + 1, axes), np.iinfo(np.int64).max), np.zeros((found + 1, axes), dtype=np.int64)
        for some, into, put in (
            (self.voxels, voxels, np.add),
            (self.first, first, np.minimum),
            (self.stop, stop, np.maximum),
        ):
            if some:
                put.at(into, number[1:], np.concatenate(some))
        first[0] = 0
        boxes = zip(first[:, ::-1].tolist(), stop[:, ::-1].tolist(), strict=True)
        return Components(
            labels=(_renumbered(self.labels, self.places, number) if pairs.size else self.labels).T,
            voxels=voxels,
            boxes=tuple(tuple(slice(*ends) for ends in zip(*box, strict=True)) for box in boxes),
        )


def _numbered(mask: Mask) -> tuple[NDArray[Any], Ids, Ids, Ids]:
    """The components of a small mask: their numbers, sizes, first indices, and those after the last."""
    import cc3d  # late: who asks for overlap alone need not wait for it

    # Where the number of voxels along an axis is odd, cc3d 4.1.1 fails on as many components as there can be.
    room = np.zeros([size + size % 2 for size in mask.shape], dtype=bool)
    room[tuple(slice(size) for size in mask.shape)] = mask
    labels = cc3d.connected_components(room, connectivity=26 if mask.ndim == 3 else 8, binary_image=True)
    told = cc3d.statistics(labels)
    ends = [[(side.start, side.stop) for side in box] for box in told["bounding_boxes"][1:]]
    first, stop = np.array(ends, dtype=np.int64).reshape(-1, mask.ndim, 2).transpose(2, 0, 1)
    inner: NDArray[Any] = labels[tuple(slice(size) for size in mask.shape)]
    return inner, told["voxel_counts"][1:].astype(np.int64), first, stop


def _touching(below: NDArray[Any], above: NDArray[Any]) -> Ids:
    """(2, P) pieces of two neighbouring planes that share a face, an edge or a corner; each pair may come often."""
    marked = np.nonzero(above)
    room = np.pad(below, 1).astype(np.int64)
    factor = room.max() + 1  # a pair is one number
    first, pairs = above[marked] * factor, []
    for step in itertools.product(range(3), repeat=above.ndim):
        met = room[tuple(at + by for at, by in zip(marked, step, strict=True))]
        pair = (first + met)[met != 0]
        pairs.append(pair[np.diff(pair, prepend=-1) != 0])  # most are like the one before
    return np.stack(np.divmod(np.unique(np.concatenate(pairs)), factor))


def _in_order(pairs: Ids, count: int) -> Ids:
    """(count + 1,) number of the component of each piece: by the first piece that is in it, 0 for what is outside."""
    from scipy.sparse import coo_array  # late, as above
    from scipy.sparse.csgraph import connected_components

    ones = np.ones(pairs.shape[1], dtype=np.int8)
    _, group = connected_components(coo_array((ones, tuple(pairs)), shape=(count + 1, count + 1)), directed=False)
    _, first, inverse = np.unique(group, return_index=True, return_inverse=True)
    number: Ids = np.argsort(np.argsort(first))[inverse]
    return number


def _renumbered(labels: NDArray[Any], places: Sequence[Box], number: Ids) -> NDArray[Any]:
    """Labels by their new numbers, which are in these boxes alone; in place where the type stays."""
    table = number.astype(integer_type(0, int(number.max(initial=0))))
    changed = labels if table.dtype == labels.dtype else np.zeros(labels.shape, dtype=table.dtype)
    for box in places:
        changed[box] = told(labels[box], table)
    return changed
