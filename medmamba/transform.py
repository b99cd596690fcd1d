"""Spatial transforms: where a point of one image lies in another, and images brought from one grid to another by them.

A transform takes points of the fixed image to points of the moving image, in RAS millimetres. So it pulls: the moving
image brought onto the fixed one has at x what it has at T(x). Points of the moving image go to the fixed one by the
inverse.

The rules between and beyond the voxels are those of SimpleITK, so that both give the same numbers: linear in between,
as on the border up to half a voxel beyond the outermost centres, and further out the identity for fields and a value of
choice for images. Everything is computed in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from medmamba.errors import UsageError
from medmamba.volume import SLAB_VOXELS, FloatArray, Geometry, Volume

#: How values between voxels are found: "linear"; "nearest", of the closest voxel; "label", the label that has the
#: largest share of the eight voxels around, of equal shares the smallest label.
Mode = Literal["linear", "nearest", "label"]

#: Points are found back to within so many millimetres, where that is possible in so many steps.
INVERSE_TOLERANCE_MM = 1e-3
INVERSE_STEPS = 100
#: Points that were found are set aside when so few of those at hand are left.
FEWER = 0.8
#: Values next to one another are looked up by torch, which converts all of a box of voxels, where its voxels are at
#: most so many times the points.
_SCATTERED = 8


@dataclass(frozen=True, eq=False)
class Affine:
    """An affine map of points.

    Args:
        matrix: 4x4, from RAS millimetres to RAS millimetres.

    Raises:
        ValueError: if that is no finite, invertible matrix with last row (0, 0, 0, 1).
    """

    matrix: FloatArray

    def __post_init__(self) -> None:
        matrix = np.array(self.matrix, dtype=np.float64)
        if matrix.shape != (4, 4) or not np.array_equal(matrix[3], (0.0, 0.0, 0.0, 1.0)):
            raise ValueError(f"an affine map is a 4x4 matrix with last row 0 0 0 1, got {matrix.tolist()}")
        if not np.isfinite(matrix).all() or np.linalg.cond(matrix[:3, :3]) > 1e8:
            raise ValueError(f"the affine map cannot be inverted: {matrix[:3].tolist()}")
        matrix.setflags(write=False)
        object.__setattr__(self, "matrix", matrix)

    def points(self, mm: FloatArray) -> FloatArray:
        """Where points (N, 3) go."""
        return _mapped(mm, self.matrix)

    def inverse(self) -> Affine:
        """The way back."""
        inverse = np.eye(4)
        inverse[:3, :3] = np.linalg.inv(self.matrix[:3, :3])
        inverse[:3, 3] = -inverse[:3, :3] @ self.matrix[:3, 3]
        return Affine(inverse)


@dataclass(frozen=True, eq=False)
class Field:
    """A displacement for each point of a grid; no displacement beyond it.

    Args:
        vectors_mm: (3, I, J, K) float32, in RAS millimetres along x, y, z; the point x goes to x + u(x).
        geometry: the grid.

    Raises:
        ValueError: if they do not fit, or a vector is not finite.
    """

    vectors_mm: NDArray[np.float32]
    geometry: Geometry

    def __post_init__(self) -> None:
        vectors = np.asarray(self.vectors_mm, dtype=np.float32)
        if vectors.shape != (3, *self.geometry.shape):
            raise ValueError(f"a field on {self.geometry.shape} voxels holds (3, I, J, K) vectors, got {vectors.shape}")
        if not np.isfinite(vectors).all():
            raise ValueError("the field holds NaN or infinite vectors")
        object.__setattr__(self, "vectors_mm", vectors)

    def points(self, mm: FloatArray) -> FloatArray:
        """Where points (N, 3) go."""
        return np.concatenate([np.empty((0, 3)), *map(self._points, _chunks(mm))])

    def _points(self, mm: FloatArray) -> FloatArray:
        index = voxel_positions(self.geometry, mm)
        inside = is_inside(index, self.geometry)
        moved = np.array(mm, dtype=np.float64)
        moved[inside] += _linear(self.vectors_mm, index[inside]).T
        return moved

    def points_back(self, mm: FloatArray) -> FloatArray:
        """From where points (N, 3) come, found for each by damped fixed-point iteration.

        Where no point of the grid leads, the field goes on as on its border if the point lies in the grid, else the
        point stays where it is.
        """
        return np.concatenate([np.empty((0, 3)), *map(self._points_back, _chunks(mm))])

    def _points_back(self, mm: FloatArray) -> FloatArray:
        found = self._solved(mm)
        beyond = ~(
            is_inside(voxel_positions(self.geometry, found), self.geometry)
            | is_inside(voxel_positions(self.geometry, mm), self.geometry)
        )
        found[beyond] = mm[beyond]
        return found

    def _solved(self, mm: FloatArray) -> FloatArray:
        """Of points y the x with x + u(x) = y, where u goes on beyond the grid as on its border.

        A step that misses by more than the one before it is taken back and halved, point by point: near y a whole
        step closes in where u changes by less than its way, smaller ones also where it stretches more.
        """
        solved, where = np.empty((len(mm), 3)), np.arange(len(mm))
        aim = at = best = np.asarray(mm, dtype=np.float64)
        miss, missed, damping = np.zeros_like(aim), np.full(len(mm), np.inf), np.ones((len(mm), 1))
        for _ in range(INVERSE_STEPS):
            off = at + _linear(self.vectors_mm, voxel_positions(self.geometry, at)).T - aim
            length = np.sqrt(np.einsum("ij,ij->i", off, off))
            closer = length < missed
            if closer.all():
                best, missed, miss = at, length, off
            else:
                best, miss = (np.where(closer[:, None], *pair) for pair in ((at, best), (off, miss)))
                missed = np.where(closer, length, missed)
                damping[~closer] /= 2
            todo = missed > INVERSE_TOLERANCE_MM / 10
            if todo.sum() < FEWER * len(todo):  # to part with some at each step would take longer
                solved[where[~todo]] = best[~todo]
                where, missed = where[todo], missed[todo]
                aim, best, miss, damping = (each[todo] for each in (aim, best, miss, damping))
            if not todo.any():
                break
            at = best - damping * miss
        solved[where] = best
        return solved

    def inverse(self) -> Field:
        """The field that leads back, on this grid and as much around it as its border moves.

        It goes on smoothly to where no point of this grid leads, so that it is right up to the border of what one does.
        Its vectors are exact (`INVERSE_TOLERANCE_MM`) at its voxels where this field does not fold; in between they
        are interpolated, so for single points `points_back` is better.
        """
        geometry = self._reached()
        vectors = np.empty((3, *geometry.shape), dtype=np.float32)
        for block, mm in _blocks(geometry):
            vectors[(slice(None), *block)] = (self._solved(mm) - mm).T.reshape(3, *_sizes(block))
        return Field(vectors, geometry)

    def _reached(self) -> Geometry:
        """The grid, enlarged by whole voxels to where its border leads."""
        voxels = voxels_of_field(self)
        before, after = np.zeros(3, dtype=int), np.zeros(3, dtype=int)
        for axis, size in enumerate(self.geometry.shape):
            outermost = np.take(voxels[axis], (0, size - 1), axis=axis)
            first, last = np.moveaxis(outermost, axis, 0)
            before[axis] = math.ceil(max(0.0, -float(first.min())))
            after[axis] = math.ceil(max(0.0, float(last.max())))
        affine = self.geometry.affine.copy()
        affine[:3, 3] -= affine[:3, :3] @ before
        i, j, k = (int(n) for n in np.array(self.geometry.shape) + before + after)
        return Geometry((i, j, k), affine)


class Inverse(NamedTuple):
    """The way back, and how exact it is.

    Args:
        transform: from the moving image to the fixed one.
        residual_mm: how far at most a voxel's centre of the inverse fields lies from where it should after both.
    """

    transform: Transform
    residual_mm: float


@dataclass(frozen=True, eq=False)
class Transform:
    """Maps one after the other; without any, the identity.

    Args:
        steps: the first acts first.
    """

    steps: tuple[Affine | Field, ...] = ()

    def points(self, mm: FloatArray) -> FloatArray:
        """Where points (N, 3) of the fixed image lie in the moving image; RAS millimetres."""
        moved = np.asarray(mm, dtype=np.float64)
        for step in self.steps:
            moved = step.points(moved)
        return moved

    def points_back(self, mm: FloatArray) -> FloatArray:
        """Where points (N, 3) of the moving image lie in the fixed image; exact for each wherever nothing folds."""
        moved = np.asarray(mm, dtype=np.float64)
        for step in reversed(self.steps):
            moved = step.inverse().points(moved) if isinstance(step, Affine) else step.points_back(moved)
        return moved

    def beyond(self, mm: FloatArray) -> NDArray[np.bool_]:
        """Which points (N, 3) of the fixed image a field is asked about that lie beyond it, and so does not move."""
        moved, beyond = np.asarray(mm, dtype=np.float64), np.zeros(len(mm), dtype=bool)
        for step in self.steps:
            if isinstance(step, Field):
                beyond |= ~is_inside(voxel_positions(step.geometry, moved), step.geometry)
            moved = step.points(moved)
        return beyond

    def inverse(self) -> Inverse:
        """The inverse map, and the residual of its fields."""
        residual_mm, steps = 0.0, []
        for step in reversed(self.steps):
            steps.append(step.inverse())
            if isinstance(step, Field) and isinstance(back := steps[-1], Field):
                residual_mm = max(residual_mm, _residual_mm(step, back))
        return Inverse(Transform(tuple(steps)), residual_mm)

    def displacement(self, grid: Geometry) -> Field:
        """The whole transform as one field on a grid: exact at its voxels, interpolated in between."""
        vectors = np.empty((3, *grid.shape), dtype=np.float32)
        for block, mm in _blocks(grid):
            vectors[(slice(None), *block)] = (self.points(mm) - mm).T.reshape(3, *_sizes(block))
        return Field(vectors, grid)


def field_of_voxels(displacement: NDArray[Any], grid: Geometry) -> Field:
    """A field of a network, (3, I, J, K) in voxels along the array's axes, as one in millimetres.

    >>> grid = Geometry((1, 1, 1), np.diag([2.0, 3.0, -4.0, 1.0]))
    >>> field_of_voxels(np.ones((3, 1, 1, 1)), grid).vectors_mm.ravel().tolist()
    [2.0, 3.0, -4.0]
    """
    return Field(np.einsum("xa,aijk->xijk", grid.affine[:3, :3], displacement).astype(np.float32), grid)


def voxels_of_field(field: Field) -> NDArray[np.float32]:
    """The vectors of a field in voxels along the array's axes, (3, I, J, K): what `medmamba.warp` works on."""
    to_voxels = np.linalg.inv(field.geometry.affine[:3, :3])
    return np.asarray(np.einsum("ax,xijk->aijk", to_voxels, field.vectors_mm), dtype=np.float32)


def resample(
    volume: Volume, transform: Transform, onto: Geometry, mode: Mode = "linear", outside: float = 0.0
) -> Volume:
    """Bring the moving image onto a grid of the fixed image's space, by one interpolation.

    Args:
        volume: the moving image, of any number of channels, grid and type.
        transform: from the fixed to the moving image.
        onto: the grid of the result, wherever it lies.
        mode: how values in between are found.
        outside: the value of voxels that come from beyond the image.

    Returns:
        (C, I, J, K) on that grid: of the volume's type, but float32 for values between integers.

    Raises:
        ValueError: if there is no such mode.
        UsageError: if the type has no such value as ``outside``.
    """
    return resample_telling(volume, transform, onto, mode, outside)[0]


def resample_telling(
    volume: Volume, transform: Transform, onto: Geometry, mode: Mode = "linear", outside: float = 0.0
) -> tuple[Volume, float]:
    """As `resample`, and the share of voxels that come from within the image."""
    if mode not in _MODES:
        raise ValueError(f"values are found by one of {', '.join(_MODES)}, not {mode!r}")
    array = volume.array
    kind = np.dtype(np.float32) if mode == "linear" and not np.issubdtype(array.dtype, np.floating) else array.dtype
    if not np.issubdtype(kind, np.floating) and not _holds(kind, outside):
        raise UsageError(f"voxels of {kind} cannot be {outside:g} outside of the image; choose a value of that type")
    result = np.full((volume.channels, *onto.shape), outside, dtype=kind)
    within = 0
    for block, mm in _blocks(onto):
        index = voxel_positions(volume.geometry, transform.points(mm))
        inside = is_inside(index, volume.geometry)
        if inside.any():
            part = result[(slice(None), *block)]
            part[:, inside.reshape(part.shape[1:])] = _MODES[mode](array, index[inside])
            within += int(inside.sum())
    return Volume(result, onto), within / math.prod(onto.shape)


def _holds(kind: np.dtype[Any], value: float) -> bool:
    """Whether a value is one of a type of integers."""
    limits = np.iinfo(kind)
    return limits.min <= value <= limits.max and value == int(value)


def is_inside(index: FloatArray, geometry: Geometry) -> NDArray[np.bool_]:
    """Which voxel positions (N, 3) lie in a grid: at most half a voxel beyond its outermost centres."""
    return np.asarray(((index >= -0.5) & (index < np.array(geometry.shape) - 0.5)).all(axis=1))


def voxel_positions(geometry: Geometry, mm: FloatArray) -> FloatArray:
    """Where points (N, 3) in RAS millimetres lie in a grid, in voxels along its axes."""
    return _mapped(mm, np.asarray(np.linalg.inv(geometry.affine), dtype=np.float64))


def _mapped(points: FloatArray, matrix: FloatArray) -> FloatArray:
    """Points (N, 3) by a 4x4 matrix; not by BLAS, whose threads take longer to begin than three columns take."""
    return np.asarray(np.einsum("nj,ij->ni", points, matrix[:3, :3]) + matrix[:3, 3], dtype=np.float64)


def _chunks(mm: FloatArray) -> Iterator[FloatArray]:
    return (mm[start : start + SLAB_VOXELS] for start in range(0, len(mm), SLAB_VOXELS))


def _blocks(grid: Geometry) -> Iterator[tuple[tuple[slice, slice, slice], FloatArray]]:
    """Boxes that make up a grid, and the positions (N, 3) of their voxels in millimetres.

    They are about as long as wide, so that what they are taken from is a small box too.
    """
    edge = round(SLAB_VOXELS ** (1 / 3))
    for starts in product(*(range(0, size, edge) for size in grid.shape)):
        i, j, k = (slice(start, min(start + edge, size)) for start, size in zip(starts, grid.shape, strict=True))
        index = np.mgrid[i, j, k].reshape(3, -1).T.astype(np.float64)
        yield (i, j, k), _mapped(index, grid.affine)


def _sizes(block: tuple[slice, ...]) -> tuple[int, ...]:
    return tuple(part.stop - part.start for part in block)


def _residual_mm(field: Field, back: Field) -> float:
    """How far the voxels of the way back are off after both, where they come from the field's grid."""
    worst = 0.0
    for block, mm in _blocks(back.geometry):
        origin = mm + back.vectors_mm[(slice(None), *block)].reshape(3, -1).T
        inside = is_inside(voxel_positions(field.geometry, origin), field.geometry)
        if inside.any():
            worst = max(worst, float(np.linalg.norm(field.points(origin[inside]) - mm[inside], axis=1).max()))
    return worst


def _linear(array: NDArray[Any], index: FloatArray) -> FloatArray:
    """Values (C, N) at voxel positions; beyond the array as on its border."""
    if not len(index):
        return np.zeros((len(array), 0))
    size = np.array(array.shape[1:])
    low, high = (np.clip(np.floor(edge).astype(np.int64), 0, size - 1) for edge in (index.min(0), index.max(0) + 1))
    if np.prod(high - low + 1) > _SCATTERED * len(index):
        values = np.zeros((len(array), len(index)))
        for corner, weight in _corners(index, size):
            values += weight * _at(array, corner)
        return values
    i, j, k = (slice(start, stop + 1) for start, stop in zip(low, high, strict=True))
    box = torch.from_numpy(np.ascontiguousarray(array[:, i, j, k], dtype=np.float64))
    relative = (index - low) * (2 / np.maximum(high - low, 1)) - 1
    # grid_sample wants the fastest axis first, and calls trilinear "bilinear".
    places = torch.from_numpy(np.ascontiguousarray(relative[:, ::-1])).reshape(1, 1, 1, -1, 3)
    sampled = F.grid_sample(box[None], places, mode="bilinear", padding_mode="border", align_corners=True)
    return np.asarray(sampled.reshape(len(array), -1).numpy())


def _nearest(array: NDArray[Any], index: FloatArray) -> NDArray[Any]:
    """Values (C, N) of the closest voxels; of two equally close ones the later."""
    at = np.clip(np.floor(index + 0.5).astype(np.int64), 0, np.array(array.shape[1:]) - 1)
    return _at(array, tuple(at.T))


def _label(array: NDArray[Any], index: FloatArray) -> NDArray[Any]:
    """Labels (C, N) with the largest share at voxel positions; of equal shares the smallest label."""
    corners = list(_corners(index, np.array(array.shape[1:])))
    around = np.stack([_at(array, corner) for corner, _ in corners])
    winner: NDArray[Any] = around[0].copy()
    mixed = (around != around[0]).any(axis=0)
    for channel, voxels in enumerate(mixed):
        winner[channel, voxels] = _elected(
            around[:, channel, voxels], np.stack([weight[voxels] for _, weight in corners])
        )
    return winner


def _elected(labels: NDArray[Any], weights: FloatArray) -> NDArray[Any]:
    """For each of N points the label of the most weight among (8, N)."""
    winner: NDArray[Any] = labels[0].copy()
    most = np.full(labels.shape[1], -1.0)
    for candidate in labels:
        share = np.where(labels == candidate, weights, 0).sum(axis=0)
        better = (share > most) | ((share == most) & (candidate < winner))
        winner[better], most[better] = candidate[better], share[better]
    return winner


def _at(array: NDArray[Any], voxels: tuple[NDArray[np.int64], ...]) -> NDArray[Any]:
    """Values (C, N) of voxels, given by an index for each axis."""
    i, j, k = voxels
    return np.asarray(array[:, i, j, k])


def _corners(index: FloatArray, size: NDArray[np.int64]) -> Iterator[tuple[tuple[NDArray[np.int64], ...], FloatArray]]:
    """The eight voxels around each position, as an index for each axis, and their weights; clamped to the array."""
    index = np.clip(index, 0, size - 1)
    low = np.floor(index).astype(np.int64)
    above = index - low
    for corner in product((0, 1), repeat=3):
        weight = np.where(corner, above, 1 - above).prod(axis=1)
        yield tuple(np.minimum(low + corner, size - 1).T), weight


_MODES = {"linear": _linear, "nearest": _nearest, "label": _label}
