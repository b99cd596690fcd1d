"""Contours hold the pixels of their mask, no more and no fewer, however they are filled."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.path import Path as Outline
from scipy.ndimage import label
from skimage.draw import polygon2mask

from medmamba.io.dicom.contours import INSET, fill, trace


@pytest.mark.parametrize("density", [0.2, 0.5, 0.7, 0.9, 0.97])
def test_any_mask_comes_back_by_parity_and_by_winding(density: float) -> None:
    rng = np.random.default_rng(int(density * 100))
    for _ in range(20):
        mask = rng.random(rng.integers(1, 24, 2)) < density
        contours = trace(mask)
        assert len(contours) == label(mask)[1], "a contour for each part, whatever holes it has"
        by_parity = np.zeros_like(mask)
        for contour in contours:
            by_parity ^= polygon2mask(mask.shape, contour)
        points = np.argwhere(np.ones_like(mask))
        inside = [Outline(np.vstack([each, each[:1]]), closed=True).contains_points(points) for each in contours]
        by_winding = np.logical_or.reduce(inside or [np.zeros(mask.size, bool)]).reshape(mask.shape)
        for filled in (fill(contours, mask.shape), by_parity, by_winding):
            np.testing.assert_array_equal(filled, mask)


def test_contour_of_a_pixel_is_its_edge() -> None:
    mask = np.zeros((3, 4), bool)
    mask[1, 2] = True
    [contour] = trace(mask)
    edge = 0.5 - INSET
    assert np.abs(contour - (1, 2)).max() == pytest.approx(edge)
    corners = {(round(row, 3), round(column, 3)) for row, column in contour}
    assert {(0.5, 1.5), (0.5, 2.5), (1.5, 2.5), (1.5, 1.5)} <= corners


def test_parts_that_touch_with_a_corner_are_apart() -> None:
    assert len(trace(np.eye(3, dtype=bool))) == 3


def test_straight_edges_have_no_points_in_between_but_thin_parts_have() -> None:
    mask = np.zeros((12, 12), bool)
    mask[1:5, 1:11] = True
    assert len(trace(mask)[0]) == 4
    mask = np.zeros((12, 12), bool)
    mask[3, 1:11] = True
    [line] = trace(mask)
    rounded = {tuple(point) for point in np.rint(line).astype(int).tolist()}
    assert rounded == {(3, column) for column in range(1, 11)}, "each pixel is met by readers that round"


def test_nothing_has_no_contours() -> None:
    assert trace(np.zeros((4, 5), bool)) == []
    assert not fill([], (4, 5)).any()


def test_any_triangle_is_filled_as_matplotlib_does() -> None:
    rng = np.random.default_rng(1)
    points = np.argwhere(np.ones((20, 20), bool))
    for _ in range(20):
        corners = rng.uniform(-3, 23, (3, 2))
        inside = Outline(np.vstack([corners, corners[:1]]), closed=True).contains_points(points)
        np.testing.assert_array_equal(fill([corners], (20, 20)), inside.reshape(20, 20))
