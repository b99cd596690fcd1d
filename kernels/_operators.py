"""The scan and the convolution as operators that autograd, torch.func, torch.compile and torch.export know.

A backend brings what computes, for a scan `Nine` tensors and the three `Numbers` after them. Names, arguments and
results of the operators are part of every exported program, so they never change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ._arguments import Nine, Scan, in_orders, new_gradients
from ._memory import dense_like
from ._transforms import fold_into_batch, forget, one_by_one, operator
from .orders import decode

#: Whether softplus makes the step sizes positive, encoded walks, and the factor of the sum.
Numbers = tuple[bool, Sequence[int], float]
Convolution = Callable[[Tensor, Tensor, Tensor | None, bool, Sequence[int]], Tensor]

#: Arguments and gradients of a scan, and arguments of a convolution, as operators declare them.
SCAN = (
    "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias, "
    "Tensor? initial_state, bool delta_softplus, SymInt[] walks, float scale"
)
NINE_GRADIENTS = f"({', '.join(['Tensor'] * 9)})"
_CONVOLUTION = "Tensor x, Tensor weight, Tensor? bias, bool activation, SymInt[] walks"


def scan_of(nine: Nine, numbers: Numbers) -> Scan:
    """What an operator was asked for."""
    delta_softplus, walks, scale = numbers
    return Scan(*nine, delta_softplus, decode(walks), scale)


def remember_scan(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """Keep what `scan_gradients` needs: what the forward pass kept, if anything, and the arguments."""
    ctx.numbers, ctx.keep = inputs[9:12], inputs[12:]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*output[2:], *inputs[:9])


def scan_gradients(back: Callable[..., Sequence[Tensor]], scan: Callable[..., Sequence[Tensor]]) -> Callable[..., Any]:
    """The ``backward`` of a scan.

    Args:
        back: gradients of the nine tensors from those of y and of the last state, what was kept, and the arguments.
        scan: the forward pass, to run again where a derivative is asked for that was not foreseen.
    """

    def gradients(ctx: Any, grad_y: Tensor | None, grad_state: Tensor | None, *_: Tensor | None) -> tuple[Any, ...]:
        saved = ctx.saved_tensors  # once: activation checkpointing computes them for the first reader
        kept, tensors = saved[:-9], saved[-9:]
        others = (None,) * (len(ctx.numbers) + len(ctx.keep))
        if grad_y is None and grad_state is None:
            return (*(None,) * 9, *others)
        if ctx.keep == (False,):  # of a recorded program, or a vmapped tensor: neither tells that a gradient is wanted
            kept = (scan(*tensors, *ctx.numbers, True)[2],)
        grads = back(grad_y, grad_state, *kept, *tensors, *ctx.numbers)
        wanted = zip(grads, tensors, ctx.needs_input_grad, strict=False)
        return (*(g if t is not None and need else None for g, t, need in wanted), *others)

    return gradients


def _refuse(function: str, backend: str) -> Callable[..., Any]:
    def refuse(ctx: Any, *grads: Any) -> None:
        raise RuntimeError(
            f"{function}: backend {backend!r} can be differentiated once, but a derivative of its gradient was asked "
            "for; use backend='torch', which can be differentiated as often as wanted"
        )

    return refuse


def scan_operator(
    backend: str,
    devices: str | Sequence[str],
    forward: Callable[[Nine, Numbers, bool], tuple[Tensor, Tensor, Tensor]],
    backward: Callable[[Tensor | None, Tensor | None, Tensor, Nine, Numbers], Sequence[Tensor | None]],
    kept_shape: Callable[[Nine], tuple[Any, ...]],
    kept_axis: int,
) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """A scan in float32 that can be differentiated once.

    Args:
        backend: its name.
        devices: that it takes tensors on.
        forward: y, the last states, and what the backward pass starts from: empty unless it is to be kept.
        backward: gradients of the nine tensors, None for those that are not there, from those of y and of the last
            states (None: zeros) and what was kept.
        kept_shape: shape of what is kept, from the tensors with all axes.
        kept_axis: its axis that counts entries of the batch, or something for each entry.

    Returns:
        Takes the nine tensors, the three numbers, and whether to keep what the backward pass starts from.
    """

    def run(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
        return forward(args[:9], args[9:12], args[12])

    def shapes(*args: Any) -> tuple[Tensor, ...]:
        nine = in_orders(args[:9])
        u, delta, A, *_ = nine
        batch, orders, channels, _ = delta.shape
        return (
            dense_like(u[:, 0]),
            u.new_empty((batch, orders, channels, A.shape[-1]), dtype=torch.float32),
            u.new_empty(kept_shape(nine) if args[12] else (0,), dtype=torch.float32),
        )

    def run_back(*args: Any) -> tuple[Tensor, ...]:
        grad_y, grad_state, kept = args[:3]
        return given(args[3], backward(grad_y, grad_state, kept, args[3:12], args[12:]))

    def shapes_back(*args: Any) -> tuple[Tensor, ...]:
        return given(args[3], new_gradients(args[3:12]))

    def given(u: Tensor, grads: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
        """An operator has no None to return."""
        return tuple(u.new_empty(0) if grad is None else grad for grad in grads)

    scan_back = operator(
        f"scan_{backend}_backward", f"(Tensor? grad_y, Tensor? grad_state, Tensor kept, {SCAN}) -> {NINE_GRADIENTS}",
        devices, run_back, shapes_back, forget, _refuse("selective_scan", backend), one_by_one,
    )  # fmt: skip
    scan = operator(
        f"scan_{backend}", f"({SCAN}, bool keep) -> (Tensor, Tensor, Tensor)", devices, run, shapes, remember_scan,
        scan_gradients(scan_back, lambda *args: scan(*args)), lambda op: fold_into_batch(op, (0, 0, kept_axis)),
    )  # fmt: skip
    return scan


def convolution_operator(
    backend: str,
    devices: str | Sequence[str],
    forward: Convolution,
    backward: Callable[..., tuple[Tensor, Tensor, Tensor]],
) -> Convolution:
    """The convolution of `causal_conv` with encoded walks, in float32, that can be differentiated once.

    Args:
        backend: its name.
        devices: that it takes tensors on.
        forward: takes x, weight, bias, whether SiLU follows, and encoded walks.
        backward: gradients of x, weight and bias, that of the bias even where there is none, from that of the result
            and the arguments.
    """

    def shape(x: Tensor, weight: Tensor, *_: Any) -> Tensor:
        return convolved_like(x, weight.shape[0])

    def shapes_back(grad: Tensor, x: Tensor, weight: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
        return dense_like(x), weight.new_empty(weight.shape), weight.new_empty(weight.shape[:2])

    def remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.numbers = inputs[3:]
        ctx.save_for_backward(*inputs[:3])

    def gradients(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, weight, bias = ctx.saved_tensors
        gx, gw, gb = convolve_back(grad, x, weight, bias, *ctx.numbers)
        return gx, gw, None if bias is None else gb.to(bias.dtype), None, None

    convolve_back = operator(
        f"conv_{backend}_backward", f"(Tensor grad, {_CONVOLUTION}) -> (Tensor, Tensor, Tensor)", devices, backward,
        shapes_back, forget, _refuse("causal_conv", backend), one_by_one,
    )  # fmt: skip
    return operator(
        f"conv_{backend}", f"({_CONVOLUTION}) -> Tensor", devices, forward, shape, remember, gradients, one_by_one
    )


def convolved_like(x: Tensor, orders: int, kind: torch.dtype | None = None) -> Tensor:
    """Memory for a convolution's result (B, K, D, L), channels side by side where they are so in x (B, D, L)."""
    return dense_like(x[:, None].expand(-1, orders, -1, -1), kind)
