"""MoE-Mamba: Mamba blocks alternating with switch layers, in which each token is served by one of many experts.

Letters: B batch, L tokens of a text, T = B L tokens of the batch, d model width, h width of an expert, E experts.

References:
    Pióro et al., "MoE-Mamba: Efficient Selective State Space Models with Mixture of Experts", 2024.
    Fedus et al., "Switch Transformers", 2022, section 2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F  # noqa: N812  (the name everybody knows)
from torch import Tensor, nn
from torch._subclasses.fake_tensor import is_fake

from medmamba.networks._convert import UpstreamError, check_known, check_only, load_upstream
from medmamba.networks._ssm import KeepsFloat32
from medmamba.networks._stack import NormKind
from medmamba.networks.language import MambaLM
from medmamba.networks.mamba import MambaBlock

#: (width, pairs of layers, experts, width of an expert) of the published models, with a vocabulary of 50,257.
SIZES = {"25M": (512, 8, 42, 1536), "100M": (768, 16, 42, 2304)}

#: Weight of the balancing loss, averaged over layers, beside the cross-entropy.
BALANCE_WEIGHT = 0.01

#: Weights are drawn with a variance of this over the fan-in, and none beyond plus or minus twice this.
INIT_SCALE = 0.1


@dataclass(frozen=True, slots=True)
class Routing:
    """Which expert serves which token.

    Args:
        probabilities: (T, E) of each expert.
        expert: (T,) the number of each token's most likely expert; the first of equals.
        kept: (T,) whether that expert has room for it.
        size: (T,) logarithm of the sum of the router's exponentials, for the `router_z_loss`; None: not known.
    """

    probabilities: Tensor
    expert: Tensor
    kept: Tensor
    size: Tensor | None = None


class SwitchFeedForward(KeepsFloat32):
    """A feed-forward layer of many experts; each token is served by the one that the router finds most likely.

    An expert is a linear layer, a rectifier and a linear layer, without biases; its output is multiplied by its
    probability. Tokens are sorted by expert and each expert multiplies only its own.

    With a capacity, an expert serves at most so many tokens of a batch: **first come, first served**, in the order of
    the batch, one row after the other. Others get 0, so only the residual is left of them. The authors' first code went
    by the same order, with room for one fewer; their later code leaves it to the device which tokens are dropped.

    Args:
        width: d.
        hidden: h.
        experts: E.
        capacity: each expert serves at most ``capacity * T / E`` tokens, rounded down, but at least one; None: all.
        z_weight: how much the `router_z_loss` counts beside the `balancing_loss`, which is 1.

    Raises:
        ValueError: if the number of experts or the capacity is not positive, or the weight is negative.
    """

    #: Small differences in the router's logits send a token elsewhere.
    float32_parameters = ("router",)

    def __init__(
        self, width: int, hidden: int, experts: int, *, capacity: float | None = 1.0, z_weight: float = 0.0
    ) -> None:
        super().__init__()
        if experts < 1 or (capacity is not None and capacity <= 0):
            raise ValueError(
                f"a switch layer must have at least one expert and a positive capacity, got {experts} and {capacity}; "
                "use capacity=None for no limit"
            )
        if z_weight < 0:
            raise ValueError(f"z_weight must be at least 0, got {z_weight}")
        self.capacity, self.z_weight = capacity, z_weight
        self.router = nn.Parameter(torch.empty(width, experts))
        self.weight_in = nn.Parameter(torch.empty(experts, width, hidden))
        self.weight_out = nn.Parameter(torch.empty(experts, hidden, width))
        draw(self.router, width)
        draw(self.weight_in, width)
        draw(self.weight_out, experts * hidden)  # the authors' fan-in counts all experts

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L, d) to (B, L, d), and the `balancing_loss` with its share of the `router_z_loss`, a scalar."""
        routing = self.route(x.flatten(0, -2), self.capacity)
        loss = balancing_loss(routing)
        if self.z_weight:
            loss = loss + self.z_weight * router_z_loss(routing)
        return self.mix(x.flatten(0, -2), routing).view(x.shape), loss

    def serve_all(self, x: Tensor) -> Tensor:
        """(B, L, d) to (B, L, d), whatever the capacity: a token's answer does not depend on other tokens."""
        tokens = x.flatten(0, -2)
        return self.mix(tokens, self.route(tokens, None)).view(x.shape)

    def route(self, tokens: Tensor, capacity: float | None) -> Routing:
        """Choose an expert for each token of (T, d), in float32 at least."""
        kind = torch.promote_types(tokens.dtype, torch.float32)
        with torch.autocast(tokens.device.type, enabled=False):
            logits = tokens.to(kind) @ self.router.to(kind)
            probabilities, size = logits.softmax(dim=-1), logits.logsumexp(dim=-1)
        expert = probabilities.argmax(dim=-1)
        if capacity is None:
            return Routing(probabilities, expert, torch.ones_like(expert, dtype=torch.bool), size)
        experts = probabilities.shape[1]
        room = max(1, int(capacity * len(tokens) / experts))
        order = expert.argsort(stable=True)
        counts = torch.bincount(expert, minlength=experts)
        first = counts.cumsum(0) - counts
        turn = torch.arange(len(tokens), device=tokens.device) - first[expert[order]]
        kept = torch.empty_like(expert, dtype=torch.bool).scatter(0, order, turn < room)
        return Routing(probabilities, expert, kept, size)

    def mix(self, tokens: Tensor, routing: Routing) -> Tensor:
        """Serve (T, d) as routed: (T, d), rows of 0 for tokens that are not kept."""
        if torch.compiler.is_compiling() or is_fake(tokens):
            return self._mix_in_programs(tokens, routing)
        order = routing.expert.argsort(stable=True)
        order = order[routing.kept[order]]
        counts = torch.bincount(routing.expert[order], minlength=len(self.weight_in)).tolist()
        groups = zip(tokens[order].split(counts), self.weight_in.unbind(), self.weight_out.unbind(), strict=True)
        parts = [torch.relu(rows @ first) @ second for rows, first, second in groups if len(rows)]
        served = torch.cat(parts) if parts else tokens[order]
        share = routing.probabilities.gather(1, routing.expert[:, None])[order]
        return torch.zeros_like(tokens).index_copy(0, order, (served * share).to(tokens.dtype))

    def _mix_in_programs(self, tokens: Tensor, routing: Routing) -> Tensor:
        """As `mix`, with all experts serving all tokens: a compiled program cannot know how many each will get."""
        share = routing.probabilities.gather(1, routing.expert[:, None])
        total = torch.zeros_like(tokens)
        for number, (first, second) in enumerate(zip(self.weight_in.unbind(), self.weight_out.unbind(), strict=True)):
            own = (routing.kept & (routing.expert == number))[:, None]
            served = torch.relu(tokens @ first) @ second
            total = total + torch.where(own, served * share, 0).to(tokens.dtype)
        return total


def balancing_loss(routing: Routing) -> Tensor:
    """E times the sum over experts of (share of tokens that want it) times (its mean probability), a scalar.

    1 if tokens and probabilities are spread evenly, towards E if one expert gets all. Tokens that found no room are
    counted, and no tokens are in balance: 0. Only the probabilities carry a gradient.

    References:
        Fedus et al., "Switch Transformers", 2022, equation 4.
    """
    count, experts = routing.probabilities.shape
    wanted = F.one_hot(routing.expert, experts).sum(0)
    return experts * (wanted * routing.probabilities.sum(0)).sum() / max(1, count) ** 2


def router_z_loss(routing: Routing) -> Tensor:
    """Mean over tokens of the squared logarithm of the sum of the router's exponentials, a scalar: keeps logits small.

    No tokens have none: 0.

    Raises:
        ValueError: if the routing does not know these sums.

    References:
        Zoph et al., "ST-MoE", 2022, equation 5.
    """
    if routing.size is None:
        raise ValueError("the routing must know the size of its logits; take one that SwitchFeedForward.route made")
    return routing.size.square().sum() / max(1, len(routing.size))


def draw(weight: Tensor, fan_in: int) -> None:
    """Initialise a weight in place as the authors do."""
    bound = 2 * INIT_SCALE
    nn.init.trunc_normal_(weight, std=(INIT_SCALE / fan_in) ** 0.5, a=-bound, b=bound)


class MoEMamba(MambaLM):
    """Language model of pairs of a Mamba block and a switch layer. The defaults are the published settings.

    Layer norms, an untied head, no norm before it, no positions. `balanced` returns the balancing losses of all switch
    layers, each with its share of the router's z-loss; the authors add `BALANCE_WEIGHT` times their mean to the
    cross-entropy.

    Args:
        vocabulary: number of tokens.
        width: d.
        pairs: number of Mamba blocks, and of switch layers.
        experts: E.
        hidden: h; three times the width in the published models.
        capacity: as in `SwitchFeedForward`. It limits `forward` and `balanced`, in training and evaluation as
            published, but neither `prefill` nor `generate`.
        positions: learned embeddings of as many positions are added; 0: none.
        expand: inner width of a Mamba block over d.
        norm: of each layer.
        eps: of the norms.
        z_weight: as in `SwitchFeedForward`.
        checkpointing: as in `MambaStack`.
    """

    def __init__(
        self,
        vocabulary: int,
        width: int,
        pairs: int,
        experts: int,
        hidden: int,
        *,
        capacity: float | None = 1.0,
        positions: int = 0,
        expand: float = 2,
        norm: NormKind = "layer",
        eps: float = 1e-5,
        z_weight: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__(
            vocabulary,
            width,
            pairs,
            norm=norm,
            eps=eps,
            tied=False,
            final_norm=False,
            multiple=1,
            positions=positions,
            block=partial(MambaBlock, expand=expand),
            feed_forward=partial(
                SwitchFeedForward, hidden=hidden, experts=experts, capacity=capacity, z_weight=z_weight
            ),
            checkpointing=checkpointing,
        )

    def _initialise(self) -> None:
        """The authors': blocks and switch layers keep their own."""
        for embedding in (self.embedding, self.positions):
            if embedding is not None:
                draw(embedding.weight, 1)
        head = cast(nn.Linear, self.head)
        draw(head.weight, head.in_features)


def active_parameters(network: nn.Module) -> int:
    """Parameters that one token meets: all but those of the experts that do not serve it."""
    switches = [module for module in network.modules() if isinstance(module, SwitchFeedForward)]
    resting = sum(weight[1:].numel() for switch in switches for weight in (switch.weight_in, switch.weight_out))
    return sum(parameter.numel() for parameter in network.parameters()) - resting


#: What must be as the authors' layers of token choice have it.
_ONLY: dict[str, Any] = {
    "routing_top_k": 1,
    "moe_values_exp": 1.0,
    "detach_gate": False,
    "get_router_values_from": "weights",
    "expert_use_bias": False,
}
#: Arguments that say how weights are drawn, or how fast the layer runs.
_START_AND_SPEED = ("init_type", "init_scale", "use_einsum", "use_torch_bmm", "vectorize")
_LOSSES = ("load_balancing_loss_weight", "zloss_weight")


def convert_layer(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> nn.Module:
    """The authors' ``TokenChoiceFF`` as a `SwitchFeedForward`.

    Args:
        config: arguments of its constructor; the weight of the balancing loss is the trainer's affair here, and that of
            the router's z-loss counts beside it. ``capacity`` is what ``capacity_factor`` came to for some batch, and
            says nothing new.
        state_dict: its tensors, by the names of January 2024 or of later.

    Raises:
        UpstreamError: for an argument that is not known here, more than one expert for a token, or weights that do not
            fit.
    """
    known = ("dmodel", "n_experts", "expert_size", "capacity_factor", "capacity")
    check_known("switch layer", config, (*known, *_LOSSES, *_ONLY, *_START_AND_SPEED))
    check_only("a switch layer", config, _ONLY)
    layer = SwitchFeedForward(
        config["dmodel"],
        config["expert_size"],
        config["n_experts"],
        capacity=config["capacity_factor"],
        z_weight=_z_weight(config),
    )
    return load_upstream(layer, {_leaf(key): tensor for key, tensor in state_dict.items()})


def convert(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> nn.Module:
    """The authors' tower of Mamba and token choice layers as a `MoEMamba`.

    Args:
        config: ``vocab``, ``dmodel``, ``n_blocks``, ``n_experts``, ``expert_size``, ``capacity_factor``,
            ``mamba_expand``, and ``max_length``, which counts only if positions were learned; ``norm``, "LayerNorm" or
            "RMSNorm" and its epsilon. The weight of the balancing loss is the trainer's affair here, and that of the
            router's z-loss counts beside it.
        state_dict: its tensors.

    Raises:
        UpstreamError: for an argument that is not known here, another norm, or weights that do not fit.
    """
    known = ("vocab", "dmodel", "n_blocks", "n_experts", "expert_size", "capacity_factor", "mamba_expand", "max_length")
    check_known("MoE-Mamba", config, (*known, "norm", *_LOSSES, *_ONLY, *_START_AND_SPEED))
    check_only("MoE-Mamba", config, _ONLY)
    tensors = {_name(key): tensor for key, tensor in state_dict.items()}
    norm, eps = _norm(str(config.get("norm", "LayerNorm 1e-5")))
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
    return load_upstream(network, tensors)


def _norm(text: str) -> tuple[NormKind, float]:
    """Kind and epsilon of a norm that is written like "LayerNorm 1e-5"; the authors' RMSNorm has a bias."""
    found = re.match(r"(LayerNorm|layer_norm|RMSNorm|rms_norm)\b[^\d]*([\d.]+(?:e-?\d+)?)?", text)
    if found is None:
        raise UpstreamError(f"only MoE-Mamba with norm 'LayerNorm' or 'RMSNorm' is known here, got {text!r}")
    return "rms_bias" if found[1].lower().startswith("rms") else "layer", float(found[2] or 1e-5)


def _z_weight(config: Mapping[str, Any]) -> float:
    """Of the router's z-loss, over that of the balancing loss, with which the trainer multiplies both."""
    weight, balance = config.get("zloss_weight", 0), config.get("load_balancing_loss_weight", BALANCE_WEIGHT)
    if weight and not balance:
        raise UpstreamError("zloss_weight counts beside load_balancing_loss_weight here, which must not be 0 then")
    return weight / balance if weight else 0.0


def _leaf(key: str) -> str:
    """Our name of a switch layer's tensor."""
    leaves = {"gate": "router", "lin1_weight": "weight_in", "lin2_weight": "weight_out"}
    return leaves.get(key.rpartition(".")[2], key)


#: The authors' RMSNorm calls scale and bias so.
_NORM_LEAVES = {"pre_norm.g": "norm.weight", "pre_norm.b": "norm.bias"}


def _name(key: str) -> str:
    """Our name of a tower's tensor."""
    names = {
        "embedding_layer.layers.0.weight": "embedding.weight",
        "embedding_layer.layers.1.layer.weight": "positions.weight",
    }
    if not key.startswith("encoder.blocks.block_"):
        return names.get(key, key)
    number, _, rest = key.removeprefix("encoder.blocks.block_").partition(".block.")
    branch, _, leaf = rest.partition(".layer.")
    index = 2 * int(number) + (branch == "residual_feedforward")
    if leaf.startswith("feedforward."):
        leaf = "mixer." + _leaf(leaf)
    leaf = _NORM_LEAVES.get(leaf, leaf)
    return f"stack.layers.{index}." + leaf.replace("pre_norm.", "norm.").replace("mamba.", "mixer.")
