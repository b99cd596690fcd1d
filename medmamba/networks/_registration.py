"""What registration networks share: how a pair becomes a result, fields of other resolutions, the last convolution.

Letters: B batch, C channels, D dimensions, S spatial axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from medmamba.networks._backbone import accumulate, check_dims, check_least
from medmamba.networks._blocks import activation, check_size, conv, norm
from medmamba.networks._decoders import enlarge
from medmamba.plans.plan import Topology
from medmamba.warp import integrate, warp

#: Standard deviation of the last convolution's weights: the first displacements are next to nothing. Its own gradient
#: is not, so that the first steps of a training move the field however small these are.
HEAD_STD = 1e-5


class Registration(NamedTuple):
    """What a registration network makes of a pair of images; fields as in `medmamba.warp`.

    Args:
        moved: (B, C, *S) the moving image seen through the displacement, on the grid of the fixed one.
        displacement: (B, D, *S) voxels, the velocity integrated: on the network's own grid, so that where this is
            coarser than the images, integrating the velocity below gives the same up to interpolation.
        velocity: (B, D, *S) voxels per unit time; what a smoothness loss is for.
        features: (B, 2 F, *S / stride) of the moving image, then as many of the fixed one, for a contrastive loss; None
            if the network extracts none.
    """

    moved: Tensor
    displacement: Tensor
    velocity: Tensor
    features: Tensor | None


class RegistrationNetwork(nn.Module):
    """A network from two images of one grid to the field that takes the moving one to the fixed one.

    Args:
        in_channels: of each image.
        topology: shape of the network.
        level: of the topology, on whose grid the velocity is predicted and integrated.
        integration_steps: squarings from velocity to displacement, see `medmamba.warp.integrate`; 0: the velocity is
            the displacement.
        checkpointing: compute blocks again in the backward pass rather than keep their activations.

    Raises:
        UsageError: if there are less than 0 steps.
    """

    def __init__(
        self, in_channels: int, topology: Topology, *, level: int, integration_steps: int, checkpointing: bool
    ) -> None:
        super().__init__()
        check_least(0, integration_steps=integration_steps)
        self.in_channels, self.integration_steps, self.checkpointing = in_channels, integration_steps, checkpointing
        self._total_stride = topology.total_stride
        self._field_stride = accumulate(topology.strides)[level]

    def velocity(self, moving: Tensor, fixed: Tensor) -> tuple[Tensor, Tensor | None]:
        """The velocity on the grid of its level, float32 as a rule and in voxels of that grid, and features or None."""
        raise NotImplementedError

    def forward(self, moving: Tensor, fixed: Tensor) -> Registration:
        """Register two images (B, C, *S) of one grid.

        Raises:
            ValueError: if they differ in shape, or have other channels than the network.
            DataError: if the strides do not divide their size.
        """
        for image in (moving, fixed):
            check_dims(image, self.in_channels, len(self._total_stride))
        if moving.shape != fixed.shape:
            raise ValueError(
                f"moving and fixed image must be of one shape, but are {tuple(moving.shape)} and {tuple(fixed.shape)}; "
                "resample the moving one to the fixed one's grid"
            )
        check_size(moving, self._total_stride)
        velocity, features = self.velocity(moving, fixed)
        displacement = integrate(velocity, self.integration_steps)
        velocity, displacement = (enlarge_field(each, moving, self._field_stride) for each in (velocity, displacement))
        return Registration(warp(moving, displacement), displacement, velocity, features)


def enlarge_field(field: Tensor, like: Tensor, stride: Sequence[int]) -> Tensor:
    """A field (B, D, *S / stride) on the grid of a map (B, C, *S), in voxels of that grid; float32 at least.

    A voxel of the coarse grid is a box of the fine one, and its vector that of the middle of the box: what composes on
    the coarse grid composes to the same on the fine one, up to interpolation.
    """
    if math.prod(stride) == 1:
        return field
    field = field.to(torch.promote_types(field.dtype, torch.float32))
    return enlarge(field, like) * field.new_tensor(stride).view(-1, *(1,) * len(stride))


def field_head(width: int, kernel: Sequence[int]) -> nn.Module:
    """The convolution that makes a field of features, whose first fields are next to nothing."""
    head = conv(width, len(kernel), kernel)
    nn.init.normal_(cast(Tensor, head.weight), std=HEAD_STD)
    nn.init.zeros_(cast(Tensor, head.bias))
    return head


def read_field(head: nn.Module, x: Tensor) -> Tensor:
    """Features (B, C, *S) to a field (B, D, *S), in the precision of the head's weights whatever the autocast.

    Eight bits of a bfloat16 are too few for the place of a voxel, and the head's first weights too small for float16.
    """
    with torch.autocast(x.device.type, enabled=False):
        return cast(Tensor, head(x.to(cast(Tensor, head.weight).dtype)))


def conv_norm(
    in_channels: int, out_channels: int, kernel: Sequence[int], stride: Sequence[int] | None = None
) -> nn.Sequential:
    """Convolution without bias, instance norm without parameters, LeakyReLU."""
    convolution = conv(in_channels, out_channels, kernel, stride, bias=False)
    return nn.Sequential(convolution, norm(out_channels, len(kernel), affine=False), activation())


def twice(in_channels: int, out_channels: int, kernel: Sequence[int]) -> nn.Sequential:
    """Two of `conv_norm`."""
    return nn.Sequential(conv_norm(in_channels, out_channels, kernel), conv_norm(out_channels, out_channels, kernel))
