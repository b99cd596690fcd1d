"""Images per second of whole networks, beside the same networks on the published scan: run this file with Python.

The peer is the very same network, with the same weights, in which two functions are exchanged: every scan is
`published_scan`, the sequential loop that upstream falls back on without its CUDA packages (``selective_scan_ref``),
and every causal convolution gathers the tokens of each order and calls PyTorch's, as upstream's fallback does. All else
is ours in both, so a network of which little is scanned gains little. Nothing is reported unless the outputs, and the
gradients, agree.

``--full-segmamba`` instead runs one forward pass of SegMamba at its published size in a process of its own, and the
peer at a smaller size, where its output is compared with ours and from which its time is extrapolated.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F
from scan import Meter, describe
from torch import Tensor, nn

from medmamba import networks
from medmamba.kernels import dispatch
from medmamba.kernels._arguments import Scan
from medmamba.networks.segmamba import SegMamba
from medmamba.networks.vim import Vim
from medmamba.networks.vmamba import VMamba
from medmamba.plans.plan import Topology

#: Largest difference of the outputs over their largest value, and of gradients over the largest of their parameter.
#: Norms over the few voxels of the coarsest maps amplify the rounding of both; a scan that is 1 % wrong shows in
#: gradients as 5 % at least.
TOLERANCE, GRADIENT_TOLERANCE = 1e-3, 1e-2
#: Parameters whose gradient is smaller than this share of the network's largest are judged by that share: the bias
#: before a norm has no effect, and its gradient is rounding alone.
NEGLIGIBLE = 1e-2
#: Channels of image and logits, edge of the patch and parameters of SegMamba as published.
PUBLISHED = (4, 128, 67_416_196)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network and the batch that it gets."""

    name: str
    make: Callable[[], nn.Module]
    batch: int
    channels: int
    size: tuple[int, ...]


def published_scan(scan: Scan) -> tuple[Tensor, Tensor]:
    """The scan as upstream's reference writes it: all decays and inputs at once, then a loop over the tokens.

    Orders other than that of memory run on reordered copies, one after the other, and each is multiplied by the gate,
    as in the published networks. But for `unbind`, without which its backward pass is quadratic, it is
    ``selective_scan_ref``. It returns no state, which these networks do not read.
    """
    scan = scan.in_orders()
    total: Tensor | None = None
    for k, walk in enumerate(scan.walks):
        tokens = None if walk.is_sequence else walk.positions(scan.u.device)

        def along(t: Tensor, tokens: Tensor | None = tokens) -> Tensor:
            return (t if tokens is None else t[..., tokens]).float()

        u, delta = along(scan.u[:, k if scan.u.shape[1] > 1 else 0]), along(scan.delta[:, k])
        B, C = along(scan.B[:, k, 0]), along(scan.C[:, k, 0])
        delta = delta if scan.delta_bias is None else delta + scan.delta_bias[k][:, None]
        delta = F.softplus(delta) if scan.delta_softplus else delta
        decay = torch.exp(delta[..., None] * scan.A[k][:, None])
        drive = (delta * u)[..., None] * B.transpose(1, 2)[:, None]
        state, sums = torch.zeros_like(drive[:, :, 0]), []
        for keep, push, out in zip(decay.unbind(2), drive.unbind(2), C.unbind(2), strict=True):
            state = keep * state + push
            sums.append((state @ out[..., None])[..., 0])
        y = torch.stack(sums, dim=2)
        y = y if scan.D is None else y + scan.D[k][:, None] * u
        y = y if scan.z is None else y * F.silu(along(scan.z))
        y = y if tokens is None else y[..., tokens.argsort()]
        total = y if total is None else total + y
    assert total is not None
    return (total * scan.scale).to(scan.u.dtype), total.new_zeros(*scan.delta.shape[:2], 1, 1)


@contextmanager
def on_the_published_scan() -> Iterator[None]:
    """Within, networks run as the peer does; see the module."""
    with (
        patch.dict(dispatch._BACKENDS, {"reference": published_scan}),
        patch.dict(os.environ, {dispatch.ENVIRONMENT_VARIABLE: "reference"}),
    ):
        yield


def pyramid(size: Sequence[int], features: Sequence[int]) -> Topology:
    """Halved at each level."""
    dims, levels = len(size), len(features)
    return Topology(
        patch_size=tuple(size),
        strides=((1,) * dims, *((2,) * dims,) * (levels - 1)),
        kernel_sizes=((3,) * dims,) * levels,
        features=tuple(features),
    )


def cases(*, tiny: bool) -> list[Case]:
    """What is measured: published widths and depths, on images whose peers end within a minute; or next to nothing."""
    side, edge, widths = (32, 8, (4, 6, 8)) if tiny else (224, 32, (32, 64, 128, 256))
    trunk = (4, 6, 8) if tiny else (48, 96, 192, 384, 768)

    def segmentation(name: str, features: Sequence[int], label: str) -> Case:
        def make() -> nn.Module:
            network = networks.create(name, 1, 3, pyramid((edge,) * 3, features))
            network.decoder.deep_supervision = False  # type: ignore[union-attr]  # every segmentation network's
            return network

        return Case(name=label, make=make, batch=1, channels=1, size=(edge,) * 3)

    vim = {"width": 16, "depth": 2} if tiny else {}
    vmamba = {"widths": (8, 16), "depths": (1, 1)} if tiny else {}
    return [
        Case(name="Vim-Ti", make=lambda: Vim(size=(side, side), **vim), batch=1, channels=3, size=(side, side)),
        Case(name="VMamba-T s1l8", make=lambda: VMamba(**vmamba), batch=1, channels=3, size=(side, side)),
        segmentation("segmamba", trunk, "SegMamba"),
        segmentation("umamba_bot", widths, "U-Mamba Bot"),
        segmentation("umamba_enc", widths, "U-Mamba Enc"),
    ]


def passes(network: nn.Module, x: Tensor, backward: bool) -> Callable[[], list[Tensor]]:
    """The output, or the output and the gradients of all parameters that have one, as one call."""

    def forward() -> list[Tensor]:
        with torch.no_grad():
            return [network(x)]

    def both() -> list[Tensor]:
        network.zero_grad()
        y = network(x)
        y.square().mean().backward()
        return [y.detach(), *(p.grad for p in network.parameters() if p.grad is not None)]

    return both if backward else forward


def require_same(what: str, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> str:
    """How far outputs, and gradients if there are any, differ at most: see `TOLERANCE`.

    Raises:
        SystemExit: if rounding does not explain it.
    """

    def largest(tensor: Tensor) -> float:
        return float(tensor.abs().max())

    errors = [largest(ours[0] - theirs[0]) / largest(theirs[0])]
    gradients = list(zip(ours[1:], theirs[1:], strict=True))
    if gradients:
        least = NEGLIGIBLE * max(largest(b) for _, b in gradients)
        errors.append(max(largest(a - b) / max(largest(b), least) for a, b in gradients))
    for name, error, tolerance in zip(("outputs", "gradients"), errors, (TOLERANCE, GRADIENT_TOLERANCE), strict=False):
        if not error <= tolerance:
            raise SystemExit(f"{what}: {name} differ by {error:.1e} of the largest value: nothing to report")
    return " and ".join(f"{error:.0e}" for error in errors)


def compare(case: Case, backward: bool, device: torch.device, repeat: int) -> str:
    """One row of the table.

    Raises:
        SystemExit: if results differ by more than rounding explains.
    """
    torch.manual_seed(0)
    network = case.make().to(device)
    x = torch.randn(case.batch, case.channels, *case.size, device=device)
    meter, run = Meter(device), passes(network, x, backward)
    results = run()  # compiles
    seconds, grown = zip(*(meter(run)[1:] for _ in range(repeat)), strict=True)
    with on_the_published_scan():
        theirs, spent, theirs_grown = meter(run)
    which = "forward + backward" if backward else "forward"
    error = require_same(f"{case.name}, {which}", results, theirs)
    median = statistics.median(seconds)
    size = " x ".join(str(n) for n in (case.batch, case.channels, *case.size))
    weights = sum(parameter.numel() for parameter in network.parameters())
    return (
        f"| {case.name}, {weights / 1e6:.2f} M | {size} | {which} | {case.batch / median:.2f} "
        f"({case.batch / max(seconds):.2f} to {case.batch / min(seconds):.2f}) | {case.batch / spent:.3f} | "
        f"{spent / median:.1f} | {statistics.median(grown) / 2**20:.0f} MiB | {theirs_grown / 2**20:.0f} MiB | "
        f"{error} |"
    )


@dataclass(frozen=True)
class Pass:
    """One forward pass of SegMamba in a process of its own.

    Args:
        seconds: of it.
        peak_bytes: most that the process ever had in memory, interpreter and network included; on a GPU, of its memory.
        before_bytes: the same before the pass, after one at 32^3, which compiles.
    """

    seconds: float
    peak_bytes: int
    before_bytes: int


def segmamba_pass(edge: int, device: torch.device, *, tiny: bool, peer: bool) -> Pass:
    """Run one in this process, of the peer if asked for, which then is compared with ours.

    Raises:
        SystemExit: if the network is not of the published size, or the two differ.
    """
    channels, _, published = PUBLISHED
    features = (4, 6, 8, 10, 12) if tiny else (48, 96, 192, 384, 768)
    torch.manual_seed(0)
    network = SegMamba(channels, channels, pyramid((edge,) * 3, features), deep_supervision=False).to(device).eval()
    weights = sum(parameter.numel() for parameter in network.parameters())
    if not tiny and weights != published:
        raise SystemExit(f"SegMamba must have {published:,} parameters, but has {weights:,}: nothing to report")
    x = torch.randn(1, channels, *(edge,) * 3, device=device)
    run = passes(network, x, False)
    with on_the_published_scan() if peer else nullcontext():
        passes(network, x[..., :32, :32, :32], False)()
        before = most_memory(device)
        results, seconds, _ = Meter(device)(run)
    peak = most_memory(device)
    require_same(f"SegMamba at {edge}^3", results, run() if peer else results)
    return Pass(seconds, peak, before)


def most_memory(device: torch.device) -> int:
    """Most bytes that this process ever had, of a GPU's memory or as VmHWM; 0 where the system does not say."""
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else high_water_mark()


def high_water_mark() -> int:
    """VmHWM of this process in bytes."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


def in_a_process(edge: int, peer: bool, options: argparse.Namespace) -> Pass:
    """`segmamba_pass` where nothing else has used memory."""
    command = [sys.executable, __file__, "--one-pass", str(edge), "--device", options.device]
    command += ["--peer"] * peer + ["--tiny"] * options.tiny
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"the process for SegMamba at {edge}^3 failed:\n{done.stderr}")
    return Pass(**json.loads(done.stdout.splitlines()[-1]))


def full_segmamba(options: argparse.Namespace) -> Iterator[str]:
    """Rows of the table: ours at full size, both at a smaller one, and what follows for the peer."""
    full, small = (64, 32) if options.tiny else (PUBLISHED[1], options.peer_edge)
    times = (full / small) ** 3

    def row(what: str, edge: int, run: Pass) -> str:
        memory = f"{run.peak_bytes / 2**30:.2f} GiB ({run.before_bytes / 2**30:.2f} GiB before the pass)"
        return f"| {what} | {edge}^3 | {run.seconds:.2f} s | {memory} |"

    yield "| scan | image | one forward pass | most memory of the process |\n|---|---|---|---|"
    yield row("ours", full, in_a_process(full, False, options))
    yield row("ours", small, in_a_process(small, False, options))
    peer = in_a_process(small, True, options)
    yield row("published loop", small, peer)
    yield (
        f"| published loop, **extrapolated** by the number of tokens, x {times:.0f} | {full}^3 | "
        f"about {peer.seconds * times:.0f} s | - |"
    )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="", help="comma-separated beginnings of names; default: all")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--pass", dest="which", default="both", choices=("forward", "backward", "both"))
    parser.add_argument("--repeat", type=int, default=5, help="runs of ours; the peer runs once")
    parser.add_argument("--tiny", action="store_true", help="next to nothing, to see that it works")
    parser.add_argument("--full-segmamba", action="store_true", help="one pass of SegMamba at 1 x 4 x 128^3 instead")
    parser.add_argument("--peer-edge", type=int, default=32, help="voxels of the peer's cube for --full-segmamba")
    parser.add_argument("--one-pass", type=int, metavar="EDGE", help=argparse.SUPPRESS)  # what the child is asked for
    parser.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables.

    Raises:
        SystemExit: if results differ from the peer's, or no network has such a name.
    """
    options = parse(arguments)
    device = torch.device(options.device)
    if options.one_pass:
        print(json.dumps(asdict(segmamba_pass(options.one_pass, device, tiny=options.tiny, peer=options.peer))))
        return
    every = cases(tiny=options.tiny)
    wanted = [case for case in every if case.name.casefold().startswith(tuple(options.networks.casefold().split(",")))]
    if not wanted:
        raise SystemExit(f"no network begins with {options.networks!r}; there are {', '.join(c.name for c in every)}")
    print(f"{describe(device)}; float32{'; tiny sizes, which say nothing' if options.tiny else ''}")
    print("Peer: the same network on the published sequential scan (selective_scan_ref) in PyTorch\n", flush=True)
    if options.full_segmamba:
        for line in full_segmamba(options):
            print(line, flush=True)
        return
    columns = (
        *("network", "input", "pass", "ours, images/s (range)", "peer, images/s", "times faster"),
        *("ours, extra memory", "peer, extra memory", "difference"),
    )
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for case in wanted:
        directions = {"forward": (False,), "backward": (True,), "both": (False, True)}[options.which]
        # All of a network before the first is printed: gradients show what outputs may hide.
        rows = [compare(case, backward, device, options.repeat) for backward in directions]
        print("\n".join(rows), flush=True)


if __name__ == "__main__":
    main()
