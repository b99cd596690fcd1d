"""Decoders over a pyramid of maps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medmamba.networks._decoders import make_decoder
from medmamba.plans.plan import Topology

TOPOLOGIES = {
    "2d": Topology(
        patch_size=(16, 24), strides=((1, 1), (2, 2), (1, 2)), kernel_sizes=((3, 3),) * 3, features=(4, 6, 8)
    ),
    "3d": Topology(
        patch_size=(4, 8, 6), strides=((1, 1, 1), (1, 2, 2)), kernel_sizes=((1, 3, 3), (3, 3, 3)), features=(4, 6)
    ),
}


def maps(topology: Topology) -> list[Tensor]:
    torch.manual_seed(0)
    size, found = topology.patch_size, []
    for channels, stride in zip(topology.features, topology.strides, strict=True):
        size = tuple(n // s for n, s in zip(size, stride, strict=True))
        found.append(torch.randn(2, channels, *size, requires_grad=True))
    return found


@pytest.mark.parametrize("name", ["unet", "upernet"])
@pytest.mark.parametrize("topology", [pytest.param(topology, id=kind) for kind, topology in TOPOLOGIES.items()])
def test_logits_have_the_sizes_of_all_maps_but_the_coarsest(name: str, topology: Topology) -> None:
    decoder = make_decoder(name, 3, topology, deep_supervision=True)
    levels = maps(topology)
    outputs = decoder(levels)
    assert [output.shape[2:] for output in outputs] == [level.shape[2:] for level in levels[:-1]]
    assert all(output.shape[1] == 3 for output in outputs)
    decoder.deep_supervision = False  # type: ignore[assignment]  # an attribute, not a module
    assert torch.equal(decoder(levels), outputs[0])


@pytest.mark.parametrize("name", ["unet", "upernet"])
def test_finest_logits_alone_see_every_map(name: str) -> None:
    decoder = make_decoder(name, 3, TOPOLOGIES["2d"], deep_supervision=False)
    levels = maps(TOPOLOGIES["2d"])
    torch.autograd.backward(decoder(levels).pow(2).sum())
    assert all(level.grad is not None and level.grad.abs().max() > 0 for level in levels)


def test_upernet_passes_context_down_to_every_level() -> None:
    levels = maps(TOPOLOGIES["2d"])
    outputs = make_decoder("upernet", 3, TOPOLOGIES["2d"], deep_supervision=True)(levels)
    torch.autograd.backward(outputs[1].pow(2).sum())
    assert [level.grad is not None for level in levels] == [False, True, True]


def test_upernet_pools_a_coarsest_map_of_two_voxels() -> None:
    topology = Topology(patch_size=(4, 2), strides=((1, 1), (2, 2)), kernel_sizes=((3, 3),) * 2, features=(4, 6))
    outputs = make_decoder("upernet", 3, topology, deep_supervision=True)(maps(topology))
    assert outputs[0].shape == (2, 3, 4, 2)


def test_unknown_decoder_is_refused() -> None:
    with pytest.raises(ValueError, match="decoder must be 'unet' or 'upernet', got 'fpn'"):
        make_decoder("fpn", 3, TOPOLOGIES["2d"], deep_supervision=True)
