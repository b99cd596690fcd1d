"""Vivim: segmentation of video with SegFormer's pyramid and Mamba layers over the clip after each of its stages.

Letters: B batch, T frames, C channels, H and W rows and columns, h and w those of a feature map, K classes.

References:
    Yang et al., "Vivim: a Video Vision Mamba for Medical Video Segmentation", 2024. The wiring is that of the authors'
    code; their constructor downloads a SegFormer, whose weights `published.vivim.load_segformer` takes here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from medmamba.errors import UsageError
from medmamba.kernels import interleaved
from medmamba.networks import _segformer as segformer
from medmamba.networks._backbone import accumulate, channels_first, check_least, check_row, draw_linear, drop_rates, run
from medmamba.networks._blocks import check_size, pointwise
from medmamba.networks._causal import CausalGridMamba, State
from medmamba.networks._mixers import Mixer, TokenMixer, check_mixer, orders_of
from medmamba.networks._registry import register
from medmamba.networks._ssm import GridMamba, StepStart
from medmamba.networks._video import VideoNetwork, check_clips
from medmamba.plans.plan import Topology

#: Standard deviation of the Mamba layers' linear weights.
LINEAR_STD = 0.02
#: Channels of an attention head, where the number of heads is not given.
HEAD_WIDTH = 64


class MambaLayer(nn.Module):
    """Mix a clip: a Mamba block in three orders and a feed-forward part, each beside a residual.

    The orders: forwards and backwards frame by frame, and the same pixel of all frames, then the next pixel. The Mamba
    block computes in the precision of its weights whatever the autocast.

    A causal one has the same parameters: frame by frame forwards; the same with each frame from its last pixel to its
    first; each pixel through time. Its convolution sees the two frames before and the present one.

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
        causal: whether no frame sees a later one.
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
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.causal = causal
        orders = interleaved(pieces) if pieces else orders_of("tri", 3)
        self.mamba: nn.Module | None = None
        if mixer != "none":
            self.norm1 = nn.LayerNorm(width)
        # The published block by itself, so that weights have the published names.
        if mixer == "tri":
            kind = CausalGridMamba if causal else GridMamba
            self.mamba = kind(width, orders, states=states, taps=taps, expand=expand, mean=True, starts=step_start)
        elif mixer != "none":
            self.mamba = TokenMixer(mixer, width, 3, causal=causal)
        self.norm2 = nn.LayerNorm(width)
        self.mlp: nn.Module = (
            segformer.CausalFeedForward(width, expansion) if causal else segformer.ConvFeedForward(width, 3, expansion)
        )
        draw_linear(self.modules(), LINEAR_STD)
        if isinstance(self.mamba, GridMamba):
            nn.init.trunc_normal_(self.mamba.x_proj, std=LINEAR_STD)
            if step_start == "zero":
                nn.init.trunc_normal_(self.mamba.step_weight, std=LINEAR_STD)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, h, w, C) to (B, T, h, w, C)."""
        if self.causal:
            return self.advance(x, ())[0]
        if self.mamba is not None:
            with torch.autocast(x.device.type, enabled=False):
                x = x.to(self.norm1.weight.dtype)
                mixed = self.mamba(self.norm1(x).flatten(1, 3), x.shape[1:4])
                x = x + cast(Tensor, mixed).view(x.shape)
        return x + cast(Tensor, self.mlp(self.norm2(x)))

    def advance(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """As `forward` of a causal layer, for frames that follow those of a state; () where none came before."""
        before, past = state or ((), ())
        if self.mamba is not None:
            with torch.autocast(x.device.type, enabled=False):
                x = x.to(self.norm1.weight.dtype)
                mixer = cast("CausalGridMamba | TokenMixer", self.mamba)
                mixed, before = mixer.advance(self.norm1(x).flatten(1, 3), x.shape[1:4], before)
                x = x + mixed.view(x.shape)
        fed, past = cast(segformer.CausalFeedForward, self.mlp).advance(self.norm2(x), past)
        return x + fed, (before, past)


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
        x = self.each_frame(frames, clips)
        for layer in self.mamba_layers:
            x = run(layer, x, checkpointing=self.checkpointing)
        return x.flatten(0, 1)

    def advance(self, frames: Tensor, clips: int, state: State) -> tuple[Tensor, State]:
        """As `forward` of a causal stage, for frames that follow those of a state; () where none came before."""
        x, after = self.each_frame(frames, clips), []
        for layer, known in zip(self.mamba_layers, state or [()] * len(self.mamba_layers), strict=True):
            x, remembered = cast(MambaLayer, layer).advance(x, known)
            after.append(remembered)
        return x.flatten(0, 1), tuple(after)

    def each_frame(self, frames: Tensor, clips: int) -> Tensor:
        """Frames of all clips (B T, C_in, H, W) to what the Mamba layers get, (B, T, h, w, C)."""
        x = self.embed(frames)
        for block in self.blocks:
            x = run(block, x, checkpointing=self.checkpointing)
        return cast(Tensor, x.unflatten(0, (clips, -1)))


@register("vivim", task="video", dims=(2,), source="Yang et al.: Vivim, 2024")
class Vivim(VideoNetwork):
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
        causal: whether no frame's logits depend on a later frame, see `MambaLayer`; the parameters are the same. Then
            the network takes a stream too. While it trains, batch norm in the decoder is over all frames.
        any_size: take also frames that the strides do not divide, as the authors' code does: outermost patches reach
            over the edge, and logits lie a little beside their pixels.
        checkpointing: compute blocks a second time in the backward pass instead of keeping their insides.

    Raises:
        UsageError: if depths, heads or reductions do not fit the topology, or a causal network is to have pieces.
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
        causal: bool = False,
        any_size: bool = False,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        check_mixer(mixer)
        check_least(1, decoder_width=decoder_width)
        check_least(0, mamba_layers=mamba_layers, pieces=pieces)
        if causal and pieces:
            raise UsageError(f"a causal Vivim knows no whole clip to cut in pieces, got pieces={pieces}; leave it at 0")
        widths, strides = topology.features, topology.strides
        for name, given in (("depths", depths), ("heads", heads), ("reductions", reductions)):
            rule = f"{name} must be positive numbers, one for each of the {len(widths)} stages of the topology"
            check_row(rule, given, len(widths), 1, may_lack=name != "depths")
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
            layers = [
                MambaLayer(width, pieces=pieces, step_start=step_start, mixer=mixer, causal=causal)
                for _ in range(mamba_layers)
            ]
            self.stages.append(Stage(embed, blocks, layers, checkpointing=checkpointing))
        self.decoder = segformer.Decoder(widths, decoder_width, out_channels, dropout)
        segformer.initialise(self.decoder)
        self.edge_head = pointwise(widths[0], 1, 2) if edge_head else None
        self.causal = causal
        self.in_channels, self._total_stride, self._any_size = in_channels, topology.total_stride, any_size

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Clips (B, T, C, H, W) to logits (B, T, K, H, W), with an edge head also those of edges (B, T, 1, H, W).

        Raises:
            ValueError: if that is not the shape, or the strides do not divide height and width as they must.
        """
        frames = self._frames(x)
        maps: list[Tensor] = []
        for stage in self.stages:
            maps.append(stage(channels_first(maps[-1]) if maps else frames, x.shape[0]))
        logits = self._decode(maps, x)
        if self.edge_head is None:
            return logits
        edges = segformer.resize(self.edge_head(channels_first(maps[0])), x.shape[3:])
        return logits, edges.unflatten(0, (x.shape[0], -1))

    def follow(self, frames: Tensor, memory: State) -> tuple[Tensor, State]:
        """See `VideoNetwork`; there are no logits of edges."""
        x, after = self._frames(frames), []
        maps: list[Tensor] = []
        for stage, known in zip(self.stages, memory or [()] * len(self.stages), strict=True):
            given = channels_first(maps[-1]) if maps else x
            made, remembered = cast(Stage, stage).advance(given, frames.shape[0], known)
            maps.append(made)
            after.append(remembered)
        return self._decode(maps, frames), tuple(after)

    def _frames(self, x: Tensor) -> Tensor:
        """(B, T, C, H, W) to (B T, C, H, W), unless the network cannot take it."""
        check_clips(x, self.in_channels)
        frames = x.flatten(0, 1)
        if not self._any_size:
            check_size(frames, self._total_stride)
        return frames

    def _decode(self, maps: Sequence[Tensor], x: Tensor) -> Tensor:
        """Maps of all stages to the logits (B, T, K, H, W) of clips (B, T, C, H, W)."""
        logits: Tensor = self.decoder(maps, x.shape[3:])
        return torch.unflatten(logits, 0, (x.shape[0], -1))


def published_topology(patch_size: Sequence[int] = (256, 256)) -> Topology:
    """The pyramid of the authors' SegFormer, B3, for frames of this height and width in pixels."""
    return Topology(
        patch_size=tuple(patch_size),
        strides=((4, 4), (2, 2), (2, 2), (2, 2)),
        kernel_sizes=((7, 7), (3, 3), (3, 3), (3, 3)),
        features=(64, 128, 320, 512),
    )
