"""The inner loops of the causal convolution on a CPU: blocks, tiles and panels as in the scan's kernels.

Of the fields, U is x, Y the result or its gradient, GU the gradient of x; A holds the taps [order, channel, tap] and
STATES their number. What a tile needs of the steps before it is read again from x.
"""
# Numba compiles these functions and has no types of its own to give; the arguments are described in words.

from __future__ import annotations

from ._cpu_layout import TILE, WIDTH, Field
from ._cpu_panels import aim, back_from, columns_at, drain, fill, stretch_at
from ._cpu_tiles import accumulate, add_tile, address, load_lanes, load_tile, locate, place, store_tile, token_at
from ._simd import FLOAT, ONE, ZERO, add, compiled, fma, get, load, mul, number, put, sigmoid, splat, store, sub


@compiled
def _load_taps(call, order, channel, count, scratch, at):
    """Taps [tap, 16] into scratch; returns the bias."""
    taps = number(call, Field.STATES)
    row = order * number(call, Field.CHANNELS) + channel
    load_lanes(number(call, Field.A) + FLOAT * row * taps, taps, 1, count, scratch, at, taps)
    if number(call, Field.BIAS) == 0:
        return splat(ZERO)
    load_lanes(number(call, Field.BIAS) + FLOAT * row, 1, 1, count, scratch, 0, 1)
    return load(scratch, 0)


@compiled
def _load_before(call, order, source, count, t, rows, target, at):
    """The ``rows`` steps before step t; zeros before the first."""
    by_channel, by_token = number(call, Field.U_CHANNEL), number(call, Field.U_TOKEN)
    for row in range(rows):
        step = t - rows + row
        from_ = token_at(call, order, step) * by_token if step >= 0 else 0
        for c in range(WIDTH):
            known = step >= 0 and c < count
            put(target, at + row * WIDTH + c, get(source, from_ + c * by_channel) if known else ZERO)


@compiled
def convolve(call, panel, first_block, last_block, activation, scratch, positions):
    """Convolve blocks along every order. Scratch: two tiles with the steps before them, then [tap, 16]."""
    for order in range(number(call, Field.ORDERS)):
        t, last = 0, number(call, Field.LENGTH)
        while t < last:
            columns, depth = columns_at(call, order, t, last) if panel != 0 else (0, 1)
            steps = columns * depth if columns else stretch_at(call, order, t, last)
            for block in range(first_block, last_block):
                if columns == 0:
                    _convolve_block(call, call, block, order, t, t + steps, activation, scratch, positions)
                    continue
                entry, channel, count = locate(call, block)
                fill(call, panel, Field.U, entry, order, channel, t, columns, depth, count)
                aim(panel, order, t)
                _convolve_block(call, panel, block, order, t, t + steps, activation, scratch, positions)
                drain(call, panel, Field.Y, entry, order, channel, t, columns, depth, count)
            t += steps


@compiled
def _convolve_block(whole, call, block, order, first, last, activation, scratch, positions):
    """``whole`` is the call without panels."""
    taps = number(call, Field.STATES)
    entry, channel, count = locate(call, block)
    room = (TILE + taps) * WIDTH
    input_at, out_at, taps_at = 0, room, 2 * room
    bias = _load_taps(call, order, channel, count, scratch, taps_at)
    x, y = address(call, Field.U, entry, order, channel), address(call, Field.Y, entry, order, channel)
    before = (taps - 1) * WIDTH
    _load_before(whole, order, address(whole, Field.U, entry, order, channel), count, first, taps - 1, scratch, 0)
    for t in range(first, last, TILE):
        steps = min(TILE, last - t)
        ahead = min(TILE, last - t - steps)
        place(call, order, t, steps, ahead, positions)
        load_tile(call, Field.U, x, count, steps, ahead, positions, scratch, before)
        for i in range(0, steps * WIDTH, WIDTH):
            total = bias
            for j in range(0, taps * WIDTH, WIDTH):
                total = fma(load(scratch, input_at + i + j), load(scratch, taps_at + j), total)
            if activation:
                total = mul(total, sigmoid(total))
            store(scratch, out_at + i, total)
        store_tile(call, Field.Y, scratch, out_at, count, steps, positions, y)
        for j in range(0, before, WIDTH):
            store(scratch, j, load(scratch, steps * WIDTH + j))


@compiled
def convolve_back(call, panel, first_block, last_block, activation, scratch, positions):
    """Gradients of blocks; lanes of GA_LANES [order, block, 2, tap, 16] and GBIAS_LANES [order, block, 2, 1, 16].

    Lanes of STATE [order, block, tap, 16] hold the gradients of the sums at the steps that follow. Scratch: three tiles
    with the steps around them, then [tap, 16].
    """
    for order in range(number(call, Field.ORDERS)):
        end = number(call, Field.LENGTH)
        while end > 0:
            start, columns, depth = back_from(call, panel, order, 0, end)
            for block in range(first_block, last_block):
                if columns == 0:
                    _back_block(call, call, block, order, start, end, activation, scratch, positions)
                    continue
                entry, channel, count = locate(call, block)
                fill(call, panel, Field.U, entry, order, channel, start, columns, depth, count)
                fill(call, panel, Field.Y, entry, order, channel, start, columns, depth, count)
                if order > 0:
                    fill(call, panel, Field.GU, entry, order, channel, start, columns, depth, count)
                aim(panel, order, start)
                _back_block(call, panel, block, order, start, end, activation, scratch, positions)
                drain(call, panel, Field.GU, entry, order, channel, start, columns, depth, count)
            end = start


@compiled
def _back_block(whole, call, block, order, first, last, activation, scratch, positions):
    """``whole`` is the call without panels."""
    taps = number(call, Field.STATES)
    entry, channel, count = locate(call, block)
    room = (TILE + taps) * WIDTH
    input_at, grad_at, out_at, taps_at = 0, room, 2 * room, 3 * room
    bias = _load_taps(call, order, channel, count, scratch, taps_at)
    x, gy = address(call, Field.U, entry, order, channel), address(call, Field.Y, entry, order, channel)
    source, gx = address(whole, Field.U, entry, order, channel), address(call, Field.GU, entry, order, channel)
    before, slot = (taps - 1) * WIDTH, order * number(call, Field.BLOCKS) + block
    after = number(call, Field.STATE) + FLOAT * slot * taps * WIDTH
    weights, biases = number(call, Field.GA_LANES), number(call, Field.GBIAS_LANES)
    for t in range(first + (last - first - 1) // TILE * TILE, first - 1, -TILE):
        steps = min(TILE, last - t)
        place(call, order, t, steps, 0, positions)
        _load_before(whole, order, source, count, t, taps - 1, scratch, input_at)
        load_tile(call, Field.U, x, count, steps, 0, positions, scratch, input_at + before)
        load_tile(call, Field.Y, gy, count, steps, 0, positions, scratch, grad_at)
        for j in range(0, before, WIDTH):
            store(scratch, grad_at + steps * WIDTH + j, load(after, j))
        sum_bias = splat(ZERO)
        for i in range(0, steps * WIDTH, WIDTH):
            grad = load(scratch, grad_at + i)
            if activation:
                total = bias
                for j in range(0, taps * WIDTH, WIDTH):
                    total = fma(load(scratch, input_at + i + j), load(scratch, taps_at + j), total)
                open_ = sigmoid(total)
                grad = mul(grad, mul(open_, fma(total, sub(splat(ONE), open_), splat(ONE))))
                store(scratch, grad_at + i, grad)
            sum_bias = add(sum_bias, grad)
        accumulate(biases, slot * 2 * WIDTH, slot * 2 * WIDTH + WIDTH, sum_bias)
        for j in range(0, taps * WIDTH, WIDTH):
            total = splat(ZERO)
            for i in range(0, steps * WIDTH, WIDTH):
                total = fma(load(scratch, grad_at + i), load(scratch, input_at + i + j), total)
            at = slot * 2 * taps * WIDTH + j
            accumulate(weights, at, at + taps * WIDTH, total)
        for i in range(0, steps * WIDTH, WIDTH):
            total = splat(ZERO)
            for j in range(0, taps * WIDTH, WIDTH):  # tap j of the step that lies taps - 1 - j ahead
                total = fma(load(scratch, grad_at + i + before - j), load(scratch, taps_at + j), total)
            store(scratch, out_at + i, total)
        for j in range(0, before, WIDTH):
            store(after, j, load(scratch, grad_at + j))
        if order > 0:
            add_tile(call, Field.GU, gx, count, steps, positions, scratch, out_at, input_at)
        store_tile(call, Field.GU, scratch, out_at, count, steps, positions, gx)
