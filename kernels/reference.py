"""The selective scan as a plain loop: what every other backend is held against.

Letters: B batch, K orders, D channels, L length, N states, G groups.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ._arguments import Scan


def _steps(projection: Tensor, order: int, channels: int, tokens: Tensor) -> list[Tensor]:
    """B or C of one order at each step, for every channel: (B or 1, D, N) each."""
    if projection.dim() == 3:
        return [projection[None, order]] * len(tokens)
    steps = projection[:, order][..., tokens].unbind(-1)
    return [step.repeat_interleave(channels // projection.shape[2], dim=1) for step in steps]


def scan_reference(scan: Scan) -> tuple[Tensor, Tensor]:
    """Run the recurrence step by step; autograd differentiates it, as often as wanted.

    With d = delta + delta_bias (through softplus if asked for), for each order, channel c and state n, t counting the
    steps of the order::

        h_t[c, n] = exp(d_t[c] A[c, n]) h_{t-1}[c, n] + d_t[c] B_t[n] u_t[c]
        s_t[c]    = sum_n C_t[n] h_t[c, n] + D[c] u_t[c]

    and for each token y = scale (sum of s over the orders) silu(z).

    Args:
        scan: what to do. Softplus leaves values above 20 unchanged; with G groups channel c uses group c // (D / G).

    Returns:
        y (B, D, L) in the type of u, and the last states (B, K, D, N). Arithmetic and states are float32, or float64 as
        soon as one argument is.

    References:
        Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", 2023, algorithm 2; B is
        discretised by Euler's rule as in the authors' code, not by their equation 4.
    """
    scan = scan.in_orders()
    exact = torch.float64 if scan.exact else torch.float32
    total: Tensor | None = None
    states = []
    for order, walk in enumerate(scan.walks):
        tokens = walk.positions(scan.u.device)
        s, state = _one_order(scan, order, tokens, exact)
        s = s[..., tokens.argsort()]  # from the order of the steps to that of the tokens
        total = s if total is None else total + s
        states.append(state)
    assert total is not None
    y = total * scan.scale
    if scan.z is not None:
        y = y * F.silu(scan.z.to(exact))
    return y.to(scan.u.dtype), torch.stack(states, dim=1)


def _one_order(scan: Scan, order: int, tokens: Tensor, exact: torch.dtype) -> tuple[Tensor, Tensor]:
    """The sum before the gate (B, D, L) and the last state (B, D, N) of one order."""
    x = scan.u[:, order if scan.u.shape[1] > 1 else 0].to(exact)[..., tokens]
    step = scan.delta[:, order].to(exact)[..., tokens]
    decay, into, out = scan.A[order].to(exact), scan.B.to(exact), scan.C.to(exact)
    batch, channels, _ = x.shape
    if scan.delta_bias is not None:
        step = step + scan.delta_bias[order].to(exact)[:, None]
    if scan.delta_softplus:
        step = F.softplus(step, threshold=20.0)
    state = (
        decay.new_zeros(batch, *decay.shape) if scan.initial_state is None else scan.initial_state[:, order].to(exact)
    )
    outputs = []
    pushes, pulls = (_steps(t, order, channels, tokens) for t in (into, out))
    for width, value, push, pull in zip(step.unbind(-1), x.unbind(-1), pushes, pulls, strict=True):
        state = torch.exp(width[..., None] * decay) * state + (width * value)[..., None] * push
        outputs.append((state * pull).sum(-1))
    s = torch.stack(outputs, dim=-1) if outputs else x * step
    return (s if scan.D is None else s + scan.D[order].to(exact)[:, None] * x), state
