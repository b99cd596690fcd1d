"""The distance between the surfaces of two masks in millimetres.

Surface distances are computed once (`surface_distances`) and read several ways. A surface is a set of elements, one at
each grid corner where the 2x2x2 voxels around it are neither all inside nor all outside; each has the area of the piece
of marching-cubes surface there, so that percentiles and means are weighted by area and not by the number of voxels,
which depends on the direction in which the surface runs. On a grid with a single slice the surface is a contour.
Nearest elements are looked up in k-d trees: exact in float64, and in need of memory for a part of a surface at a time.

Other packages measure between voxels: `border_distances` are those that panoptica takes.

References:
    Nikolov et al., "Clinically applicable segmentation of head and neck anatomy", JMIR 2021: surface Dice, and the
    weighting by surface elements whose numbers (DeepMind, surface-distance 0.1) this file reproduces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medmamba.evaluation.areas import element_areas
from medmamba.evaluation.scores import ratio
from medmamba.labels import integer_type
from medmamba.volume import SLAB_VOXELS, in_memory_order, marked_box, slab_voxels, slabs

FloatArray = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: At most so many points are looked up at a time.
POINTS = 2**13
#: A tree holds a part of a surface: an element for so many voxels of the image, and at least so many.
VOXELS, LEAST = 64, 2**12


class Distances(NamedTuple):
    """From the elements of one surface to the nearest of the other, ascending; those that are alike are told once.

    Args:
        mm: (N,) distances, infinite when the other surface is empty.
        areas: (N,) area of an element in mm^2 (length in mm on a single slice), ascending where distances are equal.
        counts: (N,) how many elements have this distance and area.
    """

    mm: FloatArray
    areas: FloatArray
    counts: NDArray[np.int64]

    @property
    def total_areas(self) -> FloatArray:
        """(N,) of all elements at each distance."""
        return self.areas * self.counts

    def percentile(self, percentile: float) -> float:
        """The distance within which so many percent of the area lie."""
        # Added up one by one, as in surface-distance: at a step, rounding decides.
        share = np.repeat(self.areas, self.counts)
        whole = share.sum()
        np.cumsum(share, out=share)
        share /= whole
        element = min(int(np.searchsorted(share, percentile / 100)), len(share) - 1)
        return float(self.mm[np.searchsorted(np.cumsum(self.counts), element, side="right")])


@dataclass(frozen=True, slots=True)
class SurfaceDistances:
    """Distances between two surfaces.

    Args:
        from_prediction: from the elements of its surface to the nearest of the reference's.
        from_reference: and back.
    """

    from_prediction: Distances
    from_reference: Distances

    @property
    def directions(self) -> tuple[Distances, Distances]:
        """Both."""
        return self.from_prediction, self.from_reference

    @property
    def between_empty(self) -> float | None:
        """Any distance where a mask is empty: NaN when both are, infinite when one is; None when none is."""
        empty = [not direction.mm.size for direction in self.directions]
        return None if not any(empty) else float("nan" if all(empty) else "inf")


class Surface(NamedTuple):
    """The elements of a surface.

    Args:
        corners: (N, dims) the grid corners they are at, as small a type as holds their indices.
        codes: (N,) which of the voxels around each are inside, from which its area follows.
        area_of: the area for each code, in mm^2, or the length in mm in the plane.
        spacing_mm: size of a voxel along each of the axes.
    """

    corners: NDArray[Any]
    codes: NDArray[np.uint8]
    area_of: FloatArray
    spacing_mm: tuple[float, ...]


def surface_distances(
    prediction: Mask, reference: Mask, spacing_mm: Sequence[float], *, contour: bool = True
) -> SurfaceDistances:
    """Distances between two surfaces, in both directions, for the readings below.

    Args:
        prediction: (I, J, K) mask, or (I, J).
        reference: mask of the same shape.
        spacing_mm: size of a voxel along each array axis; the axes are taken to be perpendicular.
        contour: whether the surface on a grid of a single slice is a contour, and not that of a slab, of which the
            inside of both masks would be surface too, at distance zero.

    Raises:
        ValueError: if shapes differ or the spacing does not have one positive entry per axis.
    """
    same_shape(prediction, reference)
    ours, theirs = (surface_of(mask, spacing_mm, contour=contour) for mask in (prediction, reference))
    return distances_between(ours, theirs, reference.size)


def surface_of(mask: Mask, spacing_mm: Sequence[float], *, contour: bool = True, image: int | None = None) -> Surface:
    """The surface of a mask: arguments and errors as of `surface_distances`, ``image`` as in `surface_in_slabs`."""
    spacing = tuple(float(step) for step in spacing_mm)
    if len(spacing) != mask.ndim or mask.ndim not in (2, 3):
        raise ValueError(f"spacing needs one entry for each of two or three axes, got {spacing} for {mask.shape}")
    if not all(0 < step < np.inf for step in spacing):
        raise ValueError(f"spacing must be positive and finite along every axis, got {spacing} mm")
    mask = mask.astype(bool, copy=False)
    if contour and mask.ndim == 3 and mask.shape.count(1) == 1:
        flat = mask.shape.index(1)
        mask, spacing = mask.squeeze(flat), spacing[:flat] + spacing[flat + 1 :]
    array, image = in_memory_order(mask), mask.size if image is None else image
    if array is mask:
        return surface_in_slabs(lambda rows: array[rows], array.shape, spacing, image)
    turned = surface_in_slabs(lambda rows: array[rows], array.shape, spacing[::-1], image)
    return turned._replace(corners=turned.corners[:, ::-1], spacing_mm=spacing)


def distances_between(prediction: Surface, reference: Surface, voxels: int) -> SurfaceDistances:
    """Distances between two surfaces of masks of one shape and spacing.

    Args:
        prediction: the one.
        reference: and the other.
        voxels: of the image, to which the memory that this takes keeps a relation.
    """
    at_once = max(LEAST, voxels // VOXELS)
    return SurfaceDistances(_distances(prediction, reference, at_once), _distances(reference, prediction, at_once))


def border_distances(prediction: Mask, reference: Mask, spacing_mm: Sequence[float]) -> tuple[FloatArray, FloatArray]:
    """Distances from each voxel at the border of one mask to the nearest at that of the other, as panoptica takes them.

    A voxel is at the border if one of its neighbours across a face is outside the mask or the image.

    Args:
        prediction: (I, J, K) mask, not empty.
        reference: mask of the same shape, not empty.
        spacing_mm: size of a voxel along each array axis.

    Returns:
        From the prediction and from the reference, in mm, in no particular order.
    """
    ours, theirs = (np.argwhere(_border(mask)) for mask in (prediction, reference))
    there, back = (
        np.concatenate([mm for _, mm in _nearest_mm(*pair, spacing_mm, max(map(len, pair)))])
        for pair in ((ours, theirs), (theirs, ours))
    )
    return there, back


def hausdorff(distances: SurfaceDistances, percentile: float = 95) -> float:
    """The distance within which ``percentile`` % of either surface lies, in mm; 100 gives the Hausdorff distance.

    The larger of both directions, each weighted by area. NaN when both masks are empty, infinite when one is.
    """
    if distances.between_empty is not None:
        return distances.between_empty
    return max(direction.percentile(percentile) for direction in distances.directions)


def assd(distances: SurfaceDistances) -> float:
    """Mean distance over both surfaces by area, in mm; NaN when both masks are empty, infinite when one is."""
    if distances.between_empty is not None:
        return distances.between_empty
    total = sum(float(direction.total_areas.sum()) for direction in distances.directions)
    return sum(float((direction.mm * direction.total_areas).sum()) for direction in distances.directions) / total


def surface_dice(distances: SurfaceDistances, tolerance_mm: float) -> float:
    """Share of both surfaces' area within the tolerance of the other; NaN when both masks are empty, 0 when one is."""
    total = sum(float(direction.total_areas.sum()) for direction in distances.directions)
    within = [direction.total_areas[direction.mm <= tolerance_mm] for direction in distances.directions]
    return ratio(sum(float(areas.sum()) for areas in within), total)


def same_shape(prediction: NDArray[Any], reference: NDArray[Any]) -> None:
    """Refuse masks of different shapes: numpy would broadcast one of a single slice over all of them without a word.

    Raises:
        ValueError: if shapes differ.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"masks must have the same shape, got {prediction.shape} and {reference.shape}")


def _distances(source: Surface, target: Surface, at_once: int) -> Distances:
    """From each element of ``source`` to the nearest of ``target``."""
    found = [Distances(np.zeros(0), np.zeros(0), np.zeros(0, dtype=np.int64))]
    for rows, mm in _nearest_mm(source.corners, target.corners, source.spacing_mm, at_once):
        found.append(_alike(Distances(mm, source.area_of[source.codes[rows]], np.ones(len(mm), dtype=np.int64))))
    return _alike(Distances(*map(np.concatenate, zip(*found, strict=True))))


def _alike(distances: Distances) -> Distances:
    """Distances in order, those that are equal in distance and area put together."""
    order = np.lexsort((distances.areas, distances.mm))
    mm, areas = distances.mm[order], distances.areas[order]
    new = np.ones(order.size, dtype=bool)
    new[1:] = (mm[1:] != mm[:-1]) | (areas[1:] != areas[:-1])
    first = np.flatnonzero(new)
    return Distances(mm[first], areas[first], np.add.reduceat(distances.counts[order], first))


def _nearest_mm(
    points: NDArray[Any], others: NDArray[Any], spacing_mm: Sequence[float], at_once: int
) -> Iterator[tuple[slice, FloatArray]]:
    """Distance from each point of a grid to the nearest of the others, infinite where there are none.

    Args:
        points: (N, dims) in the order in which they lie in memory, so that neighbours are close together.
        others: (M, dims) likewise.
        spacing_mm: size of a step along each axis.
        at_once: of how many points and of how many others more is held than where they are.

    Yields:
        Some of the points and the distance of each, until all have been told.
    """
    scale = np.asarray(spacing_mm, dtype=np.float64)
    parts = [others[rows] for rows in _runs(len(others), at_once)]
    boxes = [_box(part) for part in parts]
    for rows in _runs(len(points), at_once):
        nearest, box = np.full(rows.stop - rows.start, np.inf), _box(points[rows])
        # What is close by leaves little to look for far away.
        for number in np.argsort([np.linalg.norm((box - other).sum(axis=0) * scale) for other in boxes]):
            if _apart_mm(box, boxes[number], scale) < nearest.max():
                _approach(nearest, points[rows], parts[number], scale)
        yield rows, nearest


def _approach(nearest: FloatArray, points: NDArray[Any], others: NDArray[Any], scale: FloatArray) -> None:
    """Lower distances of points to those from the nearest of some others, where these are nearer."""
    from scipy.spatial import KDTree  # late: who asks for overlap alone need not wait for it

    # Points of a grid are spread evenly: a tree that is not balanced is built faster, and searched as fast.
    tree, box = KDTree(others * scale, balanced_tree=False, compact_nodes=False, leafsize=32), _box(others)
    for rows in _runs(len(points), min(POINTS, max(len(points), LEAST) // 8)):
        some = points[rows]
        if _apart_mm(_box(some), box, scale) < nearest[rows].max():
            _, found = tree.query(some * scale)
            # From whole steps, so that one and the same step is one and the same distance wherever it lies.
            mm = np.linalg.norm((some.astype(np.int64) - others[found]) * scale, axis=1)
            np.minimum(nearest[rows], mm, out=nearest[rows])


def _box(points: NDArray[Any]) -> FloatArray:
    """(2, dims) first and last corner of the box around points of a grid."""
    return np.array([points.min(axis=0), points.max(axis=0)], dtype=np.float64)


def _apart_mm(box: FloatArray, other: FloatArray, scale: FloatArray) -> float:
    """How far two boxes are apart, 0 where they overlap."""
    steps = np.maximum(np.maximum(other[0] - box[1], box[0] - other[1]), 0)
    return float(np.linalg.norm(steps * scale))


def _runs(count: int, size: int) -> list[slice]:
    """Numbers up to a count in runs of a size."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _border(mask: Mask) -> Mask:
    """The voxels of a mask with a neighbour across a face that is not in it."""
    padded, inner = np.pad(mask, 1), (slice(1, -1),) * mask.ndim
    within = mask.copy()
    for axis in range(mask.ndim):
        for window in (slice(None, -2), slice(2, None)):
            within &= padded[(*inner[:axis], window, *inner[axis + 1 :])]
    return mask & ~within


def surface_in_slabs(
    read: Callable[[slice], Mask], shape: Sequence[int], spacing_mm: tuple[float, ...], image: int
) -> Surface:
    """The surface of a mask that is never there as a whole.

    Args:
        read: gives the part of the mask that a slice along its first axis cuts out.
        shape: of the mask, two or three axes.
        spacing_mm: size of a voxel along each array axis.
        image: how many voxels the image has that the mask may be a part of.
    """
    kind, dims = integer_type(0, max(shape)), len(shape)
    corners, codes = [np.zeros((0, dims), dtype=kind)], [np.zeros(0, dtype=np.uint8)]
    for slab in slabs([size + 1 for size in shape], min(slab_voxels(image), SLAB_VOXELS)):
        voxels = slice(max(slab.start - 1, 0), min(slab.stop, shape[0]))
        part = read(voxels)
        box = marked_box(part)
        if box is None:
            continue
        found = _neighbourhoods(part[:, *box[1:]], voxels.start - slab.start + 1, slab.stop - slab.start)
        # All outside is 0, all inside the largest code.
        at = np.nonzero((found != 0) & (found != 2**2**dims - 1))
        first = (slab.start, *(side.start for side in box[1:]))
        corners.append(np.stack([axis + by for axis, by in zip(at, first, strict=True)], axis=1).astype(kind))
        codes.append(found[at])
    return Surface(
        corners=np.concatenate(corners),
        codes=np.concatenate(codes),
        area_of=element_areas(spacing_mm),
        spacing_mm=spacing_mm,
    )


def _neighbourhoods(mask: Mask, before: int, rows: int) -> NDArray[np.uint8]:
    """At each grid corner, a bit for every voxel around it that is inside.

    Args:
        mask: voxels around rows of corners, as far as there are any.
        before: 1 where the first row of corners has no voxels before it, else 0.
        rows: of corners.

    Returns:
        (rows, ...), one more than voxels along each other axis; the last axis decides over the lowest bit.
    """
    codes = np.zeros((rows + 1, *(size + 2 for size in mask.shape[1:])), dtype=np.uint8)
    codes[before : before + len(mask), *(slice(1, -1),) * (mask.ndim - 1)] = mask
    for axis in reversed(range(mask.ndim)):
        near, far = ((slice(None),) * axis + (part,) for part in (slice(None, -1), slice(1, None)))
        codes = codes[near] | codes[far] << 2 ** (mask.ndim - 1 - axis)
    return codes
