"""The operations of `mamba_ssm` on our kernels: plain, fused and in both directions.

Letters: B batch, D channels, L length, N states, W taps, R rank of the step size, d model width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dispatch import multi_scan, selective_scan
from ..orders import bidirectional
from ..packed import packed_scan, sequence_numbers
from ._convolution import called_by_apply, convolve, turned
from ._norms import rms_norm_fn


def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    *,
    seq_idx: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    position_indices: Tensor | None = None,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """As :func:`medmamba.kernels.selective_scan`; unlike upstream's, gradients of the last state count.

    ``seq_idx``, ``cu_seqlens`` or ``position_indices`` name several sequences along L, as forks do: see
    :func:`medmamba.kernels.packed.sequence_numbers`. The last state is then that of the last one.
    """
    batch, _, length = u.shape
    sequences = sequence_numbers(
        (batch, length), seq_idx=seq_idx, cu_seqlens=cu_seqlens, position_indices=position_indices
    )
    y, last = packed_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, sequences, backend=backend)
    return (y, last) if return_last_state else y


#: The same as a plain loop.
selective_scan_ref: Callable[..., Any] = partial(selective_scan_fn, backend="reference")


def _normed(tensor: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """A root mean square norm over the last axis; none without a weight.

    Of a longer weight the first values count, as for upstream's kernel: transformers' Falcon-Mamba gives that of the
    step sizes one value for each channel.
    """
    return tensor if weight is None else rms_norm_fn(tensor, weight[: tensor.shape[-1]], None, eps=eps)


def _prepare(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    A: Tensor,
    B: Tensor | None,
    C: Tensor | None,
    B_proj_bias: Tensor | None,
    C_proj_bias: Tensor | None,
    norm_weights: Sequence[Tensor | None] = (None, None, None),
    eps: float = 0.0,
    sequences: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What a fused block scans: x, delta, B, C and the gate.

    Projections of B and C, and what delta is projected from, are normed by weights of their own, as in Falcon-Mamba and
    Jamba, in this sequence.
    """
    of_B, of_C, of_delta = norm_weights
    x, z = xz.chunk(2, dim=1)
    x = convolve(x, conv1d_weight[:, 0], conv1d_bias, silu=True, sequences=sequences)
    rank, states = delta_proj_weight.shape[1], A.shape[-1]
    made = F.linear(turned(x), x_proj_weight)
    delta = turned(F.linear(_normed(made[..., :rank], of_delta, eps), delta_proj_weight))
    if B is None:
        B = made[..., rank : rank + states]
        B = turned(_normed(B if B_proj_bias is None else B + B_proj_bias.to(B.dtype), of_B, eps))
    if C is None:
        C = made[..., -states:]
        C = turned(_normed(C if C_proj_bias is None else C + C_proj_bias.to(C.dtype), of_C, eps))
    return x, delta, B, C, z


def mamba_inner_fn_no_out_proj(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    A: Tensor,
    B: Tensor | None = None,
    C: Tensor | None = None,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    B_proj_bias: Tensor | None = None,
    C_proj_bias: Tensor | None = None,
    delta_softplus: bool = True,
    checkpoint_lvl: int = 1,
    b_rms_weight: Tensor | None = None,
    c_rms_weight: Tensor | None = None,
    dt_rms_weight: Tensor | None = None,
    b_c_dt_rms_eps: float = 1e-6,
    *,
    seq_idx: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    position_indices: Tensor | None = None,
) -> Tensor:
    """Convolution, SiLU, projections, scan and gate of a Mamba block.

    Args:
        xz: (B, 2 D, L) branch and gate.
        conv1d_weight: (D, 1, W).
        conv1d_bias: (D,).
        x_proj_weight: (R + 2 N, D).
        delta_proj_weight: (D, R).
        A: (D, N).
        B: (D, N) or per token, instead of projected.
        C: like B.
        D: (D,).
        delta_bias: (D,).
        B_proj_bias: (N,), added to the projected B.
        C_proj_bias: (N,).
        delta_softplus: whether softplus makes the step sizes positive.
        checkpoint_lvl: taken and of no effect: the scan computes again what it needs.
        b_rms_weight: (N,) weight of a root mean square norm of the projected B; None: no norm.
        c_rms_weight: (N,) of one of the projected C.
        dt_rms_weight: (R,) of one of what the step sizes are projected from.
        b_c_dt_rms_eps: added to the mean squares.
        seq_idx: sequences along L that do not see each other, as are ``cu_seqlens`` and ``position_indices``: see
            :func:`medmamba.kernels.packed.sequence_numbers`.
        cu_seqlens: another way to tell them.
        position_indices: a third.

    Returns:
        (B, D, L).
    """
    batch, _, length = xz.shape
    sequences = sequence_numbers(
        (batch, length), seq_idx=seq_idx, cu_seqlens=cu_seqlens, position_indices=position_indices
    )
    x, delta, B, C, z = _prepare(
        xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, A, B, C, B_proj_bias, C_proj_bias,
        (b_rms_weight, c_rms_weight, dt_rms_weight), b_c_dt_rms_eps, sequences,
    )  # fmt: skip
    return packed_scan(x, delta, A, B, C, D, z, delta_bias, delta_softplus, sequences)[0]


def mamba_inner_fn(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    *arguments: Any,
    **named: Any,
) -> Tensor:
    """`mamba_inner_fn_no_out_proj`, whose other arguments follow, and the projection at the exit: (B, L, d)."""
    y = mamba_inner_fn_no_out_proj(
        xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, *arguments, **named
    )
    return F.linear(turned(y), out_proj_weight, out_proj_bias)


def mamba_inner_ref(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    A: Tensor,
    B: Tensor | None = None,
    C: Tensor | None = None,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    B_proj_bias: Tensor | None = None,
    C_proj_bias: Tensor | None = None,
    delta_softplus: bool = True,
) -> Tensor:
    """`mamba_inner_fn` with PyTorch's convolution and the scan as a plain loop."""
    x, z = xz.chunk(2, dim=1)
    taps = conv1d_weight.shape[-1]
    x = F.silu(F.conv1d(F.pad(x, (taps - 1, 0)), conv1d_weight, conv1d_bias, groups=x.shape[1]))
    rank, states = delta_proj_weight.shape[1], A.shape[-1]
    made = torch.einsum("rd,bdl->brl", x_proj_weight, x)
    delta = torch.einsum("dr,brl->bdl", delta_proj_weight, made[:, :rank])
    if B is None:
        B = made[:, rank : rank + states]
        B = B if B_proj_bias is None else B + B_proj_bias[:, None]
    if C is None:
        C = made[:, -states:]
        C = C if C_proj_bias is None else C + C_proj_bias[:, None]
    y = selective_scan(x, delta, A, B, C, D, z, delta_bias, delta_softplus, backend="reference")
    return F.linear(turned(y), out_proj_weight, out_proj_bias)


def bimamba_inner_fn(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    A: Tensor,
    A_b: Tensor,
    B: Tensor | None = None,
    C: Tensor | None = None,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    B_proj_bias: Tensor | None = None,
    C_proj_bias: Tensor | None = None,
    delta_softplus: bool = True,
) -> Tensor:
    """A block that scans in both directions with two sets of decays and all else the same: (B, L, d).

    Gradients are the true ones; upstream's fused backward pass leaves out a part of that of the gate.
    """
    x, delta, B, C, z = _prepare(
        xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, A, B, C, B_proj_bias, C_proj_bias
    )
    y = both_ways(x, delta, A, A_b, B, C, D, z, delta_bias, delta_softplus)
    return F.linear(turned(y), out_proj_weight, out_proj_bias)


def both_ways(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    A_b: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> Tensor:
    """(B, D, L): the sum of a scan with the decays A and one backwards with A_b."""

    def both(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor[None].expand(2, *tensor.shape)

    def both_tokens(tensor: Tensor) -> Tensor:
        return tensor[:, None].expand(-1, 2, *tensor.shape[1:])

    into, out = (t[None].expand(2, -1, -1) if t.dim() == 2 else both_tokens(t) for t in (B, C))
    y, _ = multi_scan(
        x, both_tokens(delta), torch.stack([A, A_b]), into, out, both(D), z, both(delta_bias), delta_softplus,
        orders=bidirectional(), grid=(x.shape[-1],),
    )  # fmt: skip
    return y


bimamba_inner_ref: Callable[..., Tensor] = partial(bimamba_inner_fn)


SelectiveScanFn = called_by_apply(selective_scan_fn)
MambaInnerFn = called_by_apply(mamba_inner_fn)
MambaInnerFnNoOutProj = called_by_apply(mamba_inner_fn_no_out_proj)
BiMambaInnerFn = called_by_apply(bimamba_inner_fn)
