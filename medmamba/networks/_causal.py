"""Mixing a clip so that no frame sees a later one, and frame by frame with a state in between.

Letters: B batch, T frames, S spatial axes of the grid, L tokens, P tokens of a frame, d model width, e inner width, K
orders, N states, W taps.

An order of a clip has a causal counterpart. Time runs forward in it; where the order goes to and fro in space, so does
the counterpart within each frame. An order that has space outside of time (pixel by pixel, each through all frames)
would lead from the last frame of one pixel to the first of the next: there each pixel is a sequence of its own. Vivim's
three orders become: all frames forward; all frames forward, each from its last pixel to its first; each pixel through
time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medmamba.kernels import ScanOrder, causal_conv
from medmamba.networks._ssm import GridMamba

#: What a part of a network remembers between frames: tensors in nested tuples; () where no frame came before.
State = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Orders that have the same axes outside of time.

    Args:
        outside: axes of the grid whose every index is a sequence of its own.
        inside: the other axes but time, as they lie in memory.
        which: K numbers of the orders.
        orders: K orders of the grid (T, *inside).
    """

    outside: tuple[int, ...]
    inside: tuple[int, ...]
    which: list[int]
    orders: list[ScanOrder]

    def fold(self, x: Tensor, grid: Sequence[int]) -> Tensor:
        """(B, L, C) to (B', L', C), B' for each clip and index outside; of a single clip a view, if all is outside."""
        axes = 0, *(1 + axis for axis in self.outside), 1, *(1 + axis for axis in self.inside), 1 + len(grid)
        sequences = x.shape[0] * math.prod(grid[axis] for axis in self.outside)
        return torch.unflatten(x, 1, tuple(grid)).permute(axes).reshape(sequences, -1, x.shape[2])

    def unfold(self, y: Tensor, grid: Sequence[int]) -> Tensor:
        """What `fold` did, undone: (B, *grid, C), a view."""
        axes = *self.outside, 0, *self.inside
        back = sorted(range(len(grid)), key=lambda place: axes[place])
        y = y.view(-1, *(grid[axis] for axis in axes), y.shape[-1])
        return y.permute(0, *(1 + place for place in back), 1 + len(grid))


def causal_groups(orders: Sequence[ScanOrder], dims: int = 3) -> tuple[Group, ...]:
    """The causal counterparts of orders on a grid whose first axis is time.

    Args:
        orders: none with pieces.
        dims: axes of the grid.
    """
    groups: dict[tuple[int, ...], Group] = {}
    for number, order in enumerate(orders):
        axes = order.axes or tuple(range(dims))
        outside = tuple(sorted(axes[: axes.index(0)]))
        inside = tuple(sorted(axes[axes.index(0) + 1 :]))
        group = groups.setdefault(outside, Group(outside, inside, [], []))
        places = tuple(1 + inside.index(axis) for axis in axes[axes.index(0) + 1 :])
        group.which.append(number)
        group.orders.append(ScanOrder(axes=(0, *places), backward=tuple(sorted(places)) if order.reverse else ()))
    return tuple(groups.values())


class CausalGridMamba(GridMamba):
    """`GridMamba` on clips with the causal counterparts of its orders; the parameters are the same.

    Arguments are those of `GridMamba`; orders do not share.
    """

    def __init__(self, width: int, orders: Sequence[ScanOrder], **options: Any) -> None:
        super().__init__(width, orders, **options)
        self.groups = causal_groups(self.orders)

    def forward(self, x: Tensor, grid: Sequence[int]) -> Tensor:
        """(B, L, d) to (B, L, d), for tokens of a grid (T, *S) whose sizes multiply to L, last axis fastest."""
        return self.advance(x, grid, ())[0]

    def advance(self, x: Tensor, grid: Sequence[int], state: State) -> tuple[Tensor, State]:
        """As `forward`, for frames that follow those of a state; () where none came before.

        The state has for each group the inputs of the convolution that it still reaches, (B', L', e), and the states of
        the scans, (B', K, e, N).
        """
        u, z = self.in_proj(x).chunk(2, dim=-1)
        total: Tensor | None = None
        after = []
        for number, group in enumerate(self.groups):
            y, known = self._run(group, group.fold(u, grid), group.fold(z, grid), grid, state[number] if state else ())
            y = group.unfold(y, grid)
            total = y if total is None else total + y
            after.append(known)
        assert total is not None
        return self.leave(total.flatten(1, -2)), tuple(after)

    def _run(self, group: Group, u: Tensor, z: Tensor, grid: Sequence[int], state: State) -> tuple[Tensor, State]:
        """The orders of a group on (B', L', e), and what they remember."""
        inside = [grid[axis] for axis in group.inside]
        pixels, taps = math.prod(inside), self.conv_weight.shape[-1]
        # Which tokens came last is different in each order, but all of them lie in the last few frames.
        seen, known = (torch.cat([state[0], u], dim=1), state[0].shape[1]) if state else (u, 0)
        reached = pixels * math.ceil((taps - 1) / pixels)
        convolved = causal_conv(
            seen.mT,
            self.conv_weight[group.which],
            None if self.conv_bias is None else self.conv_bias[group.which],
            orders=group.orders,
            grid=(seen.shape[1] // pixels, *inside),
        )[..., known:]
        y, states = self.scan_from(
            convolved,
            torch.matmul(convolved.mT, self.x_proj[group.which].mT),
            z.mT,
            (grid[0], *inside),
            self.scale,
            group.orders,
            [each[group.which] for each in (self.A_log, self.D, self.step_weight, self.step_bias)],
            state[1] if state else None,
        )
        return y, (seen[:, max(seen.shape[1] - reached, 0) :], states)


def kept(state: State) -> State:
    """A state that holds on to no graph and to no memory but its own."""
    return tuple(_alone(part.detach()) if isinstance(part, Tensor) else kept(part) for part in state)


def _alone(tensor: Tensor) -> Tensor:
    """The tensor, or a copy where it is a part of a larger one."""
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
