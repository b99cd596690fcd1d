"""MambaMorph: deformable registration by a U-Net over a trunk of Mamba layers.

Letters: B batch, C channels, D dimensions, S spatial axes.

References:
    Guo et al., "MambaMorph: a Mamba-based Framework for Medical MR-CT Deformable Registration", 2024. The wiring is
    that of the authors' code of May 2025.
    Dalca et al., "Unsupervised Learning for Fast Probabilistic Diffeomorphic Registration", MICCAI 2018, for velocities
    integrated inside the network.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medmamba.errors import UsageError
from medmamba.networks._backbone import check_least, run
from medmamba.networks._decoders import enlarge
from medmamba.networks._mambamorph import CONV_LEVELS, FeatureExtractor, Trunk, feature_conv
from medmamba.networks._mixers import Mixer, check_mixer
from medmamba.networks._registration import Registration as Registration  # where it was first
from medmamba.networks._registration import RegistrationNetwork, conv_norm, field_head, read_field, twice
from medmamba.networks._registry import register
from medmamba.plans.plan import Topology

#: Channels of the features that a contrastive loss compares.
READ_OUT = 3


@register("mambamorph", task="registration", source="Guo et al.: MambaMorph, 2024")
class MambaMorph(RegistrationNetwork):
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
        mixer: what mixes voxels in the Mamba layers; "none" leaves these out, which is the network to compare with.
        checkpointing: compute blocks a second time in the backward pass instead of keeping their insides.

    Raises:
        UsageError: if the topology has less than three levels, an option is negative, or there is no such mixer.
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
        mixer: Mixer = "mamba",
        checkpointing: bool = False,
    ) -> None:
        super().__init__(
            in_channels, topology, level=0, integration_steps=integration_steps, checkpointing=checkpointing
        )
        check_mixer(mixer)
        features, kernels = topology.features, topology.kernel_sizes
        if len(features) <= CONV_LEVELS:
            raise UsageError(
                f"MambaMorph needs a topology of at least {CONV_LEVELS + 1} levels, the last of which are for Mamba "
                f"layers, but its features are {features}"
            )
        check_least(0, feature_width=feature_width)
        self._stride, self._kernel = topology.strides[1], kernels[1]
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
        self.trunk = Trunk(
            pair, topology, states=states, taps=taps, expand=expand, mixer=mixer, checkpointing=checkpointing
        )
        self.skips = nn.ModuleList(conv_norm(pair, features[level], kernels[level]) for level in range(CONV_LEVELS))
        self.ups = nn.ModuleList(
            twice(features[level + 1] + features[level], features[level], kernels[level])
            for level in reversed(range(len(features) - 1))
        )
        self.head = field_head(features[0], kernels[0])

    def velocity(self, moving: Tensor, fixed: Tensor) -> tuple[Tensor, Tensor | None]:
        """Velocity (B, D, *S), and features at the second level's resolution."""
        images = [moving, fixed]
        features = None
        if self.feature_extractor is not None and self.read_out_head is not None:
            extracted = run(self.feature_extractor, torch.cat(images), checkpointing=self.checkpointing)
            images = list(extracted.chunk(2))
            features = torch.cat(self.read_out_head(extracted).chunk(2), dim=1)
        return self._compare(torch.cat(images, dim=1)), features

    def _compare(self, pair: Tensor) -> Tensor:
        """(B, 2 C, *S) to (B, D, *S)."""
        maps = self.trunk(pair)
        full, half = self.skips
        skips = [full(pair), half(self._pooled(pair)), *maps[:-1]]
        x = maps[-1]
        for up, skip in zip(self.ups, reversed(skips), strict=True):
            x = run(up, torch.cat([enlarge(x, skip), skip], dim=1), checkpointing=self.checkpointing)
        return read_field(self.head, x)

    def _pooled(self, x: Tensor) -> Tensor:
        """At the second level's resolution: means over the voxels of its kernel, zeros around the image counted."""
        pool = F.avg_pool2d if x.dim() == 4 else F.avg_pool3d
        return pool(x, self._kernel, self._stride, padding=[edge // 2 for edge in self._kernel])
