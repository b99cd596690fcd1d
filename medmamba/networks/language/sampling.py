"""How the next token is drawn from logits.

Letters: B batch, L tokens, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to draw a token. In this order: penalty, k most likely, temperature, share p of the rest, draw.

    Args:
        top_k: draw from so many of the most likely tokens; 0: from all; 1: take the most likely one.
        top_p: draw from the fewest tokens whose probabilities, after temperature, add up to at least this; 1: from all.
        temperature: divides the logits; below 1 sharpens.
        repetition_penalty: positive logits of tokens that are in the text already are divided by it, negative ones
            multiplied; 1: none.

    Raises:
        ValueError: for a number out of its range, naming it.

    References:
        Holtzman et al., "The Curious Case of Neural Text Degeneration", 2020 (share p); Keskar et al., "CTRL", 2019,
        section 4.1 (penalty).
    """

    top_k: int = 0
    top_p: float = 1.0
    temperature: float = 1.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        for name, fits, rule in (
            ("top_k", self.top_k >= 0, "at least 0, which draws from all tokens"),
            ("top_p", 0 < self.top_p <= 1, "more than 0 and at most 1, which draws from all tokens"),
            ("temperature", self.temperature > 0, "more than 0; for the most likely token set top_k=1"),
            ("repetition_penalty", self.repetition_penalty > 0, "more than 0; 1 is no penalty"),
        ):
            if not fits:
                raise ValueError(f"Sampling: {name} must be {rule}, got {getattr(self, name)}")

    def draw(self, logits: Tensor, text: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The next token of each row.

        Args:
            logits: (B, V).
            text: (B, L) token numbers before it.
            generator: of random numbers; None: PyTorch's own.

        Returns:
            (B,) token numbers. Among equal logits the first is the most likely.
        """
        logits = logits.float()
        if self.repetition_penalty != 1:
            said = logits.gather(1, text)
            said = torch.where(said > 0, said / self.repetition_penalty, said * self.repetition_penalty)
            logits = logits.scatter(1, text, said)
        if self.top_k == 1:
            return logits.argmax(dim=-1)
        logits, tokens = logits.topk(min(self.top_k or logits.shape[-1], logits.shape[-1]))  # falling
        probabilities = (logits / self.temperature).softmax(dim=-1)
        if self.top_p < 1:
            # A token stays if those more likely do not reach the share without it: at least one does.
            before = probabilities.cumsum(dim=-1) - probabilities
            probabilities = probabilities.masked_fill(before >= self.top_p, 0)
        place = torch.multinomial(probabilities, 1, generator=generator)
        return tokens.gather(1, place)[:, 0]


#: Always the most likely token.
GREEDY = Sampling(top_k=1)
