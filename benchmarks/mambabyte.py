"""A small MambaByte learns Python, against gzip: ``python benchmarks/mambabyte.py --minutes 20``.

Trains on the bytes of the standard library, prints bits per byte on files held out beside those of ``gzip -9`` of the
same bytes, checks that greedy text written from the state is the text of full recomputation, and measures what one more
byte costs after a short and a long text.

The comparison with gzip is of how well the held-out bytes are predicted, not of two programs: gzip has not seen the
other files, sees the held-out ones as one stream, and decompresses without eleven million bytes of weights.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from dataclasses import dataclass, field

import torch
from byte_training import Training, held_out_bits_per_byte, setting, size, standard_library, train
from torch import Tensor

from medmamba.networks.language import PIECE, TextState
from medmamba.networks.language.mambabyte import MambaByte, decode, encode
from medmamba.networks.language.sampling import Sampling

#: Logits that lie closer together than this are equal up to rounding, and either byte is the most likely one.
TIE = 1e-3


@torch.no_grad()
def check_greedy(network: MambaByte, prompt: bytes, count: int) -> bytes:
    """The bytes written; refuses to go on if one is not the most likely after all bytes before it, read anew."""
    written = network.write(prompt, count)
    for end, byte in enumerate(written):
        logits = network(encode(prompt + written[:end]))[0, -1]
        if logits.max() - logits[byte] > TIE:
            raise SystemExit(
                f"greedy text differs from full recomputation: byte {end} is {byte} instead of {int(logits.argmax())}, "
                f"after {(prompt + written[:end])!r}"
            )
    return written


@dataclass
class Reading:
    """A text that was read, and what one more byte after it takes."""

    length: int
    seconds: float
    logits: Tensor
    state: TextState
    times_ms: list[float] = field(default_factory=list)

    def kibibytes(self) -> float:
        """Size of the state."""
        parts = [part for block in self.state.blocks for part in (block.conv, block.ssm)]
        return sum(part.numel() * part.element_size() for part in parts) / 1024


@torch.no_grad()
def step_costs(network: MambaByte, text: bytes, lengths: list[int], steps: int = 200) -> list[Reading]:
    """Read the first so many bytes of a text, then add bytes one by one."""
    readings = []
    for length in lengths:
        state, begin = None, time.perf_counter()
        for piece in encode(text[:length]).split(PIECE, dim=1):
            logits, state = network.prefill(piece, state)
        assert state is not None
        readings.append(Reading(length, time.perf_counter() - begin, logits[:, -1:], state))
    # In turns, so that whatever else the machine does slows them alike.
    for _ in range(steps):
        for reading in readings:
            begin = time.perf_counter()
            reading.logits, reading.state = network.prefill(reading.logits.argmax(-1), reading.state)
            reading.times_ms.append(1000 * (time.perf_counter() - begin))
    return readings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20, help="of training")
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
        f"{setting()}\n{corpus.describe()}\nMambaByte {options.width} x {options.depth}, {size(network):,} parameters"
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

    print("| bytes of context | reading them | one more byte | state |\n|---|---|---|---|")
    text = decode(corpus.train[: max(options.contexts)])
    for reading in step_costs(network, text, options.contexts):
        cost = statistics.median(reading.times_ms)
        print(f"| {reading.length:,} | {reading.seconds:.1f} s | {cost:.2f} ms | {reading.kibibytes():.0f} KiB |")
    print(f"\nAt most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB of memory, training included.")


if __name__ == "__main__":
    main()
