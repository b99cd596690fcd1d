"""Several sequences side by side along one axis: a scan and a convolution in which none sees another.

Letters: B batch, D channels, L tokens, N states, W taps.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from .dispatch import selective_scan


def sequence_numbers(
    shape: tuple[int, int],
    *,
    seq_idx: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    position_indices: Tensor | None = None,
) -> Tensor | None:
    """Which sequence each token belongs to, however that is told; None where there is but one.

    Args:
        shape: entries of the batch and tokens, (B, L).
        seq_idx: (B, L) number of the sequence; another one than that of the token before begins a sequence.
        cu_seqlens: (sequences + 1,) first token of each sequence, and L; the same for all entries.
        position_indices: (B, L) position in the sequence; 0 begins one.

    Returns:
        (B, L), or None.

    Raises:
        ValueError: if it is told twice, or does not fit the tokens.
    """
    told = {"seq_idx": seq_idx, "cu_seqlens": cu_seqlens, "position_indices": position_indices}
    given = {name: tensor for name, tensor in told.items() if tensor is not None}
    if not given:
        return None
    if len(given) > 1:
        raise ValueError(f"packed sequences: give one of {', '.join(told)}, but got {', '.join(given)}")
    name, tensor = given.popitem()
    length = shape[1]
    if name == "cu_seqlens":
        bounds = tensor.tolist()
        if len(bounds) < 2 or bounds[0] != 0 or bounds[-1] != length or bounds != sorted(bounds):
            raise ValueError(f"packed sequences: cu_seqlens must rise from 0 to the {length} tokens, but is {bounds}")
        tokens = torch.arange(length, device=tensor.device)
        return torch.searchsorted(tensor[1:-1].to(tokens.dtype), tokens, right=True).expand(shape)
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"packed sequences: {name} must be {tuple(shape)}, but is {tuple(tensor.shape)}")
    return tensor if name == "seq_idx" else (tensor == 0).cumsum(-1)


def packed_conv(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, sequences: Tensor) -> Tensor:
    """Causal depthwise convolution in which a token sees those of its own sequence.

    Args:
        x: (B, D, L).
        weight: (D, W).
        bias: (D,).
        silu: whether SiLU follows.
        sequences: (B, L) as `sequence_numbers` gives them; the result is 0 where they are negative.

    Returns:
        (B, D, L) in the type of x; arithmetic is float32, or float64 where x is.
    """
    exact = torch.float64 if x.dtype == torch.float64 else torch.float32
    values, taps, length = x.to(exact), weight.to(exact), x.shape[-1]
    total = values * taps[:, -1:]
    for back in range(1, weight.shape[-1]):
        seen = F.pad(values, (back, 0))[..., :length]
        same = F.pad(sequences, (back, 0), value=-1)[:, :length] == sequences
        total = total + torch.where(same[:, None], seen, 0.0) * taps[:, -1 - back, None]
    if bias is not None:
        total = total + bias.to(exact)[:, None]
    total = F.silu(total) if silu else total
    return torch.where((sequences >= 0)[:, None], total, 0.0).to(x.dtype)


def packed_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    sequences: Tensor | None,
    *,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """A scan whose state begins at zero with each sequence: piece by piece, as many as there are sequences.

    The pieces end where a sequence of any entry ends; an entry whose sequence goes on takes its state along.

    Args:
        u: (B, D, L), and so on as in :func:`~medmamba.kernels.selective_scan`.
        delta: step sizes.
        A: decay.
        B: input projection.
        C: output projection.
        D: weight of the path past the states.
        z: gate.
        delta_bias: added to delta.
        delta_softplus: whether softplus makes the step sizes positive.
        sequences: (B, L) as `sequence_numbers` gives them; None: one.
        backend: as in `selective_scan`.

    Returns:
        y (B, D, L), and the state (B, D, N) after the last token.
    """
    if sequences is None:
        return selective_scan(
            u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state=True, backend=backend
        )
    begins = sequences[:, 1:] != sequences[:, :-1]
    cuts = [0, *((begins.any(0).nonzero()[:, 0] + 1).tolist()), u.shape[-1]]
    pieces, state = [], None
    for first, last in pairwise(cuts):
        if state is not None:
            state = torch.where(begins[:, first - 1, None, None], 0.0, state)
        into, out = (t[..., first:last] if t.dim() > 2 else t for t in (B, C))
        y, state = selective_scan(
            u[..., first:last], delta[..., first:last], A, into, out, D, None if z is None else z[..., first:last],
            delta_bias, delta_softplus, initial_state=state, return_last_state=True, backend=backend,
        )  # fmt: skip
        pieces.append(y)
    assert state is not None
    return torch.cat(pieces, dim=-1), state
