"""How a selective scan is laid out on a GPU: tiles, chunks, buffers, and the order of launches.

Letters: B batch, K orders, D channels, L length, N states, G groups.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
import triton
from torch import Tensor

from ._arguments import NAMES, Scan, in_orders, new_gradients
from ._memory import dense_like
from ._triton_gradients import chunk_gradients, chunk_gradients_ends
from ._triton_kernels import carry, chunk_ends, chunk_outputs
from ._triton_plan import Launch, Plan, Scratch, Where, plan_for
from ._triton_sums import add_rows, add_tokens
from .orders import Walk, check_recorded

#: Steps between the states that the forward pass keeps for the backward pass.
KEEP = 64
#: Fewest steps worth a chunk of their own, a multiple of KEEP.
SHORTEST_CHUNK = 64
#: Fewer chunks than this are not worth the extra passes.
FEWEST_CHUNKS = 3
#: Programs, of one warp each, that keep a multiprocessor busy: as many as its registers hold, forwards and backwards.
PROGRAMS_PER_PROCESSOR, PROGRAMS_BACK = 16, 8
#: States that a program of `carry` follows, and chunks that it fetches at once.
CARRY_WIDTH, CARRY_AHEAD = 32, 4
#: Bytes that the shares of the gradients of B and C may take together: longer scans go window by window, if that leaves
#: each window enough chunks to fill the device.
WINDOW = 128 * 2**20
#: Elements that a program of `add_tokens` sums up side by side, and shares that it fetches at once.
SUM_ELEMENTS, SUM_AHEAD = 1024, 4
#: Rows and columns that a program of `add_rows` takes at once.
SUM_ROWS, SUM_WIDTH = 128, 8
#: Warps of the programs that add up.
SUM_WARPS = 4
#: Longest scan whose steps are counted in 32 bits, with room for those past its end.
NARROW = 2**30


@dataclass(frozen=True, slots=True)
class Tile:
    """Channels and states of one program, as `_triton_kernels` describes them, and steps fetched at once."""

    NR: int
    CR: int
    NL: int
    CL: int
    STEPS: int

    @property
    def channels(self) -> int:
        """Channels that a program has."""
        return self.CR * self.CL


#: Tiles by states, the number rounded up to a power of two. Going forwards only sums over states are needed, so states
#: lie in a lane's registers, 16 at most; more are spread over lanes. Going backwards sums over channels are needed too,
#: and sharing the lanes between both makes for the fewest shuffles; half as many states leave room for gradients.
FORWARD = {
    1: Tile(1, 1, 1, 32, 8),
    2: Tile(2, 1, 1, 32, 8),
    4: Tile(4, 1, 1, 32, 4),
    8: Tile(8, 1, 1, 32, 4),
    16: Tile(16, 1, 1, 32, 4),
    32: Tile(16, 1, 2, 16, 2),
    64: Tile(16, 1, 4, 8, 2),
    128: Tile(16, 1, 8, 4, 2),
    256: Tile(16, 1, 16, 2, 2),
}
BACKWARD = {
    1: Tile(1, 1, 1, 32, 4),
    2: Tile(2, 1, 1, 32, 2),
    4: Tile(2, 1, 2, 16, 2),
    8: Tile(2, 2, 4, 8, 2),
    16: Tile(4, 2, 4, 8, 2),
    32: Tile(8, 1, 4, 8, 2),
    64: Tile(8, 1, 8, 4, 2),
    128: Tile(8, 1, 16, 2, 2),
    256: Tile(8, 1, 32, 1, 2),
}


def tile_for(tiles: dict[int, Tile], states: int, lanes: int | None = None) -> Tile:
    """The tile of a table for a number of states.

    Args:
        tiles: FORWARD or BACKWARD.
        states: N.
        lanes: width of a warp; None: that of the GPUs PyTorch was built for. Twice the lanes take twice the channels.
    """
    tile = tiles[triton.next_power_of_2(states)]
    if lanes is None:
        lanes = 32 if torch.version.hip is None else 64
    return tile if lanes == 32 else replace(tile, CR=max(1, tile.CR // 2), CL=2 * tile.CL)


@cache
def processors(device: torch.device) -> int:
    """Multiprocessors of a device; none where Triton's interpreter runs programs in turn."""
    return int(torch.cuda.get_device_properties(device).multi_processor_count) if device.type == "cuda" else 0


def table(walk: Walk, device: torch.device) -> Tensor:
    """A walk's numbers where kernels can read them."""
    kind = torch.int32 if walk.length <= NARROW else torch.int64
    return torch.tensor(walk.encode(), dtype=kind, device=device)


def loop_count(walk: Walk) -> int:
    """Nested loops of a walk, without the slowest ones of a single step."""
    outer = next((i for i, size in enumerate(walk.sizes) if size != 1), len(walk.sizes) - 1)
    return len(walk.sizes) - outer


def small(tensor: Tensor) -> Tensor:
    """A small argument as kernels take it."""
    return tensor.to(torch.float32).contiguous()


def _float32_like(tensor: Tensor) -> Tensor:
    """A buffer with the strides of a dense tensor: the tensor itself where it is float32."""
    return tensor if tensor.dtype == torch.float32 else dense_like(tensor, torch.float32)


def _given(**tensors: Tensor | None) -> dict[str, Tensor]:
    """Those that are there, by name."""
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def _in_orders(memory: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same with the axes of orders and groups in all arguments and gradients."""
    together = dict(memory)
    grads = ("grad_u", "grad_delta", "grad_A", "grad_B", "grad_C", "grad_D", "grad_z", "grad_bias", "grad_state")
    for nine in (NAMES, grads) if "grad_u" in memory else (NAMES,):
        tensors = in_orders(tuple(memory.get(name) for name in nine))  # type: ignore[arg-type]  # those needed are there
        together |= _given(**dict(zip(nine, tensors, strict=True)))
    return together


def _arguments(scan: Scan) -> dict[str, Tensor]:
    """The scan's tensors by the names that kernels give them, small ones as contiguous float32."""
    B, C = (t if t.dim() > scan.A.dim() else small(t) for t in (scan.B, scan.C))
    D, bias, state = (None if t is None else small(t) for t in (scan.D, scan.delta_bias, scan.initial_state))
    return _given(
        u=scan.u, delta=scan.delta, A=small(scan.A), B=B, C=C, D=D, z=scan.z, delta_bias=bias, initial_state=state
    )


def kept_shape(batch: Any, orders: Any, length: Any, states: Any, channels: Any) -> tuple[Any, ...]:
    """Shape of what a forward pass keeps: (B, K, L / KEEP rounded up times N times D).

    An axis of the steps alone may have one row, a case for which torch.compile would write a program of its own.
    """
    return (batch, orders, (length + KEEP - 1) // KEEP * states * channels)


def scan_forward(scan: Scan, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Run a scan; no argument may be float64.

    Returns:
        y, the last states (B, K, D, N), and if wanted states for `scan_backward`, as `kept_shape`.
    """
    orders, (batch, *_, channels, length) = len(scan.walks), scan.delta.shape
    states = scan.A.shape[-1]
    y = dense_like(scan.u if scan.u.dim() == 3 else scan.u[:, 0])
    last = y.new_empty((batch, orders, channels, states), dtype=torch.float32)
    kept = y.new_empty(kept_shape(batch, orders, length, states, channels) if keep else (0,), dtype=torch.float32)
    if 0 in (batch, channels, length):
        return y, last.zero_() if scan.initial_state is None else last.copy_(scan.initial_state.view(last.shape)), kept
    memory = _arguments(scan) | {"y": y, "last_state": last}
    if keep:
        memory["kept"] = kept
    if orders > 1:
        memory["partial"] = _float32_like(y)
    settings = ("forward", scan.walks, scan.scale, scan.delta_softplus)
    plan_for(memory, settings, lambda: Layout(memory, scan).forward())(memory)
    return y, last, kept


def scan_backward(
    scan: Scan, grad_y: Tensor | None, grad_state: Tensor | None, kept: Tensor
) -> tuple[Tensor | None, ...]:
    """Gradients of the scan's nine tensors; None for those that are not there.

    Args:
        scan: as it ran forward, with or without the axes that `in_orders` puts in; so have the gradients.
        grad_y: gradient of y, None: zeros.
        grad_state: gradient of the last states, None: zeros.
        kept: what `scan_forward` kept.
    """
    grads = new_gradients(scan.tensors)
    u, delta, A, B, C, D, z, bias, state = grads
    assert u is not None
    orders, (batch, *_, channels, length) = len(scan.walks), scan.delta.shape
    if 0 in (batch, channels, length):
        for grad in grads:
            if grad is not None:
                grad.zero_()
        if state is not None and grad_state is not None:
            state.copy_(grad_state.view(state.shape))
        return tuple(grads)
    if grad_y is None:
        grad_y = u.new_zeros((), dtype=torch.float32).expand(batch, channels, length)
    begun = None if state is None else _float32_like(state)
    memory = _arguments(scan) | _given(
        kept=kept, grad_y=grad_y, given=None if grad_state is None else small(grad_state),
        grad_u=u, grad_delta=delta, grad_A=A, grad_B=B, grad_C=C, grad_D=D, grad_z=z, grad_bias=bias, grad_state=begun,
    )  # fmt: skip
    if orders > 1 and scan.u.shape[1] == 1:
        memory["partial_u"] = _float32_like(u[:, 0])
    if z is not None and orders > 1:
        memory["partial_z"] = _float32_like(z)
    settings = ("backward", scan.walks, scan.scale, scan.delta_softplus)
    plan_for(memory, settings, lambda: Layout(memory, scan).backward())(memory)
    if state is not None and begun is not None and begun is not state:
        state.copy_(begun)
    return tuple(grads)


def add_rows_launch(shares: Where, rows: int, columns: int, channels: int, per: int, **sums: Where | None) -> Launch:
    """The launch of `add_rows`: where the shares are, their rows and columns, and where each sum goes, by its name."""
    values: dict[str, Any] = {f"grad_{name}": sums.get(name) for name in ("A", "D", "bias", "B", "C")}
    values |= {"rows": rows, "columns": columns, "per": per, "channels": channels, "ROWS": SUM_ROWS, "WIDTH": SUM_WIDTH}
    return Launch(add_rows, -(-columns // SUM_WIDTH), values | {"shares": shares}, SUM_WARPS)


class Layout:
    """Plans for scans of a form.

    Args:
        memory: all tensors by name, of which only the form is read.
        scan: the scan, likewise.
    """

    def __init__(self, memory: Mapping[str, Tensor], scan: Scan) -> None:
        memory, scan = _in_orders(memory), scan.in_orders()
        self.shapes = {name: (tuple(t.shape), t.stride()) for name, t in memory.items()}
        self.walks, self.scale, self.softplus = scan.walks, float(scan.scale), scan.delta_softplus
        self.batch, self.orders, self.channels, self.length = scan.delta.shape
        check_recorded((walk.length for walk in self.walks), self.length)
        self.states = scan.A.shape[-1]
        self.shared = scan.u.shape[1] == 1
        self.device = scan.u.device
        self.groups = {name: 0 if t.dim() == 3 else t.shape[2] for name, t in (("B", scan.B), ("C", scan.C))}
        self.per_B, self.per_C = (self.channels // max(1, self.groups[name]) for name in "BC")
        self.part = math.gcd(self.per_B, self.per_C)
        self.scratch = Scratch()
        self.launches: list[Launch] = []

    def _plan(self) -> Plan:
        tables = {f"walk{k}": table(walk, self.device) for k, walk in enumerate(self.walks)}
        return Plan(self.launches, self.scratch.size, tables)

    def _blocks(self, tile: Tile) -> int:
        return self.channels // self.part * -(-self.part // tile.channels)

    def _chunks(self, tile: Tile, programs: int, windows: int = 1) -> tuple[int, int]:
        """Chunks and their steps: enough chunks to fill the device in each window, or one."""
        side_by_side = self.batch * self._blocks(tile)
        wanted = windows * -(-programs * processors(self.device) // side_by_side)
        chunks = min(wanted, -(-self.length // SHORTEST_CHUNK))
        if chunks < FEWEST_CHUNKS:
            return 1, self.length
        steps = -(-self.length // (chunks * KEEP)) * KEEP
        return -(-self.length // steps), steps

    def _at(self, name: str, order: int) -> Where | None:
        """Where an order's part of a tensor begins; all orders share those of three axes, or of one input."""
        if name not in self.shapes:
            return None
        shape, strides = self.shapes[name]
        if name in ("A", "D", "delta_bias", "grad_A", "grad_D", "grad_bias") or (len(shape) == 3 and name[-1] in "BC"):
            return Where(name, order * strides[0])
        return Where(name, order * strides[1] if (len(shape) > 3 or name == "kept") and shape[1] > 1 else 0)

    def _strides(self, name: str, axes: str) -> dict[str, int]:
        """Strides by the names that kernels give them; zeros for what is not there or has no such axes."""
        shape, strides = self.shapes.get(name, ((), ()))
        if len(shape) == len(axes) + 1:  # of all orders
            strides = (strides[0], *strides[2:])
        if len(strides) != len(axes):
            strides = (0,) * len(axes)
        return {f"{name}_{axis}": stride for axis, stride in zip(axes, strides, strict=True)}

    def _entry(self, name: str) -> int:
        """How far the entries of the batch are apart."""
        return self.shapes[name][1][0] if name in self.shapes else 0

    def _values(self, order: int, tile: Tile, chunks: int, steps: int) -> dict[str, Any]:
        """What all kernels are told about one order."""
        names = (
            "u", "delta", "A", "B", "C", "D", "z", "delta_bias", "y", "partial", "kept", "last_state",
            "grad_y", "grad_u", "grad_delta", "grad_z", "grad_state", "partial_u", "partial_z",
        )  # fmt: skip
        tokens = ("u", "delta", "z", "y", "grad_y", "grad_u", "grad_delta", "grad_z")
        values: dict[str, Any] = {name: self._at(name, order) for name in names}
        for name in tokens:
            values |= self._strides(name, "bdl")
        return values | self._strides("B", "bgnl") | self._strides("C", "bgnl") | {
            "kept_b": self._entry("kept"), "last_b": self._entry("last_state"),
            "grad_state_b": self._entry("grad_state"),
            "walk": Where(f"walk{order}", 0), "scale": self.scale,
            "entries": self.batch, "channels": self.channels, "part": self.part,
            "per_B": self.per_B, "per_C": self.per_C, "blocks": self._blocks(tile), "chunks": chunks, "steps": steps,
            "length": self.length, "N": self.states,
            "CONSTANT_B": not self.groups["B"], "CONSTANT_C": not self.groups["C"], "SOFTPLUS": self.softplus,
            "FIRST": order == 0, "LAST": order == self.orders - 1, "SHARED": self.shared,
            "LOOPS": loop_count(self.walks[order]), "KEEP": KEEP,
            "NR": tile.NR, "CR": tile.CR, "NL": tile.NL, "CL": tile.CL, "STEPS": tile.STEPS,
        }  # fmt: skip

    def _given_state(self, name: str, order: int) -> dict[str, Any]:
        """What the first chunk begins with."""
        return {"given": self._at(name, order), "given_b": self._entry(name)}

    def _starts(self, kernel: Any, values: dict[str, Any], ends: Where, sums: Where, reverse: bool) -> Where | None:
        """What each chunk begins with, (B, chunks, N, D); None for a lone chunk, which begins with what is given."""
        chunks = values["chunks"]
        if chunks == 1:
            return None
        values = values | {"ends": ends, "sums": sums, "REVERSE": reverse, "WIDTH": CARRY_WIDTH, "AHEAD": CARRY_AHEAD}
        self.launches.append(Launch(kernel, self.batch * values["blocks"] * chunks, values))
        self.launches.append(Launch(carry, self.batch * -(-self.channels * self.states // CARRY_WIDTH), values))
        return ends

    def forward(self) -> Plan:
        """Of `scan_forward`."""
        tile = tile_for(FORWARD, self.states)
        chunks, steps = self._chunks(tile, PROGRAMS_PER_PROCESSOR)
        ends = self.scratch.take(self.batch, chunks if chunks > 1 else 0, self.states, self.channels)
        sums = self.scratch.take(self.batch, chunks if chunks > 1 else 0, self.channels)
        for order in range(self.orders):
            values = self._values(order, tile, chunks, steps) | self._given_state("initial_state", order)
            values["starts"] = self._starts(chunk_ends, values, ends, sums, reverse=False)
            self.launches.append(Launch(chunk_outputs, self.batch * values["blocks"] * chunks, values))
        return self._plan()

    def backward(self) -> Plan:
        """Of `scan_backward`."""
        tile, take = tile_for(BACKWARD, self.states), self.scratch.take
        blocks = self._blocks(tile)
        per_step = 4 * self.batch * blocks * self.states * sum(groups > 0 for groups in self.groups.values())
        windows = max(1, -(-per_step * self.length // WINDOW))
        chunks, steps = self._chunks(tile, PROGRAMS_BACK, windows)
        filled = chunks * self.batch * blocks // max(1, PROGRAMS_BACK * processors(self.device))
        across = -(-chunks // max(1, min(windows, filled)))
        row = self.channels * (2 + self.states * (1 + sum(not groups for groups in self.groups.values())))
        ends = take(self.batch, chunks if chunks > 1 else 0, self.states, self.channels)
        sums = take(self.batch, chunks if chunks > 1 else 0, self.channels)
        rows = take(self.batch * chunks, row)
        shares = {name: take(blocks, self.batch, across * steps, self.states) for name in "BC" if self.groups[name]}
        again = take(self.batch * blocks * across * (KEEP // tile.STEPS), tile.NR * tile.CR * tile.NL * tile.CL)
        parameters = self._row_places(rows)
        for order in range(self.orders):
            values = self._values(order, tile, chunks, steps) | self._given_state("given", order)
            values |= {f"grad_{name}": where for name, where in (parameters | shares).items()}
            values |= {"scratch": again, "row": row}
            values["starts"] = self._starts(chunk_gradients_ends, values, ends, sums, reverse=True)
            for first in range(0, chunks, across):
                count = min(across, chunks - first)
                values |= {"first_chunk": first, "across": count}
                self.launches.append(Launch(chunk_gradients, self.batch * blocks * count, values))
                for name, share in shares.items():
                    self._add_tokens(name, share, order, first * steps, count * steps, blocks, values)
            where = {name: self._at(f"grad_{name}", order) for name in ("A", "D", "bias")}
            where |= {name: None if self.groups[name] else self._at(f"grad_{name}", order) for name in "BC"}
            count = self.batch * chunks
            self.launches.append(add_rows_launch(rows, count, row, self.channels, self.states, **where))
        return self._plan()

    def _row_places(self, rows: Where) -> dict[str, Where]:
        """Where in a row of shares those of each parameter begin, as `add_rows` reads them."""
        wide = self.channels * self.states
        at = {"A": 0, "D": wide, "bias": wide + self.channels, "B": wide + 2 * self.channels}
        at["C"] = at["B"] + (0 if self.groups["B"] else wide)
        return {name: Where(rows.tensor, rows.offset + offset) for name, offset in at.items()}

    def _add_tokens(
        self, name: str, share: Where, order: int, first: int, steps: int, blocks: int, values: Mapping[str, Any]
    ) -> None:
        """Launch the sums of the gradient of B or C over a window."""
        strides = {k.replace(f"grad_{name}", "grad"): v for k, v in self._strides(f"grad_{name}", "bgnl").items()}
        width = triton.next_power_of_2(self.states)
        tall, groups = max(1, SUM_ELEMENTS // width), self.groups[name]
        values = {k: values[k] for k in ("walk", "entries", "length", "N", "LOOPS")} | strides
        values |= {"shares": share, "grad": self._at(f"grad_{name}", order), "groups": groups, "each": blocks // groups}
        values |= {"first": first, "steps": steps, "SHARE_STEPS": tall, "WIDTH": width, "AHEAD": SUM_AHEAD}
        self.launches.append(Launch(add_tokens, self.batch * groups * -(-steps // tall), values, SUM_WARPS))
