"""What training a network takes, measured on small images."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from medmamba.networks._registry import create_registration
from medmamba.plans.plan import Topology

#: Edge of the images, or more where the strides need it.
EDGE = 32


def registration_bytes(name: str, topology: Topology, options: dict[str, Any]) -> float:
    """What a registration network keeps for its backward pass, in bytes for each voxel of a pair.

    Raises:
        UsageError: as `medmamba.networks.create_registration`.
    """
    size = tuple(stride * max(2, math.ceil(EDGE / stride)) for stride in topology.total_stride)
    network = create_registration(name, 1, topology, **options).train()
    own = {parameter.data_ptr() for parameter in network.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        # All of it is alive to the end, so that no address is counted twice.
        alive = network(torch.rand(1, 1, *size), torch.rand(1, 1, *size))
    del alive
    return sum(kept.values()) / math.prod(size)
