"""Vision Mamba (Vim): classifier, backbone and segmentation network around one column of blocks.

Letters: B batch, C channels, S spatial axes, P axes of the grid of patches, d width, K classes.

References:
    Zhu et al., "Vision Mamba: Efficient Visual Representation Learning with Bidirectional State Space Model", 2024.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal, cast, get_args

from torch import Tensor, nn

from medmamba.networks._backbone import Pyramid, accumulate, cascade, run
from medmamba.networks._blocks import activation, initialise, norm, plain_stage, transposed_conv
from medmamba.networks._decoders import make_decoder
from medmamba.networks._mixers import Mixer
from medmamba.networks._registry import register
from medmamba.networks._segmentation import SegmentationNetwork
from medmamba.networks._ssm import StepStart
from medmamba.networks._vim import ClassTokens, Column, OfWidth, VimNorm, make_norm, mixer_of, split_tokens
from medmamba.plans.plan import Topology

#: What the logits are read from. "class_token": a token in the middle of the sequence; "first_token": a token before
#: it; "end_tokens": the mean of a token before it and one after it; "mean", "last": of the patches; "all": each patch
#: has logits of its own; "max": the largest of those.
Pooling = Literal["class_token", "first_token", "end_tokens", "mean", "last", "max", "all"]
TOKENS: dict[Pooling, ClassTokens] = {"class_token": "middle", "first_token": "first", "end_tokens": "ends"}


def _evenly(depth: int, parts: int) -> tuple[int, ...]:
    """After how many of ``depth`` blocks each of so many equal parts ends; at least one."""
    return tuple(max(1, depth * part // parts) for part in range(1, parts + 1))


class Vim(nn.Module):
    """Classifier and backbone: a column of one resolution. The defaults are those of Vim-Ti.

    Args:
        in_channels: channels of the image.
        classes: of the logits; 0: none, the network gives what they would be read from.
        size: of the image, two or three axes. Positions are learned on its grid of patches, and interpolated for images
            of another size.
        width: d; 384 in Vim-S, 768 in Vim-B.
        depth: number of blocks.
        patch: voxels of a patch along each axis, one number for all or one each.
        stride: from patch to patch; None: that of the patch.
        states: per channel and direction.
        pooling: see `Pooling`.
        positions: whether patches and class tokens have learned positions.
        norm: before each block and after the last; "rms" or "layer".
        eps: of the norms.
        block: makes what mixes the tokens in a block, of width d; None: the published one, with ``states`` and
            ``step_start``.
        drop_path: rate of stochastic depth in the last block; rises linearly.
        step_start: how the step size of the backward direction begins: "mamba" as forwards, or "zero" as in the
            authors' code, a memory of one or two tokens with which it learns less from afar.
        checkpointing: compute blocks again in the backward pass rather than keep their activations.
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 1000,
        size: Sequence[int] = (224, 224),
        *,
        width: int = 192,
        depth: int = 24,
        patch: int | Sequence[int] = 16,
        stride: int | Sequence[int] | None = None,
        states: int = 16,
        pooling: Pooling = "class_token",
        positions: bool = True,
        norm: VimNorm = "rms",
        eps: float = 1e-5,
        block: OfWidth | None = None,
        drop_path: float = 0.0,
        step_start: StepStart = "mamba",
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if pooling not in get_args(Pooling):
            raise ValueError(f"Vim: pooling must be one of {', '.join(get_args(Pooling))}, got {pooling!r}")
        edges = (patch,) * len(size) if isinstance(patch, int) else tuple(patch)
        steps = edges if stride is None else (stride,) * len(size) if isinstance(stride, int) else tuple(stride)
        self.column = Column(
            in_channels,
            size,
            width=width,
            depth=depth,
            patch=edges,
            stride=steps,
            mixer=block or mixer_of("bimamba", len(size), states=states, step_start=step_start),
            norm=partial(make_norm, kind=norm, eps=eps),
            tokens=TOKENS.get(pooling, "none"),
            positions=positions,
            drop_path=drop_path,
            checkpointing=checkpointing,
        )
        self.pooling = pooling
        #: Blocks after which `features` reads the stream: four, evenly spaced.
        self.taps = _evenly(depth, 4)
        self.pyramid = Pyramid((width,) * len(self.taps), (steps,) * len(self.taps))
        self.norm = make_norm(width, norm, eps)
        self.head: nn.Module = nn.Identity()
        if classes:
            self.head = nn.Linear(width, classes)
            nn.init.trunc_normal_(self.head.weight, std=0.02)
            nn.init.zeros_(self.head.bias)

    def features(self, x: Tensor) -> list[Tensor]:
        """(B, C, *S) to four maps (B, d, *P) of one resolution, the stream after each quarter of the blocks.

        Raises:
            ValueError: as `forward`.
        """
        return self.column.maps(x, self.taps)

    def represent(self, x: Tensor) -> Tensor:
        """(B, C, *S) to (B, d), or with a pooling of "max" or "all" to (B, L, d): what the head reads."""
        tokens = cast(Tensor, self.norm(self.column(x)[0]))
        if self.pooling in TOKENS:
            return split_tokens(self.column.tokens, tokens)[1].mean(1)
        if self.pooling == "last":
            return tokens[:, -1]
        return tokens.mean(1) if self.pooling == "mean" else tokens

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) to logits (B, K), with a pooling of "all" (B, L, K).

        Raises:
            ValueError: for another number of channels or axes, or if patches do not cover the image.
        """
        logits = cast(Tensor, self.head(self.represent(x)))
        return logits.amax(1) if self.pooling == "max" else logits


@register("vim", source="Zhu et al.: Vision Mamba, 2024")
class VimUNet(SegmentationNetwork):
    """Vision Mamba under a U-Net decoder: one column over patches of the image.

    The patches are as large as the total stride of one level. Finer levels are upsampled from the stream after earlier
    blocks, the first one comes from the image itself; coarser levels are convolutions of the column's last map.

    Args:
        in_channels: channels of the image.
        out_channels: channels of the logits.
        topology: shape of the network; 2D or 3D. Positions are learned for its patch size, and interpolated for others.
        patch: the column stands at the coarsest level whose total stride is at most this along every axis, and not at
            the first one.
        width: of the column.
        depth: number of blocks.
        states: per channel and direction.
        decoder: "unet" or "upernet".
        drop_path: rate of stochastic depth in the last block; rises linearly.
        step_start: as in `Vim`.
        mixer: what mixes the patches in a block; "none" leaves the blocks out, which is the network to compare with.
        checkpointing: compute blocks again in the backward pass rather than keep their activations.
        deep_supervision: return logits of all resolutions.

    References:
        Skips from the stream after earlier blocks: Hatamizadeh et al., "UNETR", 2022.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        topology: Topology,
        *,
        patch: int = 16,
        width: int = 192,
        depth: int = 24,
        states: int = 16,
        decoder: str = "unet",
        drop_path: float = 0.0,
        step_start: StepStart = "mamba",
        mixer: Mixer = "bimamba",
        checkpointing: bool = False,
        deep_supervision: bool = True,
    ) -> None:
        super().__init__(topology, checkpointing)
        features, kernels, strides = topology.features, topology.kernel_sizes, topology.strides
        self.pyramid = Pyramid(features, accumulate(strides))
        level = max(1, sum(max(row) <= patch for row in self.pyramid.strides) - 1)
        stride = self.pyramid.strides[level]
        self.taps = _evenly(depth, level)
        self.image_stage = plain_stage(in_channels, features[0], kernels[0], strides[0])
        self.column = Column(
            in_channels,
            topology.patch_size,
            width=width,
            depth=depth,
            patch=stride,
            stride=stride,
            mixer=mixer_of(mixer, topology.dims, states=states, step_start=step_start),
            drop_path=drop_path,
            checkpointing=checkpointing,
        )
        self.column_norms = nn.ModuleList(nn.RMSNorm(width, eps=1e-5) for _ in self.taps)
        self.upsample_layers = nn.ModuleList(
            nn.Sequential(
                transposed_conv(width, channels, [s // f for s, f in zip(stride, fine, strict=True)]),
                norm(channels, topology.dims),
                activation(),
            )
            for channels, fine in zip(features[1 : level + 1], self.pyramid.strides[1:], strict=False)
        )
        self.coarse_stages = nn.ModuleList(
            plain_stage(features[below - 1], features[below], kernels[below], strides[below])
            for below in range(level + 1, len(features))
        )
        self.decoder = make_decoder(
            decoder, out_channels, topology, deep_supervision=deep_supervision, checkpointing=checkpointing
        )
        for part in (self.image_stage, self.upsample_layers, self.coarse_stages, self.decoder):
            part.apply(initialise)

    def encode(self, x: Tensor) -> list[Tensor]:
        """(B, C, *S) to the maps of all levels, finest first, by `pyramid`."""
        maps = [run(self.image_stage, x, checkpointing=self.checkpointing)]
        for y, scale, up in zip(self.column.maps(x, self.taps), self.column_norms, self.upsample_layers, strict=True):
            maps.append(up(scale(y.movedim(1, -1)).movedim(-1, 1)))
        return maps + cascade(self.coarse_stages, maps[-1], checkpointing=self.checkpointing)
