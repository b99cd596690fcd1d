"""The causal convolution along orders on a CPU, as an operator that autograd and torch.compile know."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ._cpu_call import Call, in_order
from ._cpu_layout import WIDTH, Field
from ._memory import dense_like, in_large_pages
from ._threads import ranges, run
from ._transforms import differentiable, forget, one_by_one


@cache
def _kernels() -> ModuleType:
    from . import _cpu_conv_kernels  # late: Numba takes a second to import, and a machine with a GPU never needs it

    return _cpu_conv_kernels


def _start(x: Tensor, weight: Tensor, bias: Tensor | None, walks: Sequence[int]) -> Call:
    """A call with its arguments set."""
    batch, channels, length = x.shape
    orders, _, taps = weight.shape
    call = Call(batch, orders, channels, 1, taps, length, walks)
    call.point(Field.U, x[:, None])
    call.parameter(Field.A, weight)
    if bias is not None:
        call.parameter(Field.BIAS, bias)
    return call


def _result(x: Tensor, orders: int, kind: torch.dtype) -> Tensor:
    """Memory for (B, K, D, L), channels side by side where they are so in x."""
    return dense_like(x[:, None].expand(-1, orders, -1, -1), kind)


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, activation: bool, walks: Sequence[int]) -> Tensor:
    y = in_large_pages(_result(x, weight.shape[0], torch.float32))
    if y.numel():
        call = _start(x, weight, bias, walks)
        call.point(Field.Y, y)
        step = partial(call.call_with_panel, _kernels().convolve, 3)
        run([partial(step, *blocks, activation) for blocks in ranges(call.blocks)])
    return y.to(x.dtype)


_forward_op = torch.library.custom_op("medmamba::conv_cpu", _forward, mutates_args=(), device_types="cpu")


@_forward_op.register_fake
def _forward_shape(x: Tensor, weight: Tensor, bias: Tensor | None, activation: bool, walks: Sequence[int]) -> Tensor:
    return _result(x, weight.shape[0], x.dtype)


def _backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, activation: bool, walks: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias; that of the bias is given even where there is none."""
    gx = in_large_pages(dense_like(x, torch.float32))
    orders, channels, taps = weight.shape
    if not x.numel():
        return gx.to(x.dtype), torch.zeros_like(weight), weight.new_zeros(orders, channels)
    call = _start(x, weight, bias, walks)
    call.point(Field.Y, grad)
    call.point(Field.GU, gx[:, None])
    after = torch.zeros(orders, call.blocks, taps, WIDTH)
    weights, biases = (torch.zeros(orders, call.blocks, 2, n, WIDTH) for n in (taps, 1))
    call.set(STATE=after.data_ptr(), GA_LANES=weights.data_ptr(), GBIAS_LANES=biases.data_ptr())
    step = partial(call.call_with_panel, _kernels().convolve_back, 4)
    run([partial(step, *blocks, activation) for blocks in ranges(call.blocks)])
    gw, gb = (in_order(call.values(lanes[:, :, 0])).to(weight.dtype) for lanes in (weights, biases))
    return gx.to(x.dtype), gw, gb[..., 0].contiguous()


_backward_op = torch.library.custom_op("medmamba::conv_cpu_backward", _backward, mutates_args=(), device_types="cpu")


@_backward_op.register_fake
def _backward_shapes(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, activation: bool, walks: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    return dense_like(x), weight.new_empty(weight.shape), weight.new_empty(weight.shape[:2])


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.activation, ctx.walks = inputs
    ctx.save_for_backward(*tensors)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x, weight, bias = ctx.saved_tensors
    gx, gw, gb = _convolve_back(grad, x, weight, bias, ctx.activation, ctx.walks)
    return gx, gw, None if bias is None else gb.to(bias.dtype), None, None


def _refuse_second_derivative(ctx: Any, *grads: Any) -> None:
    raise RuntimeError(
        "causal_conv: backend 'cpu' can be differentiated once, but a derivative of its gradient was asked for; "
        "use backend='torch', which can be differentiated as often as wanted"
    )


_forward_op.register_autograd(_gradients, setup_context=_remember)
_backward_op.register_autograd(_refuse_second_derivative)
_backward_op.register_vmap(one_by_one(_backward_op))


def _each(info: Any, in_dims: Sequence[int | None], *args: Any) -> tuple[Tensor, int]:
    """The rule for vmap: one after the other."""
    (stacked,), _ = one_by_one(lambda *args: (_forward_op(*args),))(info, in_dims, *args)
    return stacked, 0


_forward_op.register_vmap(_each)
_convolve_back = differentiable(_backward_op, _backward, forget, _refuse_second_derivative, one_by_one(_backward_op))
_convolve = differentiable(_forward_op, _forward, _remember, _gradients, _each)


def causal_conv_cpu(x: Tensor, weight: Tensor, bias: Tensor | None, activation: bool, walks: Sequence[int]) -> Tensor:
    """The convolution with compiled kernels, float32 inside; arguments as `causal_conv`'s, walks encoded."""
    y: Tensor = _convolve(x, weight, bias, activation, walks)
    return y
