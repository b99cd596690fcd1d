"""The area of the piece of marching-cubes surface between the voxels around a grid corner, for every neighbourhood."""

from __future__ import annotations

import itertools
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@lru_cache(maxsize=16)
def element_areas(spacing: tuple[float, ...]) -> FloatArray:
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
