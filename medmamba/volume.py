"""A grid in space, and voxels on it.

Frame: world coordinates are RAS millimetres (x to the patient's right, y to the front, z to the head), the frame of
NIfTI. Arrays are indexed in array order ``[i, j, k]``, the order in which nibabel returns them; the affine
maps the index of a voxel's centre to its world position. Nothing in this file reads or writes a file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

#: Arrays are read in slabs of at most about so many voxels: what is made of them on the way stays in the processor's
#: cache.
SLAB_VOXELS = 2**18
#: A small image is cut into so many slabs, so that what is made on the way is small beside it,
CUTS = 16
#: if they hold at least about so many voxels.
LEAST_VOXELS = 2**13

#: Two grids count as the same one, everywhere, when every corner voxel lies less than this share of a voxel
#: apart: headers round, but half a voxel is another place.
SAME_GRID_VOXELS = 0.5
#: Up to here two grids coincide, and there is nothing to remark.
GEOMETRY_TOLERANCE_MM = 1e-3


@dataclass(frozen=True)
class Geometry:
    """The grid of a 3D image: how many voxels along each axis and where each of them is.

    Any invertible affine is allowed, shear included; an algorithm that needs orthogonal axes asks
    ``is_orthogonal``. A 2D image is a grid with one slice.

    Args:
        shape: voxels along each of the three array axes, each at least 1.
        affine: 4x4 matrix, float64, from voxel index to RAS millimetres.

    Raises:
        ValueError: if the shape does not have three positive entries, or the affine is not a finite, invertible
            4x4 matrix with last row (0, 0, 0, 1).
    """

    shape: tuple[int, int, int]
    affine: FloatArray

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"a grid needs three axes of at least one voxel, got shape {tuple(self.shape)}")
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4) or not np.array_equal(affine[3], (0.0, 0.0, 0.0, 1.0)):
            raise ValueError(f"an affine is a 4x4 matrix with last row 0 0 0 1, got {affine.tolist()}")
        if not np.isfinite(affine).all():
            raise ValueError(f"the affine holds NaN or infinite values: {affine[:3].tolist()}")
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
        # Relative to the voxel size, so that micrometre voxels are not mistaken for a singular matrix.
        if not lengths.all() or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-6:
            raise ValueError(
                f"the affine is singular (voxel sizes {tuple(lengths.tolist())} mm, rows {affine[:3].tolist()}), "
                "so voxels have no distinct positions; repair the header of the image"
            )
        affine.setflags(write=False)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine", affine)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Geometry):
            return NotImplemented
        return self.shape == other.shape and np.array_equal(self.affine, other.affine)

    def __hash__(self) -> int:
        return hash((self.shape, self.affine.tobytes()))

    @cached_property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxel centres along each array axis, in millimetres."""
        lengths = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(lengths[0]), float(lengths[1]), float(lengths[2])

    @property
    def origin_mm(self) -> tuple[float, float, float]:
        """World position of voxel (0, 0, 0), RAS millimetres."""
        x, y, z = self.affine[:3, 3]
        return float(x), float(y), float(z)

    @property
    def direction(self) -> FloatArray:
        """3x3 matrix whose columns are the unit vectors of the array axes in RAS."""
        return np.asarray(self.affine[:3, :3] / np.array(self.spacing_mm), dtype=np.float64)

    @property
    def orientation(self) -> str:
        """Where each array axis points to, as three letters out of R/L, A/P, S/I, e.g. ``"LPS"``."""
        direction = np.abs(self.direction)
        # The assignment of axes to world directions with the largest total agreement: a greedy choice per axis
        # could name one direction twice on an oblique grid.
        permutations = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
        best = max(permutations, key=lambda p: float(sum(direction[p[axis], axis] for axis in range(3))))
        letters = ("RL", "AP", "SI")
        return "".join(letters[best[axis]][int(self.direction[best[axis], axis] < 0)] for axis in range(3))

    def is_orthogonal(self, tolerance: float = 1e-3) -> bool:
        """Whether the array axes are perpendicular to each other, to within ``tolerance`` (a cosine)."""
        direction = self.direction
        return bool(np.abs(direction.T @ direction - np.eye(3)).max() <= tolerance)

    def corners_mm(self) -> FloatArray:
        """World positions of the eight corner voxels' centres, (8, 3), RAS millimetres."""
        index = np.array(np.meshgrid(*[(0, n - 1) for n in self.shape], indexing="ij")).reshape(3, -1)
        return np.asarray((self.affine[:3, :3] @ index).T + self.affine[:3, 3], dtype=np.float64)

    @property
    def extent_mm(self) -> tuple[float, float, float]:
        """Length of the image along its axes."""
        x, y, z = (n * s for n, s in zip(self.shape, self.spacing_mm, strict=True))
        return x, y, z

    def overlaps(self, other: Geometry) -> bool:
        """Whether the boxes along R, A, S around both grids share some space."""
        first, second = self.corners_mm(), other.corners_mm()
        return bool((first.min(0) <= second.max(0)).all() and (second.min(0) <= first.max(0)).all())

    def distance_mm(self, other: Geometry) -> float:
        """How far the two grids' corner voxels are apart at most; infinite for different shapes."""
        if self.shape != other.shape:
            return float("inf")
        return float(np.linalg.norm(self.corners_mm() - other.corners_mm(), axis=1).max())

    def allclose(self, other: Geometry, tolerance_mm: float = GEOMETRY_TOLERANCE_MM) -> bool:
        """Whether both grids have the same shape and no voxel is further apart than the tolerance.

        For telling whether there is a difference to speak of; whether two files belong together says `same_grid`.
        """
        return self.distance_mm(other) <= tolerance_mm

    def same_grid(self, other: Geometry) -> bool:
        """Whether voxels of one are those of the other: same shape, and less than `SAME_GRID_VOXELS` apart.

        The share is that of the smallest edge of either's voxels, so that the answer is the same both ways.
        """
        edge_mm = min(*self.spacing_mm, *other.spacing_mm)
        # Less a thousandth, so that a shift by half a voxel, centres taken for corners, counts also when rounded.
        return self.distance_mm(other) < 0.999 * SAME_GRID_VOXELS * edge_mm

    def apart(self, other: Geometry) -> str:
        """In words, how ``other`` differs from this grid when they are not `same_grid`; empty when they are."""
        return "" if self.same_grid(other) else self.difference(other)

    def rounded(self, other: Geometry) -> str:
        """In words, how headers of one grid differ all the same; empty when there is nothing to speak of."""
        return self.difference(other) if self.same_grid(other) and not self.allclose(other) else ""

    def difference(self, other: Geometry) -> str:
        """In words, how ``other`` differs from this grid: for error messages."""
        if self.shape != other.shape:
            return f"shape {self.shape} against {other.shape}"
        parts = []
        if not np.allclose(self.spacing_mm, other.spacing_mm, rtol=1e-4):
            parts.append(f"spacing {_rounded(self.spacing_mm)} against {_rounded(other.spacing_mm)} mm")
        if self.orientation != other.orientation:
            parts.append(f"axes point {self.orientation} against {other.orientation}")
        elif not np.allclose(self.direction, other.direction, atol=1e-4):
            parts.append("axes are rotated against each other")
        shift = float(np.linalg.norm(np.subtract(self.origin_mm, other.origin_mm)))
        if shift > GEOMETRY_TOLERANCE_MM:
            parts.append(f"origin shifted by {shift:.4g} mm")
        return ", ".join(parts) or f"corners up to {self.distance_mm(other):.4g} mm apart"

    def cropped(self, start: Sequence[int], stop: Sequence[int]) -> Geometry:
        """The grid of the box ``[start, stop)`` in voxel indices of this grid.

        Raises:
            ValueError: if the box is empty or reaches outside the grid.
        """
        for begin, end, size in zip(start, stop, self.shape, strict=True):
            if not 0 <= begin < end <= size:
                raise ValueError(f"box from {tuple(start)} to {tuple(stop)} does not lie inside {self.shape}")
        affine = self.affine.copy()
        affine[:3, 3] = self.affine[:3, :3] @ np.asarray(start, dtype=np.float64) + self.affine[:3, 3]
        i, j, k = (int(end) - int(begin) for begin, end in zip(start, stop, strict=True))
        return Geometry((i, j, k), affine)


@dataclass(frozen=True)
class Volume:
    """Voxels on a grid.

    Args:
        array: (C, I, J, K), channels first; any real dtype.
        geometry: the grid; its shape is (I, J, K).

    Raises:
        ValueError: if the array does not fit the grid.
    """

    array: NDArray[Any]
    geometry: Geometry

    def __post_init__(self) -> None:
        if self.array.ndim != 4 or self.array.shape[1:] != self.geometry.shape or self.array.shape[0] < 1:
            raise ValueError(
                f"a volume holds channels x {self.geometry.shape} voxels, got an array of {self.array.shape}"
            )

    @property
    def channels(self) -> int:
        """How many values each voxel holds."""
        return int(self.array.shape[0])

    def with_array(self, array: NDArray[Any]) -> Volume:
        """Other voxels on the same grid."""
        return Volume(array, self.geometry)


def closest_axes(geometry: Geometry) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """The array axis that runs closest to each of R, A, S, and +1 or -1 where it runs there or against it."""
    letters = geometry.orientation
    pairs = ("RL", "AP", "SI")
    axes = [next(axis for axis in range(3) if letters[axis] in pair) for pair in pairs]
    signs = [1 if letters[axis] == pair[0] else -1 for axis, pair in zip(axes, pairs, strict=True)]
    return (axes[0], axes[1], axes[2]), (signs[0], signs[1], signs[2])


def slab_voxels(voxels: int) -> int:
    """How many voxels to look at in one go, where that takes memory, of an image that has so many, or a part of it."""
    return max(LEAST_VOXELS, voxels // CUTS)


def slabs(shape: Sequence[int], voxels: int | None = None) -> Iterator[slice]:
    """Parts of the first axis that hold about so many voxels each, or what suits the array.

    >>> list(slabs((5, 10), 20))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    wanted = min(slab_voxels(math.prod(shape)), SLAB_VOXELS) if voxels is None else voxels
    step = max(1, wanted // max(1, math.prod(shape[1:])))
    return (slice(start, min(start + step, shape[0])) for start in range(0, shape[0], step))


def in_memory_order(array: NDArray[Any]) -> NDArray[Any]:
    """The array itself, or its transpose where the first axis runs faster than the last."""
    return array.T if array.ndim > 1 and array.strides[0] < array.strides[-1] else array


def bounding_box(array: NDArray[Any]) -> tuple[slice, ...]:
    """The smallest box around what is not zero, a slice for each axis; everything where nothing is.

    >>> bounding_box(np.array([[0, 0, 0], [0, 1, 0], [1, 0, 0]], bool))
    (slice(1, 3, None), slice(0, 2, None))
    """
    return marked_box(array) or tuple(slice(0, size) for size in array.shape)


def marked_box(array: NDArray[Any]) -> tuple[slice, ...] | None:
    """The smallest box around what is not zero, a slice for each axis; None where nothing is."""
    ordered = in_memory_order(array)
    along, across = np.zeros(ordered.shape[0], dtype=bool), np.zeros(ordered.shape[1:], dtype=bool)
    for rows in slabs(ordered.shape):
        marked = ordered[rows] != 0
        if marked.any():
            along[rows] = marked.any(axis=tuple(range(1, array.ndim)))
            across |= marked.any(axis=0)
    if not along.any():
        return None
    axes = range(across.ndim)
    inside = [along, *(across.any(axis=tuple(other for other in axes if other != axis)) for axis in axes)]
    at = [np.flatnonzero(marks) for marks in (inside if ordered is array else reversed(inside))]
    return tuple(slice(int(marks[0]), int(marks[-1]) + 1) for marks in at)


def _rounded(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(f"{value:.5g}") for value in values)
