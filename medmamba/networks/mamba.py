"""The S6 block of Mamba: a sequence mixer with a selective state space.

Letters: B batch, L tokens, d model width (``d_model``), E expansion, e = E d inner width, N states (``d_state``),
K convolution taps (``d_conv``), R rank of the step size (``dt_rank``).

References:
    Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", 2023, sections 3.2 to 3.4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812  (the name everybody knows)
from torch import Tensor, nn

from medmamba.kernels import selective_scan
from medmamba.networks._ssm import KeepsFloat32, draw_decays, draw_step_size


@dataclass(frozen=True, slots=True)
class MambaState:
    """What a block remembers between tokens.

    Args:
        conv: (B, e, K) the last K inputs of the convolution, newest last.
        ssm: (B, e, N) float32, the state.
    """

    conv: Tensor
    ssm: Tensor


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
        self.d_state, self.d_conv = d_state, d_conv
        self.d_inner = int(expand * d_model)
        self.dt_rank = math.ceil(d_model / 16) if dt_rank == "auto" else dt_rank
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=bias)
        self.conv1d = nn.Conv1d(self.d_inner, self.d_inner, d_conv, groups=self.d_inner, bias=conv_bias)
        self.x_proj = nn.Linear(self.d_inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(self.dt_rank, self.d_inner)
        self.A_log = nn.Parameter(draw_decays(self.d_inner, d_state))
        self.D = nn.Parameter(torch.ones(self.d_inner, dtype=torch.float32))
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=bias)
        draw_step_size(self.dt_proj.weight.detach(), self.dt_proj.bias.detach())
        # What the authors' training code, and others', looks for before it draws biases anew or decays weights.
        for parameter, mark in (
            (self.dt_proj.bias, "_no_reinit"),
            (self.A_log, "_no_weight_decay"),
            (self.D, "_no_weight_decay"),
        ):
            setattr(parameter, mark, True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, d) to (B, L, d)."""
        u, z = self._project_in(x)
        y, _ = self._scan(self._convolve(u), z, initial_state=None)
        return self._project_out(y)

    def prefill(self, x: Tensor) -> tuple[Tensor, MambaState]:
        """As `forward`, and the state to go on from with `step`."""
        u, z = self._project_in(x)
        y, ssm = self._scan(self._convolve(u), z, initial_state=None)
        conv = F.pad(u, (self.d_conv - u.shape[-1], 0))  # crops when there are more tokens than taps
        return self._project_out(y), MambaState(conv, ssm)

    def step(self, x: Tensor, state: MambaState) -> tuple[Tensor, MambaState]:
        """One more token: (B, 1, d) and the state before it, to (B, 1, d) and the state after."""
        u, z = self._project_in(x)
        conv = torch.cat([state.conv[..., 1:], u], dim=-1)
        y, ssm = self._scan(F.silu(self.conv1d(conv)), z, initial_state=state.ssm)
        return self._project_out(y), MambaState(conv, ssm)

    def _project_in(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Branch and gate, each (B, e, L); channels first from here on, so that nothing is transposed in between."""
        weights = self.in_proj.weight.chunk(2)
        biases = (None, None) if self.in_proj.bias is None else self.in_proj.bias.chunk(2)
        # Apart, because halves of one product would be copied before the convolution and before the scan.
        u, z = (_project(x.transpose(1, 2), w, b) for w, b in zip(weights, biases, strict=True))
        return u, z

    def _convolve(self, u: Tensor) -> Tensor:
        """Causal depthwise convolution and SiLU, (B, e, L)."""
        return F.silu(self.conv1d(F.pad(u, (self.d_conv - 1, 0))))

    def _scan(self, u: Tensor, z: Tensor, initial_state: Tensor | None) -> tuple[Tensor, Tensor]:
        """The selective scan over (B, e, L); returns the gated output and the last state."""
        parts = [self.dt_rank, self.d_state, self.d_state]
        step, B, C = _project(u, self.x_proj.weight).split(parts, dim=1)
        y, state = selective_scan(
            u,
            _project(step, self.dt_proj.weight),
            -torch.exp(self.A_log),
            B,
            C,
            self.D,
            z,
            self.dt_proj.bias,  # added inside the scan, in float32
            delta_softplus=True,
            initial_state=initial_state,
            return_last_state=True,
        )
        return y, state

    def _project_out(self, y: Tensor) -> Tensor:
        return _project(y, self.out_proj.weight, self.out_proj.bias).transpose(1, 2)


def _project(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A linear layer on channels: (B, in, L) to (B, out, L), without the transposed copies that `F.linear` makes."""
    y = torch.bmm(weight.expand(x.shape[0], -1, -1), x)
    return y if bias is None else y + bias.to(y.dtype)[:, None]
