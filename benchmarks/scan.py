"""Time and memory of the scan, shape by shape, beside its peers: ``python benchmarks/scan.py``.

Peers run in the same process on the same tensors: the plain PyTorch loop; the parallel scan of mamba.py, if `mambapy`
is installed; and on a GPU the CUDA kernel of `mamba_ssm`, if that is. A row is refused unless the results agree.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import importlib.util
import math
import os
import platform
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from machine import processor_line
from torch import Tensor

from medmamba.kernels import FORWARD, ScanOrder, backends, bidirectional, cross, interleaved, multi_scan

#: Steps beyond which slow peers are measured on a part of the sequence, unless asked for the whole.
PEER_STEPS = 8192
#: Largest difference from a peer, over its largest value, that rounding explains. The CUDA kernel of mamba_ssm adds up
#: the gradients of a long sequence in float32 and in no fixed order.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 5e-3}
GRADIENT_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 1e-2}


#: What is timed, by whether there is a pass back.
PASSES = {False: "forward", True: "forward + backward"}


class DifferenceError(ValueError):
    """Results that rounding does not explain."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One case.

    Args:
        name: how it is asked for.
        batch: entries.
        channels: inner width.
        states: N.
        grid: tokens along the axes.
        orders: scan orders.
        shared: whether all orders read the same input.
    """

    name: str
    batch: int
    channels: int
    states: int
    grid: tuple[int, ...]
    orders: tuple[ScanOrder, ...] = (FORWARD,)
    shared: bool = False

    @property
    def length(self) -> int:
        """Tokens."""
        return math.prod(self.grid)

    def beginning(self, steps: int) -> tuple[int, ...]:
        """A grid of about so many tokens, or the whole: shorter along its last axis."""
        *planes, rows = self.grid
        return (*planes, max(min(rows, steps // math.prod(planes)), 1))

    @property
    def updates(self) -> int:
        """State updates of one forward pass."""
        return self.batch * len(self.orders) * self.channels * self.states * self.length


def shapes() -> Iterator[Shape]:
    """What networks ask for."""
    for patch in (128, 96):
        for stage in range(4):
            side = patch >> (stage + 1)
            yield Shape(f"segmamba{stage}-{patch}", 1, 96 << stage, 16, (side,) * 3)
            yield Shape(f"segmamba{stage}-{patch}-3", 1, 96 << stage, 16, (side,) * 3, interleaved(side))
    for stage, width in enumerate((32, 64, 128, 256, 320)):
        yield Shape(f"umamba{stage}", 1, 2 * width, 16, (128 >> stage,) * 3)
    yield Shape("umamba5-channels", 1, 128, 16, (320,))
    yield Shape("vim-s", 8, 768, 16, (197,), bidirectional())
    for stage in range(4):
        yield Shape(f"vmamba{stage}", 8, 96 << stage, 1, (56 >> stage,) * 2, cross(2), shared=True)
    for stage, width in enumerate((64, 128, 320, 512)):
        yield Shape(f"vivim{stage}", 1, 2 * width, 16, (5, 64 >> stage, 64 >> stage), interleaved(5))
    yield Shape("million", 1, 16, 16, (2**20,))


def chosen(names: str) -> list[Shape]:
    """The shapes of comma-separated names; what is no name is the beginning of some."""
    every = {shape.name: shape for shape in shapes()}
    exact = [name for name in names.split(",") if name in every]
    beginnings = tuple(name for name in names.split(",") if name not in every)
    return [shape for name, shape in every.items() if name in exact or name.startswith(beginnings)]


class Given(NamedTuple):
    """Arguments of a scan: of `multi_scan`, or without the axis of orders those of a peer, which knows sequences."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    z: Tensor
    delta_bias: Tensor


#: A scan: the tokens it makes.
Scanned = Callable[[Given], Tensor]


def draw(shape: Shape, length: int, device: torch.device, kind: torch.dtype) -> Given:
    """Arguments of all orders, channels of a token side by side as in the networks."""
    g = torch.Generator().manual_seed(0)
    count, channels = len(shape.orders), shape.channels

    def tokens(*lead: int) -> Tensor:
        *lead_, rows = lead
        return torch.randn(*lead_, length, rows, generator=g).to(device, kind).mT

    def parameters(*size: int) -> Tensor:
        return torch.randn(*size, generator=g).to(device)

    decays = torch.arange(1, shape.states + 1, dtype=torch.float32, device=device)
    return Given(
        u=tokens(shape.batch, channels) if shape.shared else tokens(shape.batch, count, channels),
        delta=tokens(shape.batch, count, channels) * 0.5,
        A=-decays.repeat(count, channels, 1),
        B=tokens(shape.batch, count, shape.states),
        C=tokens(shape.batch, count, shape.states),
        D=parameters(count, channels),
        z=tokens(shape.batch, channels),
        delta_bias=parameters(count, channels) - 3.0,
    )


def laid_out(tokens: Tensor, order: ScanOrder, grid: Sequence[int]) -> Tensor:
    """A copy whose last axis is in an order, made as the published networks make it: permuted, in pieces, flipped."""
    if order.axes:
        lead = tokens.dim() - 1
        tokens = (
            tokens.unflatten(-1, tuple(grid)).permute(*range(lead), *(lead + axis for axis in order.axes)).flatten(lead)
        )
    if order.pieces > 1:
        tokens = tokens.unflatten(-1, (order.pieces, -1)).mT.flatten(-2)
    return tokens.flip(-1) if order.reverse else tokens


def put_back(tokens: Tensor, order: ScanOrder, grid: Sequence[int]) -> Tensor:
    """What `laid_out` did, undone."""
    if order.reverse:
        tokens = tokens.flip(-1)
    if order.pieces > 1:
        tokens = tokens.unflatten(-1, (-1, order.pieces)).mT.flatten(-2)
    if order.axes:
        lead = tokens.dim() - 1
        back = sorted(range(len(grid)), key=lambda axis: order.axes[axis])
        tokens = tokens.unflatten(-1, [grid[axis] for axis in order.axes])
        tokens = tokens.permute(*range(lead), *(lead + axis for axis in back)).flatten(lead)
    return tokens


def each_order(one: Scanned, orders: Sequence[ScanOrder], grid: Sequence[int]) -> Scanned:
    """A peer that knows sequences only, in several orders: on reordered copies, as the published networks do it."""

    def run(given: Given) -> Tensor:
        u, delta, A, B, C, D, z, bias = given
        total: Tensor | None = None
        for k, order in enumerate(orders):
            along = (u if u.dim() == 3 else u[:, k], delta[:, k], B[:, k], C[:, k], z)
            x, step, into, out, gate = (laid_out(t, order, grid) for t in along)
            y = put_back(one(Given(x, step, A[k], into, out, D[k], gate, bias[k])), order, grid)
            total = y if total is None else total + y
        assert total is not None
        return total

    return run


def each_step(tokens: Tensor) -> Iterator[Tensor]:
    """Slices along axis 2. PyTorch's engine goes through all outputs of an operator for each: so none has many."""
    return (step for part in tokens.split(512, dim=2) for step in part.unbind(2))


def loop(given: Given) -> Tensor:
    """The scan as the published reference writes it, but for `each_step`, or its backward pass would be quadratic."""
    u, delta, A, B, C, D, z, bias = given
    delta = F.softplus(delta + bias[:, None])
    decay = torch.exp(delta[..., None] * A[:, None])
    drive = (delta * u)[..., None] * B.transpose(1, 2)[:, None]
    state, sums = torch.zeros_like(drive[:, :, 0]), []
    for keep, push, out in zip(each_step(decay), each_step(drive), each_step(C), strict=True):
        state = keep * state + push
        sums.append((state @ out[..., None])[..., 0])
    return (torch.stack(sums, dim=2) + D[:, None] * u) * F.silu(z)


def parallel(given: Given) -> Tensor:
    """The parallel scan of mamba.py, around which everything is as in the loop; it wants (B, L, D, N)."""
    pscan = importlib.import_module("mambapy.pscan").pscan  # late: optional
    u, delta, A, B, C, D, z, bias = given
    delta = F.softplus(delta + bias[:, None]).mT
    drive = (delta * u.mT)[..., None] * B.mT[:, :, None]
    held = pscan(torch.exp(delta[..., None] * A), drive)
    y: Tensor = ((held @ C.mT[..., None])[..., 0] + D * u.mT).mT * F.silu(z)
    return y


def cuda_kernel(given: Given) -> Tensor:
    """mamba_ssm's kernel."""
    scan = importlib.import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn  # late: optional
    whole = Given(*(t.contiguous() for t in given))
    y: Tensor = scan(*whole, delta_softplus=True)
    return y


@dataclass(frozen=True, slots=True)
class Peer:
    """What we are compared with.

    Args:
        name: as the table calls it.
        run: the scan of a sequence.
        quick: whether it runs on whole sequences and as often as ours; else once, on the beginning of long ones.
    """

    name: str
    run: Scanned
    quick: bool = False


def peers(device: torch.device) -> list[Peer]:
    """Those that can run here."""
    kernels = [Peer("mamba_ssm", cuda_kernel, quick=True)] if device.type == "cuda" else []
    known = [Peer("mambapy", parallel), *kernels]
    return [Peer("loop", loop), *(peer for peer in known if importlib.util.find_spec(peer.name))]


class Meter:
    """Seconds and extra memory of calls on a device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __call__(self, run: Callable[[], list[Tensor]]) -> tuple[list[Tensor], float, int]:
        """Results, seconds, and bytes that memory grew by at its peak beyond those of the results."""
        results, seconds, grown = self._on_gpu(run) if self.device.type == "cuda" else self._on_cpu(run)
        return results, seconds, max(0, grown - sum(tensor.nbytes for tensor in results))

    def _on_gpu(self, run: Callable[[], list[Tensor]]) -> tuple[list[Tensor], float, int]:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        results = run()
        end.record()
        torch.cuda.synchronize()
        return results, start.elapsed_time(end) / 1e3, torch.cuda.max_memory_allocated() - before

    def _on_cpu(self, run: Callable[[], list[Tensor]]) -> tuple[list[Tensor], float, int]:
        if sys.platform.startswith("linux"):
            ctypes.CDLL(None).malloc_trim(0)  # what an earlier call freed would be used again unseen
        before, peak, done = resident(), [0], threading.Event()

        def watch() -> None:
            while not done.wait(0.002):
                peak[0] = max(peak[0], resident())

        watcher = threading.Thread(target=watch)
        watcher.start()
        start = time.perf_counter()
        results = run()
        seconds = time.perf_counter() - start
        done.set()
        watcher.join()
        return results, seconds, max(peak[0], resident()) - before


def resident() -> int:
    """Bytes of this process that are in memory; 0 where the system does not say."""
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if status.exists() else 0


@dataclass(frozen=True, slots=True)
class Limit:
    """What the device could do at best.

    Args:
        exponentials: per second.
        bandwidth: bytes per second.
        source: how the two were obtained.
    """

    exponentials: float
    bandwidth: float
    source: str

    def seconds(self, shape: Shape, backward: bool, size: int) -> float:
        """Time for the exponentials and the bytes that one pass, or one there and back, cannot do without.

        The pass back has to make the decays again. Each tensor is read or written once, B and C included.
        """
        count, per_order = len(shape.orders), shape.batch * shape.channels * shape.length
        exponentials = shape.updates + 2 * (count + 1) * per_order  # decays, and softplus and the gate at two each
        inputs = per_order * (count + (1 if shape.shared else count) + 1)
        inputs += 2 * shape.batch * count * shape.states * shape.length
        moved = inputs + per_order
        if backward:
            exponentials *= 2
            moved += inputs + per_order + inputs
        return max(exponentials / self.exponentials, moved * size / self.bandwidth)


def measure_limit(device: torch.device) -> Limit:
    """Of a GPU from its data sheet, of a CPU measured here and now."""
    if device.type == "cuda":
        facts = torch.cuda.get_device_properties(device)
        clock = getattr(facts, "clock_rate", 1.7e6) * 1e3
        bandwidth = 2 * getattr(facts, "memory_clock_rate", 2.6e6) * 1e3 * getattr(facts, "memory_bus_width", 5120) / 8
        return Limit(
            facts.multi_processor_count * 16 * clock, bandwidth, "16 exponentials per clock and multiprocessor"
        )
    big = torch.ones(2**26)
    copy = torch.empty_like(big)
    small = torch.rand(4096)
    moved = min(_seconds(lambda: copy.copy_(big)) for _ in range(5))
    if "cpu" in backends("cpu"):
        from exponentials import exponentials_per_second  # late: brings Numba

        rate = exponentials_per_second()
        source = "a copy of 256 MiB, and the kernels' own exp2 on what fits a core's first cache, on all threads"
    else:
        rate = 4096 / min(_seconds(lambda: torch.exp2_(small)) for _ in range(100))
        source = "a copy of 256 MiB, and torch.exp2"
    return Limit(rate, 2 * big.nbytes / moved, source)


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def passes(run: Scanned, given: Given, backward: bool) -> Callable[[], list[Tensor]]:
    """Y alone, or y and all gradients, as one call."""
    upstream = torch.ones_like(given.z)

    def forward() -> list[Tensor]:
        with torch.no_grad():
            return [run(given)]

    def both() -> list[Tensor]:
        leaves = Given(*(t.detach().requires_grad_() for t in given))
        y = run(leaves)
        y.backward(upstream)
        return [y.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]

    return both if backward else forward


def require_same(what: str, ours: Sequence[Tensor], theirs: Sequence[Tensor], kind: torch.dtype) -> None:
    """Compare y, and gradients if there are any.

    Raises:
        DifferenceError: if rounding does not explain the largest difference over the largest value.
    """
    for i, (own, other) in enumerate(zip(ours, theirs, strict=True)):
        error = float((own.float() - other.float()).abs().max() / other.float().abs().max())
        if not error <= (GRADIENT_TOLERANCE if i else TOLERANCE)[kind]:
            which = f"gradient {i}" if i else "y"
            raise DifferenceError(f"{what}: {which} differs by {error:.1e} of its largest value: nothing to report")


def ours(orders: Sequence[ScanOrder], grid: Sequence[int]) -> Scanned:
    """Our scan, like a peer."""
    return lambda given: multi_scan(*given, True, orders=orders, grid=grid)[0]


def row(*cells: str) -> str:
    """A row of a table."""
    return f"| {' | '.join(cells)} |"


def header(*names: str) -> str:
    """The head of one."""
    return f"{row(*names)}\n|{'---|' * len(names)}"


def medians(rows: Iterable[Sequence[float]]) -> list[float]:
    """Of each column."""
    return [statistics.median(column) for column in zip(*rows, strict=True)]


def compare(
    shape: Shape, backward: bool, meter: Meter, limit: Limit, options: argparse.Namespace, kind: torch.dtype
) -> str:
    """One row of the table.

    Raises:
        DifferenceError: if a peer's results are others.
    """
    given = draw(shape, shape.length, meter.device, kind)
    run = passes(ours(shape.orders, shape.grid), given, backward)
    results = run()  # compiles
    # Each run's results go before the next one begins, as they do in a network: memory that a machine has never touched
    # before may cost more than the scan.
    timings = [meter(run)[1:] for _ in range(options.repeat)]
    seconds, grown = medians(timings)
    ratios = []
    for peer in peers(meter.device):
        if options.peers is not None and peer.name not in options.peers:
            continue
        grid = shape.grid if options.full or peer.quick else shape.beginning(PEER_STEPS)
        scale = shape.length / math.prod(grid)
        short = given if scale == 1 else draw(shape, math.prod(grid), meter.device, kind)
        own = results if scale == 1 else passes(ours(shape.orders, grid), short, backward)()
        theirs = passes(each_order(peer.run, shape.orders, grid), short, backward)
        result, *measured = meter(theirs)
        require_same(f"{shape.name} beside {peer.name}", own, result, kind)
        del result, own
        spent, size = medians(meter(theirs)[1:] for _ in range(options.repeat)) if peer.quick else measured
        mark, size = "~" if scale > 1 else "", size * scale
        # Where ours needs next to nothing more, a ratio would say nothing.
        memory = f"memory {mark}{size / grown:.1f}" if grown > 2**20 else f"extra {mark}{size / 2**20:.0f} MiB"
        ratios.append(f"{peer.name} {mark}{spent * scale / seconds:.2f} ({memory})")
    best = limit.seconds(shape, backward, given.u.element_size())
    times = [t for t, _ in timings]
    spread = f"{min(times) * 1e3:.2f} to {max(times) * 1e3:.2f}"
    return row(
        shape.name, PASSES[backward], f"{seconds * 1e3:.2f} ms ({spread})", f"{grown / 2**20:.0f} MiB",
        f"{shape.updates / seconds / 1e9:.2f}", f"{100 * best / seconds:.0f} %", ", ".join(ratios) or "-",
    )  # fmt: skip


def compare_orders(shape: Shape, meter: Meter, repeat: int, kind: torch.dtype, backward: bool) -> str:
    """All orders in one call: its time against one plain scan for each, its memory against a scan in one of them."""
    given = draw(shape, shape.length, meter.device, kind)
    together = passes(ours(shape.orders, shape.grid), given, backward)

    def single(k: int, order: ScanOrder) -> Callable[[], list[Tensor]]:
        u, delta, A, B, C, D, z, bias = given
        u, (delta, B, C) = u if shape.shared else u[:, k : k + 1], (t[:, k : k + 1] for t in (delta, B, C))
        A, D, bias = (t[k : k + 1] for t in (A, D, bias))
        return passes(ours((order,), shape.grid), Given(u, delta, A, B, C, D, z, bias), backward)

    plain = [single(k, FORWARD) for k in range(len(shape.orders))]
    alone = [single(k, order) for k, order in enumerate(shape.orders)]
    for run in (together, plain[0], *alone):
        run()
    measured = []
    for _ in range(repeat):
        one_by_one = sum(meter(run)[1] for run in plain)
        seconds, grown = meter(together)[1:]
        measured.append((seconds, one_by_one, grown, max(meter(run)[2] for run in alone)))
    a, b, m, n = medians(measured)
    return row(
        shape.name, f"{PASSES[backward]}: {len(shape.orders)} orders in one call", f"{a * 1e3:.1f} ms",
        f"{b * 1e3:.1f} ms", f"{a / b:.2f}", f"{m / 2**20:.0f} MiB", f"{n / 2**20:.0f} MiB",
    )  # fmt: skip


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", default="", help="comma-separated names, or beginnings of names; default: all")
    parser.add_argument("--list", action="store_true", help="print the names of the shapes and stop")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--pass", dest="which", default="both", choices=("forward", "backward", "both"))
    parser.add_argument("--peers", nargs="*", choices=("loop", "mambapy", "mamba_ssm"), help="only these; default: all")
    parser.add_argument("--repeat", type=int, default=5, help="runs, after one to compile; slow peers run once")
    parser.add_argument(
        "--full", action="store_true", help=f"run slow peers on whole sequences, not on {PEER_STEPS} steps"
    )
    return parser.parse_args(arguments)


def describe(device: torch.device) -> str:
    """Machine and versions."""
    if device.type == "cuda":
        machine = torch.cuda.get_device_name(device)
    else:
        model = processor_line("model name") or platform.machine()
        machine = f"{model}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    return f"{machine}; Python {platform.python_version()}, PyTorch {torch.__version__}; {time.strftime('%Y-%m-%d')}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables.

    Raises:
        SystemExit: at the end, if results differed from a peer's; or if no shape has such a name.
    """
    options = parse(arguments)
    wanted = chosen(options.shapes)
    if options.list or not wanted:
        print(
            "\n".join(
                f"{s.name}: B={s.batch} K={len(s.orders)} D={s.channels} N={s.states} L={s.length}" for s in shapes()
            )
        )
        raise SystemExit(0 if options.list else f"no shape begins with {options.shapes!r}; those above do exist")
    device, kind = torch.device(options.device), getattr(torch, options.dtype)
    meter, limit = Meter(device), measure_limit(device)
    print(f"{describe(device)}; {options.dtype}, with z, D, bias and softplus")
    print(f"Limit: {limit.exponentials / 1e9:.1f}e9 exponentials/s, {limit.bandwidth / 1e9:.1f} GB/s ({limit.source})")
    print(f"Peers: time over ours, extra memory over ours; ~ measured on {PEER_STEPS} steps and scaled")
    print("Extra memory: what results, gradients included, do not account for\n")
    print(header("shape", "pass", "ours: median (range)", "extra memory", "1e9 updates/s", "of the limit",
                 "times faster than"))  # fmt: skip
    directions = {"forward": (False,), "backward": (True,), "both": (False, True)}[options.which]
    refused: list[str] = []
    for shape in wanted:
        for backward in directions:
            try:
                print(compare(shape, backward, meter, limit, options, kind), flush=True)
            except DifferenceError as difference:
                refused.append(str(difference))
                print(row(shape.name, PASSES[backward], "refused", *[""] * 4), flush=True)
    several = [s for s in wanted if len(s.orders) > 1]
    if several:
        print("\n" + header("shape", "pass", "together", "one by one", "ratio", "extra memory", "of one"))
    for shape in several:
        for backward in directions:
            print(compare_orders(shape, meter, options.repeat, kind, backward), flush=True)
    if refused:
        raise SystemExit("\n".join(refused))


if __name__ == "__main__":
    main()
