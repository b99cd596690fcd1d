"""U-Mamba: a residual U-Net with Mamba blocks at the bottleneck or after every encoder stage.

Letters: B batch, C channels, S spatial axes, L tokens.

References:
    Ma, Li and Wang, "U-Mamba: Enhancing Long-range Dependency for Biomedical Image Segmentation", 2024. The wiring is
    that of the authors' code since March 2024, which differs from the paper's figure (no residual around the Mamba
    block, upsampling by interpolation).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from medmamba.networks._backbone import run
from medmamba.networks._blocks import (
    Counts,
    Upsample,
    block_counts,
    check_size,
    initialise,
    pointwise,
    residual_stage,
)
from medmamba.networks._convert import UpstreamError, check_known, check_only, load_upstream
from medmamba.networks._kinds import check_kinds
from medmamba.networks._mixers import Mixer, TokenMixer, check_mixer
from medmamba.networks._registry import register
from medmamba.networks._segmentation import SegmentationNetwork
from medmamba.networks.mamba import MambaBlock
from medmamba.plans.plan import Topology

Placement = Literal["bottleneck", "encoder"]

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
            given = self.norm(tokens)
            mixed = self.mamba(given) if isinstance(self.mamba, MambaBlock) else self.mamba(given, grid)
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
        layers = [_layer_at(stage, topology, mixer) if has_layers else None for stage in range(len(blocks))]
        self.mamba_layers = nn.ModuleList(layer if layer is not None else nn.Identity() for layer in layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C_in, *S) to the feature maps of all stages, finest first."""
        x = run(self.stem, x, checkpointing=self.checkpointing)
        maps = []
        for stage, layer in zip(self.stages, self.mamba_layers, strict=True):
            x = run(layer, run(stage, x, checkpointing=self.checkpointing), checkpointing=self.checkpointing)
            maps.append(x)
        return maps


class Decoder(nn.Module):
    """Upsample, join with the encoder's map, refine; logits at every resolution.

    Args:
        out_channels: of the logits.
        topology: of the encoder.
        blocks: residual blocks per stage, coarsest first.
        deep_supervision: return logits of all resolutions; may be set at any time.
        checkpointing: see `UMamba`.
    """

    def __init__(
        self,
        out_channels: int,
        topology: Topology,
        blocks: Sequence[int],
        *,
        deep_supervision: bool,
        checkpointing: bool,
    ) -> None:
        super().__init__()
        self.deep_supervision, self.checkpointing = deep_supervision, checkpointing
        dims, features = topology.dims, topology.features
        upsample, stages, heads = [], [], []
        # The authors' 2D networks have no skip connection at full resolution.
        self.joins_finest = dims == 3
        for count, stage in zip(blocks, reversed(range(len(features) - 1)), strict=True):
            width = features[stage]
            joined = width if stage == 0 and not self.joins_finest else 2 * width
            upsample.append(Upsample(features[stage + 1], width, topology.strides[stage + 1]))
            stages.append(residual_stage(joined, width, topology.kernel_sizes[stage], None, count))
            heads.append(pointwise(width, out_channels, dims))
        self.upsample_layers = nn.ModuleList(upsample)
        self.stages = nn.ModuleList(stages)
        self.seg_layers = nn.ModuleList(heads)

    def forward(self, maps: list[Tensor]) -> Tensor | list[Tensor]:
        """Maps of all stages, finest first, to logits (B, K, *S), or a list of them, finest first."""
        x = maps[-1]
        logits = []
        last = len(self.stages) - 1
        for index, (up, stage, head) in enumerate(zip(self.upsample_layers, self.stages, self.seg_layers, strict=True)):
            x = up(x)
            if index < last or self.joins_finest:
                x = torch.cat([x, maps[-2 - index].to(x.dtype)], dim=1)
            x = run(stage, x, checkpointing=self.checkpointing)
            if self.deep_supervision or index == last:
                logits.append(head(x))
        return logits[::-1] if self.deep_supervision else logits[-1]


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
        ValueError: if there is no such mixer, or there are not as many numbers of blocks as stages.
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
        super().__init__()
        self.checkpointing = checkpointing
        check_mixer(mixer)
        stages = len(topology.features)
        encoder = block_counts("blocks", blocks, shallower((BLOCKS,) * stages, stages))
        decoder = block_counts("decoder_blocks", decoder_blocks, shallower((BLOCKS,) * (stages - 1), stages))
        self.encoder = Encoder(in_channels, topology, encoder, placement, mixer, checkpointing=checkpointing)
        has_layer = placement == "bottleneck" and mixer != "none"
        layer = MambaLayer(topology.features[-1], topology.dims, mixer=mixer) if has_layer else nn.Identity()
        self.mamba_layer = layer
        self.decoder = Decoder(
            out_channels, topology, decoder, deep_supervision=deep_supervision, checkpointing=checkpointing
        )
        self._total_stride = topology.total_stride
        tied = any(getattr(layer, "channel_tokens", False) for layer in self.encoder.mamba_layers)
        self._only_size = topology.patch_size if tied else None
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """(B, C, *S) to logits (B, K, *S), or a list of them, finest first.

        Raises:
            ValueError: if the size cannot be divided by the strides, or the network is tied to another.
        """
        size = tuple(x.shape[2:])
        if self._only_size is not None and size != self._only_size:
            raise ValueError(
                f"this network was built for patches of {self._only_size} voxels and cannot take {size}: its coarse "
                "Mamba layers take channels as tokens; use sliding windows of that size, or plan again"
            )
        check_size(x, self._total_stride)
        maps = self.encoder(x)
        maps[-1] = run(self.mamba_layer, maps[-1], checkpointing=self.checkpointing)
        return cast("Tensor | list[Tensor]", self.decoder(maps))


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


def _layer_at(stage: int, topology: Topology, mixer: Mixer) -> MambaLayer | None:
    """U-Mamba Enc's Mamba layer after a stage, None where it has none."""
    stages = len(topology.features)
    if topology.dims == 2 and stage % 2 == stages % 2:
        return None  # in 2D only the last stage and every second one before it
    strides = [math.prod(row[axis] for row in topology.strides[: stage + 1]) for axis in range(topology.dims)]
    voxels = math.prod(size // stride for size, stride in zip(topology.patch_size, strides, strict=True))
    if voxels <= topology.features[stage]:
        return MambaLayer(voxels, topology.dims, channel_tokens=True, mixer=mixer)
    return MambaLayer(topology.features[stage], topology.dims, mixer=mixer)


SOURCE = "Ma, Li, Wang: U-Mamba, 2024"


@register("umamba_bot", source=SOURCE)
def umamba_bot(
    in_channels: int,
    out_channels: int,
    topology: Topology,
    *,
    blocks: Counts = (),
    decoder_blocks: Counts = (),
    mixer: Mixer = "mamba",
    checkpointing: bool = False,
) -> UMamba:
    """Residual U-Net with a Mamba layer at the bottleneck."""
    return UMamba(
        in_channels,
        out_channels,
        topology,
        placement="bottleneck",
        blocks=blocks,
        decoder_blocks=decoder_blocks,
        mixer=mixer,
        checkpointing=checkpointing,
    )


@register("umamba_enc", source=SOURCE)
def umamba_enc(
    in_channels: int,
    out_channels: int,
    topology: Topology,
    *,
    blocks: Counts = (),
    decoder_blocks: Counts = (),
    mixer: Mixer = "mamba",
    checkpointing: bool = False,
) -> UMamba:
    """Residual U-Net with Mamba layers in the encoder; tied to its patch size."""
    return UMamba(
        in_channels,
        out_channels,
        topology,
        placement="encoder",
        blocks=blocks,
        decoder_blocks=decoder_blocks,
        mixer=mixer,
        checkpointing=checkpointing,
    )


#: Arguments of the authors' constructors beside those that every configuration has. Numbers of blocks are those of
#: nnU-Net's plan, one for all stages or a list, by its names or by ours.
TAKES = ("deep_supervision", "n_blocks_per_stage", "n_conv_per_stage_encoder", "n_conv_per_stage_decoder", "ne", "nd")
_ENCODER_BLOCKS = ("n_blocks_per_stage", "n_conv_per_stage", "n_conv_per_stage_encoder", "ne")
_DECODER_BLOCKS = ("n_conv_per_stage_decoder", "nd")
#: What must be as the authors' functions have it.
_ONLY: dict[str, Any] = {
    "conv_bias": True,
    "norm": "InstanceNorm eps 1e-5 affine",
    "nonlin": "LeakyReLU 0.01",
    "dropout_op": None,
    "stem_channels": None,
}
#: Where ``features_per_stage`` comes from: that of the first stage, and the most.
_FEATURES = ("base", "mx")


def convert_bot(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> nn.Module:
    """The authors' U-Mamba Bot, 2D or 3D, as a `UMamba`.

    Args:
        config: what their code takes from plan and data set: ``patch``, ``strides``, ``kernels``,
            ``features_per_stage``, ``in_ch``, ``ncls``, ``deep_supervision``, and the numbers of blocks of each stage,
            which their code cuts to one in the coarser half. The weights tell how many blocks were built; numbers that
            are neither these nor come to these are refused.
        state_dict: its tensors; an nnU-Net checkpoint's entry ``network_weights``.

    Raises:
        UpstreamError: for weights of the first version of U-Mamba, or of another network; for an argument that is not
            known here.
    """
    return _converted(config, state_dict, "bottleneck")


def convert_enc(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> nn.Module:
    """The authors' U-Mamba Enc, 2D or 3D, as a `UMamba`; see `convert_bot`."""
    return _converted(config, state_dict, "encoder")


def _converted(config: Mapping[str, Any], state_dict: Mapping[str, Tensor], placement: Placement) -> nn.Module:
    if _is_first_version(state_dict):
        raise UpstreamError(
            "these are weights of U-Mamba's first version (January 2024), another network: plain stem, transposed "
            "convolutions, no channel tokens. Weights trained with the code since March 2024 can be loaded"
        )
    needed = ("patch", "strides", "kernels", "features_per_stage", "in_ch", "ncls", "deep_supervision")
    check_known("U-Mamba", config, (*needed, *_ENCODER_BLOCKS, *_DECODER_BLOCKS, *_FEATURES, *_ONLY))
    check_only("U-Mamba", config, _ONLY)
    features = tuple(config["features_per_stage"])
    _check_features(config, features)
    topology = Topology(
        patch_size=tuple(config["patch"]),
        strides=tuple(tuple(row) for row in config["strides"]),
        kernel_sizes=tuple(tuple(row) for row in config["kernels"]),
        features=features,
    )
    stages = len(features)
    network = UMamba(
        config["in_ch"],
        config["ncls"],
        topology,
        placement=placement,
        blocks=_counts(config, _ENCODER_BLOCKS, state_dict, "encoder.stages", stages, stages),
        decoder_blocks=_counts(config, _DECODER_BLOCKS, state_dict, "decoder.stages", stages - 1, stages),
        deep_supervision=config.get("deep_supervision", True),
    )
    # The published decoder holds the encoder, and each block's layers a second time in a list.
    aliases = ("decoder.encoder.", "all_modules.")
    return load_upstream(network, {k: v for k, v in state_dict.items() if not any(alias in k for alias in aliases)})


def _check_features(config: Mapping[str, Any], features: Sequence[int]) -> None:
    """Refuse widths that contradict what they are made of."""
    check_kinds("U-Mamba", {name: config[name] for name in _FEATURES if name in config})
    first, most = config.get("base", features[0]), config.get("mx", max(features))
    made = [min(first * 2**stage, most) for stage in range(len(features))]
    if any(name in config for name in _FEATURES) and made != list(features):
        raise UpstreamError(f"base={first} and mx={most} make features {made}, but features_per_stage={list(features)}")


def _counts(
    config: Mapping[str, Any],
    names: Sequence[str],
    state_dict: Mapping[str, Tensor],
    where: str,
    count: int,
    stages: int,
) -> tuple[int, ...]:
    """Blocks of each stage: as the weights have them, which must be what the configuration says."""
    given = next((config[name] for name in names if name in config), BLOCKS)
    asked = (given,) * count if isinstance(given, int) else tuple(given)
    if len(asked) != count:
        raise UpstreamError(f"{names[0]} must be one number or {count}, one for each stage, got {list(asked)}")
    numbers = (re.match(rf"{re.escape(where)}\.(\d+)\.(\d+)\.", key) for key in state_dict)
    built = Counter(stage for stage, _ in {(int(n[1]), int(n[2])) for n in numbers if n})
    found = tuple(built[stage] for stage in range(count))
    cut = shallower(asked, stages)
    if found not in (asked, cut) and min(found) > 0 and any(name in config for name in names):
        raise UpstreamError(f"{names[0]}={list(asked)} builds {list(cut)} blocks, but the weights are of {list(found)}")
    return found if min(found) > 0 else cut  # weights that lack a stage are named where they are loaded


def _is_first_version(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether these are weights of U-Mamba as it was before March 2024."""
    bottleneck = any(key.startswith(("ln.", "mamba.")) for key in state_dict)
    encoder = any(key.startswith("decoder.transpconvs.") for key in state_dict) and any(
        ".mamba." in key for key in state_dict
    )
    return bottleneck or encoder
