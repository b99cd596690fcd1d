"""Mamba's language model as the transformers library keeps it, by its authors' names.

References:
    transformers 4.39 to 5, ``MambaConfig`` and ``MambaForCausalLM``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from medmamba.networks._convert import UpstreamError
from medmamba.networks._kinds import check_kinds

#: The authors' names of arguments for the library's, and those of a block, which they keep in ``ssm_cfg``.
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


def authors_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the authors' ``MambaLMHeadModel`` for a ``MambaConfig``; any other configuration as it is.

    Published folders have some arguments under both names. What concerns the start of a training, special tokens or
    speed changes nothing here.

    Raises:
        UpstreamError: if the configuration is of another network, contradicts itself, or has a value of another kind.
    """
    if not {"hidden_size", "num_hidden_layers", "model_type", "architectures"} & config.keys():
        return dict(config)
    kind = config.get("model_type", "mamba")
    if kind != "mamba":
        made = ", ".join(map(str, config.get("architectures") or [])) or "no architectures"
        raise UpstreamError(
            f"the configuration has model_type {kind!r} ({made}), which is another network; only 'mamba' is known here"
        )
    if (activation := config.get("hidden_act", "silu")) not in ("silu", "swish"):
        raise UpstreamError(f"only Mamba with hidden_act 'silu' is known here, got {activation!r}")
    check_kinds("mamba_lm", config)
    ours = {name: config[theirs] for theirs, name in _MODEL.items() if theirs in config}
    for name in ("d_model", "n_layer"):
        if name in config and config[name] != ours.setdefault(name, config[name]):
            raise UpstreamError(f"the configuration has {name} {config[name]} but {ours[name]} by transformers' name")
    block = dict(config.get("ssm_cfg") or {}) | {name: config[key] for key, name in _BLOCK.items() if key in config}
    if (expand := _expand(config)) is not None:
        block["expand"] = expand
    # The library has as many rows as tokens, whatever padding the configuration speaks of.
    return ours | {"rms_norm": config.get("rms_norm", True), "pad_vocab_size_multiple": 1, "ssm_cfg": block}


def _expand(config: Mapping[str, Any]) -> float | None:
    """Inner width over width; the library goes by the inner width where both are given."""
    inner, width = config.get("intermediate_size"), config.get("hidden_size")
    if inner is None or width is None:
        return config.get("expand")
    expand = inner / width
    # What is rounded down again must come out as it was.
    return (
        int(expand) if inner % width == 0 else expand if int(expand * width) == inner else math.nextafter(expand, 9e9)
    )


def authors_names(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by the authors' names, from the library's, with or without head."""
    tensors = {}
    for key, tensor in state_dict.items():
        if key.startswith(("embedding", "layers.", "norm_f.")):
            key = f"backbone.{key}"
        tensors[key.replace("backbone.embeddings.", "backbone.embedding.")] = tensor
    return tensors
