"""Visual state space blocks: mixing a map by scans along each axis, both ways, and what stands between such blocks.

Letters: B batch, C channels, S spatial axes, L tokens, e inner width, K orders, N states, R rank of the step size. Maps
are channels last, (B, *S, C), everywhere: whatever is linear or a norm then works on rows as they lie in memory.

References:
    Liu et al., "VMamba: Visual State Space Model", 2024.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medmamba.kernels import cross
from medmamba.networks._backbone import DropPath, channels_first, channels_last, draw_linear
from medmamba.networks._blocks import conv, merging_conv
from medmamba.networks._mixers import TokenMixer
from medmamba.networks._ssm import ScansInOrders, draw_step_size

Stem = Literal["plain", "deep"]
Downsampling = Literal["merge", "patch", "conv"]


class SS2D(ScansInOrders):
    """Mix a map: depthwise convolution, then one scan along each axis and back, added up and normalised.

    Every order has its own step size, B, C, A and D, over the same input. The name is the authors'; in 3D it scans
    in six orders instead of four. No norm before, no residual.

    Args:
        width: C.
        dims: 2 or 3.
        states: N.
        ratio: e over C.
        rank: R; 0: a sixteenth of the width, rounded up.
        kernel: of the depthwise convolution, odd; one size, or one for each axis.
        conv_bias: whether that has a bias.
        gate: whether the normalised sum is multiplied by SiLU of a second branch.
        bias: whether the projections at entry and exit have one.
    """

    def __init__(
        self,
        width: int,
        *,
        dims: int = 2,
        states: int = 1,
        ratio: float = 1.0,
        rank: int = 0,
        kernel: int | Sequence[int] = 3,
        conv_bias: bool = False,
        gate: bool = False,
        bias: bool = False,
    ) -> None:
        super().__init__(width, cross(dims), states=states, expand=ratio, rank=rank)
        self.gate = gate
        self.in_proj = nn.Linear(width, (2 if gate else 1) * self.inner, bias=bias)
        taps = (kernel,) * dims if isinstance(kernel, int) else kernel
        self.conv = conv(self.inner, self.inner, taps, groups=self.inner, bias=conv_bias)
        self.add_scans(len(self.orders))
        self.out_norm = nn.LayerNorm(self.inner)
        self.out_proj = nn.Linear(self.inner, width, bias=bias)
        for weight, step_bias in zip(self.step_weight, self.step_bias, strict=True):
            draw_step_size(weight.detach(), step_bias.detach())
        draw_linear([self.in_proj, self.out_proj])
        self.mark()

    def forward(self, x: Tensor) -> Tensor:
        """(B, *S, C) to (B, *S, C)."""
        u = self.in_proj(x)
        if self.gate:
            u, z = u.chunk(2, dim=-1)
        u = channels_last(F.silu(self.conv(channels_first(u))))
        grid, tokens = u.shape[1:-1], u.flatten(1, -2)
        # One product for all orders reads the tokens once.
        projected = F.linear(tokens, self.x_proj.flatten(0, 1)).unflatten(-1, self.x_proj.shape[:2]).transpose(1, 2)
        y = self.out_norm(self.scan(tokens.mT, projected, None, grid)).unflatten(1, grid)
        return cast(Tensor, self.out_proj(y * F.silu(z) if self.gate else y))


class MapMixer(TokenMixer):
    """A mixer of tokens for maps."""

    def forward(self, x: Tensor, grid: Sequence[int] = ()) -> Tensor:
        """(B, *S, C) to (B, *S, C); the grid is the map's."""
        return super().forward(x.flatten(1, -2), grid or x.shape[1:-1]).view(x.shape)


class VSSBlock(nn.Module):
    """SS2D and, unless ``mlp_ratio`` is 0, an MLP, each behind a norm and beside a residual.

    Args:
        width: C.
        mixer: SS2D of this width, or a `MapMixer`; None: the MLP only.
        mlp_ratio: hidden width of the MLP over C; 0: none.
        drop_path: rate of stochastic depth of both branches.
    """

    def __init__(self, width: int, mixer: nn.Module | None, *, mlp_ratio: float = 4.0, drop_path: float = 0.0) -> None:
        super().__init__()
        self.mixer = mixer
        if mixer is not None:
            self.norm1 = nn.LayerNorm(width)
        self.drop = DropPath(drop_path)
        self.has_mlp = mlp_ratio > 0
        if self.has_mlp:
            hidden = int(mlp_ratio * width)
            self.norm2 = nn.LayerNorm(width)
            self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
            draw_linear(self.mlp)

    def forward(self, x: Tensor) -> Tensor:
        """(B, *S, C) to (B, *S, C)."""
        if self.mixer is not None:
            x = x + self.drop(self.mixer(self.norm1(x)))
        return x + self.drop(self.mlp(self.norm2(x))) if self.has_mlp else x


class ConvLayerNorm(nn.Module):
    """A convolution and LayerNorm of its channels: (B, *S, C_in) to (B, *S', C_out)."""

    def __init__(self, convolution: nn.Module, out_channels: int) -> None:
        super().__init__()
        self.conv = convolution
        self.norm = nn.LayerNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised features."""
        return cast(Tensor, self.norm(channels_last(self.conv(channels_first(x)))))


class PatchMerging(nn.Module):
    """Join neighbours, two along each axis: (B, *S, C_in) to (B, *S / 2, C_out); a last odd row has zeros beside it.

    Zeros as in a release of the authors' ``classification`` folder; their single file cannot merge odd maps.
    """

    def __init__(self, in_channels: int, out_channels: int, dims: int) -> None:
        super().__init__()
        self.dims = dims
        self.norm = nn.LayerNorm(2**dims * in_channels)
        self.reduction = nn.Linear(2**dims * in_channels, out_channels, bias=False)
        draw_linear([self.reduction])

    def forward(self, x: Tensor) -> Tensor:
        """Joined in the authors' order: the first axis alternates fastest."""
        x = F.pad(x, (0, 0, *(size % 2 * side for size in x.shape[-2:0:-1] for side in (0, 1))))
        for axis in range(1, self.dims + 1):
            x = torch.cat([x.unflatten(axis, (-1, 2)).select(axis + 1, i) for i in (0, 1)], -1)
        return cast(Tensor, self.reduction(self.norm(x)))


def _halving(in_channels: int, out_channels: int, dims: int) -> ConvLayerNorm:
    """Convolution of size 3 and stride 2: odd sizes are rounded up."""
    return ConvLayerNorm(conv(in_channels, out_channels, (3,) * dims, (2,) * dims), out_channels)


def make_stem(kind: Stem, in_channels: int, width: int, dims: int) -> nn.Sequential:
    """Image, channels last, to a quarter of its resolution."""
    if kind == "plain":
        return nn.Sequential(ConvLayerNorm(merging_conv(in_channels, width, (4,) * dims), width))
    if kind != "deep":
        raise ValueError(f"stem must be 'plain' or 'deep', got {kind!r}")
    first, second = _halving(in_channels, width // 2, dims), _halving(width // 2, width, dims)
    return nn.Sequential(first, nn.GELU(), second)


def make_downsampling(kind: Downsampling, in_channels: int, out_channels: int, dims: int) -> nn.Module:
    """A map, channels last, to half of its resolution."""
    if kind == "merge":
        return PatchMerging(in_channels, out_channels, dims)
    if kind == "patch":
        return ConvLayerNorm(merging_conv(in_channels, out_channels, (2,) * dims), out_channels)
    if kind != "conv":
        raise ValueError(f"downsampling must be one of {', '.join(get_args(Downsampling))}, got {kind!r}")
    return _halving(in_channels, out_channels, dims)
