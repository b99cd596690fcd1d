"""Measures of transforms against maps whose Jacobian, inverse and errors are known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest

from medmamba.evaluation.deformation import (
    folding_percent,
    inverse_consistency_mm,
    jacobian,
    min_jacobian,
    sd_log_jacobian,
    tre_mm,
)
from medmamba.transform import Affine, Field, Transform
from medmamba.volume import FloatArray, Geometry
from tests.transform_factory import oblique, smooth_field, tilt

#: Turned, anisotropic, one axis mirrored: what forgets spacing or direction is wrong on it.
GRID = oblique((15, 17, 13), 3, axes="jiK", spacing=1.5)
#: Larger, of other axes: where fields are stored.
STORED = oblique((40, 38, 36), 6, axes="kIj", spacing=2.0)


def places(grid: Geometry) -> FloatArray:
    """(I, J, K, 3) where voxels lie in millimetres."""
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1)
    return np.asarray(index @ grid.affine[:3, :3].T + grid.affine[:3, 3])


def linear(matrix: FloatArray, grid: Geometry = STORED) -> Transform:
    """A field that is a linear map of millimetres: interpolation and differences are exact on it."""
    moved = places(grid) @ (matrix - np.eye(3)).T
    return Transform((Field(np.moveaxis(moved, -1, 0).astype(np.float32), grid),))


SHEAR = np.array([[1.0, 0.6, 0.0], [0.0, 1.0, -0.3], [0.0, 0.0, 1.0]])


@pytest.mark.parametrize(
    ("matrix", "determinant"),
    [
        (np.eye(3), 1.0),
        (np.diag([1.1, 0.9, 1.2]), 1.1 * 0.9 * 1.2),
        (SHEAR, 1.0),
        (SHEAR @ np.diag([0.5, 1.0, 1.0]), 0.5),
        (np.diag([-0.2, 1.0, 1.0]), -0.2),
    ],
    ids=["identity", "scaling", "shear", "both", "folded"],
)
@pytest.mark.parametrize("grid", [GRID, STORED], ids=["another grid", "its own grid"])
def test_determinant_of_a_linear_map_is_that_of_its_matrix(
    matrix: FloatArray, determinant: float, grid: Geometry
) -> None:
    found = jacobian(linear(matrix), grid)
    np.testing.assert_allclose(found, determinant, atol=2e-5)
    assert folding_percent(found) == (100.0 if determinant < 0 else 0.0)
    assert min_jacobian(found) == pytest.approx(determinant, abs=2e-5)
    assert sd_log_jacobian(found) == pytest.approx(0.0, abs=2e-5)  # what treats everything alike deforms nothing


def test_a_curved_map_has_its_analytic_determinant_up_to_the_square_of_the_step() -> None:
    """x goes to x + 4 sin(0.08 y), y to y + 3 sin(0.1 x) mm, z to z + 2 sin(0.07 z)."""
    x, y, z = np.moveaxis(places(STORED), -1, 0)
    field = Field(
        np.stack([4 * np.sin(0.08 * y), 3 * np.sin(0.1 * x), 2 * np.sin(0.07 * z)]).astype(np.float32), STORED
    )
    expected = (1 - 0.32 * np.cos(0.08 * y) * 0.3 * np.cos(0.1 * x)) * (1 + 0.14 * np.cos(0.07 * z))
    inner = (slice(1, -1),) * 3
    found = jacobian(Transform((field,)), STORED)[inner]
    np.testing.assert_allclose(found, expected[inner], atol=0.01)
    assert sd_log_jacobian(found) == pytest.approx(np.log(expected[inner]).std(), abs=2e-3)


def test_affine_steps_are_divided_out_also_those_that_mirror() -> None:
    field = smooth_field(STORED, 4, mm=3)
    mirror = Affine(np.diag([-1.3, 1.0, 1.0, 1.0]))
    alone = jacobian(Transform((field,)), GRID)
    for steps in ((field, tilt()), (field, mirror)):
        np.testing.assert_allclose(jacobian(Transform(steps), GRID), alone, atol=1e-4)
    assert folding_percent(jacobian(Transform((mirror,)), GRID)) == 0


def test_folding_is_counted_in_the_mask_alone() -> None:
    """A fold in one half: there u(x) = -1.5 x along one axis of the grid, else nothing."""
    grid = Geometry((21, 8, 8), np.diag([-2.0, 1.0, 3.0, 1.0]))
    along = places(grid)[..., 0]
    vectors = np.zeros((3, *grid.shape), np.float32)
    vectors[0] = np.where(along > -20, 0, -1.5 * (along + 20))
    found = jacobian(Transform((Field(vectors, grid),)), grid)
    half = np.zeros(grid.shape, bool)
    half[11:] = True
    assert folding_percent(found, half) == 100
    assert folding_percent(found, np.roll(half, -11, axis=0) & ~half) == 0
    assert folding_percent(found) == pytest.approx(100 * 10 / 21)
    # A voxel that folds counts as shrunk to nothing.
    expected = [0.0] * 10 + [math.log(0.25)] + [math.log(1e-9)] * 10
    assert sd_log_jacobian(found) == pytest.approx(np.std(expected), abs=1e-5)
    assert math.isnan(folding_percent(found, np.zeros_like(half)))
    assert math.isnan(min_jacobian(found, np.zeros_like(half)))


def test_one_slice_has_the_determinant_of_all_three_directions() -> None:
    flat = Geometry((11, 9, 1), GRID.affine)
    np.testing.assert_allclose(jacobian(linear(np.diag([1.1, 0.9, 1.2])), flat), 1.188, atol=2e-5)


def test_the_exact_inverse_comes_back_and_a_shifted_one_by_its_shift() -> None:
    whole = Transform((smooth_field(STORED, 4, mm=3), tilt()))
    mask = np.zeros(GRID.shape, bool)
    mask[4:10, 5:12, 3:9] = True
    back = whole.inverse().transform
    assert inverse_consistency_mm(whole, back, GRID, mask).max() < 0.1  # the inverse is interpolated between voxels
    shift = np.eye(4)
    shift[:3, 3] = 3, 0, -4
    errors = inverse_consistency_mm(Transform((tilt(),)), Transform((tilt().inverse(), Affine(shift))), GRID, mask)
    assert errors.shape == (mask.sum(),)
    np.testing.assert_allclose(errors, 5, atol=1e-9)


def test_landmark_errors_are_millimetres_from_fixed_to_moving() -> None:
    fixed = np.array([[0.0, 0, 0], [10, -5, 3]])
    moving = tilt().points(fixed) + np.array([[3.0, 4, 0], [0, 0, 0]])
    np.testing.assert_allclose(tre_mm(Transform((tilt(),)), fixed, moving), [5, 0], atol=1e-9)
    before = tre_mm(Transform(), fixed, moving)
    np.testing.assert_allclose(before, np.linalg.norm(fixed - moving, axis=1))
    with pytest.raises(ValueError, match="one by one"):
        tre_mm(Transform(), fixed, moving[:1])
