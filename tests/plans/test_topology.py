from __future__ import annotations

import pytest

from medmamba.plans import budget
from medmamba.plans.topology import largest_topology, share_of_case


def test_brats_like_cases_get_the_well_known_patch() -> None:
    topology = largest_topology((1.0, 1.0, 1.0), (140, 171, 137), output_channels=4, memory_gb=8)
    assert topology.patch_size == (128, 128, 128)
    assert topology.features == (32, 64, 128, 256, 320, 320)


def test_a_coarse_axis_is_neither_pooled_nor_convolved_at_first() -> None:
    topology = largest_topology((5.0, 0.6, 0.6), (20, 320, 320), output_channels=2, memory_gb=8)
    assert topology.strides[1] == (1, 2, 2)
    assert topology.kernel_sizes[0] == (1, 3, 3)
    assert topology.kernel_sizes[-1] == (3, 3, 3)


def test_more_memory_never_makes_the_patch_smaller() -> None:
    shares = [
        share_of_case(
            largest_topology((1.0, 0.8, 0.8), (300, 400, 400), output_channels=3, memory_gb=gb), (300, 400, 400)
        )
        for gb in (4, 8, 16, 40)
    ]
    assert shares == sorted(shares)
    assert shares[-1] > 3 * shares[0]


def test_the_patch_fits_and_covers_small_cases() -> None:
    topology = largest_topology((1.0, 1.0, 1.0), (36.0, 50.5, 35.0), output_channels=3, memory_gb=8)
    assert budget.fits(topology, 3, 8)
    assert topology.patch_size == (40, 56, 40)


def test_cases_too_small_for_a_network_are_refused() -> None:
    with pytest.raises(ValueError, match=r"too small .* 6 x 7 x 7 voxels"):
        largest_topology((1.0, 1.0, 1.0), (6, 7, 7), output_channels=2, memory_gb=8)


def test_too_little_memory_is_refused() -> None:
    with pytest.raises(ValueError, match=r"0\.001 GB"):
        largest_topology((1.0, 1.0, 1.0), (160, 160, 160), output_channels=2, memory_gb=0.001)
