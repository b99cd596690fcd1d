"""SegMamba: a U-Net over a trunk of Mamba layers that read a volume forwards, backwards and across its slices.

Letters: B batch, C channels, S spatial axes, L tokens.

References:
    Xing et al., "SegMamba: Long-range Sequential Modeling Mamba for 3D Medical Image Segmentation", MICCAI 2024. The
    wiring is that of the authors' code since May 2024, which differs from the paper: the branches of the gated
    convolution are added, not multiplied, the last one is 1x1, and there is no feature-level uncertainty estimation.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medmamba.kernels import interleaved
from medmamba.networks._backbone import check_row, run
from medmamba.networks._blocks import SLOPE, conv, merging_conv, norm, pointwise, transposed_conv
from medmamba.networks._decoders import SkipStages
from medmamba.networks._mixers import Mixer, TokenMixer, check_mixer, orders_of
from medmamba.networks._registry import register
from medmamba.networks._segmentation import SegmentationNetwork
from medmamba.networks._ssm import GridMamba, StepStart
from medmamba.plans.plan import Topology

#: Mamba layers per stage.
DEPTH = 2
#: Edge of the first convolution's kernel, along axes on which the topology's kernels are more than a point.
STEM_KERNEL = 7


class MambaLayer(nn.Module):
    """Add what a Mamba block reads in three orders; "tri-orientated Mamba".

    Forwards, backwards, and with slices interleaved: the same pixel of all slices, then the next pixel. Computes in the
    precision of its weights whatever the autocast: scans reach magnitudes that 16 bits cannot hold.

    Args:
        width: C.
        dims: of the feature map.
        slices: in how many pieces the third order cuts the tokens; 0: as many as the map has slices along its first
            axis, which makes it the order with that axis fastest.
        states: per channel of the Mamba block.
        taps: of its convolutions.
        expand: its inner width over C.
        step_start: how the step sizes of the second and third order begin.
        mixer: what mixes the tokens; "tri" are the three orders, for the others there are no slices.
    """

    def __init__(
        self,
        width: int,
        dims: int,
        *,
        slices: int = 0,
        states: int = 16,
        taps: int = 4,
        expand: float = 2,
        step_start: StepStart = "linear",
        mixer: Mixer = "tri",
    ) -> None:
        super().__init__()
        orders = interleaved(slices) if slices else orders_of("tri", dims)
        self.norm = nn.LayerNorm(width)
        self.mamba: nn.Module
        # The published block by itself, so that weights have the published names.
        if mixer == "tri":
            starts: tuple[StepStart, ...] = ("mamba", step_start, step_start)
            self.mamba = GridMamba(width, orders, states=states, taps=taps, expand=expand, starts=starts)
        else:
            self.mamba = TokenMixer(mixer, width, dims)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) to (B, C, *S), float32 as a rule: see the class.

        Raises:
            ValueError: if the voxels cannot be cut in as many pieces as there are slices.
        """
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(self.norm.weight.dtype)
            mixed = self.mamba(self.norm(x.flatten(2).mT), x.shape[2:])
            return x + cast(Tensor, mixed).mT.reshape(x.shape)


class GatedConv(nn.Module):
    """Add what two branches of convolutions see together; "gated spatial convolution".

    One branch is two convolutions, the other a 1x1; their sum goes through another 1x1. Each is followed by a norm
    without parameters and ReLU.
    """

    def __init__(self, width: int, kernel: Sequence[int]) -> None:
        super().__init__()
        dims = len(kernel)
        self.proj = conv(width, width, kernel)
        self.proj2 = conv(width, width, kernel)
        self.proj3 = pointwise(width, width, dims)
        self.proj4 = pointwise(width, width, dims)
        self.norm = norm(width, dims, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) to (B, C, *S)."""
        spatial = self._step(self.proj2, self._step(self.proj, x))
        return x + self._step(self.proj4, spatial + self._step(self.proj3, x))

    def _step(self, layer: nn.Module, x: Tensor) -> Tensor:
        return F.relu(self.norm(layer(x)), inplace=True)


class SideMLP(nn.Module):
    """Norm, 1x1 convolution to twice the width, GELU, 1x1 convolution back: what the decoder sees of a stage."""

    def __init__(self, width: int, dims: int) -> None:
        super().__init__()
        self.norm = norm(width, dims, affine=False)
        self.fc1 = pointwise(width, 2 * width, dims)
        self.fc2 = pointwise(2 * width, width, dims)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) to (B, C, *S)."""
        return cast(Tensor, self.fc2(F.gelu(self.fc1(self.norm(x)))))


class ResBlock(nn.Module):
    """Two convolutions around a skip, which is a 1x1 convolution and norm where the width changes.

    Convolutions have no bias and norms no parameters.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: Sequence[int]) -> None:
        super().__init__()
        dims = len(kernel)
        self.conv1 = conv(in_channels, out_channels, kernel, bias=False)
        self.conv2 = conv(out_channels, out_channels, kernel, bias=False)
        self.conv3 = pointwise(in_channels, out_channels, dims, bias=False) if in_channels != out_channels else None
        self.norm = norm(out_channels, dims, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, *S) to (B, C_out, *S)."""
        skip = x if self.conv3 is None else self.norm(self.conv3(x))
        y = F.leaky_relu(self.norm(self.conv1(x)), SLOPE, inplace=True)
        return F.leaky_relu(self.norm(self.conv2(y)) + skip, SLOPE, inplace=True)


class Trunk(nn.Module):
    """Stages of falling resolution: downsampling, a gated convolution, Mamba layers.

    Args:
        in_channels: channels of the image.
        topology: of the whole network; a stage here has the resolution of the topology's next one.
        depths: Mamba layers of each stage.
        slices: of each stage, see `MambaLayer`.
        step_start: see `MambaLayer`.
        mixer: see `SegMamba`.
        checkpointing: see `SegMamba`.
    """

    def __init__(
        self,
        in_channels: int,
        topology: Topology,
        depths: Sequence[int],
        slices: Sequence[int],
        *,
        step_start: StepStart,
        mixer: Mixer,
        checkpointing: bool,
    ) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        dims, widths, strides = topology.dims, topology.features[:-1], topology.strides[1:]
        stem = tuple(STEM_KERNEL if edge > 1 else 1 for edge in topology.kernel_sizes[0])
        self.downsample_layers = nn.ModuleList([nn.Sequential(conv(in_channels, widths[0], stem, strides[0]))])
        for before, width, stride in zip(widths, widths[1:], strides[1:], strict=False):
            normalise = norm(before, dims, affine=False)
            self.downsample_layers.append(nn.Sequential(normalise, merging_conv(before, width, stride)))
        self.gscs = nn.ModuleList(
            GatedConv(width, kernel) for width, kernel in zip(widths, topology.kernel_sizes[1:], strict=True)
        )
        self.stages = nn.ModuleList(
            nn.ModuleList(
                MambaLayer(width, dims, slices=pieces, step_start=step_start, mixer=mixer)
                for _ in range(0 if mixer == "none" else depth)
            )
            for width, depth, pieces in zip(widths, depths, slices, strict=True)
        )
        self.mlps = nn.ModuleList(SideMLP(width, dims) for width in widths)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Image (B, C_in, *S) to one map for each stage, finest first."""
        maps = []
        for down, gated, layers, mlp in zip(self.downsample_layers, self.gscs, self.stages, self.mlps, strict=True):
            x = run(gated, down(x), checkpointing=self.checkpointing)
            for layer in cast(nn.ModuleList, layers):
                x = run(layer, x, checkpointing=self.checkpointing)
            maps.append(run(mlp, x, checkpointing=self.checkpointing))
        return maps


class Decoder(SkipStages):
    """Transposed convolution, join with the skip, residual block; logits.

    Args:
        out_channels: of the logits.
        topology: of the network.
        deep_supervision: have heads for all resolutions and return logits of each. The attribute may be set at any time
            if there are such heads.
        checkpointing: see `SegMamba`.
    """

    def __init__(self, out_channels: int, topology: Topology, *, deep_supervision: bool, checkpointing: bool) -> None:
        features, kernels = topology.features, topology.kernel_sizes
        super().__init__(
            topology,
            partial(transposed_conv, bias=False),
            lambda before, after, kernel, *_: ResBlock(before, after, kernel),
            (1,) * (len(features) - 1),
            deep_supervision=deep_supervision,
            checkpointing=checkpointing,
        )
        self.last = ResBlock(features[0], features[0], kernels[0])
        widths = features[:-1] if deep_supervision else features[:1]
        self.heads = nn.ModuleList(pointwise(width, out_channels, topology.dims) for width in widths)

    def forward(self, maps: list[Tensor]) -> Tensor | list[Tensor]:
        """Skips of all stages, finest first, to logits (B, K, *S), or a list of them, finest first.

        Raises:
            ValueError: if deep supervision is on but the network was made without it.
        """
        if self.deep_supervision and len(self.heads) < len(self.stages):
            raise ValueError(
                "this network has a head for the finest resolution only; make it with deep_supervision=True, or leave "
                "decoder.deep_supervision off"
            )
        decoded = list(self.refine(maps))
        decoded[-1] = run(self.last, decoded[-1], checkpointing=self.checkpointing)
        if not self.deep_supervision:
            return cast(Tensor, self.heads[0](decoded[-1]))
        return [head(x) for head, x in zip(self.heads, reversed(decoded), strict=True)]


@register("segmamba", source="Xing et al.: SegMamba, 2024")
class SegMamba(SegmentationNetwork):
    """U-Net over a trunk of Mamba layers that scan forwards, backwards and across slices.

    Args:
        in_channels: channels of the image.
        out_channels: channels of the logits.
        topology: shape of the network; 2D or 3D, any input that the strides divide. Its features are the widths of the
            skips; all but the last, shifted by a stage, are those of the trunk. The published size is features 48, 96,
            192, 384, 768 with four strides of 2.
        deep_supervision: have heads for all resolutions and return their logits as a list; the published network has
            one head.
        depths: Mamba layers of each stage of the trunk, one number less than there are features; empty: two each.
        slices: of each stage, see `MambaLayer`; empty: those of its feature map, whatever the size of the input.
        step_start: how the step sizes of the backward scan and of that across slices begin: "linear" as in the authors'
            code, which gives them a short memory, or "mamba" like the forward scan's.
        mixer: what mixes voxels in the Mamba layers; "none" leaves these out, which is the network to compare with.
        checkpointing: compute blocks a second time in the backward pass instead of keeping their insides.

    Raises:
        UsageError: if depths or slices do not fit the topology, or there is no such start or mixer.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        topology: Topology,
        *,
        deep_supervision: bool = True,
        depths: Sequence[int] = (),
        slices: Sequence[int] = (),
        step_start: StepStart = "linear",
        mixer: Mixer = "tri",
        checkpointing: bool = False,
    ) -> None:
        super().__init__(topology, checkpointing)
        check_mixer(mixer)
        features, stages = topology.features, len(topology.features) - 1
        for name, given, least in (("depths", depths, 0), ("slices", slices, 1)):
            rule = f"{name} must be {stages} numbers of at least {least}, one less than there are features {features}"
            check_row(rule, given, stages, least)
        self.trunk = Trunk(
            in_channels,
            topology,
            depths or (DEPTH,) * stages,
            slices or (0,) * stages,
            step_start=step_start,
            mixer=mixer,
            checkpointing=checkpointing,
        )
        sources = (in_channels, *features[:-1])
        self.skips = nn.ModuleList(
            ResBlock(source, width, kernel)
            for source, width, kernel in zip(sources, features, topology.kernel_sizes, strict=True)
        )
        self.decoder = Decoder(out_channels, topology, deep_supervision=deep_supervision, checkpointing=checkpointing)

    def encode(self, x: Tensor) -> list[Tensor]:
        """(B, C, *S) to skips of all levels, finest first."""
        maps = [x, *self.trunk(x)]
        return [
            run(block, each, checkpointing=self.checkpointing) for block, each in zip(self.skips, maps, strict=True)
        ]
