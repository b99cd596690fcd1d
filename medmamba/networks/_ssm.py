"""Selective state spaces over a grid of tokens, in several orders at once.

Letters: B batch, L tokens, d model width, e inner width, K orders, N states, W taps, R rank of the step size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self, cast, get_args

import torch
from torch import Tensor, nn

from medmamba.errors import UsageError
from medmamba.kernels import ScanOrder, causal_conv, multi_scan
from medmamba.networks._backbone import check_least

#: Step sizes at the start of training lie between these, evenly on a logarithmic scale.
STEP_MIN, STEP_MAX = 1e-3, 1e-1
#: and never below this.
STEP_FLOOR = 1e-4

#: How an order's step size begins: "mamba": log-uniform between STEP_MIN and STEP_MAX; "linear": as PyTorch draws a
#: linear layer; "zero": such weights and biases of 0. The last two begin at softplus(0) = 0.69, a short memory.
StepStart = Literal["mamba", "linear", "zero"]


#: Marks that training code, the authors' and others', looks for on a parameter: leave it out of weight decay; do not
#: draw it anew.
NO_WEIGHT_DECAY, NO_REINIT = "_no_weight_decay", "_no_reinit"


class KeepsFloat32(nn.Module):
    """A module some of whose parameters stay float32 when it is converted to 16 bits, and some of which are marked.

    A recurrence adds up the rounding of its decays, its step bias and its skip. Names are dotted where a parameter
    belongs to a part. A subclass calls `mark` once its parameters are there.
    """

    #: What stays float32.
    float32_parameters: ClassVar[tuple[str, ...]] = ()
    #: Marks of parameters; PyTorch forgets such marks when it copies or converts, here they come back.
    marks: ClassVar[Mapping[str, str]] = {}

    def mark(self) -> None:
        """Set the marks."""
        for name, mark in self.marks.items():
            setattr(self.get_parameter(name), mark, True)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """What copies and unpickled modules go through."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # torch's has no hints
        self.mark()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What ``.to``, ``.half`` and their like do to each tensor."""
        own = [self.get_parameter(name) for name in self.float32_parameters]
        kept = {id(tensor) for parameter in own for tensor in (parameter, parameter.grad)}

        def apply(tensor: Tensor) -> Tensor:
            new = fn(tensor)
            rounds = id(tensor) in kept and new.dtype in (torch.float16, torch.bfloat16)
            return tensor.to(new.device) if rounds else new

        super()._apply(apply, recurse)  # type: ignore[no-untyped-call]  # torch's has no hints
        self.mark()
        return self


def draw_step_size(weight: Tensor, bias: Tensor, start: StepStart = "mamba") -> None:
    """Initialise the projection of the step size in place.

    Args:
        weight: (e, R).
        bias: (e,).
        start: see `StepStart`.

    Raises:
        UsageError: if there is no such start, naming those there are.

    References:
        Gu and Dao, "Mamba", 2023, section 3.6.
    """
    if start not in get_args(StepStart):
        raise UsageError(f"a step size must start as one of {', '.join(get_args(StepStart))}, but got {start!r}")
    bound = weight.shape[1] ** -0.5
    nn.init.uniform_(weight, -bound, bound)  # Mamba's and PyTorch's bounds are the same
    with torch.no_grad():
        if start == "mamba":
            low, high = math.log(STEP_MIN), math.log(STEP_MAX)
            step = torch.exp(torch.rand_like(bias) * (high - low) + low).clamp(min=STEP_FLOOR)
            bias.copy_(step + torch.log(-torch.expm1(-step)))  # the inverse of softplus
        elif start == "linear":
            bias.uniform_(-bound, bound)
        else:
            bias.zero_()


def inner_width(width: int, expand: float) -> int:
    """So many times a width, rounded down.

    Raises:
        UsageError: if nothing is left.
    """
    if (inner := int(expand * width)) < 1:
        raise UsageError(f"the inner width of a block must be at least 1, but is {expand} times {width}, rounded down")
    return inner


def draw_decays(channels: int, states: int) -> Tensor:
    """log(1), ..., log(N) for every channel, (channels, N): the S4D-real start of A = -exp(A_log)."""
    return torch.log(torch.arange(1, states + 1, dtype=torch.float32)).repeat(channels, 1)


class ScansInOrders(KeepsFloat32):
    """What reads a grid of tokens in several orders; the parameters of its scans, and the scans.

    Args:
        width: d.
        orders: K orders.
        states: N.
        expand: e over d.
        rank: R; 0: a sixteenth of the width, rounded up.
    """

    float32_parameters = ("A_log", "D", "step_bias")
    marks: ClassVar[Mapping[str, str]] = {"A_log": NO_WEIGHT_DECAY, "D": NO_WEIGHT_DECAY, "step_bias": NO_REINIT}

    def __init__(self, width: int, orders: Sequence[ScanOrder], *, states: int, expand: float, rank: int) -> None:
        super().__init__()
        check_least(1, states=states)
        self.orders, self.states = tuple(orders), states
        self.inner, self.rank = inner_width(width, expand), rank or math.ceil(width / 16)

    def add_scans(self, own: int) -> None:
        """Add the parameters; how the step sizes begin is the subclass's affair.

        Args:
            own: how many step sizes, B, C and D there are: one of each for each order, or one for all.
        """
        bound = self.inner**-0.5
        self.x_proj = nn.Parameter(torch.empty(own, self.rank + 2 * self.states, self.inner).uniform_(-bound, bound))
        self.step_weight = nn.Parameter(torch.empty(own, self.inner, self.rank))
        self.step_bias = nn.Parameter(torch.empty(own, self.inner))
        self.A_log = nn.Parameter(draw_decays(self.inner, self.states).repeat(len(self.orders), 1, 1))
        self.D = nn.Parameter(torch.ones(own, self.inner))

    def scan(self, u: Tensor, projected: Tensor, z: Tensor | None, grid: Sequence[int], scale: float = 1.0) -> Tensor:
        """The sum of all orders.

        Args:
            u: (B, K, e, L), or (B, e, L) for all orders.
            projected: (B, K, L, R + 2 N) or (B, 1, L, R + 2 N), what ``x_proj`` makes of it.
            z: (B, e, L) gate of the sum.
            grid: sizes that multiply to L, last axis fastest.
            scale: of the sum.

        Returns:
            (B, L, e).
        """
        parameters = self.A_log, self.D, self.step_weight, self.step_bias
        return self.scan_from(u, projected, z, grid, scale, self.orders, parameters)[0]

    def scan_from(
        self,
        u: Tensor,
        projected: Tensor,
        z: Tensor | None,
        grid: Sequence[int],
        scale: float,
        orders: Sequence[ScanOrder],
        parameters: Sequence[Tensor],
        state: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The sum of some orders, on from a state.

        Args:
            u: see `scan`.
            projected: see `scan`.
            z: see `scan`.
            grid: see `scan`.
            scale: see `scan`.
            orders: K of them.
            parameters: ``A_log``, ``D``, ``step_weight`` and ``step_bias`` of these orders.
            state: (B, K, e, N) after what came before; None: nothing did.

        Returns:
            (B, L, e), and the state after these tokens.
        """
        A_log, D, step_weight, step_bias = parameters
        step, B, C = projected.split([self.rank, self.states, self.states], dim=-1)
        each = (-1, len(orders), -1, -1)  # copies nothing; changes nothing unless the orders share
        y, state = multi_scan(
            u,
            torch.matmul(step, step_weight.mT).mT.expand(each),
            -torch.exp(A_log),
            B.mT.expand(each),
            C.mT.expand(each),
            D.expand(len(orders), -1),
            z,
            step_bias.expand(len(orders), -1),  # added inside the scan, in float32
            delta_softplus=True,
            orders=orders,
            grid=grid,
            scale=scale,
            initial_state=state,
        )
        return y.mT, state


class GridMamba(ScansInOrders):
    """Mix a grid of tokens: a Mamba block that reads it in several orders and adds up what they give.

    The orders share the projections at entry and exit and the gate; each has its own convolution, step size, B, C, A
    and D, unless they are shared. No norm, dropout or residual inside.

    Args:
        width: d.
        orders: K orders.
        states: N.
        taps: W of the causal depthwise convolution.
        expand: e over d.
        rank: R; 0: a sixteenth of the width, rounded up.
        mean: whether the orders' results are averaged rather than summed.
        starts: how each order's step size begins; one for all, or one each.
        conv_bias: whether the convolutions have a bias.
        bias: whether the projections at entry and exit have one.
        shared: whether all orders read what the first one's convolution gives, with the same step size, B, C and D, so
            that only A is each order's own.
        layer_scale: at the start, of a factor that is learned for each channel of the output; None: there is none.

    References:
        Zhu et al., "Vision Mamba", 2024 (two orders, mean; "bidirectional SSM" in its ablations: shared, sum); Xing et
        al., "SegMamba", 2024 (three, sum); Yang et al., "Vivim", 2024 (three, mean).
    """

    def __init__(
        self,
        width: int,
        orders: Sequence[ScanOrder],
        *,
        states: int = 16,
        taps: int = 4,
        expand: float = 2,
        rank: int = 0,
        mean: bool = False,
        starts: StepStart | Sequence[StepStart] = "mamba",
        conv_bias: bool = True,
        bias: bool = False,
        shared: bool = False,
        layer_scale: float | None = None,
    ) -> None:
        super().__init__(width, orders, states=states, expand=expand, rank=rank)
        check_least(1, taps=taps)
        self.scale = 1 / len(self.orders) if mean else 1.0
        own = 1 if shared else len(self.orders)
        self.in_proj = nn.Linear(width, 2 * self.inner, bias=bias)
        self.conv_weight = nn.Parameter(torch.empty(own, self.inner, taps).uniform_(-(taps**-0.5), taps**-0.5))
        drawn = torch.empty(own, self.inner).uniform_(-(taps**-0.5), taps**-0.5)
        self.conv_bias = nn.Parameter(drawn) if conv_bias else None
        self.add_scans(own)
        self.out_proj = nn.Linear(self.inner, width, bias=bias)
        self.gamma = nn.Parameter(torch.full((width,), float(layer_scale))) if layer_scale is not None else None
        each: Sequence[StepStart] = [starts] * own if isinstance(starts, str) else starts
        for weight, step_bias, start in zip(self.step_weight, self.step_bias, each, strict=True):
            draw_step_size(weight.detach(), step_bias.detach(), start)
        self.mark()

    def forward(self, x: Tensor, grid: Sequence[int]) -> Tensor:
        """(B, L, d) to (B, L, d), for tokens of a grid whose sizes multiply to L, last axis fastest."""
        u, z = self.in_proj(x).chunk(2, dim=-1)
        u = causal_conv(u.mT, self.conv_weight, self.conv_bias, orders=self.orders[: len(self.conv_weight)], grid=grid)
        # Tokens first in memory: every product reads and writes whole rows of channels.
        projected = torch.matmul(u.mT, self.x_proj.mT)
        return self.leave(self.scan(u.expand(-1, len(self.orders), -1, -1), projected, z.mT, grid, self.scale))

    def leave(self, y: Tensor) -> Tensor:
        """What the scans gave, (B, L, e), to the output."""
        out = cast(Tensor, self.out_proj(y))
        return out if self.gamma is None else out * self.gamma
