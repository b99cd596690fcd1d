"""Known answers for grids in space."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest

from medmamba.volume import Geometry, Volume, bounding_box

SHAPE = (4, 5, 6)
OBLIQUE = np.array([[-0.7, 0.3, 0.2, 11.5], [0.25, -0.9, 0.3, -7.25], [0.1, 0.2, 2.5, 3.0], [0, 0, 0, 1]])
SHEARED = np.array([[1, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])


def grid(affine: np.ndarray | None = None, shape: tuple[int, int, int] = SHAPE) -> Geometry:
    """A small grid."""
    return Geometry(shape, np.diag([1.0, 2.0, 3.0, 1.0]) if affine is None else affine)


@pytest.mark.parametrize("seed", range(30))
def test_orientation_is_nibabels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    axes = np.eye(3)[:, rng.permutation(3)] * rng.choice((-1, 1), 3)
    x, y, z = rng.uniform(-0.25, 0.25, 3)  # further from the axes the two may break ties differently
    tilt = np.linalg.qr(np.array([[1, -z, y], [z, 1, -x], [-y, x, 1]]))[0]
    affine = np.eye(4)
    affine[:3, :3] = tilt * np.sign(np.diag(tilt)) @ axes * rng.uniform(0.3, 4, 3)
    assert grid(affine).orientation == "".join(nibabel.aff2axcodes(affine))


def test_spacing_origin_and_direction_of_a_mirrored_grid() -> None:
    geometry = grid(np.array([[-2.0, 0, 0, 10], [0, 0, 3.0, -20], [0, 4.0, 0, 30], [0, 0, 0, 1]]))
    assert geometry.spacing_mm == (2.0, 4.0, 3.0)
    assert geometry.origin_mm == (10.0, -20.0, 30.0)
    assert geometry.orientation == "LSA"
    np.testing.assert_allclose(geometry.direction, [[-1, 0, 0], [0, 0, 1], [0, 1, 0]])
    assert geometry.is_orthogonal()
    assert not grid(SHEARED).is_orthogonal()


def test_corners_and_distance() -> None:
    corners = grid().corners_mm()
    assert corners.min(axis=0).tolist() == [0, 0, 0]
    assert corners.max(axis=0).tolist() == [3, 8, 15]
    moved = np.diag([1.0, 2.0, 3.0, 1.0])
    moved[:3, 3] = (3, 0, 4)
    assert grid().distance_mm(grid(moved)) == pytest.approx(5)
    assert grid().allclose(grid(moved), tolerance_mm=5.001)
    assert not grid().allclose(grid(moved), tolerance_mm=4.999)
    assert grid().distance_mm(grid(shape=(4, 5, 7))) == float("inf")


def test_difference_says_what_differs() -> None:
    assert "shape (4, 5, 6) against (4, 5, 7)" in grid().difference(grid(shape=(4, 5, 7)))
    assert "axes point RAS against LAS" in grid().difference(grid(np.diag([-1.0, 2.0, 3.0, 1.0])))
    assert "spacing (1.0, 2.0, 3.0) against (1.0, 2.0, 4.0) mm" in grid().difference(
        grid(np.diag([1.0, 2.0, 4.0, 1.0]))
    )
    moved = np.diag([1.0, 2.0, 3.0, 1.0])
    moved[0, 3] = 7
    assert grid().difference(grid(moved)) == "origin shifted by 7 mm"


def test_cropped_grid_keeps_its_voxels_in_place() -> None:
    cropped = grid(OBLIQUE).cropped((1, 2, 3), (3, 5, 4))
    assert cropped.shape == (2, 3, 1)
    np.testing.assert_allclose(cropped.affine @ (0, 0, 0, 1), OBLIQUE @ (1, 2, 3, 1))
    with pytest.raises(ValueError, match="does not lie inside"):
        grid().cropped((0, 0, 0), (5, 5, 6))


@pytest.mark.parametrize(
    ("shape", "affine", "words"),
    [
        ((4, 5), np.eye(4), "three axes"),
        ((4, 0, 5), np.eye(4), "three axes"),
        (SHAPE, np.eye(3), "4x4"),
        (SHAPE, np.diag([1, 1, 1, 2.0]), "4x4"),
        (SHAPE, np.diag([1, np.nan, 1, 1]), "NaN"),
        (SHAPE, np.diag([1, 0, 1, 1.0]), "singular"),
        (SHAPE, np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), "singular"),
    ],
)
def test_grid_without_positions_is_refused(shape: tuple[int, int, int], affine: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Geometry(shape, affine)


def test_tiny_voxels_are_no_singular_grid() -> None:
    assert grid(np.diag([1e-6, 1e-6, 1e-6, 1.0])).spacing_mm == pytest.approx((1e-6, 1e-6, 1e-6))


def test_grid_is_a_value() -> None:
    affine = np.eye(4)
    geometry = Geometry(SHAPE, affine)
    affine[0, 3] = 5
    assert geometry == Geometry(SHAPE, np.eye(4))
    assert hash(geometry) == hash(Geometry(SHAPE, np.eye(4)))
    with pytest.raises(ValueError, match="read-only"):
        geometry.affine[0, 0] = 2


def test_volume_must_fit_its_grid() -> None:
    volume = Volume(np.zeros((2, *SHAPE)), grid())
    assert volume.channels == 2
    assert volume.with_array(np.ones((1, *SHAPE))).geometry is volume.geometry
    for shape in ((2, 4, 5, 7), SHAPE, (0, *SHAPE)):
        with pytest.raises(ValueError, match=r"channels x \(4, 5, 6\)"):
            Volume(np.zeros(shape), grid())


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.001, 0.001, 0.01), (30.0, 40.0, 50.0)])
def test_same_grid_is_a_share_of_a_voxel_and_the_same_both_ways(spacing: tuple[float, float, float]) -> None:
    affine = np.diag((*spacing, 1.0))
    for share, same in ((0.0, True), (0.1, True), (0.49, True), (0.5, False), (0.7, False)):
        moved = affine.copy()
        moved[0, 3] = share * spacing[0]
        one, other = Geometry((4, 5, 6), affine), Geometry((4, 5, 6), moved)
        assert one.same_grid(other) == other.same_grid(one) == same
    coarser = Geometry((4, 5, 6), np.diag((*(1.2 * size for size in spacing), 1.0)))
    assert not one.same_grid(coarser)
    assert not coarser.same_grid(one)


def test_mirrored_grid_and_other_shape_are_another_grid() -> None:
    one = Geometry((4, 5, 6), np.eye(4))
    for axis in range(3):
        flip = np.eye(4)
        flip[axis, axis], flip[axis, 3] = -1, one.shape[axis] - 1  # the same box, walked through from its other end
        assert not one.same_grid(Geometry((4, 5, 6), flip))
    assert not one.same_grid(Geometry((4, 5, 7), np.eye(4)))


def test_words_for_another_place_and_for_a_rounded_header_exclude_each_other() -> None:
    def shifted(voxels: float) -> Geometry:
        return grid(np.array([[1.0, 0, 0, voxels], [0, 2, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1]]))

    assert [bool(grid().apart(shifted(voxels))) for voxels in (0, 0.4, 0.6)] == [False, False, True]
    assert [bool(grid().rounded(shifted(voxels))) for voxels in (0, 0.4, 0.6)] == [False, True, False]
    assert grid().rounded(shifted(0.4)) == "origin shifted by 0.4 mm"


def test_box_is_around_what_is_marked_and_everything_where_nothing_is() -> None:
    mask = np.zeros(SHAPE, bool)
    assert bounding_box(mask) == (slice(0, 4), slice(0, 5), slice(0, 6))
    mask[1, 2, 3] = mask[3, 2, 5] = True
    assert bounding_box(mask) == (slice(1, 4), slice(2, 3), slice(3, 6))
