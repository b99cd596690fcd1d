"""The column of Vision Mamba: patches of an image as one sequence, read forwards and backwards by every block.

Letters: B batch, C channels, S spatial axes, P axes of the grid of patches, L tokens, d width.

References:
    Zhu et al., "Vision Mamba: Efficient Visual Representation Learning with Bidirectional State Space Model", 2024.
    Class token in the middle, as in the released weights; the paper's equation puts it first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812  (the name everybody knows)
from torch import Tensor, nn

from medmamba.kernels import bidirectional
from medmamba.networks._backbone import DropPath, check_dims, drop_rates, run
from medmamba.networks._mixers import Mixer, TokenMixer, check_mixer
from medmamba.networks._ssm import GridMamba, StepStart
from medmamba.networks.mamba import MambaBlock

#: A convolution that does not pad: it makes the patches.
_CONV: dict[int, type[nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
_INTERPOLATION = {2: "bicubic", 3: "trilinear"}


class VimBlock(nn.Module):
    """RMSNorm and a Mamba block in both directions, or another mixer, beside a residual.

    Args:
        width: d.
        states: per channel and direction.
        drop_path: rate of stochastic depth.
        step_start: how the step size of the backward direction begins.
        mixer: what mixes the tokens, but not "none"; the published one has ``states`` and ``step_start``.
        dims: axes of the grid of patches, for other mixers.
    """

    def __init__(
        self,
        width: int,
        *,
        states: int = 16,
        drop_path: float = 0.0,
        step_start: StepStart = "mamba",
        mixer: Mixer = "bimamba",
        dims: int = 1,
    ) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=1e-5)
        self.mixer: nn.Module
        # The published block by itself, so that weights have the published names.
        if mixer == "bimamba":
            self.mixer = GridMamba(width, bidirectional(), states=states, mean=True, starts=("mamba", step_start))
        else:
            self.mixer = TokenMixer(mixer, width, dims)
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
        states: per channel and direction.
        class_token: whether one more token stands in the middle of the sequence.
        drop_path: rate of stochastic depth in the last block; rises linearly.
        step_start: how the step size of the backward direction begins: as in `medmamba.networks.vim.Vim`.
        mixer: what mixes the tokens; "none": there are no blocks. Orders across the grid need one, so there must be no
            class token.
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
        states: int,
        class_token: bool,
        drop_path: float,
        step_start: StepStart,
        mixer: Mixer,
        checkpointing: bool,
    ) -> None:
        super().__init__()
        check_mixer(mixer)
        self.in_channels, self.checkpointing = in_channels, checkpointing
        self.patch, self.stride = tuple(patch), tuple(stride)
        if len(size) not in _CONV or not len(self.patch) == len(self.stride) == len(size):
            raise ValueError(
                f"Vim: size {tuple(size)}, patch {self.patch} and stride {self.stride} must all be 2D or 3D"
            )
        if depth < 1:
            raise ValueError(f"Vim: depth must be at least 1, got {depth}")
        self.grid = self.grid_of(size)
        self.patches = _CONV[len(size)](in_channels, width, self.patch, stride=self.stride)
        self.position = nn.Parameter(torch.empty(1, *self.grid, width))
        self.class_token = nn.Parameter(torch.empty(1, 1, width)) if class_token else None
        self.class_position = nn.Parameter(torch.empty(1, 1, width)) if class_token else None
        self.blocks = nn.ModuleList(
            VimBlock(width, states=states, drop_path=rate, step_start=step_start, mixer=mixer, dims=len(size))
            for rate in drop_rates(drop_path, 0 if mixer == "none" else depth)
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
            ValueError: if they do not cover it exactly.
        """
        if any(n < p or (n - p) % s for n, p, s in zip(size, self.patch, self.stride, strict=True)):
            raise ValueError(
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
        x = self.patches(x).flatten(2).mT + self._positions(grid).flatten(1, -2)
        if self.class_token is not None and self.class_position is not None:
            middle = x.shape[1] // 2
            token = (self.class_token + self.class_position).expand(x.shape[0], -1, -1)
            x = torch.cat([x[:, :middle], token, x[:, middle:]], dim=1)
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
        """As `forward`, without the class token and as maps (B, d, *P)."""
        grid = self._grid(x)
        streams = self(x, taps)
        if self.class_token is not None:
            middle = math.prod(grid) // 2
            streams = [torch.cat([y[:, :middle], y[:, middle + 1 :]], dim=1) for y in streams]
        return [y.mT.unflatten(2, grid) for y in streams]

    def _grid(self, x: Tensor) -> tuple[int, ...]:
        check_dims(x, self.in_channels, len(self.patch))
        return self.grid_of(x.shape[2:])

    def _positions(self, grid: tuple[int, ...]) -> Tensor:
        if grid == self.grid:
            return self.position
        first = self.position.movedim(-1, 1)
        return F.interpolate(first, grid, mode=_INTERPOLATION[len(grid)], align_corners=False).movedim(1, -1)


def _draw_patches(weight: Tensor, bias: Tensor) -> None:
    """LeCun's rule from a normal distribution cut at two standard deviations, in place; bias of 0."""
    std = (1 / weight[0].numel()) ** 0.5 / 0.87962566103423978  # what cutting takes from the standard deviation
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
    nn.init.zeros_(bias)
