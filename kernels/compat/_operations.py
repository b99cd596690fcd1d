"""The operations of `mamba_ssm` on our kernels: plain, fused and in both directions.

Letters: B batch, D channels, L length, N states, W taps, R rank of the step size, d model width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812  (the name everybody knows)
from torch import Tensor

from ..dispatch import multi_scan, selective_scan
from ..orders import bidirectional
from ._convolution import convolve, refuse


def _scan(
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
    backend: str | None,
) -> Tensor | tuple[Tensor, Tensor]:
    return selective_scan(
        u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state=return_last_state, backend=backend
    )


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
) -> Tensor | tuple[Tensor, Tensor]:
    """As :func:`medmamba.kernels.selective_scan`; unlike upstream's, gradients of the last state count."""
    return _scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state, backend=None)


def selective_scan_ref(
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
) -> Tensor | tuple[Tensor, Tensor]:
    """The same as a plain loop."""
    return _scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state, backend="reference")


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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What a fused block scans: x, delta, B, C and the gate."""
    x, z = xz.chunk(2, dim=1)
    x = convolve(x, conv1d_weight[:, 0], conv1d_bias, silu=True)
    rank, states = delta_proj_weight.shape[1], A.shape[-1]
    made = F.linear(x.mT, x_proj_weight)
    delta = F.linear(made[..., :rank], delta_proj_weight).mT
    if B is None:
        B = made[..., rank : rank + states]
        B = (B if B_proj_bias is None else B + B_proj_bias.to(B.dtype)).mT
    if C is None:
        C = made[..., -states:]
        C = (C if C_proj_bias is None else C + C_proj_bias.to(C.dtype)).mT
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

    Returns:
        (B, D, L).
    """
    x, delta, B, C, z = _prepare(
        xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, A, B, C, B_proj_bias, C_proj_bias
    )
    return selective_scan(x, delta, A, B, C, D, z, delta_bias, delta_softplus)


def mamba_inner_fn(
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
    checkpoint_lvl: int = 1,
    b_rms_weight: Tensor | None = None,
    c_rms_weight: Tensor | None = None,
    dt_rms_weight: Tensor | None = None,
    b_c_dt_rms_eps: float = 1e-6,
) -> Tensor:
    """`mamba_inner_fn_no_out_proj` and the projection at the exit: (B, L, d).

    ``checkpoint_lvl`` is taken and does nothing: the scan computes again what it needs. The weights of norms inside are
    refused.
    """
    refuse("mamba_inner_fn", b_rms_weight=b_rms_weight, c_rms_weight=c_rms_weight, dt_rms_weight=dt_rms_weight)
    y = mamba_inner_fn_no_out_proj(
        xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, A, B, C, D, delta_bias, B_proj_bias,
        C_proj_bias, delta_softplus,
    )  # fmt: skip
    return F.linear(y.mT, out_proj_weight, out_proj_bias)


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
    return F.linear(y.mT, out_proj_weight, out_proj_bias)


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

    def both(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor[None].expand(2, *tensor.shape)

    def both_tokens(tensor: Tensor) -> Tensor:
        return tensor[:, None].expand(-1, 2, *tensor.shape[1:])

    into, out = (t[None].expand(2, -1, -1) if t.dim() == 2 else both_tokens(t) for t in (B, C))
    y, _ = multi_scan(
        x, both_tokens(delta), torch.stack([A, A_b]), into, out, both(D), z, both(delta_bias), delta_softplus,
        orders=bidirectional(), grid=(x.shape[-1],),
    )  # fmt: skip
    return F.linear(y.mT, out_proj_weight, out_proj_bias)


bimamba_inner_ref: Callable[..., Tensor] = partial(bimamba_inner_fn)


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
    """One step, changing the state in place.

    Args:
        state: (B, D, N).
        x: (B, D).
        dt: (B, D).
        A: (D, N).
        B: (B, N) or (B, G, N).
        C: like B.
        D: (D,).
        z: (B, D).
        dt_bias: (D,).
        dt_softplus: whether softplus makes the step sizes positive.
        state_batch_indices: refused.

    Returns:
        (B, D).

    Raises:
        NotImplementedError: for states with heads, which are Mamba-2's.
    """
    refuse("selective_state_update", state_batch_indices=state_batch_indices)
    if state.dim() != 3:
        raise NotImplementedError(f"selective_state_update: state must be (B, D, N), but is {tuple(state.shape)}")
    y, last = selective_scan(
        x[..., None], dt[..., None], A, B[..., None], C[..., None], D, None if z is None else z[..., None], dt_bias,
        dt_softplus, initial_state=state, return_last_state=True,
    )  # fmt: skip
    state.copy_(last)
    return y[..., 0]
