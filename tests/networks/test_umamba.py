"""What is U-Mamba's own, beside the contract of all networks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from medmamba import networks
from medmamba.networks.mamba import MambaBlock
from medmamba.networks.umamba import MambaLayer, UMamba, block_options
from medmamba.plans.plan import Topology


def topology(patch: tuple[int, ...], features: tuple[int, ...]) -> Topology:
    """Stages of stride 2."""
    dims = len(patch)
    return Topology(
        patch_size=patch,
        strides=((1,) * dims, *((2,) * dims,) * (len(features) - 1)),
        kernel_sizes=((3,) * dims,) * len(features),
        features=features,
    )


def widths(network: UMamba) -> list[tuple[int, bool] | None]:
    """(width, channel tokens) of the Mamba layers after each encoder stage; None where there is none."""
    return [
        (layer.norm.normalized_shape[0], layer.channel_tokens) if isinstance(layer, MambaLayer) else None
        for layer in network.encoder.mamba_layers
    ]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        # An odd number of stages and an even one: the last stage always has a layer in 2D.
        (topology((32, 16), (4, 6, 8)), [(4, False), None, (8, False)]),
        (topology((32, 16), (4, 6, 8, 10)), [None, (6, False), None, (8, True)]),
        (topology((8, 8, 8), (4, 8, 8)), [(4, False), (8, False), (8, True)]),
    ],
)
def test_encoder_has_mamba_layers_where_the_authors_put_them(
    shape: Topology, expected: list[tuple[int, bool] | None]
) -> None:
    assert widths(UMamba(1, 2, shape, placement="encoder")) == expected


def test_bottleneck_has_the_only_mamba_layer_of_umamba_bot() -> None:
    network = networks.create("umamba_bot", 1, 2, topology((8, 8, 8), (4, 8, 8)))
    assert [name for name, module in network.named_modules() if isinstance(module, MambaBlock)] == ["mamba_layer.mamba"]


@pytest.mark.parametrize(
    ("stages", "encoder", "decoder"), [(6, [2, 2, 2, 1, 1, 1], [2, 2, 2, 1, 1]), (4, [2, 2, 1, 1], [2, 2, 1])]
)
def test_coarser_half_has_half_the_blocks(stages: int, encoder: list[int], decoder: list[int]) -> None:
    network = UMamba(1, 2, topology((64, 64), (4,) * stages), placement="bottleneck")
    assert [len(stage) for stage in network.encoder.stages] == encoder  # type: ignore[arg-type]  # a Sequential each
    assert [len(stage) for stage in network.decoder.stages] == decoder  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["umamba_bot", "umamba_enc"])
def test_blocks_may_be_listed(name: str) -> None:
    network = networks.create(name, 1, 2, topology((16, 16), (4, 5, 6)), blocks=[1, 3, 6], decoder_blocks=[4, 2])
    assert isinstance(network, UMamba)
    assert len(network.encoder.stem) == 1
    assert [len(stage) for stage in network.encoder.stages] == [1, 3, 6]  # type: ignore[arg-type]
    assert [len(stage) for stage in network.decoder.stages] == [4, 2]  # type: ignore[arg-type]
    assert block_options(network) == {"blocks": [1, 3, 6], "decoder_blocks": [4, 2]}
    assert block_options(networks.create(name, 1, 2, topology((16, 16), (4, 5, 6)))) == {}  # type: ignore[arg-type]


CONFIG: dict[str, Any] = {
    "patch": [16, 16],
    "strides": [[1, 1], [2, 2], [2, 2]],
    "kernels": [[3, 3]] * 3,
    "features_per_stage": [4, 5, 6],
    "in_ch": 1,
    "ncls": 2,
}


@pytest.mark.parametrize(
    ("named", "built"),
    [
        ({}, ([3, 1, 5], [4, 2])),
        ({"ne": [3, 1, 5], "nd": [4, 2]}, ([3, 1, 5], [4, 2])),
        ({"n_conv_per_stage_encoder": [3, 4, 5], "n_conv_per_stage_decoder": 2}, ([3, 4, 1], [2, 2])),
        ({"n_blocks_per_stage": 2}, ([2, 2, 1], [2, 2])),
    ],
)
def test_weights_tell_how_many_blocks_there_are(named: dict[str, Any], built: tuple[list[int], list[int]]) -> None:
    torch.manual_seed(0)
    options = {"blocks": built[0], "decoder_blocks": built[1]}
    network = networks.create("umamba_bot", 1, 2, topology((16, 16), (4, 5, 6)), **options).eval()
    loaded = networks.from_upstream("umamba_bot", CONFIG | named, network.state_dict()).eval()
    x = torch.randn(1, 1, 16, 16)
    with torch.no_grad():
        assert torch.equal(loaded(x)[0], network(x)[0])


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ({"ne": [1, 3, 4]}, r"=\[1, 3, 4\] builds \[1, 3, 1\] blocks, but the weights are of \[2, 2, 1\]"),
        ({"n_conv_per_stage_decoder": [2, 1]}, r"=\[2, 1\] builds \[2, 1\] blocks, .* of \[2, 2\]"),
        ({"nd": [2, 2, 2]}, "must be one number or 2"),
    ],
)
def test_numbers_of_blocks_that_the_weights_contradict_are_refused(named: dict[str, Any], words: str) -> None:
    weights = networks.create("umamba_bot", 1, 2, topology((16, 16), (4, 5, 6))).state_dict()
    with pytest.raises(networks.UpstreamError, match=words):
        networks.from_upstream("umamba_bot", CONFIG | named, weights)


def test_channel_tokens_tie_the_network_to_its_patch() -> None:
    network = networks.create("umamba_enc", 1, 2, topology((8, 8), (8, 16, 16)))
    network(torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match=r"built for patches of \(8, 8\) voxels and cannot take \(16, 16\)"):
        network(torch.zeros(1, 1, 16, 16))


@pytest.mark.parametrize("name", ["umamba_bot", "umamba_enc"])
def test_without_channel_tokens_any_divisible_size_is_taken(name: str) -> None:
    network = networks.create(name, 1, 2, topology((16, 16), (4, 6, 8)))
    outputs = network(torch.zeros(1, 1, 12, 24))
    assert outputs[0].shape == (1, 2, 12, 24)


def test_initialisation_keeps_the_mamba_blocks_own() -> None:
    network = UMamba(1, 2, topology((8, 8), (8, 16, 16)), placement="bottleneck")
    step = F.softplus(network.get_parameter("mamba_layer.mamba.dt_proj.bias"))
    assert ((step > 0.9e-3) & (step < 0.11)).all()
    assert (network.get_parameter("mamba_layer.mamba.conv1d.bias") != 0).any()
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            assert module.bias is not None, name
            assert (module.bias == 0).all(), name
            if module.weight.numel() > 1000:
                # He's rule: the variance that a LeakyReLU of slope 0.01 leaves as it is.
                expected = (2 / (1 + 0.01**2) / module.weight[0].numel()) ** 0.5
                assert module.weight.std().item() == pytest.approx(expected, rel=0.1), name


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_mamba_layer_computes_in_float32_under_autocast(kind: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = MambaLayer(6, 3)
    x = torch.randn(2, 6, 3, 4).to(kind)
    with torch.autocast("cpu", dtype=kind):
        inside = layer(x)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, layer(x.float()))


def test_network_in_double_precision_works() -> None:
    network = UMamba(1, 2, topology((8, 8), (4, 6)), placement="encoder").double()
    assert network(torch.zeros(1, 1, 8, 8, dtype=torch.float64))[0].dtype == torch.float64
