"""Our networks as stock nnU-Net makes them: what a plan names as its network class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from medmamba.networks import _registry
from medmamba.networks._backbone import topology_of


def build(
    input_channels: int,
    num_classes: int,
    *,
    network: str,
    patch_size: Sequence[int],
    strides: Sequence[Sequence[int]],
    kernel_sizes: Sequence[Sequence[int]],
    features_per_stage: Sequence[int],
    options: Mapping[str, Any] | None = None,
    deep_supervision: bool = True,
) -> nn.Module:
    """Make a segmentation network from a plan's ``arch_kwargs``.

    Args:
        input_channels: channels of the image.
        num_classes: channels of the logits.
        network: name in the registry.
        patch_size: voxels.
        strides: per stage and axis.
        kernel_sizes: per stage and axis.
        features_per_stage: widths.
        options: the network's own.
        deep_supervision: whether to return the logits of all resolutions.

    Raises:
        UsageError: as `medmamba.networks.create`.
    """
    topology = topology_of(patch_size, strides, kernel_sizes, features_per_stage)
    made = _registry.create(network, input_channels, num_classes, topology, **(options or {}))
    made.decoder.deep_supervision = deep_supervision  # type: ignore[union-attr]  # every segmentation network's
    return made
