"""Decoders that make logits from a pyramid of maps, by name.

Letters: B batch, C channels, S spatial axes, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medmamba.errors import UsageError
from medmamba.networks._backbone import run
from medmamba.networks._blocks import CONVS, Counts, activation, block_counts, plain_stage, pointwise, transposed_conv
from medmamba.plans.plan import Topology

#: UPerNet looks at the coarsest map in so many parts along each axis.
POOLS = (1, 2, 3, 6)
_LINEAR = {2: "bilinear", 3: "trilinear"}
_POOL = {2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}


def make_decoder(
    name: str, out_channels: int, topology: Topology, *, deep_supervision: bool, checkpointing: bool = False
) -> nn.Module:
    """A decoder from maps of all levels, finest first, with the topology's features, to logits.

    Args:
        name: "unet" or "upernet".
        out_channels: channels of the logits.
        topology: of the encoder.
        deep_supervision: return logits of all resolutions but the coarsest; an attribute that may be set at any time.
        checkpointing: compute blocks again in the backward pass rather than keep their activations.

    Raises:
        UsageError: for an unknown name.
    """
    decoders: dict[str, type[nn.Module]] = {"unet": UNetDecoder, "upernet": UPerDecoder}
    if name not in decoders:
        raise UsageError(f"decoder must be 'unet' or 'upernet', got {name!r}")
    return decoders[name](out_channels, topology, deep_supervision=deep_supervision, checkpointing=checkpointing)


class SkipStages(nn.Module):
    """Upsample, join with the encoder's map, refine, stage by stage.

    Args:
        topology: of the encoder.
        up: makes what upsamples, of channels before and after and the stride.
        stage: makes what refines, of channels before and after, the kernel, no stride and a number of blocks.
        counts: those numbers, coarsest first.
        joins_finest: whether there is a skip connection at full resolution.
        deep_supervision: return logits of all resolutions; may be set at any time.
        checkpointing: compute stages again in the backward pass rather than keep their activations.
    """

    def __init__(
        self,
        topology: Topology,
        up: Callable[[int, int, Sequence[int]], nn.Module],
        stage: Callable[[int, int, Sequence[int], None, int], nn.Module],
        counts: Sequence[int],
        *,
        joins_finest: bool = True,
        deep_supervision: bool,
        checkpointing: bool,
    ) -> None:
        super().__init__()
        self.deep_supervision, self.checkpointing, self.joins_finest = deep_supervision, checkpointing, joins_finest
        features, kernels = topology.features, topology.kernel_sizes
        levels = range(len(features) - 2, -1, -1)
        self.upsample_layers = nn.ModuleList(
            up(features[level + 1], features[level], topology.strides[level + 1]) for level in levels
        )
        self.stages = nn.ModuleList(
            stage((2 if level or joins_finest else 1) * features[level], features[level], kernels[level], None, count)
            for level, count in zip(levels, counts, strict=True)
        )

    def refine(self, maps: list[Tensor]) -> Iterator[Tensor]:
        """Maps of all stages, finest first, to refined ones, coarsest first."""
        x = maps[-1]
        for index, (up, stage) in enumerate(zip(self.upsample_layers, self.stages, strict=True)):
            x = up(x)
            if self.joins_finest or index < len(self.stages) - 1:
                x = torch.cat([x, maps[-2 - index].to(x.dtype)], dim=1)
            x = run(stage, x, checkpointing=self.checkpointing)
            yield x


class SkipDecoder(SkipStages):
    """`SkipStages` with logits at every resolution.

    Args:
        out_channels: of the logits.
        topology: and so on, see `SkipStages`.
    """

    def __init__(self, out_channels: int, topology: Topology, *makers: Any, **options: Any) -> None:
        super().__init__(topology, *makers, **options)
        self.seg_layers = nn.ModuleList(
            pointwise(width, out_channels, topology.dims) for width in reversed(topology.features[:-1])
        )

    def forward(self, maps: list[Tensor]) -> Tensor | list[Tensor]:
        """Maps of all stages, finest first, to logits (B, K, *S), or a list of them, finest first."""
        logits = []
        for index, x in enumerate(self.refine(maps), 1):
            if self.deep_supervision or index == len(self.seg_layers):
                logits.append(self.seg_layers[index - 1](x))
        return logits[::-1] if self.deep_supervision else logits[-1]


class UNetDecoder(SkipDecoder):
    """nnU-Net's: transposed convolutions, and so many convolutions in each stage.

    Args:
        out_channels: of the logits.
        topology: of the encoder.
        convs: of each stage, coarsest first, see `Counts`; empty: two each.
        options: deep_supervision and checkpointing, see `SkipStages`.
    """

    def __init__(self, out_channels: int, topology: Topology, *, convs: Counts = (), **options: Any) -> None:
        counts = block_counts("decoder_blocks", convs, (CONVS,) * (len(topology.features) - 1))
        super().__init__(out_channels, topology, transposed_conv, plain_stage, counts, **options)


def enlarge(x: Tensor, like: Tensor) -> Tensor:
    """Linear interpolation to the size of another map."""
    return F.interpolate(x, like.shape[2:], mode=_LINEAR[x.dim() - 2], align_corners=False)


class UPerDecoder(nn.Module):
    """UPerNet: the coarsest map pooled at several scales, a feature pyramid from coarse to fine, all levels joined.

    As wide as the finest level. The coarser logits of deep supervision are read from the feature pyramid.

    References:
        Xiao et al., "Unified Perceptual Parsing for Scene Understanding", 2018.
    """

    def __init__(
        self, out_channels: int, topology: Topology, *, deep_supervision: bool, checkpointing: bool = False
    ) -> None:
        super().__init__()
        self.deep_supervision, self.checkpointing = deep_supervision, checkpointing
        dims, kernels, width = topology.dims, topology.kernel_sizes, topology.features[0]
        *finer, coarsest = topology.features
        # Without norms: a map of one voxel has no variance.
        self.pooled = nn.ModuleList(nn.Sequential(pointwise(coarsest, width, dims), activation()) for _ in POOLS)
        self.context = plain_stage(coarsest + len(POOLS) * width, width, kernels[-1], convs=1)
        self.lateral = nn.ModuleList(plain_stage(channels, width, (1,) * dims, convs=1) for channels in finer)
        self.smooth = nn.ModuleList(plain_stage(width, width, kernel, convs=1) for kernel in kernels[:-1])
        self.join = plain_stage(len(kernels) * width, width, kernels[0], convs=1)
        self.seg_layers = nn.ModuleList(pointwise(width, out_channels, dims) for _ in finer)

    def forward(self, maps: list[Tensor]) -> Tensor | list[Tensor]:
        """Maps of all levels, finest first, to logits (B, K, *S), or a list of them, finest first."""
        top = maps[-1]
        pool = _POOL[top.dim() - 2]
        parts = [enlarge(stage(pool(top, size)), top) for size, stage in zip(POOLS, self.pooled, strict=True)]
        sums = [self._run(self.context, torch.cat([top, *parts], dim=1))]
        for lateral, x in zip(reversed(self.lateral), reversed(maps[:-1]), strict=True):
            y = self._run(lateral, x)
            sums.append(y + enlarge(sums[-1], y))
        *levels, coarsest = reversed(sums)
        pyramid = [self._run(smooth, y) for smooth, y in zip(self.smooth, levels, strict=True)]
        joined = torch.cat([pyramid[0], *(enlarge(y, pyramid[0]) for y in (*pyramid[1:], coarsest))], dim=1)
        finest: Tensor = self.seg_layers[0](self._run(self.join, joined))
        if not self.deep_supervision:
            return finest
        return [finest, *(head(y) for head, y in zip(self.seg_layers[1:], pyramid[1:], strict=True))]

    def _run(self, block: nn.Module, x: Tensor) -> Tensor:
        return run(block, x, checkpointing=self.checkpointing)
