"""The causal convolution along orders on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from ._cpu_call import Call, in_order
from ._cpu_layout import WIDTH, Field
from ._memory import dense_like, in_large_pages
from ._operators import convolution_operator, convolved_like
from ._threads import ranges, run


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


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, activation: bool, walks: Sequence[int]) -> Tensor:
    from ._cpu_conv_kernels import convolve  # late, as in `_cpu_job`

    y = in_large_pages(convolved_like(x, weight.shape[0], torch.float32))
    if y.numel():
        call = _start(x, weight, bias, walks)
        call.point(Field.Y, y)
        step = partial(call.call_with_panel, convolve, 3)
        run([partial(step, *blocks, activation) for blocks in ranges(call.blocks)])
    return y.to(x.dtype)


def _backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, activation: bool, walks: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias; that of the bias is given even where there is none."""
    from ._cpu_conv_kernels import convolve_back  # late, as in `_cpu_job`

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
    step = partial(call.call_with_panel, convolve_back, 4)
    run([partial(step, *blocks, activation) for blocks in ranges(call.blocks)])
    gw, gb = (in_order(call.values(lanes[:, :, 0])).to(weight.dtype) for lanes in (weights, biases))
    return gx.to(x.dtype), gw, gb[..., 0].contiguous()


#: The convolution with compiled kernels.
causal_conv_cpu = convolution_operator("cpu", "cpu", _forward, _backward)
