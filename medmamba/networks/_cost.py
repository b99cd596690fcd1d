"""What training a network takes, measured on small images."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from medmamba.networks._registry import create_registration, create_video
from medmamba.plans.plan import Topology

#: Edge of the images, or more where the strides need it.
EDGE = 32
#: Frames of a clip.
FRAMES = 4


def registration_bytes(name: str, topology: Topology, options: dict[str, Any]) -> float:
    """What a registration network keeps for its backward pass, in bytes for each voxel of a pair.

    Raises:
        UsageError: as `medmamba.networks.create_registration`.
    """
    size = tuple(stride * max(2, math.ceil(EDGE / stride)) for stride in topology.total_stride)
    network = create_registration(name, 1, topology, **options).train()
    return _kept_bytes(network, torch.rand(1, 1, *size), torch.rand(1, 1, *size)) / math.prod(size)


def video_bytes(name: str, in_channels: int, out_channels: int, topology: Topology, options: dict[str, Any]) -> float:
    """What a network for video keeps for its backward pass, in bytes for each pixel of each frame of a clip.

    Raises:
        UsageError: as `medmamba.networks.create_video`.
    """
    size = tuple(stride * max(2, math.ceil(EDGE / stride)) for stride in topology.total_stride[-2:])
    network = create_video(name, in_channels, out_channels, topology, **options).train()
    return _kept_bytes(network, torch.rand(1, FRAMES, in_channels, *size)) / (FRAMES * math.prod(size))


def _kept_bytes(network: nn.Module, *inputs: Tensor) -> int:
    """What a network keeps of these inputs for its backward pass."""
    own = {parameter.data_ptr() for parameter in network.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        # All of it is alive to the end, so that no address is counted twice.
        alive = network(*inputs)
    del alive
    return sum(kept.values())
