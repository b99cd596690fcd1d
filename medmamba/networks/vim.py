"""Vision Mamba (Vim): classifier, backbone and segmentation network around one column of blocks.

Letters: B batch, C channels, S spatial axes, P axes of the grid of patches, d width, K classes.

References:
    Zhu et al., "Vision Mamba: Efficient Visual Representation Learning with Bidirectional State Space Model", 2024.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from medmamba.kernels import bidirectional
from medmamba.networks._backbone import Pyramid, accumulate, run
from medmamba.networks._blocks import activation, check_size, initialise, norm, transposed_conv
from medmamba.networks._convert import UpstreamError, grid_mamba, load_upstream, mixer_options
from medmamba.networks._decoders import make_decoder
from medmamba.networks._mixers import Mixer
from medmamba.networks._registry import register
from medmamba.networks._segmentation import SegmentationNetwork
from medmamba.networks._ssm import GridMamba, StepStart
from medmamba.networks._vim import Column
from medmamba.networks.unet import plain_stage
from medmamba.plans.plan import Topology

Pooling = Literal["class_token", "mean"]


def _evenly(depth: int, parts: int) -> tuple[int, ...]:
    """After how many of ``depth`` blocks each of so many equal parts ends; at least one."""
    return tuple(max(1, depth * part // parts) for part in range(1, parts + 1))


class Vim(nn.Module):
    """Classifier and backbone: a column of one resolution. The defaults are those of Vim-Ti.

    Args:
        in_channels: channels of the image.
        classes: of the logits.
        size: of the image, two or three axes. Positions are learned on its grid of patches, and interpolated for images
            of another size.
        width: d; 384 in Vim-S, 768 in Vim-B.
        depth: number of blocks.
        patch: voxels of a patch along each axis, one number for all or one each.
        stride: from patch to patch; None: that of the patch.
        states: per channel and direction.
        pooling: "class_token": logits are read from a token in the middle of the sequence; "mean": from the mean.
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
        drop_path: float = 0.0,
        step_start: StepStart = "mamba",
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if pooling not in ("class_token", "mean"):
            raise ValueError(f"Vim: pooling must be 'class_token' or 'mean', got {pooling!r}")
        edges = (patch,) * len(size) if isinstance(patch, int) else tuple(patch)
        steps = edges if stride is None else (stride,) * len(size) if isinstance(stride, int) else tuple(stride)
        self.column = Column(
            in_channels,
            size,
            width=width,
            depth=depth,
            patch=edges,
            stride=steps,
            states=states,
            class_token=pooling == "class_token",
            drop_path=drop_path,
            step_start=step_start,
            mixer="bimamba",
            checkpointing=checkpointing,
        )
        #: Blocks after which `features` reads the stream: four, evenly spaced.
        self.taps = _evenly(depth, 4)
        self.pyramid = Pyramid((width,) * len(self.taps), (steps,) * len(self.taps))
        self.norm = nn.RMSNorm(width, eps=1e-5)
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
        """(B, C, *S) to (B, d): what the head reads."""
        tokens = self.norm(self.column(x)[0])
        if self.column.class_token is None:
            return cast(Tensor, tokens.mean(1))
        return cast(Tensor, tokens[:, (tokens.shape[1] - 1) // 2])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) to logits (B, K).

        Raises:
            ValueError: for another number of channels or axes, or if patches do not cover the image.
        """
        return cast(Tensor, self.head(self.represent(x)))


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
            states=states,
            class_token=False,
            drop_path=drop_path,
            step_start=step_start,
            mixer=mixer,
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


#: What arguments of upstream's constructor must be, and what they are there if nobody gives them.
_ONLY: dict[str, tuple[Any, Any]] = {
    "bimamba_type": ("v2", "none"),
    "rms_norm": (True, False),
    "if_abs_pos_embed": (True, False),
    "if_divide_out": (True, False),
    "if_rope": (False, False),
    "if_bidirectional": (False, False),
    "use_double_cls_token": (False, False),
}


def convert(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> nn.Module:
    """The authors' ``VisionMamba`` as a `Vim`.

    Args:
        config: arguments of its constructor.
        state_dict: its tensors; those of the checkpoint's entry ``model``.

    Raises:
        UpstreamError: if a setting is of another version than the published models, or weights do not fit.
    """
    for name, (value, default) in _ONLY.items():
        if config.get(name, default) != value:
            raise UpstreamError(f"only Vim with {name}={value!r} is known here, got {config.get(name, default)!r}")
    size, patch = config.get("img_size", 224), config.get("patch_size", 16)
    token = config.get("if_cls_token", False)
    if token and not config.get("use_middle_cls_token", False):
        raise UpstreamError(
            "only Vim with its class token in the middle is known here; use_middle_cls_token must be True"
        )
    if not token and config.get("final_pool_type", "none") != "mean":
        raise UpstreamError("Vim without a class token must have final_pool_type='mean' to be known here")
    network = Vim(
        config.get("channels", 3),
        config.get("num_classes", 1000),
        (size, size) if isinstance(size, int) else tuple(size),
        width=config.get("embed_dim", 192),
        depth=config.get("depth", 24),
        patch=patch,
        stride=config.get("stride", 16),
        states=config.get("d_state", 16),
        pooling="class_token" if token else "mean",
        drop_path=config.get("drop_path_rate", 0.1),
    )
    tensors = {_name(key): tensor for key, tensor in grid_mamba(state_dict, ("", "_b")).items()}
    positions = tensors.pop("pos_embed", None)
    if positions is not None:
        if token:
            middle = positions.shape[1] // 2
            tensors["column.class_position"] = positions[:, middle : middle + 1]
            positions = torch.cat([positions[:, :middle], positions[:, middle + 1 :]], dim=1)
        if positions.shape[1] == math.prod(network.column.grid):
            positions = positions.unflatten(1, network.column.grid)
        tensors["column.position"] = positions
    return load_upstream(network, tensors)


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
    """The Mamba block of the authors' fork for both directions as a `GridMamba`.

    Args:
        config: arguments of its constructor. Of ``bimamba_type``, "v2" is the published block, which ``if_divide_out``
            makes a mean; "v1" the ablation "bidirectional SSM", where the directions share all but A.
        state_dict: its tensors.

    Raises:
        UpstreamError: for an argument that is not known here, another type, or weights that do not fit.
    """
    kind = config.get("bimamba_type")
    if kind not in ("v1", "v2"):
        raise UpstreamError(
            f"a block for both directions must have bimamba_type 'v1' or 'v2' to be known here, got {kind!r}"
        )
    options = mixer_options(config, "bimamba_type", "if_divide_out")
    block = GridMamba(
        config["d_model"],
        bidirectional(),
        mean=kind == "v2" and config.get("if_divide_out", False),
        starts=("mamba", "linear") if kind == "v2" else "mamba",
        shared=kind == "v1",
        **options,
    )
    return load_upstream(block, grid_mamba(state_dict, ("", "_b"), shared=kind == "v1"))
