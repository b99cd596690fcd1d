"""MambaByte: a language model of raw bytes, without a tokenizer.

Letters: B batch, L bytes, d model width.

References:
    Wang et al., "MambaByte: Token-free Selective State Space Model", 2024.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from medmamba.networks.language.mamba import MambaLM, bits_per_byte
from medmamba.networks.language.sampling import GREEDY, Sampling

#: (width, depth) of the published models.
SIZES = {"353M": (1024, 53), "972M": (1792, 48)}


def encode(text: str | bytes) -> Tensor:
    """A text's bytes, in UTF-8 if it is a string, as numbers (1, L) from 0 to 255."""
    raw = text.encode() if isinstance(text, str) else text
    return torch.from_numpy(np.frombuffer(raw, np.uint8).astype(np.int64))[None]


def decode(ids: Tensor) -> bytes:
    """The bytes of one row of numbers, (L,) or (1, L).

    For a text, ``.decode(errors="replace")``: generation may end within a character.

    Raises:
        ValueError: if there are more rows, or numbers that are no bytes.
    """
    if ids.dim() > 1 and ids.shape[0] != 1:
        raise ValueError(f"one row of bytes can be decoded at a time, got {tuple(ids.shape)}; take one with ids[i]")
    return bytes(ids.flatten().tolist())


class MambaByte(MambaLM):
    """Language model of bytes: layer norms and an untied head, as published; `MambaLM` says the rest.

    Args:
        width: d.
        depth: number of Mamba blocks.
        checkpointing: as in `MambaStack`.

    Example:
        >>> network = MambaByte(16, 2)  # MambaByte(*SIZES["353M"]) is the published one
        >>> len(network.write("A text", 5))
        5
    """

    def __init__(self, width: int, depth: int, *, checkpointing: bool = False) -> None:
        super().__init__(256, width, depth, norm="layer", tied=False, checkpointing=checkpointing)

    def write(
        self,
        prompt: str | bytes,
        count: int,
        *,
        sampling: Sampling = GREEDY,
        generator: torch.Generator | None = None,
    ) -> bytes:
        """Continue a text by so many bytes; there is no byte that ends it.

        Args:
            prompt: at least one byte.
            count: number of bytes.
            sampling: how they are drawn.
            generator: of random numbers; None: PyTorch's own.

        Returns:
            The new bytes, without the prompt.

        Raises:
            ValueError: if the prompt is empty.
        """
        ids = encode(prompt).to(self.embedding.weight.device)
        return decode(self.generate(ids, count, sampling=sampling, generator=generator)[:, ids.shape[1] :])

    def bits_per_byte(self, text: str | bytes) -> float:
        """Mean over all bytes but the first, each given all before it.

        Raises:
            ValueError: if there are fewer than two bytes.
        """
        ids = encode(text).to(self.embedding.weight.device)
        if ids.shape[1] < 2:
            raise ValueError(
                f"bits per byte need at least two bytes, got {ids.shape[1]}; the first one is not predicted"
            )
        return bits_per_byte(self.nats(ids).item(), ids.shape[1] - 1)


def word_perplexity(bits: float, count: int, words: int) -> float:
    """Perplexity per word from bits per byte.

    Args:
        bits: per byte.
        count: bytes of the text.
        words: of the text, as ``wc -w`` counts them.
    """
    return math.exp(bits * math.log(2) * count / words)
