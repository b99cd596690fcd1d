"""Between tensors of any layout, walked in any order, and tiles in scratch."""
# Numba compiles these functions and has no types of its own to give; the arguments are described in words.

from __future__ import annotations

from ._cpu_layout import TILE, WIDTH, Field
from ._simd import FLOAT, ZERO, add, compiled, get, load, number, prefetch, put, put_number, store, sub, transpose
from .orders import MAX_AXES

#: Where a tile's positions are followed by those of the next one, and by the direction of each sixteen steps.
_AHEAD, _RUNS = TILE, 2 * TILE


@compiled
def locate(call, block):
    """Entry, first channel and number of channels of a block; blocks never straddle two groups."""
    per_entry = number(call, Field.BLOCKS) // number(call, Field.BATCH)
    groups = number(call, Field.GROUPS)
    size = number(call, Field.CHANNELS) // groups
    entry, rest = block // per_entry, block % per_entry
    group, index = rest // (per_entry // groups), rest % (per_entry // groups)
    channel = group * size + index * WIDTH
    return entry, channel, min(WIDTH, size - index * WIDTH)


@compiled
def address(call, field, entry, order, channel):
    """Address of a tensor's first token of a channel; 0 if there is no such tensor."""
    base = number(call, field)
    if base == 0:
        return base
    steps = entry * number(call, field + 1) + order * number(call, field + 2) + channel * number(call, field + 3)
    return base + FLOAT * steps


@compiled
def walk_at(call, order):
    """Address of an order's encoded walk."""
    return number(call, Field.WALKS) + 8 * order * (1 + 2 * MAX_AXES)


@compiled
def token_at(call, order, step):
    """The token at one step."""
    walk = walk_at(call, order)
    token, rest = number(walk, 0), step
    for axis in range(MAX_AXES, 0, -1):
        size = number(walk, axis)
        token += rest % size * number(walk, axis + MAX_AXES)
        rest //= size
    return token


@compiled
def place(call, order, t, steps, ahead, positions):
    """Write the tokens of ``steps`` steps from t on, and of ``ahead`` more.

    Also whether each sixteen lie side by side in memory: 1 ascending, -1 descending, 0 neither.
    """
    walk = walk_at(call, order)
    n1, n2, n3 = number(walk, 2), number(walk, 3), number(walk, 4)
    s0, s1, s2, s3 = number(walk, 5), number(walk, 6), number(walk, 7), number(walk, 8)
    i3 = t % n3
    rest = t // n3
    i2 = rest % n2
    rest //= n2
    i1, i0 = rest % n1, rest // n1
    position = number(walk, 0) + i0 * s0 + i1 * s1 + i2 * s2 + i3 * s3
    for i in range(steps + ahead):
        put_number(positions, i if i < steps else _AHEAD + i - steps, position)
        position += s3
        i3 += 1
        if i3 == n3:
            i3 = 0
            i2 += 1
            position += s2 - n3 * s3
            if i2 == n2:
                i2 = 0
                i1 += 1
                position += s1 - n2 * s2
                if i1 == n1:
                    i1 = 0
                    position += s0 - n1 * s1
    for i in range(0, steps - WIDTH + 1, WIDTH):
        start, up, down = number(positions, i), 0, 0
        for j in range(1, WIDTH):
            up += number(positions, i + j) == start + j
            down += number(positions, i + j) == start - j
        put_number(positions, _RUNS + i // WIDTH, (up == WIDTH - 1) - (down == WIDTH - 1))


@compiled
def load_lanes(source, stride, step, count, target, at, rows):
    """target[row, c] = source[c stride + row step], with zeros where there is no channel."""
    for row in range(rows):
        for c in range(WIDTH):
            put(target, at + row * WIDTH + c, get(source, c * stride + row * step) if c < count else ZERO)


@compiled
def load_tile(call, field, source, count, steps, ahead, positions, target, at):
    """The placed steps of ``count`` channels from a tensor into a tile; its next tile is asked for."""
    by_channel, by_token = number(call, field + 3), number(call, field + 4)
    if by_channel == 1 and count == WIDTH:
        for i in range(steps):
            store(target, at + i * WIDTH, load(source, number(positions, i) * by_token))
        for i in range(ahead):
            prefetch(source, number(positions, _AHEAD + i) * by_token)
        return
    for i in range(0, steps, WIDTH):
        whole = count == WIDTH and by_token == 1 and steps - i >= WIDTH
        run = number(positions, _RUNS + i // WIDTH) if whole else 0
        if run == 1:
            transpose(source, number(positions, i), by_channel, target, at + i * WIDTH, WIDTH)
        elif run == -1:
            last = i + WIDTH - 1
            transpose(source, number(positions, last), by_channel, target, at + last * WIDTH, -WIDTH)
        else:
            for c in range(WIDTH):
                for j in range(i, min(i + WIDTH, steps)):
                    from_ = number(positions, j) * by_token + c * by_channel
                    put(target, at + j * WIDTH + c, get(source, from_) if c < count else ZERO)


@compiled
def ask_for_rows(source, by_state, by_token, states, ahead, positions):
    """Ask for the states of B or C at the next tile's tokens, where a token's states lie side by side."""
    if by_state == 1 and by_token != 0:
        for i in range(ahead):
            for n in range(0, states, WIDTH):
                prefetch(source, number(positions, _AHEAD + i) * by_token + n)


@compiled
def store_tile(call, field, source, at, count, steps, positions, target):
    """A tile into the placed steps of ``count`` channels of a tensor."""
    by_channel, by_token = number(call, field + 3), number(call, field + 4)
    if by_channel == 1 and count == WIDTH:
        for i in range(steps):
            store(target, number(positions, i) * by_token, load(source, at + i * WIDTH))
        return
    for i in range(0, steps, WIDTH):
        whole = count == WIDTH and by_token == 1 and steps - i >= WIDTH
        run = number(positions, _RUNS + i // WIDTH) if whole else 0
        if run == 1:
            transpose(source, at + i * WIDTH, WIDTH, target, number(positions, i), by_channel)
        elif run == -1:
            last = i + WIDTH - 1
            transpose(source, at + last * WIDTH, -WIDTH, target, number(positions, last), by_channel)
        else:
            for c in range(count):
                for j in range(i, min(i + WIDTH, steps)):
                    where = number(positions, j) * by_token + c * by_channel
                    put(target, where, get(source, at + j * WIDTH + c))


@compiled
def add_tile(call, field, address, count, steps, positions, scratch, at, spare_at):
    """Add to a tile what the tensor already holds there."""
    load_tile(call, field, address, count, steps, 0, positions, scratch, spare_at)
    for i in range(0, steps * WIDTH, WIDTH):
        store(scratch, at + i, add(load(scratch, spare_at + i), load(scratch, at + i)))


@compiled
def accumulate(target, at, lost_at, value):
    """Add a vector to a long sum, keeping what rounding loses.

    References:
        Kahan, "Further remarks on reducing truncation errors", Communications of the ACM 8(1), 1965.
    """
    total = load(target, at)
    value = sub(value, load(target, lost_at))
    grown = add(total, value)
    store(target, lost_at, sub(sub(grown, total), value))
    store(target, at, grown)
