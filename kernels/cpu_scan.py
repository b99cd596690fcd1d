"""The selective scan on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ._arguments import Nine, Scan, has_tokens, in_orders, new_gradients, wants_gradient
from ._cpu_call import block_count
from ._cpu_job import Job, common_groups, kept_shape
from ._memory import dense_like, in_large_pages
from ._operators import Numbers, scan_operator
from .orders import encode


def _kept_shape(nine: Nine) -> tuple[Any, ...]:
    _, delta, A, B, C, *_ = nine
    batch, orders, channels, length = delta.shape
    return kept_shape(orders, length, block_count(batch, channels, common_groups(B, C)), A.shape[-1])


def _forward(nine: Nine, numbers: Numbers, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    u, delta, A, *_, initial_state = nine = in_orders(nine)
    if not delta.numel():
        batch, orders, channels, _ = delta.shape
        state = torch.zeros(batch, orders, channels, A.shape[-1])
        if initial_state is not None:
            state.copy_(initial_state)
        return dense_like(u[:, 0]), state, torch.zeros(_kept_shape(nine) if keep else 0)
    y = in_large_pages(dense_like(u[:, 0], torch.float32))
    state, kept = Job(nine, numbers).forward(initial_state, y, keep)
    return y.to(u.dtype), state, kept


def _backward(
    grad_y: Tensor | None, grad_state: Tensor | None, kept: Tensor, arguments: Nine, numbers: Numbers
) -> Sequence[Tensor | None]:
    nine = in_orders(arguments)
    grads = [None if grad is None else in_large_pages(grad) for grad in new_gradients(nine, torch.float32)]
    if not nine[1].numel():
        for grad in grads:
            if grad is not None:
                grad.zero_()
        if grads[8] is not None and grad_state is not None:
            grads[8].copy_(grad_state)
    else:
        per_token = [grads[i] if has_tokens(i, nine) else None for i in (0, 1, 6, 3, 4)]
        parameters = Job(nine, numbers).backward(grad_y, grad_state, kept, per_token)
        for i, grad in zip((2, 3, 4, 5, 7, 8), parameters, strict=True):
            if grads[i] is not None and not has_tokens(i, nine):
                grads[i] = grad
    pairs = zip(grads, arguments, strict=True)
    return [None if g is None or like is None else g.to(like.dtype).view(like.shape) for g, like in pairs]


_scan = scan_operator("cpu", "cpu", _forward, _backward, _kept_shape, kept_axis=1)


def scan_cpu(scan: Scan) -> tuple[Tensor, Tensor]:
    """Run a scan with compiled kernels on as many threads as PyTorch uses.

    Arguments and results: :func:`~medmamba.kernels.reference.scan_reference`, none of them float64. Arithmetic and
    states are float32. Can be differentiated once.

    Raises:
        RuntimeError: when a second derivative is asked for.
    """
    y, state, _ = _scan(*scan.tensors, scan.delta_softplus, encode(scan.walks), scan.scale, wants_gradient(scan))
    return y, state
