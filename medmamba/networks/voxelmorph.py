"""The baseline of learned registration: one U-Net over both images, after VoxelMorph.

Letters: B batch, C channels, D dimensions, S spatial axes.

References:
    Balakrishnan et al., "VoxelMorph: A Learning Framework for Deformable Medical Image Registration", IEEE Transactions
    on Medical Imaging 38 (2019); Dalca et al., "Unsupervised Learning for Fast Probabilistic Diffeomorphic
    Registration", MICCAI 2018, for a velocity of half the resolution. Other than theirs, convolutions have instance
    norms, so that how fast the field moves does not depend on the images' brightness.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from medmamba.networks._backbone import cascade, run
from medmamba.networks._decoders import enlarge
from medmamba.networks._mixers import Mixer, check_mixer
from medmamba.networks._registration import RegistrationNetwork, conv_norm, field_head, read_field, twice
from medmamba.networks._registry import register
from medmamba.networks.segmamba import MambaLayer
from medmamba.plans.plan import Topology


@register("voxelmorph", task="registration", source="Balakrishnan et al.: VoxelMorph, 2019")
class VoxelMorph(RegistrationNetwork):
    """U-Net over both images to a velocity field, the baseline of learned registration.

    Args:
        in_channels: of each image.
        topology: shape of the network; 2D or 3D, any images that the strides divide. The usual size is features 16, 32,
            32, 32, 32 with four strides of 2.
        full_resolution: predict and integrate the velocity at the images' resolution, not at that of the topology's
            second level.
        integration_steps: squarings from velocity to displacement, see `medmamba.warp.integrate`; 0: the velocity is
            the displacement.
        mixer: what mixes voxels in a Mamba layer at the bottleneck; "none": there is no such layer.
        checkpointing: compute blocks a second time in the backward pass instead of keeping their insides.

    Raises:
        UsageError: if an option is negative, or there is no such mixer.
    """

    def __init__(
        self,
        in_channels: int,
        topology: Topology,
        *,
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
        features, kernels = topology.features, topology.kernel_sizes
        self.encoder = nn.ModuleList(
            conv_norm(before, after, kernel, stride)
            for (before, after), kernel, stride in zip(
                pairwise((2 * in_channels, *features)), kernels, topology.strides, strict=True
            )
        )
        has_layer = mixer != "none"
        self.mamba_layer = MambaLayer(features[-1], topology.dims, mixer=mixer) if has_layer else nn.Identity()
        self.decoder = nn.ModuleList(
            conv_norm(features[level + 1] + features[level], features[level], kernels[level])
            for level in reversed(range(finest, len(features) - 1))
        )
        self.remaining = twice(features[finest], features[finest], kernels[finest])
        self.head = field_head(features[finest], kernels[finest])

    def velocity(self, moving: Tensor, fixed: Tensor) -> tuple[Tensor, None]:
        """(B, D, *S), or half of S, and no features."""
        maps = cascade(self.encoder, torch.cat([moving, fixed], dim=1), checkpointing=self.checkpointing)
        x = run(self.mamba_layer, maps.pop(), checkpointing=self.checkpointing)
        for stage, skip in zip(self.decoder, reversed(maps), strict=False):  # the finest may be read by no stage
            x = run(stage, torch.cat([enlarge(x, skip), skip], dim=1), checkpointing=self.checkpointing)
        return read_field(self.head, run(self.remaining, x, checkpointing=self.checkpointing)), None
