"""The U-Net that every claim is held against: nnU-Net's, plain or with a residual encoder.

Letters: B batch, C channels, S spatial axes.

References:
    Isensee et al., "nnU-Net", Nature Methods 18 (2021); Isensee et al., "nnU-Net Revisited", MICCAI 2024, for the
    residual encoder.
"""

from __future__ import annotations

from torch import Tensor, nn

from medmamba.networks._backbone import cascade, run
from medmamba.networks._blocks import CONVS, Counts, block_counts, initialise, plain_stage, residual_stage
from medmamba.networks._decoders import UNetDecoder
from medmamba.networks._registry import register
from medmamba.networks._segmentation import SegmentationNetwork
from medmamba.plans.plan import Topology

#: Residual blocks per encoder stage; deeper stages have the last number.
RESIDUAL_BLOCKS = (1, 3, 4, 6)


@register("unet", source="Isensee et al.: nnU-Net, 2021")
class UNet(SegmentationNetwork):
    """nnU-Net's U-Net, the baseline; option residual for its residual encoder.

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
        UsageError: if there are not as many numbers of blocks as stages.
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
        super().__init__(topology, checkpointing)
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
        self.apply(initialise)

    def encode(self, x: Tensor) -> list[Tensor]:
        """(B, C, *S) to the maps of all stages, finest first."""
        x = run(self.stem, x, checkpointing=self.checkpointing)
        return cascade(self.stages, x, checkpointing=self.checkpointing)
