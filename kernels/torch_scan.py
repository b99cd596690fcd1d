"""The portable scan as the backend 'torch': its own steps, or one operator under torch.compile.

A compiler that is shown the loop over the steps unrolls it: minutes for a short sequence, and again for each length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ._arguments import Scan, in_orders
from .chunked import scan_chunked
from .orders import decode


def scan_torch(scan: Scan) -> tuple[Tensor, Tensor]:
    """Run a scan; arguments and results: :func:`~medmamba.kernels.reference.scan_reference`.

    torch.export gets PyTorch's own operators, as do transforms of torch.func that are compiled, which cannot
    differentiate an operator.
    """
    compiled = torch.compiler.is_compiling() and not torch.compiler.is_exporting()
    if not compiled or torch._C._are_functorch_transforms_active():
        return scan_chunked(scan)
    walks = [number for walk in scan.walks for number in walk.encode()]
    y, state = _forward_op(*scan.tensors, scan.delta_softplus, walks, scan.scale)
    return y, state


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
) -> tuple[Tensor, Tensor]:
    """The scan as one operator; shapes are those of Scan."""
    scan = Scan(u, delta, A, B, C, D, z, delta_bias, initial_state, delta_softplus, decode(walks), scale)
    return scan_chunked(scan)


_forward_op = torch.library.custom_op("medmamba::scan_torch", _forward, mutates_args=())


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
) -> tuple[Tensor, Tensor]:
    nine = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    exact = torch.float64 if any(t is not None and t.dtype == torch.float64 for t in nine) else torch.float32
    u, delta, A, *_ = in_orders(*nine)
    batch, orders, channels, length = delta.shape
    return (
        u.new_empty((batch, channels, length)),
        u.new_empty((batch, orders, channels, A.shape[-1]), dtype=exact),
    )


def _backward(
    grad_y: Tensor | None,
    grad_state: Tensor | None,
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
    """Gradients of the nine tensors, by running the scan again; empty for those that are None."""
    nine = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    with _autograd_in_operators():
        leaves = [None if t is None else t.detach().requires_grad_() for t in nine]
        results = _forward(*leaves, delta_softplus, walks, scale)  # type: ignore[arg-type,call-arg]  # nine, as they came
        pairs = [(t, g) for t, g in zip(results, (grad_y, grad_state), strict=True) if g is not None]
        given = [t for t in leaves if t is not None]
        grads = iter(torch.autograd.grad([t for t, _ in pairs], given, [g for _, g in pairs], materialize_grads=True))
    return tuple(u.new_empty(0) if t is None else next(grads).contiguous() for t in nine)  # type: ignore[return-value]  # nine


@contextmanager
def _autograd_in_operators() -> Iterator[None]:
    """PyTorch keeps autograd off while an operator runs, and the gradients here are autograd's."""
    off, on = torch._C._dispatch_tls_local_exclude_set(), torch._C._dispatch_tls_local_include_set()
    for key in ("AutogradFunctionality", "AutogradOther", "AutogradNestedTensor", "ADInplaceOrView"):
        off = off.remove(getattr(torch._C.DispatchKey, key))
    with torch._C._ForceDispatchKeyGuard(on, off), torch.enable_grad():
        yield


_backward_op = torch.library.custom_op("medmamba::scan_torch_backward", _backward, mutates_args=())


@_backward_op.register_fake
def _backward_shapes(
    grad_y: Tensor | None,
    grad_state: Tensor | None,
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
    nine = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    return tuple(u.new_empty(0) if t is None else t.new_empty(t.shape) for t in nine)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.delta_softplus, ctx.walks, ctx.scale = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors)


def _gradients(ctx: Any, grad_y: Tensor | None, grad_state: Tensor | None) -> tuple[Any, ...]:
    tensors = ctx.saved_tensors
    if grad_y is None and grad_state is None:
        return (None,) * (len(tensors) + 3)
    grads = _backward_op(grad_y, grad_state, *tensors, ctx.delta_softplus, ctx.walks, ctx.scale)
    wanted = zip(grads, tensors, ctx.needs_input_grad, strict=False)
    return (*(g if t is not None and need else None for g, t, need in wanted), None, None, None)


_forward_op.register_autograd(_gradients, setup_context=_remember)
