"""SegFormer: a pyramid of transformer stages, and the light decoder that joins its maps.

Tensors are channels-last. Letters: N images, h and w rows and columns of a feature map, C channels, K classes.

References:
    Xie et al., "SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers", 2021.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medmamba.errors import UsageError
from medmamba.networks._backbone import DropPath, channels_first, channels_last, draw_linear
from medmamba.networks._blocks import conv, merging_conv, pointwise

#: Width inside the feed-forward parts over that outside.
EXPANSION = 4


class PatchEmbedding(nn.Module):
    """Patches that overlap: a strided convolution and LayerNorm."""

    def __init__(self, in_channels: int, width: int, kernel: Sequence[int], stride: Sequence[int]) -> None:
        super().__init__()
        self.proj = conv(in_channels, width, kernel, stride)
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, h, w, C)."""
        return cast(Tensor, self.layer_norm(channels_last(self.proj(x))))


class Attention(nn.Module):
    """Attention whose keys and values are read from a coarser map.

    Args:
        width: C.
        heads: which divide the width.
        reduction: pixels of the map per pixel of the coarser one, per axis; ones: none is made.
    """

    def __init__(self, width: int, heads: int, reduction: Sequence[int]) -> None:
        super().__init__()
        if width % heads:
            raise UsageError(f"heads must divide the width of their stage, but {heads} do not divide {width}")
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        coarser = math.prod(reduction) > 1
        self.sr = merging_conv(width, width, reduction) if coarser else None
        self.layer_norm = nn.LayerNorm(width) if coarser else None
        self.dense = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, h, w, C) to (N, h, w, C)."""
        source = x
        if self.sr is not None and self.layer_norm is not None:
            source = self.layer_norm(channels_last(self.sr(channels_first(x))))
        parts = self._split(self.query(x)), self._split(self.key(source)), self._split(self.value(source))
        mixed = F.scaled_dot_product_attention(*parts)
        return cast(Tensor, self.dense(mixed.transpose(1, 2).reshape(x.shape)))

    def _split(self, x: Tensor) -> Tensor:
        """(N, h, w, C) to (N, heads, h w, C / heads)."""
        return cast(Tensor, x.flatten(1, 2).unflatten(-1, (self.heads, -1))).transpose(1, 2)


class ConvFeedForward(nn.Module):
    """Linear layers around a depthwise convolution and GELU; the convolution tells a token where it is.

    Args:
        width: C.
        dims: axes of the grid of tokens, 2 or 3.
        expansion: width between the linear layers over C.
        padding: of the convolution; None: such that the size stays.
    """

    def __init__(
        self, width: int, dims: int, expansion: float = EXPANSION, padding: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        inner = int(expansion * width)
        self.fc1 = nn.Linear(width, inner)
        self.dwconv = conv(inner, inner, (3,) * dims, groups=inner, padding=padding)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, *grid, C) to the same shape."""
        return self._narrow(self.fc1(x))

    def _narrow(self, inner: Tensor) -> Tensor:
        """What follows the first linear layer."""
        y = channels_last(self.dwconv(channels_first(inner)))
        return cast(Tensor, self.fc2(F.gelu(y)))


class CausalFeedForward(ConvFeedForward):
    """`ConvFeedForward` on clips, whose convolution sees no frame after the one that it is for.

    Args:
        width: C.
        expansion: width between the linear layers over C.
    """

    #: Frames before the present one that the convolution sees.
    PAST = 2

    def __init__(self, width: int, expansion: float = EXPANSION) -> None:
        super().__init__(width, 3, expansion, padding=(0, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, h, w, C) to the same shape."""
        return self.advance(x, ())[0]

    def advance(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """As `forward`, for frames that follow those of a state; () where none came before."""
        inner = self.fc1(x)
        past = state[0] if state else inner.new_zeros(inner.shape[0], self.PAST, *inner.shape[2:])
        seen = torch.cat([past, inner], dim=1)
        return self._narrow(seen), (seen[:, -self.PAST :],)


class Block(nn.Module):
    """Attention and feed-forward part, each behind a LayerNorm and beside a residual.

    Args:
        width: C.
        heads: see `Attention`.
        reduction: see `Attention`.
        drop_path: rate of stochastic depth.
    """

    def __init__(self, width: int, heads: int, reduction: Sequence[int], drop_path: float) -> None:
        super().__init__()
        self.layer_norm_1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads, reduction)
        self.layer_norm_2 = nn.LayerNorm(width)
        self.mlp = ConvFeedForward(width, 2)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(N, h, w, C) to (N, h, w, C)."""
        x = x + self.drop_path(self.attention(self.layer_norm_1(x)))
        return x + cast(Tensor, self.drop_path(self.mlp(self.layer_norm_2(x))))


class Decoder(nn.Module):
    """All maps at one width, joined at the finest resolution; logits of the input's size.

    Args:
        widths: of the maps, finest first.
        width: of the joined map.
        out_channels: K.
        dropout: rate before the logits.
    """

    def __init__(self, widths: Sequence[int], width: int, out_channels: int, dropout: float) -> None:
        super().__init__()
        self.linear_c = nn.ModuleList(nn.Linear(each, width) for each in widths)
        self.linear_fuse = pointwise(len(widths) * width, width, 2, bias=False)
        self.batch_norm = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout(dropout)
        self.out = pointwise(width, out_channels, 2)

    def forward(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Maps (N, h, w, C) of all stages, finest first, to logits (N, K, *size)."""
        finest = tuple(maps[0].shape[1:3])
        # The published layer joins all maps, coarsest first, at the finest resolution. Its part for each map works on
        # pixels one by one and so commutes with interpolation: here it runs before, on fewer pixels and no joined copy.
        parts = self.linear_fuse.get_parameter("weight").flatten(1).chunk(len(maps), dim=1)[::-1]
        fused = (F.linear(linear(x), part) for linear, part, x in zip(self.linear_c, parts, maps, strict=True))
        joined = reduce(torch.add, (resize(channels_first(x), finest) for x in fused))
        return resize(self.out(self.dropout(F.relu(self.batch_norm(joined)))), size)


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """(N, C, h, w) to (N, C, *size), bilinear, the outer edges of the outermost pixels in place."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=False)


def initialise(network: nn.Module) -> None:
    """The authors' initialisation: linear layers as in vision transformers, He's rule by fan-out for convolutions."""
    draw_linear(network.modules())
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
