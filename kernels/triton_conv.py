"""The causal convolution along orders on a GPU, as an operator that autograd and torch.compile know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ._memory import dense_like
from ._transforms import forget, one_by_one, transformable
from ._triton_conv import convolve, convolve_back
from ._triton_launch import launch, loop_count, on_device, small, strides_of, table
from .orders import decode

#: Steps and channels of a program, and its warps.
STEPS, WIDTH, WARPS = 32, 32, 8


def _values(x: Tensor, weight: Tensor, bias: Tensor | None, activation: bool) -> dict[str, Any]:
    """What the kernels are told about every order."""
    _, channels, length = x.shape
    return {
        "x": x, **strides_of("x", x, "bdl"), "channels": channels, "length": length,
        "blocks": -(-channels // WIDTH), "pieces": -(-length // STEPS), "TAPS": weight.shape[2],
        "ACTIVATION": activation, "STEPS": STEPS, "WIDTH": WIDTH,
    }  # fmt: skip


def _result(x: Tensor, orders: int) -> Tensor:
    """Memory for (B, K, D, L), channels side by side where they are so in x."""
    return dense_like(x[:, None].expand(-1, orders, -1, -1))


@torch.library.custom_op("medmamba::conv_triton", mutates_args=(), device_types=("cuda", "cpu"))
def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, activation: bool, walks: Sequence[int]) -> Tensor:
    y = _result(x, weight.shape[0])
    if not y.numel():
        return y
    values = _values(x, weight, bias, activation)
    programs = x.shape[0] * values["blocks"] * values["pieces"]
    weight, bias = small(weight), None if bias is None else small(bias)
    with on_device(x.device):
        for order, walk in enumerate(decode(walks)):
            own = {
                "weight": weight[order], "bias": None if bias is None else bias[order], "y": y[:, order],
                **strides_of("y", y[:, order], "bdl"), "walk": table(walk, x.device), "LOOPS": loop_count(walk),
            }  # fmt: skip
            launch(convolve, programs, values | own, warps=WARPS)
    return y


@_forward.register_fake
def _forward_shape(x: Tensor, weight: Tensor, bias: Tensor | None, activation: bool, walks: Sequence[int]) -> Tensor:
    return _result(x, weight.shape[0])


@torch.library.custom_op("medmamba::conv_triton_backward", mutates_args=(), device_types=("cuda", "cpu"))
def _backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, activation: bool, walks: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias; that of the bias is given even where there is none."""
    grad_x = dense_like(x)
    orders, channels, taps = weight.shape
    grad_weight, grad_bias = weight.new_empty(weight.shape), weight.new_empty(orders, channels)
    if not x.numel():
        return grad_x, grad_weight.zero_(), grad_bias.zero_()
    values = _values(x, weight, bias, activation)
    shares = x.shape[0] * values["pieces"]
    weights = x.new_empty(shares, channels, taps, dtype=torch.float32)
    biases = x.new_empty(shares, channels, dtype=torch.float32)
    partial = grad_x if orders == 1 or x.dtype == torch.float32 else dense_like(x, torch.float32)
    weight, bias = small(weight), None if bias is None else small(bias)
    with on_device(x.device):
        for order, walk in enumerate(decode(walks)):
            own = {
                "weight": weight[order], "bias": None if bias is None else bias[order], "grad": grad[:, order],
                "partial": partial, "grad_x": grad_x, "grad_weight": weights, "grad_bias": biases,
                **strides_of("grad", grad[:, order], "bdl"), **strides_of("grad_x", grad_x, "bdl"),
                "walk": table(walk, x.device), "LOOPS": loop_count(walk),
                "FIRST": order == 0, "LAST": order == orders - 1,
            }  # fmt: skip
            launch(convolve_back, shares * values["blocks"], values | own, warps=WARPS)
            grad_weight[order].copy_(weights.sum(0))
            grad_bias[order].copy_(biases.sum(0))
    return grad_x, grad_weight, grad_bias


@_backward.register_fake
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
        "causal_conv: backend 'triton' can be differentiated once, but a derivative of its gradient was asked for; "
        "use backend='torch', which can be differentiated as often as wanted"
    )


def _each(info: Any, in_dims: Sequence[int | None], *args: Any) -> tuple[Tensor, int]:
    """The rule for vmap: one after the other."""
    (stacked,), _ = one_by_one(lambda *args: (_forward(*args),))(info, in_dims, *args)
    return stacked, 0


_forward.register_autograd(_gradients, setup_context=_remember)
_forward.register_vmap(_each)
_backward.register_autograd(_refuse_second_derivative)
_backward.register_vmap(one_by_one(_backward))
_convolve_back = transformable(_backward, forget, _refuse_second_derivative, one_by_one(_backward))
_convolve = transformable(_forward, _remember, _gradients, _each)


def causal_conv_triton(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: bool, walks: Sequence[int]
) -> Tensor:
    """The convolution with compiled kernels, float32 inside; arguments as `causal_conv`'s, walks encoded."""
    y: Tensor = _convolve(x, weight, bias, activation, walks)
    return y
