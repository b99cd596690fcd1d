"""What the Triton kernels share: tiles, the steps of a walk, and the mathematics of a step."""
# Triton compiles these functions and has no types of its own to give; the arguments are described in words. It knows no
# unpacking into tuples, and conditions on None or constants, settled when it compiles, must stand alone.

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)

#: Numbers for which Triton compiles no variant of their own. Strides of channels and states are not among them: it is
#: worth one to know that they are 1.
ANY_NUMBER = (
    "channels", "part", "per_B", "per_C", "blocks", "chunks", "across", "first_chunk", "row", "steps", "length",
    "entries",
    "given_b", "last_b", "kept_b", "grad_state_b", "B_g", "C_g",
    *(f"{name}_{axis}" for name in ("u", "delta", "B", "C", "z", "y", "grad_y", "grad_u", "grad_delta", "grad_z")
      for axis in "bl"),
)  # fmt: skip


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp2(-x * LOG2E))


@triton.jit
def softplus(x):
    """log(1 + e^x) to a few units in the last place: max(x, 0) + 2 artanh(q), a series in q <= 1/3."""
    e = tl.exp2(-tl.abs(x) * LOG2E)
    q = e / (2.0 + e)
    s = q * q
    series = 1.0 + s * (1 / 3 + s * (1 / 5 + s * (1 / 7 + s * (1 / 9 + s * (1 / 11 + s * (1 / 13))))))
    return tl.maximum(x, 0.0) + 2.0 * q * series


@triton.jit
def over_states(x):
    """Sum over the states of a tile: (1, CR, 1, CL)."""
    return tl.sum(tl.sum(x, axis=0, keep_dims=True), axis=2, keep_dims=True)


@triton.jit
def over_channels(x):
    """Sum over the channels of a tile: (NR, 1, NL, 1)."""
    return tl.sum(tl.sum(x, axis=1, keep_dims=True), axis=3, keep_dims=True)


@triton.jit
def _apart(number):
    """The same numbers, each worked out for itself once they are known to be constants.

    Triton deals what it sees to be adjacent in memory to neighbouring lanes. That would take states out of the lanes
    that hold them, and into shared memory and back at each step, so it must not see it.
    """
    return tl.where(number % 2 == 0, number, number | 1)


@triton.jit
def place(
    channels, part, blocks, chunks, N: tl.constexpr, NR: tl.constexpr, CR: tl.constexpr, NL: tl.constexpr,
    CL: tl.constexpr,
):  # fmt: skip
    """The tile of a program: batch entry, chunk, block, channels, states, their place in (D, N), and masks.

    Axes are those of a tile; masks are of channels, of states, and of both.

    Channels are cut in parts, none of which crosses a group of B or C, and parts in blocks of a tile each. Neighbouring
    programs have neighbouring channels of the same steps.
    """
    program = tl.program_id(0)
    block = program % blocks
    chunk = (program // blocks) % chunks
    entry = (program // (blocks * chunks)).to(tl.int64)
    each = tl.cdiv(part, CR * CL)
    first = (block // each) * part + (block % each) * (CR * CL)
    cr = tl.arange(0, CR)[None, :, None, None]
    cl = tl.arange(0, CL)[None, None, None, :]
    nr = tl.arange(0, NR)[:, None, None, None]
    nl = tl.arange(0, NL)[None, None, :, None]
    c = first + cr * CL + cl + 0 * nl
    n = _apart(nr * NL + nl)
    in_c = c < (block // each + 1) * part
    return entry, chunk, block, c, n, c * N + n, in_c, n < N, in_c & (n < N)


@triton.jit
def slots(NR: tl.constexpr, CR: tl.constexpr, NL: tl.constexpr, CL: tl.constexpr):
    """A place in memory for each element of a tile, neighbouring lanes side by side."""
    nr = tl.arange(0, NR)[:, None, None, None]
    cr = tl.arange(0, CR)[None, :, None, None]
    nl = tl.arange(0, NL)[None, None, :, None]
    cl = tl.arange(0, CL)[None, None, None, :]
    return _apart(((nr * CR + cr) * NL + nl) * CL + cl)


@triton.jit
def per_channel(parameter, c, in_c, CR: tl.constexpr, NL: tl.constexpr, CL: tl.constexpr):
    """A parameter (D,) of a tile's channels: (1, CR, NL, CL), zeros for None."""
    values = tl.zeros((1, CR, NL, CL), tl.float32)
    if parameter is not None:
        values = tl.load(parameter + c, mask=in_c, other=0.0)
    return values


@triton.jit
def states_of(B, B_b, B_g, B_n, entry, c, n, per_B):
    """Where per-token B or C holds a tile's states, before the step to a token."""
    group = (tl.min(c) // per_B).to(tl.int64)
    return B + (entry * B_b + group * B_g) + n.to(tl.int64) * B_n


@triton.jit
def steps_of(chunk, steps, length, walk):
    """First step of a chunk, and what follows its last one: as a scalar, and with the axes of a tile."""
    first = tl.cast(chunk, walk.dtype.element_ty) * steps
    last = tl.minimum(first + steps, length)
    return first, last, last + tl.zeros((1, 1, 1, 1), last.dtype)


@triton.jit
def loops_of(walk):
    """The nested loops of a walk: start, sizes of the three fastest and strides of all four, slowest first."""
    return (
        tl.load(walk), tl.load(walk + 2), tl.load(walk + 3), tl.load(walk + 4),
        tl.load(walk + 5), tl.load(walk + 6), tl.load(walk + 7), tl.load(walk + 8),
    )  # fmt: skip


@triton.jit
def tokens_of(step, loops, LOOPS: tl.constexpr, STEPS: tl.constexpr):
    """Tokens of STEPS steps from ``step`` on, (STEPS,) scalars; of steps past the end, whatever the loops give.

    Divisions are slow, so only the first step is found by them; the others count on.
    """
    start, size1, size2, size3, stride0, stride1, stride2, stride3 = loops
    rest = tl.cast(step, start.dtype)
    if LOOPS == 1:
        token = start + rest * stride3
        found = (token.to(tl.int64),)
        for _ in tl.static_range(STEPS - 1):
            token += stride3
            found = found + (token.to(tl.int64),)
    else:
        i3 = rest % size3
        rest = rest // size3
        token = start + i3 * stride3
        i2 = rest
        i1 = rest
        if LOOPS == 2:
            token += rest * stride2
        else:
            i2 = rest % size2
            rest = rest // size2
            token += i2 * stride2
            if LOOPS == 3:
                token += rest * stride1
            else:
                i1 = rest % size1
                token += i1 * stride1 + (rest // size1) * stride0
        found = (token.to(tl.int64),)
        for _ in tl.static_range(STEPS - 1):
            i3 += 1
            over = i3 == size3
            i3 = tl.where(over, 0, i3)
            token += tl.where(over, stride2 - (size3 - 1) * stride3, stride3)
            if LOOPS > 2:
                i2 += tl.where(over, 1, 0)
                over = i2 == size2
                i2 = tl.where(over, 0, i2)
                token += tl.where(over, stride1 - size2 * stride2, 0)
            if LOOPS > 3:
                i1 += tl.where(over, 1, 0)
                over = i1 == size1
                i1 = tl.where(over, 0, i1)
                token += tl.where(over, stride0 - size1 * stride1, 0)
            found = found + (token.to(tl.int64),)
    return found


@triton.jit
def raw_step(row, token, stride, mask, bias):
    """A row of delta, with delta_bias."""
    raw = tl.load(row + token * stride, mask=mask, other=0.0).to(tl.float32)
    return raw + bias


@triton.jit
def step_size(raw, live, SOFTPLUS: tl.constexpr):
    """d; zero for steps past the end, which then change nothing."""
    d = raw
    if SOFTPLUS:
        d = softplus(raw)
    return tl.where(live, d, 0.0)
