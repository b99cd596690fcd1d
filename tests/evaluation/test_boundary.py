"""Edges and the boundary measure: by hand, and against dilation as DAVIS has it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from skimage.morphology import dilation, disk

from medmamba.evaluation.boundary import bound_px, boundary_f, edge
from tests.mask_factory import Mask, blobs, box


def by_dilation(prediction: Mask, reference: Mask) -> float:
    """The measure as DAVIS computes it, of masks with edges."""

    def outline(mask: Mask) -> Mask:
        found = np.zeros_like(mask)
        for row, column in np.ndindex(mask.shape):
            below, right = min(row + 1, mask.shape[0] - 1), min(column + 1, mask.shape[1] - 1)
            found[row, column] = len({*mask[row : below + 1, column : right + 1].ravel().tolist()}) > 1
        return found

    reach = disk(math.ceil(0.008 * np.linalg.norm(prediction.shape)))
    ours, theirs = outline(prediction), outline(reference)
    precision = (ours & (dilation(theirs.astype(np.uint8), reach) > 0)).sum() / ours.sum()
    recall = (theirs & (dilation(ours.astype(np.uint8), reach) > 0)).sum() / theirs.sum()
    return float(2 * precision * recall / (precision + recall))


@pytest.mark.parametrize("shape", [(40, 50), (130, 170), (256, 240)])
@pytest.mark.parametrize("shift", [0, 1, 3, 6])
def test_measure_is_that_of_dilated_edges(shape: tuple[int, int], shift: int) -> None:
    prediction, reference = blobs(shift, shape)
    prediction = np.roll(prediction, shift, axis=1)
    assert boundary_f(prediction, reference) == pytest.approx(by_dilation(prediction, reference), abs=1e-12)


def test_edge_is_half_a_pixel_towards_the_origin_and_not_at_the_border_of_the_picture() -> None:
    assert edge(box((5, 5), (2, 2), (4, 4))).astype(int).tolist() == [
        [0, 0, 0, 0, 0],
        [0, 1, 1, 1, 0],
        [0, 1, 0, 1, 0],
        [0, 1, 1, 1, 0],
        [0, 0, 0, 0, 0],
    ]
    assert not edge(np.ones((5, 5), dtype=bool)).any()


def test_edges_match_up_to_the_bound_and_no_farther() -> None:
    assert bound_px((256, 256)) == 3
    lines = {at: np.arange(256)[None, :].repeat(256, axis=0) < at for at in (100, 103, 104)}
    assert boundary_f(lines[103], lines[100]) == 1
    assert boundary_f(lines[104], lines[100]) == 0


def test_one_empty_mask_is_0_and_two_are_undefined() -> None:
    empty, some, full = np.zeros((9, 9), dtype=bool), box((9, 9), (2, 2), (5, 5)), np.ones((9, 9), dtype=bool)
    assert boundary_f(empty, some) == boundary_f(some, empty) == boundary_f(full, empty) == boundary_f(full, some) == 0
    assert math.isnan(boundary_f(empty, empty))
    assert boundary_f(full, full) == 1


def test_masks_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="same shape"):
        boundary_f(np.ones((4, 1), dtype=bool), np.ones((4, 4), dtype=bool))
