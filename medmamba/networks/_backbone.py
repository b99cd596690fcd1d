"""What backbones of residual blocks share: their pyramid as data, stochastic depth, recomputed activations.

Letters: B batch, L tokens, C channels, S spatial axes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from medmamba.errors import UsageError
from medmamba.plans.plan import Topology


@dataclass(frozen=True, slots=True)
class Pyramid:
    """The feature maps that a backbone's ``features`` returns, finest first.

    Args:
        channels: of each map.
        strides: voxels of the input per voxel of each map, per axis.

    Raises:
        ValueError: if the lists do not fit together, or a map is finer than the one before it.
    """

    channels: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if not self.channels or len(self.channels) != len(self.strides):
            raise ValueError(f"a pyramid needs channels and strides of each level, got {self.channels}, {self.strides}")
        if any(b < a for fine, coarse in pairwise(self.strides) for a, b in zip(fine, coarse, strict=True)):
            raise ValueError(f"the levels of a pyramid must run from fine to coarse, got strides {self.strides}")


class DropPath(nn.Module):
    """Stochastic depth: in training, leave out a residual branch for some batch entries.

    Args:
        rate: how often; what remains is scaled up so that the mean stays.

    References:
        Huang et al., "Deep Networks with Stochastic Depth", 2016.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise UsageError(f"drop_path must be at least 0 and less than 1, got {rate}")
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        """(B, ...) to the same shape."""
        if not self.training or self.rate == 0:
            return branch
        keep = torch.rand(branch.shape[0], *(1,) * (branch.dim() - 1), device=branch.device) >= self.rate
        return branch * (keep / (1 - self.rate)).to(branch.dtype)


def drop_rates(rate: float, depth: int) -> list[float]:
    """Rates of stochastic depth rising linearly from 0 in the first block to ``rate`` in the last."""
    return [rate * index / max(depth - 1, 1) for index in range(depth)]


def run(block: nn.Module, x: Tensor, *others: Any, checkpointing: bool) -> Tensor:
    """A block's output; with ``checkpointing`` its activations are computed again in the backward pass, not kept."""
    if checkpointing and torch.is_grad_enabled():
        return cast(Tensor, checkpoint(block, x, *others, use_reentrant=False))
    return cast(Tensor, block(x, *others))


def cascade(stages: Iterable[nn.Module], x: Tensor, *, checkpointing: bool) -> list[Tensor]:
    """The maps after each of several stages, one after the other; see `run`."""
    maps = []
    for stage in stages:
        x = run(stage, x, checkpointing=checkpointing)
        maps.append(x)
    return maps


def channels_last(x: Tensor) -> Tensor:
    """(B, C, *S) to (B, *S, C), a view."""
    return x.movedim(1, -1)


def channels_first(x: Tensor) -> Tensor:
    """(B, *S, C) to (B, C, *S), a view."""
    return x.movedim(-1, 1)


def draw_linear(modules: Iterable[nn.Module], std: float = 0.02) -> None:
    """Initialise linear layers as vision transformers do: truncated normal weights, biases of 0."""
    for module in modules:
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def check_least(least: int, **values: float) -> None:
    """Refuse options that are too small.

    Raises:
        UsageError: naming the first one.
    """
    for name, value in values.items():
        if value < least:
            raise UsageError(f"{name} must be at least {least}, got {value}")


def check_row(rule: str, given: Any, count: int, least: int, *, may_lack: bool = True) -> None:
    """Refuse an option that is no list of so many numbers, none too small; empty it may be, where it may lack.

    Raises:
        UsageError: with the rule and what is given.
    """
    is_row = isinstance(given, Sequence) and not isinstance(given, str)
    if not is_row or ((given or not may_lack) and (len(given) != count or min(given) < least)):
        raise UsageError(f"{rule}, but are {tuple(given) if is_row else repr(given)}")


def check_dims(x: Tensor, channels: int, dims: int) -> None:
    """Refuse an input that is not (B, channels, *S) with ``dims`` spatial axes.

    Raises:
        ValueError: naming the shape.
    """
    if x.dim() != dims + 2 or x.shape[1] != channels:
        axes = ", ".join("DHW"[-dims:])
        raise ValueError(f"input must be (batch, {channels} channels, {axes}), but is {tuple(x.shape)}")


def accumulate(strides: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """Total stride at each level, per axis, from the strides between levels."""
    return tuple(tuple(map(math.prod, zip(*strides[: level + 1], strict=True))) for level in range(len(strides)))


def topology_of(
    patch: Sequence[int], strides: Sequence[Sequence[int]], kernels: Sequence[Sequence[int]], features: Sequence[int]
) -> Topology:
    """A topology from the lists of a configuration."""
    return Topology(
        patch_size=tuple(patch),
        strides=tuple(map(tuple, strides)),
        kernel_sizes=tuple(map(tuple, kernels)),
        features=tuple(features),
    )
