"""The selective scan in PyTorch's own operators: any device, any number of derivatives, export.

The steps are cut in chunks of about the square root of their number. All chunks advance side by side from a state of
zero, the states at their ends are chained, and what each chunk's true start adds is put on top: twice the square root
of the length in steps of Python, instead of the length. Nothing is divided by a decay, so none may underflow to harm.

Letters: B batch, G groups, P channels of a group, D = G P, L steps, M chunks, c steps of a chunk, N states.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812  (the name everybody knows)
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ._arguments import Scan

#: Values (B, D, steps, N) that are worked on at once; the backward pass computes them again, stretch by stretch.
BUDGET = 2**24


def scan_chunked(scan: Scan) -> tuple[Tensor, Tensor]:
    """Run a scan; arguments and results: :func:`~medmamba.kernels.reference.scan_reference`.

    Orders other than that of memory gather their tokens first. Memory beside that does not grow with the length, in the
    backward pass neither, except under torch.func, where it is that of plain autograd.
    """
    scan = scan.in_orders()
    exact = torch.float64 if scan.exact else torch.float32
    sums, states = [], []
    for order, walk in enumerate(scan.walks):
        tokens = None if walk.is_sequence else walk.positions(scan.u.device)
        s, state = _one_order(scan, order, tokens, exact)
        if tokens is not None:
            s = s[..., tokens.argsort()]
        sums.append(s)
        states.append(state)
    total = sums[0] if len(sums) == 1 else torch.stack(sums).sum(0)
    y = total * scan.scale
    if scan.z is not None:
        y = y * F.silu(scan.z.to(exact))
    return y.to(scan.u.dtype), torch.stack(states, dim=1)


def _one_order(scan: Scan, order: int, tokens: Tensor | None, exact: torch.dtype) -> tuple[Tensor, Tensor]:
    """The sum before the gate (B, D, L), step by step, and the last state (B, D, N) of one order."""

    def along(tensor: Tensor) -> Tensor:
        return (tensor if tokens is None else tensor[..., tokens]).to(exact)

    x = along(scan.u[:, order if scan.u.shape[1] > 1 else 0])
    width = along(scan.delta[:, order])
    decay = scan.A[order].to(exact)
    batch, channels, _ = x.shape
    states = decay.shape[1]
    if scan.delta_bias is not None:
        width = width + scan.delta_bias[order].to(exact)[:, None]
    if scan.delta_softplus:
        width = F.softplus(width, threshold=20.0)
    groups = math.lcm(*(1 if t.dim() == 3 else t.shape[2] for t in (scan.B, scan.C)))

    def grouped(projection: Tensor) -> Tensor:
        """(1, G, P, 1, N) where it is constant, else (B, G, 1, L, N)."""
        if projection.dim() == 3:
            return projection[order].to(exact).view(1, groups, -1, 1, states)
        values = along(projection[:, order])
        return values.repeat_interleave(groups // values.shape[1], dim=1).mT[:, :, None]

    state = (
        x.new_zeros(batch, channels, states) if scan.initial_state is None else scan.initial_state[:, order].to(exact)
    )
    arguments = (width, x, decay, state)
    width, x, decay, state = (t.unflatten(-2, (groups, -1)) for t in arguments)
    s, state = _stretches(width, x, decay[None, :, :, None], grouped(scan.B), grouped(scan.C), state)
    s = s.flatten(1, 2)
    return (s if scan.D is None else s + scan.D[order].to(exact)[:, None] * x.flatten(1, 2)), state.flatten(1, 2)


def _stretches(
    width: Tensor, x: Tensor, decay: Tensor, into: Tensor, out: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Stretch after stretch: width and x (B, G, P, L), decay (1, G, P, 1, N), state (B, G, P, N)."""
    length = x.shape[-1]
    each = max(state.numel(), 1)
    step = max(min(length, BUDGET // each), 1)
    pieces = []
    for first in range(0, length, step):
        part = slice(first, min(first + step, length))
        into_part, out_part = (t if t.shape[3] == 1 else t[:, :, :, part] for t in (into, out))
        run = _recomputed if length > step else _chunks
        s, state = run(width[..., part], x[..., part], decay, into_part, out_part, state)
        pieces.append(s)
    return (torch.cat(pieces, dim=-1) if pieces else x * width), state


def _recomputed(*tensors: Tensor) -> tuple[Tensor, Tensor]:
    """`_chunks`, of which autograd keeps the arguments only; under torch.func, which forbids that, plainly."""
    if torch.is_grad_enabled() and (torch.compiler.is_compiling() or not torch._C._are_functorch_transforms_active()):
        results: tuple[Tensor, Tensor] = checkpoint(_chunks, *tensors, use_reentrant=False)
        return results
    return _chunks(*tensors)


def _chunks(width: Tensor, x: Tensor, decay: Tensor, into: Tensor, out: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One stretch: as many whole chunks as there are, then the steps that are left over as a chunk of their own."""
    length = x.shape[-1]
    chunk = max(math.isqrt(length), 1)
    whole = length - length % chunk
    sums = []
    for part, many in ((slice(0, whole), whole // chunk), (slice(whole, length), 1)):
        if part.stop > part.start:
            widths, values = (t[..., part].unflatten(-1, (many, -1)) for t in (width, x))
            into_part, out_part = (
                t[:, :, :, None] if t.shape[3] == 1 and length > 1 else t[:, :, :, part].unflatten(3, (many, -1))
                for t in (into, out)
            )
            s, state = _side_by_side(widths, values, decay, into_part, out_part, state)
            sums.append(s.flatten(-2))
    return (sums[0] if len(sums) == 1 else torch.cat(sums, dim=-1)), state


def _side_by_side(
    width: Tensor, x: Tensor, decay: Tensor, into: Tensor, out: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """All chunks at once: width and x (B, G, P, M, c), B and C (B, G, 1 or P, M or 1, c or 1, N)."""
    chunk = x.shape[-1]
    at: Callable[[Tensor, int], Tensor] = lambda t, i: t[..., i if t.shape[-2] > 1 else 0, :]  # noqa: E731  (a formula)
    push, held, local = width * x, torch.zeros_like(decay), []
    for i in range(chunk):
        held = torch.exp(width[..., i, None] * decay) * held + push[..., i, None] * at(into, i)
        local.append((held * at(out, i)).sum(-1))
    over = torch.exp(width.sum(-1)[..., None] * decay)  # what a whole chunk leaves of a state
    starts = []
    for kept, added in zip(over.unbind(-2), held.expand_as(over).unbind(-2), strict=True):
        starts.append(state)
        state = kept * state + added
    start, reach = torch.stack(starts, dim=-2), width.cumsum(-1)
    sums = [own + (torch.exp(reach[..., i, None] * decay) * start * at(out, i)).sum(-1) for i, own in enumerate(local)]
    return torch.stack(sums, dim=-1), state
