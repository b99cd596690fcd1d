"""One call of the compiled CPU kernels: its tensors as addresses, and how it is cut for the threads.

Work is cut by the shapes alone, never by the number of threads, and partial sums are added in a fixed order: results
are the same run by run and for any number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ._cpu_layout import AREA, PANEL, POSITIONS, WIDTH, Field
from .orders import MAX_AXES, check_recorded

Numbers = npt.NDArray[np.int64]


def block_count(batch: Any, channels: Any, groups: Any) -> Any:
    """Blocks of a call: integers, or PyTorch's symbols for them."""
    return batch * groups * ((channels // groups + WIDTH - 1) // WIDTH)


def in_order(parts: Tensor) -> Tensor:
    """Sum over the first axis, always in the same order."""
    total: Tensor = reduce(torch.add, parts)
    return total


class Call:
    """The numbers that kernels are told, and the memory that they point to.

    Args:
        batch: entries.
        orders: K.
        channels: D.
        groups: of channels that a block must not straddle.
        states: vectors per block and order of what `lanes` holds.
        length: L.
        walks: encoded walks.
    """

    def __init__(
        self, batch: int, orders: int, channels: int, groups: int, states: int, length: int, walks: Sequence[int]
    ) -> None:
        self.batch, self.orders, self.channels, self.groups = batch, orders, channels, groups
        self.states, self.length = states, length
        self.blocks = block_count(batch, channels, groups)
        self.numbers: Numbers = np.zeros(len(Field), dtype=np.int64)
        encoded = np.array(walks, dtype=np.int64)
        self._held: list[Any] = [encoded]
        rows = encoded.reshape(orders, -1)
        check_recorded(rows[:, 1 : 1 + MAX_AXES].prod(axis=1), length)
        self.has_columns = bool(((abs(rows[:, 7]) == 1) & (abs(rows[:, 8]) > 1)).any())
        self.set(
            ORDERS=orders, BATCH=batch, CHANNELS=channels, GROUPS=groups, BLOCKS=self.blocks, STATES=states,
            LENGTH=length, SLOTS=self.blocks, WALKS=encoded.ctypes.data,
        )  # fmt: skip

    def set(self, **numbers: int) -> None:
        """Write numbers by the names of their fields."""
        for name, value in numbers.items():
            self.numbers[getattr(Field, name)] = value

    def hold(self, tensor: Tensor) -> Tensor:
        """Keep a tensor while its address is in use; float32."""
        tensor = tensor.detach().resolve_neg().to(torch.float32)
        self._held.append(tensor)
        return tensor

    def point(self, field: int, tensor: Tensor) -> Tensor:
        """Write address and strides of a tensor (B, K or 1, D, L)."""
        tensor = self.hold(tensor)
        strides = list(tensor.stride())
        strides[1] = 0 if tensor.shape[1] == 1 else strides[1]
        self.numbers[field : field + 5] = (tensor.data_ptr(), *strides)
        return tensor

    def parameter(self, field: int, tensor: Tensor) -> Tensor:
        """Write the address of a parameter (K, D[, N]), made compact."""
        tensor = self.hold(tensor.contiguous())
        self.numbers[field] = tensor.data_ptr()
        return tensor

    def lanes(self, values: Tensor | None) -> Tensor:
        """A state (B, K, D, N) as lanes [order, block, N, 16]; zeros for None."""
        shape = (self.orders, self.blocks, self.states, WIDTH)
        if values is None:
            return torch.zeros(shape)
        values = values.detach().to(torch.float32)
        values = values.reshape(self.batch, self.orders, self.groups, self.channels // self.groups, self.states)
        values = F.pad(values, (0, 0, 0, -values.shape[3] % WIDTH)).unflatten(3, (-1, WIDTH))
        return values.permute(1, 0, 2, 3, 5, 4).reshape(shape).contiguous()

    def values(self, lanes: Tensor) -> Tensor:
        """The way back, for lanes [order, block, N, 16]: (B, K, D, N)."""
        lanes = lanes.reshape(self.orders, self.batch, self.groups, -1, lanes.shape[-2], WIDTH)
        values = lanes.permute(1, 0, 2, 3, 5, 4).flatten(3, 4)[:, :, :, : self.channels // self.groups]
        return values.reshape(self.batch, self.orders, self.channels, -1).contiguous()

    def call(self, kernel: Callable[..., None], areas: int, *args: Any) -> None:
        """Call a kernel, with scratch of its own as the last arguments: tiles, and twelve [states, 16] after them."""
        scratch = torch.empty(areas * AREA + 12 * self.states * WIDTH)
        positions = np.empty(POSITIONS, dtype=np.int64)
        kernel(self.numbers.ctypes.data, *args, scratch.data_ptr(), positions.ctypes.data)

    def call_with_panel(self, kernel: Callable[..., None], areas: int, *args: Any) -> None:
        """The same for a kernel that crosses grids in panels: the second argument tells where in scratch they are."""
        if not self.has_columns:
            self.call(kernel, areas, 0, *args)
            return
        numbers, row = self.numbers.copy(), -(-self.states // WIDTH) * WIDTH
        walks = np.tile(np.array([0, 1, 1, 1, self.length, 0, 0, 0, 1], dtype=np.int64), self.orders)
        numbers[Field.WALKS] = walks.ctypes.data
        memory = []
        for field in (Field.U, Field.DELTA, Field.Z, Field.Y, Field.GU, Field.GDELTA, Field.GZ):
            if numbers[field]:
                memory.append(torch.empty(PANEL * WIDTH + self.channels))  # a block's begins at its first channel
                numbers[field : field + 5] = (memory[-1].data_ptr(), 0, 0, 1, WIDTH)
        for field in (Field.B, Field.C):
            if numbers[field] and not numbers[field + 6]:
                memory.append(torch.empty(PANEL * row))
                numbers[field : field + 6] = (memory[-1].data_ptr(), 0, 0, 0, 1, row)
        self.call(kernel, areas, numbers.ctypes.data, *args)
