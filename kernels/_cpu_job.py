"""How a selective scan is cut for the threads of a CPU: which block of channels and steps runs where.

Work is cut by the shapes alone, never by the number of threads, and partial sums are added in a fixed order: results
are the same run by run and for any number of threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Floats = npt.NDArray[np.float32]

#: Steps of a tile and channels of a block, as in _cpu_kernels, which is imported at the first scan: it brings Numba.
TILE, WIDTH = 64, 16
#: Steps of a segment where one lone block is cut along its length so that several threads can share it.
SEGMENT = 8192
#: Floats that the blocks' shares of the gradient of B may take before they are summed, and the fewest steps of one go.
SHARES, FEWEST_STEPS = 2**22, 4 * TILE

_pool: tuple[int, int, ThreadPoolExecutor] | None = None


@cache
def kernels() -> ModuleType:
    """The compiled kernels."""
    from . import _cpu_kernels  # late: Numba takes a second to import, and a machine with a GPU never needs it

    return _cpu_kernels


def _call(kernel: Callable[..., None], *args: Floats | int) -> None:
    """Call a kernel with the addresses of arrays; an empty one's is 0."""
    kernel(*((a.ctypes.data if a.size else 0) if isinstance(a, np.ndarray) else a for a in args))


def _run(tasks: Sequence[Callable[[], object]]) -> None:
    """Run tasks on as many threads as PyTorch uses; a forked process gets threads of its own."""
    global _pool
    threads = min(torch.get_num_threads(), len(tasks))
    if threads <= 1:
        for task in tasks:
            task()
        return
    if _pool is None or _pool[:2] != (os.getpid(), torch.get_num_threads()):
        _pool = (os.getpid(), torch.get_num_threads(), ThreadPoolExecutor(torch.get_num_threads(), "medmamba-scan"))
    for done in [_pool[2].submit(task) for task in tasks]:
        done.result()


def _scratch(size: int) -> Floats:
    """Memory that a kernel fills before it reads it; aligned, so that no vector straddles two cache lines."""
    memory = np.empty(size + WIDTH, dtype=np.float32)
    start = -(memory.ctypes.data // memory.itemsize) % WIDTH
    return memory[start : start + size]


def _zeros(size: int) -> Floats:
    memory = _scratch(size)
    memory.fill(0)
    return memory


def _flat(tensor: Tensor | None, size: int = 0) -> Floats:
    """A tensor's values as flat float32, without a copy where they already lie so; zeros for None."""
    if tensor is None:
        return _zeros(size)
    flat: Floats = tensor.detach().resolve_neg().to(torch.float32).contiguous().view(-1).numpy()
    return flat


class Gradients(NamedTuple):
    """Gradients of the arguments of a scan, flat."""

    u: Floats
    delta: Floats
    A: Floats
    B: Floats
    C: Floats
    D: Floats
    z: Floats
    bias: Floats
    state: Floats


@dataclass(frozen=True, slots=True)
class Block:
    """Up to sixteen neighbouring channels of one batch entry that share B and C.

    Args:
        index: number of the block.
        channel: its first channel.
        count: how many.
        row: where the first channel's values start in u.
        state: where the first channel's values start in a state (B, D, N).
        projections: where the rows of B and C start.
    """

    index: int
    channel: int
    count: int
    row: int
    state: int
    projections: tuple[int, int]


class Job:
    """One call: the arguments as flat arrays, and how they are cut."""

    def __init__(
        self,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        z: Tensor | None,
        delta_bias: Tensor | None,
        delta_softplus: bool,
    ) -> None:
        self.kernels = kernels()
        self.batch, self.channels, self.length = u.shape
        self.states = A.shape[1]
        self.area = self.states * WIDTH
        self.u, self.delta, self.A, self.B, self.C = (_flat(t) for t in (u, delta, A, B, C))
        self.D, self.bias, self.z = _flat(D, self.channels), _flat(delta_bias, self.channels), _flat(z)
        self.constant = (B.dim() == 2, C.dim() == 2)
        self.flags = (z is not None, delta_softplus)
        self.groups = (groups_of(B), groups_of(C))
        self.blocks = self._cut()

    def _cut(self) -> list[Block]:
        """Blocks in the order of their memory; none straddles two groups."""
        blocks: list[Block] = []
        group = self.channels // max(self.groups)
        for entry in range(self.batch):
            for begin in range(0, self.channels, max(group, 1)):
                for channel in range(begin, begin + group, WIDTH):
                    rows = [(entry * g + channel * g // self.channels) * self.states * self.length for g in self.groups]
                    first = entry * self.channels + channel
                    count = min(WIDTH, begin + group - channel)
                    blocks.append(
                        Block(len(blocks), channel, count, first * self.length, first * self.states, (rows[0], rows[1]))
                    )
        return blocks

    def segments(self) -> list[tuple[int, int]]:
        """(first, last) step of the pieces that run side by side: one, unless a lone block has to feed all threads."""
        step = SEGMENT if len(self.blocks) == 1 and self.length >= 2 * SEGMENT else max(self.length, 1)
        return [(first, min(first + step, self.length)) for first in range(0, self.length, step)]

    def states_of(self, values: Tensor | None) -> Floats:
        """A state (B, D, N) block by block: [block, N, 16], flat; zeros for None."""
        lanes = _zeros(len(self.blocks) * self.area)
        if values is not None:
            flat = _flat(values)
            for block in self.blocks:
                at = block.index * self.area
                _call(self.kernels.load_lanes, flat, block.state, self.states, block.count, lanes, at, self.states)
        return lanes

    def state_from(self, lanes: Floats) -> Floats:
        """The way back: (B, D, N), flat."""
        values = _zeros(self.batch * self.channels * self.states)
        for block in self.blocks:
            at = block.index * self.area
            _call(self.kernels.add_lanes, lanes, at, self.states, values, block.state, self.states, block.count)
        return values

    def decays(self, sums: Floats) -> Floats:
        """Decay [N, 16] of a lone block's state over a stretch whose step sizes sum to ``sums`` [16]."""
        block = self.blocks[0]
        lanes = _zeros(self.area)
        _call(
            self.kernels.load_lanes,
            self.A,
            block.channel * self.states,
            self.states,
            block.count,
            lanes,
            0,
            self.states,
        )
        with np.errstate(all="ignore"):
            decay: Floats = np.exp(lanes.reshape(self.states, WIDTH) * sums).reshape(-1)
        return decay

    def advance(
        self,
        block: Block,
        steps: tuple[int, int],
        state: Floats,
        state_at: int,
        kept: Floats,
        y: Floats,
        sums: Floats,
        sums_at: int,
    ) -> None:
        """Run the forward kernel on one block over some steps."""
        k = self.kernels
        scratch = _scratch(k.FORWARD_AREAS * k.AREA + 3 * self.area)
        _call(
            k.forward,
            self.u, self.delta, self.z, self.B, self.C, self.A, self.D, self.bias, *self.flags, *self.constant,
            block.channel, block.count, block.row, *block.projections, self.length, self.states, *steps,
            state, state_at, kept, block.index * self.area, len(self.blocks) * self.area, y, sums, sums_at, scratch,
        )  # fmt: skip

    def forward(self, initial_state: Tensor | None, keep: bool) -> tuple[Floats, Floats, Floats]:
        """y, last state, and the state at the start of each tile [tile, block, N, 16] if it is to be kept; flat."""
        nothing = np.empty(0, dtype=np.float32)
        y = _scratch(self.u.size)
        kept = _scratch(tiles_of(self.length) * len(self.blocks) * self.area if keep else 0)
        state = self.states_of(initial_state)
        segments = self.segments()
        if len(segments) <= 1 or not y.size:
            if y.size:
                _run([partial(self.advance, b, segments[0], state, b.index * self.area, kept, y, nothing, 0)
                      for b in self.blocks])  # fmt: skip
            return y, self.state_from(state), kept
        block, count = self.blocks[0], len(segments)
        states = _zeros(count * self.area).reshape(count, self.area)
        sums = _zeros(count * WIDTH).reshape(count, WIDTH)
        _run([partial(self.advance, block, segments[i], states.reshape(-1), i * self.area, nothing, nothing,
                      sums.reshape(-1), i * WIDTH) for i in range(count - 1)])  # fmt: skip
        with np.errstate(all="ignore"):
            for i in range(count):  # from the state that each piece adds to the state it starts from
                added = states[i].copy()
                states[i] = state
                state = self.decays(sums[i]) * state + added
        _run([partial(self.advance, block, segments[i], states.reshape(-1), i * self.area, kept, y, nothing, 0)
              for i in range(count)])  # fmt: skip
        return y, self.state_from(states[-1]), kept

    def backward(self, grad_y: Tensor | None, grad_state: Tensor | None, kept: Tensor) -> Gradients:
        """Gradients of all arguments, from those of y and of the last state; either may be None for zeros."""
        k, blocks, size = self.kernels, self.blocks, self.u.size
        gy, kept_states = _flat(grad_y, size), _flat(kept)
        segments = self.segments() if size else []
        chained = len(segments) > 1
        slots = max(len(segments), 1) * len(blocks)  # either one block or one segment
        carry = _zeros(slots * self.area).reshape(slots, self.area)
        final = self.states_of(grad_state)
        if chained:
            self._carry_back(gy, segments, carry, final)
        else:
            carry.reshape(-1)[:] = final
        grads = Gradients(
            u=_scratch(size),
            delta=_scratch(size),
            A=_zeros(self.A.size),
            B=_zeros(self.B.size),
            C=_zeros(self.C.size),
            D=_zeros(self.channels),
            z=_scratch(self.z.size),
            bias=_zeros(self.channels),
            state=_zeros(0),
        )
        # Each sum is followed by what rounding has lost of it.
        sums = [_zeros(slots * 2 * self.area) for _ in "ABC"]
        lines = [_zeros(slots * 2 * WIDTH) for _ in ("D", "bias")]

        def retreat(block: Block, slot: int, steps: tuple[int, int], shares: tuple[Floats, Floats], width: int) -> None:
            _call(
                k.backward,
                self.u, self.delta, self.z, self.B, self.C, self.A, self.D, self.bias, *self.flags, *self.constant,
                block.channel, block.count, block.row, *block.projections, self.length, self.states, *steps,
                kept_states, block.index * self.area, len(blocks) * self.area, gy, carry.reshape(-1), slot * self.area,
                grads.u, grads.delta, grads.z,
                *shares, block.index * self.states * width + (steps[0] if chained else 0), width,
                *sums, slot * 2 * self.area, *lines, slot * 2 * WIDTH,
                _scratch(k.BACKWARD_AREAS * k.AREA + 3 * self.area),
            )  # fmt: skip

        if chained:  # a lone block's share is the whole
            _run([partial(retreat, blocks[0], i, steps, (grads.B, grads.C), self.length)
                  for i, steps in enumerate(segments)])  # fmt: skip
        elif size:
            width = min(self.length, max(SHARES // (len(blocks) * self.states) // TILE * TILE, FEWEST_STEPS))
            shares = (
                _scratch(0 if self.constant[0] else len(blocks) * self.states * width),
                _scratch(0 if self.constant[1] else len(blocks) * self.states * width),
            )
            for first in reversed(range(0, self.length, width)):
                steps = (first, min(first + width, self.length))
                _run([partial(retreat, b, b.index, steps, shares, width) for b in blocks])
                self._sum_shares(shares, width, steps, (grads.B, grads.C))
        for slot in range(slots):
            self._collect(blocks[slot if len(blocks) > 1 else 0], slot, sums, lines, grads)
        return grads._replace(state=self.state_from(carry[: len(blocks)].reshape(-1)))

    def _carry_back(self, gy: Floats, segments: list[tuple[int, int]], carry: Floats, final: Floats) -> None:
        """The gradient of a lone block's state at the end of each segment, into ``carry`` [segment, N * 16]."""
        k, block = self.kernels, self.blocks[0]
        step_sums = _zeros(len(segments) * WIDTH).reshape(len(segments), WIDTH)

        def local(i: int) -> None:
            scratch = _scratch(k.BACKWARD_AREAS * k.AREA + 3 * self.area)
            _call(
                k.carry_back,
                self.delta, self.z, self.C, self.A, self.bias, gy, *self.flags, self.constant[1], block.channel,
                block.count, block.row, block.projections[1], self.length, self.states, *segments[i],
                carry.reshape(-1), i * self.area, step_sums.reshape(-1), i * WIDTH, scratch,
            )  # fmt: skip

        _run([partial(local, i) for i in range(1, len(segments))])
        with np.errstate(all="ignore"):
            for i in reversed(range(len(segments))):  # from what each piece adds to what reaches it from behind
                added = carry[i].copy()
                carry[i] = final
                final = self.decays(step_sums[i]) * final + added

    def _sum_shares(
        self, shares: tuple[Floats, Floats], width: int, steps: tuple[int, int], targets: tuple[Floats, Floats]
    ) -> None:
        """Sum what each block adds to the gradients of B and C, in the order of the blocks."""
        tasks = []
        for which in (0, 1):
            if not self.constant[which]:
                starts = [
                    i
                    for i, b in enumerate(self.blocks)
                    if not i or b.projections[which] != self.blocks[i - 1].projections[which]
                ]
                for start, end in zip(starts, [*starts[1:], len(self.blocks)], strict=True):
                    first = self.blocks[start].projections[which] + steps[0]
                    where = (start * self.states * width, end - start, self.states, width, steps[1] - steps[0])
                    tasks.append(
                        partial(
                            _call, self.kernels.sum_parts, shares[which], *where, targets[which], first, self.length
                        )
                    )
        _run(tasks)

    def _collect(self, block: Block, slot: int, sums: list[Floats], lines: list[Floats], grads: Gradients) -> None:
        """Add what a block summed over its steps to the gradients of what does not depend on the step."""
        add = self.kernels.add_lanes
        wanted = (
            grads.A,
            *(g if constant else None for g, constant in zip((grads.B, grads.C), self.constant, strict=True)),
        )
        for source, target in zip(sums, wanted, strict=True):
            if target is not None:
                _call(
                    add,
                    source,
                    slot * 2 * self.area,
                    self.states,
                    target,
                    block.channel * self.states,
                    self.states,
                    block.count,
                )
        for source, target in zip(lines, (grads.D, grads.bias), strict=True):
            _call(add, source, slot * 2 * WIDTH, 1, target, block.channel, 1, block.count)


def groups_of(projection: Tensor) -> Any:
    """Number of groups of B or C: an integer, or PyTorch's symbol for one."""
    return projection.shape[1] if projection.dim() == 4 else 1


def tiles_of(length: Any) -> Any:
    """Number of tiles: an integer, or PyTorch's symbol for one."""
    return (length + TILE - 1) // TILE
