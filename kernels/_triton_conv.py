"""The causal convolution along an order on a GPU: what Triton compiles.

A program has STEPS steps of one order and WIDTH channels of one batch entry, and finds the tokens of the steps that it
needs, W - 1 before its own and, for gradients, after them too, where the walk says.
"""
# Triton compiles these functions and has no types of its own to give; the arguments are described in words.

from __future__ import annotations

import triton
import triton.language as tl

from ._triton_tiles import sigmoid

#: Numbers for which Triton compiles no variant of their own.
ANY_NUMBER = "channels", "length", "blocks", "pieces", "row", "x_b", "x_l", "y_b", "y_l", "grad_b", "grad_l"


@triton.jit
def _place(channels, blocks, pieces, STEPS: tl.constexpr, WIDTH: tl.constexpr):
    """Batch entry, channels (1, WIDTH), steps (STEPS, 1), and the program's number among those of its channels."""
    program = tl.program_id(0)
    block = program % blocks
    piece = (program // blocks) % pieces
    entry = (program // (blocks * pieces)).to(tl.int64)
    c = block * WIDTH + tl.arange(0, WIDTH)[None, :]
    t = piece.to(tl.int64) * STEPS + tl.arange(0, STEPS)[:, None]
    return entry, c, t, program // blocks


@triton.jit
def _token(t, walk, LOOPS: tl.constexpr):
    """Tokens of steps, in 64 bits."""
    rest = t.to(walk.dtype.element_ty)
    token = tl.load(walk)
    for loop in tl.static_range(4, 5 - LOOPS, -1):
        size = tl.load(walk + loop)
        token += rest % size * tl.load(walk + 4 + loop)
        rest = rest // size
    return (token + rest * tl.load(walk + 9 - LOOPS)).to(tl.int64)


@triton.jit
def _rows(x, entry, c, t, walk, x_b, x_d, x_l, channels, length, LOOPS: tl.constexpr):
    """X at steps, float32; zero before the first and after the last."""
    at = entry * x_b + c.to(tl.int64) * x_d + _token(t, walk, LOOPS) * x_l
    return tl.load(x + at, mask=(c < channels) & (t >= 0) & (t < length), other=0.0).to(tl.float32)


@triton.jit
def _summed(
    x, weight, bias, entry, c, t, walk, x_b, x_d, x_l, channels, length,
    TAPS: tl.constexpr, LOOPS: tl.constexpr, STEPS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The convolution before its activation."""
    total = tl.zeros((STEPS, WIDTH), tl.float32)
    if bias is not None:
        total += tl.load(bias + c, mask=c < channels, other=0.0)
    for tap in tl.static_range(TAPS):
        tapped = tl.load(weight + c * TAPS + tap, mask=c < channels, other=0.0)
        total += tapped * _rows(x, entry, c, t - (TAPS - 1 - tap), walk, x_b, x_d, x_l, channels, length, LOOPS)
    return total


@triton.jit(do_not_specialize=ANY_NUMBER)
def convolve(
    x, weight, bias, y, walk, x_b, x_d, x_l, y_b, y_d, y_l, channels, length, blocks, pieces,
    TAPS: tl.constexpr, ACTIVATION: tl.constexpr, LOOPS: tl.constexpr, STEPS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """One order: x (B, D, L), weight (D, W) and bias (D,) in float32, y (B, D, L)."""
    entry, c, t, _ = _place(channels, blocks, pieces, STEPS, WIDTH)
    total = _summed(
        x, weight, bias, entry, c, t, walk, x_b, x_d, x_l, channels, length, TAPS, LOOPS, STEPS, WIDTH
    )  # fmt: skip
    if ACTIVATION:
        total *= sigmoid(total)
    at = entry * y_b + c.to(tl.int64) * y_d + _token(t, walk, LOOPS) * y_l
    tl.store(y + at, total.to(y.dtype.element_ty), mask=(c < channels) & (t < length))


@triton.jit(do_not_specialize=ANY_NUMBER)
def convolve_back(
    x, weight, bias, grad, partial, grad_x, grad_weight, grad_bias, walk,
    x_b, x_d, x_l, grad_b, grad_d, grad_l, grad_x_b, grad_x_d, grad_x_l, channels, length, blocks, pieces, row,
    TAPS: tl.constexpr, ACTIVATION: tl.constexpr, FIRST: tl.constexpr, LAST: tl.constexpr, LOOPS: tl.constexpr,
    STEPS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Gradients of one order.

    That of x is summed over the orders: the sum so far lies in ``partial``, float32, with the strides of ``grad_x``,
    which the last order writes. Shares of weight (D, W) and bias (D,), a ``row`` apart, are summed by `add_rows`.
    """
    entry, c, t, share = _place(channels, blocks, pieces, STEPS, WIDTH)
    in_c = c < channels
    given = tl.zeros((STEPS, WIDTH), tl.float32)
    for ahead in tl.static_range(TAPS):
        # What the step ``ahead`` of this one took from it.
        later = t + ahead
        upstream = _rows(grad, entry, c, later, walk, grad_b, grad_d, grad_l, channels, length, LOOPS)
        if ACTIVATION:
            total = _summed(
                x, weight, bias, entry, c, later, walk, x_b, x_d, x_l, channels, length, TAPS, LOOPS, STEPS, WIDTH
            )  # fmt: skip
            opened = sigmoid(total)
            upstream *= opened * (1.0 + total * (1.0 - opened))
        given += upstream * tl.load(weight + c * TAPS + TAPS - 1 - ahead, mask=in_c, other=0.0)
        if ahead == 0:
            own = upstream
    for tap in tl.static_range(TAPS):
        seen = _rows(x, entry, c, t - (TAPS - 1 - tap), walk, x_b, x_d, x_l, channels, length, LOOPS)
        summed = tl.sum(own * seen, axis=0, keep_dims=True)
        tl.store(grad_weight + share.to(tl.int64) * row + c * TAPS + tap, summed, mask=in_c)
    tl.store(grad_bias + share.to(tl.int64) * row + c, tl.sum(own, axis=0, keep_dims=True), mask=in_c)
    mask = in_c & (t < length)
    at = entry * grad_x_b + c.to(tl.int64) * grad_x_d + _token(t, walk, LOOPS) * grad_x_l
    if not FIRST:
        given += tl.load(partial + at, mask=mask, other=0.0)
    if LAST:
        tl.store(grad_x + at, given.to(grad_x.dtype.element_ty), mask=mask)
    else:
        tl.store(partial + at, given, mask=mask)
