"""Mamba as a language model: logits, decoding from a state of fixed size, generation.

Letters: B batch, L tokens, d model width, V vocabulary, M feed-forward layers.

References:
    Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", 2023, section 4.2 and appendix E.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medmamba.networks.language._stack import MambaStack, Norm, NormKind
from medmamba.networks.language.sampling import GREEDY, Sampling
from medmamba.networks.mamba import MambaState

#: (width, depth) of the published models, all with a vocabulary of 50,277.
SIZES = {
    "130m": (768, 24),
    "370m": (1024, 48),
    "790m": (1536, 48),
    "1.4b": (2048, 48),
    "2.8b": (2560, 64),
}

#: Tokens read at once by whatever goes through a long text: bounds the memory that activations and logits take.
PIECE = 1024


@dataclass(frozen=True, slots=True)
class TextState:
    """What a language model remembers of a text: of one size, however long the text. Never changed, so it can be kept.

    Args:
        seen: number of tokens.
        blocks: of each Mamba block.
    """

    seen: int
    blocks: tuple[MambaState, ...]


class MambaLM(nn.Module):
    """Language model: embedding, `MambaStack`, norm, logits. The defaults are those of the published models.

    Args:
        vocabulary: number of tokens.
        width: d.
        depth: number of Mamba blocks.
        norm: of each layer, and after the last.
        eps: of the norms.
        tied: whether logits are read with the embedding's weights.
        final_norm: whether the stream is normalised before the logits.
        multiple: V is the vocabulary, rounded up to a multiple of this; the logits beyond it mean nothing.
        positions: learned embeddings of as many positions are added; 0: none.
        stack: ``block`` and so on, as in `MambaStack`.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> network = MambaLM(100, 16, 2)
        >>> network(torch.tensor([[1, 2, 3]])).shape
        torch.Size([1, 3, 104])
        >>> network.generate(torch.tensor([[1, 2, 3]]), 4).shape
        torch.Size([1, 7])
    """

    def __init__(
        self,
        vocabulary: int,
        width: int,
        depth: int,
        *,
        norm: NormKind = "rms",
        eps: float = 1e-5,
        tied: bool = True,
        final_norm: bool = True,
        multiple: int = 8,
        positions: int = 0,
        **stack: Any,
    ) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        padded = math.ceil(vocabulary / multiple) * multiple
        self.embedding = nn.Embedding(padded, width)
        self.positions = nn.Embedding(positions, width) if positions else None
        self.stack = MambaStack(width, depth, norm=norm, eps=eps, **stack)
        self.norm = Norm(width, norm, eps) if final_norm else None
        self.head = None if tied else nn.Linear(width, padded, bias=False)
        self._initialise()

    def _initialise(self) -> None:
        """The authors': small embeddings, no biases but those of the step size, a stream that does not grow."""
        for embedding in (self.embedding, self.positions):
            if embedding is not None:
                nn.init.normal_(embedding.weight, std=0.02)
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, nn.Linear) and module.bias is not None:
                    module.bias.zero_()
            for block in self.stack.blocks():
                block.out_proj.weight /= math.sqrt(len(self.stack.layers))

    def forward(self, ids: Tensor) -> Tensor:
        """Token numbers (B, L) to logits of each next token (B, L, V).

        Raises:
            ValueError: if the numbers are not (B, L), or more than there are positions.
        """
        return self.balanced(ids)[0]

    def balanced(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """As `forward`, and (M,) how far each feed-forward layer is out of balance, to be part of a training loss."""
        x, balance = self.stack(self._embed(ids, 0))
        return self._logits(x), balance

    def prefill(self, ids: Tensor, state: TextState | None = None) -> tuple[Tensor, TextState]:
        """As `forward`, and the state to go on from; with the state after earlier tokens, these follow them.

        Feed-forward layers have no limit of capacity here.
        """
        x, state = self._read(ids, state)
        return self._logits(x), state

    @torch.no_grad()
    def generate(
        self,
        prompt: Tensor,
        count: int,
        *,
        sampling: Sampling = GREEDY,
        stop: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Continue a text; the time per token does not depend on its length.

        Tokens beyond the vocabulary, which only fill up V, are never drawn.

        Args:
            prompt: (B, L) token numbers.
            count: how many tokens to add at most.
            sampling: how they are drawn.
            stop: a row ends with this token and is filled up with it; the text ends when all rows have.
            generator: of random numbers; None: PyTorch's own.

        Returns:
            (B, L + count) or fewer, the prompt first.

        Raises:
            ValueError: if the prompt is empty, or not (B, L), or longer than the positions with what is added.
        """
        _check_ids(prompt)
        length, state, new = prompt.shape[1], None, prompt
        text = F.pad(prompt, (0, count))
        ended = torch.zeros(len(prompt), dtype=torch.bool, device=prompt.device)
        for end in range(length, length + count):
            for piece in new.split(PIECE, dim=1):
                x, state = self._read(piece, state)
            logits = self._logits(x[:, -1])[:, : self.vocabulary]
            token = sampling.draw(logits, text[:, :end], generator)
            if stop is not None:
                token = torch.where(ended, stop, token)
                ended |= token == stop
            text[:, end] = token
            new = token[:, None]
            if stop is not None and ended.all():
                return text[:, : end + 1]
        return text

    @torch.no_grad()
    def nats(self, ids: Tensor) -> Tensor:
        """How surprising each text is: cross-entropy of all tokens but the first, each given all before it.

        The text is read piece by piece from its state, so memory does not grow with it.

        Args:
            ids: (B, L) token numbers.

        Returns:
            (B,) sums over L - 1 tokens, float64, in nats.

        Raises:
            ValueError: as `forward`.
        """
        _check_ids(ids)
        total, state = torch.zeros(len(ids), dtype=torch.float64, device=ids.device), None
        for piece, following in zip(ids[:, :-1].split(PIECE, 1), ids[:, 1:].split(PIECE, 1), strict=True):
            if piece.shape[1]:
                logits, state = self.prefill(piece, state)
                each = F.cross_entropy(logits.mT.float(), following, reduction="none")
                total += each.double().sum(1)
        return total

    def _read(self, ids: Tensor, state: TextState | None) -> tuple[Tensor, TextState]:
        seen = 0 if state is None else state.seen
        x, blocks = self.stack.prefill(self._embed(ids, seen), None if state is None else state.blocks)
        return x, TextState(seen + ids.shape[1], blocks)

    def _embed(self, ids: Tensor, seen: int) -> Tensor:
        _check_ids(ids)
        x = self.embedding(ids)
        if self.positions is not None:
            end = seen + ids.shape[1]
            if end > self.positions.num_embeddings:
                raise ValueError(
                    f"a text must be at most {self.positions.num_embeddings} tokens long, as many as positions were "
                    f"learned, got {end}; shorten it or train without positions"
                )
            x = x + self.positions.weight[seen:end]
        return cast(Tensor, x)

    def _logits(self, x: Tensor) -> Tensor:
        weight = self.embedding.weight if self.head is None else self.head.weight
        x = x if self.norm is None else self.norm(x)
        return F.linear(x.to(weight.dtype), weight)


def bits_per_byte(nats: float, count: int) -> float:
    """Bits that a text takes per byte, from its surprise.

    Args:
        nats: cross-entropy summed over the text, as of `MambaLM.nats`.
        count: bytes of the text that were predicted.
    """
    return nats / (math.log(2) * count)


def _check_ids(ids: Tensor) -> None:
    if ids.dim() != 2 or ids.shape[1] == 0:
        raise ValueError(f"token numbers must be (batch, tokens) with at least one token, but are {tuple(ids.shape)}")
