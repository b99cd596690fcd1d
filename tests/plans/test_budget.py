from __future__ import annotations

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet

from medmamba.plans import budget
from medmamba.plans.plan import Topology

SMALL = Topology(
    patch_size=(20, 48, 40),
    strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)),
    kernel_sizes=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
    features=(32, 64, 128),
)
FLAT = Topology(patch_size=(96, 64), strides=((1, 1), (2, 2)), kernel_sizes=((3, 3), (3, 3)), features=(32, 64))


@pytest.mark.parametrize("topology", [SMALL, FLAT], ids=["3d", "2d"])
@pytest.mark.parametrize("output_channels", [2, 14])
def test_feature_values_are_those_that_nnunet_counts(topology: Topology, output_channels: int) -> None:
    with torch.device("meta"):
        network = PlainConvUNet(
            input_channels=3,
            n_stages=len(topology.features),
            features_per_stage=topology.features,
            conv_op=torch.nn.Conv3d if topology.dims == 3 else torch.nn.Conv2d,
            kernel_sizes=topology.kernel_sizes,
            strides=topology.strides,
            n_conv_per_stage=2,
            num_classes=output_channels,
            n_conv_per_stage_decoder=2,
        )
    expected = network.compute_conv_feature_map_size(topology.patch_size)
    assert budget.feature_values(topology, output_channels) == expected


def test_twice_the_memory_holds_twice_the_batch() -> None:
    batches = [budget.batch_size(FLAT, 2, memory, dataset_voxels=1e12).patches for memory in (8.0, 16.0)]
    assert batches[1] == pytest.approx(2 * batches[0], abs=1)


def test_a_batch_covers_at_most_five_per_cent_of_the_voxels() -> None:
    patch_voxels = 96 * 64
    batch = budget.batch_size(FLAT, 2, 8.0, dataset_voxels=100 * patch_voxels)
    assert batch.patches == batch.share_of_dataset == 5
    assert batch.fits > 5


def test_a_batch_never_has_fewer_than_two_patches() -> None:
    assert budget.batch_size(FLAT, 2, 8.0, dataset_voxels=1).patches == budget.MIN_BATCH_SIZE
    assert budget.batch_size(FLAT, 2, 1e-3, dataset_voxels=1e12).patches == budget.MIN_BATCH_SIZE


def test_what_fits_is_decided_by_two_patches() -> None:
    values = budget.feature_values(SMALL, 2)
    just_enough = 8.0 * values / budget.REFERENCES[3].feature_values
    assert budget.fits(SMALL, 2, just_enough * 1.001)
    assert not budget.fits(SMALL, 2, just_enough * 0.999)
