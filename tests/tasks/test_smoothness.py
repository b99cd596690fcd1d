"""Known answers of what keeps a field plausible."""

from __future__ import annotations

import pytest
import torch

from medmamba.tasks.smoothness import SMOOTHNESSES, bending, diffusion, inverse_consistency, jacobian_penalty
from medmamba.warp import integrate

SPACING = (1.0, 2.0, 3.0)


def millimetres(size: tuple[int, ...], spacing: tuple[float, ...]) -> torch.Tensor:
    """(dims, *S) where each voxel lies."""
    axes = [torch.arange(n, dtype=torch.float64) * s for n, s in zip(size, spacing, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def in_voxels(field_mm: torch.Tensor, spacing: tuple[float, ...]) -> torch.Tensor:
    scale = torch.tensor(spacing, dtype=torch.float64).reshape(-1, *(1,) * (field_mm.dim() - 1))
    return (field_mm / scale)[None]


def test_diffusion_of_a_shear_is_its_square_in_millimetres() -> None:
    place = millimetres((5, 6, 7), SPACING)
    field = torch.zeros_like(place)
    field[0] = 0.3 * place[2] + 4  # mm along the first axis for each along the third
    assert float(diffusion(in_voxels(field, SPACING), SPACING)) == pytest.approx(0.3**2 / 9)


def test_bending_of_a_parabola_is_its_squared_curvature_and_of_an_affine_map_nothing() -> None:
    place = millimetres((5, 6, 7), SPACING)
    field = torch.zeros_like(place)
    field[1] = 0.05 * place[2] ** 2 + 0.02 * place[0] * place[1]
    assert float(bending(in_voxels(field, SPACING), SPACING)) == pytest.approx(0.1**2 + 2 * 0.02**2)
    assert float(bending(in_voxels(0.2 * place.flip(0) + 3, SPACING), SPACING)) == pytest.approx(0.0, abs=1e-20)


@pytest.mark.parametrize("name", sorted(SMOOTHNESSES))
def test_a_field_costs_the_same_on_a_grid_with_finer_voxels_along_one_axis(name: str) -> None:
    def cost(spacing: tuple[float, float], size: tuple[int, int]) -> float:
        place = millimetres(size, spacing)
        field = torch.stack([torch.sin(place[0] / 9) * torch.cos(place[1] / 7), torch.cos(place[0] / 8 + place[1] / 9)])
        return float(SMOOTHNESSES[name](in_voxels(field, spacing), spacing))

    assert cost((1.0, 1.0), (60, 60)) == pytest.approx(cost((0.25, 1.0), (240, 60)), rel=0.03)


@pytest.mark.parametrize("name", sorted(SMOOTHNESSES))
def test_axes_of_one_voxel_cost_nothing(name: str) -> None:
    field = torch.rand(1, 3, 5, 6, 1)
    assert torch.isfinite(SMOOTHNESSES[name](field, SPACING))
    assert float(SMOOTHNESSES[name](torch.ones(1, 3, 1, 1, 1), None)) == 0


def test_jacobian_penalty_is_how_far_below_zero_the_determinant_lies() -> None:
    place = millimetres((6, 6), (1, 1))
    stretched = torch.stack([0.5 * place[0], torch.zeros_like(place[0])])[None]
    mirrored = torch.stack([-2.5 * place[0], torch.zeros_like(place[0])])[None]
    assert float(jacobian_penalty(stretched)) == 0
    assert float(jacobian_penalty(mirrored)) == pytest.approx(1.5)


def test_inverse_consistency_of_two_shifts_is_their_squared_sum_in_millimetres() -> None:
    forward, backward = torch.zeros(1, 2, 12, 12), torch.zeros(1, 2, 12, 12)
    forward[:, 1], backward[:, 1] = 2.0, -1.5
    assert float(inverse_consistency(forward, backward, (1.0, 3.0))) == pytest.approx((0.5 * 3) ** 2)
    assert float(inverse_consistency(forward, -forward, (1.0, 3.0))) == 0


def test_integrated_velocities_of_both_signs_undo_each_other() -> None:
    velocity = torch.nn.functional.interpolate(
        torch.randn(1, 3, 4, 4, 4, generator=torch.Generator().manual_seed(0)), size=(20, 20, 20), mode="trilinear"
    )
    pair = integrate(velocity), integrate(-velocity)
    assert float(inverse_consistency(*pair)) < 0.01
    assert float(inverse_consistency(pair[0], pair[0])) > 0.5


def test_half_precision_is_computed_in_float32() -> None:
    field = torch.rand(1, 2, 8, 8).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        losses = [diffusion(field), bending(field), jacobian_penalty(field), inverse_consistency(field, field)]
    assert {loss.dtype for loss in losses} == {torch.float32}


def test_something_else_than_a_field_is_refused() -> None:
    with pytest.raises(ValueError, match="a field must be"):
        diffusion(torch.zeros(1, 3, 5, 5))
    with pytest.raises(ValueError, match="a spacing for each axis"):
        bending(torch.zeros(1, 2, 5, 5), (1.0, 1.0, 1.0))
