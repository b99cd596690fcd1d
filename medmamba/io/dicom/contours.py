"""From masks to contours along the outer edges of their pixels, and back.

Parts that are one pixel wide have a point at each pixel. Pixels that touch with a corner alone are apart, and a hole is
reached by a keyhole: a cut through the pixels beside it that is gone along both ways, at a quarter of a pixel, where no
centre and no edge is. So a region without islands is one contour that does not cross itself, which readers fill alike,
whether by parity or by winding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from medmamba.volume import FloatArray, marked_box

#: Contours lie this share of a pixel inside the edge: readers that round corners to pixels then round to those within,
#: and the area of a single pixel is 0.08 % too small.
INSET = 2e-4
#: Where a keyhole passes through a pixel.
_CUT = 0.25
#: East, south, west, north as (row, column), the foreground on the right hand.
_STEPS = np.array([(0, 1), (1, 0), (0, -1), (-1, 0)])
_EAST, _WEST = 0, 2


def trace(mask: NDArray[np.bool_]) -> list[FloatArray]:
    """The outlines of a mask.

    Args:
        mask: (rows, columns).

    Returns:
        Contours (N, 2) of rows and columns in pixels, centres of pixels at whole numbers; closed, the first point not
        repeated. None of an empty mask.
    """
    box = marked_box(mask)
    if box is None:
        return []
    first = np.array([side.start for side in box])
    return [contour + first for contour in _traced(mask[box])]


def _traced(mask: NDArray[np.bool_]) -> list[FloatArray]:
    """The outlines of what fills its array from edge to edge."""
    edges = _edges(mask)
    ids = np.cumsum(edges.ravel()).reshape(edges.shape) - 1
    way, row, column = (axis.astype(np.int64) for axis in np.nonzero(edges))
    following = _following(edges, ids, way, row, column)
    before = np.empty_like(following)
    before[following] = np.arange(len(following))
    normals = _STEPS[(way + 1) % 4]
    turned = (way != way[before])[:, None]
    corners = np.column_stack([row, column]) + INSET * (normals + normals[before] * turned)
    thin = np.flatnonzero(_is_thin(edges, way, row, column))
    middles = np.column_stack([row, column])[thin] + 0.5 * _STEPS[way[thin]] + INSET * normals[thin]
    points, links = [*corners.tolist(), *middles.tolist()], [*following.tolist(), *following[thin].tolist()]
    ends = np.arange(len(way))  # the last point on each edge
    ends[thin] = np.arange(len(way), len(links))
    for edge in thin:
        links[edge] = int(ends[edge])
    for west, east in list(_keyholes(mask, ids, following.tolist(), row, column, way)):
        cut = column[east] + _CUT  # on the way east before the middle, on the way west behind it
        outside, hole = [row[east] + INSET, cut], [row[west] - INSET, cut]
        first, last = len(points), int(ends[west])
        points += [outside, hole, hole, outside]
        links += [first + 1, links[last], first + 3, links[east]]
        links[east], links[last] = first, first + 2
    is_middle = np.zeros(len(points), bool)
    is_middle[len(way) : len(way) + len(thin)] = True
    return [_corners_of(np.array(points)[loop] - 0.5, is_middle[loop]) for loop in _loops(links)]


def fill(contours: Sequence[FloatArray], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels whose centres lie within an odd number of contours: of any polygons, and knows nothing of `trace`.

    scikit-image's ``polygon2mask`` fills the same, and takes 0.4 s where a contour has 1400 corners.
    """
    filled = np.zeros(shape, bool)
    if not contours:
        return filled
    every = np.concatenate(contours)
    least = np.clip(np.floor(every.min(axis=0)), 0, shape).astype(np.int64)
    most = np.clip(np.ceil(every.max(axis=0)) + 1, least, shape).astype(np.int64)
    inside = tuple(slice(start, stop) for start, stop in zip(least, most, strict=True))
    filled[inside] = _filled([contour - least for contour in contours], tuple(most - least))
    return filled


def _filled(contours: Sequence[FloatArray], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """As `fill`, on a grid that all contours lie in, as far as they lie in the image."""
    crossings = np.zeros((shape[0], shape[1] + 1), np.int64)
    for contour in contours:
        low, high = contour, np.roll(contour, -1, axis=0)
        swap = low[:, :1] > high[:, :1]
        low, high = np.where(swap, high, low), np.where(swap, low, high)
        first = np.clip(np.ceil(low[:, 0]), 0, shape[0]).astype(np.int64)
        count = np.clip(np.ceil(high[:, 0]), 0, shape[0]).astype(np.int64) - first
        line = np.repeat(np.arange(len(contour)), count)
        row = np.arange(len(line)) - np.repeat(np.cumsum(count) - count, count) + first[line]
        share = (row - low[line, 0]) / (high[line, 0] - low[line, 0])
        column = low[line, 1] + share * (high[line, 1] - low[line, 1])
        np.add.at(crossings, (row, np.clip(np.ceil(column), 0, shape[1]).astype(np.int64)), 1)
    filled: NDArray[np.bool_] = crossings.cumsum(axis=1)[:, :-1] % 2 == 1
    return filled


def _edges(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(4, rows + 1, columns + 1): which corners of pixels an edge starts from, in each direction."""
    padded = np.pad(mask, 1)
    inner = padded[1:-1, 1:-1]
    edges = np.zeros((4, mask.shape[0] + 1, mask.shape[1] + 1), bool)
    edges[0, :-1, :-1] = inner & ~padded[:-2, 1:-1]
    edges[1, :-1, 1:] = inner & ~padded[1:-1, 2:]
    edges[2, 1:, 1:] = inner & ~padded[2:, 1:-1]
    edges[3, 1:, :-1] = inner & ~padded[1:-1, :-2]
    return edges


def _following(
    edges: NDArray[np.bool_],
    ids: NDArray[np.int64],
    way: NDArray[np.int64],
    row: NDArray[np.int64],
    column: NDArray[np.int64],
) -> NDArray[np.int64]:
    """The edge after each: to the right where there is one, so that pixels that touch with a corner stay apart."""
    row, column = row + _STEPS[way, 0], column + _STEPS[way, 1]
    turns = [(way + turn) % 4 for turn in (1, 0, 3)]
    there = [edges[turn, row, column] for turn in turns]
    return np.select(there, [ids[turn, row, column] for turn in turns])


def _is_thin(
    edges: NDArray[np.bool_], way: NDArray[np.int64], row: NDArray[np.int64], column: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which edges have one behind the same pixel: readers that round corners to pixels need more of them there."""
    behind = _STEPS[way] + _STEPS[(way + 1) % 4]  # the corner from which the opposite edge starts
    thin: NDArray[np.bool_] = edges[(way + 2) % 4, row + behind[:, 0], column + behind[:, 1]]
    return thin


def _keyholes(
    mask: NDArray[np.bool_],
    ids: NDArray[np.int64],
    links: list[int],
    row: NDArray[np.int64],
    column: NDArray[np.int64],
    way: NDArray[np.int64],
) -> Iterator[tuple[int, int]]:
    """For each hole the edge above it, which runs west, and the first edge further up, which runs east."""
    loops = list(_loops(links))
    for loop in loops:
        at = np.array(loop)
        area = np.sum(np.where(way[at] == _EAST, -row[at], 0) + np.where(way[at] == _WEST, row[at], 0))
        if area > 0:
            continue
        westward = at[way[at] == _WEST]
        west = int(westward[row[westward].argmin()])
        above, beside = row[west], column[west] - 1
        free = np.flatnonzero(~mask[:above, beside])
        top = int(free[-1]) + 1 if free.size else 0
        yield west, int(ids[_EAST, top, beside])


def _loops(links: Sequence[int]) -> Iterator[list[int]]:
    """The rings that links make."""
    seen = np.zeros(len(links), bool)
    for start in range(len(links)):
        if not seen[start]:
            loop, at = [], start
            while not seen[at]:
                seen[at] = True
                loop.append(at)
                at = links[at]
            yield loop


def _corners_of(points: FloatArray, kept: NDArray[np.bool_]) -> FloatArray:
    """Without points in the middle of straight lines, but those that are to be kept."""
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    straight = np.abs(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]) < INSET / 10
    onward = (before * after).sum(axis=1) > 0
    corners: FloatArray = points[~(straight & onward) | kept]
    return corners
