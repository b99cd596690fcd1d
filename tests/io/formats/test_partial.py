"""Label maps without their empty slices are laid where the image has them, however its axes run."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest

from medmamba.io.formats.format import Stored
from medmamba.io.formats.partial import completed
from medmamba.volume import Geometry

AFFINE = np.array([[-0.9, 0.2, 0.1, 12], [0.15, -1.1, 0.2, 7], [0.1, 0.1, 1.4, -3], [0, 0, 0, 1]])
WHOLE = Stored(np.random.default_rng(0).integers(0, 3, (1, 5, 6, 7)), Geometry((5, 6, 7), AFFINE), ())


def part(start: int, stop: int, *, partial: bool = True) -> Stored:
    geometry = WHOLE.geometry.cropped((0, 0, start), (5, 6, stop))
    return Stored(WHOLE.array[..., start:stop], geometry, (), partial)


@pytest.mark.parametrize("axes", list(permutations(range(3))))
@pytest.mark.parametrize("flips", list(product((False, True), repeat=3)))
def test_slices_come_to_lie_on_the_grid_of_the_image(axes: tuple[int, int, int], flips: tuple[bool, ...]) -> None:
    turn = np.zeros((4, 4))
    turn[3, 3] = 1
    shape = np.array(WHOLE.geometry.shape)[list(axes)]
    for axis, (old, flip) in enumerate(zip(axes, flips, strict=True)):
        turn[old, axis] = -1 if flip else 1
        turn[old, 3] = shape[axis] - 1 if flip else 0
    grid = Geometry(tuple(shape), AFFINE @ turn)
    found = completed(part(2, 5), grid)
    assert found.geometry == grid
    wanted = np.zeros_like(WHOLE.array)
    wanted[..., 2:5] = WHOLE.array[..., 2:5]
    wanted = np.flip(wanted.transpose(0, *(axis + 1 for axis in axes)), [axis + 1 for axis in range(3) if flips[axis]])
    np.testing.assert_array_equal(found.array, wanted)


def test_what_reaches_over_the_grid_is_kept() -> None:
    grid = WHOLE.geometry.cropped((0, 0, 1), (5, 6, 4))
    found = completed(part(3, 6), grid)
    assert found.geometry.allclose(WHOLE.geometry.cropped((0, 0, 1), (5, 6, 6)))
    np.testing.assert_array_equal(found.array[..., 2:], WHOLE.array[..., 3:6])
    assert not found.array[..., :2].any()


def test_what_is_not_partial_or_lies_between_the_voxels_stays() -> None:
    assert completed(part(2, 5, partial=False), WHOLE.geometry).array.shape[3] == 3
    shifted = AFFINE.copy()
    shifted[2, 3] += 0.7
    coarse = AFFINE @ np.diag([2, 1, 1, 1])
    for affine in (shifted, coarse):
        apart = part(2, 5)
        assert completed(apart, Geometry((5, 6, 7), affine)) is apart
