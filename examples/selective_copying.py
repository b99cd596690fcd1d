"""Selective copying: remember the few letters among many blanks, and write them down at the end.

Written against `mamba_ssm` alone. Where that is not installed, it runs on a CPU all the same:

    python -m medmamba.kernels.compat examples/selective_copying.py

The task is that of Gu and Dao, "Mamba", 2023, section 4.1, in small.
"""

import argparse
import time

import torch
import torch.nn.functional as F
from mamba_ssm import Mamba
from torch import nn

LETTERS, BLANK, MARK = 8, 8, 9  # eight letters, a blank, and the mark that asks for the answer


def draw(batch, length, count):
    """Texts with ``count`` letters at random places, then as many marks; and the letters in their order."""
    letters = torch.randint(LETTERS, (batch, count))
    places = torch.rand(batch, length).argsort(-1)[:, :count].sort(-1).values
    text = torch.full((batch, length), BLANK).scatter(1, places, letters)
    return torch.cat([text, torch.full((batch, count), MARK)], dim=1), letters


class Model(nn.Module):
    """Embedding, Mamba blocks with norms and residuals, letters."""

    def __init__(self, width, layers):
        super().__init__()
        self.embedding = nn.Embedding(LETTERS + 2, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers))
        self.blocks = nn.ModuleList(Mamba(d_model=width, d_state=16, d_conv=4, expand=2) for _ in range(layers))
        self.head = nn.Linear(width, LETTERS)

    def forward(self, text):
        """(B, L) letters to logits (B, L, LETTERS)."""
        x = self.embedding(text)
        for norm, block in zip(self.norms, self.blocks, strict=True):
            x = x + block(norm(x))
        return self.head(x)


def main():
    """Train and print how well it goes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--letters", type=int, default=4)
    options = parser.parse_args()
    torch.manual_seed(0)
    model = Model(width=32, layers=2)
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    start = time.perf_counter()
    for step in range(1, options.steps + 1):
        text, letters = draw(32, options.length, options.letters)
        logits = model(text)[:, -options.letters :]
        loss = F.cross_entropy(logits.flatten(0, 1), letters.flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 20 == 0 or step == 1:
            right = (logits.argmax(-1) == letters).float().mean()
            print(
                f"step {step:4d}  loss {loss:.3f}  right {right:.0%}  {time.perf_counter() - start:.1f} s", flush=True
            )


if __name__ == "__main__":
    main()
