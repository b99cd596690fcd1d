"""U-Mamba: a residual U-Net with Mamba blocks at the bottleneck or after every encoder stage.

Letters: B batch, C channels, S spatial axes, L tokens.

References:
    Ma, Li and Wang, "U-Mamba: Enhancing Long-range Dependency for Biomedical Image Segmentation", 2024. The wiring is
    that of the authors' code since March 2024, which differs from the paper's figure (no residual around the Mamba
    block, upsampling by interpolation).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from medmamba.errors import DataError
from medmamba.networks._backbone import accumulate, run
from medmamba.networks._blocks import Counts, Upsample, block_counts, initialise, residual_stage
from medmamba.networks._decoders import SkipDecoder
from medmamba.networks._mixers import Mixer, TokenMixer, check_mixer
from medmamba.networks._registry import register
from medmamba.networks._segmentation import SegmentationNetwork
from medmamba.networks.mamba import MambaBlock
from medmamba.plans.plan import Topology

Placement = Literal["bottleneck", "encoder"]

SOURCE = "Ma, Li, Wang: U-Mamba, 2024"
#: Residual blocks of a stage in nnU-Net's plans for the authors' networks.
BLOCKS = 2


class MambaLayer(nn.Module):
    """LayerNorm and a Mamba block, or another mixer, over the voxels of a feature map; no residual.

    Computes in the precision of its weights whatever the autocast: scans of U-Mamba reach magnitudes that 16 bits
    cannot hold.

    Args:
        width: of a token: the channels, or the voxels of the feature map when channels are the tokens.
        dims: of the feature map.
        channel_tokens: the sequence runs over channels instead of voxels; ties the layer to one map size.
        mixer: what mixes the tokens.
    """

    def __init__(self, width: int, dims: int, *, channel_tokens: bool = False, mixer: Mixer = "mamba") -> None:
        super().__init__()
        self.channel_tokens = channel_tokens
        self.norm = nn.LayerNorm(width)
        # The published block by itself, so that weights have the published names.
        self.mamba = MambaBlock(width) if mixer == "mamba" else TokenMixer(mixer, width, 1 if channel_tokens else dims)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) to (B, C, *S), float32 as a rule: see the class."""
        with torch.autocast(x.device.type, enabled=False):
            flat = x.to(self.norm.weight.dtype).flatten(2)
            tokens = flat if self.channel_tokens else flat.transpose(1, 2)
            grid = (tokens.shape[1],) if self.channel_tokens else x.shape[2:]
            mixed = self.mamba(self.norm(tokens), grid)
            return cast(Tensor, (mixed if self.channel_tokens else mixed.transpose(1, 2)).reshape(x.shape))


class Encoder(nn.Module):
    """Residual stages of falling resolution, each followed by a Mamba layer where there is one."""

    def __init__(
        self,
        in_channels: int,
        topology: Topology,
        blocks: Sequence[int],
        placement: Placement,
        mixer: Mixer,
        *,
        checkpointing: bool,
    ) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        features, kernels = topology.features, topology.kernel_sizes
        self.stem = residual_stage(in_channels, features[0], kernels[0], None, blocks[0])
        self.stages = nn.ModuleList(
            residual_stage(features[max(stage - 1, 0)], features[stage], kernels[stage], topology.strides[stage], count)
            for stage, count in enumerate(blocks)
        )
        has_layers = placement == "encoder" and mixer != "none"
        self.mamba_layers = nn.ModuleList(
            _layer_at(stage, topology, mixer) if has_layers else nn.Identity() for stage in range(len(blocks))
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C_in, *S) to the feature maps of all stages, finest first."""
        x = run(self.stem, x, checkpointing=self.checkpointing)
        maps = []
        for stage, layer in zip(self.stages, self.mamba_layers, strict=True):
            x = run(layer, run(stage, x, checkpointing=self.checkpointing), checkpointing=self.checkpointing)
            maps.append(x)
        return maps


@register(
    "umamba_bot", source=SOURCE, summary="Residual U-Net with a Mamba layer at the bottleneck.", placement="bottleneck"
)
@register(
    "umamba_enc",
    source=SOURCE,
    summary="Residual U-Net with Mamba layers in the encoder; tied to its patch size.",
    placement="encoder",
)
class UMamba(SegmentationNetwork):
    """A residual U-Net with Mamba layers.

    Args:
        in_channels: channels of the image.
        out_channels: channels of the logits.
        topology: shape of the network; 2D or 3D. With ``placement="encoder"`` coarse stages take channels as tokens,
            which ties the network to the topology's patch size.
        placement: one Mamba layer at the bottleneck (U-Mamba Bot), or one after each encoder stage (U-Mamba Enc; every
            second one in 2D).
        blocks: residual blocks of the encoder's stages: one number, or a list, finest first; the stem has as many as
            the first one. Empty: the authors', two each and one each in the coarser half.
        decoder_blocks: the same of the decoder's stages, coarsest first.
        mixer: what mixes voxels in the Mamba layers; "none" leaves these out, which is the network to compare with.
        checkpointing: compute stages and Mamba layers a second time in the backward pass instead of keeping their
            insides.
        deep_supervision: return logits of all resolutions.

    Raises:
        UsageError: if there is no such mixer, or there are not as many numbers of blocks as stages.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        topology: Topology,
        *,
        placement: Placement,
        blocks: Counts = (),
        decoder_blocks: Counts = (),
        mixer: Mixer = "mamba",
        checkpointing: bool = False,
        deep_supervision: bool = True,
    ) -> None:
        super().__init__(topology, checkpointing)
        check_mixer(mixer)
        stages = len(topology.features)
        encoder = block_counts("blocks", blocks, shallower((BLOCKS,) * stages, stages))
        decoder = block_counts("decoder_blocks", decoder_blocks, shallower((BLOCKS,) * (stages - 1), stages))
        self.encoder = Encoder(in_channels, topology, encoder, placement, mixer, checkpointing=checkpointing)
        has_layer = placement == "bottleneck" and mixer != "none"
        layer = MambaLayer(topology.features[-1], topology.dims, mixer=mixer) if has_layer else nn.Identity()
        self.mamba_layer = layer
        self.decoder = SkipDecoder(
            out_channels,
            topology,
            Upsample,
            residual_stage,
            decoder,
            joins_finest=topology.dims == 3,  # the authors' 2D networks have no skip connection at full resolution
            deep_supervision=deep_supervision,
            checkpointing=checkpointing,
        )
        tied = any(getattr(layer, "channel_tokens", False) for layer in self.encoder.mamba_layers)
        self._only_size = topology.patch_size if tied else None
        self.apply(initialise)

    def features(self, x: Tensor) -> list[Tensor]:
        """(B, C, *S) to the maps of all levels, finest first.

        Raises:
            DataError: if the strides do not divide the size, or the network is tied to another.
        """
        size = tuple(x.shape[2:])
        if self._only_size is not None and size != self._only_size:
            raise DataError(
                f"this network was built for patches of {self._only_size} voxels and cannot take {size}: its coarse "
                "Mamba layers take channels as tokens; use sliding windows of that size, or plan again"
            )
        return super().features(x)

    def encode(self, x: Tensor) -> list[Tensor]:
        """(B, C, *S) to the maps of all levels, finest first."""
        *maps, coarsest = self.encoder(x)
        return [*maps, run(self.mamba_layer, coarsest, checkpointing=self.checkpointing)]


def shallower(counts: Sequence[int], stages: int) -> tuple[int, ...]:
    """Numbers of blocks as the authors' code builds them from those of the plan: one each in the coarser half.

    Args:
        counts: of each stage of the encoder, or of the decoder, which has one less.
        stages: of the encoder.
    """
    kept = math.ceil(stages / 2) if len(counts) == stages else math.ceil((stages - 1) / 2 + 0.5)
    return tuple(count if stage < kept else 1 for stage, count in enumerate(counts))


def block_options(network: UMamba) -> dict[str, list[int]]:
    """The options that numbers of blocks other than the authors' need when the network is made again."""
    encoder = [len(cast(nn.Sequential, stage)) for stage in network.encoder.stages]
    decoder = [len(cast(nn.Sequential, stage)) for stage in network.decoder.get_submodule("stages").children()]
    found = {"blocks": encoder, "decoder_blocks": decoder}
    return {
        name: counts
        for name, counts in found.items()
        if tuple(counts) != shallower((BLOCKS,) * len(counts), len(encoder))
    }


def _layer_at(stage: int, topology: Topology, mixer: Mixer) -> nn.Module:
    """U-Mamba Enc's Mamba layer after a stage, which in 2D not all have."""
    stages = len(topology.features)
    if topology.dims == 2 and stage % 2 == stages % 2:
        return nn.Identity()  # in 2D only the last stage and every second one before it
    strides = accumulate(topology.strides)[stage]
    voxels = math.prod(size // stride for size, stride in zip(topology.patch_size, strides, strict=True))
    if voxels <= topology.features[stage]:
        return MambaLayer(voxels, topology.dims, channel_tokens=True, mixer=mixer)
    return MambaLayer(topology.features[stage], topology.dims, mixer=mixer)
