"""Full-size networks have exactly the published numbers of parameters."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from medmamba import networks
from medmamba.networks.mamba import MambaBlock
from medmamba.plans.plan import Topology

ABDOMEN_CT = Topology(
    patch_size=(40, 224, 192),
    strides=((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2)),
    kernel_sizes=((1, 3, 3), *((3, 3, 3),) * 5),
    features=(32, 64, 128, 256, 320, 320),
)
CUBE = Topology(
    patch_size=(128, 128, 128),
    strides=((1, 1, 1), *((2, 2, 2),) * 5),
    kernel_sizes=((3, 3, 3),) * 6,
    features=(32, 64, 128, 256, 320, 320),
)
CELL = Topology(
    patch_size=(512, 512),
    strides=((1, 1), *((2, 2),) * 7),
    kernel_sizes=((3, 3),) * 8,
    features=(32, 64, 128, 256, 512, 512, 512, 512),
)
ENDOSCOPY = Topology(
    patch_size=(384, 640),
    strides=((1, 1), *((2, 2),) * 6),
    kernel_sizes=((3, 3),) * 7,
    features=(32, 64, 128, 256, 512, 512, 512),
)
ABDOMEN_MR = Topology(
    patch_size=(320, 320),
    strides=((1, 1), *((2, 2),) * 6),
    kernel_sizes=((3, 3),) * 7,
    features=(32, 64, 128, 256, 512, 512, 512),
)


@pytest.mark.parametrize(
    ("name", "topology", "image", "classes", "expected"),
    [
        ("umamba_bot", ABDOMEN_CT, 1, 14, 41_945_158),
        ("umamba_enc", ABDOMEN_CT, 1, 14, 42_842_798),
        ("umamba_bot", CUBE, 4, 4, 42_124_692),
        ("umamba_enc", CUBE, 4, 4, 42_755_220),
        ("umamba_bot", CELL, 3, 3, 64_797_301),
        ("umamba_enc", CELL, 3, 3, 64_014_261),
        ("umamba_bot", ENDOSCOPY, 3, 8, 47_524_592),
        ("umamba_enc", ENDOSCOPY, 3, 8, 47_680_592),
        ("umamba_bot", ABDOMEN_MR, 1, 14, 47_533_012),
        ("umamba_enc", ABDOMEN_MR, 1, 14, 47_015_538),
    ],
)
def test_full_size_network_has_published_size(
    name: str, topology: Topology, image: int, classes: int, expected: int
) -> None:
    with torch.device("meta"):
        network = networks.create(name, image, classes, topology)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


@pytest.mark.parametrize(
    ("name", "features", "options", "expected"),
    [
        ("mambamorph", (16, 48, 96, 192, 384), {}, 7_594_646),
        ("mambamorph", (16, 48, 96, 192, 384), {"feature_width": 0}, 7_305_459),
        ("mambamorph", (16, 48, 96, 192, 384), {"mixer": "none"}, 6_309_782),
        ("voxelmorph", (16, 32, 32, 32, 32), {}, 321_411),
        ("voxelmorph", (16, 32, 32, 32, 32), {"full_resolution": True}, 299_379),
        ("voxelmorph", (16, 32, 32, 32, 32), {"mixer": "mamba"}, 331_395),
        ("pyramid", (8, 16, 32, 32, 32), {}, 499_617),
        ("pyramid", (8, 16, 32, 32, 32), {"radius": 0}, 417_969),
        ("pyramid", (8, 16, 32, 32, 32), {"mixer": "mamba"}, 529_569),
    ],
)
def test_registration_network_has_the_size_that_it_had(
    name: str, features: tuple[int, ...], options: dict[str, Any], expected: int
) -> None:
    """Those of MambaMorph with its mixer are published; the others' tell when a network changes."""
    topology = Topology(
        patch_size=(16, 16, 16), strides=((1,) * 3, *((2,) * 3,) * 4), kernel_sizes=((3,) * 3,) * 5, features=features
    )
    with torch.device("meta"):
        network = networks.create_registration(name, 1, topology, **options)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


@pytest.mark.parametrize(
    ("width", "expected"), [(96, 68_160), (192, 251_520), (384, 963_840), (768, 3_770_880), (2560, 41_241_600)]
)
def test_mamba_block_has_published_size(width: int, expected: int) -> None:
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in MambaBlock(width).parameters()) == expected


@pytest.mark.parametrize("residual", [False, True])
def test_unet_is_as_large_as_nnunets_own(residual: bool) -> None:
    architectures = pytest.importorskip("dynamic_network_architectures.architectures.unet")
    settings = {
        "input_channels": 1,
        "n_stages": 6,
        "features_per_stage": CUBE.features,
        "conv_op": torch.nn.Conv3d,
        "kernel_sizes": CUBE.kernel_sizes,
        "strides": CUBE.strides,
        "num_classes": 3,
        "n_conv_per_stage_decoder": (2,) * 5,
        "conv_bias": True,
        "norm_op": torch.nn.InstanceNorm3d,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": torch.nn.LeakyReLU,
        "deep_supervision": True,
    }
    with torch.device("meta"):
        ours = networks.create("unet", 1, 3, CUBE, residual=residual)
        if not residual:
            theirs = architectures.PlainConvUNet(n_conv_per_stage=(2,) * 6, **settings)
            count = sum(parameter.numel() for parameter in theirs.parameters())
            assert sum(parameter.numel() for parameter in ours.parameters()) == count
        else:
            plain = networks.create("unet", 1, 3, CUBE)
            counts = [sum(parameter.numel() for parameter in net.parameters()) for net in (ours, plain)]
            assert counts[0] > 1.5 * counts[1]
