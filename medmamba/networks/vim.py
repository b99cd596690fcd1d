"""Vision Mamba (Vim): classifier, backbone and segmentation network around one column of blocks.

Letters: B batch, C channels, S spatial axes, P axes of the grid of patches, d width, K classes.

References:
    Zhu et al., "Vision Mamba: Efficient Visual Representation Learning with Bidirectional State Space Model", 2024.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from medmamba.kernels import FORWARD, bidirectional
from medmamba.networks._backbone import Pyramid, accumulate, run
from medmamba.networks._blocks import activation, check_size, initialise, norm, transposed_conv
from medmamba.networks._convert import UpstreamError, check_known, check_only, grid_mamba, load_upstream, mixer_options
from medmamba.networks._decoders import make_decoder
from medmamba.networks._mixers import Mixer
from medmamba.networks._positions import fit_positions
from medmamba.networks._registry import register
from medmamba.networks._segmentation import SegmentationNetwork
from medmamba.networks._ssm import GridMamba, StepStart
from medmamba.networks._vim import ClassTokens, Column, OfWidth, VimNorm, make_norm, mixer_of
from medmamba.networks.unet import plain_stage
from medmamba.plans.plan import Topology

#: What the logits are read from. "class_token": a token in the middle of the sequence; "first_token": a token before
#: it; "end_tokens": the mean of a token before it and one after it; "mean", "last": of the patches; "all": each patch
#: has logits of its own; "max": the largest of those.
Pooling = Literal["class_token", "first_token", "end_tokens", "mean", "last", "max", "all"]
_TOKENS: dict[Pooling, ClassTokens] = {"class_token": "middle", "first_token": "first", "end_tokens": "ends"}


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
            tokens=_TOKENS.get(pooling, "none"),
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
        if self.pooling in _TOKENS:
            return self.column.split(tokens)[1].mean(1)
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
        super().__init__()
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
        self.checkpointing = checkpointing
        for part in (self.image_stage, self.upsample_layers, self.coarse_stages, self.decoder):
            part.apply(initialise)

    def features(self, x: Tensor) -> list[Tensor]:
        """(B, C, *S) to the maps of all levels, finest first, by `pyramid`.

        Raises:
            ValueError: if the size cannot be divided by the strides.
        """
        check_size(x, self.pyramid.strides[-1])
        maps = [run(self.image_stage, x, checkpointing=self.checkpointing)]
        for y, scale, up in zip(self.column.maps(x, self.taps), self.column_norms, self.upsample_layers, strict=True):
            maps.append(up(scale(y.movedim(1, -1)).movedim(-1, 1)))
        for stage in self.coarse_stages:
            maps.append(run(stage, maps[-1], checkpointing=self.checkpointing))
        return maps

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """(B, C, *S) to logits (B, K, *S), or a list of them, finest first; sizes as in `features`."""
        return cast("Tensor | list[Tensor]", self.decoder(self.features(x)))


#: What arguments of upstream's constructor must be here: what they are there if nobody gives them.
_ONLY: dict[str, Any] = {
    "if_rope": False,
    "if_rope_residual": False,
    "if_bidirectional": False,
    "drop_rate": 0.0,
}
#: Those that say how weights are drawn, or where and how fast the network runs; the last two count for ``if_rope``.
_START_AND_SPEED = ("initializer_cfg", "fused_add_norm", "residual_in_fp32", "device", "dtype")
_UNREAD = ("ft_seq_len", "pt_hw_seq_len")
#: What ``convert`` sees to.
_KNOWN = (
    *("img_size", "patch_size", "stride", "channels", "num_classes", "embed_dim", "depth", "d_state", "ssm_cfg"),
    *("rms_norm", "norm_epsilon", "if_abs_pos_embed", "bimamba_type", "if_bimamba", "if_divide_out"),
    *("init_layer_scale", "if_cls_token", "use_middle_cls_token", "use_double_cls_token", "final_pool_type"),
    *("drop_path_rate", "flip_img_sequences_ratio"),
)
_POOLINGS: dict[str, Pooling] = {"none": "last", "mean": "mean", "max": "max", "all": "all"}


def convert(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> nn.Module:
    """The authors' ``VisionMamba`` as a `Vim`.

    Args:
        config: arguments of its constructor. Class tokens may be in the middle, first, or at both ends; without one,
            logits are read as ``final_pool_type`` says. ``fused_add_norm`` and ``residual_in_fp32`` change the
            rounding of 16 bits only. Positions learned for another ``img_size`` are interpolated.
        state_dict: its tensors; those of the checkpoint's entry ``model``.

    Raises:
        UpstreamError: for an argument that is not known here, or a value that this network has nothing for, naming it;
            or if weights do not fit.
    """
    check_known("Vim", config, (*_KNOWN, *_ONLY, *_START_AND_SPEED, *_UNREAD))
    check_only("Vim", config, _ONLY)
    if config.get("flip_img_sequences_ratio", -1) > 0:
        raise UpstreamError("only Vim with a flip_img_sequences_ratio of at most 0 is known here: it reads one way")
    config, state_dict = fit_positions(config, state_dict)
    size, patch = config.get("img_size", 224), config.get("patch_size", 16)
    kind = "v1" if config.get("if_bimamba", False) else config.get("bimamba_type", "none")
    suffixes = _check_type(kind)
    ssm = dict(config.get("ssm_cfg") or {})
    options = mixer_options({"d_state": config.get("d_state", 16), **ssm})
    network = Vim(
        config.get("channels", 3),
        config.get("num_classes", 1000),
        (size, size) if isinstance(size, int) else tuple(size),
        width=config.get("embed_dim", 192),
        depth=config.get("depth", 24),
        patch=patch,
        stride=config.get("stride", 16),
        pooling=_pooling(config),
        positions=config.get("if_abs_pos_embed", False),
        norm="rms" if config.get("rms_norm", False) else "layer",
        eps=config.get("norm_epsilon", 1e-5),
        block=partial(_mixer, kind=kind, config=config, options=options),
        drop_path=config.get("drop_path_rate", 0.1),
    )
    tensors = {_name(key): tensor for key, tensor in grid_mamba(state_dict, suffixes, shared=kind == "v1").items()}
    if {"cls_token_head", "cls_token_tail"} <= tensors.keys():
        ends = (tensors.pop("cls_token_head"), tensors.pop("cls_token_tail"))
        tensors["column.class_token"] = torch.cat(ends, dim=1)
    positions = tensors.pop("pos_embed", None)
    if positions is not None:
        tensors |= _positions(network.column, positions)
    return load_upstream(network, tensors)


def _pooling(config: Mapping[str, Any]) -> Pooling:
    """What the logits are read from, by upstream's arguments."""
    pooled = config.get("final_pool_type", "none")
    if pooled not in _POOLINGS:
        raise UpstreamError(f"final_pool_type must be one of {', '.join(_POOLINGS)} to be known here, got {pooled!r}")
    if not config.get("if_cls_token", False):
        return _POOLINGS[pooled]
    if pooled == "max":  # which upstream then takes over the classes
        raise UpstreamError("Vim with a class token and final_pool_type='max' has no logits of classes")
    if config.get("use_double_cls_token", False):
        return "end_tokens"
    return "class_token" if config.get("use_middle_cls_token", False) else "first_token"


def _positions(column: Column, positions: Tensor) -> dict[str, Tensor]:
    """Ours of upstream's, which are added after the class tokens have come in."""
    if column.class_token is None:
        patches, ours = positions, {}
    else:
        patches, own = column.split(positions)
        ours = {"column.class_position": own}
    if patches.shape[1] == math.prod(column.grid):
        patches = patches.unflatten(1, column.grid)
    return ours | {"column.position": patches}


def _name(key: str) -> str:
    """Ours for an upstream name outside the mixers."""
    for pattern, name in (
        (r"cls_token$", "column.class_token"),
        (r"patch_embed\.proj\.", "column.patches."),
        (r"layers\.", "column.blocks."),
        (r"norm_f\.", "norm."),
    ):
        if re.match(pattern, key):
            return re.sub(pattern, name, key)
    return key


def convert_mixer(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> nn.Module:
    """The Mamba block of the authors' fork as a `GridMamba`.

    Args:
        config: arguments of its constructor. Of ``bimamba_type``, "v2" is the published block, which ``if_divide_out``
            makes a mean; "v1" the ablation "bidirectional SSM", where the directions share all but A; "none" reads
            forwards only. ``init_layer_scale`` says that there is a factor for each channel.
        state_dict: its tensors.

    Raises:
        UpstreamError: for an argument that is not known here, another type, or weights that do not fit.
    """
    kind = config.get("bimamba_type", "none")
    suffixes = _check_type(kind)
    options = mixer_options(config, "bimamba_type", "if_divide_out", "init_layer_scale")
    block = _mixer(config["d_model"], kind=kind, config=config, options=options)
    return load_upstream(block, grid_mamba(state_dict, suffixes, shared=kind == "v1"))


def _check_type(kind: str) -> tuple[str, ...]:
    """What upstream appends to the names of each direction's parameters."""
    if kind not in ("none", "v1", "v2"):
        raise UpstreamError(
            f"a block of Vim must have bimamba_type 'none', 'v1' or 'v2' to be known here, got {kind!r}"
        )
    return ("",) if kind == "none" else ("", "_b")


def _mixer(width: int, *, kind: str, config: Mapping[str, Any], options: Mapping[str, Any]) -> GridMamba:
    """A block of the authors' fork, without weights."""
    return GridMamba(
        width,
        (FORWARD,) if kind == "none" else bidirectional(),
        mean=kind == "v2" and config.get("if_divide_out", False),
        starts=("mamba", "linear") if kind == "v2" else "mamba",
        shared=kind == "v1",
        layer_scale=config.get("init_layer_scale"),
        **options,
    )
