"""Scan orders: how a grid of tokens becomes a sequence.

Tensors always hold their tokens as the grid lies in memory, last axis fastest. An order says in which sequence a scan
visits them; kernels follow it by strides, so nothing is flipped, permuted or joined.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

#: Nested loops that a walk may need; four are enough for every order of a grid of three axes.
MAX_AXES = 4


@dataclass(frozen=True, slots=True)
class Walk:
    """An order on one grid, as nested loops: step (i_0, i_1, ...) is token ``start + sum i_k strides[k]``.

    Args:
        start: the first token.
        sizes: lengths of the loops, slowest first; at most MAX_AXES.
        strides: how far a step of each loop goes, in tokens.
    """

    start: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def length(self) -> int:
        """Number of tokens."""
        return math.prod(self.sizes)

    @property
    def is_sequence(self) -> bool:
        """Whether tokens are visited as they lie in memory."""
        return self.start == 0 and len(self.sizes) == 1 and self.strides[0] == 1

    def positions(self, device: torch.device | str | None = None) -> Tensor:
        """The tokens in the order of the walk, (L,) int64."""
        where = torch.full((), self.start, dtype=torch.int64, device=device)
        for size, stride in zip(self.sizes, self.strides, strict=True):
            where = where[..., None] + torch.arange(size, device=device) * stride
        return where.reshape(-1)

    def encode(self) -> list[int]:
        """Start, then MAX_AXES sizes and MAX_AXES strides, slowest first; loops of one step come first."""
        blank = MAX_AXES - len(self.sizes)
        return [self.start, *(1,) * blank, *self.sizes, *(0,) * blank, *self.strides]


def sequence(length: int) -> Walk:
    """The walk over tokens as they lie in memory."""
    return Walk(0, (length,), (1,))


def encode(walks: Iterable[Walk]) -> list[int]:
    """What `Walk.encode` makes of walks, one after the other."""
    return [number for walk in walks for number in walk.encode()]


def decode(numbers: Sequence[int]) -> tuple[Walk, ...]:
    """Walks from what `encode` made of them."""
    size = 1 + 2 * MAX_AXES
    walks = []
    for at in range(0, len(numbers), size):
        start, *rest = numbers[at : at + size]
        walks.append(Walk(start, tuple(rest[:MAX_AXES]), tuple(rest[MAX_AXES:])))
    return tuple(walks)


def check_recorded(lengths: Iterable[int], length: int) -> None:
    """Refuse walks of another length, which a program may hold that torch.jit.trace recorded for it.

    Raises:
        ValueError: naming both lengths.
    """
    for recorded in lengths:
        if recorded != length:
            raise ValueError(
                f"medmamba.kernels: this program was recorded for {recorded} tokens, but got {length}; record it again "
                "for that length, or write it with torch.export and a dynamic length"
            )


@dataclass(frozen=True, slots=True)
class ScanOrder:
    """How a grid of tokens, say (D, H, W), (T, H, W) or (H, W), becomes a sequence.

    First some axes are turned round and all are permuted, then the sequence is cut in equal pieces whose tokens
    alternate, and last it is reversed.

    Args:
        axes: the grid's axes from slowest to fastest; empty: as they lie in memory.
        backward: axes of the grid that are read from their end. On (T, H, W) with backward = (1, 2) frames come one
            after the other, each from its last pixel to its first.
        pieces: the sequence is cut in so many pieces, of which first all first tokens come, then all second ones, and
            so on: slices or frames interleaved. With pieces = D a grid (D, H, W) is read along D first. 12 tokens in 3
            pieces: 0 4 8 1 5 9 2 6 10 3 7 11.
        reverse: whether to go from the last token to the first.
    """

    axes: tuple[int, ...] = ()
    pieces: int = 1
    reverse: bool = False
    backward: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if sorted(self.axes) != list(range(len(self.axes))):
            raise ValueError(f"ScanOrder: axes must be a permutation of 0, 1, ..., but are {self.axes}")
        if self.pieces < 1:
            raise ValueError(f"ScanOrder: pieces must be at least 1, but are {self.pieces}")
        if len(set(self.backward)) < len(self.backward) or min(self.backward, default=0) < 0:
            raise ValueError(f"ScanOrder: backward must name axes 0, 1, ..., each once, but is {self.backward}")

    def walk(self, grid: Sequence[int]) -> Walk:
        """This order on a grid.

        Args:
            grid: numbers of tokens along the axes, slowest first.

        Raises:
            ValueError: if the grid has another number of axes than the order, if its tokens cannot be cut in equal
                pieces, or if that takes more than MAX_AXES loops.
        """
        grid = tuple(grid)
        if self.axes and len(self.axes) != len(grid):
            raise ValueError(f"ScanOrder: axes {self.axes} do not fit the grid {grid}: one number for each of its axes")
        if max(self.backward, default=0) >= len(grid):
            raise ValueError(f"ScanOrder: backward {self.backward} names an axis that the grid {grid} does not have")
        strides = [math.prod(grid[i + 1 :]) * (-1 if i in self.backward else 1) for i in range(len(grid))]
        start = sum((1 - grid[i]) * strides[i] for i in self.backward) if math.prod(grid) else 0
        loops = _merge([(grid[i], strides[i]) for i in self.axes or range(len(grid))])
        if self.pieces > 1:
            loops = _merge(self._interleave(loops, grid))
        if len(loops) > MAX_AXES:
            raise ValueError(
                f"ScanOrder: {self} on a grid {grid} takes {len(loops)} nested loops; {MAX_AXES} is the most"
            )
        if self.reverse:
            start += sum((size - 1) * stride for size, stride in loops) if math.prod(grid) else 0
            loops = [(size, -stride) for size, stride in loops]
        return Walk(start, tuple(size for size, _ in loops), tuple(stride for _, stride in loops))

    def _interleave(self, loops: list[tuple[int, int]], grid: tuple[int, ...]) -> list[tuple[int, int]]:
        """Move the loop over the pieces, the slowest part of the loops, to the fast end."""
        pieces, left = self.pieces, list(loops)
        outer: list[tuple[int, int]] = []
        while pieces > 1 and left:
            size, stride = left.pop(0)
            if size % pieces == 0:
                outer.append((pieces, stride * (size // pieces)))
                left.insert(0, (size // pieces, stride))
                pieces = 1
            elif pieces % size == 0:
                outer.append((size, stride))
                pieces //= size
            else:
                break
        if pieces > 1:
            raise ValueError(
                f"ScanOrder: a grid {grid} cannot be cut in {self.pieces} equal pieces; "
                f"take a number that divides its {math.prod(grid)} tokens"
                + (" and falls on whole axes" if self.axes or self.backward else "")
            )
        return left + outer


def _merge(loops: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join loops that step on where the next faster one ends, and drop those of one step."""
    merged: list[tuple[int, int]] = []
    for size, stride in loops:
        if merged and merged[-1][1] == size * stride:
            merged[-1] = (merged[-1][0] * size, stride)
        elif size != 1:
            merged.append((size, stride))
    return merged or [(1, 1)]


FORWARD = ScanOrder()
BACKWARD = ScanOrder(reverse=True)


def bidirectional() -> tuple[ScanOrder, ScanOrder]:
    """Forwards and backwards: Vim's two."""
    return FORWARD, BACKWARD


def interleaved(pieces: int) -> tuple[ScanOrder, ScanOrder, ScanOrder]:
    """Forwards, backwards, and with slices or frames interleaved: SegMamba's and Vivim's three.

    Args:
        pieces: slices of the volume, or frames of the clip.
    """
    return FORWARD, BACKWARD, ScanOrder(pieces=pieces)


def cross(dims: int = 2) -> tuple[ScanOrder, ...]:
    """Along each axis, then the same backwards: VMamba's four in 2D (rows, columns, and both reversed), six in 3D.

    Args:
        dims: axes of the grid.
    """
    along = [ScanOrder(axes=(*range(last + 1, dims), *range(last + 1))) for last in reversed(range(dims))]
    return (*along, *(ScanOrder(axes=order.axes, reverse=True) for order in along))
