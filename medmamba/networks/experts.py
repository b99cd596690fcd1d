"""Switch layers, in which each token is served by one of many experts.

Letters: B batch, L tokens of a text, T = B L tokens of the batch, d model width, h width of an expert, E experts.

References:
    Fedus et al., "Switch Transformers", 2022, section 2; initialisation, and the weight of the balancing loss, as in
    Pióro et al., "MoE-Mamba: Efficient Selective State Space Models with Mixture of Experts", 2024.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import is_fake

from medmamba.networks._ssm import KeepsFloat32

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
