"""Parts of MambaMorph: the trunk of Mamba layers, and the feature extractor in front of it.

Letters: B batch, C channels, S spatial axes.

References:
    Guo et al., "MambaMorph: a Mamba-based Framework for Medical MR-CT Deformable Registration", 2024.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medmamba.networks._backbone import accumulate, channels_first, channels_last, run
from medmamba.networks._blocks import check_size, conv, merging_conv
from medmamba.networks._mixers import Mixer, TokenMixer
from medmamba.networks.mamba import MambaBlock
from medmamba.plans.plan import Topology

#: Levels above the trunk: those of the full resolution and of the next one are convolutions only.
CONV_LEVELS = 2
#: Negative slope of the LeakyReLU in the feature extractor.
FEATURE_SLOPE = 0.2
#: Base of the wavelengths of the position code, from 2 pi tokens upwards.
LONGEST = 10_000


def position_code(size: Sequence[int], channels: int, device: torch.device) -> Tensor:
    """Sines and cosines of each token's place on its grid, at falling frequencies.

    Each axis has its share of the channels, rounded up to an even number: first sines, then cosines. What is too many
    is cut off at the end.

    Args:
        size: of the grid.
        channels: of the code.
        device: of the code.

    Returns:
        (*S, channels) float32.

    References:
        Vaswani et al., "Attention Is All You Need", 2017, section 3.5.
    """
    share = 2 * math.ceil(channels / (2 * len(size)))
    frequencies = LONGEST ** -(torch.arange(0, share, 2, dtype=torch.float32, device=device) / share)
    codes = []
    for axis, length in enumerate(size):
        angles = torch.arange(length, dtype=torch.float32, device=device)[:, None] * frequencies
        others = [-1 if other == axis else 1 for other in range(len(size))]
        codes.append(torch.cat([angles.sin(), angles.cos()], dim=1).view(*others, share).expand(*size, share))
    return torch.cat(codes, dim=-1)[..., :channels]


class PatchMerging(nn.Module):
    """Lay the tokens of a small box side by side, row by row; norm and linear layer to the next width."""

    def __init__(self, width: int, out_width: int, stride: Sequence[int]) -> None:
        super().__init__()
        self.stride = tuple(stride)
        merged = width * math.prod(stride)
        self.norm = nn.LayerNorm(merged)
        self.reduction = nn.Linear(merged, out_width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, *S, C) to (B, *S / stride, C_out).

        Raises:
            ValueError: if the stride does not divide the grid.
        """
        check_size(channels_first(x), self.stride)
        boxes = [(length // step, step) for length, step in zip(x.shape[1:-1], self.stride, strict=True)]
        split = x.reshape(x.shape[0], *(part for box in boxes for part in box), x.shape[-1])
        dims = len(boxes)
        outer, inner = range(1, 2 * dims, 2), range(2, 2 * dims + 1, 2)
        x = split.permute(0, *outer, *inner, 2 * dims + 1).flatten(dims + 1)
        return cast(Tensor, self.reduction(self.norm(x)))


class MambaLayer(nn.Module):
    """Norm and Mamba block, with nothing beside them; then patches merge on the way to the next layer.

    The published block reads the grid row by row. Mixers compute in the precision of their weights whatever the
    autocast: scans reach magnitudes that 16 bits cannot hold.

    Args:
        width: C.
        downsample: makes the next layer's input of this one's output; None for the last layer.
        states: per channel of the Mamba block.
        taps: of its convolution.
        expand: its inner width over C.
        mixer: what mixes the tokens; "none": nothing, and no norm either.
        dims: axes of the grid, for other mixers than "mamba".
    """

    def __init__(
        self,
        width: int,
        downsample: PatchMerging | None,
        *,
        states: int = 16,
        taps: int = 4,
        expand: int = 2,
        mixer: Mixer = "mamba",
        dims: int = 3,
    ) -> None:
        super().__init__()
        self.norm: nn.LayerNorm | None = None
        self.mamba: nn.Module | None = None
        if mixer != "none":
            self.norm = nn.LayerNorm(width)
            # The published block by itself, so that weights have the published names.
            if mixer == "mamba":
                self.mamba = MambaBlock(width, states, taps, expand)
            else:
                self.mamba = TokenMixer(mixer, width, dims, states=states, taps=taps, expand=expand)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """(B, *S, C) to (B, *S, C), before the patches merge; float32 as a rule: see the class."""
        if self.norm is None or self.mamba is None:
            return x
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(self.norm.weight.dtype)
            mixed = self.mamba(self.norm(x).flatten(1, -2), x.shape[1:-1])
        return cast(Tensor, mixed).view(x.shape)


class Trunk(nn.Module):
    """Patches, their places, and Mamba layers of falling resolution.

    Args:
        in_channels: of what the patches are cut from.
        topology: of the whole network; the first stage here has the resolution of the topology's third.
        states: see `MambaLayer`.
        taps: see `MambaLayer`.
        expand: see `MambaLayer`.
        mixer: see `MambaLayer`.
        checkpointing: see `MambaMorph`.
    """

    def __init__(
        self,
        in_channels: int,
        topology: Topology,
        *,
        states: int,
        taps: int,
        expand: int,
        mixer: Mixer,
        checkpointing: bool,
    ) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        widths = topology.features[CONV_LEVELS:]
        self.patches = merging_conv(in_channels, widths[0], accumulate(topology.strides)[CONV_LEVELS])
        self.patch_norm = nn.LayerNorm(widths[0])
        merging: list[PatchMerging | None] = [
            PatchMerging(before, after, stride)
            for (before, after), stride in zip(pairwise(widths), topology.strides[CONV_LEVELS + 1 :], strict=True)
        ]
        self.layers = nn.ModuleList(
            MambaLayer(width, down, states=states, taps=taps, expand=expand, mixer=mixer, dims=topology.dims)
            for width, down in zip(widths, [*merging, None], strict=True)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, *S) to one map for each layer, finest first."""
        x = self.patch_norm(channels_last(self.patches(x)))
        x = x + position_code(x.shape[1:-1], x.shape[-1], x.device).to(x.dtype)
        maps = []
        for layer, normalise in zip(self.layers, self.norms, strict=True):
            y = run(layer, x, checkpointing=self.checkpointing)
            maps.append(channels_first(normalise(y)))
            downsample = cast(MambaLayer, layer).downsample
            if downsample is not None:
                x = downsample(y)
        return maps


class FeatureExtractor(nn.Module):
    """Small U-Net of one width that makes images of two modalities comparable; two levels down and up.

    Args:
        in_channels: of an image.
        width: channels of everything else.
        topology: of the whole network, whose first three levels these are.
    """

    def __init__(self, in_channels: int, width: int, topology: Topology) -> None:
        super().__init__()
        full, half, quarter = topology.kernel_sizes[:3]
        self.strides = topology.strides[1:3]
        self.encoder = nn.ModuleList([feature_conv(in_channels, width, full), feature_conv(width, width, half)])
        self.decoder = nn.ModuleList([feature_conv(width, width, quarter), feature_conv(2 * width, width, half)])
        self.remaining = nn.Sequential(feature_conv(2 * width, width, full), feature_conv(width, width, full))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) to (B, width, *S)."""
        pool = F.max_pool2d if len(self.strides[0]) == 2 else F.max_pool3d
        skips = []
        for layer, stride in zip(self.encoder, self.strides, strict=True):
            skips.append(layer(x))
            x = pool(skips[-1], stride)
        for layer, skip in zip(self.decoder, reversed(skips), strict=True):
            x = torch.cat([F.interpolate(layer(x), size=skip.shape[2:], mode="nearest"), skip], dim=1)
        return cast(Tensor, self.remaining(x))


def feature_conv(
    in_channels: int, out_channels: int, kernel: Sequence[int], stride: Sequence[int] | None = None
) -> nn.Sequential:
    """Convolution and LeakyReLU."""
    convolution = conv(in_channels, out_channels, kernel, stride)
    nn.init.kaiming_normal_(cast(Tensor, convolution.weight))
    nn.init.zeros_(cast(Tensor, convolution.bias))
    return nn.Sequential(convolution, nn.LeakyReLU(FEATURE_SLOPE, inplace=True))
