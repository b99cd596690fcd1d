"""MambaMorph: deformable registration by a U-Net over a trunk of Mamba layers.

Letters: B batch, C channels, D dimensions, S spatial axes.

References:
    Guo et al., "MambaMorph: a Mamba-based Framework for Medical MR-CT Deformable Registration", 2024. The wiring is
    that of the authors' code of May 2025.
    Dalca et al., "Unsupervised Learning for Fast Probabilistic Diffeomorphic Registration", MICCAI 2018, for velocities
    integrated inside the network.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F  # noqa: N812  (the name everybody knows)
from torch import Tensor, nn

from medmamba.networks._backbone import check_dims, run
from medmamba.networks._blocks import activation, check_size, conv, norm
from medmamba.networks._convert import UpstreamError, check_known, load_upstream, without_prefix
from medmamba.networks._mambamorph import (
    CONV_LEVELS,
    FeatureExtractor,
    MambaLayer,
    PatchMerging,
    Trunk,
    feature_conv,
)
from medmamba.networks._registry import register
from medmamba.plans.plan import Topology
from medmamba.warp import integrate, warp

#: Channels of the features that a contrastive loss compares.
READ_OUT = 3
#: Standard deviation of the last convolution's weights: the first displacements are next to nothing.
HEAD_STD = 1e-5


class Registration(NamedTuple):
    """What a registration network makes of a pair of images; fields as in `medmamba.warp`.

    Args:
        moved: (B, C, *S) the moving image seen through the displacement, on the grid of the fixed one.
        displacement: (B, D, *S) voxels, the velocity integrated.
        velocity: (B, D, *S) voxels per unit time; what a smoothness loss is for.
        features: (B, 2 F, *S / stride) of the moving image, then as many of the fixed one, for a contrastive loss; None
            if the network extracts none.
    """

    moved: Tensor
    displacement: Tensor
    velocity: Tensor
    features: Tensor | None


@register("mambamorph", task="registration", source="Guo et al.: MambaMorph, 2024")
class MambaMorph(nn.Module):
    """Deformable registration: features of both images, a trunk of Mamba layers, a decoder to a velocity field.

    Args:
        in_channels: of each image.
        topology: shape of the network; 2D or 3D, any images that the strides divide. Of its features the first two are
            the widths of convolutions, the others those of the trunk. The published size is features 16, 48, 96, 192,
            384 with four strides of 2.
        feature_width: channels of the feature extractor; 0: compare the images as they are ("mm" in the authors' code,
            where the network with features is "mm-feat").
        integration_steps: squarings from velocity to displacement, see `medmamba.warp.integrate`; 0: the velocity is
            the displacement ("mm-ori").
        states: per channel of a Mamba block.
        taps: of its convolution.
        expand: its inner width over its width.
        checkpointing: compute blocks a second time in the backward pass instead of keeping their insides.

    Raises:
        ValueError: if the topology has less than three levels, or an option is negative.
    """

    def __init__(
        self,
        in_channels: int,
        topology: Topology,
        *,
        feature_width: int = 16,
        integration_steps: int = 7,
        states: int = 16,
        taps: int = 4,
        expand: int = 2,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        features, kernels, dims = topology.features, topology.kernel_sizes, topology.dims
        if len(features) <= CONV_LEVELS:
            raise ValueError(
                f"MambaMorph needs a topology of at least {CONV_LEVELS + 1} levels, the last of which are for Mamba "
                f"layers, but its features are {features}"
            )
        for name, value in (("feature_width", feature_width), ("integration_steps", integration_steps)):
            if value < 0:
                raise ValueError(f"{name} must be at least 0, got {value}")
        self.in_channels, self.integration_steps, self.checkpointing = in_channels, integration_steps, checkpointing
        self._total_stride, self._stride, self._kernel = topology.total_stride, topology.strides[1], kernels[1]
        self.feature_extractor: FeatureExtractor | None = None
        self.read_out_head: nn.Module | None = None
        if feature_width:
            narrow = max(feature_width // 2, 1)
            self.feature_extractor = FeatureExtractor(in_channels, feature_width, topology)
            self.read_out_head = nn.Sequential(
                feature_conv(feature_width, narrow, kernels[1], topology.strides[1]),
                feature_conv(narrow, READ_OUT, kernels[1]),
            )
        pair = 2 * (feature_width or in_channels)
        self.trunk = Trunk(pair, topology, states=states, taps=taps, expand=expand, checkpointing=checkpointing)
        self.skips = nn.ModuleList(_conv_norm(pair, features[level], kernels[level]) for level in range(CONV_LEVELS))
        self.ups = nn.ModuleList(
            nn.Sequential(
                _conv_norm(features[level + 1] + features[level], features[level], kernels[level]),
                _conv_norm(features[level], features[level], kernels[level]),
            )
            for level in reversed(range(len(features) - 1))
        )
        self.head = conv(features[0], dims, kernels[0])
        nn.init.normal_(cast(Tensor, self.head.weight), std=HEAD_STD)
        nn.init.zeros_(cast(Tensor, self.head.bias))

    def forward(self, moving: Tensor, fixed: Tensor) -> Registration:
        """Register two images (B, C, *S) of one grid.

        Raises:
            ValueError: if they differ in shape, have other channels than the network, or the strides do not divide
                their size.
        """
        for image in (moving, fixed):
            check_dims(image, self.in_channels, len(self._total_stride))
        if moving.shape != fixed.shape:
            raise ValueError(
                f"moving and fixed image must be of one shape, but are {tuple(moving.shape)} and {tuple(fixed.shape)}; "
                "resample the moving one to the fixed one's grid"
            )
        check_size(moving, self._total_stride)
        images = [moving, fixed]
        features = None
        if self.feature_extractor is not None and self.read_out_head is not None:
            extracted = run(self.feature_extractor, torch.cat(images), checkpointing=self.checkpointing)
            images = list(extracted.chunk(2))
            features = torch.cat(self.read_out_head(extracted).chunk(2), dim=1)
        velocity = self._velocity(torch.cat(images, dim=1))
        displacement = integrate(velocity, self.integration_steps)
        return Registration(warp(moving, displacement), displacement, velocity, features)

    def _velocity(self, pair: Tensor) -> Tensor:
        """(B, 2 C, *S) to (B, D, *S)."""
        maps = self.trunk(pair)
        full, half = self.skips
        skips = [full(pair), half(self._pooled(pair)), *maps[:-1]]
        x = maps[-1]
        mode = "bilinear" if x.dim() == 4 else "trilinear"
        for up, skip in zip(self.ups, reversed(skips), strict=True):
            x = F.interpolate(x, size=skip.shape[2:], mode=mode)
            x = run(up, torch.cat([x, skip], dim=1), checkpointing=self.checkpointing)
        # Eight bits of a bfloat16 are too few for the place of a voxel, and the head's first weights too small for
        # float16.
        with torch.autocast(x.device.type, enabled=False):
            return cast(Tensor, self.head(x.to(cast(Tensor, self.head.weight).dtype)))

    def _pooled(self, x: Tensor) -> Tensor:
        """At the second level's resolution: means over the voxels of its kernel, zeros around the image counted."""
        pool = F.avg_pool2d if x.dim() == 4 else F.avg_pool3d
        return pool(x, self._kernel, self._stride, padding=[edge // 2 for edge in self._kernel])


def _conv_norm(in_channels: int, out_channels: int, kernel: Sequence[int]) -> nn.Sequential:
    """Convolution without bias, instance norm without parameters, LeakyReLU."""
    convolution = conv(in_channels, out_channels, kernel, bias=False)
    return nn.Sequential(convolution, norm(out_channels, len(kernel), affine=False), activation())


#: The authors' configuration.
_PUBLISHED: dict[str, Any] = {
    "if_transskip": True,
    "if_convskip": True,
    "patch_size": 4,
    "in_chans": 2,
    "embed_dim": 96,
    "depths": (2, 2, 4),
    "drop_rate": 0,
    "drop_path_rate": 0.3,
    "ape": False,
    "spe": True,
    "rpe": False,
    "patch_norm": True,
    "use_checkpoint": False,
    "out_indices": (0, 1, 2),
    "reg_head_chan": 16,
    "img_size": (176, 208, 192),
    "d_state": 16,
    "d_conv": 4,
    "expand": 2,
}
#: Of it, what must be so: the authors' code runs with nothing else, or has another network then.
_FIXED = (
    "if_transskip",
    "if_convskip",
    "patch_size",
    "in_chans",
    "drop_rate",
    "ape",
    "spe",
    "rpe",
    "patch_norm",
    "out_indices",
)
#: Their order of the eight corners of a box, by our places row by row.
_CORNERS = (0, 4, 2, 1, 6, 3, 5, 7)
#: Patterns in their names, and ours.
_NAMES = (
    (r"^transformer\.patch_embed\.proj\.", "trunk.patches."),
    (r"^transformer\.patch_embed\.norm\.", "trunk.patch_norm."),
    (r"^transformer\.norm(\d+)\.", r"trunk.norms.\1."),
    (r"^transformer\.", "trunk."),
    (r"\.((?:en|de)coder\.\d+)\.0\.main\.", r".\1.0."),
    (r"\.main\.", ".0."),
    (r"^c2\.", "skips.0."),
    (r"^c1\.", "skips.1."),
    (r"^reg_head\.0\.", "head."),
)


def convert(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> nn.Module:
    """The authors' MambaMorph ("mm"): the arguments of their configuration, as published where not given."""
    return _converted(config, state_dict, feature_width=0, integration_steps=7)


def convert_feat(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> nn.Module:
    """The authors' MambaMorphFeat ("mm-feat"), the network of the paper; see `convert`."""
    return _converted(config, state_dict, feature_width=16, integration_steps=7)


def convert_ori(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> nn.Module:
    """The authors' MambaMorphOri ("mm-ori"); see `convert`."""
    return _converted(config, state_dict, feature_width=0, integration_steps=0)


def convert_layer(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> nn.Module:
    """The authors' MambaLayer: ``dim``, ``d_state``, ``d_conv``, ``expand``, and whether to ``downsample``."""
    check_known("MambaLayer", config, ("dim", "d_state", "d_conv", "expand", "downsample"))
    width = config["dim"]
    layer = MambaLayer(
        width,
        PatchMerging(width, 2 * width, (2, 2, 2)) if config.get("downsample") else None,
        states=config.get("d_state", 16),
        taps=config.get("d_conv", 4),
        expand=config.get("expand", 2),
    )
    return load_upstream(layer, _row_by_row(state_dict))


def _converted(
    config: Mapping[str, Any], state_dict: Mapping[str, Tensor], *, feature_width: int, integration_steps: int
) -> nn.Module:
    check_known("MambaMorph", config, tuple(_PUBLISHED))
    settings = _PUBLISHED | {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}
    for name in _FIXED:
        if settings[name] != _PUBLISHED[name]:
            raise UpstreamError(
                f"only MambaMorph with {name}={_PUBLISHED[name]!r} is known here, got {settings[name]!r}"
            )
    if len(settings["depths"]) != len(settings["out_indices"]):
        # One layer each, whatever depths says.
        raise UpstreamError(f"MambaMorph has three stages, but depths are {settings['depths']}")
    embed = settings["embed_dim"]
    features = (settings["reg_head_chan"], embed // 2, embed, 2 * embed, 4 * embed)
    levels = len(features)
    topology = Topology(
        patch_size=(2 ** (levels - 1),) * 3,  # the weights fit any size
        strides=((1, 1, 1), *((2, 2, 2),) * (levels - 1)),
        kernel_sizes=((3, 3, 3),) * levels,
        features=features,
    )
    network = MambaMorph(
        1,
        topology,
        feature_width=feature_width,
        integration_steps=integration_steps,
        states=settings["d_state"],
        taps=settings["d_conv"],
        expand=settings["expand"],
        checkpointing=settings["use_checkpoint"],
    )
    # Sampling grids, which tie a checkpoint to one size of image, are no weights.
    weights = {key: t for key, t in without_prefix(state_dict, "module.").items() if not key.endswith(".grid")}
    return load_upstream(network, {_our_name(key): tensor for key, tensor in _row_by_row(weights).items()})


def _our_name(key: str) -> str:
    for pattern, ours in _NAMES:
        key = re.sub(pattern, ours, key)
    return re.sub(r"^up(\d)\.conv(\d)\.", lambda m: f"ups.{int(m[1]) - 1}.{int(m[2]) - 1}.", key)


def _row_by_row(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same weights with those of merged patches in our order of the corners of a box."""
    places = [_CORNERS.index(place) for place in range(len(_CORNERS))]
    merging = re.compile(r"(^|\.)downsample\.(norm|reduction)\.")
    # A width that eight corners cannot share is another network's; `load_upstream` names its shape.
    return {
        key: tensor.unflatten(-1, (len(places), -1))[..., places, :].flatten(-2)
        if merging.search(key) and tensor.shape[-1] % len(places) == 0
        else tensor
        for key, tensor in tensors.items()
    }
