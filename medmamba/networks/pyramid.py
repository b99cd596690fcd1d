"""Registration from coarse to fine: at each resolution, see what the field so far has left over, and add to it.

Letters: B batch, C channels, D dimensions, S spatial axes, R the places of a correlation.

References:
    Hu et al., "Dual-Stream Pyramid Registration Network", MICCAI 2019, for one encoder of both images and features
    warped level by level; Mok and Chung, "Large Deformation Diffeomorphic Image Registration with Laplacian Pyramid
    Networks", MICCAI 2020, for velocities added up over levels; Sun et al., "PWC-Net", CVPR 2018, for correlations
    inside such a pyramid; Jian et al., "Mamba? Catch The Hype Or Rethink What Really Helps for Image Registration",
    2024, for what these contribute.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medmamba.networks._backbone import cascade, check_least, run
from medmamba.networks._decoders import enlarge
from medmamba.networks._mixers import Mixer, check_mixer
from medmamba.networks._registration import (
    RegistrationNetwork,
    conv_norm,
    enlarge_field,
    field_head,
    read_field,
    twice,
)
from medmamba.networks._registry import register
from medmamba.networks.segmamba import MambaLayer
from medmamba.plans.plan import Topology
from medmamba.warp import integrate, warp


def correlation(moving: Tensor, fixed: Tensor, radius: int) -> Tensor:
    """How alike each voxel of one map is to those around the same place of another; beyond the map lies 0.

    Args:
        moving: (B, C, *S), what lies around.
        fixed: the same shape.
        radius: how far to look along each axis, voxels; R = (2 radius + 1) ** D.

    Returns:
        (B, R, *S), means over the channels of products; offsets of the moving map row by row.
    """
    size = fixed.shape[2:]
    around = F.pad(moving, (radius, radius) * len(size))
    alike = []
    for offsets in product(range(2 * radius + 1), repeat=len(size)):
        shifted = around
        for axis, (offset, length) in enumerate(zip(offsets, size, strict=True), 2):
            shifted = shifted.narrow(axis, offset, length)
        alike.append((shifted * fixed).mean(dim=1))
    return torch.stack(alike, dim=1)


class Comparison(nn.Module):
    """Features of both images at one resolution, and what the coarser one was made of, to a state.

    Args:
        width: C of the features and of the state.
        coarser: channels of the coarser state; 0: there is none.
        kernel: of the convolutions.
        radius: of the correlation; 0: there is none.
        mixer: what mixes voxels of the state; "none": nothing.
    """

    def __init__(self, width: int, coarser: int, kernel: Sequence[int], *, radius: int, mixer: Mixer) -> None:
        super().__init__()
        dims = len(kernel)
        self.radius = radius
        places = (2 * radius + 1) ** dims if radius else 0
        self.convs = twice(2 * width + places + coarser, width, kernel)
        self.mamba_layer = nn.Identity() if mixer == "none" else MambaLayer(width, dims, mixer=mixer)

    def forward(self, moving: Tensor, fixed: Tensor, state: Tensor | None) -> Tensor:
        """Both (B, C, *S), the coarser state of any size, to (B, C, *S)."""
        parts = [moving, fixed]
        if self.radius:
            parts.append(correlation(moving, fixed, self.radius))
        if state is not None:
            parts.append(enlarge(state, fixed))
        mixed: Tensor = self.mamba_layer(self.convs(torch.cat(parts, dim=1)))
        return mixed


@register("pyramid", task="registration", source="Hu et al.: Dual-PRNet, 2019; Mok, Chung: LapIRN, 2020")
class PyramidRegistration(RegistrationNetwork):
    """Coarse to fine: one encoder of both images, at each level a velocity added to what coarser levels found.

    The velocities of the levels are added up and their sum integrated, not the displacements composed: so there is one
    velocity, for a smoothness loss and for the inverse, and one group of fields for training and for what refines them.

    Args:
        in_channels: of each image.
        topology: shape of the network; 2D or 3D, any images that the strides divide. A modest size is features 8, 16,
            32, 32, 32 with four strides of 2. Levels too coarse for a velocity tell the next finer one what they see.
        levels: resolutions at which the velocity grows, the finest ones; all, where the topology has less.
        radius: how far the correlation of the features looks at each level, voxels of that level; 0: there is none.
        full_resolution: end at the images' resolution, not at that of the topology's second level.
        integration_steps: squarings from velocity to displacement, see `medmamba.warp.integrate`; 0: the velocity is
            the displacement.
        mixer: what mixes voxels in a Mamba layer of each level but the finest; "none" leaves these out.
        checkpointing: compute blocks a second time in the backward pass instead of keeping their insides.

    Raises:
        UsageError: if there is no level, an option is negative, or there is no such mixer.
    """

    def __init__(
        self,
        in_channels: int,
        topology: Topology,
        *,
        levels: int = 3,
        radius: int = 1,
        full_resolution: bool = False,
        integration_steps: int = 7,
        mixer: Mixer = "none",
        checkpointing: bool = False,
    ) -> None:
        finest = 0 if full_resolution else 1
        super().__init__(
            in_channels, topology, level=finest, integration_steps=integration_steps, checkpointing=checkpointing
        )
        check_mixer(mixer)
        check_least(1, levels=levels)
        check_least(0, radius=radius)
        features, kernels, self._strides = topology.features, topology.kernel_sizes, topology.strides
        self.encoder = nn.ModuleList(
            conv_norm(before, after, kernel, stride)
            for (before, after), kernel, stride in zip(
                pairwise((in_channels, *features)), kernels, topology.strides, strict=True
            )
        )
        coarser = (*features[1:], 0)
        self._levels = tuple(reversed(range(finest, len(features))))
        self.comparisons = nn.ModuleList(
            Comparison(
                features[level],
                coarser[level],
                kernels[level],
                radius=radius,
                mixer="none" if level == finest < len(features) - 1 else mixer,
            )
            for level in self._levels
        )
        self.heads = nn.ModuleList(
            field_head(features[level], kernels[level]) for level in self._levels if level < finest + levels
        )

    def velocity(self, moving: Tensor, fixed: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D, *S), or half of S, and the encoder's features at the same resolution."""
        maps = cascade(self.encoder, torch.cat([moving, fixed]), checkpointing=self.checkpointing)
        silent = len(self.comparisons) - len(self.heads)
        state: Tensor | None = None
        velocity: Tensor | None = None
        for place, (level, comparison) in enumerate(zip(self._levels, self.comparisons, strict=True)):
            seen, wanted = maps[level].chunk(2)
            if velocity is not None:
                velocity = enlarge_field(velocity, wanted, self._strides[level + 1])
                seen = warp(seen, integrate(velocity, self.integration_steps))
            state = run(comparison, seen, wanted, state, checkpointing=self.checkpointing)
            if place >= silent:
                more = read_field(self.heads[place - silent], state)
                velocity = more if velocity is None else velocity + more
        assert velocity is not None  # the finest level has a head
        return velocity, torch.cat(maps[self._levels[-1]].chunk(2), dim=1)
