"""What the benchmarks of byte models share: the sources of Python's standard library, and training on them.

The library comes with every Python, so the same version has the same bytes. Tests are left out, and encodings, most of
which are the same file with other tables: what is held out would have been seen. Every twentieth file is held out, in
random order, the same each time.
"""

from __future__ import annotations

import gzip
import math
import platform
import random
import sysconfig
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from machine import machine, processor_line
from torch import Tensor, nn

from medmamba.networks.experts import BALANCE_WEIGHT
from medmamba.networks.language import MambaLM, bits_per_byte
from medmamba.networks.language.mambabyte import encode

HOLD_OUT_EVERY = 20


@dataclass(frozen=True)
class Corpus:
    """Bytes to learn from, all files in one row, and files that are held out."""

    train: Tensor
    held_out: list[bytes]

    def describe(self) -> str:
        """Sizes, and how far gzip compresses what is held out."""
        size = sum(map(len, self.held_out))
        return (
            f"Python {platform.python_version()} standard library: {len(self.train):,} bytes to learn from, "
            f"{size:,} bytes in {len(self.held_out)} files held out"
        )

    def gzip_bits_per_byte(self) -> float:
        """Of the files held out in one stream, so that each can refer to those before it."""
        whole = b"".join(self.held_out)
        return 8 * len(gzip.compress(whole, compresslevel=9)) / len(whole)


def standard_library(held_out_bytes: int) -> Corpus:
    """Sources beside the running Python; of the files held out the first so many bytes."""
    root = Path(sysconfig.get_path("stdlib"))
    skip = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "encodings"}
    files = sorted(p for p in root.rglob("*.py") if not skip & set(p.relative_to(root).parts) and p.stat().st_size)
    random.Random(0).shuffle(files)
    train, held_out, left = [], [], held_out_bytes
    for index, path in enumerate(files):
        raw = path.read_bytes()
        if index % HOLD_OUT_EVERY:
            train.append(raw)
        elif left > 0:
            held_out.append(raw[:left])
            left -= len(held_out[-1])
    return Corpus(encode(b"\n".join(train))[0].to(torch.uint8), held_out)


@dataclass(frozen=True)
class Training:
    """How long and how: AdamW, warm-up over a fiftieth, cosine to a tenth of the rate."""

    batch: int
    length: int
    rate: float
    seconds: float = math.inf
    steps: int | None = None
    seed: int = 0


def train(network: MambaLM, data: Tensor, training: Training, report: Callable[[str], None]) -> int:
    """Train on random pieces; the same seed gives the same pieces. Returns the number of steps."""
    kept = [p for p in network.parameters() if p.dim() < 2 or hasattr(p, "_no_weight_decay")]
    decayed = [p for p in network.parameters() if not any(p is other for other in kept)]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": kept, "weight_decay": 0.0}], betas=(0.9, 0.95)
    )
    generator = torch.Generator().manual_seed(training.seed)
    offsets = torch.arange(training.length + 1)
    start, step, said = time.perf_counter(), 0, 0.0
    while True:
        seconds = time.perf_counter() - start
        done = seconds / training.seconds if training.steps is None else step / training.steps
        if done >= 1:
            return step
        for group in optimiser.param_groups:
            group["lr"] = training.rate * min(done / 0.02 + 0.01, 0.55 + 0.45 * math.cos(math.pi * done))
        starts = torch.randint(len(data) - training.length, (training.batch, 1), generator=generator)
        ids = data[starts + offsets].long()
        with mixed_precision():
            logits, balance = network.balanced(ids[:, :-1])
        loss = surprise = F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())
        if balance.numel():
            loss = surprise + BALANCE_WEIGHT * balance.mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        step += 1
        if seconds - said > 20:
            said = seconds
            even = f", balance {balance.mean().item():.2f}" if balance.numel() else ""
            bits = surprise.item() / math.log(2)
            report(f"{seconds:6.0f} s, step {step}: {bits:.3f} bits per byte of this batch{even}")


def held_out_bits_per_byte(network: MambaLM, corpus: Corpus) -> float:
    """Each file from its beginning, its first byte at 8 bits."""
    nats = 0.0
    for raw in corpus.held_out:
        nats += network.nats(encode(raw)).item() + math.log(256)
    return bits_per_byte(nats, sum(map(len, corpus.held_out)))


def mixed_precision() -> torch.autocast:
    """bfloat16 where the processor multiplies in it."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=multiplies_bfloat16())


def multiplies_bfloat16() -> bool:
    flags = processor_line("flags").split()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def setting() -> str:
    """Machine, threads and arithmetic."""
    kind = "bfloat16 autocast" if multiplies_bfloat16() else "float32"
    return f"{machine()}, {torch.get_num_threads()} threads, training in {kind}"


def size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
