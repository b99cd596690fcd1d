"""How a selective scan is cut for the threads of a CPU: which blocks of channels and which steps run where."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ._arguments import Nine
from ._cpu_call import Call, in_order
from ._cpu_layout import BACKWARD_AREAS, FORWARD_AREAS, POSITIONS, TILE, WIDTH, Field
from ._memory import in_large_pages
from ._operators import Numbers
from ._threads import ranges, run

#: Steps of a segment where one lone block is cut along its length so that several threads can share it.
SEGMENT = 8192
#: Floats that the blocks' shares of the gradient of B may take before they are summed, and the fewest steps of one go.
SHARES, FEWEST_STEPS = 2**22, 4 * TILE


def common_groups(B: Tensor, C: Tensor) -> Any:
    """Groups of channels that share both B and C."""
    groups = [1 if t.dim() == 3 else t.shape[2] for t in (B, C)]
    return math.lcm(*groups) if all(isinstance(n, int) for n in groups) else torch.sym_max(*groups)


def kept_shape(orders: Any, length: Any, blocks: Any, states: Any) -> tuple[Any, ...]:
    """Shape of what a forward pass keeps: [order and tile, block, N, 16], and one row that is not used.

    With it no axis can have one row, a case for which torch.export and torch.compile would write a program of its own.
    """
    return (orders * ((length + TILE - 1) // TILE) + 1, blocks, states, WIDTH)


class Job(Call):
    """One scan, from its tensors with all axes and the numbers after them."""

    def __init__(self, nine: Nine, numbers: Numbers) -> None:
        from . import _cpu_kernels  # late: Numba takes a second to import, and a machine with a GPU never needs it

        u, delta, A, B, C, D, z, delta_bias, _ = nine
        delta_softplus, walks, scale = numbers
        batch, orders, channels, length = delta.shape
        super().__init__(batch, orders, channels, common_groups(B, C), A.shape[-1], length, walks)
        self.kernels, self.scale = _cpu_kernels, np.float32(scale)
        self.shared_input = u.shape[1] == 1 and orders > 1
        self.set(SOFTPLUS=int(delta_softplus))
        self.point(Field.U, u)
        self.point(Field.DELTA, delta)
        if z is not None:
            self.point(Field.Z, z[:, None])
        self.A = self.parameter(Field.A, A)
        self.project(Field.B, B)
        self.project(Field.C, C)
        if D is not None:
            self.parameter(Field.D, D)
        if delta_bias is not None:
            self.parameter(Field.BIAS, delta_bias)

    def project(self, field: int, tensor: Tensor) -> None:
        """Write address, strides and groups of B or C."""
        if tensor.dim() == 3:  # constant: (K, D, N)
            tensor = self.hold(tensor.contiguous())
            order, channel, state = tensor.stride()
            self.numbers[field : field + 8] = (tensor.data_ptr(), 0, order, 0, state, 0, max(channel, 1), 1)
        else:
            tensor = self.hold(tensor)
            self.numbers[field : field + 8] = (tensor.data_ptr(), *tensor.stride(), 0, tensor.shape[2])

    def segments(self) -> list[tuple[int, int]]:
        """(first, last) step of the pieces that run side by side: one, unless a lone block has to feed all threads."""
        step = SEGMENT if self.blocks == 1 and self.length >= 2 * SEGMENT else self.length
        return [(first, min(first + step, self.length)) for first in range(0, self.length, step)]

    def forward(self, initial_state: Tensor | None, y: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
        """Fill y (B, D, L), float32.

        Returns:
            The last states (B, K, D, N), and if they are to be kept those at the start of each tile, as `kept_shape`.
        """
        shape = kept_shape(self.orders, self.length, self.blocks, self.states) if keep else (0,)
        kept = in_large_pages(torch.empty(shape))
        kept[-1:] = 0  # what is not used has values all the same
        state = self.lanes(initial_state)
        segments = self.segments()
        result = self.point(Field.Y, y[:, None])
        assert result.data_ptr() == y.data_ptr()
        if len(segments) == 1:
            self.set(STATE=state.data_ptr(), KEPT=kept.data_ptr())
            advance = partial(self.call_with_panel, self.kernels.forward, FORWARD_AREAS)
            run([partial(advance, *blocks, 0, self.orders, 0, self.length, blocks[0], self.scale)
                 for blocks in ranges(self.blocks)])  # fmt: skip
            return self.values(state), kept
        states = torch.zeros(self.orders, len(segments), self.states, WIDTH)
        sums = torch.zeros(self.orders, len(segments), WIDTH)
        self.set(STATE=states.data_ptr(), SUMS=sums.data_ptr(), SLOTS=len(segments), Y=0, KEPT=0)
        advance = partial(self.call_with_panel, self.kernels.forward, FORWARD_AREAS, 0, 1)
        run([partial(advance, 0, self.orders, *steps, i, self.scale) for i, steps in enumerate(segments[:-1])])
        self._chain(states, sums, state[:, 0], range(len(segments)))
        self.set(SUMS=0, Y=y.data_ptr(), KEPT=kept.data_ptr())
        for order in range(self.orders):  # one after the other, as each adds to all of y
            run([partial(advance, order, order + 1, *steps, i, self.scale) for i, steps in enumerate(segments)])
        return self.values(states[:, -1:]), kept

    def _chain(self, states: Tensor, sums: Tensor, start: Tensor, pieces: Sequence[int]) -> None:
        """Replace what each piece of a lone block adds to its state by the state it starts from."""
        decay = self.A.transpose(1, 2)  # (K, N, D)
        decay = F.pad(decay, (0, WIDTH - decay.shape[2]))
        for i in pieces:
            added = states[:, i].clone()
            states[:, i] = start
            start = torch.exp(decay * sums[:, i, None]) * start + added

    def backward(
        self, grad_y: Tensor | None, grad_state: Tensor | None, kept: Tensor, grads: Sequence[Tensor | None]
    ) -> tuple[Tensor, ...]:
        """Gradients from those of y and of the last state; either may be None for zeros.

        Args:
            grad_y: (B, D, L).
            grad_state: (B, K, D, N).
            kept: as `forward` returned it.
            grads: dense float32 memory for the gradients of u, delta, z, and of B and C where they are not constant.

        Returns:
            Gradients of A, B and C where they are constant (else empty), D, the bias, and the initial state.
        """
        gu, gdelta, gz, gB, gC = grads
        assert gu is not None
        assert gdelta is not None
        self.point(Field.Y, (torch.zeros_like(gdelta[:, 0]) if grad_y is None else grad_y)[:, None])
        self.point(Field.GU, gu)
        self.point(Field.GDELTA, gdelta)
        if gz is not None:
            self.point(Field.GZ, gz[:, None])
        segments = self.segments()
        slots = self.blocks if len(segments) == 1 else len(segments)
        carry = self.lanes(grad_state)
        self.set(KEPT=self.hold(kept).data_ptr(), SLOTS=slots)
        if len(segments) > 1:
            carry = self._carry_back(segments, carry)
        # Each sum is followed by what rounding has lost of it.
        gA, constant_B, constant_C = (torch.zeros(self.orders, slots, 2, self.states, WIDTH) for _ in range(3))
        gD, gbias = (torch.zeros(self.orders, slots, 2, 1, WIDTH) for _ in range(2))
        self.set(
            STATE=carry.data_ptr(), GA_LANES=gA.data_ptr(), GB_LANES=constant_B.data_ptr(),
            GC_LANES=constant_C.data_ptr(), GD_LANES=gD.data_ptr(), GBIAS_LANES=gbias.data_ptr(),
        )  # fmt: skip
        rows = self.blocks * self.states
        if self.orders * rows * self.length <= SHARES:
            goes, width = [(0, self.orders)], self.length
        else:
            goes = [(k, k + 1) for k in range(self.orders)]
            width = min(self.length, max(SHARES // rows // TILE * TILE, FEWEST_STEPS))
        if len(segments) > 1:
            width = self.length
        size = (goes[0][1], rows, width)
        shares = [
            (Field.B, gB, torch.empty(0 if gB is None else size)),
            (Field.C, gC, torch.empty(0 if gC is None else size)),
        ]
        self.set(GB=shares[0][2].data_ptr(), GC=shares[1][2].data_ptr(), SHARE_WIDTH=width)
        retreat = partial(self.call_with_panel, self.kernels.backward, BACKWARD_AREAS)
        for some in goes:
            for first in reversed(range(0, self.length, width)):
                steps = (first, min(first + width, self.length))
                self.set(SHARE_FIRST=first, SHARE_ORDER=some[0])
                if len(segments) > 1:
                    for order in range(*some):
                        run([partial(retreat, 0, 1, order, order + 1, *piece, i, self.scale, self.shared_input)
                             for i, piece in enumerate(segments)])  # fmt: skip
                else:
                    run([partial(retreat, *blocks, *some, *steps, blocks[0], self.scale, self.shared_input)
                         for blocks in ranges(self.blocks)])  # fmt: skip
                for field, target, parts in shares:
                    if target is not None:
                        self._sum_shares(field, parts, some, steps, target)
        return (
            self._collect(gA),
            self._collect(constant_B) if gB is None else torch.empty(0),
            self._collect(constant_C) if gC is None else torch.empty(0),
            self._collect(gD)[..., 0],
            self._collect(gbias)[..., 0],
            self.values(carry[:, : self.blocks]),
        )

    def _carry_back(self, segments: list[tuple[int, int]], final: Tensor) -> Tensor:
        """The gradient of a lone block's state at the end of each segment, [order, segment, N, 16]."""
        carry = torch.zeros(self.orders, len(segments), self.states, WIDTH)
        sums = torch.zeros(self.orders, len(segments), WIDTH)
        self.set(STATE=carry.data_ptr(), SUMS=sums.data_ptr())
        back = partial(self.call, self.kernels.carry_back, BACKWARD_AREAS)
        run([partial(back, order, *steps, i, self.scale)
             for order in range(self.orders) for i, steps in enumerate(segments)])  # fmt: skip
        self._chain(carry, sums, final[:, 0], range(len(segments) - 1, -1, -1))
        return carry

    def _sum_shares(
        self, field: int, parts: Tensor, orders: tuple[int, int], steps: tuple[int, int], target: Tensor
    ) -> None:
        """Sum what each block adds to the gradient of B or C, in the order of the blocks."""
        numbers = self.numbers.copy()
        numbers[field + 1 : field + 6] = target.stride()
        rows = (orders[1] - orders[0]) * self.batch * target.shape[2] * self.states

        def add_up(first: int, last: int) -> None:
            positions = np.empty(POSITIONS, dtype=np.int64)
            self.kernels.sum_shares(
                numbers.ctypes.data, field, parts.data_ptr(), first, last, *steps, target.data_ptr(),
                positions.ctypes.data,
            )  # fmt: skip

        run([partial(add_up, *some) for some in ranges(rows)])

    def _collect(self, lanes: Tensor) -> Tensor:
        """Sum lanes [order, slot, 2, N, 16] over pieces and entries, in order: (K, D, N)."""
        sums = lanes[:, :, 0]
        if self.blocks == 1:
            sums = in_order(sums.transpose(0, 1))[:, None]
        return in_order(self.values(sums))
