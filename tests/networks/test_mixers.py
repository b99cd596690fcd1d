"""Mixers by name: each in the U-shaped networks, in 2D and 3D."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from medmamba import networks
from medmamba.networks import _mixers
from medmamba.plans.plan import Topology

TOPOLOGIES = {
    "2d": Topology(patch_size=(8, 16), strides=((1, 1), (2, 2)), kernel_sizes=((3, 3),) * 2, features=(4, 6)),
    "3d": Topology(patch_size=(4, 6, 8), strides=((1,) * 3, (2,) * 3), kernel_sizes=((3,) * 3,) * 2, features=(4, 6)),
    # The map is smaller than its channels are many, which are the tokens of U-Mamba Enc then.
    "channels": Topology(patch_size=(4, 4), strides=((1, 1), (2, 2)), kernel_sizes=((3, 3),) * 2, features=(4, 6)),
}


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("mixer", get_args(_mixers.Mixer))
@pytest.mark.parametrize("name", ["umamba_bot", "umamba_enc", "segmamba"])
def test_every_mixer_learns_in_every_network(name: str, mixer: str, topology: str) -> None:
    shape = TOPOLOGIES[topology]
    network = networks.create(name, 1, 2, shape, mixer=mixer)
    for logits in network(torch.randn(2, 1, *shape.patch_size)):
        logits.square().mean().backward(retain_graph=True)
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
    has_mamba = any("A_log" in key for key, _ in network.named_parameters())
    assert has_mamba == (mixer != "none")


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
