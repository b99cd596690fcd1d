"""Displacement fields: known answers and laws."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from medmamba.warp import Interpolation, compose, integrate, jacobian_determinant, warp

SIZES = [(9, 12), (7, 10, 8)]
in_2d_and_3d = pytest.mark.parametrize("size", SIZES, ids=["2d", "3d"])
TINY = 1e-5


def image(size: tuple[int, ...], batch: int = 2, channels: int = 3) -> Tensor:
    """Noise."""
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(0))


def constant(size: tuple[int, ...], vector: tuple[float, ...], batch: int = 2) -> Tensor:
    """The same displacement everywhere."""
    return torch.tensor(vector).view(1, -1, *(1,) * len(size)).expand(batch, -1, *size).clone()


def waves(size: tuple[int, ...], amplitude: float, batch: int = 1) -> Tensor:
    """A smooth field that is 0 at the faces of the grid."""
    axes = torch.meshgrid(*(torch.linspace(0, math.pi, length, dtype=torch.float64) for length in size), indexing="ij")
    bump = math.prod((torch.sin(axis) for axis in axes), start=torch.ones(size, dtype=torch.float64))
    parts = [bump * torch.cos(axes[(component + 1) % len(size)]) for component in range(len(size))]
    return amplitude * torch.stack(parts).expand(batch, -1, *size)


@in_2d_and_3d
@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_field_of_zero_is_the_identity(size: tuple[int, ...], mode: Interpolation) -> None:
    x = image(size)
    assert torch.allclose(warp(x, torch.zeros(2, len(size), *size), mode), x, atol=TINY)


@in_2d_and_3d
@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_component_i_pulls_whole_voxels_along_axis_i(size: tuple[int, ...], mode: Interpolation) -> None:
    x = image(size)
    for axis in range(len(size)):
        for shift in (3, -2):
            vector = tuple(float(shift) if other == axis else 0.0 for other in range(len(size)))
            moved = warp(x, constant(size, vector), mode)
            expected = x.roll(-shift, axis + 2)
            # What comes from outside is 0.
            outside = range(size[axis] - shift, size[axis]) if shift > 0 else range(-shift)
            expected.index_fill_(axis + 2, torch.tensor(list(outside)), 0)
            assert torch.allclose(moved, expected, atol=TINY)


def test_half_a_voxel_gives_the_mean_of_two() -> None:
    x = image((6, 5))
    moved = warp(x, constant((6, 5), (0.0, 0.5)))
    assert torch.allclose(moved[..., :-1], (x[..., :-1] + x[..., 1:]) / 2, atol=TINY)
    assert torch.allclose(moved[..., -1], x[..., -1] / 2, atol=TINY)


def test_labels_keep_their_values_and_their_type() -> None:
    labels = torch.tensor([[[[2**40, 7, 7, 1], [0, 3, 2**40 + 1, 1]]]])
    moved = warp(labels, constant((2, 4), (0.0, 1.2), batch=1), "nearest")
    assert torch.equal(moved, torch.tensor([[[[7, 7, 1, 0], [3, 2**40 + 1, 1, 0]]]]))


@in_2d_and_3d
def test_batch_entries_do_not_see_each_other(size: tuple[int, ...]) -> None:
    x = image(size)
    field = 2 * torch.randn(2, len(size), *size, generator=torch.Generator().manual_seed(1))
    alone = [warp(x[index : index + 1], field[index : index + 1]) for index in range(2)]
    assert torch.equal(warp(x, field), torch.cat(alone))


def test_field_of_one_entry_serves_a_whole_batch() -> None:
    x, field = image((6, 5)), waves((6, 5), 1.0).float()
    assert torch.equal(warp(x, field), warp(x, field.expand(2, -1, -1, -1)))
    assert torch.equal(warp(x[:1], field.expand(2, -1, -1, -1)), warp(x[:1], field).expand(2, -1, -1, -1))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_sixteen_bits_hit_the_right_voxel(kind: torch.dtype) -> None:
    x = torch.arange(600.0).expand(1, 1, 2, 600)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        moved = warp(x, torch.zeros(1, 2, 2, 600, dtype=kind))
    assert torch.allclose(moved, x, atol=1e-2)
    assert warp(x.to(kind), torch.zeros(1, 2, 2, 600)).dtype == kind


@pytest.mark.parametrize("size", [(4, 5), (3, 4, 3)], ids=["2d", "3d"])
def test_gradients_are_right(size: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, 2, *size, dtype=torch.float64, generator=generator).requires_grad_()
    # Away from whole numbers, where the derivative of linear interpolation jumps.
    field = (0.2 + 0.6 * torch.rand(2, len(size), *size, dtype=torch.float64, generator=generator)).requires_grad_()
    assert torch.autograd.gradcheck(warp, (x, field))
    assert torch.autograd.gradcheck(lambda velocity: integrate(velocity, 2), (field,))
    assert torch.autograd.gradcheck(jacobian_determinant, (field,))


@in_2d_and_3d
def test_constant_velocity_is_its_own_displacement(size: tuple[int, ...]) -> None:
    # Each of seven squarings carries the 0 beyond the grid a voxel further in.
    size = tuple(length + 14 for length in size)
    velocity = constant(size, (0.5, -0.75, 0.25)[: len(size)])
    inside = (slice(None), slice(None), *(slice(7, -7),) * len(size))
    assert torch.allclose(integrate(velocity)[inside], velocity[inside], atol=TINY)
    assert torch.equal(integrate(velocity, 0), velocity)


def test_linear_velocity_grows_exponentially() -> None:
    # dx/dt = a x has the solution x exp(a t); a time step of 1/128 is off by a relative 1e-3 or so.
    length, centre, rate = 81, 40, -0.5
    x = torch.arange(float(length)) - centre
    velocity = torch.stack([torch.zeros(2, length), (rate * x).expand(2, length)])[None]
    displacement = integrate(velocity, 7)[0, 1, 0]
    assert torch.allclose(displacement, x * (math.exp(rate) - 1), atol=0.03)


@in_2d_and_3d
def test_negative_velocity_gives_the_inverse(size: tuple[int, ...]) -> None:
    size = tuple(3 * length for length in size)
    velocity = waves(size, 1.5)
    forth, back = integrate(velocity), integrate(-velocity)
    assert forth.abs().max() > 0.7
    assert compose(forth, back).abs().max() < 0.05
    assert jacobian_determinant(forth).min() > 0


@in_2d_and_3d
def test_composed_field_does_what_both_do_one_after_the_other(size: tuple[int, ...]) -> None:
    # Interpolation is exact in an image that is linear, and the fields stay inside.
    axes = torch.meshgrid(*(torch.arange(length, dtype=torch.float64) for length in size), indexing="ij")
    x = torch.stack([*axes, sum((2 + index) * axis for index, axis in enumerate(axes))])[None]
    first, second = waves(size, 0.6), waves(size, -0.8).roll(1, dims=1)
    inside = (slice(None), slice(None), *(slice(1, -1),) * len(size))
    together = warp(x, compose(first, second))[inside]
    assert torch.allclose(together, warp(warp(x, first), second)[inside], atol=1e-9)
    assert not torch.allclose(together, warp(warp(x, second), first)[inside], atol=1e-3)


@in_2d_and_3d
def test_determinant_of_a_scaling_is_the_product_of_its_factors(size: tuple[int, ...]) -> None:
    factors = (1.5, 0.8, -0.5)[: len(size)]
    axes = torch.meshgrid(*(torch.arange(float(length)) for length in size), indexing="ij")
    field = torch.stack([(factor - 1) * axis for factor, axis in zip(factors, axes, strict=True)])[None]
    determinant = jacobian_determinant(field)
    assert determinant.shape == (1, *size)
    assert torch.allclose(determinant, torch.full((1, *size), math.prod(factors)), atol=TINY)


@in_2d_and_3d
def test_determinant_of_a_linear_map_is_that_of_its_matrix(size: tuple[int, ...]) -> None:
    dims = len(size)
    matrix = 0.4 * torch.randn(dims, dims, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    axes = torch.stack(torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in size), indexing="ij"))
    field = torch.einsum("ij,j...->i...", matrix, axes)[None]
    expected = torch.linalg.det(torch.eye(dims, dtype=torch.float64) + matrix)
    assert torch.allclose(jacobian_determinant(field), expected.expand(1, *size))


@pytest.mark.parametrize(
    ("shape", "field", "words"),
    [
        ((1, 1, 4, 5), (1, 3, 4, 5), r"\(1, 3, 4, 5\)"),
        ((1, 1, 4), (1, 1, 4), r"\(1, 1, 4\)"),
        ((1, 1, 4, 5), (1, 2, 5, 4), r"one grid.*\(1, 1, 4, 5\).*\(1, 2, 5, 4\)"),
        ((2, 1, 4, 5), (3, 2, 4, 5), r"one batch.*\(2, 1, 4, 5\).*\(3, 2, 4, 5\)"),
    ],
)
def test_image_and_field_that_do_not_belong_together_are_refused(
    shape: tuple[int, ...], field: tuple[int, ...], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        warp(torch.zeros(shape), torch.zeros(field))


def test_what_makes_no_sense_is_refused() -> None:
    field = torch.zeros(1, 2, 4, 5)
    with pytest.raises(ValueError, match="linear, nearest, but got 'cubic'"):
        warp(torch.zeros(1, 1, 4, 5), field, "cubic")  # type: ignore[arg-type]  # that is the point
    with pytest.raises(TypeError, match="mode='nearest'"):
        warp(torch.zeros(1, 1, 4, 5, dtype=torch.int64), field)
    with pytest.raises(ValueError, match="0 or more squarings, got -1"):
        integrate(field, -1)
    with pytest.raises(ValueError, match=r"one component per axis, but is \(1, 1, 4, 5\)"):
        compose(field[:, :1], field)
    with pytest.raises(ValueError, match=r"two voxels or more, but the grid is \(1, 5\)"):
        jacobian_determinant(torch.zeros(1, 2, 1, 5))
    with pytest.raises(ValueError, match="int64"):
        integrate(field.long())
