"""MoE-Mamba against Mamba of as many active parameters: ``python benchmarks/moe.py --minutes 15``.

As in the paper, half of the blocks of a Mamba are replaced by switch layers of which a token meets one expert. Both are
made by the same rules (the authors': embedding, head and norms), have as many active parameters, read the same bytes of
the standard library in the same order for as many steps, and are judged on the same files held out. Time per step is
reported, too: experts that rest take no arithmetic but memory, and choosing takes time.

The authors gave each network its own learning rate. Give several and each network is trained with each: compare the
best of both. Experts have the paper's limit of capacity in training, and none when they are judged, where there is no
batch to share.

References:
    Pióro et al., "MoE-Mamba", 2024, section 4.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import torch
from byte_training import Corpus, Training, held_out_bits_per_byte, setting, size, standard_library, train

from medmamba.networks.experts import draw
from medmamba.networks.language import MambaLM
from medmamba.networks.language.moe import MoEMamba, active_parameters

#: Steps that the time per step is measured over, before the training that counts; the first ones compile.
TRIAL_STEPS = 6


class Dense(MambaLM):
    """The authors' baseline: a MoE-Mamba with a Mamba block in place of every switch layer."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__(256, width, depth, norm="layer", tied=False, final_norm=False)

    def _initialise(self) -> None:
        """As `MoEMamba`."""
        draw(self.embedding.weight, 1)
        assert self.head is not None
        draw(self.head.weight, self.head.in_features)


def matched_hidden(width: int, experts: int) -> int:
    """Width of an expert with which a switch layer has as many active parameters as a Mamba block."""
    (block,) = Dense(width, 1).stack.blocks()
    return round((size(block) - width * experts) / (2 * width))


def networks(options: argparse.Namespace) -> dict[str, MambaLM]:
    """Both networks, from the same seed."""
    hidden = matched_hidden(options.width, options.experts)
    torch.manual_seed(options.seed)
    dense = Dense(options.width, 2 * options.pairs)
    torch.manual_seed(options.seed)
    return {"Mamba": dense, "MoE-Mamba": MoEMamba(256, options.width, options.pairs, options.experts, hidden)}


def affordable_steps(options: argparse.Namespace, corpus: Corpus, training: Training) -> int:
    """Steps of each training with which all of them together take so long, measured."""
    seconds = 0.0
    for network in networks(options).values():
        train(network, corpus.train, replace(training, steps=2), lambda line: None)
        begin = time.perf_counter()
        train(network, corpus.train, replace(training, steps=TRIAL_STEPS), lambda line: None)
        seconds += (time.perf_counter() - begin) / TRIAL_STEPS
    return max(1, int(60 * options.minutes / (seconds * len(options.rates))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, default=15, help="of all trainings together; decides the steps")
    length.add_argument("--steps", type=int, help="of each training, instead; can be repeated")
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--pairs", type=int, default=3, help="of a Mamba block and a switch layer")
    parser.add_argument("--experts", type=int, default=16)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=512, help="bytes of a training text")
    parser.add_argument("--rates", type=float, nargs="+", default=[2e-3], help="largest learning rates to try")
    parser.add_argument("--held-out", type=int, default=200_000, help="bytes to judge on at most")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    corpus = standard_library(options.held_out)
    training = Training(options.batch, options.length, options.rates[0], steps=options.steps, seed=options.seed)
    training = replace(training, steps=options.steps or affordable_steps(options, corpus, training))
    print(f"{setting()}\n{corpus.describe()}\n{training.steps} steps of {options.batch} x {options.length} bytes\n")
    rows = []
    for rate in options.rates:
        for name, network in networks(options).items():
            print(f"{name}, learning rate {rate:g}", flush=True)
            begin = time.perf_counter()
            steps = train(network, corpus.train, replace(training, rate=rate), lambda line: print(line, flush=True))
            seconds = (time.perf_counter() - begin) / steps
            bits = held_out_bits_per_byte(network, corpus)
            cells = (name, f"{size(network):,}", f"{active_parameters(network):,}", f"{rate:g}", f"{bits:.3f}")
            rows.append(f"| {' | '.join(cells)} | {1000 * seconds:.0f} ms |")
            print(rows[-1], flush=True)
    print("\n| | parameters | active | rate | bits per byte held out | one step |\n|---|---|---|---|---|---|")
    print("\n".join(rows))
    print(f"| gzip -9 | | | | {corpus.gzip_bits_per_byte():.3f} | |")


if __name__ == "__main__":
    main()
