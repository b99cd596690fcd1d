"""The S6 block of Mamba: a sequence mixer with a selective state space.

Letters: B batch, L tokens, d model width (``d_model``), E expansion, e = E d inner width, N states (``d_state``),
K convolution taps (``d_conv``), R rank of the step size (``dt_rank``).

References:
    Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", 2023, sections 3.2 to 3.4.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medmamba.kernels import FORWARD, causal_conv, selective_scan
from medmamba.networks._backbone import check_least
from medmamba.networks._ssm import NO_REINIT, NO_WEIGHT_DECAY, KeepsFloat32, draw_decays, draw_step_size, inner_width


@dataclass(frozen=True, slots=True)
class MambaState:
    """What a block remembers between tokens.

    Args:
        conv: (B, e, K) the last K inputs of the convolution, newest last.
        ssm: (B, e, N) float32, the state.
    """

    conv: Tensor
    ssm: Tensor


class StepProjection(nn.Module):
    """Weight and bias from which a block makes its step sizes.

    No linear layer: passes over a network that draw those anew, or set their biases to 0, would undo how step sizes
    begin.

    Args:
        rank: R.
        inner: e.
    """

    def __init__(self, rank: int, inner: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inner, rank))
        self.bias = nn.Parameter(torch.empty(inner))
        draw_step_size(self.weight.detach(), self.bias.detach())


class MambaBlock(KeepsFloat32):
    """Mix a sequence, each token seeing itself and those before.

    No norm, dropout or residual inside. B is discretised by Euler's rule, as in the authors' code and all published
    weights, not by the zero-order hold of the paper's equation 4. ``A_log``, ``D`` and the bias of the step size stay
    float32 when the module is converted to 16 bits, because a recurrence adds up their rounding.

    Args:
        d_model: width of a token.
        d_state: states per channel.
        d_conv: taps of the causal depthwise convolution.
        expand: inner width over ``d_model``.
        dt_rank: rank of the step size's projection; "auto": a sixteenth of the width, rounded up.
        conv_bias: whether the convolution has a bias.
        bias: whether the projections at entry and exit have one.
    """

    float32_parameters = ("A_log", "D", "dt_proj.bias")
    marks: ClassVar[Mapping[str, str]] = {"A_log": NO_WEIGHT_DECAY, "D": NO_WEIGHT_DECAY, "dt_proj.bias": NO_REINIT}

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: float = 2,
        dt_rank: int | Literal["auto"] = "auto",
        conv_bias: bool = True,
        bias: bool = False,
    ) -> None:
        super().__init__()
        check_least(1, states=d_state, taps=d_conv)
        self.d_state, self.d_conv = d_state, d_conv
        self.d_inner = inner_width(d_model, expand)
        self.dt_rank = math.ceil(d_model / 16) if dt_rank == "auto" else dt_rank
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=bias)
        self.conv1d = nn.Conv1d(self.d_inner, self.d_inner, d_conv, groups=self.d_inner, bias=conv_bias)
        self.x_proj = nn.Linear(self.d_inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = StepProjection(self.dt_rank, self.d_inner)
        self.A_log = nn.Parameter(draw_decays(self.d_inner, d_state))
        self.D = nn.Parameter(torch.ones(self.d_inner, dtype=torch.float32))
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=bias)
        self.mark()

    def forward(self, x: Tensor, grid: Sequence[int] = ()) -> Tensor:
        """(B, L, d) to (B, L, d); the grid that the tokens are of, which other mixers need, changes nothing."""
        return self.prefill(x)[0]

    def advance(self, x: Tensor, grid: Sequence[int], state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """`prefill` with the state as a tuple, () where nothing came before; see `medmamba.networks._causal`."""
        y, after = self.prefill(x, MambaState(*state) if state else None)
        return y, (after.conv, after.ssm)

    def prefill(self, x: Tensor, state: MambaState | None = None) -> tuple[Tensor, MambaState]:
        """As `forward`, and the state to go on from; with the state after earlier tokens, these follow them."""
        # Tokens first in memory: every product reads and writes whole rows of channels, and nothing is transposed.
        u, z = self.in_proj(x).chunk(2, dim=-1)
        taken = u.mT
        known = 0 if state is None else self.d_conv - 1  # inputs before these that the convolution reaches
        if state is not None:
            taken = torch.cat([state.conv[..., 1:].mT.to(u.dtype), u], dim=1).mT
        seen = F.pad(taken[..., -self.d_conv :], (max(self.d_conv - taken.shape[-1], 0), 0))
        u = self._convolve(taken)[..., known:]
        step, B, C = self.x_proj(u.mT).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        y, ssm = selective_scan(
            u,
            F.linear(step, self.dt_proj.weight).mT,
            -torch.exp(self.A_log),
            B.mT,
            C.mT,
            self.D,
            z.mT,
            self.dt_proj.bias,  # added inside the scan, in float32
            delta_softplus=True,
            initial_state=None if state is None else state.ssm,
            return_last_state=True,
        )
        return self.out_proj(y.mT), MambaState(seen, ssm)

    def _convolve(self, u: Tensor) -> Tensor:
        """Causal depthwise convolution and SiLU, (B, e, L)."""
        weight, bias = self.conv1d.weight[:, 0], self.conv1d.bias
        return causal_conv(
            u, weight[None], None if bias is None else bias[None], orders=(FORWARD,), grid=(u.shape[-1],)
        )[:, 0]
