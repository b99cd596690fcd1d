"""What the CPU kernels are told: one array of integers per call."""

from __future__ import annotations

from typing import NamedTuple

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


class _Fields(NamedTuple):
    """Where each number stands.

    A tensor is the address of its first element, 0 for none, followed by its strides in elements. Lanes are arrays
    [order, slot, N, 16] or [order, slot, 16] of what a block of sixteen channels holds.
    """

    # Sizes and flags.
    ORDERS: int
    BATCH: int
    CHANNELS: int
    GROUPS: int  # of channels that share both B and C
    BLOCKS: int  # in all entries
    STATES: int
    LENGTH: int
    SLOTS: int  # of lanes: blocks, or the pieces of a lone block
    SOFTPLUS: int
    WALKS: int  # address of encoded walks
    # Tensors (batch, order, channel, token).
    U: int
    U_BATCH: int
    U_ORDER: int
    U_CHANNEL: int
    U_TOKEN: int
    DELTA: int
    DELTA_BATCH: int
    DELTA_ORDER: int
    DELTA_CHANNEL: int
    DELTA_TOKEN: int
    Z: int
    Z_BATCH: int
    Z_ORDER: int
    Z_CHANNEL: int
    Z_TOKEN: int
    Y: int  # the result, or its gradient
    Y_BATCH: int
    Y_ORDER: int
    Y_CHANNEL: int
    Y_TOKEN: int
    GU: int
    GU_BATCH: int
    GU_ORDER: int
    GU_CHANNEL: int
    GU_TOKEN: int
    GDELTA: int
    GDELTA_BATCH: int
    GDELTA_ORDER: int
    GDELTA_CHANNEL: int
    GDELTA_TOKEN: int
    GZ: int
    GZ_BATCH: int
    GZ_ORDER: int
    GZ_CHANNEL: int
    GZ_TOKEN: int
    # B and C (batch, order, group, state, token); constant ones (order, channel, state) have a channel stride instead.
    B: int
    B_BATCH: int
    B_ORDER: int
    B_GROUP: int
    B_STATE: int
    B_TOKEN: int
    B_CHANNEL: int
    B_GROUPS: int
    C: int
    C_BATCH: int
    C_ORDER: int
    C_GROUP: int
    C_STATE: int
    C_TOKEN: int
    C_CHANNEL: int
    C_GROUPS: int
    # Parameters (order, channel[, state]), compact.
    A: int
    D: int
    BIAS: int
    # Lanes.
    STATE: int  # the state, or in the backward pass its gradient
    KEPT: int  # states at the start of each tile [order, tile, block, N, 16]
    SUMS: int  # sums of step sizes
    GA_LANES: int
    GB_LANES: int
    GC_LANES: int
    GD_LANES: int
    GBIAS_LANES: int
    # Shares of the gradients of B and C [order, block, N, step].
    GB: int
    GC: int
    SHARE_FIRST: int  # the step that their first column stands for
    SHARE_WIDTH: int
    SHARE_ORDER: int  # the order that their first rows stand for


Field = _Fields(*range(len(_Fields._fields)))
