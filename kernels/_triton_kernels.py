"""The selective scan on a GPU: what Triton compiles.

Letters: B batch, D channels, L steps, N states; formulas in `reference`. All arithmetic is float32.

A program walks one chunk of the steps of one order, for a tile of channels, and holds all their states in registers. A
tile has four axes (NR, CR, NL, CL): state ``nr * NL + nl`` of channel ``cr * CL + cl``. Triton deals the last axes to
the lanes of a warp and leaves the first to a lane's registers, so NL and CL, whose product is the width of a warp, say
how states and channels share the lanes: sums over an axis of registers are free, those over lanes are shuffles.

Chunks of one order run side by side. The first pass finds where each would end if it began at zero (`chunk_ends`, and
`chunk_gradients_ends` for gradients, which run backwards), `carry` then passes the states on from chunk to chunk, and
the last pass starts each chunk from there. A chunk multiplies its state by ``exp(A sum d)``, so no product is kept.

Decays are taken times log2(e), for the power of two is what the hardware has. Small tensors (A, D, delta_bias, constant
B and C, states) come as contiguous float32; large ones in any type, with any strides. Addresses have 64 bits, steps as
many as the walk's numbers.
"""
# Triton compiles these functions and has no types of its own to give; the arguments are described in words. It knows no
# unpacking into tuples, and conditions on None or constants, settled when it compiles, must stand alone.

from __future__ import annotations

import triton
import triton.language as tl

from ._triton_tiles import (
    ANY_NUMBER,
    LOG2E,
    loops_of,
    over_states,
    per_channel,
    place,
    raw_step,
    sigmoid,
    states_of,
    step_size,
    steps_of,
    tokens_of,
)


@triton.jit(do_not_specialize=ANY_NUMBER)
def chunk_ends(
    u, delta, A, B, delta_bias, ends, sums, walk,
    u_b, u_d, u_l, delta_b, delta_d, delta_l, B_b, B_g, B_n, B_l,
    channels, part, per_B, blocks, chunks, steps, length,
    N: tl.constexpr, CONSTANT_B: tl.constexpr, SOFTPLUS: tl.constexpr, LOOPS: tl.constexpr, STEPS: tl.constexpr,
    NR: tl.constexpr, CR: tl.constexpr, NL: tl.constexpr, CL: tl.constexpr,
):  # fmt: skip
    """The state (B, chunks, N, D) in which each chunk ends if it begins at zero, and its sum of d (B, chunks, D)."""
    entry, chunk, _, c, n, at, in_c, in_n, in_tile = place(channels, part, blocks, chunks, N, NR, CR, NL, CL)
    decay = tl.load(A + at, mask=in_tile, other=0.0) * LOG2E
    bias = per_channel(delta_bias, c, in_c, CR, NL, CL)
    fixed = tl.load(B + at, mask=in_tile, other=0.0) if CONSTANT_B else 0.0
    wide = c.to(tl.int64)
    u_row = u + entry * u_b + wide * u_d
    delta_row = delta + entry * delta_b + wide * delta_d
    B_row = states_of(B, B_b, B_g, B_n, entry, c, n, per_B)

    loops = loops_of(walk)
    h = tl.zeros((NR, CR, NL, CL), tl.float32)
    total = tl.zeros((1, CR, NL, CL), tl.float32)
    first, last, end = steps_of(chunk, steps, length, walk)
    for step in range(first, last, STEPS):
        tokens = tokens_of(step, loops, LOOPS, STEPS)
        loaded = ()
        for i in tl.static_range(STEPS):
            live = step + i < end
            raw = raw_step(delta_row, tokens[i], delta_l, in_c & live, bias)
            x = tl.load(u_row + tokens[i] * u_l, mask=in_c & live, other=0.0)
            push = fixed if CONSTANT_B else tl.load(B_row + tokens[i] * B_l, mask=in_n & live, other=0.0)
            loaded = loaded + ((live, raw, x, push),)
        for i in tl.static_range(STEPS):
            live, raw, x, push = loaded[i]
            d = step_size(raw, live, SOFTPLUS)
            total += d
            h = tl.exp2(d * decay) * h + (d * x.to(tl.float32)) * push.to(tl.float32)

    where = entry * chunks + chunk
    tl.store(ends + (where * N + n) * channels + c, h, mask=in_tile)
    tl.store(sums + where * channels + c, total, mask=in_c)


@triton.jit(do_not_specialize=ANY_NUMBER)
def carry(
    ends, sums, A, given, channels, chunks, given_b,
    N: tl.constexpr, REVERSE: tl.constexpr, WIDTH: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """Replace each chunk's end from zero by what it begins with, in the order of the chunks or against it.

    ``given`` (B, D, N) is what the first one begins with, None: zero. AHEAD ends are fetched at once.
    """
    tiles = tl.cdiv(channels * N, WIDTH)
    entry = (tl.program_id(0) // tiles).to(tl.int64)
    at = (tl.program_id(0) % tiles) * WIDTH + tl.arange(0, WIDTH)
    mask = at < channels * N
    c = at % channels
    n = at // channels
    decay = tl.load(A + c * N + n, mask=mask, other=0.0) * LOG2E
    state = tl.zeros((WIDTH,), tl.float32)
    if given is not None:
        state = tl.load(given + entry * given_b + c * N + n, mask=mask, other=0.0)
    number = chunks + tl.zeros((WIDTH,), tl.int32)
    for first in range(0, chunks, AHEAD):
        loaded = ()
        for i in tl.static_range(AHEAD):
            chunk = chunks - 1 - first - i if REVERSE else first + i
            where = entry * chunks + chunk
            live = mask & (first + i < number)
            own = tl.load(ends + where * N * channels + at, mask=live, other=0.0)
            total = tl.load(sums + where * channels + c, mask=live, other=0.0)
            loaded = loaded + ((where, live, own, total),)
        for i in tl.static_range(AHEAD):
            where, live, own, total = loaded[i]
            tl.store(ends + where * N * channels + at, state, mask=live)
            state = tl.exp2(total * decay) * state + own


@triton.jit(do_not_specialize=ANY_NUMBER)
def chunk_outputs(
    u, delta, A, B, C, D, z, delta_bias, starts, given, partial, y, last_state, kept, walk, scale,
    u_b, u_d, u_l, delta_b, delta_d, delta_l, B_b, B_g, B_n, B_l, C_b, C_g, C_n, C_l, z_b, z_d, z_l, y_b, y_d, y_l,
    given_b, last_b, kept_b,
    channels, part, per_B, per_C, blocks, chunks, steps, length,
    N: tl.constexpr, CONSTANT_B: tl.constexpr, CONSTANT_C: tl.constexpr, SOFTPLUS: tl.constexpr,
    FIRST: tl.constexpr, LAST: tl.constexpr, LOOPS: tl.constexpr, STEPS: tl.constexpr, KEEP: tl.constexpr,
    NR: tl.constexpr, CR: tl.constexpr, NL: tl.constexpr, CL: tl.constexpr,
):  # fmt: skip
    """One order's part of y, and its last state (B, D, N).

    A chunk begins with ``starts`` (B, chunks, N, D), or, if None, with ``given`` (B, D, N). The sum of the orders so
    far lies in ``partial``, float32, with the strides of y; the last order writes y. States of every KEEP-th step go to
    ``kept`` (B, L / KEEP, N, D) unless it is None.
    """
    entry, chunk, _, c, n, at, in_c, in_n, in_tile = place(channels, part, blocks, chunks, N, NR, CR, NL, CL)
    decay = tl.load(A + at, mask=in_tile, other=0.0) * LOG2E
    bias = per_channel(delta_bias, c, in_c, CR, NL, CL)
    skip = per_channel(D, c, in_c, CR, NL, CL)
    fixed_B = tl.load(B + at, mask=in_tile, other=0.0) if CONSTANT_B else 0.0
    fixed_C = tl.load(C + at, mask=in_tile, other=0.0) if CONSTANT_C else 0.0
    wide = c.to(tl.int64)
    u_row = u + entry * u_b + wide * u_d
    delta_row = delta + entry * delta_b + wide * delta_d
    y += entry * y_b
    if partial is not None:
        partial += entry * y_b
    y_at = wide * y_d
    B_row = states_of(B, B_b, B_g, B_n, entry, c, n, per_B)
    C_row = states_of(C, C_b, C_g, C_n, entry, c, n, per_C)

    loops = loops_of(walk)
    h = tl.zeros((NR, CR, NL, CL), tl.float32)
    if starts is not None:
        h = tl.load(starts + ((entry * chunks + chunk) * N + n) * channels + c, mask=in_tile, other=0.0)
    elif given is not None:
        h = tl.load(given + entry * given_b + at, mask=in_tile, other=0.0)
    first, last, end = steps_of(chunk, steps, length, walk)
    for step in range(first, last, STEPS):
        if kept is not None:
            if step % KEEP == 0:
                mark = tl.cast(step // KEEP, tl.int64) * N + n
                tl.store(kept + entry * kept_b + mark * channels + c, h, mask=in_tile)
        tokens = tokens_of(step, loops, LOOPS, STEPS)
        loaded = ()
        for i in tl.static_range(STEPS):
            live = step + i < end
            mask = in_c & live
            raw = raw_step(delta_row, tokens[i], delta_l, mask, bias)
            x = tl.load(u_row + tokens[i] * u_l, mask=mask, other=0.0)
            push = fixed_B if CONSTANT_B else tl.load(B_row + tokens[i] * B_l, mask=in_n & live, other=0.0)
            pull = fixed_C if CONSTANT_C else tl.load(C_row + tokens[i] * C_l, mask=in_n & live, other=0.0)
            others = 0.0 if FIRST else tl.load(partial + y_at + tokens[i] * y_l, mask=mask, other=0.0)
            gate = 0.0
            if LAST and z is not None:
                gate = tl.load(z + entry * z_b + wide * z_d + tokens[i] * z_l, mask=mask, other=0.0)
            loaded = loaded + ((live, raw, x, push, pull, others, gate),)
        for i in tl.static_range(STEPS):
            live, raw, x, push, pull, others, gate = loaded[i]
            x = x.to(tl.float32)
            d = step_size(raw, live, SOFTPLUS)
            h = tl.exp2(d * decay) * h + (d * x) * push.to(tl.float32)
            s = over_states(h * pull.to(tl.float32))
            if D is not None:
                s += skip * x
            s += others
            if LAST:
                s *= scale
                if z is not None:
                    gate = gate.to(tl.float32)
                    s *= gate * sigmoid(gate)
                tl.store(y + y_at + tokens[i] * y_l, s.to(y.dtype.element_ty), mask=in_c & live)
            else:
                tl.store(partial + y_at + tokens[i] * y_l, s, mask=in_c & live)
    if chunk == chunks - 1:
        tl.store(last_state + entry * last_b + at, h, mask=in_tile)
