"""Seconds a clip of Vivim, beside the same network on the published scan in PyTorch: run this file with Python.

The peer is that of ``networks.py``, with the same weights: every scan is the sequential loop that upstream falls back
on without its CUDA packages, and every causal convolution gathers the tokens of each order. All else is ours in both.
Nothing is reported unless the outputs, and the gradients, agree.

``--stream FRAMES`` instead lets a causal Vivim take a stream of so many frames, one by one, and tells the time of a
frame and the memory of the process as it goes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from machine import machine
from networks import on_the_published_scan, passes, require_same
from scan import PASSES, Meter, header, medians, resident, row

from medmamba.networks.vivim import Vivim
from medmamba.plans.plan import Topology

#: Channels of the stages, transformer blocks in each and channels of the decoder, by the names of SegFormer's sizes.
SIZES = {
    "tiny": ((8, 16), (1, 1), 16),
    "B0": ((32, 64, 160, 256), (2, 2, 2, 2), 256),
    "B3": ((64, 128, 320, 512), (3, 4, 18, 3), 768),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network and its clip.

    Args:
        size: one of `SIZES`.
        frames: of a clip.
        edge: rows and columns.
        causal: whether no frame sees a later one.
        mixer: "tri" or "none".
    """

    size: str
    frames: int = 5
    edge: int = 256
    causal: bool = False
    mixer: str = "tri"

    @property
    def name(self) -> str:
        """As the table has it."""
        return f"Vivim-{self.size}{', causal' * self.causal}{', without Mamba' * (self.mixer == 'none')}"

    def make(self) -> Vivim:
        """The network, with the same weights each time."""
        features, depths, width = SIZES[self.size]
        stages = len(features)
        topology = Topology(
            patch_size=(self.edge,) * 2,
            strides=((4, 4), *((2, 2),) * (stages - 1)),
            kernel_sizes=((7, 7), *((3, 3),) * (stages - 1)),
            features=features,
        )
        torch.manual_seed(0)
        options = {"depths": depths, "decoder_width": width, "causal": self.causal, "mixer": self.mixer}
        return Vivim(3, 1, topology, **options, drop_path=0.0, dropout=0.0)

    def clip(self, device: torch.device) -> torch.Tensor:
        """Noise, (1, T, 3, H, W)."""
        return torch.randn(1, self.frames, 3, self.edge, self.edge, device=device)


def cases(*, tiny: bool) -> list[Case]:
    """What is measured: the published network on the published clip, a small one also on longer ones."""
    if tiny:
        return [Case(size="tiny", frames=3, edge=16), Case(size="tiny", frames=3, edge=16, causal=True)]
    return [
        Case(size="B0"),
        Case(size="B0", causal=True),
        Case(size="B0", frames=32, edge=128),
        Case(size="B3"),
        Case(size="B0", mixer="none"),
        Case(size="B3", mixer="none"),
    ]


def compare(case: Case, backward: bool, device: torch.device, repeat: int) -> str:
    """One row of the table; networks without Mamba have no peer.

    Raises:
        SystemExit: if results differ by more than rounding explains.
    """
    network = case.make().to(device)
    meter, run = Meter(device), passes(network, case.clip(device), backward)
    results = run()  # compiles
    timings = [meter(run)[1:] for _ in range(repeat)]
    seconds, grown = medians(timings)
    times = [spent for spent, _ in timings]
    beside = ["-"] * 4
    if case.mixer != "none":
        with on_the_published_scan():
            theirs, spent, theirs_grown = meter(run)
        error = require_same(f"{case.name}, {PASSES[backward]}", results, theirs)
        beside = [f"{spent:.2f} s", f"{spent / seconds:.1f}", f"{theirs_grown / 2**20:.0f} MiB", error]
    return row(
        f"{case.name}, {sum(parameter.numel() for parameter in network.parameters()) / 1e6:.2f} M",
        f"{case.frames} x {case.edge} x {case.edge}", PASSES[backward],
        f"{seconds:.3f} s ({min(times):.3f} to {max(times):.3f})", *beside[:2], f"{grown / 2**20:.0f} MiB", *beside[2:],
    )  # fmt: skip


def stream(case: Case, frames: int, device: torch.device, *, parts: int = 10) -> Iterator[str]:
    """Rows of the table: the time of a frame and the memory in each part of a stream."""
    network = case.make().to(device).eval()
    state = network.start()
    with torch.no_grad():
        for part in range(parts):
            spent = []
            for _ in range(frames // parts):
                frame = torch.randn(1, 3, case.edge, case.edge, device=device)
                start = time.perf_counter()
                logits, state = network.step(frame, state)
                logits.cpu()  # waits for the device
                spent.append(time.perf_counter() - start)
            held = torch.cuda.max_memory_allocated() if device.type == "cuda" else resident()
            yield row(
                f"{part * (frames // parts) + 1} to {state.frames}", f"{statistics.median(spent) * 1e3:.1f} ms",
                f"{max(spent) * 1e3:.1f} ms", f"{held / 2**20:.0f} MiB",
            )  # fmt: skip


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--sizes", nargs="*", choices=tuple(SIZES), help="only these; default: all")
    parser.add_argument("--pass", dest="which", default="both", choices=("forward", "backward", "both"))
    parser.add_argument("--repeat", type=int, default=3, help="runs of ours; the peer runs once")
    parser.add_argument("--tiny", action="store_true", help="next to nothing, to see that it works")
    parser.add_argument("--stream", type=int, metavar="FRAMES", help="frames of a stream, instead of clips")
    parser.add_argument("--edge", type=int, default=128, help="rows and columns of the stream's frames")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table.

    Raises:
        SystemExit: if results differ from the peer's.
    """
    options = parse(arguments)
    device = torch.device(options.device)
    where = f"{torch.cuda.get_device_name(device)}; " if device.type == "cuda" else ""
    print(f"{where}{machine()}; {torch.get_num_threads()} threads of PyTorch; float32")
    if options.stream:
        case = Case(size="tiny" if options.tiny else (options.sizes or ["B0"])[0], edge=options.edge, causal=True)
        print(f"{case.name}, a stream of frames of {case.edge} x {case.edge}, one by one\n")
        print(header("frames", "median of a frame", "longest", "memory of the process"), flush=True)
        for line in stream(case, options.stream, device):
            print(line, flush=True)
        return
    print("Peer: the same network on the published sequential scan (selective_scan_ref) in PyTorch\n")
    print(header("network", "clip", "pass", "ours, a clip: median (range)", "peer", "times faster",
                 "ours, extra memory", "peer, extra memory", "difference"), flush=True)  # fmt: skip
    directions = {"forward": (False,), "backward": (True,), "both": (False, True)}[options.which]
    for case in cases(tiny=options.tiny):
        if options.sizes is None or case.size in options.sizes:
            # All of a network before the first is printed: gradients show what outputs may hide.
            rows = [compare(case, backward, device, options.repeat) for backward in directions]
            print("\n".join(rows), flush=True)


if __name__ == "__main__":
    main()
