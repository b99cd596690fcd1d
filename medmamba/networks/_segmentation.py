"""What every segmentation network offers to those who build and plan it, as nnU-Net's own networks do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from medmamba.networks._blocks import CONVOLUTIONS, check_size
from medmamba.plans.plan import Topology


class SegmentationNetwork(nn.Module):
    """A network from images (B, C, *S) to logits, whose ``decoder.deep_supervision`` says of which resolutions.

    The first convolution that a subclass registers is one that reads the image.

    Args:
        topology: shape of the network.
        checkpointing: compute blocks again in the backward pass rather than keep their activations.
    """

    decoder: nn.Module

    def __init__(self, topology: Topology, checkpointing: bool) -> None:
        super().__init__()
        self.checkpointing, self._total_stride = checkpointing, topology.total_stride

    def encode(self, x: Tensor) -> list[Tensor]:
        """(B, C, *S), whose size the strides divide, to what the decoder reads: maps of all levels, finest first."""
        raise NotImplementedError

    def features(self, x: Tensor) -> list[Tensor]:
        """(B, C, *S) to the maps of all levels, finest first.

        Raises:
            DataError: if the strides do not divide the size.
        """
        check_size(x, self._total_stride)
        return self.encode(x)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """(B, C, *S) to logits (B, K, *S), or a list of them, finest first; sizes as in `features`."""
        return cast("Tensor | list[Tensor]", self.decoder(self.features(x)))

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        """Values in the outputs of all 2D and 3D convolutions, transposed ones included, for one image.

        nnU-Net's measure of what a network takes in training; see `medmamba.plans.budget` for what it is worth. The
        heads of coarse resolutions count while deep supervision is on. What mixes tokens does not count, and neither
        do the convolutions along its sequences. Nothing is computed: the network runs on tensors without values.

        Args:
            input_size: of the image in voxels, without batch and channels.

        Raises:
            ValueError: if the network cannot take such an image.
        """
        convolutions = [module for module in self.modules() if isinstance(module, CONVOLUTIONS)]
        first = convolutions[0]
        dims = first.weight.dim() - 2
        if len(input_size) != dims:
            raise ValueError(
                f"input_size must be {dims} numbers of voxels, without batch and channels, but is {tuple(input_size)}"
            )
        # Weights without memory are of no device, and no scan knows what to do for it.
        device = torch.device("cpu") if first.weight.is_meta else first.weight.device
        sizes: list[int] = []

        def count(module: nn.Module, inputs: Any, output: Tensor) -> None:
            sizes.append(output[0].numel())

        hooks = [module.register_forward_hook(count) for module in convolutions]
        try:
            with FakeTensorMode(), torch.no_grad():
                state = {
                    key: torch.empty(value.shape, dtype=value.dtype, device=device)
                    for key, value in (*self.named_parameters(), *self.named_buffers())
                }
                image = torch.empty(1, first.in_channels, *input_size, dtype=first.weight.dtype, device=device)
                functional_call(self, state, (image,))
        finally:
            for hook in hooks:
                hook.remove()
        return sum(sizes)
