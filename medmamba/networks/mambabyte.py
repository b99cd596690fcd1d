"""MambaByte: a language model of raw bytes, without a tokenizer.

Letters: B batch, L bytes, d model width.

References:
    Wang et al., "MambaByte: Token-free Selective State Space Model", 2024.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medmamba.networks._convert import START_AND_SPEED, UpstreamError, check_known, load_upstream, rank_of
from medmamba.networks._stack import MambaStack
from medmamba.networks.language import MambaLM, bits_per_byte, our_names
from medmamba.networks.mamba import MambaBlock
from medmamba.networks.sampling import GREEDY, Sampling

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


def convert(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> nn.Module:
    """A published checkpoint as a `MambaByte`.

    Args:
        config: its ``config.json``: ``d_model``, ``n_layer``; others must be as published.
        state_dict: its tensors, by the names of the authors' code or those of Mamba's language model.

    Raises:
        UpstreamError: for another setting, or weights that do not fit.
    """
    usual = {"vocab_size": 256, "rms_norm": False, "tie_embeddings": False, "ssm_cfg": {}, "residual_in_fp32": True}
    check_known("MambaByte", config, ("d_model", "n_layer", "fused_add_norm", "pad_vocab_size_multiple", *usual))
    if other := [name for name, value in usual.items() if config.get(name, value) != value]:
        raise UpstreamError(
            f"only MambaByte as published is known here, but {', '.join(other)} differ; load it as 'mamba_lm'"
        )
    theirs = {"mambabyte.token_embedding.": "backbone.embedding.", "mambabyte.final_norm.": "backbone.norm_f."}
    theirs["mambabyte.layers."] = "backbone.layers."
    tensors = dict(state_dict)
    for prefix, name in theirs.items():
        tensors = {name + k.removeprefix(prefix) if k.startswith(prefix) else k: t for k, t in tensors.items()}
    return load_upstream(MambaByte(config["d_model"], config["n_layer"]), our_names(tensors))


def convert_stack(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> nn.Module:
    """The stack of the repository ``kyegomez/MambaByte``, which has neither embedding nor logits, as a `MambaStack`.

    Args:
        config: ``dim``, ``depth``, ``d_state``, ``expand_factor``, ``d_conv``, ``dt_rank``, ``conv_bias``, ``bias``;
            ``pscan`` chooses only how the original computes, and others only how its weights are drawn.
        state_dict: its tensors.

    Raises:
        UpstreamError: for an argument that is not known here, or weights that do not fit.
    """
    known = ("dim", "depth", "d_state", "expand_factor", "d_conv", "dt_rank", "conv_bias", "bias", "pscan")
    check_known("stack of Mamba blocks", config, (*known, *START_AND_SPEED))
    rank_of("dt_rank", config.get("dt_rank", "auto"))
    block = partial(
        MambaBlock,
        d_state=config.get("d_state", 16),
        d_conv=config.get("d_conv", 4),
        expand=config.get("expand_factor", 2),
        dt_rank=config.get("dt_rank", "auto"),
        conv_bias=config.get("conv_bias", True),
        bias=config.get("bias", False),
    )
    return load_upstream(MambaStack(config["dim"], config["depth"], block=block), state_dict)
