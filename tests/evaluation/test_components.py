"""Connected components are those of scipy, however a mask is cut on the way, and as many as there can be."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from medmamba import volume
from medmamba.evaluation.components import components, overlaps
from tests.mask_factory import blobs


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(30, 20, 25), (1, 40, 30), (40, 50)])
def test_components_are_those_of_scipy(shape: tuple[int, ...], order: str) -> None:
    mask = np.asarray(np.random.default_rng(3).random(shape) < 0.08, order=order)
    theirs, count = ndimage.label(mask, np.ones((3,) * mask.ndim))
    found = components(mask)
    assert found.count == count
    pairs = overlaps(found.labels, theirs)
    assert len(pairs.one) == count
    assert sorted(pairs.other) == list(range(1, count + 1))
    np.testing.assert_array_equal(found.voxels[pairs.one], pairs.voxels)
    for number in found.ids:
        assert np.count_nonzero(found.labels[found.boxes[number]] == number) == found.voxels[number]


def test_voxels_that_touch_at_a_corner_are_one_lesion() -> None:
    mask = np.zeros((4, 4, 4), dtype=bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[3, 3, 3] = True
    assert components(mask).count == 2


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 3, 3), (1, 7, 9), (5, 5)])
def test_as_many_lesions_as_there_can_be_are_told_apart(shape: tuple[int, ...]) -> None:
    mask = (np.indices(shape) % 2 == 0).all(axis=0)
    assert components(mask).count == np.count_nonzero(mask)


@pytest.mark.parametrize("seed", range(4))
def test_cuts_change_nothing(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = blobs(seed, (26, 30, 22))[0] | (np.random.default_rng(seed).random((26, 30, 22)) < 0.06)
    mask[:, :, 9:12] = False
    monkeypatch.setattr(volume, "LEAST_VOXELS", mask.size)
    whole = components(mask)
    monkeypatch.setattr(volume, "LEAST_VOXELS", 1)
    cut = components(mask)
    np.testing.assert_array_equal(cut.labels, whole.labels)
    np.testing.assert_array_equal(cut.voxels, whole.voxels)
    assert cut.boxes[1:] == whole.boxes[1:]


def test_numbers_follow_the_axis_that_runs_fastest() -> None:
    mask = np.zeros((4, 1, 4), dtype=bool)
    mask[[0, 2, 0], 0, [3, 0, 0]] = True
    assert components(mask).labels[[0, 2, 0], 0, [0, 0, 3]].tolist() == [1, 2, 3]


def test_more_pieces_than_a_byte_counts_are_numbered() -> None:
    mask = (np.indices((20, 20, 20)) % 2 == 0).all(axis=0)
    assert (components(mask).count, components(mask).labels.dtype) == (1000, np.uint16)


def test_numbers_of_nothing_are_none() -> None:
    found = components(np.zeros((3, 4, 5), dtype=bool))
    assert (found.count, found.labels.shape, found.ids.size) == (0, (3, 4, 5), 0)
