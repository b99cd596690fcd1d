"""A small MambaByte learns Python, against gzip: ``python benchmarks/mambabyte.py --minutes 30``.

Trains on the bytes of the standard library, prints bits per byte on files held out beside those of ``gzip -9``, checks
that greedy text written from the state is the text of full recomputation, and measures what one more byte costs after a
short and a long text.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from byte_training import Training, held_out_bits_per_byte, machine, size, standard_library, train

from medmamba.networks.language import PIECE
from medmamba.networks.mambabyte import MambaByte, decode, encode
from medmamba.networks.sampling import Sampling


@torch.no_grad()
def check_greedy(network: MambaByte, prompt: bytes, count: int) -> bytes:
    """The bytes written; refuses to go on if they are not those of full recomputation."""
    ids = encode(prompt)
    for _ in range(count):
        ids = torch.cat([ids, network(ids)[:, -1:].argmax(-1)], dim=1)
    expected, written = decode(ids)[len(prompt) :], network.write(prompt, count)
    if written != expected:
        raise SystemExit(f"greedy text differs from full recomputation:\n{written!r}\n{expected!r}")
    return written


@torch.no_grad()
def step_cost(network: MambaByte, text: bytes, steps: int = 100) -> tuple[float, int]:
    """Median milliseconds of one more byte after a text, and bytes of the state."""
    state = None
    for piece in encode(text).split(PIECE, dim=1):
        logits, state = network.prefill(piece, state)
    times = []
    for _ in range(steps):
        begin = time.perf_counter()
        logits, state = network.prefill(logits[:, -1:].argmax(-1), state)
        times.append(1000 * (time.perf_counter() - begin))
    assert state is not None
    held = sum(part.numel() * part.element_size() for block in state.blocks for part in (block.conv, block.ssm))
    return statistics.median(times), held


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30, help="of training")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=1024, help="bytes of a training text")
    parser.add_argument("--rate", type=float, default=3e-3, help="largest learning rate")
    parser.add_argument("--held-out", type=int, default=400_000, help="bytes to judge on at most")
    parser.add_argument("--contexts", type=int, nargs="+", default=[1024, 65_536], help="bytes before the measured one")
    options = parser.parse_args()
    torch.manual_seed(0)
    corpus = standard_library(options.held_out)
    network = MambaByte(options.width, options.depth)
    print(
        f"{machine()}\n{corpus.describe()}\nMambaByte {options.width} x {options.depth}, {size(network):,} parameters"
    )
    training = Training(options.batch, options.length, options.rate, seconds=60 * options.minutes)
    steps = train(network, corpus.train, training, lambda line: print(line, flush=True))
    print(f"{steps} steps, {steps * options.batch * options.length:,} bytes\n")

    ours = held_out_bits_per_byte(network, corpus)
    print("| | bits per byte held out |\n|---|---|")
    print(f"| MambaByte | {ours:.3f} |\n| gzip -9 | {corpus.gzip_bits_per_byte():.3f} |\n", flush=True)
    prompt = b"def read(self, path):\n"
    written = check_greedy(network, prompt, 128)
    print("Greedy text from the state is that of full recomputation:\n")
    print((prompt + written).decode(errors="replace"))
    drawn = network.write(prompt, 300, sampling=Sampling(top_p=0.9), generator=torch.Generator().manual_seed(0))
    print(f"\nDrawn with top_p=0.9:\n\n{(prompt + drawn).decode(errors='replace')}\n")

    print("| bytes of context | one more byte | state |\n|---|---|---|")
    text = decode(corpus.train[: max(options.contexts)])
    for context in options.contexts:
        cost, held = step_cost(network, text[:context])
        print(f"| {context:,} | {cost:.2f} ms | {held / 1024:.0f} KiB |", flush=True)


if __name__ == "__main__":
    main()
