"""The gradients of a selective scan on a GPU; `_triton_kernels` says how programs share the work."""
# Triton compiles these functions and has no types of its own to give; the arguments are described in words. It knows no
# unpacking into tuples, and conditions on None or constants, settled when it compiles, must stand alone.

from __future__ import annotations

import triton
import triton.language as tl

from ._triton_tiles import (
    ANY_NUMBER,
    LN2,
    LOG2E,
    loops_of,
    over_channels,
    over_states,
    per_channel,
    place,
    raw_step,
    sigmoid,
    slots,
    states_of,
    step_size,
    steps_of,
    tokens_of,
)


@triton.jit(do_not_specialize=ANY_NUMBER)
def chunk_gradients_ends(
    delta, A, C, z, delta_bias, grad_y, ends, sums, walk, scale,
    delta_b, delta_d, delta_l, C_b, C_g, C_n, C_l, z_b, z_d, z_l, grad_y_b, grad_y_d, grad_y_l,
    channels, part, per_C, blocks, chunks, steps, length,
    N: tl.constexpr, CONSTANT_C: tl.constexpr, SOFTPLUS: tl.constexpr, LOOPS: tl.constexpr, STEPS: tl.constexpr,
    NR: tl.constexpr, CR: tl.constexpr, NL: tl.constexpr, CL: tl.constexpr,
):  # fmt: skip
    """What each chunk hands back to the one before if the one after hands it nothing (B, chunks, N, D), and sums of d.

    What a step hands back is the gradient of the state it began with.
    """
    entry, chunk, _, c, n, at, in_c, in_n, in_tile = place(channels, part, blocks, chunks, N, NR, CR, NL, CL)
    decay = tl.load(A + at, mask=in_tile, other=0.0) * LOG2E
    bias = per_channel(delta_bias, c, in_c, CR, NL, CL)
    fixed = tl.load(C + at, mask=in_tile, other=0.0) if CONSTANT_C else 0.0
    wide = c.to(tl.int64)
    delta_row = delta + entry * delta_b + wide * delta_d
    grad_y_row = grad_y + entry * grad_y_b + wide * grad_y_d
    C_row = states_of(C, C_b, C_g, C_n, entry, c, n, per_C)

    loops = loops_of(walk)
    back = tl.zeros((NR, CR, NL, CL), tl.float32)
    total = tl.zeros((1, CR, NL, CL), tl.float32)
    first, last, end = steps_of(chunk, steps, length, walk)
    rounds = tl.cdiv(last - first, STEPS)
    for done in range(0, rounds):
        step = first + (rounds - 1 - done) * STEPS
        tokens = tokens_of(step, loops, LOOPS, STEPS)
        loaded = ()
        for i in tl.static_range(STEPS):
            live = step + i < end
            mask = in_c & live
            raw = raw_step(delta_row, tokens[i], delta_l, mask, bias)
            pull = fixed if CONSTANT_C else tl.load(C_row + tokens[i] * C_l, mask=in_n & live, other=0.0)
            upstream = tl.load(grad_y_row + tokens[i] * grad_y_l, mask=mask, other=0.0)
            gate = 0.0
            if z is not None:
                gate = tl.load(z + entry * z_b + wide * z_d + tokens[i] * z_l, mask=mask, other=0.0)
            loaded = loaded + ((live, raw, pull, upstream, gate),)
        for i in tl.static_range(STEPS - 1, -1, -1):
            live, raw, pull, upstream, gate = loaded[i]
            gs = upstream.to(tl.float32) * scale
            if z is not None:
                gate = gate.to(tl.float32)
                gs *= gate * sigmoid(gate)
            d = step_size(raw, live, SOFTPLUS)
            total += d
            back = tl.exp2(d * decay) * (back + pull.to(tl.float32) * gs)

    where = entry * chunks + chunk
    tl.store(ends + (where * N + n) * channels + c, back, mask=in_tile)
    tl.store(sums + where * channels + c, total, mask=in_c)


@triton.jit(do_not_specialize=ANY_NUMBER)
def chunk_gradients(
    u, delta, A, B, C, D, z, delta_bias, grad_y, kept, starts, given, scratch, walk, scale,
    partial_u, grad_u, grad_delta, partial_z, grad_z, grad_A, grad_B, grad_C, grad_D, grad_bias, grad_state,
    u_b, u_d, u_l, delta_b, delta_d, delta_l, B_b, B_g, B_n, B_l, C_b, C_g, C_n, C_l, z_b, z_d, z_l,
    grad_y_b, grad_y_d, grad_y_l, grad_u_b, grad_u_d, grad_u_l, grad_delta_b, grad_delta_d, grad_delta_l,
    grad_z_b, grad_z_d, grad_z_l, kept_b, given_b, grad_state_b,
    entries, channels, part, per_B, per_C, blocks, chunks, across, first_chunk, row, steps, length,
    N: tl.constexpr, CONSTANT_B: tl.constexpr, CONSTANT_C: tl.constexpr, SOFTPLUS: tl.constexpr,
    FIRST: tl.constexpr, LAST: tl.constexpr, SHARED: tl.constexpr, LOOPS: tl.constexpr, STEPS: tl.constexpr,
    KEEP: tl.constexpr, NR: tl.constexpr, CR: tl.constexpr, NL: tl.constexpr, CL: tl.constexpr,
):  # fmt: skip
    """Gradients of one order.

    With g_t the gradient of the state after step t, and a_t = exp(d_t A)::

        g_t = C_t grad_s_t + a_(t+1) g_(t+1)              what step t + 1 hands back
        grad d_t = sum_n g_t (A a_t h_(t-1) + B_t u_t)    and so on for the other arguments

    A chunk is handed ``starts`` (B, chunks, N, D) by the one after, or, if None, ``given`` (B, D, N), and works through
    its pieces of KEEP steps from the last to the first. Each is run forwards from the kept state, leaving the state of
    every STEPS-th step in ``scratch``; then, STEPS at a time, states are found again, in registers, and gradients
    follow backwards.

    Gradients of u (if all orders share it) and z are summed over the orders like y in `chunk_outputs`. Of the chunks,
    ``across`` are worked on, from ``first_chunk`` on. Shares of the programs, to be summed by `add_tokens` and
    `add_rows`: of per-token B and C (blocks, B, across * steps, N), of all else (B, chunks, row).
    """
    entry, chunk, block, c, n, at, in_c, in_n, in_tile = place(channels, part, blocks, across, N, NR, CR, NL, CL)
    chunk += first_chunk
    decay = tl.load(A + at, mask=in_tile, other=0.0) * LOG2E
    bias = per_channel(delta_bias, c, in_c, CR, NL, CL)
    skip = per_channel(D, c, in_c, CR, NL, CL)
    fixed_B = tl.load(B + at, mask=in_tile, other=0.0) if CONSTANT_B else 0.0
    fixed_C = tl.load(C + at, mask=in_tile, other=0.0) if CONSTANT_C else 0.0
    wide = c.to(tl.int64)
    u_row = u + entry * u_b + wide * u_d
    delta_row = delta + entry * delta_b + wide * delta_d
    grad_y_row = grad_y + entry * grad_y_b + wide * grad_y_d
    grad_u += entry * grad_u_b
    if partial_u is not None:
        partial_u += entry * grad_u_b
    if grad_z is not None:
        grad_z += entry * grad_z_b
    if partial_z is not None:
        partial_z += entry * grad_z_b
    grad_u_at = wide * grad_u_d
    grad_z_at = wide * grad_z_d
    grad_delta_row = grad_delta + entry * grad_delta_b + wide * grad_delta_d
    B_row = states_of(B, B_b, B_g, B_n, entry, c, n, per_B)
    C_row = states_of(C, C_b, C_g, C_n, entry, c, n, per_C)
    window = tl.cast(first_chunk, walk.dtype.element_ty) * steps
    if not CONSTANT_B:
        grad_B += (block * entries + entry) * across * steps * N
    if not CONSTANT_C:
        grad_C += (block * entries + entry) * across * steps * N
    share = tl.broadcast_to(n, (NR, 1, NL, CL))
    scratch += tl.program_id(0).to(tl.int64) * (KEEP // STEPS * NR * CR * NL * CL)
    slot = slots(NR, CR, NL, CL)

    loops = loops_of(walk)
    back = tl.zeros((NR, CR, NL, CL), tl.float32)
    if starts is not None:
        back = tl.load(starts + ((entry * chunks + chunk) * N + n) * channels + c, mask=in_tile, other=0.0)
    elif given is not None:
        back = tl.load(given + entry * given_b + at, mask=in_tile, other=0.0)
    sum_A = tl.zeros((NR, CR, NL, CL), tl.float32)
    sum_B = tl.zeros((NR, CR, NL, CL), tl.float32)
    sum_C = tl.zeros((NR, CR, NL, CL), tl.float32)
    sum_D = tl.zeros((1, CR, NL, CL), tl.float32)
    sum_bias = tl.zeros((1, CR, NL, CL), tl.float32)
    first, last, end = steps_of(chunk, steps, length, walk)
    pieces = tl.cdiv(last - first, KEEP)
    for piece in range(0, pieces):
        start = first + (pieces - 1 - piece) * KEEP
        rounds = tl.cdiv(tl.minimum(start + KEEP, last) - start, STEPS)

        mark = tl.cast(start // KEEP, tl.int64) * N + n
        h = tl.load(kept + entry * kept_b + mark * channels + c, mask=in_tile, other=0.0)
        for done in range(0, rounds):
            tl.store(scratch + slot + done * (NR * CR * NL * CL), h)
            step = start + done * STEPS
            tokens = tokens_of(step, loops, LOOPS, STEPS)
            loaded = ()
            for i in tl.static_range(STEPS):
                live = step + i < end
                raw = raw_step(delta_row, tokens[i], delta_l, in_c & live, bias)
                x = tl.load(u_row + tokens[i] * u_l, mask=in_c & live, other=0.0)
                push = fixed_B if CONSTANT_B else tl.load(B_row + tokens[i] * B_l, mask=in_n & live, other=0.0)
                loaded = loaded + ((live, raw, x, push),)
            for i in tl.static_range(STEPS):
                live, raw, x, push = loaded[i]
                d = step_size(raw, live, SOFTPLUS)
                h = tl.exp2(d * decay) * h + (d * x.to(tl.float32)) * push.to(tl.float32)
        tl.debug_barrier()  # a lane may read what another one wrote

        for done in range(0, rounds):
            step = start + (rounds - 1 - done) * STEPS
            tokens = tokens_of(step, loops, LOOPS, STEPS)
            h = tl.load(scratch + slot + (rounds - 1 - done) * (NR * CR * NL * CL))
            loaded = ()
            for i in tl.static_range(STEPS):
                live = step + i < end
                mask = in_c & live
                raw = raw_step(delta_row, tokens[i], delta_l, mask, bias)
                x = tl.load(u_row + tokens[i] * u_l, mask=mask, other=0.0)
                push = fixed_B if CONSTANT_B else tl.load(B_row + tokens[i] * B_l, mask=in_n & live, other=0.0)
                pull = fixed_C if CONSTANT_C else tl.load(C_row + tokens[i] * C_l, mask=in_n & live, other=0.0)
                upstream = tl.load(grad_y_row + tokens[i] * grad_y_l, mask=mask, other=0.0)
                gate = 0.0
                if z is not None:
                    gate = tl.load(z + entry * z_b + wide * z_d + tokens[i] * z_l, mask=mask, other=0.0)
                loaded = loaded + ((raw, x, push, pull, upstream, gate),)
            states = (h,)
            for i in tl.static_range(STEPS):
                raw, x, push, pull, upstream, gate = loaded[i]
                d = step_size(raw, step + i < end, SOFTPLUS)
                h = tl.exp2(d * decay) * h + (d * x.to(tl.float32)) * push.to(tl.float32)
                states = states + (h,)
            for i in tl.static_range(STEPS - 1, -1, -1):
                raw, x, push, pull, upstream, gate = loaded[i]
                live = step + i < end
                mask = in_c & live
                x = x.to(tl.float32)
                push = push.to(tl.float32)
                pull = pull.to(tl.float32)
                d = step_size(raw, live, SOFTPLUS)
                gs = upstream.to(tl.float32) * scale
                if z is not None:
                    gate = gate.to(tl.float32)
                    opened = sigmoid(gate)
                    s = over_states(states[i + 1] * pull) + skip * x
                    grad_gate = gs * s * opened * (1.0 + gate * (1.0 - opened))
                    if not FIRST:
                        grad_gate += tl.load(partial_z + grad_z_at + tokens[i] * grad_z_l, mask=mask, other=0.0)
                    if LAST:
                        tl.store(grad_z + grad_z_at + tokens[i] * grad_z_l, grad_gate, mask=mask)
                    else:
                        tl.store(partial_z + grad_z_at + tokens[i] * grad_z_l, grad_gate, mask=mask)
                    gs *= gate * opened
                g = pull * gs + back
                back = tl.exp2(d * decay) * g
                through = back * states[i]  # g a h
                pushed = over_states(g * push)

                if CONSTANT_B:
                    sum_B += g * (d * x)
                else:
                    grad_push = over_channels(g * (d * x))
                    tl.store(grad_B + share + tl.cast(step + i - window, tl.int64) * N, grad_push, mask=in_n & live)
                if CONSTANT_C:
                    sum_C += states[i + 1] * gs
                else:
                    grad_pull = over_channels(states[i + 1] * gs)
                    tl.store(grad_C + share + tl.cast(step + i - window, tl.int64) * N, grad_pull, mask=in_n & live)
                sum_A += through * d
                sum_D += gs * x
                grad_x = skip * gs + d * pushed
                if SHARED and not FIRST:
                    grad_x += tl.load(partial_u + grad_u_at + tokens[i] * grad_u_l, mask=mask, other=0.0)
                if SHARED and not LAST:
                    tl.store(partial_u + grad_u_at + tokens[i] * grad_u_l, grad_x, mask=mask)
                else:
                    tl.store(grad_u + grad_u_at + tokens[i] * grad_u_l, grad_x, mask=mask)
                grad_raw = x * pushed + over_states(through * decay) * LN2
                if SOFTPLUS:
                    grad_raw *= sigmoid(raw)
                grad_raw = tl.where(live, grad_raw, 0.0)
                sum_bias += grad_raw
                tl.store(grad_delta_row + tokens[i] * grad_delta_l, grad_raw, mask=mask)
        tl.debug_barrier()  # before the next piece overwrites the scratch

    where = (entry * chunks + chunk) * row
    tl.store(grad_A + where + at, sum_A, mask=in_tile)
    if CONSTANT_B:
        tl.store(grad_B + where + at, sum_B, mask=in_tile)
    if CONSTANT_C:
        tl.store(grad_C + where + at, sum_C, mask=in_tile)
    if D is not None:
        tl.store(grad_D + where + c, sum_D, mask=in_c)
    if delta_bias is not None:
        tl.store(grad_bias + where + c, sum_bias, mask=in_c)
    if grad_state is not None:
        if chunk == 0:
            tl.store(grad_state + entry * grad_state_b + at, back, mask=in_tile)
