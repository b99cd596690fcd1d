"""The selective scan in PyTorch's own operators: any device, any number of derivatives, export.

The steps are cut in chunks of about the square root of their number. All chunks advance side by side from a state of
zero, the states at their ends are chained, and what each chunk's true start adds is put on top: twice the square root
of the length in steps of Python, instead of the length. Nothing is divided by a decay, so none may underflow to harm.

torch.export writes down every step of Python, once for all lengths: there chunks have a fixed length, and the states at
their ends are chained by doubling.

Letters: B batch, G groups, P channels of a group, D = G P, L steps, M chunks, c steps of a chunk, N states.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.utils.checkpoint import checkpoint

from ._arguments import Scan

#: Values (B, D, steps, N) that are worked on at once; the backward pass computes them again, stretch by stretch.
BUDGET = 2**24
#: Steps of a chunk in an exported program, and how often the number of chunks can double: enough for any memory.
EXPORTED_CHUNK, DOUBLINGS = 16, 27


def scan_chunked(scan: Scan) -> tuple[Tensor, Tensor]:
    """Run a scan; arguments and results: :func:`~medmamba.kernels.reference.scan_reference`.

    Orders other than that of memory gather their tokens first. Memory beside that does not grow with the length, in the
    backward pass neither, except under torch.func, where it is that of plain autograd, and in exported programs.
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
        return values.repeat_interleave(groups // values.shape[1], dim=1).transpose(-1, -2)[:, :, None]

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
    if torch.compiler.is_exporting():
        return _any_length(width, x, decay, into, out, state)
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


def _any_length(
    width: Tensor, x: Tensor, decay: Tensor, into: Tensor, out: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """All steps in chunks of EXPORTED_CHUNK, filled up with steps that leave the state as it is.

    Steps are gathered, as views and slices of a length that varies are programs of their own for some lengths; so is
    a number of chunks that may be one.
    """
    length, device = x.shape[-1], x.device
    steps = torch.arange(length // EXPORTED_CHUNK + 2, device=device)[:, None] * EXPORTED_CHUNK
    steps = steps + torch.arange(EXPORTED_CHUNK, device=device)
    known, steps = steps < length, steps.clamp(max=length - 1)
    width, x = (torch.where(known, t[..., steps], 0.0) for t in (width, x))
    into, out = (t[:, :, :, None] if t.shape[3] == 1 and length != 1 else t[:, :, :, steps] for t in (into, out))
    s, state = _side_by_side(width, x, decay, into, out, state)
    return s.flatten(-2).index_select(-1, torch.arange(length, device=device)), state


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
    chain = _doubled if torch.compiler.is_exporting() else _one_by_one
    start, state = chain(over, held.expand_as(over), state)
    reach = width.cumsum(-1)
    sums = [own + (torch.exp(reach[..., i, None] * decay) * start * at(out, i)).sum(-1) for i, own in enumerate(local)]
    return torch.stack(sums, dim=-1), state


def _one_by_one(over: Tensor, held: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """What each chunk starts from (B, G, P, M, N), and the last state.

    Args:
        over: (B, G, P, M, N), what a whole chunk leaves of a state.
        held: (B, G, P, M, N), its state at the end if it starts from zero.
        state: (B, G, P, N), what the first one starts from.
    """
    starts = []
    for kept, added in zip(over.unbind(-2), held.unbind(-2), strict=True):
        starts.append(state)
        state = kept * state + added
    return torch.stack(starts, dim=-2), state


def _doubled(over: Tensor, held: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The same for any number of chunks: after k rounds each knows what the 2^k chunks up to it make of a state."""
    count = over.shape[-2]
    place = torch.arange(count, device=over.device)
    for doubling in range(DOUBLINGS):
        if statically_known_true(count <= 2**doubling):
            break
        before = place - 2**doubling
        known, before = (before >= 0)[:, None], before.clamp(min=0)
        held = held + torch.where(known, over * held.index_select(-2, before), 0.0)
        over = torch.where(known, over * over.index_select(-2, before), over)
    first = state[..., None, :]
    ends = over * first + held
    starts = torch.where((place > 0)[:, None], ends.index_select(-2, (place - 1).clamp(min=0)), first)
    return starts, ends[..., -1, :]
