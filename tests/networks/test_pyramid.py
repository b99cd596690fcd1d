"""Registration from coarse to fine: how velocities add up over levels, correlations, and what is refused."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import Tensor

from medmamba.networks._registration import enlarge_field
from medmamba.networks.pyramid import PyramidRegistration, correlation
from medmamba.networks.voxelmorph import VoxelMorph
from medmamba.plans.plan import Topology
from medmamba.warp import integrate

#: Strides that differ between axes and levels.
UNEVEN = Topology(
    patch_size=(8, 16, 24),
    strides=((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 3)),
    kernel_sizes=((3, 3, 3),) * 4,
    features=(3, 4, 5, 6),
)


def of_biases(**options: Any) -> PyramidRegistration:
    """A network whose levels add 1, 10, 100, ... voxels of their own grid, the coarsest first."""
    torch.manual_seed(0)
    network = PyramidRegistration(1, UNEVEN, **options)
    for place, head in enumerate(network.heads):
        torch.nn.init.zeros_(cast(Tensor, head.weight))
        torch.nn.init.constant_(cast(Tensor, head.bias), 10.0**place)
    return network


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (100 + 2 * 10 + 4 * 1, 2 * (100 + 2 * 10 + 4 * 1), 2 * (100 + 2 * 10 + 6 * 1))),
        ({"levels": 2}, (10 + 2 * 1, 2 * (10 + 2 * 1), 2 * (10 + 2 * 1))),
        ({"levels": 1}, (1, 2, 2)),
        ({"levels": 2, "full_resolution": True}, (10 + 1, 10 + 2, 10 + 2)),
        ({"levels": 9, "full_resolution": True}, (1000 + 100 + 20 + 4, 1000 + 200 + 40 + 8, 1000 + 200 + 40 + 12)),
    ],
)
def test_velocities_of_all_levels_add_up_in_voxels_of_the_images(
    options: dict[str, Any], expected: tuple[int, ...]
) -> None:
    moving, fixed = torch.randn(2, 1, 1, *UNEVEN.patch_size)
    velocity = of_biases(**options)(moving, fixed).velocity
    assert velocity.shape == (1, 3, *UNEVEN.patch_size)
    torch.testing.assert_close(velocity, torch.tensor(expected).view(1, 3, 1, 1, 1).expand_as(velocity).float())


def test_both_images_go_through_the_same_encoder() -> None:
    moving, fixed = torch.randn(2, 1, 1, *UNEVEN.patch_size)
    network = of_biases()
    there, back = network(moving, fixed).features, network(fixed, moving).features
    assert there.shape == (1, 8, 8, 8, 12)
    torch.testing.assert_close(there, back.roll(4, dims=1))


@pytest.mark.parametrize("size", [(5, 7), (3, 4, 5)])
def test_correlation_compares_each_voxel_with_those_around_it(size: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    fixed = torch.randn(2, 3, *size, generator=generator)
    for radius in (1, 2):
        found = correlation(fixed.roll(-1, dims=2), fixed, radius)
        assert found.shape == (2, (2 * radius + 1) ** len(size), *size)
        # The place before along the first axis, none along the others: its rank among offsets, row by row.
        place = sum((radius - (axis == 0)) * (2 * radius + 1) ** (len(size) - 1 - axis) for axis in range(len(size)))
        torch.testing.assert_close(found[:, place, 1:], (fixed**2).mean(1)[:, 1:])
        assert not found[:, place, 0].any(), "beyond the map lies 0"
        assert found[:, :, 1].sub(found[:, place : place + 1, 1]).abs().max() > 0.1


def test_enlarged_field_leads_from_voxels_to_where_the_coarse_one_does() -> None:
    rows = torch.arange(6.0).view(1, 1, -1, 1).expand(1, 1, 6, 5)
    coarse = torch.cat([0.5 * rows, 0.1 * rows], dim=1)  # linear: interpolation is exact inside
    fine = enlarge_field(coarse, torch.zeros(1, 1, 12, 15), (2, 3))
    places = (torch.arange(12.0) - 0.5) / 2  # of fine voxels among the coarse
    torch.testing.assert_close(fine[0, 0, 1:-1, 4], 2 * 0.5 * places[1:-1])
    torch.testing.assert_close(fine[0, 1, 1:-1, 4], 3 * 0.1 * places[1:-1])


@pytest.mark.parametrize("network", [VoxelMorph, PyramidRegistration])
def test_field_integrated_at_half_the_resolution_is_nearly_that_of_the_whole(network: type[VoxelMorph]) -> None:
    topology = Topology(patch_size=(32, 32), strides=((1, 1), (2, 2)), kernel_sizes=((3, 3),) * 2, features=(4, 4))
    waves = 2.5 * torch.sin(torch.arange(16) * torch.pi / 15)
    smooth = torch.stack([waves[:, None] * waves / 2.5, -waves[:, None] * waves / 5])[None]
    made = network(1, topology)
    made.velocity = lambda moving, fixed: (smooth, None)  # type: ignore[method-assign,assignment]
    result = made(*torch.randn(2, 1, 1, 32, 32))
    assert result.displacement.abs().max() > 3
    assert (integrate(result.velocity) - result.displacement).abs().max() < 0.1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"levels": 0}, "levels must be at least 1, got 0"),
        ({"radius": -1}, "radius must be at least 0, got -1"),
        ({"integration_steps": -1}, "integration_steps must be at least 0, got -1"),
        ({"mixer": "attention"}, "mixer must be one of none, mamba"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PyramidRegistration(1, UNEVEN, **options)
