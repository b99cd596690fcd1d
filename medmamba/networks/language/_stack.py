"""A stack of Mamba blocks around a residual stream, with layers between them that mix channels only.

Letters: B batch, L tokens, d model width, M feed-forward layers.

References:
    Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", 2023, section 3.4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medmamba.networks._backbone import run
from medmamba.networks.experts import SwitchFeedForward
from medmamba.networks.mamba import MambaBlock, MambaState

#: "rms": `torch.nn.RMSNorm`; "layer": layer norm with weight and bias; "rms_bias": RMS norm with a bias, too.
NormKind = Literal["rms", "layer", "rms_bias"]


class Norm(nn.Module):
    """RMS norm or layer norm over channels, in the precision of its input, to the type of its weights.

    Args:
        width: channels.
        kind: see `NormKind`.
        eps: added to the mean square.

    Raises:
        ValueError: for another kind.
    """

    def __init__(self, width: int, kind: NormKind, eps: float = 1e-5) -> None:
        super().__init__()
        if kind not in get_args(NormKind):
            raise ValueError(f"a norm must be one of {', '.join(get_args(NormKind))}, got {kind!r}")
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if kind != "rms" else None
        self.centred, self.eps = kind == "layer", eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) to (..., d)."""
        weight, bias = self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype)
        if self.centred:
            y = F.layer_norm(x, weight.shape, weight, bias, self.eps)
        else:
            y = F.rms_norm(x, weight.shape, weight, self.eps)
            y = y if bias is None else y + bias
        return y.to(self.weight.dtype)


class ResidualLayer(nn.Module):
    """A norm and what reads it; the sum with the stream is the stack's affair."""

    def __init__(self, norm: Norm, mixer: nn.Module) -> None:
        super().__init__()
        self.norm, self.mixer = norm, mixer

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """(B, L, d) to (B, L, d), from a `SwitchFeedForward` with how far it is out of balance."""
        return cast("Tensor | tuple[Tensor, Tensor]", self.mixer(self.norm(x)))


class MambaStack(nn.Module):
    """Mamba blocks, each adding to a stream of which it reads the norm; optionally a feed-forward layer after each.

    The authors carry a block's output and the stream before it in two tensors and add them when the next block starts;
    the sums are the same.

    Args:
        width: d.
        depth: number of Mamba blocks.
        norm: of each layer.
        eps: of the norms.
        block: makes a Mamba block of width d; ``partial(MambaBlock, d_state=8)`` for another than the usual one.
        feed_forward: makes a layer of experts of width d; None: Mamba blocks only.
        float32_residual: add in float32 even if the weights are of 16 bits; deep stacks drift otherwise.
        checkpointing: compute layers a second time in the backward pass instead of keeping their insides.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        *,
        norm: NormKind = "rms",
        eps: float = 1e-5,
        block: Callable[[int], MambaBlock] = MambaBlock,
        feed_forward: Callable[[int], SwitchFeedForward] | None = None,
        float32_residual: bool = True,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.float32_residual, self.checkpointing = float32_residual, checkpointing
        self.layers = nn.ModuleList()
        for _ in range(depth):
            self.layers.append(ResidualLayer(Norm(width, norm, eps), block(width)))
            if feed_forward is not None:
                self.layers.append(ResidualLayer(Norm(width, norm, eps), feed_forward(width)))

    def blocks(self) -> list[MambaBlock]:
        """The Mamba blocks, first to last."""
        return [layer.mixer for layer in self._layers() if isinstance(layer.mixer, MambaBlock)]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L, d) to the stream after the last layer (B, L, d), and (M,) how far each M is out of balance."""
        x, balances = self._stream(x), []
        for layer in self._layers():
            y = cast("Tensor | tuple[Tensor, Tensor]", run(layer, x, checkpointing=self.checkpointing))
            if isinstance(y, tuple):
                y, balance = y
                balances.append(balance)
            x = x + y
        return x, torch.stack(balances) if balances else x.new_zeros(0)

    def prefill(self, x: Tensor, states: tuple[MambaState, ...] | None = None) -> tuple[Tensor, tuple[MambaState, ...]]:
        """As `forward`, and the states to go on from; with the states after earlier tokens, these follow them.

        Feed-forward layers serve every token: what a token gets must not depend on how the text was cut.
        """
        x = self._stream(x)
        after: list[MambaState] = []
        for layer in self._layers():
            if isinstance(layer.mixer, MambaBlock):
                y, state = layer.mixer.prefill(layer.norm(x), None if states is None else states[len(after)])
                after.append(state)
            else:
                y = cast(SwitchFeedForward, layer.mixer).serve_all(layer.norm(x))
            x = x + y
        return x, tuple(after)

    def _layers(self) -> list[ResidualLayer]:
        return [cast(ResidualLayer, layer) for layer in self.layers]

    def _stream(self, x: Tensor) -> Tensor:
        return x.to(torch.promote_types(x.dtype, torch.float32)) if self.float32_residual else x
