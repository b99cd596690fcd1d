"""The selective scan on a CPU, as an operator that autograd and torch.compile know."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ._arguments import Scan, in_orders, wants_gradient
from ._cpu_call import block_count
from ._cpu_job import Job, common_groups, kept_shape
from ._memory import dense_like, in_large_pages
from ._transforms import differentiable, fold_into_batch, forget, one_by_one
from .torch_scan import scan_torch

_log = logging.getLogger(__name__)


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
    walks: Sequence[int],
    scale: float,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the last states, and what the backward pass starts from: empty unless ``keep``. Shapes are those of Scan."""
    u, delta, A, B, C, D, z, delta_bias, initial_state = in_orders(u, delta, A, B, C, D, z, delta_bias, initial_state)
    if not delta.numel():
        return _nothing(u, delta, A, B, C, initial_state, keep)
    job = Job(u, delta, A, B, C, D, z, delta_bias, delta_softplus, walks, scale)
    y = in_large_pages(dense_like(u[:, 0], torch.float32))
    state, kept = job.forward(initial_state, y, keep)
    return y.to(u.dtype), state, kept


def _nothing(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, initial_state: Tensor | None, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """What a scan over no tokens, channels or entries gives."""
    batch, orders, channels, length = delta.shape
    state = torch.zeros(batch, orders, channels, A.shape[-1])
    if initial_state is not None:
        state.copy_(initial_state)
    kept = kept_shape(orders, length, block_count(batch, channels, common_groups(B, C)), A.shape[-1])
    return dense_like(u[:, 0]), state, torch.zeros(kept if keep else 0)


_forward_op = torch.library.custom_op("medmamba::scan_cpu", _forward, mutates_args=(), device_types="cpu")


@_forward_op.register_fake
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
    walks: Sequence[int],
    scale: float,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    u, delta, A, B, C, *_ = in_orders(u, delta, A, B, C, D, z, delta_bias, initial_state)
    batch, orders, channels, length = delta.shape
    states = A.shape[-1]
    blocks = block_count(batch, channels, common_groups(B, C))
    kept = kept_shape(orders, length, blocks, states) if keep else (0,)
    return (
        dense_like(u[:, 0]),
        u.new_empty((batch, orders, channels, states), dtype=torch.float32),
        u.new_empty(kept, dtype=torch.float32),
    )


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
    walks: Sequence[int],
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the nine tensors from u to initial_state; empty for those that are None."""
    arguments = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    tensors = u, delta, A, B, C, D, z, delta_bias, initial_state = in_orders(*arguments)
    grads = [in_large_pages(grad) for grad in _new_gradients(tensors, torch.float32)]
    if not delta.numel():
        for grad in grads:
            grad.zero_()
        if initial_state is not None and grad_state is not None:
            grads[8].copy_(grad_state)
    else:
        job = Job(u, delta, A, B, C, D, z, delta_bias, delta_softplus, walks, scale)
        per_token = [grads[i] if _is_per_token(i, tensors[i]) else None for i in (0, 1, 6, 3, 4)]
        for i, grad in zip((2, 3, 4, 5, 7, 8), job.backward(grad_y, grad_state, kept, per_token), strict=True):
            if tensors[i] is not None and not _is_per_token(i, tensors[i]):
                grads[i] = grad
    return tuple(  # type: ignore[return-value]  # nine, one for each argument
        grad if like is None else grad.to(like.dtype).view(like.shape)
        for grad, like in zip(grads, arguments, strict=True)
    )


def _is_per_token(index: int, tensor: Tensor | None) -> bool:
    """Whether an argument has values for each token: u, delta and z, and B and C unless they are constant."""
    return tensor is not None and (index in (0, 1, 6) or (index in (3, 4) and tensor.dim() == 5))


def _new_gradients(tensors: Sequence[Tensor | None], kind: torch.dtype | None = None) -> list[Tensor]:
    """Memory for gradients: token by token where the argument is so, else compact; empty for None."""
    given = next(t for t in tensors if t is not None)
    return [
        given.new_empty(0, dtype=torch.float32)
        if t is None
        else dense_like(t, kind)
        if _is_per_token(i, t)
        else t.new_empty(t.shape, dtype=kind)
        for i, t in enumerate(tensors)
    ]


_backward_op = torch.library.custom_op("medmamba::scan_cpu_backward", _backward, mutates_args=(), device_types="cpu")


@_backward_op.register_fake
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
    walks: Sequence[int],
    scale: float,
) -> tuple[Tensor, ...]:
    arguments = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    grads = zip(_new_gradients(in_orders(*arguments)), arguments, strict=True)
    return tuple(grad if like is None else grad.view(like.shape) for grad, like in grads)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, ctx.delta_softplus, ctx.walks, ctx.scale, ctx.keep = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[2], *tensors)


def _gradients(ctx: Any, grad_y: Tensor | None, grad_state: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:
    kept, *tensors = ctx.saved_tensors
    if grad_y is None and grad_state is None:
        return (None,) * (len(tensors) + 4)
    numbers = (ctx.delta_softplus, ctx.walks, ctx.scale)
    if not ctx.keep:  # of a program that was recorded, or a vmapped tensor: neither tells that a gradient is wanted
        kept = _scan(*tensors, *numbers, True)[2]
    grads = _scan_back(grad_y, grad_state, kept, *tensors, *numbers)
    wanted = zip(grads, tensors, ctx.needs_input_grad, strict=False)
    return (*(g if t is not None and need else None for g, t, need in wanted), None, None, None, None)


def _refuse_second_derivative(ctx: Any, *grads: Any) -> None:
    raise RuntimeError(
        "selective_scan: backend 'cpu' can be differentiated once, but a derivative of its gradient was asked for; "
        "use backend='torch', which can be differentiated as often as wanted"
    )


_forward_op.register_autograd(_gradients, setup_context=_remember)
_backward_op.register_autograd(_refuse_second_derivative)
_fold = fold_into_batch(_forward_op, batch_axes=(0, 0, 1))
_forward_op.register_vmap(_fold)
_backward_op.register_vmap(one_by_one(_backward_op))
_scan_back = differentiable(_backward_op, _backward, forget, _refuse_second_derivative, one_by_one(_backward_op))
_scan = differentiable(_forward_op, _forward, _remember, _gradients, _fold)


@cache
def _note_double_precision() -> None:
    _log.info("selective scan: backend 'cpu' computes in float32; float64 arguments go to 'torch', which is slower")


def scan_cpu(scan: Scan) -> tuple[Tensor, Tensor]:
    """Run a scan with compiled kernels on as many threads as PyTorch uses.

    Arguments and results: :func:`~medmamba.kernels.reference.scan_reference`. Arithmetic and states are float32; scans
    with a float64 argument go to the backend 'torch'. Can be differentiated once.

    Raises:
        RuntimeError: when a second derivative is asked for.
    """
    if scan.exact:
        if not torch.compiler.is_compiling():
            _note_double_precision()
        return scan_torch(scan)
    keep = wants_gradient(scan)
    walks = [number for walk in scan.walks for number in walk.encode()]
    y, state, _ = _scan(*scan.tensors, scan.delta_softplus, walks, scan.scale, keep)
    return y, state
