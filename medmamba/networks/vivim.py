"""Vivim: segmentation of video with SegFormer's pyramid and Mamba layers over the clip after each of its stages.

Letters: B batch, T frames, C channels, H and W rows and columns, h and w those of a feature map, K classes.

References:
    Yang et al., "Vivim: a Video Vision Mamba for Medical Video Segmentation", 2024. The wiring is that of the authors'
    code; their constructor downloads a SegFormer, here `load_segformer` takes its weights.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from medmamba.kernels import BACKWARD, FORWARD, ScanOrder, interleaved
from medmamba.networks import _segformer as segformer
from medmamba.networks._backbone import accumulate, channels_first, draw_linear, drop_rates, run
from medmamba.networks._blocks import check_size, pointwise
from medmamba.networks._convert import (
    UpstreamError,
    check_known,
    check_only,
    grid_mamba,
    load_upstream,
    mixer_options,
    without_prefix,
)
from medmamba.networks._mixers import Mixer, TokenMixer, check_mixer
from medmamba.networks._registry import register
from medmamba.networks._ssm import GridMamba, StepStart
from medmamba.plans.plan import Topology

#: Standard deviation of the Mamba layers' linear weights.
LINEAR_STD = 0.02
#: Channels of an attention head, where the number of heads is not given.
HEAD_WIDTH = 64
#: What the authors' code appends to the names of each order's parameters.
SUFFIXES = ("", "_b", "_s")


class MambaLayer(nn.Module):
    """Mix a clip: a Mamba block in three orders and a feed-forward part, each beside a residual.

    The orders: forwards and backwards frame by frame, and the same pixel of all frames, then the next pixel. The Mamba
    block computes in the precision of its weights whatever the autocast.

    Args:
        width: C.
        states: per channel of the Mamba block.
        taps: of its convolutions.
        expand: its inner width over C.
        expansion: width inside the feed-forward part over C.
        pieces: in how many pieces the third order cuts the tokens; 0: as many as the clip has frames, which makes it
            the order through time.
        step_start: how the step sizes of the three orders begin.
        mixer: what mixes the clip's tokens; "tri" are the three orders, "none" leaves the feed-forward part only.
    """

    def __init__(
        self,
        width: int,
        *,
        states: int = 16,
        taps: int = 4,
        expand: float = 2,
        expansion: float = segformer.EXPANSION,
        pieces: int = 0,
        step_start: StepStart = "mamba",
        mixer: Mixer = "tri",
    ) -> None:
        super().__init__()
        orders = interleaved(pieces) if pieces else (FORWARD, BACKWARD, ScanOrder(axes=(1, 2, 0)))
        self.mamba: nn.Module | None = None
        if mixer != "none":
            self.norm1 = nn.LayerNorm(width)
        # The published block by itself, so that weights have the published names.
        if mixer == "tri":
            self.mamba = GridMamba(width, orders, states=states, taps=taps, expand=expand, mean=True, starts=step_start)
        elif mixer != "none":
            self.mamba = TokenMixer(mixer, width, 3)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = segformer.ConvFeedForward(width, 3, expansion)
        draw_linear(self.modules(), LINEAR_STD)
        if isinstance(self.mamba, GridMamba):
            nn.init.trunc_normal_(self.mamba.x_proj, std=LINEAR_STD)
            if step_start == "zero":
                nn.init.trunc_normal_(self.mamba.step_weight, std=LINEAR_STD)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, h, w, C) to (B, T, h, w, C)."""
        if self.mamba is not None:
            with torch.autocast(x.device.type, enabled=False):
                x = x.to(self.norm1.weight.dtype)
                mixed = self.mamba(self.norm1(x).flatten(1, 3), x.shape[1:4])
                x = x + cast(Tensor, mixed).view(x.shape)
        return x + cast(Tensor, self.mlp(self.norm2(x)))


class Stage(nn.Module):
    """Patches of each frame, transformer blocks on each frame, Mamba layers over the clip."""

    def __init__(
        self,
        embed: segformer.PatchEmbedding,
        blocks: Sequence[nn.Module],
        layers: Sequence[nn.Module],
        *,
        checkpointing: bool,
    ) -> None:
        super().__init__()
        self.embed, self.checkpointing = embed, checkpointing
        self.blocks, self.mamba_layers = nn.ModuleList(blocks), nn.ModuleList(layers)

    def forward(self, frames: Tensor, clips: int) -> Tensor:
        """Frames of all clips (B T, C_in, H, W) to a map (B T, h, w, C) of each."""
        x = self.embed(frames)
        for block in self.blocks:
            x = run(block, x, checkpointing=self.checkpointing)
        x = x.unflatten(0, (clips, -1))
        for layer in self.mamba_layers:
            x = run(layer, x, checkpointing=self.checkpointing)
        return cast(Tensor, x.flatten(0, 1))


@register("vivim", task="video", dims=(2,), source="Yang et al.: Vivim, 2024")
class Vivim(nn.Module):
    """SegFormer whose stages end in Mamba layers that scan the clip forwards, backwards and through time.

    Args:
        in_channels: channels of a frame.
        out_channels: channels of the logits.
        topology: shape of the pyramid, 2D; any frame that the strides divide, any number of frames. Kernel sizes and
            strides are those of the patches at the entry of each stage; see `published_topology`.
        depths: transformer blocks of each stage.
        heads: attention heads of each stage; empty: one for every 64 channels.
        reductions: pixels per axis that keys and values are read from as one, in each stage; empty: so many that all
            stages read them at the last one's resolution.
        decoder_width: channels of the decoder.
        mamba_layers: after each stage.
        pieces: in how many pieces the third order of a Mamba layer cuts the clip's tokens, see `MambaLayer`; 0: as many
            as the clip has frames.
        drop_path: rate of stochastic depth in the last transformer block; rises linearly.
        dropout: rate before the logits.
        edge_head: whether to return logits of edges too, from the finest map.
        step_start: how the step sizes of the scans begin: "mamba", or "zero" as in the authors' code, a memory of one
            or two tokens with which it learns less from afar.
        mixer: what mixes the clip in the Mamba layers; "none" leaves their feed-forward parts only, which is the
            network to compare with.
        any_size: take also frames that the strides do not divide, as the authors' code does: outermost patches reach
            over the edge, and logits lie a little beside their pixels.
        checkpointing: compute blocks a second time in the backward pass instead of keeping their insides.

    Raises:
        ValueError: if depths, heads or reductions do not fit the topology.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        topology: Topology,
        *,
        depths: Sequence[int] = (3, 4, 18, 3),
        heads: Sequence[int] = (),
        reductions: Sequence[int] = (),
        decoder_width: int = 768,
        mamba_layers: int = 2,
        pieces: int = 0,
        drop_path: float = 0.1,
        dropout: float = 0.1,
        edge_head: bool = False,
        step_start: StepStart = "mamba",
        mixer: Mixer = "tri",
        any_size: bool = False,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        check_mixer(mixer)
        widths, strides = topology.features, topology.strides
        for name, given in (("depths", depths), ("heads", heads), ("reductions", reductions)):
            is_row = isinstance(given, Sequence) and not isinstance(given, str)
            if not is_row or ((given or name == "depths") and (len(given) != len(widths) or min(given) < 1)):
                raise ValueError(
                    f"{name} must be positive numbers, one for each of the {len(widths)} stages of the topology, but "
                    f"are {tuple(given) if is_row else repr(given)}"
                )
        heads = heads or [max(1, width // HEAD_WIDTH) for width in widths]
        total = topology.total_stride
        coarser: Sequence[tuple[int, ...]] = [(factor, factor) for factor in reductions] or [
            tuple(whole // so_far for whole, so_far in zip(total, level, strict=True)) for level in accumulate(strides)
        ]
        rates = iter(drop_rates(drop_path, sum(depths)))
        self.stages = nn.ModuleList()
        for stage, (before, width) in enumerate(zip((in_channels, *widths), widths, strict=False)):
            embed = segformer.PatchEmbedding(before, width, topology.kernel_sizes[stage], strides[stage])
            blocks = [segformer.Block(width, heads[stage], coarser[stage], next(rates)) for _ in range(depths[stage])]
            for module in (embed, *blocks):
                segformer.initialise(module)
            layers = [MambaLayer(width, pieces=pieces, step_start=step_start, mixer=mixer) for _ in range(mamba_layers)]
            self.stages.append(Stage(embed, blocks, layers, checkpointing=checkpointing))
        self.decoder = segformer.Decoder(widths, decoder_width, out_channels, dropout)
        segformer.initialise(self.decoder)
        self.edge_head = pointwise(widths[0], 1, 2) if edge_head else None
        self._in_channels, self._total_stride, self._any_size = in_channels, topology.total_stride, any_size

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Clips (B, T, C, H, W) to logits (B, T, K, H, W), with an edge head also those of edges (B, T, 1, H, W).

        Raises:
            ValueError: if that is not the shape, or the strides do not divide height and width as they must.
        """
        if x.dim() != 5 or x.shape[2] != self._in_channels or not x.shape[1]:
            raise ValueError(
                f"clips must be (batch, frames, {self._in_channels} channels, height, width) with a frame at least, "
                f"but are {tuple(x.shape)}"
            )
        clips, size = x.shape[0], x.shape[3:]
        frames = x.flatten(0, 1)
        if not self._any_size:
            check_size(frames, self._total_stride)
        maps: list[Tensor] = []
        for stage in self.stages:
            maps.append(stage(channels_first(maps[-1]) if maps else frames, clips))
        logits = self.decoder(maps, size).unflatten(0, (clips, -1))
        if self.edge_head is None:
            return cast(Tensor, logits)
        edges = segformer.resize(self.edge_head(channels_first(maps[0])), size)
        return logits, edges.unflatten(0, (clips, -1))


def published_topology(patch_size: Sequence[int] = (256, 256)) -> Topology:
    """The pyramid of the authors' SegFormer, B3, for frames of this height and width in pixels."""
    return Topology(
        patch_size=tuple(patch_size),
        strides=((4, 4), (2, 2), (2, 2), (2, 2)),
        kernel_sizes=((7, 7), (3, 3), (3, 3), (3, 3)),
        features=(64, 128, 320, 512),
    )


def load_segformer(network: Vivim, state_dict: Mapping[str, Tensor]) -> Vivim:
    """Give a network the weights of a SegFormer, and leave its Mamba layers and heads as they are.

    The authors begin with B3 trained on ADE20K, which fits a network of `published_topology` and default options.

    Args:
        network: of the SegFormer's size.
        state_dict: by the names of the transformers library, of a model for segmentation; or of one for
            classification, which has nothing for the decoder.

    Returns:
        The network.

    Raises:
        UpstreamError: if keys are missing, left over or of another shape, naming them.
    """
    theirs = {
        re.sub(
            r"^decode_head\.", "decoder.", re.sub(r"^segformer\.encoder\.", "encoder.downsample_layers.", key)
        ): value
        for key, value in state_dict.items()
    }
    own = r".*\.mamba_layers\.|decoder\.out\.|edge_head\."
    if not any(key.startswith("decoder.") for key in theirs):
        own += r"|decoder\."
    kept = {key: value for key, value in network.state_dict().items() if re.match(own, key)}
    load_upstream(network, _our_names(theirs) | kept)
    return network


#: Parameters that the authors' code has and never uses: classifiers, norms after stages, a network inside the loss.
_UNUSED = re.compile(r"encoder\.downsample_layers\.layer_norm\.|(decoder\.)?classifier\.|criterion\.")
#: From the authors' names to ours, one after the other.
_RENAMED = (
    (r"^encoder\.downsample_layers\.patch_embeddings\.(\d+)\.", r"stages.\1.embed."),
    (r"^encoder\.downsample_layers\.block\.(\d+)\.", r"stages.\1.blocks."),
    (r"^encoder\.stages\.(\d+)\.(\d+)\.0\.", r"stages.\1.mamba_layers.\2."),
    (r"\.attention\.(self|output)\.", ".attention."),
    (r"\.mlp\.dense(\d)\.", r".mlp.fc\1."),
    (r"\.dwconv\.dwconv\.", ".dwconv."),
    (r"^decoder\.linear_c\.(\d+)\.proj\.", r"decoder.linear_c.\1."),
    (r"^out\.", "decoder.out."),
    (r"^edgeocr_cls_head\.", "edge_head."),
)


def _our_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' parameters by our names, without those that are never used."""
    ours = {}
    for key, tensor in tensors.items():
        if not _UNUSED.match(key):
            for pattern, replacement in _RENAMED:
                key = re.sub(pattern, replacement, key)
            ours[key] = tensor
    return ours


#: Arguments of the authors' constructor that it never reads, whatever they say.
_UNREAD = (
    *("in_chans", "depths", "drop_path_rate", "layer_scale_init_value", "hidden_size", "norm_name", "conv_block"),
    *("res_block", "spatial_dims"),
)


def convert(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> nn.Module:
    """The authors' network: ``out_chans``, ``with_edge``, and ``segformer`` with the backbone's sizes.

    The names of those sizes are the transformers library's, and its widths are ``feat_size``. Of ``nframes`` the third
    order of each Mamba layer cuts the clip in as many pieces, whatever the number of frames; without it, in as many as
    there are frames. A checkpoint may have the prefix ``model.`` and the loss's own network ``criterion.`` in it. The
    authors' constructor never reads most of its arguments: ``in_chans``, ``depths`` and others change nothing.
    """
    known = ("out_chans", "with_edge", "segformer", "feat_size", "nframes")
    check_known("Vivim", config, (*known, *_UNREAD))
    sizes = config.get("segformer")
    topology, options = (published_topology(), {}) if sizes is None else _sizes(sizes)
    if tuple(config.get("feat_size", topology.features)) != topology.features:
        raise UpstreamError(
            f"feat_size must be the widths of the SegFormer, {topology.features}, got {config['feat_size']}"
        )
    network = Vivim(
        3,
        config.get("out_chans", 1),
        topology,
        edge_head=config.get("with_edge", False),
        pieces=config.get("nframes", 0),
        any_size=True,
        **options,
    )
    wanted = {key: tensor for key, tensor in state_dict.items() if not key.startswith("criterion.")}
    return load_upstream(network, _our_names(grid_mamba(without_prefix(wanted, "model."), SUFFIXES)))


#: Of a SegFormer: what must be as the library has it, and what is for training or for what the authors leave out.
_SEGFORMER_ONLY: dict[str, Any] = {"hidden_act": "gelu", "num_channels": 3, "reshape_last_stage": True}
_SEGFORMER_UNREAD = (
    *("num_labels", "num_encoder_blocks", "layer_norm_eps", "initializer_range", "semantic_loss_ignore_index"),
    *("hidden_dropout_prob", "attention_probs_dropout_prob"),
)


def _sizes(config: Mapping[str, Any]) -> tuple[Topology, dict[str, Any]]:
    """Topology and options of a SegFormer by the names of the transformers library."""
    needed = ("depths", "hidden_sizes", "decoder_hidden_size", "num_attention_heads", "sr_ratios", "patch_sizes")
    rates = ("drop_path_rate", "classifier_dropout_prob")
    check_known("SegFormer", config, (*needed, "strides", "mlp_ratios", *rates, *_SEGFORMER_ONLY, *_SEGFORMER_UNREAD))
    check_only("a SegFormer", config, _SEGFORMER_ONLY)
    if missing := [name for name in (*needed, "strides") if name not in config]:
        raise UpstreamError(
            f"the sizes of a SegFormer lack {', '.join(missing)}, as the transformers library names them"
        )
    ratios = config.get("mlp_ratios", (segformer.EXPANSION,))
    if any(ratio != segformer.EXPANSION for ratio in ratios):
        raise UpstreamError(f"only a SegFormer with mlp_ratios of {segformer.EXPANSION} is known here, got {ratios}")
    strides = tuple((step, step) for step in config["strides"])
    side = math.prod(config["strides"])
    topology = Topology(
        patch_size=(side, side),  # the weights fit any size
        strides=strides,
        kernel_sizes=tuple((edge, edge) for edge in config["patch_sizes"]),
        features=tuple(config["hidden_sizes"]),
    )
    return topology, {
        "depths": config["depths"],
        "heads": config["num_attention_heads"],
        "reductions": config["sr_ratios"],
        "decoder_width": config["decoder_hidden_size"],
        "drop_path": config.get("drop_path_rate", 0.1),
        "dropout": config.get("classifier_dropout_prob", 0.1),
    }


def convert_layer(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> nn.Module:
    """The authors' MambaLayer, which in ours takes (B, T, h, w, C).

    Arguments: ``dim``, ``d_state``, ``d_conv``, ``expand``, ``mlp_ratio``, ``drop`` and ``drop_path`` of 0, and
    ``nframes``, which is none of its own; see `convert`.
    """
    only = {"drop": 0.0, "drop_path": 0.0}
    check_known("MambaLayer", config, ("dim", "d_state", "d_conv", "expand", "mlp_ratio", "nframes", *only))
    check_only("a MambaLayer of Vivim", config, only)
    layer = MambaLayer(
        config["dim"],
        states=config.get("d_state", 16),
        taps=config.get("d_conv", 4),
        expand=config.get("expand", 2),
        expansion=config.get("mlp_ratio", segformer.EXPANSION),
        pieces=config.get("nframes", 0),
    )
    return load_upstream(layer, _our_names(grid_mamba(state_dict, SUFFIXES)))


def convert_mixer(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> nn.Module:
    """The authors' Mamba of type v3: ``d_model``, ``nframes``, and what `mixer_options` takes."""
    options = mixer_options(config, "bimamba_type", "nframes")
    check_only("a mixer of Vivim", config, {"bimamba_type": "v3"})
    mixer = GridMamba(config["d_model"], interleaved(config.get("nframes", 5)), mean=True, **options)
    return load_upstream(mixer, grid_mamba(state_dict, SUFFIXES))
