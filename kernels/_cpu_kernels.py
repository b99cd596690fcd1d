"""The inner loops of the CPU scan: one block of up to sixteen channels, forward and backward.

Every array is flat float32 and is handed in as the address of its first element; 0 stands for none. A *tile* is TILE
steps of a block; in scratch it is stored step by step, sixteen channels side by side: a vector is one step of all
channels and no sum over states crosses lanes. Lanes past the last channel hold zeros. The derivation of the backward
pass is in README.md.
"""
# Numba compiles these functions and has no types of its own to give; the arguments are described in words.
# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"

from __future__ import annotations

import math

import numpy as np
from numba import njit

from ._simd import (
    add,
    exp2,
    fma,
    get,
    load,
    mul,
    put,
    sigmoid,
    softplus,
    softplus_slope,
    splat,
    spread,
    store,
    sub,
    sum_rows,
    transpose,
)

#: Steps of a tile, and between two states that the forward pass keeps for the backward pass.
TILE = 64
#: Channels of a block.
WIDTH = 16
#: Floats from one tile to the next in scratch: a little more than a tile. At a distance of exactly 4096 bytes a
#: processor takes a load from one tile for a load of what was just stored to another.
AREA = TILE * WIDTH + 5 * WIDTH
#: Tiles of scratch that the kernels use, before what depends on the number of states.
FORWARD_AREAS, BACKWARD_AREAS = 5, 13

_LOG2E = np.float32(math.log2(math.e))
_ZERO, _ONE = np.float32(0), np.float32(1)

_compiled = njit(nogil=True, cache=True, error_model="numpy")


@_compiled
def load_lanes(source, start, stride, count, target, at, rows):
    """target[row, c] = source[start + c stride + row], with zeros where there is no channel."""
    for row in range(rows):
        for c in range(WIDTH):
            put(target, at + row * WIDTH + c, get(source, start + c * stride + row) if c < count else _ZERO)


@_compiled
def add_lanes(source, at, rows, target, start, stride, count):
    """The way back: target[start + c stride + row] += source[row, c]."""
    for row in range(rows):
        for c in range(count):
            where = start + c * stride + row
            put(target, where, get(target, where) + get(source, at + row * WIDTH + c))


@_compiled
def _load_tile(source, start, stride, count, steps, target, at):
    """``steps`` values of ``count`` channels into a tile."""
    whole = steps - steps % WIDTH if count == WIDTH else 0
    for i in range(0, whole, WIDTH):
        transpose(source, start + i, stride, target, at + i * WIDTH, WIDTH)
    load_lanes(source, start + whole, stride, count, target, at + whole * WIDTH, steps - whole)


@_compiled
def _store_tile(source, at, steps, target, start, stride, count):
    """A tile into ``count`` channels."""
    whole = steps - steps % WIDTH if count == WIDTH else 0
    for i in range(0, whole, WIDTH):
        transpose(source, at + i * WIDTH, WIDTH, target, start + i, stride)
    for i in range(whole, steps):
        for c in range(count):
            put(target, start + c * stride + i, get(source, at + i * WIDTH + c))


@_compiled
def forward(  # one block over steps first to last
    u, delta, z, B, C, A, D, bias, has_z, has_softplus, constant_B, constant_C,
    channel, count, row, row_B, row_C, length, states, first, last,
    state, state_at, kept, kept_at, kept_step, y, sums, sums_at, scratch,
):  # fmt: skip
    """Advance ``state`` [N, 16] over the steps.

    Writes y unless ``y`` is 0, the state at the start of each tile into ``kept`` unless that is 0, and the sum of the
    step sizes into ``sums`` unless that is 0. ``row``, ``row_B`` and ``row_C`` are where the first
    channel of u and the group's rows of B and C start. Scratch: FORWARD_AREAS tiles, then three [N, 16].
    """
    step_at, drive_at, input_at, sum_at, gate_at = 0, AREA, 2 * AREA, 3 * AREA, 4 * AREA
    decay_at = FORWARD_AREAS * AREA
    into_at, out_at = decay_at + states * WIDTH, decay_at + 2 * states * WIDTH
    load_lanes(A, channel * states, states, count, scratch, decay_at, states)
    if constant_B:
        load_lanes(B, channel * states, states, count, scratch, into_at, states)
    if constant_C:
        load_lanes(C, channel * states, states, count, scratch, out_at, states)
    load_lanes(bias, channel, 1, count, scratch, gate_at, 1)
    offset = load(scratch, gate_at)
    load_lanes(D, channel, 1, count, scratch, gate_at, 1)
    skip = load(scratch, gate_at)
    write = y != 0
    total = splat(_ZERO)

    for t in range(first, last, TILE):
        steps = min(TILE, last - t)
        _load_tile(delta, row + t, length, count, steps, scratch, step_at)
        _load_tile(u, row + t, length, count, steps, scratch, input_at)
        for i in range(0, steps * WIDTH, WIDTH):
            step = add(load(scratch, step_at + i), offset)
            if has_softplus:
                step = softplus(step)
            total = add(total, step)
            x = load(scratch, input_at + i)
            store(scratch, step_at + i, step)
            store(scratch, drive_at + i, mul(step, x))
            store(scratch, sum_at + i, mul(skip, x))
        for n in range(states):
            at = state_at + n * WIDTH
            h = load(state, at)
            if kept != 0:
                store(kept, kept_at + t // TILE * kept_step + n * WIDTH, h)
            rate = mul(load(scratch, decay_at + n * WIDTH), splat(_LOG2E))
            into, out = load(scratch, into_at + n * WIDTH), load(scratch, out_at + n * WIDTH)
            where_B, where_C = row_B + n * length + t, row_C + n * length + t
            for i in range(steps):
                if not constant_B:
                    into = spread(B, where_B + i)
                keep = exp2(mul(load(scratch, step_at + i * WIDTH), rate))
                h = fma(keep, h, mul(load(scratch, drive_at + i * WIDTH), into))
                if write:
                    if not constant_C:
                        out = spread(C, where_C + i)
                    store(scratch, sum_at + i * WIDTH, fma(h, out, load(scratch, sum_at + i * WIDTH)))
            store(state, at, h)
        if write:
            if has_z:
                _load_tile(z, row + t, length, count, steps, scratch, gate_at)
                for i in range(0, steps * WIDTH, WIDTH):
                    gate = load(scratch, gate_at + i)
                    store(scratch, sum_at + i, mul(load(scratch, sum_at + i), mul(gate, sigmoid(gate))))
            _store_tile(scratch, sum_at, steps, y, row + t, length, count)
    if sums != 0:
        store(sums, sums_at, total)


@_compiled
def _prepare_backward(delta, z, gy, has_z, has_softplus, row, length, count, t, steps, offset, scratch, areas):
    """Fill the tiles of step sizes, their slopes, and the gradients of the sum before the gate and of the gate."""
    step_at, slope_at, grad_at, gate_at = areas
    _load_tile(delta, row + t, length, count, steps, scratch, step_at)
    _load_tile(gy, row + t, length, count, steps, scratch, grad_at)
    if has_z:
        _load_tile(z, row + t, length, count, steps, scratch, gate_at)
    for i in range(0, steps * WIDTH, WIDTH):
        step = add(load(scratch, step_at + i), offset)
        if has_softplus:
            store(scratch, slope_at + i, softplus_slope(step))
            step = softplus(step)
        store(scratch, step_at + i, step)
        if has_z:
            gate, grad = load(scratch, gate_at + i), load(scratch, grad_at + i)
            open_ = sigmoid(gate)
            bend = mul(open_, fma(gate, sub(splat(_ONE), open_), splat(_ONE)))
            store(scratch, gate_at + i, mul(grad, bend))
            store(scratch, grad_at + i, mul(grad, mul(gate, open_)))


@_compiled
def carry_back(  # one block over steps first to last
    delta, z, C, A, bias, gy, has_z, has_softplus, constant_C,
    channel, count, row, projection, length, states, first, last, carry, carry_at, sums, sums_at, scratch,
):  # fmt: skip
    """Take the gradient of the state after the last step back to that of the state before the first, in ``carry``.

    Writes the sum of the step sizes into ``sums``. Scratch: as for backward.
    """
    areas = (0, AREA, 2 * AREA, 3 * AREA)
    step_at, _, grad_at, gate_at = areas
    decay_at = BACKWARD_AREAS * AREA
    out_at = decay_at + 2 * states * WIDTH
    load_lanes(A, channel * states, states, count, scratch, decay_at, states)
    if constant_C:
        load_lanes(C, channel * states, states, count, scratch, out_at, states)
    load_lanes(bias, channel, 1, count, scratch, gate_at, 1)
    offset = load(scratch, gate_at)
    total = splat(_ZERO)
    for t in range(first + (last - first - 1) // TILE * TILE, first - 1, -TILE):
        steps = min(TILE, last - t)
        _prepare_backward(delta, z, gy, has_z, has_softplus, row, length, count, t, steps, offset, scratch, areas)
        for n in range(states):
            rate = mul(load(scratch, decay_at + n * WIDTH), splat(_LOG2E))
            out = load(scratch, out_at + n * WIDTH)
            g = load(carry, carry_at + n * WIDTH)
            where = projection + n * length + t
            for i in range(steps - 1, -1, -1):
                if not constant_C:
                    out = spread(C, where + i)
                g = mul(
                    fma(load(scratch, grad_at + i * WIDTH), out, g), exp2(mul(load(scratch, step_at + i * WIDTH), rate))
                )
            store(carry, carry_at + n * WIDTH, g)
        for i in range(0, steps * WIDTH, WIDTH):
            total = add(total, load(scratch, step_at + i))
    store(sums, sums_at, total)


@_compiled
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


@_compiled
def backward(  # one block over steps first to last
    u, delta, z, B, C, A, D, bias, has_z, has_softplus, constant_B, constant_C,
    channel, count, row, row_B, row_C, length, states, first, last,
    kept, kept_at, kept_step, gy, carry, carry_at, gu, gdelta, gz,
    gB, gC, part_at, part_step, gA_lanes, gB_lanes, gC_lanes, lanes_at, gD_lanes, gbias_lanes, line_at, scratch,
):  # fmt: skip
    """Gradients of a block; ``carry`` [N, 16] is the state's gradient after the last step, then before the first.

    Writes gu, gdelta, gz and the block's share of gB and gC to ``part_at + n part_step + (t - first)``; what is
    summed over steps is added lane by lane to the arrays that end in _lanes. Scratch: BACKWARD_AREAS tiles, then three
    [N, 16].
    """
    areas = (0, AREA, 2 * AREA, 3 * AREA)
    step_at, slope_at, grad_at, gate_at = areas
    input_at, drive_at, sum_at, by_input_at, by_rate_at, keep_at, held_at, to_out_at, to_into_at = (
        4 * AREA, 5 * AREA, 6 * AREA, 7 * AREA, 8 * AREA, 9 * AREA, 10 * AREA, 11 * AREA, 12 * AREA,
    )  # fmt: skip
    decay_at = BACKWARD_AREAS * AREA
    into_at, out_at = decay_at + states * WIDTH, decay_at + 2 * states * WIDTH
    load_lanes(A, channel * states, states, count, scratch, decay_at, states)
    if constant_B:
        load_lanes(B, channel * states, states, count, scratch, into_at, states)
    if constant_C:
        load_lanes(C, channel * states, states, count, scratch, out_at, states)
    load_lanes(bias, channel, 1, count, scratch, gate_at, 1)
    offset = load(scratch, gate_at)
    load_lanes(D, channel, 1, count, scratch, gate_at, 1)
    skip = load(scratch, gate_at)
    zero = splat(_ZERO)

    for t in range(first + (last - first - 1) // TILE * TILE, first - 1, -TILE):
        steps = min(TILE, last - t)
        _prepare_backward(delta, z, gy, has_z, has_softplus, row, length, count, t, steps, offset, scratch, areas)
        _load_tile(u, row + t, length, count, steps, scratch, input_at)
        for i in range(0, steps * WIDTH, WIDTH):
            x = load(scratch, input_at + i)
            store(scratch, drive_at + i, mul(load(scratch, step_at + i), x))
            store(scratch, sum_at + i, mul(skip, x))
            store(scratch, by_input_at + i, zero)
            store(scratch, by_rate_at + i, zero)
        for n in range(states):
            decay = load(scratch, decay_at + n * WIDTH)
            rate = mul(decay, splat(_LOG2E))
            into, out = load(scratch, into_at + n * WIDTH), load(scratch, out_at + n * WIDTH)
            where_B, where_C = row_B + n * length + t, row_C + n * length + t
            # Forwards: what is kept of the state at each step (held), and the sum before the gate.
            h = load(kept, kept_at + t // TILE * kept_step + n * WIDTH)
            for i in range(steps):
                a = i * WIDTH
                if not constant_B:
                    into = spread(B, where_B + i)
                keep = exp2(mul(load(scratch, step_at + a), rate))
                held = mul(keep, h)
                h = fma(load(scratch, drive_at + a), into, held)
                store(scratch, keep_at + a, keep)
                store(scratch, held_at + a, held)
                store(scratch, to_out_at + a, mul(load(scratch, grad_at + a), h))
                if has_z:
                    if not constant_C:
                        out = spread(C, where_C + i)
                    store(scratch, sum_at + a, fma(h, out, load(scratch, sum_at + a)))
            # Backwards: g is the gradient of the state.
            g = load(carry, carry_at + n * WIDTH)
            grad_decay = zero
            for i in range(steps - 1, -1, -1):
                a = i * WIDTH
                if not constant_B:
                    into = spread(B, where_B + i)
                if not constant_C:
                    out = spread(C, where_C + i)
                g = fma(load(scratch, grad_at + a), out, g)
                store(scratch, to_into_at + a, mul(g, load(scratch, drive_at + a)))
                flow = mul(g, load(scratch, held_at + a))
                grad_decay = fma(flow, load(scratch, step_at + a), grad_decay)
                store(scratch, by_rate_at + a, fma(flow, decay, load(scratch, by_rate_at + a)))
                store(scratch, by_input_at + a, fma(g, into, load(scratch, by_input_at + a)))
                g = mul(g, load(scratch, keep_at + a))
            store(carry, carry_at + n * WIDTH, g)
            at = lanes_at + n * WIDTH
            lost_at = at + states * WIDTH
            _accumulate(gA_lanes, at, lost_at, grad_decay)
            part = part_at + n * part_step + t - first
            if constant_B:
                _sum_steps(scratch, to_into_at, steps, gB_lanes, at, lost_at)
            else:
                _sum_tile(scratch, to_into_at, steps, gB, part)
            if constant_C:
                _sum_steps(scratch, to_out_at, steps, gC_lanes, at, lost_at)
            else:
                _sum_tile(scratch, to_out_at, steps, gC, part)
        for i in range(0, steps * WIDTH, WIDTH):
            x, step, grad = load(scratch, input_at + i), load(scratch, step_at + i), load(scratch, grad_at + i)
            by_input = load(scratch, by_input_at + i)
            grad_step = fma(x, by_input, load(scratch, by_rate_at + i))
            if has_softplus:
                grad_step = mul(grad_step, load(scratch, slope_at + i))
            _accumulate(gbias_lanes, line_at, line_at + WIDTH, grad_step)
            _accumulate(gD_lanes, line_at, line_at + WIDTH, mul(grad, x))
            store(scratch, by_input_at + i, fma(step, by_input, mul(skip, grad)))
            store(scratch, by_rate_at + i, grad_step)
            if has_z:
                store(scratch, gate_at + i, mul(load(scratch, gate_at + i), load(scratch, sum_at + i)))
        _store_tile(scratch, by_input_at, steps, gu, row + t, length, count)
        _store_tile(scratch, by_rate_at, steps, gdelta, row + t, length, count)
        if has_z:
            _store_tile(scratch, gate_at, steps, gz, row + t, length, count)


@_compiled
def _accumulate(target, at, lost_at, value):
    """Add a vector to a long sum, keeping what rounding loses.

    References:
        Kahan, "Further remarks on reducing truncation errors", Communications of the ACM 8(1), 1965.
    """
    total = load(target, at)
    value = sub(value, load(target, lost_at))
    grown = add(total, value)
    store(target, lost_at, sub(sub(grown, total), value))
    store(target, at, grown)


@_compiled
def _sum_steps(scratch, at, steps, target, where, lost_at):
    """Add a tile's sum over its steps, lane by lane."""
    total = splat(_ZERO)
    for i in range(0, steps * WIDTH, WIDTH):
        total = add(total, load(scratch, at + i))
    _accumulate(target, where, lost_at, total)


@_compiled
def sum_parts(parts, at, blocks, states, width, steps, target, start, length):
    """Sum ``steps`` columns of [blocks, N, width] over the blocks, in order, into rows of the given length."""
    for n in range(states):
        for i in range(steps):
            total = get(parts, at + n * width + i)
            for k in range(1, blocks):
                total += get(parts, at + (k * states + n) * width + i)
            put(target, start + n * length + i, total)
