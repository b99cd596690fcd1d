"""The causal convolution along orders on a GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ._memory import dense_like
from ._operators import convolution_operator, convolved_like
from ._triton_conv import convolve, convolve_back
from ._triton_launch import add_rows_launch, loop_count, small, table
from ._triton_plan import Launch, Plan, Scratch, Where, plan_for
from .orders import Walk, check_recorded, decode

#: Steps and channels of a program, and its warps.
STEPS, WIDTH, WARPS = 32, 32, 8


class Layout:
    """Plans for convolutions of a form.

    Args:
        memory: all tensors by name, of which only the form is read.
        walks: of the orders.
        activation: whether SiLU follows.
    """

    def __init__(self, memory: Mapping[str, Tensor], walks: Sequence[Walk], activation: bool) -> None:
        self.strides = {name: tensor.stride() for name, tensor in memory.items()}
        self.walks, self.activation, self.device = walks, activation, memory["x"].device
        self.batch, self.channels, self.length = memory["x"].shape
        check_recorded((walk.length for walk in walks), self.length)
        self.taps = memory["weight"].shape[2]
        self.blocks, self.pieces = -(-self.channels // WIDTH), -(-self.length // STEPS)

    def _values(self, order: int) -> dict[str, Any]:
        """What all kernels are told about one order."""
        values: dict[str, Any] = {}
        for name, axis in (("weight", 0), ("bias", 0), ("y", 1), ("grad", 1), ("grad_weight", 0), ("grad_bias", 0)):
            values[name] = Where(name, order * self.strides[name][axis]) if name in self.strides else None
        for name in ("x", "grad_x", "partial"):
            values[name] = Where(name, 0)
        for name in ("x", "y", "grad", "grad_x"):
            strides = self.strides.get(name, (0, 0, 0))
            batch, row, column = (strides[0], *strides[-2:])
            values |= {f"{name}_b": batch, f"{name}_d": row, f"{name}_l": column}
        return values | {
            "walk": Where(f"walk{order}", 0), "LOOPS": loop_count(self.walks[order]), "channels": self.channels,
            "length": self.length, "blocks": self.blocks, "pieces": self.pieces, "TAPS": self.taps,
            "ACTIVATION": self.activation, "STEPS": STEPS, "WIDTH": WIDTH,
            "FIRST": order == 0, "LAST": order == len(self.walks) - 1,
        }  # fmt: skip

    def _plan(self, launches: list[Launch], scratch: Scratch) -> Plan:
        return Plan(launches, scratch.size, {f"walk{k}": table(walk, self.device) for k, walk in enumerate(self.walks)})

    def forward(self) -> Plan:
        """One launch for each order."""
        programs = self.batch * self.blocks * self.pieces
        launches = [Launch(convolve, programs, self._values(order), WARPS) for order in range(len(self.walks))]
        return self._plan(launches, Scratch())

    def backward(self) -> Plan:
        """For each order, gradients and the sums of the programs' shares."""
        scratch, launches, rows = Scratch(), list[Launch](), self.batch * self.pieces
        columns = self.channels * (self.taps + 1)
        shares = scratch.take(rows, columns)
        for order in range(len(self.walks)):
            values = self._values(order)
            own = {"grad_weight": shares, "grad_bias": Where(shares.tensor, shares.offset + self.channels * self.taps)}
            launches.append(Launch(convolve_back, rows * self.blocks, values | own | {"row": columns}, WARPS))
            launches.append(add_rows_launch(
                shares, rows, columns, self.channels, self.taps, A=values["grad_weight"], D=values["grad_bias"]
            ))  # fmt: skip
        return self._plan(launches, scratch)


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, activation: bool, walks: Sequence[int]) -> Tensor:
    y = convolved_like(x, weight.shape[0])
    if not y.numel():
        return y
    memory = {"x": x, "weight": small(weight), "y": y}
    if bias is not None:
        memory["bias"] = small(bias)
    orders = decode(walks)
    plan_for(memory, ("convolve", orders, activation), lambda: Layout(memory, orders, activation).forward())(memory)
    return y


def _backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, activation: bool, walks: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias; that of the bias is given even where there is none."""
    grad_x = dense_like(x)
    orders, channels, _ = weight.shape
    grad_weight, grad_bias = weight.new_empty(weight.shape), weight.new_empty(orders, channels)
    if not x.numel():
        return grad_x, grad_weight.zero_(), grad_bias.zero_()
    memory = {
        "x": x, "weight": small(weight), "grad": grad, "grad_x": grad_x, "grad_weight": grad_weight,
        "grad_bias": grad_bias,
    }  # fmt: skip
    memory["partial"] = grad_x if orders == 1 or x.dtype == torch.float32 else dense_like(x, torch.float32)
    if bias is not None:
        memory["bias"] = small(bias)
    settings = ("convolve back", decode(walks), activation)
    plan_for(memory, settings, lambda: Layout(memory, decode(walks), activation).backward())(memory)
    return grad_x, grad_weight, grad_bias


#: The convolution with compiled kernels.
causal_conv_triton = convolution_operator("triton", ("cuda", "cpu"), _forward, _backward)
