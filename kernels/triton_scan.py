"""The selective scan on a GPU, as an operator that autograd, vmap and torch.compile know."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ._arguments import Scan, in_orders, many_orders, wants_gradient
from ._memory import dense_like
from ._transforms import differentiable, fold_into_batch, forget, one_by_one
from ._triton_launch import kept_shape, new_gradients, scan_backward, scan_forward
from .orders import ScanOrder, decode
from .reference import scan_reference
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
    """y, the last states, and what the backward pass starts from: empty unless ``keep``."""
    if u.device.type == "cuda":
        _check_device(u.device)
    scan = Scan(u, delta, A, B, C, D, z, delta_bias, initial_state, delta_softplus, decode(walks), scale)
    return scan_forward(scan, keep)


_forward_op = torch.library.custom_op("medmamba::scan_triton", _forward, mutates_args=(), device_types=("cuda", "cpu"))


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
    u, delta, A, *_ = in_orders(u, delta, A, B, C, D, z, delta_bias, initial_state)
    batch, orders, channels, length = delta.shape
    states = A.shape[-1]
    kept = kept_shape(batch, orders, length, states, channels) if keep else (0,)
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
    scan = Scan(u, delta, A, B, C, D, z, delta_bias, initial_state, delta_softplus, decode(walks), scale)
    grads = scan_backward(scan, grad_y, grad_state, kept)
    return tuple(u.new_empty(0) if g is None else g for g in grads)  # type: ignore[return-value]  # nine


_backward_op = torch.library.custom_op(
    "medmamba::scan_triton_backward", _backward, mutates_args=(), device_types=("cuda", "cpu")
)


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
    tensors = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    return tuple(u.new_empty(0) if grad is None else grad for grad in new_gradients(tensors))


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
        "selective_scan: backend 'triton' can be differentiated once, but a derivative of its gradient was asked for; "
        "use backend='torch', which can be differentiated as often as wanted"
    )


_forward_op.register_autograd(_gradients, setup_context=_remember)
_backward_op.register_autograd(_refuse_second_derivative)


_fold = fold_into_batch(_forward_op, batch_axes=(0, 0, 0))
_forward_op.register_vmap(_fold)
_backward_op.register_vmap(one_by_one(_backward_op))
_scan_back = differentiable(_backward_op, _backward, forget, _refuse_second_derivative, one_by_one(_backward_op))
_scan = differentiable(_forward_op, _forward, _remember, _gradients, _fold)

#: What the check of a device may be off by, as a share of the largest value: far above rounding, far below a mistake.
CHECK_TOLERANCE = 1e-3
#: The grid that is scanned for it, long enough for several chunks.
CHECK_GRID = (20, 21)


def check_kernels(device: torch.device) -> None:
    """Compare the kernels with the reference on a small scan, results and gradients.

    Args:
        device: where the kernels run.

    Raises:
        RuntimeError: if they cannot run there, or are wrong.
    """
    # Inside an operator, where scans run, PyTorch keeps autograd off for the thread, and the reference needs it.
    with ThreadPoolExecutor(1) as another_thread:
        another_thread.submit(_compare_with_reference, device).result()


def _compare_with_reference(device: torch.device) -> None:
    remedy = "use backend='torch', or set MEDMAMBA_SCAN_BACKEND=torch"
    scan, grads = _small_scan()
    try:
        own = _with_tensors(scan, [t.to(device) for t in scan.given])
        y, last, kept = scan_forward(own, keep=True)
        results = [y, last, *scan_backward(own, grads[0].to(device), grads[1].to(device), kept)]
    except Exception as problem:  # whatever a compiler or driver comes up with
        raise RuntimeError(f"selective_scan: backend 'triton' fails on {device}: {problem}; {remedy}") from problem
    leaves = [t.requires_grad_() for t in scan.given]
    expected = list(scan_reference(_with_tensors(scan, leaves)))
    expected += torch.autograd.grad(expected, leaves, grads)
    names = [field.name for field in fields(scan)]
    for name, found, exact in zip(("y", "last_state", *names), results, expected, strict=False):
        assert found is not None
        right = exact.detach()
        off = float((found.cpu() - right).abs().max() / right.abs().max())
        if not off <= CHECK_TOLERANCE:  # NaN is wrong too
            what = name if name in ("y", "last_state") else f"the gradient of {name}"
            raise RuntimeError(
                f"selective_scan: backend 'triton' is wrong on {device}: {what} is off by {off:.1e} of its largest "
                f"value, where {CHECK_TOLERANCE} is allowed; {remedy}"
            )


def _with_tensors(scan: Scan, tensors: list[Tensor]) -> Scan:
    """A scan that has all nine tensors, with others in their place."""
    u, delta, A, B, C, D, z, delta_bias, initial_state = tensors
    return replace(scan, u=u, delta=delta, A=A, B=B, C=C, D=D, z=z, delta_bias=delta_bias, initial_state=initial_state)


def _small_scan() -> tuple[Scan, list[Tensor]]:
    """A scan in two orders, and gradients of its results."""
    generator = torch.Generator().manual_seed(0)
    orders = (ScanOrder(), ScanOrder(axes=(1, 0), reverse=True))
    channels, states, length = 20, 16, math.prod(CHECK_GRID)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    scan = many_orders(
        u=draw(1, channels, length),
        delta=draw(1, 2, channels, length) - 1,
        A=-draw(2, channels, states).exp(),
        B=draw(1, 2, states, length),
        C=draw(1, 2, length, states).mT,
        D=draw(2, channels),
        z=draw(1, length, channels).mT,
        delta_bias=draw(2, channels),
        delta_softplus=True,
        orders=orders,
        grid=CHECK_GRID,
        scale=0.5,
        initial_state=draw(1, 2, channels, states),
    )
    return scan, [draw(1, channels, length), draw(1, 2, channels, states)]


@cache
def _check_device(device: torch.device) -> None:
    """Check each device at its first use."""
    check_kernels(device)
    name = torch.cuda.get_device_name(device)
    _log.info("selective scan on %s (%s): backend 'triton' agrees with the reference", device, name)


@cache
def _note_double_precision() -> None:
    _log.info("selective scan: backend 'triton' computes in float32; float64 arguments go to 'torch', which is slower")


def scan_triton(scan: Scan) -> tuple[Tensor, Tensor]:
    """Run a scan with compiled kernels on a GPU, or in Triton's interpreter on a CPU.

    Arguments and results: :func:`~medmamba.kernels.reference.scan_reference`. Arithmetic and states are float32; scans
    with a float64 argument go to the backend 'torch'. Results are the same at each run. Can be differentiated once.

    Raises:
        RuntimeError: when a second derivative is asked for, or if the kernels are wrong on this GPU, which is checked
            at the first scan.
    """
    if scan.exact:
        if not torch.compiler.is_compiling():
            _note_double_precision()
        return scan_torch(scan)
    keep = wants_gradient(scan)
    numbers = [number for walk in scan.walks for number in walk.encode()]
    y, last_state, _ = _scan(*scan.tensors, scan.delta_softplus, numbers, scan.scale, keep)
    return y, last_state
