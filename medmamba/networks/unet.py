"""The U-Net that every claim is held against: nnU-Net's, plain or with a residual encoder.

Letters: B batch, C channels, S spatial axes.

References:
    Isensee et al., "nnU-Net", Nature Methods 18 (2021); Isensee et al., "nnU-Net Revisited", MICCAI 2024, for the
    residual encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from medmamba.networks._backbone import run
from medmamba.networks._blocks import (
    ConvNorm,
    Counts,
    activation,
    block_counts,
    check_size,
    initialise,
    pointwise,
    residual_stage,
    transposed_conv,
)
from medmamba.networks._registry import register
from medmamba.networks._segmentation import SegmentationNetwork
from medmamba.plans.plan import Topology

#: Convolutions per stage of the plain encoder and of the decoder.
CONVS = 2
#: Residual blocks per encoder stage; deeper stages have the last number.
RESIDUAL_BLOCKS = (1, 3, 4, 6)


def plain_stage(
    in_channels: int,
    out_channels: int,
    kernel: Sequence[int],
    stride: Sequence[int] | None = None,
    convs: int = CONVS,
) -> nn.Sequential:
    """So many times convolution, norm, activation; the first convolution strides."""
    layers: list[nn.Module] = []
    for index in range(convs):
        source, step = (in_channels, stride) if index == 0 else (out_channels, None)
        layers += [ConvNorm(source, out_channels, kernel, step), activation()]
    return nn.Sequential(*layers)


class UNetDecoder(nn.Module):
    """Transposed convolution, join with the encoder's map, convolutions; logits at every resolution.

    Args:
        out_channels: of the logits.
        topology: of the encoder.
        convs: convolutions of each stage, coarsest first, see `Counts`; empty: two each.
        deep_supervision: return logits of all resolutions; may be set at any time.
        checkpointing: see `UNet`.
    """

    def __init__(
        self,
        out_channels: int,
        topology: Topology,
        *,
        convs: Counts = (),
        deep_supervision: bool,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.deep_supervision, self.checkpointing = deep_supervision, checkpointing
        features = topology.features
        coarse_to_fine = list(reversed(range(len(features) - 1)))
        self.upsample_layers = nn.ModuleList(
            transposed_conv(features[stage + 1], features[stage], topology.strides[stage + 1])
            for stage in coarse_to_fine
        )
        counts = block_counts("decoder_blocks", convs, (CONVS,) * len(coarse_to_fine))
        self.stages = nn.ModuleList(
            plain_stage(2 * features[stage], features[stage], topology.kernel_sizes[stage], convs=count)
            for stage, count in zip(coarse_to_fine, counts, strict=True)
        )
        self.seg_layers = nn.ModuleList(
            pointwise(features[stage], out_channels, topology.dims) for stage in coarse_to_fine
        )

    def forward(self, maps: list[Tensor]) -> Tensor | list[Tensor]:
        """Maps of all stages, finest first, to logits (B, K, *S), or a list of them, finest first."""
        x = maps[-1]
        logits = []
        last = len(self.stages) - 1
        for index, (up, stage, head) in enumerate(zip(self.upsample_layers, self.stages, self.seg_layers, strict=True)):
            x = run(stage, torch.cat([up(x), maps[-2 - index]], dim=1), checkpointing=self.checkpointing)
            if self.deep_supervision or index == last:
                logits.append(head(x))
        return logits[::-1] if self.deep_supervision else logits[-1]


class UNet(SegmentationNetwork):
    """nnU-Net's U-Net.

    Args:
        in_channels: channels of the image.
        out_channels: channels of the logits.
        topology: shape of the network; 2D or 3D, any input that the strides divide.
        residual: residual blocks in the encoder, more of them in deeper stages.
        blocks: convolutions, or residual blocks, of the encoder's stages: one number, or a list, finest first; empty:
            nnU-Net's, two convolutions each, or 1, 3, 4, 6, 6, ... blocks.
        decoder_blocks: convolutions of the decoder's stages: one number, or a list, coarsest first; empty: two each.
        checkpointing: compute stages a second time in the backward pass instead of keeping their insides.
        deep_supervision: return logits of all resolutions.

    Raises:
        ValueError: if there are not as many numbers of blocks as stages.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        topology: Topology,
        *,
        residual: bool = False,
        blocks: Counts = (),
        decoder_blocks: Counts = (),
        checkpointing: bool = False,
        deep_supervision: bool = True,
    ) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        features, kernels, strides = topology.features, topology.kernel_sizes, topology.strides
        self.stem = residual_stage(in_channels, features[0], kernels[0], None, 1) if residual else nn.Identity()
        widths = [features[0] if residual else in_channels, *features]
        self.stages = nn.ModuleList()
        make, usual = (residual_stage, RESIDUAL_BLOCKS) if residual else (plain_stage, (CONVS,))
        counts = block_counts("blocks", blocks, [usual[min(stage, len(usual) - 1)] for stage in range(len(features))])
        for stage, (width, count) in enumerate(zip(features, counts, strict=True)):
            self.stages.append(make(widths[stage], width, kernels[stage], strides[stage], count))
        self.decoder = UNetDecoder(
            out_channels,
            topology,
            convs=decoder_blocks,
            deep_supervision=deep_supervision,
            checkpointing=checkpointing,
        )
        self._total_stride = topology.total_stride
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """(B, C, *S) to logits (B, K, *S), or a list of them, finest first.

        Raises:
            ValueError: if the size cannot be divided by the strides.
        """
        check_size(x, self._total_stride)
        x = run(self.stem, x, checkpointing=self.checkpointing)
        maps = []
        for stage in self.stages:
            x = run(stage, x, checkpointing=self.checkpointing)
            maps.append(x)
        return cast("Tensor | list[Tensor]", self.decoder(maps))


@register("unet", source="Isensee et al.: nnU-Net, 2021")
def unet(
    in_channels: int,
    out_channels: int,
    topology: Topology,
    *,
    residual: bool = False,
    blocks: Counts = (),
    decoder_blocks: Counts = (),
    checkpointing: bool = False,
) -> UNet:
    """nnU-Net's U-Net, the baseline; option residual for its residual encoder."""
    return UNet(
        in_channels,
        out_channels,
        topology,
        residual=residual,
        blocks=blocks,
        decoder_blocks=decoder_blocks,
        checkpointing=checkpointing,
    )
