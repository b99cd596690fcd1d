"""Mamba as a language model, the residual stack called MambaByte, and MoE-Mamba."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.networks.reference.scan import layer_norm, mamba, rms_norm
from tests.networks.reference.weights import Weights


def mamba_lm(w: Weights, ids: Tensor, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """``MambaLMHeadModel``: logits of the padded vocabulary."""
    d, multiple = config["d_model"], config.get("pad_vocab_size_multiple", 8)
    words = math.ceil(config["vocab_size"] / multiple) * multiple
    rms = config.get("rms_norm", True)

    def norm(name: str, y: Tensor) -> Tensor:
        if rms:
            return rms_norm(y, w(f"{name}.weight", d, around=1.0))
        return layer_norm(y, *w.norm(name, d))

    embedding = w("backbone.embedding.weight", words, d, spread=0.3)
    x = embedding[ids]
    options = {"d_model": d, **config.get("ssm_cfg", {})}
    for index in range(config["n_layer"]):
        place = f"backbone.layers.{index}."
        x = x + mamba(w.under(f"{place}mixer."), norm(f"{place}norm", x), options)
    head = embedding if config.get("tie_embeddings", True) else w("lm_head.weight", words, d)
    return {"out": F.linear(norm("backbone.norm_f", x), head)}


def mamba_stack(w: Weights, x: Tensor, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The residual stack on numbers that has neither embedding nor head."""
    names = {"d_state": "d_state", "expand_factor": "expand", "d_conv": "d_conv", "dt_rank": "dt_rank"}
    names |= {"conv_bias": "conv_bias", "bias": "bias"}
    options = {"d_model": config["dim"], **{ours: config[name] for name, ours in names.items() if name in config}}
    for index in range(config["depth"]):
        y = rms_norm(x, w(f"layers.{index}.norm.weight", config["dim"], around=1.0))
        x = x + mamba(w.under(f"layers.{index}.mixer."), y, options)
    return {"out": x}


def switch(w: Weights, x: Tensor, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """``TokenChoiceFF`` with room for all tokens: (B, L, d) to the same, its choices, and its losses."""
    d, experts, hidden = config["dmodel"], config["n_experts"], config["expert_size"]
    assert config["capacity_factor"] >= experts, "which tokens find no room depends on the original's device"
    tokens = x.flatten(0, 1)
    logits = tokens @ w("gating.gate", d, experts, spread=d**-0.5)
    probabilities = logits.softmax(-1)
    first = w("expert_inner_function.lin1_weight", experts, d, hidden, spread=d**-0.5)
    second = w("expert_inner_function.lin2_weight", experts, hidden, d, spread=hidden**-0.5)
    expert = probabilities.argmax(-1)
    served = [probabilities[t, e] * (F.relu(tokens[t] @ first[e]) @ second[e]) for t, e in enumerate(expert.tolist())]
    wanted = F.one_hot(expert, experts)
    balance = experts * (probabilities.mean(0) * wanted.sum(0)).sum() / len(tokens)
    # The logarithm of a sum of exponentials, the largest taken out.
    most = logits.amax(-1, keepdim=True)
    size = (logits - most).exp().sum(-1).log() + most[:, 0]
    return {
        "out": torch.stack(served).view(x.shape),
        "load_balancing_loss": config.get("load_balancing_loss_weight", 0.01) * balance,
        "z_loss": config.get("zloss_weight", 0.0) * size.square().mean(),
        "expert_index": expert,
        "gate_probs": probabilities,
        "kept_mask": wanted,
    }


def moe_lm(w: Weights, ids: Tensor, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """MoE-Mamba: logits, and the losses of each switch layer."""
    d, (kind, eps) = config["dmodel"], config["norm"].split()
    x = w("embedding_layer.layers.0.weight", config["vocab"], d, spread=0.3)[ids]
    x = x + w("embedding_layer.layers.1.layer.weight", config["max_length"], d, spread=0.3)[: ids.shape[1]]

    def norm(place: Weights, y: Tensor) -> Tensor:
        if kind == "RMSNorm":
            return rms_norm(y, place("pre_norm.g", d, around=1.0), place("pre_norm.b", d), eps=float(eps))
        return layer_norm(y, *place.norm("pre_norm", d), eps=float(eps))

    losses: dict[str, list[Tensor]] = {"load_balancing_loss": [], "z_loss": []}
    for index in range(config["n_blocks"]):
        place = w.under(f"encoder.blocks.block_{index}.block.residual_mamba.layer.")
        options = {"d_model": d, "expand": config.get("mamba_expand", 2)}
        x = x + mamba(place.under("mamba."), norm(place, x), options)
        place = w.under(f"encoder.blocks.block_{index}.block.residual_feedforward.layer.")
        served = switch(place.under("feedforward."), norm(place, x), config)
        x = x + served["out"]
        for name, found in losses.items():
            found.append(served[name])
    logits = F.linear(x, w("head.weight", config["vocab"], d))
    return {"logits": logits, **{name: torch.stack(found) for name, found in losses.items()}}
