"""The portable scan as the backend 'torch': its own steps, or one operator under torch.compile.

A compiler that is shown the loop over the steps unrolls it: minutes for a short sequence, and again for each length.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ._arguments import Scan, in_orders
from ._operators import NINE_GRADIENTS, SCAN, remember_scan, scan_gradients, scan_of
from .chunked import scan_chunked
from .orders import encode


def scan_torch(scan: Scan) -> tuple[Tensor, Tensor]:
    """Run a scan; arguments and results: :func:`~medmamba.kernels.reference.scan_reference`.

    torch.export gets PyTorch's own operators, as do transforms of torch.func that are compiled, which cannot
    differentiate an operator.
    """
    compiled = torch.compiler.is_compiling() and not torch.compiler.is_exporting()
    if not compiled or torch._C._are_functorch_transforms_active():
        return scan_chunked(scan)
    y, state = _forward_op(*scan.tensors, scan.delta_softplus, encode(scan.walks), scan.scale)
    return y, state


def _forward(*args: Any) -> tuple[Tensor, Tensor]:
    return scan_chunked(scan_of(args[:9], args[9:]))


def _forward_shapes(*args: Any) -> tuple[Tensor, Tensor]:
    nine = args[:9]
    exact = torch.float64 if any(t is not None and t.dtype == torch.float64 for t in nine) else torch.float32
    u, delta, A, *_ = in_orders(nine)
    batch, orders, channels, length = delta.shape
    return (
        u.new_empty((batch, channels, length)),
        u.new_empty((batch, orders, channels, A.shape[-1]), dtype=exact),
    )


def _backward(grad_y: Tensor | None, grad_state: Tensor | None, *args: Any) -> tuple[Tensor, ...]:
    """Gradients of the nine tensors, by running the scan again; empty for those that are None."""
    nine, numbers = args[:9], args[9:]
    with _autograd_in_operators():
        leaves = [None if t is None else t.detach().requires_grad_() for t in nine]
        pairs = zip(_forward(*leaves, *numbers), (grad_y, grad_state), strict=True)
        results, upstream = zip(*((t, g) for t, g in pairs if g is not None), strict=True)
        given = [t for t in leaves if t is not None]
        grads = iter(torch.autograd.grad(results, given, upstream, materialize_grads=True))
    return tuple(nine[0].new_empty(0) if t is None else next(grads).contiguous() for t in nine)


@contextmanager
def _autograd_in_operators() -> Iterator[None]:
    """PyTorch keeps autograd off while an operator runs, and the gradients here are autograd's."""
    off, on = torch._C._dispatch_tls_local_exclude_set(), torch._C._dispatch_tls_local_include_set()
    for key in ("AutogradFunctionality", "AutogradOther", "AutogradNestedTensor", "ADInplaceOrView"):
        off = off.remove(getattr(torch._C.DispatchKey, key))
    with torch._C._ForceDispatchKeyGuard(on, off), torch.enable_grad():
        yield


def _backward_shapes(grad_y: Tensor | None, grad_state: Tensor | None, *args: Any) -> tuple[Tensor, ...]:
    return tuple(args[0].new_empty(0) if t is None else t.new_empty(t.shape) for t in args[:9])


def _operator(name: str, body: Any, shapes: Any, schema: str) -> Any:
    op = torch.library.custom_op(f"medmamba::{name}", body, mutates_args=(), schema=schema)
    op.register_fake(shapes)
    return op


_forward_op = _operator("scan_torch", _forward, _forward_shapes, f"({SCAN}) -> (Tensor, Tensor)")
_backward_op = _operator(
    "scan_torch_backward", _backward, _backward_shapes,
    f"(Tensor? grad_y, Tensor? grad_state, {SCAN}) -> {NINE_GRADIENTS}",
)  # fmt: skip
_forward_op.register_autograd(scan_gradients(_backward_op, _forward_op), setup_context=remember_scan)
