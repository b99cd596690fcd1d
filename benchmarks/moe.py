"""MoE-Mamba against Mamba of as many active parameters: ``python benchmarks/moe.py --steps 1500``.

As in the paper, half of the blocks of a Mamba are replaced by switch layers of which a token meets one expert. Both
train for as many steps on the same bytes of the standard library, with the same settings, and are judged on the same
files held out. The time that each takes is reported, too.

References:
    Pióro et al., "MoE-Mamba", 2024, section 4.
"""

from __future__ import annotations

import argparse
import time

import torch
from byte_training import Training, held_out_bits_per_byte, machine, size, standard_library, train

from medmamba.networks.language import MambaLM
from medmamba.networks.moe import MoEMamba, active_parameters


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1500, help="of each network")
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--pairs", type=int, default=3, help="of a Mamba block and a switch layer")
    parser.add_argument("--experts", type=int, default=16)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=512, help="bytes of a training text")
    parser.add_argument("--rate", type=float, default=2e-3, help="largest learning rate")
    parser.add_argument("--held-out", type=int, default=200_000, help="bytes to judge on at most")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    corpus = standard_library(options.held_out)
    print(f"{machine()}\n{corpus.describe()}\n{options.steps} steps of {options.batch} x {options.length} bytes\n")
    training = Training(options.batch, options.length, options.rate, steps=options.steps, seed=options.seed)
    rows = []
    for name in ("Mamba", "MoE-Mamba"):
        torch.manual_seed(options.seed)
        network: MambaLM
        if name == "Mamba":
            network = MambaLM(256, options.width, 2 * options.pairs, norm="layer", tied=False, final_norm=False)
        else:
            network = MoEMamba(256, options.width, options.pairs, options.experts, 3 * options.width)
        print(f"{name}: {size(network):,} parameters, {active_parameters(network):,} active", flush=True)
        begin = time.perf_counter()
        train(network, corpus.train, training, lambda line: print(line, flush=True))
        seconds = (time.perf_counter() - begin) / options.steps
        bits = held_out_bits_per_byte(network, corpus)
        rows.append(
            f"| {name} | {size(network):,} | {active_parameters(network):,} | {bits:.3f} | {1000 * seconds:.0f} ms |"
        )
    print("\n| | parameters | active | bits per byte held out | one step |\n|---|---|---|---|---|")
    print("\n".join(rows))
    print(f"| gzip -9 | | | {corpus.gzip_bits_per_byte():.3f} | |")


if __name__ == "__main__":
    main()
