"""MambaMorph: deformable registration by a U-Net over a trunk of Mamba layers.

Letters: B batch, C channels, D dimensions, S spatial axes.

References:
    Guo et al., "MambaMorph: a Mamba-based Framework for Medical MR-CT Deformable Registration", 2024. The wiring is
    that of the authors' code of May 2025.
    Dalca et al., "Unsupervised Learning for Fast Probabilistic Diffeomorphic Registration", MICCAI 2018, for velocities
    integrated inside the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medmamba.errors import UsageError
from medmamba.networks._backbone import check_dims, check_least, run
from medmamba.networks._blocks import activation, check_size, conv, norm
from medmamba.networks._decoders import enlarge
from medmamba.networks._mambamorph import CONV_LEVELS, FeatureExtractor, Trunk, feature_conv
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
        UsageError: if the topology has less than three levels, or an option is negative.
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
            raise UsageError(
                f"MambaMorph needs a topology of at least {CONV_LEVELS + 1} levels, the last of which are for Mamba "
                f"layers, but its features are {features}"
            )
        check_least(0, feature_width=feature_width, integration_steps=integration_steps)
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
        for up, skip in zip(self.ups, reversed(skips), strict=True):
            x = run(up, torch.cat([enlarge(x, skip), skip], dim=1), checkpointing=self.checkpointing)
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
