"""The inner loops of the CPU scan: blocks of up to sixteen channels, forward and backward.

Everything is float32 in memory that is named by its address. A *tile* is TILE steps of a block; in scratch it is stored
step by step, sixteen channels side by side: a vector is one step of all channels and no sum over states crosses lanes.
Lanes past the last channel hold zeros. Tiles are read and written where the order's walk says; nothing else knows of
orders. The derivation of the backward pass is in README.md.
"""
# Numba compiles these functions and has no types of its own to give; the arguments are described in words.

from __future__ import annotations

import math

import numpy as np

from ._cpu_layout import AREA, BACKWARD_AREAS, FORWARD_AREAS, TILE, WIDTH, Field
from ._cpu_panels import aim, back_from, columns_at, drain, fill, read_states, stretch_at
from ._cpu_tiles import accumulate, add_tile, address, ask_for_rows, load_lanes, load_tile, locate, place, store_tile
from ._simd import (
    FLOAT,
    ONE,
    ZERO,
    add,
    compiled,
    exp2,
    fma,
    get,
    load,
    mul,
    number,
    put,
    sigmoid,
    softplus,
    softplus_slope,
    splat,
    spread,
    store,
    sub,
    sum_rows,
)

_LOG2E = np.float32(math.log2(math.e))


@compiled
def _projection_at(call, field, entry, order, channel):
    """Address of B's or C's first state: that of the channel if it is constant, else of the group's first token."""
    base = number(call, field)
    by_channel = number(call, field + 6)
    if by_channel != 0:
        return base + FLOAT * (order * number(call, field + 2) + channel * by_channel)
    group = channel * number(call, field + 7) // number(call, Field.CHANNELS)
    steps = entry * number(call, field + 1) + order * number(call, field + 2) + group * number(call, field + 3)
    return base + FLOAT * steps


@compiled
def _load_parameters(call, order, channel, count, scratch, at):
    """Decay [N, 16], in powers of two; then B and C [N, 16] where they are constant. Returns step offset and skip."""
    states = number(call, Field.STATES)
    row = order * number(call, Field.CHANNELS) + channel
    load_lanes(number(call, Field.A) + FLOAT * row * states, states, 1, count, scratch, at, states)
    for n in range(0, states * WIDTH, WIDTH):
        store(scratch, at + n, mul(load(scratch, at + n), splat(_LOG2E)))
    if number(call, Field.B_CHANNEL) != 0:
        source = _projection_at(call, Field.B, 0, order, channel)
        by_channel, by_state = number(call, Field.B_CHANNEL), number(call, Field.B_STATE)
        load_lanes(source, by_channel, by_state, count, scratch, at + states * WIDTH, states)
    if number(call, Field.C_CHANNEL) != 0:
        source = _projection_at(call, Field.C, 0, order, channel)
        by_channel, by_state = number(call, Field.C_CHANNEL), number(call, Field.C_STATE)
        load_lanes(source, by_channel, by_state, count, scratch, at + 2 * states * WIDTH, states)
    offset, skip = splat(ZERO), splat(ZERO)
    if number(call, Field.BIAS) != 0:
        load_lanes(number(call, Field.BIAS) + FLOAT * row, 1, 1, count, scratch, 0, 1)
        offset = load(scratch, 0)
    if number(call, Field.D) != 0:
        load_lanes(number(call, Field.D) + FLOAT * row, 1, 1, count, scratch, 0, 1)
        skip = load(scratch, 0)
    return offset, skip


@compiled
def forward(
    call, panel, first_block, last_block, first_order, last_order, first, last, slot, scale, scratch, positions
):
    """Run blocks over the steps first to last, order after order, and add up y.

    Lanes are advanced in STATE. Writes y unless there is none, the state at the start of each tile into KEPT unless
    there is none, and adds the step sizes to SUMS unless there is none. ``slot`` is the place of the first block's
    lanes; ``panel`` is the call as it is for panels, or 0. Scratch: FORWARD_AREAS tiles, then three [N, 16]; positions:
    POSITIONS integers.
    """
    for order in range(first_order, last_order):
        t = first
        while t < last:
            columns, depth = columns_at(call, order, t, last) if panel != 0 else (0, 1)
            steps = columns * depth if columns else stretch_at(call, order, t, last)
            shared_B, shared_C = 0, 0  # what the panel holds of B and C
            for block in range(first_block, last_block):
                where = slot + block - first_block
                if columns == 0:
                    _forward_block(call, block, order, t, t + steps, where, scale, scratch, positions)
                    continue
                entry, channel, count = locate(call, block)
                B = _projection_at(call, Field.B, entry, order, channel)
                C = _projection_at(call, Field.C, entry, order, channel)
                fill(call, panel, Field.U, entry, order, channel, t, columns, depth, count)
                fill(call, panel, Field.DELTA, entry, order, channel, t, columns, depth, count)
                if order == number(call, Field.ORDERS) - 1:
                    fill(call, panel, Field.Z, entry, order, channel, t, columns, depth, count)
                if order > 0:
                    fill(call, panel, Field.Y, entry, order, channel, t, columns, depth, count)
                if shared_B != B:
                    read_states(call, panel, Field.B, B, order, t, columns, depth)
                if shared_C != C:
                    read_states(call, panel, Field.C, C, order, t, columns, depth)
                shared_B, shared_C = B, C
                aim(panel, order, t)
                _forward_block(panel, block, order, t, t + steps, where, scale, scratch, positions)
                drain(call, panel, Field.Y, entry, order, channel, t, columns, depth, count)
            t += steps


@compiled
def _forward_block(call, block, order, first, last, slot, scale, scratch, positions):
    states, softplus_asked = number(call, Field.STATES), number(call, Field.SOFTPLUS) != 0
    entry, channel, count = locate(call, block)
    step_at, drive_at, input_at, sum_at, gate_at = 0, AREA, 2 * AREA, 3 * AREA, 4 * AREA
    decay_at = FORWARD_AREAS * AREA
    into_at, out_at = decay_at + states * WIDTH, decay_at + 2 * states * WIDTH
    offset, skip = _load_parameters(call, order, channel, count, scratch, decay_at)
    u, delta = address(call, Field.U, entry, order, channel), address(call, Field.DELTA, entry, order, channel)
    z, y = address(call, Field.Z, entry, order, channel), address(call, Field.Y, entry, order, channel)
    B, C = _projection_at(call, Field.B, entry, order, channel), _projection_at(call, Field.C, entry, order, channel)
    constant_B, constant_C = number(call, Field.B_CHANNEL) != 0, number(call, Field.C_CHANNEL) != 0
    B_state, B_token = number(call, Field.B_STATE), number(call, Field.B_TOKEN)
    C_state, C_token = number(call, Field.C_STATE), number(call, Field.C_TOKEN)
    gated = z != 0 and order == number(call, Field.ORDERS) - 1  # the last order gates the sum
    area, slots = states * WIDTH, number(call, Field.SLOTS)
    state = number(call, Field.STATE) + FLOAT * (order * slots + slot) * area
    kept, blocks = number(call, Field.KEPT), number(call, Field.BLOCKS)
    tiles = (number(call, Field.LENGTH) + TILE - 1) // TILE
    factor, total = splat(scale), splat(ZERO)

    for t in range(first, last, TILE):
        steps = min(TILE, last - t)
        ahead = min(TILE, last - t - steps)
        place(call, order, t, steps, ahead, positions)
        load_tile(call, Field.DELTA, delta, count, steps, ahead, positions, scratch, step_at)
        load_tile(call, Field.U, u, count, steps, ahead, positions, scratch, input_at)
        ask_for_rows(B, B_state, B_token, states, ahead, positions)
        ask_for_rows(C, C_state, C_token, states, ahead, positions)
        for i in range(0, steps * WIDTH, WIDTH):
            step = add(load(scratch, step_at + i), offset)
            if softplus_asked:
                step = softplus(step)
            total = add(total, step)
            x = load(scratch, input_at + i)
            store(scratch, step_at + i, step)
            store(scratch, drive_at + i, mul(step, x))
            store(scratch, sum_at + i, mul(skip, x))
        if kept != 0:
            here = kept + FLOAT * ((order * tiles + t // TILE) * blocks + block) * area
            for n in range(0, area, WIDTH):
                store(here, n, load(state, n))
        if y != 0 and not constant_B and not constant_C:
            n = 0
            while n + 1 < states:  # two states at once share loads and stores
                h0, h1 = load(state, n * WIDTH), load(state, n * WIDTH + WIDTH)
                rate0, rate1 = load(scratch, decay_at + n * WIDTH), load(scratch, decay_at + n * WIDTH + WIDTH)
                for i in range(steps):
                    a, p = i * WIDTH, number(positions, i)
                    from_B, from_C = n * B_state + p * B_token, n * C_state + p * C_token
                    step, drive = load(scratch, step_at + a), load(scratch, drive_at + a)
                    h0 = fma(exp2(mul(step, rate0)), h0, mul(drive, spread(B, from_B)))
                    h1 = fma(exp2(mul(step, rate1)), h1, mul(drive, spread(B, from_B + B_state)))
                    s = fma(h0, spread(C, from_C), load(scratch, sum_at + a))
                    store(scratch, sum_at + a, fma(h1, spread(C, from_C + C_state), s))
                store(state, n * WIDTH, h0)
                store(state, n * WIDTH + WIDTH, h1)
                n += 2
        else:
            n = 0
        while n < states:
            h, rate = load(state, n * WIDTH), load(scratch, decay_at + n * WIDTH)
            into, out = load(scratch, into_at + n * WIDTH), load(scratch, out_at + n * WIDTH)
            for i in range(steps):
                a, p = i * WIDTH, number(positions, i)
                if not constant_B:
                    into = spread(B, n * B_state + p * B_token)
                keep = exp2(mul(load(scratch, step_at + a), rate))
                h = fma(keep, h, mul(load(scratch, drive_at + a), into))
                if y != 0:
                    if not constant_C:
                        out = spread(C, n * C_state + p * C_token)
                    store(scratch, sum_at + a, fma(h, out, load(scratch, sum_at + a)))
            store(state, n * WIDTH, h)
            n += 1
        if y != 0:
            if gated:
                load_tile(call, Field.Z, z, count, steps, ahead, positions, scratch, gate_at)
            if order > 0:
                load_tile(call, Field.Y, y, count, steps, ahead, positions, scratch, input_at)
            for i in range(0, steps * WIDTH, WIDTH):
                s = mul(factor, load(scratch, sum_at + i))
                if order > 0:
                    s = add(load(scratch, input_at + i), s)
                if gated:
                    gate = load(scratch, gate_at + i)
                    s = mul(s, mul(gate, sigmoid(gate)))
                store(scratch, sum_at + i, s)
            store_tile(call, Field.Y, scratch, sum_at, count, steps, positions, y)
    if number(call, Field.SUMS) != 0:
        sum_at = (order * slots + slot) * WIDTH
        store(number(call, Field.SUMS), sum_at, add(load(number(call, Field.SUMS), sum_at), total))


@compiled
def _prepare_backward(call, delta, z, gy, count, steps, positions, offset, factor, scratch, areas):
    """Fill the tiles of step sizes, their slopes, and the gradients of the sum before the gate and of the gate."""
    step_at, slope_at, grad_at, gate_at = areas
    load_tile(call, Field.DELTA, delta, count, steps, 0, positions, scratch, step_at)
    load_tile(call, Field.Y, gy, count, steps, 0, positions, scratch, grad_at)
    if z != 0:
        load_tile(call, Field.Z, z, count, steps, 0, positions, scratch, gate_at)
    softplus_asked = number(call, Field.SOFTPLUS) != 0
    for i in range(0, steps * WIDTH, WIDTH):
        step = add(load(scratch, step_at + i), offset)
        if softplus_asked:
            store(scratch, slope_at + i, softplus_slope(step))
            step = softplus(step)
        store(scratch, step_at + i, step)
        grad = mul(factor, load(scratch, grad_at + i))
        if z != 0:
            gate = load(scratch, gate_at + i)
            open_ = sigmoid(gate)
            bend = mul(open_, fma(gate, sub(splat(ONE), open_), splat(ONE)))
            store(scratch, gate_at + i, mul(grad, bend))
            grad = mul(grad, mul(gate, open_))
        store(scratch, grad_at + i, grad)


@compiled
def carry_back(call, order, first, last, slot, scale, scratch, positions):
    """Take the gradient of a lone block's state after the last step back to before the first, in STATE.

    Writes the sum of the step sizes into SUMS. Scratch: as for backward.
    """
    states, slots = number(call, Field.STATES), number(call, Field.SLOTS)
    areas = (0, AREA, 2 * AREA, 3 * AREA)
    step_at, _, grad_at, _ = areas
    decay_at = BACKWARD_AREAS * AREA
    out_at = decay_at + 2 * states * WIDTH
    count = number(call, Field.CHANNELS)
    offset, _ = _load_parameters(call, order, 0, count, scratch, decay_at)
    delta, z, gy = (
        address(call, Field.DELTA, 0, order, 0),
        address(call, Field.Z, 0, order, 0),
        address(call, Field.Y, 0, order, 0),
    )
    C, constant_C = _projection_at(call, Field.C, 0, order, 0), number(call, Field.C_CHANNEL) != 0
    C_state, C_token = number(call, Field.C_STATE), number(call, Field.C_TOKEN)
    carry = number(call, Field.STATE) + FLOAT * (order * slots + slot) * states * WIDTH
    total = splat(ZERO)
    for t in range(first + (last - first - 1) // TILE * TILE, first - 1, -TILE):
        steps = min(TILE, last - t)
        place(call, order, t, steps, 0, positions)
        _prepare_backward(call, delta, z, gy, count, steps, positions, offset, splat(scale), scratch, areas)
        for n in range(states):
            rate, out = load(scratch, decay_at + n * WIDTH), load(scratch, out_at + n * WIDTH)
            g = load(carry, n * WIDTH)
            for i in range(steps - 1, -1, -1):
                if not constant_C:
                    out = spread(C, n * C_state + number(positions, i) * C_token)
                a = i * WIDTH
                g = mul(fma(load(scratch, grad_at + a), out, g), exp2(mul(load(scratch, step_at + a), rate)))
            store(carry, n * WIDTH, g)
        for i in range(0, steps * WIDTH, WIDTH):
            total = add(total, load(scratch, step_at + i))
    store(number(call, Field.SUMS), (order * slots + slot) * WIDTH, total)


@compiled
def _sum_tile(scratch, at, steps, target, start):
    """Sum each step of a tile over the channels."""
    for i in range(0, steps, WIDTH):
        if steps - i >= WIDTH:
            store(target, start + i, sum_rows(scratch, at + i * WIDTH))
        else:
            total = sum_rows(scratch, at + i * WIDTH)
            store(scratch, at + i * WIDTH, total)
            for j in range(steps - i):
                put(target, start + i + j, get(scratch, at + i * WIDTH + j))


@compiled
def backward(
    call, panel, first_block, last_block, first_order, last_order, first, last, slot, scale, add_u, scratch, positions
):
    """Gradients of blocks; lanes of STATE are the state's gradient after the last step, then before the first.

    Writes gu, gdelta, gz and the blocks' shares of gB and gC; what is summed over steps is added lane by lane to the
    arrays that end in _LANES, each followed by what rounding lost. Scratch: BACKWARD_AREAS tiles, then three [N, 16].
    """
    for order in range(first_order, last_order):
        end = last
        while end > first:
            start, columns, depth = back_from(call, panel, order, first, end)
            shared_B, shared_C = 0, 0
            for block in range(first_block, last_block):
                where, add = slot + block - first_block, add_u and order > 0
                if columns == 0:
                    _backward_block(call, block, order, start, end, where, scale, add, scratch, positions)
                    continue
                entry, channel, count = locate(call, block)
                B = _projection_at(call, Field.B, entry, order, channel)
                C = _projection_at(call, Field.C, entry, order, channel)
                fill(call, panel, Field.U, entry, order, channel, start, columns, depth, count)
                fill(call, panel, Field.DELTA, entry, order, channel, start, columns, depth, count)
                fill(call, panel, Field.Z, entry, order, channel, start, columns, depth, count)
                fill(call, panel, Field.Y, entry, order, channel, start, columns, depth, count)
                if add:
                    fill(call, panel, Field.GU, entry, order, channel, start, columns, depth, count)
                if order > 0:
                    fill(call, panel, Field.GZ, entry, order, channel, start, columns, depth, count)
                if shared_B != B:
                    read_states(call, panel, Field.B, B, order, start, columns, depth)
                if shared_C != C:
                    read_states(call, panel, Field.C, C, order, start, columns, depth)
                shared_B, shared_C = B, C
                aim(panel, order, start)
                _backward_block(panel, block, order, start, end, where, scale, add, scratch, positions)
                drain(call, panel, Field.GU, entry, order, channel, start, columns, depth, count)
                drain(call, panel, Field.GDELTA, entry, order, channel, start, columns, depth, count)
                drain(call, panel, Field.GZ, entry, order, channel, start, columns, depth, count)
            end = start


@compiled
def _backward_block(call, block, order, first, last, slot, scale, add_u, scratch, positions):
    states, softplus_asked = number(call, Field.STATES), number(call, Field.SOFTPLUS) != 0
    entry, channel, count = locate(call, block)
    areas = (0, AREA, 2 * AREA, 3 * AREA)
    step_at, slope_at, grad_at, gate_at = areas
    input_at, drive_at, sum_at, by_input_at, by_rate_at, keep_at, held_at, to_out_at, to_into_at = (
        4 * AREA, 5 * AREA, 6 * AREA, 7 * AREA, 8 * AREA, 9 * AREA, 10 * AREA, 11 * AREA, 12 * AREA,
    )  # fmt: skip
    decay_at = BACKWARD_AREAS * AREA
    into_at, out_at = decay_at + states * WIDTH, decay_at + 2 * states * WIDTH
    offset, skip = _load_parameters(call, order, channel, count, scratch, decay_at)
    u, delta = address(call, Field.U, entry, order, channel), address(call, Field.DELTA, entry, order, channel)
    z, gy = address(call, Field.Z, entry, order, channel), address(call, Field.Y, entry, order, channel)
    gu, gdelta = address(call, Field.GU, entry, order, channel), address(call, Field.GDELTA, entry, order, channel)
    gz = address(call, Field.GZ, entry, order, channel)
    B, C = _projection_at(call, Field.B, entry, order, channel), _projection_at(call, Field.C, entry, order, channel)
    constant_B, constant_C = number(call, Field.B_CHANNEL) != 0, number(call, Field.C_CHANNEL) != 0
    B_state, B_token = number(call, Field.B_STATE), number(call, Field.B_TOKEN)
    C_state, C_token = number(call, Field.C_STATE), number(call, Field.C_TOKEN)
    area, slots, blocks = states * WIDTH, number(call, Field.SLOTS), number(call, Field.BLOCKS)
    carry = number(call, Field.STATE) + FLOAT * (order * slots + slot) * area
    kept = number(call, Field.KEPT)
    tiles = (number(call, Field.LENGTH) + TILE - 1) // TILE
    lanes_at, line_at = (order * slots + slot) * 2 * area, (order * slots + slot) * 2 * WIDTH
    gA_lanes, gB_lanes, gC_lanes = (
        number(call, Field.GA_LANES), number(call, Field.GB_LANES), number(call, Field.GC_LANES),
    )  # fmt: skip
    gD_lanes, gbias_lanes = number(call, Field.GD_LANES), number(call, Field.GBIAS_LANES)
    width = number(call, Field.SHARE_WIDTH)
    share_at = ((order - number(call, Field.SHARE_ORDER)) * blocks + block) * states * width
    share_at -= number(call, Field.SHARE_FIRST)
    gB, gC = number(call, Field.GB), number(call, Field.GC)
    zero, factor = splat(ZERO), splat(scale)
    per_bit = splat(ONE / _LOG2E)

    for t in range(first + (last - first - 1) // TILE * TILE, first - 1, -TILE):
        steps = min(TILE, last - t)
        place(call, order, t, steps, 0, positions)
        _prepare_backward(call, delta, z, gy, count, steps, positions, offset, factor, scratch, areas)
        load_tile(call, Field.U, u, count, steps, 0, positions, scratch, input_at)
        for i in range(0, steps * WIDTH, WIDTH):
            x = load(scratch, input_at + i)
            store(scratch, drive_at + i, mul(load(scratch, step_at + i), x))
            store(scratch, sum_at + i, mul(skip, x))
            store(scratch, by_input_at + i, zero)
            store(scratch, by_rate_at + i, zero)
        for n in range(states):
            rate = load(scratch, decay_at + n * WIDTH)
            decay = mul(rate, per_bit)
            into, out = load(scratch, into_at + n * WIDTH), load(scratch, out_at + n * WIDTH)
            # Forwards: what is kept of the state at each step (held), and the sum before the gate.
            h = load(kept, ((order * tiles + t // TILE) * blocks + block) * area + n * WIDTH)
            for i in range(steps):
                a, p = i * WIDTH, number(positions, i)
                if not constant_B:
                    into = spread(B, n * B_state + p * B_token)
                keep = exp2(mul(load(scratch, step_at + a), rate))
                held = mul(keep, h)
                h = fma(load(scratch, drive_at + a), into, held)
                store(scratch, keep_at + a, keep)
                store(scratch, held_at + a, held)
                store(scratch, to_out_at + a, mul(load(scratch, grad_at + a), h))
                if z != 0:
                    if not constant_C:
                        out = spread(C, n * C_state + p * C_token)
                    store(scratch, sum_at + a, fma(h, out, load(scratch, sum_at + a)))
            # Backwards: g is the gradient of the state.
            g = load(carry, n * WIDTH)
            grad_decay = zero
            for i in range(steps - 1, -1, -1):
                a, p = i * WIDTH, number(positions, i)
                if not constant_B:
                    into = spread(B, n * B_state + p * B_token)
                if not constant_C:
                    out = spread(C, n * C_state + p * C_token)
                g = fma(load(scratch, grad_at + a), out, g)
                store(scratch, to_into_at + a, mul(g, load(scratch, drive_at + a)))
                flow = mul(g, load(scratch, held_at + a))
                grad_decay = fma(flow, load(scratch, step_at + a), grad_decay)
                store(scratch, by_rate_at + a, fma(flow, decay, load(scratch, by_rate_at + a)))
                store(scratch, by_input_at + a, fma(g, into, load(scratch, by_input_at + a)))
                g = mul(g, load(scratch, keep_at + a))
            store(carry, n * WIDTH, g)
            at = lanes_at + n * WIDTH
            accumulate(gA_lanes, at, at + area, grad_decay)
            if constant_B:
                _sum_steps(scratch, to_into_at, steps, gB_lanes, at, at + area)
            else:
                _sum_tile(scratch, to_into_at, steps, gB, share_at + n * width + t)
            if constant_C:
                _sum_steps(scratch, to_out_at, steps, gC_lanes, at, at + area)
            else:
                _sum_tile(scratch, to_out_at, steps, gC, share_at + n * width + t)
        for i in range(0, steps * WIDTH, WIDTH):
            x, step, grad = load(scratch, input_at + i), load(scratch, step_at + i), load(scratch, grad_at + i)
            by_input = load(scratch, by_input_at + i)
            grad_step = fma(x, by_input, load(scratch, by_rate_at + i))
            if softplus_asked:
                grad_step = mul(grad_step, load(scratch, slope_at + i))
            accumulate(gbias_lanes, line_at, line_at + WIDTH, grad_step)
            accumulate(gD_lanes, line_at, line_at + WIDTH, mul(grad, x))
            store(scratch, by_input_at + i, fma(step, by_input, mul(skip, grad)))
            store(scratch, by_rate_at + i, grad_step)
            if z != 0:
                store(scratch, gate_at + i, mul(load(scratch, gate_at + i), load(scratch, sum_at + i)))
        if add_u:
            add_tile(call, Field.GU, gu, count, steps, positions, scratch, by_input_at, keep_at)
        store_tile(call, Field.GU, scratch, by_input_at, count, steps, positions, gu)
        store_tile(call, Field.GDELTA, scratch, by_rate_at, count, steps, positions, gdelta)
        if z != 0:
            if order > 0:
                add_tile(call, Field.GZ, gz, count, steps, positions, scratch, gate_at, keep_at)
            store_tile(call, Field.GZ, scratch, gate_at, count, steps, positions, gz)


@compiled
def _sum_steps(scratch, at, steps, target, where, lost_at):
    """Add a tile's sum over its steps, lane by lane."""
    total = splat(ZERO)
    for i in range(0, steps * WIDTH, WIDTH):
        total = add(total, load(scratch, at + i))
    accumulate(target, where, lost_at, total)


@compiled
def sum_shares(call, field, shares, first_row, last_row, first, last, target, positions):
    """Sum the blocks' shares of the gradient of B or C over each group's blocks, in order.

    Rows count order by order from SHARE_ORDER, then entries, groups and states; ``target`` is the gradient, dense in
    the layout that the strides of ``field`` describe.
    """
    states, batch, groups = number(call, Field.STATES), number(call, Field.BATCH), number(call, field + 7)
    blocks, width = number(call, Field.BLOCKS), number(call, Field.SHARE_WIDTH)
    each = blocks // (batch * groups)
    for row in range(first_row, last_row):
        n, group = row % states, row // states % groups
        entry, share = row // (states * groups) % batch, row // (states * groups * batch)
        order = number(call, Field.SHARE_ORDER) + share
        line = target + FLOAT * (
            entry * number(call, field + 1)
            + order * number(call, field + 2)
            + group * number(call, field + 3)
            + n * number(call, field + 4)
        )
        block = (entry * groups + group) * each
        source = ((share * blocks + block) * states + n) * width - number(call, Field.SHARE_FIRST)
        for t in range(first, last, TILE):
            steps = min(TILE, last - t)
            place(call, order, t, steps, 0, positions)
            for i in range(steps):
                total = get(shares, source + t + i)
                for k in range(1, each):
                    total += get(shares, source + k * states * width + t + i)
                put(line, number(positions, i) * number(call, field + 5), total)
