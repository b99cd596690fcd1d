"""What the CPU kernels are told: one array of integers per call."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterable
from typing import Any

#: Steps of a tile, and between two states that the forward pass keeps for the backward pass.
TILE = 64
#: Steps that one block goes before the next one has its turn: the memory pages of so many tokens stay at hand while all
#: blocks of a thread read their channels from them.
STRETCH = 512
#: Steps that a panel may have.
PANEL = 4096
#: Channels of a block.
WIDTH = 16
#: Floats from one tile to the next in scratch: a little more than a tile. At a distance of exactly 4096 bytes a
#: processor takes a load from one tile for a load of what was just stored to another.
AREA = TILE * WIDTH + 5 * WIDTH
#: Integers that say which tokens a tile and the next one hold, and how they lie.
POSITIONS = 2 * TILE + TILE // WIDTH
#: Tiles of scratch that the kernels use, before what depends on the number of states.
FORWARD_AREAS, BACKWARD_AREAS = 5, 13


#: Sizes and flags; GROUPS are of channels that share both B and C, BLOCKS those in all entries, SLOTS of lanes: blocks,
#: or the pieces of a lone block. WALKS is the address of encoded walks.
_SIZES = ("ORDERS", "BATCH", "CHANNELS", "GROUPS", "BLOCKS", "STATES", "LENGTH", "SLOTS", "SOFTPLUS", "WALKS")
#: Tensors (batch, order, channel, token): the address of the first element, 0 for none, and the strides in elements.
#: Y is the result, or its gradient.
_TENSORS = ("U", "DELTA", "Z", "Y", "GU", "GDELTA", "GZ")
_STRIDES = ("BATCH", "ORDER", "CHANNEL", "TOKEN")
#: Tensors (batch, order, group, state, token), and their groups; constant ones (order, channel, state) have a channel
#: stride instead.
_PROJECTIONS = ("B", "C")
_PROJECTION_STRIDES = ("BATCH", "ORDER", "GROUP", "STATE", "TOKEN", "CHANNEL", "GROUPS")
#: Parameters (order, channel[, state]), compact.
_PARAMETERS = ("A", "D", "BIAS")
#: Lanes are arrays [order, slot, N, 16] or [order, slot, 16] of what a block of sixteen channels holds: STATE, in the
#: backward pass its gradient; KEPT at the start of each tile [order, tile, block, N, 16]; SUMS of step sizes.
_LANES = ("STATE", "KEPT", "SUMS", "GA_LANES", "GB_LANES", "GC_LANES", "GD_LANES", "GBIAS_LANES")
#: Shares of the gradients of B and C [order, block, N, step]; their first column stands for the step SHARE_FIRST, their
#: first rows for the order SHARE_ORDER.
_SHARES = ("GB", "GC", "SHARE_FIRST", "SHARE_WIDTH", "SHARE_ORDER")


def _with_strides(tensors: Iterable[str], strides: Iterable[str]) -> list[str]:
    return [name for tensor in tensors for name in (tensor, *(f"{tensor}_{stride}" for stride in strides))]


_NAMES = [
    *_SIZES, *_with_strides(_TENSORS, _STRIDES), *_with_strides(_PROJECTIONS, _PROJECTION_STRIDES), *_PARAMETERS,
    *_LANES, *_SHARES,
]  # fmt: skip
#: Where each number stands; a named tuple, whose numbers are constants to Numba.
Field: Any = namedtuple("Field", _NAMES)(*range(len(_NAMES)))
