from __future__ import annotations

import numpy as np
import pytest

from medmamba.data import align as alignment
from medmamba.data.align import align
from medmamba.data.working_grid import placed, working_grid
from medmamba.errors import DataError
from medmamba.plans.plan import AffineKind
from medmamba.transform import Affine, Transform, resample
from medmamba.volume import Geometry, Volume


def head(shape: tuple[int, int, int] = (40, 44, 36), spacing: float = 4.0) -> Volume:
    """Smooth, without a symmetry."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    image = 100.0 / (1 + np.exp(30 * (((grid / np.array([0.6, 0.75, 0.5]).reshape(3, 1, 1, 1)) ** 2).sum(0) - 1)))
    for x, y, z, height in ((0.3, 0.2, 0.1, 60), (-0.3, 0.1, -0.2, -50), (0.0, -0.4, 0.3, 40)):
        image += height * np.exp(-40 * ((grid[0] - x) ** 2 + (grid[1] - y) ** 2 + (grid[2] - z) ** 2))
    affine = np.diag([-spacing, spacing, spacing, 1.0])
    affine[:3, 3] = [80, -90, -70]
    return Volume(image[None].astype(np.float32), Geometry(shape, affine))


def moved(volume: Volume, matrix: np.ndarray) -> Volume:  # type: ignore[type-arg]
    """The image that lies at matrix(x) where this one has x, on the same grid."""
    return resample(volume, Transform((Affine(matrix).inverse(),)), volume.geometry)


def truth() -> np.ndarray:  # type: ignore[type-arg]
    angle = np.deg2rad(8)
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    matrix[:3, 3] = [8, -6, 5]
    return matrix


def test_a_known_motion_is_found_and_found_again_the_same() -> None:
    fixed = head()
    moving = moved(fixed, truth())
    found = align(fixed, moving, how="rigid")
    points = np.random.default_rng(0).uniform(-40, 40, (50, 3))
    before, apart = (
        np.linalg.norm(points_of - Affine(truth()).points(points), axis=1)
        for points_of in (points, found.affine.points(points))
    )
    assert apart.max() < 4.0  # a voxel
    assert apart.mean() < before.mean() / 4
    assert found.after > found.before
    assert np.array_equal(align(fixed, moving, how="rigid").affine.matrix, found.affine.matrix)


@pytest.mark.parametrize("finer", [(4, 4, 4), (4, 4, 1)], ids=["fine", "thick slices"])
def test_images_of_different_resolution_are_brought_together(finer: tuple[int, int, int]) -> None:
    """One is averaged down before, the other is coarse as it is."""
    coarse = head()
    i, j, k = (n * times for n, times in zip(coarse.geometry.shape, finer, strict=True))
    affine = coarse.geometry.affine @ np.diag([*(1 / np.array(finer)), 1.0])
    fixed, moving = resample(coarse, Transform(), Geometry((i, j, k), affine)), moved(coarse, truth())
    for one, other, matrix in ((fixed, moving, truth()), (moving, fixed, np.linalg.inv(truth()))):
        found = align(one, other, how="rigid").affine
        points = np.random.default_rng(0).uniform(-40, 40, (50, 3))
        apart = np.linalg.norm(found.points(points) - Affine(matrix).points(points), axis=1)
        assert apart.mean() < 4.0  # a voxel of the coarse one


def test_what_else_goes_wrong_in_itk_is_not_taken_for_images_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def evaluate(*_: object) -> float:
        raise RuntimeError("Fixed and moving images must be the same datatype!")

    monkeypatch.setattr(alignment.sitk.ImageRegistrationMethod, "MetricEvaluate", evaluate)
    with pytest.raises(RuntimeError, match="datatype"):
        align(head(), head())


@pytest.mark.parametrize("how", ["rigid", "affine"])
def test_the_order_of_the_images_does_not_matter(how: AffineKind) -> None:
    fixed = head()
    moving = moved(fixed, truth())
    there, back = align(fixed, moving, how=how).affine, align(moving, fixed, how=how).affine
    np.testing.assert_allclose(back.matrix @ there.matrix, np.eye(4), atol=1e-6)


def test_a_search_that_went_astray_from_one_image_does_not_spoil_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = head()
    moving = moved(fixed, truth())
    far = np.eye(4)
    far[:3, 3] = [60, 0, 0]
    one_way, searches = alignment._one_way, iter(range(2))
    monkeypatch.setattr(
        alignment, "_one_way", lambda search, how: (Affine(far), []) if next(searches) else one_way(search, how)
    )
    found = align(fixed, moving, how="rigid").affine
    points = np.random.default_rng(0).uniform(-40, 40, (50, 3))
    assert np.linalg.norm(found.points(points) - Affine(truth()).points(points), axis=1).mean() < 4.0


def test_images_far_apart_are_brought_together_by_their_centres_and_it_is_said() -> None:
    fixed = head((20, 22, 18), 8.0)
    affine = fixed.geometry.affine.copy()
    affine[:3, 3] += [1000, 0, 0]
    found = align(fixed, Volume(fixed.array, Geometry(fixed.geometry.shape, affine)), how="centres")
    np.testing.assert_allclose(found.affine.matrix[:3, 3], [1000, 0, 0], atol=1e-6)
    assert "do not overlap" in found.remarks[0]
    assert np.array_equal(align(fixed, fixed, how="none").affine.matrix, np.eye(4))


def test_what_cannot_be_aligned_is_refused() -> None:
    fixed = head((20, 22, 18), 8.0)
    with pytest.raises(DataError, match="the same everywhere"):
        align(fixed, fixed.with_array(np.zeros_like(fixed.array)))
    with pytest.raises(DataError, match="volumes of one channel"):
        align(fixed, Volume(np.zeros((1, 4, 4, 1), np.float32), Geometry((4, 4, 1), np.eye(4))))


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (3.0, 1.0, 2.5)])
def test_the_working_grid_covers_the_fixed_image_along_its_own_axes(spacing: tuple[float, float, float]) -> None:
    turn = np.array([[0.0, -0.98, 0.2], [0.0, 0.2, 0.98], [-1.0, 0, 0]])  # oblique, stored P I R or so
    affine = np.eye(4)
    affine[:3, :3] = np.linalg.qr(turn)[0] * [2.0, 2.0, 5.0]
    affine[:3, 3] = [30, -20, 10]
    fixed = Geometry((21, 18, 9), affine)
    grid = working_grid(fixed, spacing, (8, 4, 4))
    assert grid.orientation == "RAS"
    np.testing.assert_allclose(grid.spacing_mm, spacing)
    assert all(n % stride == 0 for n, stride in zip(grid.shape, (8, 4, 4), strict=True))
    inverse = np.linalg.inv(grid.affine)
    corners = np.array([[i, j, k] for i in (-0.5, 20.5) for j in (-0.5, 17.5) for k in (-0.5, 8.5)])
    voxels = (np.c_[corners, np.ones(8)] @ fixed.affine.T @ inverse.T)[:, :3]
    assert voxels.min() >= 0
    assert (voxels <= np.array(grid.shape) - 1).all()
    assert np.abs(np.abs(grid.direction.T @ fixed.direction).round(6) % 1).max() == 0


def test_an_image_at_the_working_spacing_keeps_its_voxels() -> None:
    fixed = head((10, 12, 9))
    grid = working_grid(fixed.geometry, (4.0, 4.0, 4.0), (4, 4, 4))
    onto = placed(fixed, Affine(np.eye(4)), grid)
    assert set(np.unique(fixed.array)) <= set(np.unique(onto.array))


def test_a_finer_image_is_averaged_onto_the_working_grid() -> None:
    stripes = np.zeros((1, 24, 22, 20), np.float32)
    stripes[:, ::2] = 100
    fine = Volume(stripes, Geometry((24, 22, 20), np.diag([-1.0, 1.0, 1.0, 1.0])))
    grid = working_grid(fine.geometry, (2.0, 2.0, 2.0), (1, 1, 1))
    inside = placed(fine, Affine(np.eye(4)), grid).array[0, 3:-3, 3:-3, 3:-3]
    np.testing.assert_allclose(inside, 50, atol=1e-4)
    ramp = fine.with_array(np.broadcast_to(np.arange(22, dtype=np.float32)[:, None], (1, 24, 22, 20)).copy())
    along = placed(ramp, Affine(np.eye(4)), grid).array[0, 5, 2:-2, 5]
    mm = grid.affine[1, 1] * np.arange(2, grid.shape[1] - 2) + grid.affine[1, 3]
    np.testing.assert_allclose(along, mm, atol=1e-4)


def test_a_size_that_cannot_be_is_told_and_no_guess_made_about_orientation() -> None:
    fixed = head((20, 22, 18), 8.0)
    affine = fixed.geometry.affine.copy()
    affine[:3, :3] /= 10
    small = Volume(fixed.array, Geometry(fixed.geometry.shape, affine))
    (remark,) = (each for each in align(fixed, small, how="centres").remarks if "voxel size" in each)
    assert "160 x 176 x 144 mm" in remark
    assert "16 x 17.6 x 14.4 mm" in remark
    noise = Volume(np.random.default_rng(0).random(fixed.array.shape, dtype=np.float32), fixed.geometry)
    assert not [each for each in align(fixed, noise, how="centres").remarks if "mirrored" in each]
