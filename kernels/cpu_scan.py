"""The selective scan on a CPU, as an operator that autograd and torch.compile know."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ._arguments import Scan
from ._cpu_job import WIDTH, Job, groups_of, tiles_of
from .reference import scan_reference

_log = logging.getLogger(__name__)


@torch.library.custom_op("medmamba::selective_scan", mutates_args=(), device_types="cpu")
def _forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    delta_softplus: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the last state, and what the backward pass starts from: empty unless ``keep``."""
    job = Job(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    y, state, kept = job.forward(initial_state, keep)
    shape = (tiles_of(u.shape[2]), len(job.blocks), A.shape[1], WIDTH) if keep else (0,)
    return (
        torch.from_numpy(y).view(u.shape).to(u.dtype),
        torch.from_numpy(state).view(u.shape[0], *A.shape),
        torch.from_numpy(kept).view(shape),
    )


@_forward.register_fake
def _forward_shapes(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    delta_softplus: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, channels, length = u.shape
    groups = torch.sym_max(groups_of(B), groups_of(C))
    blocks = batch * groups * ((channels // groups + WIDTH - 1) // WIDTH)
    shape = (tiles_of(length), blocks, A.shape[1], WIDTH) if keep else (0,)
    return (
        torch.empty(u.shape, dtype=u.dtype, device=u.device),
        u.new_empty((batch, channels, A.shape[1]), dtype=torch.float32),
        u.new_empty(shape, dtype=torch.float32),
    )


@torch.library.custom_op("medmamba::selective_scan_backward", mutates_args=(), device_types="cpu")
def _backward(
    grad_y: Tensor | None,
    grad_state: Tensor | None,
    kept: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    delta_softplus: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the nine tensors from u to initial_state; empty for those that are None."""
    grads = Job(u, delta, A, B, C, D, z, delta_bias, delta_softplus).backward(grad_y, grad_state, kept)
    arguments = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    shaped = [
        torch.empty(0) if like is None else torch.from_numpy(grad).view(like.shape).to(like.dtype)
        for grad, like in zip(grads, arguments, strict=True)
    ]
    return tuple(shaped)  # type: ignore[return-value]  # nine, one for each argument


@_backward.register_fake
def _backward_shapes(
    grad_y: Tensor | None,
    grad_state: Tensor | None,
    kept: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    delta_softplus: bool,
) -> tuple[Tensor, ...]:
    return tuple(
        u.new_empty((0,), dtype=torch.float32)
        if like is None
        else torch.empty(like.shape, dtype=like.dtype, device=like.device)
        for like in (u, delta, A, B, C, D, z, delta_bias, initial_state)
    )


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, ctx.delta_softplus, keep = inputs
    if not keep:
        raise RuntimeError("medmamba::selective_scan: keep must be true where a gradient is wanted, but is False")
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[2], *tensors)


def _gradients(ctx: Any, grad_y: Tensor | None, grad_state: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:
    kept, *tensors = ctx.saved_tensors
    if grad_y is None and grad_state is None:
        return (None,) * (len(tensors) + 2)
    grads = _backward(grad_y, grad_state, kept, *tensors, ctx.delta_softplus)
    wanted = zip(grads, tensors, ctx.needs_input_grad, strict=False)
    return (*(g if t is not None and need else None for g, t, need in wanted), None, None)


def _refuse_second_derivative(ctx: Any, *grads: Any) -> None:
    raise RuntimeError(
        "selective_scan: backend 'cpu' can be differentiated once, but a derivative of its gradient was asked for; "
        "use backend='reference', which can be differentiated as often as wanted"
    )


_forward.register_autograd(_gradients, setup_context=_remember)
_backward.register_autograd(_refuse_second_derivative)


@cache
def _note_double_precision() -> None:
    _log.info("selective scan: backend 'cpu' computes in float32; float64 arguments go to 'reference', which is slow")


def scan_cpu(scan: Scan) -> tuple[Tensor, Tensor]:
    """Run a scan with compiled kernels on as many threads as PyTorch uses.

    Arguments and results: :func:`~medmamba.kernels.reference.scan_reference`. Arithmetic and states are float32; scans
    with a float64 argument go to the reference. Can be differentiated once.

    Raises:
        RuntimeError: when a second derivative is asked for.
    """
    if scan.exact:
        if not torch.compiler.is_compiling():
            _note_double_precision()
        return scan_reference(scan)
    results = [_one_order(scan, order) for order in range(len(scan.walks))]
    total = results[0][0]
    for y, _ in results[1:]:
        total = total + y
    y = total if scan.scale == 1 else total * scan.scale
    return y.to(scan.u.dtype), torch.stack([state for _, state in results], dim=1)


def _one_order(scan: Scan, order: int) -> tuple[Tensor, Tensor]:
    walk = scan.walks[order]
    u, delta, z = scan.u[:, order if scan.u.shape[1] > 1 else 0], scan.delta[:, order], scan.z
    A = scan.A[order]
    D, bias = (None if t is None else t[order] for t in (scan.D, scan.delta_bias))
    B, C = (t[order] if t.dim() == 3 else t[:, order] for t in (scan.B, scan.C))
    state = None if scan.initial_state is None else scan.initial_state[:, order]
    if not walk.is_sequence:
        tokens = walk.positions()
        steps = torch.empty_like(tokens).scatter_(0, tokens, torch.arange(len(tokens)))
        u, delta, z = u[..., tokens], delta[..., tokens], None if z is None else z[..., tokens]
        B, C = (t if t.dim() == 2 else t[..., tokens] for t in (B, C))
    if B.dim() == 4 and C.dim() == 4 and B.shape[1] != C.shape[1] and min(B.shape[1], C.shape[1]) > 1:
        B, C = (t.repeat_interleave(u.shape[1] // t.shape[1], dim=1) for t in (B, C))
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in scan.given)
    y, last, _ = _forward(u, delta, A, B, C, D, z, bias, state, scan.delta_softplus, keep)
    return (y if walk.is_sequence else y[..., steps]), last
