"""The selective scan as a plain loop: what every other backend is held against.

Letters: B batch, D channels, L length, N states, G groups.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812  (the name everybody knows)
from torch import Tensor

from ._arguments import check_arguments


def _at(projection: Tensor, channels: int, t: int) -> Tensor:
    """B or C at step t, for every channel: (B or 1, D, N)."""
    if projection.dim() == 2:
        return projection[None]
    if projection.dim() == 3:
        return projection[:, None, :, t]
    return projection[..., t].repeat_interleave(channels // projection.shape[1], dim=1)


def selective_scan_reference(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run the recurrence step by step; autograd differentiates it, as often as wanted.

    With d = delta + delta_bias (through softplus if asked for), for each channel c and state n::

        h_t[c, n] = exp(d_t[c] A[c, n]) h_{t-1}[c, n] + d_t[c] B_t[n] u_t[c]
        y_t[c]    = (sum_n C_t[n] h_t[c, n] + D[c] u_t[c]) silu(z_t[c])

    Args:
        u: (B, D, L) input.
        delta: (B, D, L) step sizes.
        A: (D, N) decay, real.
        B: (D, N) constant, (B, N, L) per token or (B, G, N, L) grouped: channel c uses group c // (D / G).
        C: like B.
        D: (D,) weight of the path past the states; None: no such path.
        z: (B, D, L) gate; None: no gate.
        delta_bias: (D,) added to delta.
        delta_softplus: whether softplus makes the step sizes positive; it leaves values above 20 unchanged.
        initial_state: (B, D, N); None: zeros.

    Returns:
        y (B, D, L) in the type of u, and the last state (B, D, N). Arithmetic and state are float32, or float64 as soon
        as one argument is.

    Raises:
        TypeError: if a tensor is not of a real floating point type.
        ValueError: if shapes or devices do not fit together.

    References:
        Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", 2023, algorithm 2; B is
        discretised by Euler's rule as in the authors' code, not by their equation 4.
    """
    check_arguments(u, delta, A, B, C, D, z, delta_bias, initial_state)
    given = [t for t in (u, delta, A, B, C, D, z, delta_bias, initial_state) if t is not None]
    exact = torch.float64 if any(t.dtype == torch.float64 for t in given) else torch.float32
    batch, channels, length = u.shape
    x, step, decay, into, out = (t.to(exact) for t in (u, delta, A, B, C))
    if delta_bias is not None:
        step = step + delta_bias.to(exact)[:, None]
    if delta_softplus:
        step = F.softplus(step, threshold=20.0)
    state = decay.new_zeros(batch, channels, A.shape[1]) if initial_state is None else initial_state.to(exact)

    outputs = []
    for t in range(length):
        width = step[:, :, t, None]
        state = torch.exp(width * decay) * state + width * x[:, :, t, None] * _at(into, channels, t)
        outputs.append((state * _at(out, channels, t)).sum(-1))
    y = torch.stack(outputs, dim=-1) if outputs else x * step
    if D is not None:
        y = y + D.to(exact)[:, None] * x
    if z is not None:
        y = y * F.silu(z.to(exact))
    return y.to(u.dtype), state
