"""Time and memory of the CPU scan beside a plain PyTorch loop, in one process: ``python benchmarks/cpu_scan.py``.

The peer is the loop as the published Mamba reference writes it: the decays and inputs of all steps (B, D, L, N) first,
then one step after the other. One thing is better than published: steps are taken with ``unbind``, because the gradient
of an index into a long tensor is as long as the tensor, which makes the backward pass quadratic. Nothing is reported
unless the results agree.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numba
import torch
import torch.nn.functional as F  # noqa: N812  (the name everybody knows)
from torch import Tensor

from medmamba.kernels import selective_scan

PAGE = os.sysconf("SC_PAGE_SIZE")


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def measure(run: Callable[[], Tensor]) -> tuple[Tensor, float, int]:
    """Result, seconds, and by how many bytes the process grew at its peak."""
    ctypes.CDLL(None).malloc_trim(0)  # what an earlier measurement freed would be used again unseen
    before, peak, done = resident(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    result = run()
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    return result, seconds, max(peak[0], resident()) - before


def arguments(channels: int, states: int, length: int) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g)

    return {
        "u": draw(1, channels, length),
        "delta": draw(1, channels, length) * 0.5,
        "A": -torch.arange(1, states + 1, dtype=torch.float32).repeat(channels, 1),
        "B": draw(1, states, length),
        "C": draw(1, states, length),
        "D": draw(channels),
        "z": draw(1, channels, length),
        "delta_bias": draw(channels) - 3.0,
    }


def loop(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, delta_bias: Tensor) -> Tensor:
    """The peer."""
    delta = F.softplus(delta + delta_bias[:, None])
    decay = torch.exp(delta[..., None] * A[:, None])
    drive = (delta * u)[..., None] * B.transpose(1, 2)[:, None]
    state = torch.zeros_like(drive[:, :, 0])
    sums = []
    for keep, push, out in zip(decay.unbind(2), drive.unbind(2), C.unbind(2), strict=True):
        state = keep * state + push
        sums.append((state @ out[..., None])[..., 0])
    return (torch.stack(sums, dim=2) + D[:, None] * u) * F.silu(z)


def require_same(what: str, ours: Tensor, peer: Tensor) -> float:
    """Largest difference over the largest value; SystemExit if that is not rounding."""
    error = float((ours - peer).abs().max() / peer.abs().max())
    if not error < 1e-5:
        raise SystemExit(f"{what} differs from the peer's by {error:.1e} of its largest value: nothing to report")
    return error


def compare_forward(channels: int, states: int, length: int) -> list[str]:
    args = arguments(channels, states, length)

    def ours() -> Tensor:
        y = selective_scan(**args, delta_softplus=True, backend="cpu")
        assert isinstance(y, Tensor)
        return y

    with torch.no_grad():
        selective_scan(**arguments(channels, states, 256), delta_softplus=True, backend="cpu")  # compiles
        y, first, grown = measure(ours)
        times = [first, *(measure(ours)[1] for _ in range(4))]
        seconds = statistics.median(times)
        expected, peer_seconds, peer_grown = measure(lambda: loop(**args))
    error = require_same("y", y, expected)
    rate = channels * states * length / seconds / 1e9
    return [
        f"| forward, D={channels}, N={states}, L={length} | {seconds:.3f} s ({min(times):.3f} to {max(times):.3f}), "
        f"{rate:.2f}e9 updates/s | {peer_seconds:.1f} s | {peer_seconds / seconds:.0f} | {grown / 2**20:.0f} MiB | "
        f"{peer_grown / 2**20:.0f} MiB | {peer_grown / max(grown, 1):.0f} | {error:.0e} |"
    ]


def gradients(run: Callable[..., Tensor], args: dict[str, Tensor], upstream: Tensor) -> tuple[list[Tensor], float, int]:
    leaves = {k: v.clone().requires_grad_() for k, v in args.items()}
    y = run(**leaves)
    _, seconds, grown = measure(lambda: (y.backward(upstream), y)[1])
    return [leaf.grad for leaf in leaves.values() if leaf.grad is not None], seconds, grown


def compare_backward(channels: int, states: int, length: int) -> list[str]:
    args = arguments(channels, states, length)
    upstream = torch.randn(1, channels, length, generator=torch.Generator().manual_seed(1))

    def ours(**leaves: Tensor) -> Tensor:
        y = selective_scan(**leaves, delta_softplus=True, backend="cpu")
        assert isinstance(y, Tensor)
        return y

    gradients(ours, arguments(channels, states, 256), upstream[..., :256])  # compiles
    runs = [gradients(ours, args, upstream) for _ in range(5)]
    expected, peer_seconds, peer_grown = gradients(loop, args, upstream)
    error = max(require_same(f"grad {k}", a, b) for k, a, b in zip(args, runs[0][0], expected, strict=True))
    seconds, grown = statistics.median(r[1] for r in runs), runs[0][2]
    rate = channels * states * length / seconds / 1e9
    return [
        f"| backward, D={channels}, N={states}, L={length} | {seconds:.3f} s ({min(r[1] for r in runs):.3f} to "
        f"{max(r[1] for r in runs):.3f}), {rate:.2f}e9 updates/s | "
        f"{peer_seconds:.1f} s | {peer_seconds / seconds:.0f} | {grown / 2**20:.0f} MiB | "
        f"{peer_grown / 2**20:.0f} MiB | {peer_grown / max(grown, 1):.0f} | {error:.0e} |"
    ]


def compare_parallel(channels: int, states: int, length: int) -> list[str]:
    """Beside the parallel scan of mambapy, which wants everything expanded to (B, L, D, N)."""
    if importlib.util.find_spec("mambapy") is None:
        return ["| mambapy is not installed |" + " |" * 7]
    from mambapy.pscan import pscan  # late: optional

    args = arguments(channels, states, length)

    def parallel() -> Tensor:
        delta = F.softplus(args["delta"] + args["delta_bias"][:, None]).transpose(1, 2)
        decay = torch.exp(delta[..., None] * args["A"])
        drive = (delta * args["u"].transpose(1, 2))[..., None] * args["B"].transpose(1, 2)[:, :, None]
        held = pscan(decay, drive)
        y = (held @ args["C"].transpose(1, 2)[..., None])[..., 0] + args["D"] * args["u"].transpose(1, 2)
        result: Tensor = y.transpose(1, 2) * F.silu(args["z"])
        return result

    def ours() -> Tensor:
        y = selective_scan(**args, delta_softplus=True, backend="cpu")
        assert isinstance(y, Tensor)
        return y

    with torch.no_grad():
        ours()
        y, seconds, grown = measure(ours)
        expected, peer_seconds, peer_grown = measure(parallel)
    error = require_same("y", y, expected)
    return [
        f"| forward beside mambapy's parallel scan, D={channels}, N={states}, L={length} | {seconds:.3f} s | "
        f"{peer_seconds:.1f} s | {peer_seconds / seconds:.0f} | {grown / 2**20:.0f} MiB | "
        f"{peer_grown / 2**20:.0f} MiB | {peer_grown / max(grown, 1):.0f} | {error:.0e} |"
    ]


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--channels", type=int, default=96)
    parser.add_argument("--states", type=int, default=16)
    parser.add_argument("--length", type=int, default=262_144, help="forward")
    parser.add_argument("--backward-length", type=int, default=16_384)
    parser.add_argument("--parallel-length", type=int, default=16_384, help="beside mambapy")
    options = parser.parse_args()
    print(
        f"{processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, Python {platform.python_version()},"
    )
    print(f"PyTorch {torch.__version__}, Numba {numba.__version__}; float32, one sequence, z, D, bias and softplus.\n")
    print("| what | ours | peer | times faster | ours grows by | peer grows by | times less | largest difference |")
    print("|---|---|---|---|---|---|---|---|")
    for compare, length in (
        (compare_forward, options.length),
        (compare_backward, options.backward_length),
        (compare_parallel, options.parallel_length),
    ):
        print("\n".join(compare(options.channels, options.states, length)), flush=True)


if __name__ == "__main__":
    main()
