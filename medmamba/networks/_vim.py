"""The column of Vision Mamba: patches of an image as one sequence, read forwards and backwards by every block.

Letters: B batch, C channels, S spatial axes, P axes of the grid of patches, L tokens, d width.

References:
    Zhu et al., "Vision Mamba: Efficient Visual Representation Learning with Bidirectional State Space Model", 2024.
    Class token in the middle, as in the released weights; the paper's equation puts it first, and its ablations know
    one at each end, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medmamba.errors import UsageError
from medmamba.kernels import bidirectional
from medmamba.networks._backbone import DropPath, check_dims, check_least, drop_rates, run
from medmamba.networks._blocks import merging_conv
from medmamba.networks._mixers import Mixer, TokenMixer, check_mixer
from medmamba.networks._ssm import GridMamba, StepStart
from medmamba.networks.mamba import MambaBlock

_INTERPOLATION = {2: "bicubic", 3: "trilinear"}


#: Class tokens among the patches: none, one before the second half of them (a smaller half if their number is odd), one
#: before all, or one before and one after all.
ClassTokens = Literal["none", "middle", "first", "ends"]
#: RMS norm with a weight; layer norm with weight and bias.
VimNorm = Literal["rms", "layer"]
_NORMS: dict[VimNorm, type[nn.Module]] = {"rms": nn.RMSNorm, "layer": nn.LayerNorm}

#: Makes a module of a width.
OfWidth = Callable[[int], nn.Module]


def token_places(kind: ClassTokens, patches: int) -> tuple[int, ...]:
    """Where in the sequence the class tokens stand, first to last."""
    return {"none": (), "middle": (patches // 2,), "first": (0,), "ends": (0, patches + 1)}[kind]


def split_tokens(kind: ClassTokens, y: Tensor) -> tuple[Tensor, Tensor]:
    """A stream (B, L, d) as patches and class tokens, (B, T, d) each."""
    places = token_places(kind, y.shape[1] - len(token_places(kind, 0)))
    parts = y.tensor_split([cut for place in places for cut in (place, place + 1)], dim=1)
    return torch.cat(parts[::2], dim=1), torch.cat(parts[1::2] or (y[:, :0],), dim=1)


def insert_tokens(kind: ClassTokens, patches: Tensor, tokens: Tensor) -> Tensor:
    """The stream of patches and class tokens: the inverse of `split_tokens`."""
    cuts = [place - before for before, place in enumerate(token_places(kind, patches.shape[1]))]
    first, *others = patches.tensor_split(cuts, dim=1)
    pairs = zip(tokens[:, :, None].unbind(1), others, strict=True)
    return torch.cat([first, *(part for pair in pairs for part in pair)], dim=1)


def make_norm(width: int, kind: VimNorm = "rms", eps: float = 1e-5) -> nn.Module:
    """The norm before each block and after the last.

    Raises:
        ValueError: for another kind.
    """
    if kind not in _NORMS:
        raise ValueError(f"a norm must be one of {', '.join(_NORMS)}, got {kind!r}")
    return _NORMS[kind](width, eps=eps)


def mixer_of(name: Mixer, dims: int, *, states: int = 16, step_start: StepStart = "mamba") -> OfWidth | None:
    """What makes a block's mixer; "bimamba" is the published one, alone so that weights have the published names.

    Args:
        name: see `Mixer`; "none" gives None: there are no blocks.
        dims: axes of the grid of patches, for other mixers.
        states: per channel and direction.
        step_start: how the step size of the backward direction begins.
    """
    check_mixer(name)
    if name == "none":
        return None
    if name == "bimamba":
        starts: tuple[StepStart, ...] = ("mamba", step_start)
        return lambda width: GridMamba(width, bidirectional(), states=states, mean=True, starts=starts)
    return lambda width: TokenMixer(name, width, dims)


class VimBlock(nn.Module):
    """A norm and what mixes the tokens, beside a residual.

    Args:
        norm: of the stream's width.
        mixer: of the same.
        drop_path: rate of stochastic depth.
    """

    def __init__(self, norm: nn.Module, mixer: nn.Module, *, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm, self.mixer = norm, mixer
        self.drop = DropPath(drop_path)

    def forward(self, x: Tensor, grid: Sequence[int] = ()) -> Tensor:
        """(B, L, d) to (B, L, d), for tokens of a grid; empty: of a sequence."""
        mixed: Tensor = self.mixer(self.norm(x), tuple(grid) or x.shape[1:2])
        return x + cast(Tensor, self.drop(mixed))


class Column(nn.Module):
    """Patches, positions and blocks: what classifier and segmentation network share.

    Args:
        in_channels: channels of the image.
        size: of the image, two or three axes; positions are learned on its grid and interpolated to other grids.
        width: d.
        depth: number of blocks.
        patch: voxels of a patch along each axis.
        stride: from patch to patch; less than ``patch``: they overlap.
        mixer: makes what mixes the tokens in a block; None: there are no blocks. Orders across the grid need one, so
            there must be no class tokens.
        norm: makes the norm before it.
        tokens: class tokens among the patches.
        positions: whether patches and class tokens have learned positions.
        drop_path: rate of stochastic depth in the last block; rises linearly.
        checkpointing: compute blocks again in the backward pass rather than keep their activations.

    Raises:
        ValueError: if the patches do not fit the size, or there is no block.
    """

    def __init__(
        self,
        in_channels: int,
        size: Sequence[int],
        *,
        width: int,
        depth: int,
        patch: Sequence[int],
        stride: Sequence[int],
        mixer: OfWidth | None,
        norm: OfWidth = make_norm,
        tokens: ClassTokens = "none",
        positions: bool = True,
        drop_path: float,
        checkpointing: bool,
    ) -> None:
        super().__init__()
        self.in_channels, self.checkpointing, self.tokens = in_channels, checkpointing, tokens
        self.patch, self.stride = tuple(patch), tuple(stride)
        if len(size) not in _INTERPOLATION or not len(self.patch) == len(self.stride) == len(size):
            raise ValueError(
                f"Vim: size {tuple(size)}, patch {self.patch} and stride {self.stride} must all be 2D or 3D"
            )
        check_least(1, depth=depth, width=width)
        self.grid = self.grid_of(size)
        self.patches = merging_conv(in_channels, width, self.stride, self.patch)
        count = len(token_places(tokens, math.prod(self.grid)))
        self.position = nn.Parameter(torch.empty(1, *self.grid, width)) if positions else None
        self.class_token = nn.Parameter(torch.empty(1, count, width)) if count else None
        self.class_position = nn.Parameter(torch.empty(1, count, width)) if count and positions else None
        rates = drop_rates(drop_path, depth)
        self.blocks = nn.ModuleList(
            VimBlock(norm(width), mixer(width), drop_path=rate) for rate in rates if mixer is not None
        )
        for parameter in (self.position, self.class_token, self.class_position):
            if parameter is not None:
                nn.init.trunc_normal_(parameter, std=0.02)
        _draw_patches(cast(Tensor, self.patches.weight), cast(Tensor, self.patches.bias))
        for block in self.blocks.modules():
            if isinstance(block, (GridMamba, MambaBlock)):
                nn.init.kaiming_uniform_(block.out_proj.weight, a=math.sqrt(5))
                with torch.no_grad():
                    # GPT-2's: the sum of all branches does not grow with their number.
                    block.out_proj.weight /= math.sqrt(depth)

    def grid_of(self, size: Sequence[int]) -> tuple[int, ...]:
        """Patches along each axis of an image.

        Raises:
            UsageError: if they do not cover it exactly.
        """
        if any(n < p or (n - p) % s for n, p, s in zip(size, self.patch, self.stride, strict=True)):
            raise UsageError(
                f"input size {tuple(size)} must be covered by patches of {self.patch} every {self.stride} voxels; "
                "pad it, or take other patches"
            )
        return tuple((n - p) // s + 1 for n, p, s in zip(size, self.patch, self.stride, strict=True))

    def forward(self, x: Tensor, taps: Sequence[int] = ()) -> list[Tensor]:
        """(B, C, *S) to token streams (B, L, d).

        Args:
            x: image.
            taps: after how many blocks to read the stream; empty: after the last.

        Raises:
            ValueError: for another number of channels or axes, or if patches do not cover the image.
        """
        grid = self._grid(x)
        x = self.patches(x).flatten(2).mT
        if self.position is not None:
            x = x + self._positions(self.position, grid).flatten(1, -2)
        if self.class_token is not None:
            token = self.class_token if self.class_position is None else self.class_token + self.class_position
            x = insert_tokens(self.tokens, x, token.expand(x.shape[0], -1, -1))
        depth = len(self.blocks)
        taps = tuple(min(count, depth) for count in taps) or (depth,)
        streams = {0: x} if 0 in taps else {}
        # With a class token among them the patches are a sequence, no grid.
        tokens = () if self.class_token is not None else grid
        for count, block in enumerate(self.blocks, 1):
            x = run(block, x, tokens, checkpointing=self.checkpointing)
            if count in taps:
                streams[count] = x
        return [streams[count] for count in taps]

    def maps(self, x: Tensor, taps: Sequence[int] = ()) -> list[Tensor]:
        """As `forward`, without the class tokens and as maps (B, d, *P)."""
        grid = self._grid(x)
        return [split_tokens(self.tokens, y)[0].mT.unflatten(2, grid) for y in self(x, taps)]

    def _grid(self, x: Tensor) -> tuple[int, ...]:
        check_dims(x, self.in_channels, len(self.patch))
        return self.grid_of(x.shape[2:])

    def _positions(self, learned: Tensor, grid: tuple[int, ...]) -> Tensor:
        if grid == self.grid:
            return learned
        first = learned.movedim(-1, 1)
        return F.interpolate(first, grid, mode=_INTERPOLATION[len(grid)], align_corners=False).movedim(1, -1)


def _draw_patches(weight: Tensor, bias: Tensor) -> None:
    """LeCun's rule from a normal distribution cut at two standard deviations, in place; bias of 0."""
    std = (1 / weight[0].numel()) ** 0.5 / 0.87962566103423978  # what cutting takes from the standard deviation
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
    nn.init.zeros_(bias)
