"""What mixes the voxels of a feature map, by name: the question whether Mamba helps, as one option.

Letters: B batch, L tokens, d width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from medmamba.errors import UsageError
from medmamba.kernels import BACKWARD, FORWARD, ScanOrder, bidirectional, cross
from medmamba.networks._causal import CausalGridMamba, State
from medmamba.networks._ssm import GridMamba
from medmamba.networks.experts import BALANCE_WEIGHT, SwitchFeedForward
from medmamba.networks.mamba import MambaBlock

#: "none": nothing in a Mamba block's place; "mamba": forwards; "bimamba": forwards and backwards; "tri": forwards,
#: backwards and across slices, as SegMamba; "cross": along each axis and back, as VMamba; "moe": forwards, then a layer
#: of experts.
Mixer = Literal["none", "mamba", "bimamba", "tri", "cross", "moe"]

#: Experts of the mixer "moe", and the width of each over that of a token.
EXPERTS, EXPERT_RATIO = 4, 2


def check_mixer(name: str) -> None:
    """Refuse what is no mixer.

    Raises:
        UsageError: naming those there are.
    """
    if name not in get_args(Mixer):
        raise UsageError(f"mixer must be one of {', '.join(get_args(Mixer))}, but is {name!r}")


def orders_of(name: Mixer, dims: int) -> tuple[ScanOrder, ...]:
    """The scan orders of a mixer on a grid of so many axes."""
    if name == "cross":
        return cross(dims)
    if name == "tri" and dims > 1:
        return FORWARD, BACKWARD, ScanOrder(axes=(*range(1, dims), 0))
    return bidirectional() if name in ("bimamba", "tri") else (FORWARD,)


class TokenMixer(nn.Module):
    """Mix the tokens of a grid. No norm before and no residual around.

    Args:
        name: any `Mixer` but "none".
        width: d.
        dims: axes of the grid.
        states: per channel of a Mamba block.
        taps: of its convolution.
        expand: its inner width over d.
        causal: whether the first axis is time and no frame sees a later one, see `medmamba.networks._causal`.

    Raises:
        UsageError: if there is no such mixer.
    """

    def __init__(
        self,
        name: Mixer,
        width: int,
        dims: int,
        *,
        states: int = 16,
        taps: int = 4,
        expand: float = 2,
        causal: bool = False,
    ) -> None:
        super().__init__()
        check_mixer(name)
        self.mamba: nn.Module
        if name in ("mamba", "moe"):
            self.mamba = MambaBlock(width, states, taps, expand)
        else:
            orders, mean = orders_of(name, dims), name == "bimamba"
            kind = CausalGridMamba if causal else GridMamba
            self.mamba = kind(width, orders, mean=mean, states=states, taps=taps, expand=expand)
        self.experts = _Experts(width) if name == "moe" else nn.Identity()

    def forward(self, x: Tensor, grid: Sequence[int]) -> Tensor:
        """(B, L, d) to (B, L, d), for tokens of a grid, last axis fastest."""
        return cast(Tensor, self.experts(self.mamba(x, grid)))

    def advance(self, x: Tensor, grid: Sequence[int], state: State) -> tuple[Tensor, State]:
        """As `forward` of a causal mixer, for frames that follow those of a state; () where none came before."""
        y, after = cast("MambaBlock | CausalGridMamba", self.mamba).advance(x, grid, state)
        return cast(Tensor, self.experts(y)), after


class _Experts(nn.Module):
    """Norm, switch layer, residual. The balancing loss needs nobody's help to reach the gradient."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        # Without a limit no token depends on another entry of the batch.
        self.switch = SwitchFeedForward(width, EXPERT_RATIO * width, EXPERTS, capacity=None)

    def forward(self, x: Tensor) -> Tensor:
        served, balance = self.switch(self.norm(x))
        y = x + served
        return cast(Tensor, _WithLoss.apply(y, BALANCE_WEIGHT * balance)) if torch.is_grad_enabled() else y


class _WithLoss(torch.autograd.Function):
    """The first argument, whose backward pass also descends the second: a loss that no trainer has to know of."""

    @staticmethod
    def forward(y: Tensor, loss: Tensor) -> Tensor:
        return y.view_as(y)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.kind = inputs[1].dtype

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        return grad, torch.ones((), dtype=ctx.kind, device=grad.device)
