"""The selective scan on a CPU, as an operator that autograd and torch.compile know."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ._cpu_job import WIDTH, Job, groups_of, tiles_of
from .reference import selective_scan_reference

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


def selective_scan_cpu(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run a selective scan with compiled kernels on as many threads as PyTorch uses.

    Arguments and results: :func:`~medmamba.kernels.reference.selective_scan_reference`. Arithmetic and state are
    float32; calls with a float64 argument go to the reference. Can be differentiated once.

    Raises:
        RuntimeError: when a second derivative is asked for.
    """
    tensors = [t for t in (u, delta, A, B, C, D, z, delta_bias, initial_state) if t is not None]
    if any(t.dtype == torch.float64 for t in tensors):
        if not torch.compiler.is_compiling():
            _note_double_precision()
        return selective_scan_reference(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state)
    if (
        groups_of(B) != groups_of(C) and min(groups_of(B), groups_of(C)) > 1
    ):  # the kernels know one way to group, or two
        B, C = (t.repeat_interleave(u.shape[1] // t.shape[1], dim=1) for t in (B, C))
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    y, state, _ = _forward(u, delta, A, B, C, D, z, delta_bias, initial_state, delta_softplus, keep)
    return y, state
