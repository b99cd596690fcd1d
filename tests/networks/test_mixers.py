"""Mixers by name: each in the U-shaped networks, in 2D and 3D."""

from __future__ import annotations

import re
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from medmamba import networks
from medmamba.networks import _mixers
from medmamba.plans.plan import Topology

#: Whatever has Mamba in a U.
NETWORKS = [name for name in networks.names("segmentation") if "mixer" in networks.describe(name).options]
TOPOLOGIES = {
    "2d": Topology(patch_size=(8, 16), strides=((1, 1), (2, 2)), kernel_sizes=((3, 3),) * 2, features=(4, 6)),
    "3d": Topology(patch_size=(4, 6, 8), strides=((1,) * 3, (2,) * 3), kernel_sizes=((3,) * 3,) * 2, features=(4, 6)),
    # The map is smaller than its channels are many, which are the tokens of U-Mamba Enc then.
    "channels": Topology(patch_size=(4, 4), strides=((1, 1), (2, 2)), kernel_sizes=((3, 3),) * 2, features=(4, 6)),
}


def build(name: str, topology: Topology, mixer: str) -> nn.Module:
    """With two blocks where their number is an option."""
    torch.manual_seed(0)
    few = {"depth": 2} if "depth" in networks.describe(name).options else {}
    return networks.create(name, 1, 2, topology, mixer=mixer, **few)


def test_every_network_with_mamba_has_the_option() -> None:
    assert set(networks.names("segmentation")) - set(NETWORKS) == {"unet"}


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("mixer", get_args(_mixers.Mixer))
@pytest.mark.parametrize("name", NETWORKS)
def test_every_mixer_learns_in_every_network(name: str, mixer: str, topology: str) -> None:
    shape = TOPOLOGIES[topology]
    network = build(name, shape, mixer)
    x = torch.randn(2, 1, *shape.patch_size)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)

    def loss() -> Tensor:
        return sum((logits - 1).square().mean() for logits in network(x))

    before = loss()
    before.backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
    optimizer.step()
    assert loss() < before
    has_mamba = any("A_log" in key for key, _ in network.named_parameters())
    assert has_mamba == (mixer != "none")


@pytest.mark.parametrize("name", NETWORKS)
def test_without_a_mixer_everything_else_stays(name: str) -> None:
    shape = TOPOLOGIES["3d"]
    plain, usual = build(name, shape, "none"), networks.create(name, 1, 2, shape)
    kept, whole = (dict(network.named_parameters()) for network in (plain, usual))
    assert kept.keys() < whole.keys()
    assert all(kept[key].shape == whole[key].shape for key in kept)
    layers = re.compile(r"(column\.blocks|trunk\.stages|(encoder\.)?mamba_layers?|stages\.\d\.\d\.(norm1|mixer))\.")
    assert all(layers.match(key) for key in whole.keys() - kept.keys())


@pytest.mark.parametrize("mixer", get_args(_mixers.Mixer))
def test_every_mixer_is_part_of_a_compiled_program_and_sized_without_values(mixer: str) -> None:
    torch.compiler.reset()
    shape = Topology(patch_size=(4, 8), strides=((1, 1), (2, 2)), kernel_sizes=((3, 3),) * 2, features=(4, 6))
    network = build("umamba_bot", shape, mixer)
    x = torch.randn(2, 1, *shape.patch_size)
    with torch.no_grad():
        compiled = torch.compile(network, fullgraph=True, backend="eager")(x)
        for own, expected in zip(compiled, network(x), strict=True):
            torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-5)
    none = build("umamba_bot", shape, "none")
    sizes = [each.compute_conv_feature_map_size(shape.patch_size) for each in (network, none)]  # type: ignore[operator]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("mixer", get_args(_mixers.Mixer))
def test_every_mixer_learns_in_clips(mixer: str) -> None:
    torch.manual_seed(0)
    shape = Topology(patch_size=(8, 8), strides=((2, 2), (2, 2)), kernel_sizes=((3, 3),) * 2, features=(4, 6))
    options = {"depths": (1, 1), "heads": (1, 1), "decoder_width": 8, "mamba_layers": 1}
    network = networks.create("vivim", 1, 2, shape, mixer=mixer, **options)
    network(torch.randn(1, 3, 1, 8, 8)).square().mean().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
    assert any("A_log" in key for key, _ in network.named_parameters()) == (mixer != "none")


def test_column_of_patches_is_a_grid_to_orders_across_it() -> None:
    shape = TOPOLOGIES["3d"]
    network = build("vim", shape, "cross")
    x = torch.randn(1, 1, *shape.patch_size)
    with torch.no_grad():
        turned = build("vim", shape, "cross")
        for block in turned.column.blocks:  # type: ignore[union-attr]  # of its blocks
            mamba = block.mixer.mamba
            assert len(mamba.orders) == 6
            mamba.orders = mamba.orders[:1] * 6
        assert not torch.equal(network(x)[0], turned(x)[0])


@pytest.mark.parametrize(("mixer", "sets"), [("bimamba", 2), ("tri", 3), ("cross", 6)])
def test_orders_have_parameters_of_their_own(mixer: _mixers.Mixer, sets: int) -> None:
    assert len(_mixers.TokenMixer(mixer, 8, 3).mamba.A_log) == sets


def test_balancing_loss_of_experts_reaches_the_router_only_in_training() -> None:
    torch.manual_seed(0)
    mixer = _mixers.TokenMixer("moe", 8, 1)
    x = torch.randn(1, 9, 8)
    (mixer(x, (9,)) * 0).sum().backward()
    router = mixer.experts.switch.router
    assert router.grad is not None
    assert router.grad.abs().max() > 0
    with torch.no_grad():
        assert torch.equal(mixer(x, (9,)), mixer(x, (9,)))


def test_unknown_mixer_lists_those_there_are() -> None:
    with pytest.raises(ValueError, match="none, mamba, bimamba, tri, cross, moe"):
        networks.create("umamba_bot", 1, 2, TOPOLOGIES["2d"], mixer="attention")
