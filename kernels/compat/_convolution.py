"""The `causal_conv1d` package on our kernels.

Letters: B batch, D channels, L length, W taps.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812  (the name everybody knows)
from torch import Tensor

from ..convolution import causal_conv
from ..orders import FORWARD


def wants_silu(activation: str | bool | None) -> bool:
    """Whether an activation, as upstream names it, is SiLU.

    Raises:
        NotImplementedError: if it is another, as upstream does.
    """
    if activation not in (None, False, True, "silu", "swish"):
        raise NotImplementedError(f"causal_conv1d: activation must be None, 'silu' or 'swish', but is {activation!r}")
    return bool(activation)


def refuse(function: str, **arguments: object) -> None:
    """Refuse arguments that are not None.

    Raises:
        NotImplementedError: naming them.
    """
    given = [name for name, value in arguments.items() if value is not None]
    if given:
        raise NotImplementedError(f"{function}: {', '.join(given)} is not supported here; leave it out")


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
    """(B, D, L) with taps (D, W)."""
    one = None if bias is None else bias[None]
    return causal_conv(x, weight[None], one, orders=(FORWARD,), grid=(x.shape[-1],), activation=silu)[:, 0]


def causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Causal depthwise convolution.

    Args:
        x: (B, D, L).
        weight: (D, W).
        bias: (D,).
        seq_idx: refused.
        initial_states: (B, D, W - 1), the inputs before.
        return_final_states: whether to return the last W - 1 inputs too.
        final_states_out: (B, D, W - 1), where to write them.
        activation: None, "silu" or "swish".

    Returns:
        (B, D, L), or that and the final states.
    """
    refuse("causal_conv1d_fn", seq_idx=seq_idx)
    silu, before = wants_silu(activation), weight.shape[-1] - 1
    if initial_states is not None:
        x = torch.cat([initial_states.to(x.dtype), x], dim=-1)
    y = convolve(x, weight, bias, silu)
    if initial_states is not None:
        y = y[..., initial_states.shape[-1] :]
    if not return_final_states:
        return y
    final = F.pad(x, (max(before - x.shape[-1], 0), 0))[..., x.shape[-1] - before if x.shape[-1] > before else 0 :]
    if final_states_out is not None:
        with torch.no_grad():
            final_states_out.copy_(final)
        final = final_states_out
    return y, final


def causal_conv1d_ref(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """As `causal_conv1d_fn`."""
    return causal_conv1d_fn(
        x, weight, bias, None, initial_states, return_final_states, final_states_out, activation=activation
    )


def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    cache_seqlens: Tensor | None = None,
    conv_state_indices: Tensor | None = None,
) -> Tensor:
    """Go on with a convolution, changing its state in place.

    Args:
        x: (B, D) or (B, D, L), what is new.
        conv_state: (B, D, W - 1 or more), the inputs so far, newest last.
        weight: (D, W).
        bias: (D,).
        activation: None, "silu" or "swish".
        cache_seqlens: refused.
        conv_state_indices: refused.

    Returns:
        The shape of x.
    """
    refuse("causal_conv1d_update", cache_seqlens=cache_seqlens, conv_state_indices=conv_state_indices)
    new = x[..., None] if x.dim() == 2 else x
    seen = torch.cat([conv_state, new.to(conv_state.dtype)], dim=-1).to(weight.dtype)
    conv_state.copy_(seen[..., -conv_state.shape[-1] :])
    y = convolve(seen, weight, bias, wants_silu(activation))[..., -new.shape[-1] :].to(x.dtype)
    return y[..., 0] if x.dim() == 2 else y


causal_conv1d_update_ref = causal_conv1d_update
