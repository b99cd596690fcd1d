"""Sums of what programs leave behind, always in the same sequence: what Triton compiles."""
# Triton compiles these functions and has no types of its own to give; the arguments are described in words.

from __future__ import annotations

import triton
import triton.language as tl

from ._triton_tiles import loops_of, tokens_of

_ANY_NUMBER = ("grad_b", "grad_g", "entries", "groups", "each", "first", "steps", "length", "rows", "columns", "per")


@triton.jit(do_not_specialize=_ANY_NUMBER)
def add_tokens(
    shares, grad, walk, grad_b, grad_g, grad_n, grad_l, entries, groups, each, first, steps, length,
    N: tl.constexpr, LOOPS: tl.constexpr, SHARE_STEPS: tl.constexpr, WIDTH: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """Gradient (B, G, N, L) of per-token B or C, for some steps from ``first`` on.

    Shares (groups * each, B, steps, N) are of blocks of channels, ``each`` in a group.
    """
    pieces = tl.cdiv(steps, SHARE_STEPS)
    piece = tl.program_id(0) % pieces
    group = ((tl.program_id(0) // pieces) % groups).to(tl.int64)
    entry = (tl.program_id(0) // (pieces * groups)).to(tl.int64)
    own = piece * SHARE_STEPS + tl.arange(0, SHARE_STEPS)[:, None]
    n = tl.arange(0, WIDTH)[None, :]
    step = tl.cast(first, walk.dtype.element_ty) + own
    mask = (own < steps) & (step < length) & (n < N)
    block = shares + (group * each * entries + entry) * steps * N + own.to(tl.int64) * N + n
    next_block = entries.to(tl.int64) * steps * N
    total = tl.zeros((SHARE_STEPS, WIDTH), tl.float32)
    for begin in range(0, each, AHEAD):
        loaded = ()
        for i in tl.static_range(AHEAD):
            there = mask & (begin + i < each)
            loaded = loaded + (tl.load(block + (begin + i) * next_block, mask=there, other=0.0),)
        for i in tl.static_range(AHEAD):
            total += loaded[i]
    token = tokens_of(step, loops_of(walk), LOOPS, 1)[0]
    tl.store(grad + entry * grad_b + group * grad_g + n * grad_n + token * grad_l, total, mask=mask)


@triton.jit(do_not_specialize=_ANY_NUMBER)
def add_rows(
    shares, grad_A, grad_D, grad_bias, grad_B, grad_C, rows, columns, per, channels,
    ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Gradients of parameters from shares (rows, columns).

    Columns: (D, per) of A, D of D, D of delta_bias, and (D, per) each of those of B and C that are constant. Sums for
    which there is no place are dropped.
    """
    column = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    row = tl.arange(0, ROWS)[:, None]
    total = tl.zeros((ROWS, WIDTH), tl.float32)
    for first in range(0, rows, ROWS):
        mask = (first + row < rows) & (column < columns)[None, :]
        total += tl.load(shares + (first + row).to(tl.int64) * columns + column[None, :], mask=mask, other=0.0)
    gradient = tl.sum(total, axis=0)
    wide = channels * per
    tl.store(grad_A + column, gradient, mask=column < wide)
    at = column - wide
    if grad_D is not None:
        tl.store(grad_D + at, gradient, mask=(at >= 0) & (at < channels))
    at -= channels
    if grad_bias is not None:
        tl.store(grad_bias + at, gradient, mask=(at >= 0) & (at < channels))
    at -= channels
    if grad_B is not None:
        tl.store(grad_B + at, gradient, mask=(at >= 0) & (at < wide))
        at -= wide
    if grad_C is not None:
        tl.store(grad_C + at, gradient, mask=(at >= 0) & (at < wide))
