"""The distance between the surfaces of two masks in millimetres.

Surface distances are computed once (`surface_distances`) and read several ways. A surface is a set of elements, one at
each grid corner where the 2x2x2 voxels around it are neither all inside nor all outside; each has the area of the piece
of marching-cubes surface there, so that percentiles and means are weighted by area and not by the number of voxels,
which depends on the direction in which the surface runs. On a grid with a single slice the surface is a contour.

References:
    Nikolov et al., "Clinically applicable segmentation of head and neck anatomy", JMIR 2021: surface Dice, and the
    weighting by surface elements whose numbers (DeepMind, surface-distance 0.1) this file reproduces.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import edt
import numpy as np
from numpy.typing import NDArray

from medmamba.evaluation.scores import ratio
from medmamba.volume import bounding_box

FloatArray = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class SurfaceDistances:
    """From every element of one surface to the nearest element of the other, ascending.

    Args:
        prediction_to_reference_mm: (P,) infinite when the reference is empty.
        prediction_areas: (P,) area of each element in mm^2 (length in mm on a single slice).
        reference_to_prediction_mm: (R,) infinite when the prediction is empty.
        reference_areas: (R,) likewise.
    """

    prediction_to_reference_mm: FloatArray
    prediction_areas: FloatArray
    reference_to_prediction_mm: FloatArray
    reference_areas: FloatArray

    @property
    def directions(self) -> tuple[tuple[FloatArray, FloatArray], tuple[FloatArray, FloatArray]]:
        """Distances and areas, from the prediction and from the reference."""
        return (
            (self.prediction_to_reference_mm, self.prediction_areas),
            (self.reference_to_prediction_mm, self.reference_areas),
        )

    @property
    def between_empty(self) -> float | None:
        """Any distance where a mask is empty: NaN when both are, infinite when one is; None when none is."""
        empty = [not areas.size for _, areas in self.directions]
        return None if not any(empty) else float("nan" if all(empty) else "inf")


def surface_distances(prediction: Mask, reference: Mask, spacing_mm: Sequence[float]) -> SurfaceDistances:
    """Distances between two surfaces, in both directions, for the readings below.

    Args:
        prediction: (I, J, K) mask, or (I, J).
        reference: mask of the same shape.
        spacing_mm: size of a voxel along each array axis; the axes are taken to be perpendicular.

    Raises:
        ValueError: if shapes differ or the spacing does not have one positive entry per axis.
    """
    same_shape(prediction, reference)
    spacing = tuple(float(step) for step in spacing_mm)
    if len(spacing) != prediction.ndim or prediction.ndim not in (2, 3):
        raise ValueError(f"spacing needs one entry for each of two or three axes, got {spacing} for {prediction.shape}")
    if not all(0 < step < np.inf for step in spacing):
        raise ValueError(f"spacing must be positive and finite along every axis, got {spacing} mm")
    prediction, reference = prediction.astype(bool, copy=False), reference.astype(bool, copy=False)
    if prediction.ndim == 3 and prediction.shape.count(1) == 1:
        # Taken as a slab one voxel thick, the inside of both masks would be surface too, at distance zero.
        flat = prediction.shape.index(1)
        prediction, reference = prediction.squeeze(flat), reference.squeeze(flat)
        spacing = spacing[:flat] + spacing[flat + 1 :]
    either = prediction | reference
    box = bounding_box(either) if either.any() else (slice(0, 0),) * either.ndim
    areas = _element_areas(spacing)
    ours, theirs = (areas[_neighbourhoods(mask[box])] for mask in (prediction, reference))
    return SurfaceDistances(*_distances(ours, theirs, spacing), *_distances(theirs, ours, spacing))


def hausdorff(distances: SurfaceDistances, percentile: float = 95) -> float:
    """The distance within which ``percentile`` % of either surface lies, in mm; 100 gives the Hausdorff distance.

    The larger of both directions, each weighted by area. NaN when both masks are empty, infinite when one is.
    """
    if distances.between_empty is not None:
        return distances.between_empty
    return max(_percentile(*direction, percentile) for direction in distances.directions)


def assd(distances: SurfaceDistances) -> float:
    """Mean distance over both surfaces by area, in mm; NaN when both masks are empty, infinite when one is."""
    if distances.between_empty is not None:
        return distances.between_empty
    total = sum(float(areas.sum()) for _, areas in distances.directions)
    return sum(float((values * areas).sum()) for values, areas in distances.directions) / total


def surface_dice(distances: SurfaceDistances, tolerance_mm: float) -> float:
    """Share of both surfaces' area within the tolerance of the other; NaN when both masks are empty, 0 when one is."""
    total = sum(float(areas.sum()) for _, areas in distances.directions)
    return ratio(sum(float(areas[values <= tolerance_mm].sum()) for values, areas in distances.directions), total)


def same_shape(prediction: Mask, reference: Mask) -> None:
    """Refuse masks of different shapes: numpy would broadcast one of a single slice over all of them without a word.

    Raises:
        ValueError: if shapes differ.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"masks must have the same shape, got {prediction.shape} and {reference.shape}")


def _percentile(values: FloatArray, areas: FloatArray, percentile: float) -> float:
    share = np.cumsum(areas) / np.sum(areas)
    return float(values[min(int(np.searchsorted(share, percentile / 100)), len(values) - 1)])


def _distances(source: FloatArray, target: FloatArray, spacing: tuple[float, ...]) -> tuple[FloatArray, FloatArray]:
    """Distance from each element of ``source`` to the nearest of ``target``, ascending, and the elements' areas.

    Both surfaces are given by the area at each grid corner, 0 where there is no element.
    """
    surface = source > 0
    source_areas = source[surface]
    if not target.any():
        return np.full(source_areas.shape, np.inf), source_areas
    # Distances come in float32: good to one part in ten million, far below any voxel.
    values = edt.edt(np.ascontiguousarray(target == 0), anisotropy=spacing)[surface].astype(np.float64)
    order = np.lexsort((source_areas, values))
    return values[order], source_areas[order]


def _neighbourhoods(mask: Mask) -> NDArray[np.uint8]:
    """At each grid corner, a bit for every voxel around it that is inside: (I, J, K) to (I + 1, J + 1, K + 1)."""
    padded = np.pad(mask.astype(np.uint8), 1)
    codes = np.zeros([size + 1 for size in mask.shape], dtype=np.uint8)
    for bit, corner in enumerate(itertools.product((0, 1), repeat=mask.ndim)):
        window = tuple(slice(start, start + size + 1) for start, size in zip(corner, mask.shape, strict=True))
        codes |= padded[window] << bit
    return codes


def _element_areas(spacing: tuple[float, ...]) -> FloatArray:
    """Area of the surface in each neighbourhood: (256,) in mm^2 for three axes, (16,) in mm for two."""
    # A patch is perpendicular to its normal: its component across axis a is scaled by the other axes' voxel sizes.
    scale = np.prod(spacing) / np.array(spacing)
    tables = _surface_patches(len(spacing))
    return np.array([float(np.linalg.norm(patches * scale, axis=1).sum()) for patches in tables])


@cache
def _surface_patches(dims: int) -> tuple[FloatArray, ...]:
    """For each neighbourhood, the flat patches of the surface through it: (patches, dims) absolute area vectors.

    Marching cubes with the surface halfway between inside and outside voxels. Of a neighbourhood and its complement,
    the one with fewer voxels is looked at; voxels in it that do not touch along an edge of the cube get a surface each.
    """
    corners = list(itertools.product((0, 1), repeat=dims))
    tables = []
    for code in range(2 ** len(corners)):
        chosen = [corner for bit, corner in enumerate(corners) if code >> bit & 1]
        if 2 * len(chosen) > len(corners):
            chosen = [corner for corner in corners if corner not in chosen]
        patches = [patch for component in _components(chosen) for patch in _component_patches(component, dims)]
        tables.append(np.array(patches, dtype=np.float64).reshape(-1, dims))
    return tuple(tables)


def _components(corners: list[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
    """Corners grouped into those connected along edges of the cube."""
    components: list[list[tuple[int, ...]]] = []
    for corner in corners:
        touching = [group for group in components if any(_edge(corner, other) is not None for other in group)]
        components = [group for group in components if group not in touching]
        components.append([corner, *itertools.chain.from_iterable(touching)])
    return components


def _edge(one: tuple[int, ...], other: tuple[int, ...]) -> int | None:
    """The axis along which two corners of the cube are neighbours."""
    different = [axis for axis, (a, b) in enumerate(zip(one, other, strict=True)) if a != b]
    return different[0] if len(different) == 1 else None


def _component_patches(component: list[tuple[int, ...]], dims: int) -> list[Any]:
    """Patches that cut one connected group of corners from the rest, for voxels of size 1."""
    pairs = [(a, b) for a, b in itertools.combinations(component, 2) if _edge(a, b) is not None]
    edges = np.bincount([axis for a, b in pairs if (axis := _edge(a, b)) is not None], minlength=dims)
    every, across = np.ones(dims), (edges == 0).astype(np.float64)
    if dims == 2:
        return [every / 2] if len(component) == 1 else [across]
    if len(component) == 1:  # a triangle
        return [every / 8]
    if len(component) == 2:  # a rectangle, along the pair
        return [across / 2]
    if len(component) == 3:  # a bent pentagon, half of it parallel to the plane of the three
        return [across / 2, 3 * every / 8]
    if edges.max() == 2:  # four in a plane: a square
        return [across]
    degrees = {corner: sum(corner in pair for pair in pairs) for corner in component}
    if max(degrees.values()) == 3:  # a corner and its three neighbours: a regular hexagon
        return [3 * every / 4]
    # Four in a row around the corner: a bent hexagon, with two triangles parallel to the outer steps of the row.
    outer = [_edge(a, b) for a, b in pairs if min(degrees[a], degrees[b]) == 1]
    return [every / 2, *((every - np.eye(dims)[axis]) / 4 for axis in outer if axis is not None)]
