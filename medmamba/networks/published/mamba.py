"""Mamba's block and language model, by the names of the authors or of the transformers library.

References:
    transformers 4.39 to 5, ``MambaConfig`` and ``MambaForCausalLM``.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from medmamba.networks.language.mamba import MambaLM
from medmamba.networks.mamba import MambaBlock
from medmamba.networks.published._blocks import BLOCK, PLACE, START_AND_SPEED, USUAL_BLOCK, tell_block
from medmamba.networks.published._names import Shapes, renamed
from medmamba.networks.published._system import (
    Config,
    Family,
    System,
    UpstreamError,
    Weights,
    arguments,
    check_kinds,
    check_known,
)

#: Arguments of the library's ``MambaConfig``, the authors' for them, and those of a block, which they keep in
#: ``ssm_cfg``.
_MODEL = {
    "hidden_size": "d_model",
    "num_hidden_layers": "n_layer",
    "vocab_size": "vocab_size",
    "tie_word_embeddings": "tie_embeddings",
    "residual_in_fp32": "residual_in_fp32",
    "layer_norm_epsilon": "norm_epsilon",
}
_BLOCK = {
    "state_size": "d_state",
    "conv_kernel": "d_conv",
    "time_step_rank": "dt_rank",
    "use_conv_bias": "conv_bias",
    "use_bias": "bias",
}
_TAKES = arguments(
    count="d_model n_layer vocab_size pad_vocab_size_multiple", object="ssm_cfg", truth="rms_norm tie_embeddings"
)
_KNOWS = arguments(number="norm_epsilon", truth="residual_in_fp32", any="fused_add_norm initializer_cfg") | PLACE
#: Of the library's configurations.
_LIBRARY = {
    **arguments(count="intermediate_size", number="expand"),
    **{theirs: {**_TAKES, **_KNOWS}[name] for theirs, name in _MODEL.items()},
    **{theirs: BLOCK[name] for theirs, name in _BLOCK.items()},
    **_TAKES,
    **_KNOWS,
}
#: From the library's names to the authors', and from those to ours.
_AUTHORS = ((r"^(embedding|layers\.|norm_f\.)", r"backbone.\1"), (r"^backbone\.embeddings\.", "backbone.embedding."))
_OURS = (
    (r"^backbone\.embedding\.", "embedding."),
    (r"^backbone\.layers\.", "stack.layers."),
    (r"^backbone\.norm_f\.", "norm."),
    (r"^lm_head\.", "head."),
)


def our_names(tensors: Weights) -> dict[str, Tensor]:
    """The tensors of the authors' language model, or of that in the transformers library, by our names."""
    return renamed(tensors, (*_AUTHORS, *_OURS))


def _make_block(config: Config, weights: Weights) -> tuple[MambaBlock, Weights]:
    return MambaBlock(**{name: value for name, value in config.items() if name in ("d_model", *BLOCK)}), weights


def _make(config: Config, weights: Weights) -> tuple[MambaLM, Weights]:
    tensors = our_names(weights)
    ssm = dict(config.get("ssm_cfg") or {})
    if (layer := ssm.pop("layer", "Mamba1")) != "Mamba1":
        raise UpstreamError(f"only layers of 'Mamba1' are known here, got {layer!r}")
    ssm = {name: value for name, value in ssm.items() if name not in START_AND_SPEED}
    check_known("Mamba block", ssm, BLOCK)
    check_kinds("ssm_cfg", ssm, BLOCK)
    vocabulary, tied = config.get("vocab_size", 50277), config.get("tie_embeddings", True)
    # Trained without padding, if there are just as many rows.
    exact = "embedding.weight" in tensors and len(tensors["embedding.weight"]) == vocabulary
    network = MambaLM(
        vocabulary,
        config.get("d_model", 2560),
        config.get("n_layer", 64),
        norm="rms" if config.get("rms_norm", True) else "layer",
        tied=tied,
        eps=config.get("norm_epsilon", 1e-5),
        multiple=1 if exact else config.get("pad_vocab_size_multiple", 8),
        block=partial(MambaBlock, **ssm),
        float32_residual=config.get("residual_in_fp32", True),
    )
    return network, _without_copy(tensors) if tied else tensors


def _without_copy(tensors: Weights) -> dict[str, Tensor]:
    """Without the embedding's weights as those of the logits, which checkpoints may hold once more.

    Raises:
        UpstreamError: if logits are read with other weights.
    """
    head, embedding = tensors.get("head.weight"), tensors.get("embedding.weight")
    if head is not None and embedding is not None and not torch.equal(head, embedding):
        raise UpstreamError("lm_head.weight differs from the embedding; set tie_embeddings=False for these weights")
    return {key: tensor for key, tensor in tensors.items() if key != "head.weight"}


def _translate(config: Config) -> dict[str, Any]:
    """Arguments of the authors' ``MambaLMHeadModel`` for a ``MambaConfig``; any other configuration as it is.

    Published folders have some arguments under both names. What concerns the start of a training, special tokens or
    speed changes nothing here.

    Raises:
        UpstreamError: if the configuration is of another network, contradicts itself, or has a value of another kind.
    """
    if not {"hidden_size", "num_hidden_layers", "model_type", "architectures"} & config.keys():
        return dict(config)
    if (kind := config.get("model_type", "mamba")) != "mamba":
        made = ", ".join(map(str, config.get("architectures") or [])) or "no architectures"
        raise UpstreamError(
            f"the configuration has model_type {kind!r} ({made}), which is another network; only 'mamba' is known here"
        )
    if (activation := config.get("hidden_act", "silu")) not in ("silu", "swish"):
        raise UpstreamError(f"only Mamba with hidden_act 'silu' is known here, got {activation!r}")
    check_kinds("mamba_lm", config, _LIBRARY)
    ours = {name: config[theirs] for theirs, name in _MODEL.items() if theirs in config}
    for name in ("d_model", "n_layer"):
        if name in config and config[name] != ours.setdefault(name, config[name]):
            raise UpstreamError(f"the configuration has {name} {config[name]} but {ours[name]} by transformers' name")
    block = dict(config.get("ssm_cfg") or {}) | {name: config[key] for key, name in _BLOCK.items() if key in config}
    if (expand := _expand(config)) is not None:
        block["expand"] = expand
    # The library has as many rows as tokens, whatever padding the configuration speaks of.
    return ours | {"rms_norm": config.get("rms_norm", True), "pad_vocab_size_multiple": 1, "ssm_cfg": block}


def _expand(config: Config) -> float | None:
    """Inner width over width; the library goes by the inner width where both are given."""
    inner, width = config.get("intermediate_size"), config.get("hidden_size")
    if inner is None or width is None:
        return config.get("expand")
    expand = inner / width
    # What is rounded down again must come out as it was.
    return (
        int(expand) if inner % width == 0 else expand if int(expand * width) == inner else math.nextafter(expand, 9e9)
    )


def _tell(shapes: Shapes) -> dict[str, Any]:
    shapes = Shapes(renamed(shapes.tensors, _AUTHORS))
    embedding, head = shapes.tensors.get("backbone.embedding.weight"), shapes.tensors.get("lm_head.weight")
    block = tell_block(shapes, r"backbone\.layers\.0\.mixer\.")
    return {
        "d_model": shapes.size(r"backbone\.embedding\.weight", 1),
        "n_layer": shapes.count(r"backbone\.layers\.(\d+)\..+"),
        "vocab_size": shapes.size(r"backbone\.embedding\.weight", 0),
        "rms_norm": not shapes.has(r"backbone\.norm_f\.bias"),
        "tie_embeddings": head is None or embedding is None or torch.equal(head, embedding),
        "ssm_cfg": {name: block[name] for name in USUAL_BLOCK if block and block[name] != USUAL_BLOCK[name]},
    }


SYSTEMS = {
    "mamba": System(
        what="Mamba block",
        make=_make_block,
        needs=arguments(count="d_model"),
        takes=BLOCK,
        knows=START_AND_SPEED,
        marks=("A_log", r"dt_proj\.weight"),
        tell=tell_block,
    ),
    "mamba_lm": System(
        what="Mamba language model",
        make=_make,
        takes=_TAKES,
        knows=_KNOWS,
        only={"d_intermediate": 0, "attn_layer_idx": [], "attn_cfg": {}},
        marks=(r"(backbone\.)?embeddings?\.weight", r"(backbone\.)?layers\.0\.mixer\.A_log"),
        tell=_tell,
        family="mamba",
        translate=_translate,
    ),
}
FAMILY = Family(("mamba_lm", "mamba"), {"mamba_lm": ("backbone.", "embedding"), "mamba": ()})
