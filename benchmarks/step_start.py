"""Does it matter how the step sizes of a Mamba network begin?

    python benchmarks/step_start.py

Mamba draws the bias of its step size so that softplus(bias) lies between 0.001 and 0.1: at the start of training a
token is remembered for ten to a thousand tokens. The code of Vim, Vivim and SegMamba initialises linear layers anew
afterwards and so loses that for some or all of their scans, whose steps begin at softplus(0) = 0.69: a memory of one or
two tokens. Option ``step_start`` of these networks chooses; where the start makes a difference here, its default is not
what the authors' code does.

Here each of them learns a task on invented pictures that can only be solved across a distance, from both starts and
several seeds:

- vim: a bar stands in the first row of patches and one in the last; say of each whether it is upright. The class token
  in the middle sees the first bar with the forward scan, which begins as in Mamba from both starts, and the last one
  with the backward scan, which does not.
- vivim: two discs drift and one of them is marked in the first frame; paint it in all frames.
- segmamba: a disc and a square lie in the upper half of a picture, and a mark in its last rows says which of the two is
  to be painted.

Trainings are short: what a bad start costs is time, and more steps may make up for it. Scores are of new pictures.
Same seed, same pictures, same order; the same command prints the same table on the same machine, but for the times. On
real data the same is asked with ``medmamba train PLAN --set network.options.step_start=zero``.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from machine import machine
from torch import Tensor, nn

from medmamba import networks
from medmamba.networks.vim import Vim
from medmamba.plans.plan import Topology

#: Frames of a clip, and pixels of a side of every picture.
FRAMES, SIDE = 8, 32
#: Pixels of a side of a patch of Vim.
PATCH = 4
NOISE = 0.3
EVALUATION_BATCHES = 8
#: Seeds of pictures to judge on; those to learn from count up from 0.
EVALUATION_SEED = 1_000_000

Pictures = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class Task:
    """What a network learns.

    Args:
        published: how its step sizes begin in the authors' code.
        build: makes the network, from a start.
        draw: makes so many pictures and their targets, from a generator.
        scores: names and values of two scores, from logits and targets.
        rate: largest learning rate.
        batch: pictures, or clips, of a step.
    """

    published: str
    build: Callable[[str], nn.Module]
    draw: Callable[[int, torch.Generator], Pictures]
    scores: Callable[[Tensor, Tensor], dict[str, float]]
    rate: float
    batch: int


def integers(low: int, high: int, count: int, generator: torch.Generator) -> list[int]:
    return torch.randint(low, high, (count,), generator=generator).tolist()


def noise(*shape: int, generator: torch.Generator) -> Tensor:
    return NOISE * torch.randn(*shape, generator=generator)


def discs(rows: Tensor, columns: Tensor, radius: float) -> Tensor:
    """Masks (..., SIDE, SIDE) of discs around centres (...)."""
    axis = torch.arange(SIDE, dtype=torch.float32)
    return (axis[:, None] - rows[..., None, None]) ** 2 + (axis - columns[..., None, None]) ** 2 <= radius**2


def draw_bars(count: int, generator: torch.Generator) -> Pictures:
    """(B, 1, SIDE, SIDE), and whether the bars of the first and of the last row are upright (B, 2)."""
    images = noise(count, 1, SIDE, SIDE, generator=generator)
    upright = torch.randint(2, (count, 2), generator=generator)
    lines = torch.zeros(PATCH, SIDE)
    lines[1:3] = 1
    kinds = torch.stack(
        [lines, torch.zeros(PATCH, SIDE // PATCH, PATCH).index_fill(2, torch.tensor([1, 2]), 1).flatten(1)]
    )
    images[:, 0, :PATCH] += kinds[upright[:, 0]]
    images[:, 0, -PATCH:] += kinds[upright[:, 1]]
    return images, upright.float()


def draw_clips(count: int, generator: torch.Generator) -> Pictures:
    """(B, FRAMES, 1, SIDE, SIDE), and the disc that is marked in the first frame, likewise."""
    # One disc in the left and one in the right half, in random order, so that they do not meet.
    start = torch.rand(count, 2, 2, generator=generator) * torch.tensor([SIDE - 16.0, 2.0]) + torch.tensor([8.0, 7.0])
    start[:, 1, 1] += SIDE / 2
    drift = torch.rand(count, 2, 2, generator=generator) - 0.5
    path = start[:, None] + drift[:, None] * torch.arange(FRAMES)[:, None, None]
    both = discs(path[..., 0], path[..., 1], 5).float()
    marked = torch.randint(2, (count,), generator=generator)
    chosen = both[torch.arange(count), :, marked]
    frames = noise(count, FRAMES, SIDE, SIDE, generator=generator) + both.amax(2)
    frames[:, 0] += 1.5 * chosen[:, 0]
    return frames[:, :, None], chosen[:, :, None]


def draw_shapes(count: int, generator: torch.Generator) -> Pictures:
    """(B, 1, SIDE, SIDE), and the shape that the mark asks for, likewise."""
    centres = 6 + 5 * torch.rand(count, 2, 2, generator=generator)
    places = torch.randint(2, (count,), generator=generator)  # which shape lies on the left
    centres[torch.arange(count), places, 1] += SIDE / 2 - 2
    axis = torch.arange(SIDE)
    disc = discs(centres[:, 0, 0], centres[:, 0, 1], 4)
    square = ((axis[:, None] - centres[:, 1, 0, None, None]).abs() <= 3.5) & (
        (axis - centres[:, 1, 1, None, None]).abs() <= 3.5
    )
    asked = torch.randint(2, (count,), generator=generator)
    images = noise(count, 1, SIDE, SIDE, generator=generator) + (disc | square).float()[:, None]
    images[:, 0, -4:] += (2 * asked - 1)[:, None, None]
    return images, torch.where(asked[:, None, None] == 1, disc, square).float()[:, None]


def bar_scores(logits: Tensor, target: Tensor) -> dict[str, float]:
    right = ((logits > 0) == (target > 0)).float().mean(0)
    return {"accuracy, first bar": right[0].item(), "accuracy, last bar": right[1].item()}


def dice(logits: Tensor, target: Tensor) -> float:
    found = logits > 0
    return (2 * (found * target).sum() / (found.sum() + target.sum())).item()


def clip_scores(logits: Tensor, target: Tensor) -> dict[str, float]:
    late = FRAMES // 2
    return {
        "Dice, first frame": dice(logits[:, 0], target[:, 0]),
        f"Dice, last {FRAMES - late} frames": dice(logits[:, late:], target[:, late:]),
    }


def shape_scores(logits: Tensor, target: Tensor) -> dict[str, float]:
    found = (logits > 0).flatten(1).float()
    overlap = (found * target.flatten(1)).sum(1) > 0.5 * target.flatten(1).sum(1)
    return {"shape found": overlap.float().mean().item(), "Dice": dice(logits, target)}


def make_vim(start: str) -> nn.Module:
    return Vim(1, 2, (SIDE, SIDE), width=32, depth=3, patch=PATCH, step_start=start)  # type: ignore[arg-type]


def make_vivim(start: str) -> nn.Module:
    topology = Topology(
        patch_size=(SIDE, SIDE), strides=((4, 4), (2, 2)), kernel_sizes=((7, 7), (3, 3)), features=(16, 32)
    )
    options = {"depths": (1, 1), "heads": (1, 1), "decoder_width": 32, "mamba_layers": 1, "drop_path": 0.0}
    return networks.create("vivim", 1, 1, topology, **options, dropout=0.0, step_start=start)


def make_segmamba(start: str) -> nn.Module:
    topology = Topology(
        patch_size=(SIDE, SIDE), strides=((2, 2), (2, 2)), kernel_sizes=((3, 3), (3, 3)), features=(16, 32)
    )
    network = networks.create("segmamba", 1, 1, topology, step_start=start, depths=(2,))
    network.get_submodule("decoder").deep_supervision = False  # type: ignore[assignment]  # a plain attribute
    return network


TASKS = {
    "vim": Task("zero", make_vim, draw_bars, bar_scores, rate=4e-3, batch=32),
    "vivim": Task("zero", make_vivim, draw_clips, clip_scores, rate=5e-3, batch=8),
    "segmamba": Task("linear", make_segmamba, draw_shapes, shape_scores, rate=5e-3, batch=8),
}


def train(task: Task, start: str, seed: int, steps: int) -> nn.Module:
    """A trained network; the seed decides weights and pictures."""
    torch.manual_seed(seed)
    network = task.build(start)
    optimiser = torch.optim.AdamW(network.parameters(), lr=task.rate, weight_decay=0.01)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = task.rate * min((step + 1) / (0.05 * steps), 0.5 + 0.5 * math.cos(math.pi * step / steps))
        pictures, target = task.draw(task.batch, torch.Generator().manual_seed(seed * steps + step))
        loss = F.binary_cross_entropy_with_logits(network(pictures), target)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
    return network.eval()


@torch.no_grad()
def judge(task: Task, network: nn.Module) -> dict[str, float]:
    """Loss and scores on pictures that no seed learned from."""
    generator = torch.Generator().manual_seed(EVALUATION_SEED)
    pairs = [task.draw(task.batch, generator) for _ in range(EVALUATION_BATCHES)]
    logits = torch.cat([network(pictures) for pictures, _ in pairs])
    target = torch.cat([target for _, target in pairs])
    loss = F.binary_cross_entropy_with_logits(logits, target).item()
    return {"loss": loss, **task.scores(logits, target)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=TASKS, default=list(TASKS), help="default: all")
    parser.add_argument("--steps", type=int, default=300, help="of each training (default 300)")
    parser.add_argument("--seeds", type=int, default=3, help="trainings from each start (default 3)")
    options = parser.parse_args()
    print(f"{machine()}\n{options.steps} steps, {options.seeds} seeds; mean (smallest to largest) over seeds\n")
    for name in options.networks:
        task, lines = TASKS[name], []
        for start in (task.published, "mamba"):
            began = time.perf_counter()
            results = []
            for seed in range(options.seeds):
                results.append(judge(task, train(task, start, seed, options.steps)))
                print(f"{name}, start {start}, seed {seed}: {results[-1]}", file=sys.stderr, flush=True)
            cells = [[result[score] for result in results] for score in results[0]]
            title = f"{name}, {start}" + (" (published)" if start == task.published else "")
            texts = [f"{sum(values) / len(values):.3f} ({min(values):.3f} to {max(values):.3f})" for values in cells]
            seconds = (time.perf_counter() - began) / options.seeds
            lines.append(f"| {title} | " + " | ".join(texts) + f" | {seconds:.0f} s |")
        head = ["start", *results[0], "one training"]
        print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
        print("\n".join(lines) + "\n", flush=True)


if __name__ == "__main__":
    main()
