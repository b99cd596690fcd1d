"""The baseline computes what nnU-Net's own network computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from medmamba import networks
from medmamba.networks.unet import UNet
from medmamba.plans import budget
from medmamba.plans.plan import Topology

TOPOLOGIES = [
    Topology(patch_size=(16, 24), strides=((1, 1), (2, 2), (2, 2)), kernel_sizes=((3, 3),) * 3, features=(4, 6, 8)),
    Topology(
        patch_size=(4, 12, 8),
        strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)),
        kernel_sizes=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
        features=(4, 6, 8),
    ),
]


@pytest.mark.parametrize(("blocks", "decoder_blocks"), [((2, 2, 2), (2, 2)), ((1, 3, 4), (6, 1))])
@pytest.mark.parametrize("topology", TOPOLOGIES, ids=["2d", "3d"])
def test_plain_unet_with_the_same_weights_gives_the_same_logits(
    topology: Topology, blocks: tuple[int, ...], decoder_blocks: tuple[int, ...]
) -> None:
    architectures = pytest.importorskip("dynamic_network_architectures.architectures.unet")
    flat = topology.dims == 2
    config = {
        "input_channels": 2,
        "n_stages": 3,
        "features_per_stage": topology.features,
        "conv_op": nn.Conv2d if flat else nn.Conv3d,
        "kernel_sizes": topology.kernel_sizes,
        "strides": topology.strides,
        "n_conv_per_stage": blocks,
        "num_classes": 3,
        "n_conv_per_stage_decoder": decoder_blocks,
        "conv_bias": True,
        "norm_op": nn.InstanceNorm2d if flat else nn.InstanceNorm3d,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
        "deep_supervision": True,
    }
    torch.manual_seed(0)
    theirs = architectures.PlainConvUNet(**config)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_()
        ours = networks.from_upstream("unet", config, theirs.state_dict())
        x = torch.randn(2, 2, *topology.patch_size)
        for expected, output in zip(theirs(x), ours(x), strict=True):
            torch.testing.assert_close(output, expected)


def test_residual_encoder_is_deeper() -> None:
    plain, residual = (UNet(2, 3, TOPOLOGIES[0], residual=residual) for residual in (False, True))
    convolutions = [sum(isinstance(m, nn.Conv2d) for m in network.stages.modules()) for network in (plain, residual)]
    assert convolutions == [2 * 3, 2 * (1 + 3 + 4) + 3]  # two a block, and one on the skip of each stage


def test_residual_encoder_takes_a_list_of_blocks() -> None:
    for blocks, expected in (([2, 1, 5], [2, 1, 5]), (4, [4, 4, 4]), ((), [1, 3, 4])):
        network = UNet(2, 3, TOPOLOGIES[0], residual=True, blocks=blocks)
        assert [len(stage) for stage in network.stages] == expected  # type: ignore[arg-type]  # a Sequential each


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"blocks": [2, 2]}, r"^blocks must be a .* one for each of the 3 stages, but is \[2, 2\]"),
        ({"blocks": [2, 0, 2]}, "^blocks must be a positive whole number"),
        ({"blocks": 0}, "^blocks must be a positive whole number, .* but is 0"),
        ({"blocks": "222"}, "^blocks must be a positive whole number, .* but is '222'"),
        ({"blocks": [2, 2.0, 2]}, "^blocks must be a positive whole number"),
        ({"decoder_blocks": [2, 2, 2]}, r"^decoder_blocks must be .* 2 stages, but is \[2, 2, 2\]"),
    ],
)
@pytest.mark.parametrize("name", ["unet", "umamba_bot", "umamba_enc"])
def test_impossible_numbers_of_blocks_are_refused(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        networks.create(name, 1, 2, TOPOLOGIES[0], **options)


@pytest.mark.parametrize("deep_supervision", [False, True])
@pytest.mark.parametrize("topology", TOPOLOGIES, ids=["2d", "3d"])
def test_size_of_feature_maps_is_nnunets_own(topology: Topology, deep_supervision: bool) -> None:
    architectures = pytest.importorskip("dynamic_network_architectures.architectures.unet")
    stages = len(topology.features)
    theirs = architectures.PlainConvUNet(
        1,
        stages,
        topology.features,
        nn.Conv2d if topology.dims == 2 else nn.Conv3d,
        topology.kernel_sizes,
        topology.strides,
        2,
        3,
        2,
        deep_supervision=deep_supervision,
    )
    size = UNet(1, 3, topology, deep_supervision=deep_supervision).compute_conv_feature_map_size(topology.patch_size)
    assert size == theirs.compute_conv_feature_map_size(topology.patch_size)
    assert deep_supervision or size == budget.feature_values(topology, 3)
