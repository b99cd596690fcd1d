"""MoE-Mamba: Mamba blocks alternating with switch layers, in which each token is served by one of many experts.

Letters: d model width, h width of an expert, E experts.

References:
    Pióro et al., "MoE-Mamba: Efficient Selective State Space Models with Mixture of Experts", 2024.
"""

from __future__ import annotations

from functools import partial
from typing import cast

from torch import nn

from medmamba.networks.experts import SwitchFeedForward, draw
from medmamba.networks.language._stack import NormKind
from medmamba.networks.language.mamba import MambaLM
from medmamba.networks.mamba import MambaBlock

#: (width, pairs of layers, experts, width of an expert) of the published models, with a vocabulary of 50,257.
SIZES = {"25M": (512, 8, 42, 1536), "100M": (768, 16, 42, 2304)}


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
