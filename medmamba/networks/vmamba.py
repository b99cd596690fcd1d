"""VMamba: a backbone of stages of falling resolution whose blocks scan maps along each axis, both ways.

Letters: B batch, C channels, S spatial axes, K classes. Inside, maps are channels last, (B, *S, C).

References:
    Liu et al., "VMamba: Visual State Space Model", 2024.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import cast

from torch import Tensor, nn

from medmamba.networks._backbone import (
    Pyramid,
    accumulate,
    cascade,
    channels_first,
    channels_last,
    check_dims,
    check_least,
    draw_linear,
    drop_rates,
    run,
)
from medmamba.networks._blocks import conv, initialise, plain_stage
from medmamba.networks._decoders import make_decoder
from medmamba.networks._mixers import Mixer, check_mixer
from medmamba.networks._registry import register
from medmamba.networks._segmentation import SegmentationNetwork
from medmamba.networks._vss import (
    SS2D,
    ConvLayerNorm,
    Downsampling,
    MapMixer,
    Stem,
    VSSBlock,
    make_downsampling,
    make_stem,
)
from medmamba.plans.plan import Topology


def _stages(
    widths: Sequence[int], mixers: Sequence[Sequence[nn.Module | None]], mlp_ratio: float, drop_path: float
) -> nn.ModuleList:
    """Blocks of each stage around their mixers; the rate of stochastic depth rises through all of them."""
    rates = iter(drop_rates(drop_path, sum(len(stage) for stage in mixers)))
    return nn.ModuleList(
        nn.ModuleList(VSSBlock(width, mixer, mlp_ratio=mlp_ratio, drop_path=next(rates)) for mixer in stage)
        for width, stage in zip(widths, mixers, strict=True)
    )


def _run_stages(entries: nn.ModuleList, stages: nn.ModuleList, x: Tensor, *, checkpointing: bool) -> list[Tensor]:
    """Maps of all stages, channels last like the input."""
    maps = []
    for entry, blocks in zip(entries, stages, strict=True):
        x = entry(x)
        for block in cast(nn.ModuleList, blocks):
            x = run(block, x, checkpointing=checkpointing)
        maps.append(x)
    return maps


class VMamba(nn.Module):
    """Classifier and backbone of stages of falling resolution.

    The defaults are those of the authors' "tiny s1l8"; their first version ("vanilla") has states=16, ssm_ratio=2,
    mlp_ratio=0, gate, conv_bias, stem="plain", downsampling="merge", depths=(2, 2, 9, 2).

    Args:
        in_channels: channels of the image.
        classes: of the logits; 0: none, the network gives what they would be read from.
        dims: 2 or 3; scans along each axis, so six orders in 3D.
        widths: channels of each stage.
        depths: blocks of each stage.
        ssm_ratio: inner width of a block's scan over its width; 0: no scans.
        states: per channel and order.
        rank: of the step size; 0: a sixteenth of the width, rounded up.
        kernel: of a block's depthwise convolution, odd.
        mlp_ratio: hidden width of the MLPs; 0: none.
        gate: whether each block has a gate.
        conv_bias: whether its depthwise convolution has a bias.
        stem: "plain": patches of 4; "deep": two convolutions of stride 2.
        downsampling: between stages; "merge": linear, of norms of patches of 2; "patch": norm of a convolution of size
            2 and stride 2; "conv": the same of size 3.
        drop_path: rate of stochastic depth in the last block; rises linearly.
        checkpointing: compute blocks again in the backward pass rather than keep their activations.
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 1000,
        *,
        dims: int = 2,
        widths: Sequence[int] = (96, 192, 384, 768),
        depths: Sequence[int] = (2, 2, 8, 2),
        ssm_ratio: float = 1.0,
        states: int = 1,
        rank: int = 0,
        kernel: int = 3,
        mlp_ratio: float = 4.0,
        gate: bool = False,
        conv_bias: bool = False,
        stem: Stem = "deep",
        downsampling: Downsampling = "conv",
        drop_path: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if len(widths) != len(depths):
            raise ValueError(f"VMamba: widths {tuple(widths)} and depths {tuple(depths)} must be one for each stage")
        self.in_channels, self.dims, self.checkpointing = in_channels, dims, checkpointing
        steps = [(4,) * dims, *[(2,) * dims] * (len(widths) - 1)]
        self.pyramid = Pyramid(tuple(widths), accumulate(steps))
        downs = [make_downsampling(downsampling, fine, coarse, dims) for fine, coarse in pairwise(widths)]
        self.entries = nn.ModuleList([make_stem(stem, in_channels, widths[0], dims), *downs])
        scan = partial(
            SS2D, dims=dims, states=states, ratio=ssm_ratio, rank=rank, kernel=kernel, conv_bias=conv_bias, gate=gate
        )
        mixers = [
            [scan(width) if ssm_ratio else None for _ in range(depth)]
            for width, depth in zip(widths, depths, strict=True)
        ]
        self.stages = _stages(widths, mixers, mlp_ratio, drop_path)
        # What rounds down must not leave nothing.
        coarsest = 2 ** (len(widths) - 1) if downsampling == "patch" else 1
        self._least = 4 * coarsest - (0 if stem == "plain" else 3)
        self.norm = nn.LayerNorm(widths[-1])
        self.head = nn.Linear(widths[-1], classes) if classes else nn.Identity()
        draw_linear([self.head])

    def features(self, x: Tensor) -> list[Tensor]:
        """(B, C_in, *S) to the maps of all stages, finest first: (B, C, *S / stride) by `pyramid`.

        Sizes that the strides do not divide are rounded: up, but down by a plain stem and by downsampling of patches.

        Raises:
            ValueError: for another shape, or an image of which a stage would get nothing.
        """
        return [channels_first(y) for y in self._maps(x)]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, *S) to logits (B, classes); sizes as in `features`."""
        y = self.norm(self._maps(x)[-1]).flatten(1, -2).mean(1)
        return cast(Tensor, self.head(y))

    def _maps(self, x: Tensor) -> list[Tensor]:
        check_dims(x, self.in_channels, self.dims)
        if min(size := tuple(x.shape[2:])) < self._least:
            raise ValueError(f"input size {size} must be at least {self._least} along each axis; pad it")
        return _run_stages(self.entries, self.stages, channels_last(x), checkpointing=self.checkpointing)


@register("vmamba", source="Liu et al.: VMamba, 2024")
class VMambaUNet(SegmentationNetwork):
    """VMamba under a U-Net decoder: scans along each axis, both ways, below a stem of convolutions.

    Strides, kernels and widths are the topology's. The first levels stand where VMamba has its stem.

    Args:
        in_channels: channels of the image.
        out_channels: channels of the logits.
        topology: shape of the network; 2D or 3D.
        conv_levels: levels with plain convolutions; at least the first, at most all but the last.
        depth: blocks of each level below.
        ssm_ratio: as in `VMamba`, and so on to gate.
        mixer: what scans in a block; all but "cross" are without ssm_ratio, states, gate and the depthwise convolution;
            "none" leaves the MLPs only, which is the network to compare with.
        decoder: "unet" or "upernet".
        drop_path: rate of stochastic depth in the last block; rises linearly.
        checkpointing: compute blocks again in the backward pass rather than keep their activations.
        deep_supervision: return logits of all resolutions.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        topology: Topology,
        *,
        conv_levels: int = 2,
        depth: int = 2,
        ssm_ratio: float = 1.0,
        states: int = 1,
        mlp_ratio: float = 4.0,
        gate: bool = False,
        mixer: Mixer = "cross",
        decoder: str = "unet",
        drop_path: float = 0.0,
        checkpointing: bool = False,
        deep_supervision: bool = True,
    ) -> None:
        super().__init__(topology, checkpointing)
        check_mixer(mixer)
        features, kernels, strides = topology.features, topology.kernel_sizes, topology.strides
        check_least(1, conv_levels=conv_levels, depth=depth)
        first = min(conv_levels, len(features) - 1)
        self.pyramid = Pyramid(features, accumulate(strides))
        self.conv_stages = nn.ModuleList(
            plain_stage(source, width, kernel, stride)
            for source, width, kernel, stride in zip(
                (in_channels, *features), features[:first], kernels, strides, strict=False
            )
        )
        levels = range(first, len(features))
        self.entries = nn.ModuleList(
            ConvLayerNorm(conv(features[level - 1], features[level], kernels[level], strides[level]), features[level])
            for level in levels
        )

        def mix(level: int) -> nn.Module | None:
            width, dims = features[level], topology.dims
            if mixer == "cross":
                return SS2D(width, dims=dims, states=states, ratio=ssm_ratio, kernel=kernels[level], gate=gate)
            return None if mixer == "none" else MapMixer(mixer, width, dims)

        mixers = [[mix(level) for _ in range(depth)] for level in levels]
        self.stages = _stages(features[first:], mixers, mlp_ratio, drop_path)
        self.norms = nn.ModuleList(nn.LayerNorm(features[level]) for level in levels)
        self.decoder = make_decoder(
            decoder, out_channels, topology, deep_supervision=deep_supervision, checkpointing=checkpointing
        )
        for part in (self.conv_stages, self.decoder):
            part.apply(initialise)

    def encode(self, x: Tensor) -> list[Tensor]:
        """(B, C, *S) to the maps of all levels, finest first, by `pyramid`."""
        maps = cascade(self.conv_stages, x, checkpointing=self.checkpointing)
        scanned = _run_stages(self.entries, self.stages, channels_last(maps[-1]), checkpointing=self.checkpointing)
        return maps + [channels_first(norm(y)) for norm, y in zip(self.norms, scanned, strict=True)]
