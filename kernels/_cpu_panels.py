"""Panels: how blocks cross a grid along an axis that is not the fastest one.

Where a walk steps along one axis while the next slower one lies side by side in memory, say down the slices of a volume
column by column, a cache line holds neighbouring columns: step by step, it would be fetched again for each of them, and
columns a power of two apart push each other out of the cache. So a block takes a panel of neighbouring columns at once,
reads it plane by plane into scratch, and works on that. A panel is a few thousand steps of one block, never a copy of a
tensor.
"""
# Numba compiles these functions and has no types of its own to give; the arguments are described in words.

from __future__ import annotations

from ._cpu_layout import PANEL, STRETCH, TILE, WIDTH, Field
from ._cpu_tiles import address, token_at, walk_at
from ._simd import FLOAT, ZERO, compiled, get, load, number, put, put_number, store, transpose

#: Columns below which a panel is not worth its while.
_FEWEST = 8


@compiled
def columns_at(call, order, t, last):
    """Columns of the panel that starts at step t, and their length; 0 columns where there is no panel.

    Panels begin and end with a tile.
    """
    walk = walk_at(call, order)
    width, depth = number(walk, 3), number(walk, 4)
    across, along = number(walk, 7), number(walk, 8)
    if abs(across) != 1 or abs(along) <= 1 or t % TILE or t % depth:
        return 0, depth
    columns = min(width - t // depth % width, (last - t) // depth, PANEL // depth)
    whole = TILE  # columns whose steps fill tiles
    while whole > 1 and whole // 2 * depth % TILE == 0:
        whole //= 2
    columns -= columns % whole
    return (columns if columns >= _FEWEST else 0), depth


@compiled
def stretch_at(call, order, t, last):
    """Steps to go from step t on without a panel."""
    walk = walk_at(call, order)
    columnar = abs(number(walk, 7)) == 1 and abs(number(walk, 8)) > 1
    return min(TILE if columnar else STRETCH, last - t)


@compiled
def _start(call, order, t):
    """Token at step t, which is the first of a column, and the strides across and along columns."""
    walk = walk_at(call, order)
    return token_at(call, order, t), number(walk, 7), number(walk, 8)


@compiled
def _read(call, order, t, columns, depth, source, by_lane, by_token, lanes, target):
    """A panel of a tensor into scratch [step, lane]; lanes are filled up with zeros to sixteen."""
    token, across, along = _start(call, order, t)
    row = (lanes + WIDTH - 1) // WIDTH * WIDTH
    for d in range(depth):
        for w in range(0, columns, WIDTH):
            here = token + w * across + d * along
            many = min(WIDTH, columns - w)
            at = (w * depth + d) * row
            for lane in range(0, lanes, WIDTH):
                whole = lanes - lane >= WIDTH
                if whole and by_lane == 1:
                    for j in range(many):
                        from_ = (here + j * across) * by_token + lane
                        store(target, at + j * depth * row + lane, load(source, from_))
                elif whole and by_token == 1 and many == WIDTH and across == 1:
                    transpose(source, here + lane * by_lane, by_lane, target, at + lane, depth * row)
                elif whole and by_token == 1 and many == WIDTH:
                    first, last = here - (WIDTH - 1) + lane * by_lane, at + (WIDTH - 1) * depth * row + lane
                    transpose(source, first, by_lane, target, last, -depth * row)
                else:
                    for j in range(many):
                        for k in range(lane, lane + WIDTH):
                            from_ = (here + j * across) * by_token + k * by_lane
                            put(target, at + j * depth * row + k, get(source, from_) if k < lanes else ZERO)


@compiled
def _write(call, order, t, columns, depth, source, count, by_channel, by_token, target):
    """The way back for ``count`` of sixteen channels."""
    token, across, along = _start(call, order, t)
    for d in range(depth):
        for w in range(0, columns, WIDTH):
            here = token + w * across + d * along
            many = min(WIDTH, columns - w)
            at = (w * depth + d) * WIDTH
            if count == WIDTH and by_channel == 1:
                for j in range(many):
                    store(target, (here + j * across) * by_token, load(source, at + j * depth * WIDTH))
            elif count == WIDTH and by_token == 1 and many == WIDTH and across == 1:
                transpose(source, at, depth * WIDTH, target, here, by_channel)
            elif count == WIDTH and by_token == 1 and many == WIDTH:
                last = at + (WIDTH - 1) * depth * WIDTH
                transpose(source, last, -depth * WIDTH, target, here - (WIDTH - 1), by_channel)
            else:
                for j in range(many):
                    for c in range(count):
                        where = (here + j * across) * by_token + c * by_channel
                        put(target, where, get(source, at + j * depth * WIDTH + c))


@compiled
def fill(call, panel, field, entry, order, channel, t, columns, depth, count):
    """A panel of ``count`` channels of a tensor to where the panel's field points; nothing if either is absent."""
    source = address(call, field, entry, order, channel)
    if source != 0 and number(panel, field) != 0:
        by_channel, by_token = number(call, field + 3), number(call, field + 4)
        target = number(panel, field) + FLOAT * channel
        _read(call, order, t, columns, depth, source, by_channel, by_token, count, target)


@compiled
def drain(call, panel, field, entry, order, channel, t, columns, depth, count):
    """The way back."""
    target = address(call, field, entry, order, channel)
    if target != 0 and number(panel, field) != 0:
        by_channel, by_token = number(call, field + 3), number(call, field + 4)
        source = number(panel, field) + FLOAT * channel
        _write(call, order, t, columns, depth, source, count, by_channel, by_token, target)


@compiled
def read_states(call, panel, field, source, order, t, columns, depth):
    """A panel of B or C, unless it is constant."""
    if number(call, field + 6) == 0:
        by_state, by_token = number(call, field + 4), number(call, field + 5)
        states = number(call, Field.STATES)
        _read(call, order, t, columns, depth, source, by_state, by_token, states, number(panel, field))


@compiled
def aim(panel, order, t):
    """Let the panel's walk begin at step t: what lies there is the first step in scratch."""
    put_number(walk_at(panel, order), 0, -t)


@compiled
def back_from(call, panel, order, first, end):
    """Where the stretch that ends at a step begins, and its columns and their length if it is a panel."""
    if panel == 0:
        return first + (end - first - 1) // STRETCH * STRETCH, 0, 1
    t = first
    while True:  # as forwards: panels may follow steps that belong to none
        columns, depth = columns_at(call, order, t, end)
        steps = columns * depth if columns else stretch_at(call, order, t, end)
        if t + steps >= end:
            return t, columns, depth
        t += steps
