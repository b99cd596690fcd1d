"""One decoding step of a scan, with heads and without.

Letters: B batch, D channels, H heads, P channels of a head, G groups, N states.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def selective_state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    state_batch_indices: Tensor | None = None,
) -> Tensor:
    """One step, changing the state in place; arithmetic is float32, or float64 as soon as one argument is.

    With heads D stands for H, P, as in Mamba-2; what is the same for all of a head may lack P.

    Args:
        state: (B, D, N), or (B, H, P, N).
        x: (B, D), or (B, H, P).
        dt: as x, or (B, H).
        A: (D, N), or (H, P, N), or (H,).
        B: (B, N) or (B, G, N), whose groups are of neighbouring channels or heads.
        C: like B.
        D: (D,), or (H, P), or (H,).
        z: as x.
        dt_bias: as D.
        dt_softplus: whether softplus makes the step sizes positive.
        state_batch_indices: (B,) which row of a larger state belongs to each entry.

    Returns:
        The shape of x.

    Raises:
        ValueError: if the state has other axes, or groups do not divide its channels or heads.
    """
    if state.dim() not in (3, 4):
        raise ValueError(
            f"selective_state_update: state must be (B, D, N) or (B, H, P, N), but is {tuple(state.shape)}"
        )
    tensors = (state, x, dt, A, B, C, D, z, dt_bias)
    exact = torch.float64 if any(t is not None and t.dtype == torch.float64 for t in tensors) else torch.float32
    rows = None if state_batch_indices is None else state_batch_indices.long()
    # A channel without heads is a head of one: (B, H, P, N) throughout.
    alone = state.dim() == 3
    held = (state.clone() if rows is None else state[rows]).to(exact)
    held = held[:, :, None] if alone else held
    heads = held.shape[1]

    def per_head(tensor: Tensor | None, axes: int) -> Tensor:
        """(..., H, P or 1), from so many axes before P."""
        assert tensor is not None
        tensor = tensor.to(exact)
        return tensor[..., None] if tensor.dim() == axes else tensor

    def grouped(tensor: Tensor) -> Tensor:
        """(B, H, 1, N)."""
        tensor = tensor[:, None] if tensor.dim() == 2 else tensor
        if heads % tensor.shape[1]:
            raise ValueError(
                f"selective_state_update: {tensor.shape[1]} groups must divide the {heads} heads of the state"
            )
        return tensor.to(exact).repeat_interleave(heads // tensor.shape[1], dim=1)[:, :, None]

    value, step = per_head(x, 2), per_head(dt, 2)
    if dt_bias is not None:
        step = step + per_head(dt_bias, 1)
    if dt_softplus:
        step = F.softplus(step, threshold=20.0)
    decay = A.to(exact)
    decay = decay[:, None, None] if decay.dim() == 1 else decay[:, None] if decay.dim() == 2 else decay
    new = torch.exp(step[..., None] * decay) * held + (step * value)[..., None] * grouped(B)
    y = (new * grouped(C)).sum(-1)
    if D is not None:
        y = y + per_head(D, 1) * value
    if z is not None:
        y = y * F.silu(per_head(z, 2))
    with torch.no_grad():
        left = (new[:, :, 0] if alone else new).to(state.dtype)
        if rows is None:
            state.copy_(left)
        else:
            state[rows] = left
    return y.reshape(x.shape).to(x.dtype)


selective_state_update_ref = selective_state_update
