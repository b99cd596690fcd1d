"""How a selective scan is laid out on a GPU: tiles, chunks, buffers, and the order of launches.

Letters: B batch, K orders, D channels, L length, N states, G groups.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any

import torch
import triton
from torch import Tensor

from ._arguments import Scan
from ._memory import dense_like
from ._triton_gradients import chunk_gradients, chunk_gradients_ends
from ._triton_kernels import carry, chunk_ends, chunk_outputs
from .orders import Walk

#: Steps between the states that the forward pass keeps for the backward pass.
KEEP = 64
#: Fewest steps worth a chunk of their own, a multiple of KEEP.
SHORTEST_CHUNK = 128
#: Fewer chunks than this are not worth the extra passes.
FEWEST_CHUNKS = 3
#: Programs, of one warp each, that keep a multiprocessor busy: as many as its registers hold.
PROGRAMS_PER_PROCESSOR = 16
#: States that a program of `carry` follows, and chunks that it fetches at once.
CARRY_WIDTH, CARRY_AHEAD = 32, 4
#: Longest scan whose steps are counted in 32 bits, with room for those past its end.
NARROW = 2**30
LOG2E = math.log2(math.e)


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
    16: Tile(16, 1, 1, 32, 2),
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
def programs_wanted(device: torch.device) -> int:
    """Programs that fill a device; one where Triton's interpreter runs them in turn."""
    if device.type != "cuda":
        return 1
    return PROGRAMS_PER_PROCESSOR * int(torch.cuda.get_device_properties(device).multi_processor_count)


@lru_cache(maxsize=256)
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


def strides_of(name: str, tensor: Tensor | None, axes: str) -> dict[str, int]:
    """Strides by the names that kernels give them; zeros for what is not there or has no such axes."""
    strides = (0,) * len(axes) if tensor is None or tensor.dim() != len(axes) else tensor.stride()
    return {f"{name}_{axis}": stride for axis, stride in zip(axes, strides, strict=True)}


def launch(kernel: Any, programs: int, values: dict[str, Any], warps: int = 1) -> None:
    """Run a kernel on those of the values that it takes."""
    taken = {name: values[name] for name in kernel.arg_names}
    kernel[(programs,)](**taken, num_warps=warps, num_stages=1, enable_fp_fusion=True)


def on_device(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Triton launches on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def _float32_like(tensor: Tensor) -> Tensor:
    """A buffer with the strides of a dense tensor: the tensor itself where it is float32."""
    return tensor if tensor.dtype == torch.float32 else dense_like(tensor, torch.float32)


def new_gradients(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Memory for the gradients of a scan's tensors, channels side by side where they are so in the argument."""
    return [None if t is None else dense_like(t) for t in tensors]


class Job:
    """One scan on one device.

    Args:
        scan: what to do; no argument may be float64.
    """

    def __init__(self, scan: Scan) -> None:
        self.scan = scan
        self.batch, self.orders, self.channels, self.length = scan.delta.shape
        self.states = scan.A.shape[-1]
        self.device = scan.u.device
        self.A = scan.A.to(torch.float32).mul(LOG2E).contiguous()
        self.B, self.C = (small(t) if t.dim() == 3 else t for t in (scan.B, scan.C))
        self.D, self.bias, self.state = (
            None if t is None else small(t) for t in (scan.D, scan.delta_bias, scan.initial_state)
        )
        self.per_B, self.per_C = (
            self.channels if t.dim() == 3 else self.channels // t.shape[2] for t in (scan.B, scan.C)
        )
        self.part = math.gcd(self.per_B, self.per_C)

    @property
    def _empty(self) -> bool:
        return 0 in (self.batch, self.channels, self.length)

    def _blocks(self, tile: Tile) -> int:
        return self.channels // self.part * -(-self.part // tile.channels) if self.part else 0

    def _cut(self, tile: Tile) -> tuple[int, int]:
        """Chunks and their steps: enough chunks to fill the device, or one."""
        side_by_side = self.batch * self._blocks(tile)
        chunks = min(-(-programs_wanted(self.device) // side_by_side), -(-self.length // SHORTEST_CHUNK))
        if chunks < FEWEST_CHUNKS:
            return 1, self.length
        steps = -(-self.length // (chunks * KEEP)) * KEEP
        return -(-self.length // steps), steps

    def _new(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=self.device)

    def _values(self, order: int, tile: Tile) -> dict[str, Any]:
        """What the kernels are told about one order."""
        scan, walk = self.scan, self.scan.walks[order]
        u, delta = scan.u[:, order if scan.u.shape[1] > 1 else 0], scan.delta[:, order]
        B, C = (t[order] if t.dim() == 3 else t[:, order] for t in (self.B, self.C))
        D, bias = (None if t is None else t[order] for t in (self.D, self.bias))
        chunks, steps = self._cut(tile)
        return {
            "u": u, "delta": delta, "A": self.A[order], "B": B, "C": C, "D": D, "z": scan.z, "delta_bias": bias,
            "scale": float(scan.scale),
            "walk": table(walk, self.device),
            **strides_of("u", u, "bdl"), **strides_of("delta", delta, "bdl"), **strides_of("z", scan.z, "bdl"),
            **strides_of("B", B, "bgnl"), **strides_of("C", C, "bgnl"),
            "entries": self.batch, "channels": self.channels, "part": self.part,
            "per_B": self.per_B, "per_C": self.per_C, "blocks": self._blocks(tile), "chunks": chunks, "steps": steps,
            "length": self.length, "N": self.states, "CONSTANT_B": B.dim() == 2, "CONSTANT_C": C.dim() == 2,
            "SOFTPLUS": scan.delta_softplus, "FIRST": order == 0, "LAST": order == self.orders - 1,
            "SHARED": scan.u.shape[1] == 1, "LOOPS": loop_count(walk), "KEEP": KEEP,
            "NR": tile.NR, "CR": tile.CR, "NL": tile.NL, "CL": tile.CL, "STEPS": tile.STEPS,
        }  # fmt: skip

    def _programs(self, values: dict[str, Any]) -> int:
        return self.batch * int(values["blocks"]) * int(values["chunks"])

    def _starts(self, kernel: Any, values: dict[str, Any], reverse: bool) -> Tensor | None:
        """What each chunk begins with, (B, chunks, N, D); None for a lone chunk, which begins with what is given."""
        chunks = values["chunks"]
        if chunks == 1:
            return None
        ends = self._new(self.batch, chunks, self.states, self.channels)
        values = values | {"ends": ends, "sums": self._new(self.batch, chunks, self.channels), "REVERSE": reverse}
        values |= {"WIDTH": CARRY_WIDTH, "AHEAD": CARRY_AHEAD}
        launch(kernel, self._programs(values), values)
        launch(carry, self.batch * -(-self.channels * self.states // CARRY_WIDTH), values)
        return ends

    def forward(self, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
        """y, the last states (B, K, D, N), and if wanted states for `backward`, (B, K, L / KEEP rounded up, N, D)."""
        y = dense_like(self.scan.u[:, 0])
        last = self._new(self.batch, self.orders, self.channels, self.states)
        pieces = -(-self.length // KEEP)
        kept = self._new(self.batch, self.orders, pieces, self.states, self.channels) if keep else self._new(0)
        if self._empty:
            return y, last.zero_() if self.state is None else last.copy_(self.state), kept
        partial = None if self.orders == 1 else _float32_like(y)
        tile = tile_for(FORWARD, self.states)
        with on_device(self.device):
            for order in range(self.orders):
                given = None if self.state is None else self.state[:, order]
                values = self._values(order, tile) | {
                    "given": given, "given_b": 0 if given is None else given.stride(0),
                    "partial": partial, "y": y, **strides_of("y", y, "bdl"),
                    "last_state": last[:, order], "last_b": last.stride(0),
                    "kept": kept[:, order] if keep else None, "kept_b": kept.stride(0),
                }  # fmt: skip
                values["starts"] = self._starts(chunk_ends, values, reverse=False)
                launch(chunk_outputs, self._programs(values), values)
        return y, last, kept

    def backward(self, grad_y: Tensor | None, grad_state: Tensor | None, kept: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the scan's nine tensors; None for those that are not there."""
        scan = self.scan
        u, delta, A, B, C, D, z, bias, state = new_gradients(scan.tensors)
        assert u is not None
        assert delta is not None
        if self._empty:
            for grad in (u, delta, A, B, C, D, z, bias, state):
                if grad is not None:
                    grad.zero_()
            if state is not None and grad_state is not None:
                state.copy_(grad_state)
            return u, delta, A, B, C, D, z, bias, state
        if grad_y is None:
            nothing = torch.zeros((), dtype=torch.float32, device=self.device)
            grad_y = nothing.expand(self.batch, self.channels, self.length)
        incoming = None if grad_state is None else small(grad_state)
        begun = None if state is None else self._new(*state.shape)
        tile = tile_for(BACKWARD, self.states)
        shared = scan.u.shape[1] == 1 and self.orders > 1
        partial_u = _float32_like(u[:, 0]) if shared else None
        partial_z = _float32_like(z) if z is not None and self.orders > 1 else None
        shares, scratch = self._shares(tile)
        with on_device(self.device):
            for order in range(self.orders):
                given, begin = (None if t is None else t[:, order] for t in (incoming, begun))
                grad_u = u[:, 0 if shared else order]
                values = self._values(order, tile) | {
                    "grad_y": grad_y, "kept": kept[:, order], "kept_b": kept.stride(0), "scratch": scratch,
                    "given": given, "given_b": 0 if given is None else given.stride(0),
                    "grad_state": begin, "grad_state_b": 0 if begin is None else begin.stride(0),
                    "partial_u": partial_u, "grad_u": grad_u, "partial_z": partial_z, "grad_z": z,
                    "grad_delta": delta[:, order], **{f"grad_{name}": share for name, share in shares.items()},
                    **strides_of("grad_y", grad_y, "bdl"), **strides_of("grad_u", grad_u, "bdl"),
                    **strides_of("grad_delta", delta[:, order], "bdl"), **strides_of("grad_z", z, "bdl"),
                }  # fmt: skip
                values["starts"] = self._starts(chunk_gradients_ends, values, reverse=True)
                launch(chunk_gradients, self._programs(values), values)
                for name, grad in (("A", A), ("B", B), ("C", C), ("D", D), ("bias", bias)):
                    if grad is not None:
                        _add_up(shares[name], grad, order)
        if state is not None and begun is not None:
            state.copy_(begun)
        return u, delta, A, B, C, D, z, bias, state

    def _shares(self, tile: Tile) -> tuple[dict[str, Tensor], Tensor]:
        """Where programs leave their shares of gradients that many have a part in, and states to find again."""
        chunks, _ = self._cut(tile)
        blocks = self._blocks(tile)
        each = (self.batch, chunks, self.channels)
        shares = {"A": self._new(*each, self.states), "D": self._new(*each), "bias": self._new(*each)}
        for name, tensor in (("B", self.B), ("C", self.C)):
            per_token = (blocks, self.batch, self.length, self.states)
            shares[name] = self._new(*each, self.states) if tensor.dim() == 3 else self._new(*per_token)
        slots = self.batch * blocks * chunks * (KEEP // tile.STEPS)
        return shares, self._new(slots, tile.NR, tile.CR, tile.NL, tile.CL)


def _add_up(shares: Tensor, grad: Tensor, order: int) -> None:
    """Sum the shares of an order's gradient, always in the same sequence."""
    if grad.dim() == 5:  # (B, K, G, N, L) from (blocks, B, L, N), the blocks of a group side by side
        each = shares.view(grad.shape[2], -1, *shares.shape[1:])
        grad[:, order].copy_(each.sum(1).permute(1, 0, 3, 2))
    else:
        grad[order].copy_(shares.sum((0, 1)))
