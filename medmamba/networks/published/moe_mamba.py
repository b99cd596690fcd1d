"""The authors' tower of Mamba and token choice layers as a `MoEMamba`, and their ``TokenChoiceFF`` alone.

The weight of the balancing loss is the trainer's affair here, and that of the router's z-loss counts beside it.
``capacity`` is what ``capacity_factor`` came to for some batch, and says nothing new; ``max_length`` counts only if
positions were learned. ``norm`` is "LayerNorm" or "RMSNorm" and its epsilon. Names are those of January 2024 or later.
"""

from __future__ import annotations

import re

from medmamba.networks.experts import BALANCE_WEIGHT, SwitchFeedForward
from medmamba.networks.language._stack import NormKind
from medmamba.networks.language.moe import MoEMamba
from medmamba.networks.published._names import Renaming, renamed
from medmamba.networks.published._system import Config, System, UpstreamError, Weights, arguments

#: What must be as the authors' layers of token choice have it.
_ONLY = {
    "routing_top_k": 1,
    "moe_values_exp": 1.0,
    "detach_gate": False,
    "get_router_values_from": "weights",
    "expert_use_bias": False,
}
#: Arguments that say how weights are drawn, or how fast the layer runs.
_START_AND_SPEED = arguments(any="init_type init_scale use_einsum use_torch_bmm vectorize")
_LOSSES = arguments(number="load_balancing_loss_weight zloss_weight")
#: "LayerNorm 1e-5", or with the epsilon as an argument.
_NORM = re.compile(r"(LayerNorm|layer_norm|RMSNorm|rms_norm)(?:[ (,]+(?:eps ?=? ?)?(\d+(?:\.\d*)?(?:e-?\d+)?)\)?)?")

_LAYER_NAMES: Renaming = (
    (r"^(stack\.layers\.\d+\.mixer\.)?(.+\.)?gate$", r"\1router"),
    (r"^(stack\.layers\.\d+\.mixer\.)?(.+\.)?lin1_weight$", r"\1weight_in"),
    (r"^(stack\.layers\.\d+\.mixer\.)?(.+\.)?lin2_weight$", r"\1weight_out"),
)
_NAMES: Renaming = (
    (r"^embedding_layer\.layers\.0\.weight$", "embedding.weight"),
    (r"^embedding_layer\.layers\.1\.layer\.weight$", "positions.weight"),
    (
        r"^encoder\.blocks\.block_(\d+)\.block\.(\w+)\.layer\.",
        lambda found: f"stack.layers.{2 * int(found[1]) + (found[2] == 'residual_feedforward')}.",
    ),
    (r"^(stack\.layers\.\d+\.)(feedforward|mamba)\.", r"\1mixer."),
    (r"^(stack\.layers\.\d+\.)pre_norm\.g$", r"\1norm.weight"),  # the authors' RMSNorm calls scale and bias so
    (r"^(stack\.layers\.\d+\.)pre_norm\.b$", r"\1norm.bias"),
    (r"^(stack\.layers\.\d+\.)pre_norm\.", r"\1norm."),
    *_LAYER_NAMES,
)


def _make_layer(config: Config, weights: Weights) -> tuple[SwitchFeedForward, Weights]:
    layer = SwitchFeedForward(
        config["dmodel"],
        config["expert_size"],
        config["n_experts"],
        capacity=config["capacity_factor"],
        z_weight=_z_weight(config),
    )
    return layer, renamed(weights, _LAYER_NAMES)


def _make(config: Config, weights: Weights) -> tuple[MoEMamba, Weights]:
    tensors = renamed(weights, _NAMES)
    norm, eps = _norm(config.get("norm", "LayerNorm 1e-5"))
    network = MoEMamba(
        config["vocab"],
        config["dmodel"],
        config["n_blocks"],
        config["n_experts"],
        config["expert_size"],
        capacity=config.get("capacity_factor", 1.0),
        positions=config["max_length"] if "positions.weight" in tensors else 0,
        expand=config.get("mamba_expand", 2),
        norm=norm,
        eps=eps,
        z_weight=_z_weight(config),
    )
    return network, tensors


def _norm(text: str) -> tuple[NormKind, float]:
    """Kind and epsilon of a norm; the authors' RMSNorm has a bias."""
    found = _NORM.fullmatch(text)
    if found is None:
        raise UpstreamError(
            f"only MoE-Mamba with norm 'LayerNorm' or 'RMSNorm' is known here, alone or as in 'LayerNorm 1e-5', got "
            f"{text!r}"
        )
    return "rms_bias" if found[1].lower().startswith("rms") else "layer", float(found[2] or 1e-5)


def _z_weight(config: Config) -> float:
    """Of the router's z-loss, over that of the balancing loss, with which the trainer multiplies both."""
    weight, balance = config.get("zloss_weight", 0), config.get("load_balancing_loss_weight", BALANCE_WEIGHT)
    if weight and not balance:
        raise UpstreamError("zloss_weight counts beside load_balancing_loss_weight here, which must not be 0 then")
    return weight / balance if weight else 0.0


SYSTEMS = {
    "moe_mamba_lm": System(
        what="MoE-Mamba",
        make=_make,
        needs=arguments(count="vocab dmodel n_blocks n_experts expert_size max_length"),
        takes=arguments(number="capacity_factor mamba_expand", word="norm") | _LOSSES,
        knows=_START_AND_SPEED,
        only=_ONLY,
        marks=(r"encoder\.blocks\.block_0\..+", r"embedding_layer\..+"),
        family="moe_mamba_lm",
    ),
    "moe_switch_ff": System(
        what="TokenChoiceFF",
        make=_make_layer,
        needs=arguments(count="dmodel n_experts expert_size", number="capacity_factor"),
        takes=_LOSSES,
        knows=arguments(number="capacity") | _START_AND_SPEED,
        only=_ONLY,
        marks=(r"(gating\.)?gate", r"(expert_inner_function\.)?lin1_weight"),
    ),
}
