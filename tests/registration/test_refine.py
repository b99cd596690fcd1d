"""Instance optimisation finds known deformations, in any spacing, and tells where it cannot."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest
import torch
import torch.nn.functional as F

from medmamba.errors import UsageError
from medmamba.registration.refine import Refined, RefineSettings, refine, resized
from medmamba.registration.search import search
from medmamba.warp import integrate, jacobian_determinant, warp

QUICK = RefineSettings(coarse_steps=20)


def texture(size: tuple[int, ...]) -> torch.Tensor:
    """(1, 1, *S) blobs of several sizes."""
    generator = torch.Generator().manual_seed(0)
    mode = "trilinear" if len(size) == 3 else "bilinear"
    layers = [
        F.interpolate(torch.rand(1, 1, *(max(2, n // k) for n in size), generator=generator), size=size, mode=mode)
        for k in (3, 6, 12)
    ]
    return torch.stack(layers).sum(dim=0)


def velocity(size: tuple[int, ...], most: float) -> torch.Tensor:
    """(1, dims, *S) smooth, 0 at the border, ``most`` voxels a unit of time at its largest."""
    knots = torch.zeros(1, len(size), *(6,) * len(size))
    inner = (..., *(slice(2, 4),) * len(size))
    knots[inner] = torch.randn(knots[inner].shape, generator=torch.Generator().manual_seed(1))
    mode = "trilinear" if len(size) == 3 else "bicubic"
    field = F.interpolate(knots, size=size, mode=mode, align_corners=True)
    return field * (most / field.abs().max())


def pair(size: tuple[int, ...], most: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A moving image, the fixed one, and the field that takes one to the other."""
    fixed, field = texture(size), velocity(size, most)
    return warp(fixed, integrate(-field)), fixed, integrate(field)


def lengths(field: torch.Tensor) -> torch.Tensor:
    return field.square().sum(dim=1).sqrt()


def share_left(found: Refined, truth: torch.Tensor) -> float:
    """Of the mean displacement, where there is one."""
    moves = lengths(truth) > 1
    return float(lengths(found.displacement - truth)[moves].mean() / lengths(truth)[moves].mean())


@pytest.mark.parametrize("similarity", ["lncc", "mse", "mi", "mind"])
def test_a_known_deformation_is_found_from_nothing(similarity: str) -> None:
    moving, fixed, truth = pair((64, 64), 5.0)
    found = refine(moving, fixed, spacing_mm=(1, 1), similarity=similarity, steps=30, settings=QUICK)
    assert share_left(found, truth) < 0.3
    assert float(jacobian_determinant(found.displacement).min()) > 0
    assert found.remarks == ()


def test_a_deformation_in_3d_of_anisotropic_voxels_is_found_and_always_the_same() -> None:
    moving, fixed, truth = pair((32, 32, 16), 3.0)
    found, again = (refine(moving, fixed, spacing_mm=(1, 1, 2.5), steps=20, settings=QUICK) for _ in range(2))
    assert share_left(found, truth) < 0.5
    assert torch.equal(found.displacement, again.displacement)
    assert found.losses == again.losses


@pytest.mark.parametrize("similarity", ["lncc", "mse", "mi", "mind"])
def test_a_step_leads_the_other_way_when_images_change_places(similarity: str) -> None:
    moving, fixed, _ = pair((64, 64), 5.0)
    one = RefineSettings(shrink=(1,), field_sigma=0)
    there, back = (
        refine(*images, spacing_mm=(1, 1), similarity=similarity, steps=1, settings=one).displacement
        for images in ((moving, fixed), (fixed, moving))
    )
    assert lengths(there).max() > 0.01
    assert lengths(there + back).max() < 0.05 * lengths(there).max()


def test_mind_finds_it_when_contrast_is_another() -> None:
    moving, fixed, truth = pair((64, 64), 5.0)
    found = refine((3 - moving) ** 2, fixed, spacing_mm=(1, 1), similarity="mind", steps=30, settings=QUICK)
    assert share_left(found, truth) < 0.35


def test_it_goes_on_from_a_field_and_keeps_what_is_right() -> None:
    moving, fixed, truth = pair((64, 64), 5.0)
    near = truth * 0.8
    found = refine(moving, fixed, spacing_mm=(1, 1), start=near, steps=20, settings=QUICK)
    assert len(found.losses) == 2  # the coarsest level is left out
    assert share_left(found, truth) < 0.15


def test_a_large_image_is_refined_on_a_coarser_grid() -> None:
    moving, fixed, truth = pair((64, 64), 5.0)
    coarse = RefineSettings(coarse_steps=20, most_voxels=1200)
    found = refine(moving, fixed, spacing_mm=(1, 1), steps=20, settings=coarse)
    assert found.displacement.shape == truth.shape
    assert share_left(found, truth) < 0.4


@pytest.mark.parametrize("size", [(64, 60), (40, 36, 40)], ids=["2D", "3D"])
def test_search_finds_a_shift_larger_than_structures(size: tuple[int, ...]) -> None:
    image = texture(size)
    moving = torch.roll(image, 8, dims=2)  # moving(x + 8) is fixed(x)
    found = search(moving, image, spacing_mm=(1.0,) * len(size), reach_mm=12)
    inner = found[(0, slice(None), *(slice(12, -12),) * len(size))]
    assert float((inner[0] - 8).abs().mean()) < 1
    assert float(inner[1:].abs().mean()) < 1


def test_search_is_where_refinement_starts_from() -> None:
    image = texture((64, 64))
    moving = torch.roll(image, 16, dims=2)
    found = refine(moving, image, spacing_mm=(1, 1), steps=10, settings=RefineSettings(coarse_steps=10, search_mm=20.0))
    assert float((found.displacement[0, 0, 20:40, 20:-20] - 16).abs().mean()) < 1


def test_identical_and_flat_images_do_not_move_and_it_is_said() -> None:
    image = texture((32, 32))
    for moving in (image, torch.zeros_like(image)):
        found = refine(moving, image, spacing_mm=(1, 1), similarity="mse", steps=5, settings=QUICK)
        assert float(lengths(found.displacement).max()) < 0.02
        assert any("did not move" in remark for remark in found.remarks)


def test_a_similarity_that_is_no_number_stops_and_keeps_the_field() -> None:
    image = texture((32, 32))
    broken = image.clone()
    broken[0, 0, 5, 5] = torch.nan
    start = velocity((32, 32), 2.0)
    found = refine(broken, image, spacing_mm=(1, 1), start=start, steps=5, settings=QUICK)
    assert any("no number" in remark for remark in found.remarks)
    assert float((found.displacement - start).abs().max()) < 0.5
    assert bool(torch.isfinite(found.displacement).all())


def test_a_mask_says_where_images_are_compared() -> None:
    moving, fixed, truth = pair((64, 64), 5.0)
    moving = moving.clone()
    moving[..., :8] = 5 * torch.rand(64, 8, generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(fixed)
    mask[..., :12] = 0
    found = refine(moving, fixed, spacing_mm=(1, 1), mask=mask, steps=30, settings=QUICK)
    assert share_left(found, truth) < 0.35


def test_folds_of_a_field_to_start_from_are_smoothed_out() -> None:
    image = texture((32, 32))
    start = velocity((32, 32), 3.0)
    start[0, 0, 14:17, 14:17] -= torch.tensor([0.0, 4.0, 0.0])[:, None]
    assert float(jacobian_determinant(start).min()) < 0
    found = refine(image, image, spacing_mm=(1, 1), start=start, steps=0, settings=QUICK)
    assert float(jacobian_determinant(found.displacement).min()) > 0
    assert float((found.displacement - start).abs().mean()) < 0.5


def test_progress_is_told_of_each_step() -> None:
    told = []

    def listen(items: Iterable[int], *, title: str, total: int) -> Iterator[int]:
        for item in items:
            told.append((title, item, total))
            yield item

    moving, fixed, _ = pair((32, 32), 3.0)
    settings = RefineSettings(coarse_steps=2, tolerance=0)
    refine(moving, fixed, spacing_mm=(1, 1), steps=3, settings=settings, progress=listen)
    assert [total for _, _, total in told] == [3] * 6 + [4] * 4


def test_a_field_on_another_grid_points_to_the_same_places() -> None:
    field = torch.zeros(1, 2, 9, 5)
    field[0, 0], field[0, 1] = 2.0, torch.linspace(0, 4, 5)
    fine = resized(field, (17, 9))
    assert torch.allclose(fine[0, 0], torch.tensor(4.0))
    assert torch.allclose(fine[0, 1], torch.linspace(0, 8, 9))


def test_one_voxel_along_an_axis_is_no_obstacle() -> None:
    image = texture((32, 32))[..., None]
    moving = torch.roll(image, 2, dims=2)
    found = refine(moving, image, spacing_mm=(1, 1, 5), steps=10, settings=QUICK)
    assert float(found.displacement[0, 2].abs().max()) == 0
    assert float((found.displacement[0, 0, 8:-8, 8:-8] - 2).abs().mean()) < 0.5


def test_wrong_arguments_are_refused() -> None:
    image = texture((16, 16))
    with pytest.raises(UsageError, match="lncc, mse, mi, mind, but got 'ncc'"):
        refine(image, image, spacing_mm=(1, 1), similarity="ncc")
    with pytest.raises(ValueError, match="a spacing for each axis"):
        refine(image, image, spacing_mm=(1, 1, 1))
    with pytest.raises(ValueError, match="a spacing for each axis"):
        refine(image, image, spacing_mm=(1, 1), start=torch.zeros(1, 2, 8, 8))
