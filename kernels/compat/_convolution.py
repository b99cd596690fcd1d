"""The `causal_conv1d` package on our kernels.

Letters: B batch, D channels, L length, W taps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..convolution import causal_conv
from ..orders import FORWARD
from ..packed import packed_conv, sequence_numbers


def wants_silu(activation: str | bool | None) -> bool:
    """Whether an activation, as upstream names it, is SiLU.

    Raises:
        NotImplementedError: if it is another, as upstream does.
    """
    if activation not in (None, False, True, "silu", "swish"):
        raise NotImplementedError(f"causal_conv1d: activation must be None, 'silu' or 'swish', but is {activation!r}")
    return bool(activation)


def turned(tensor: Tensor) -> Tensor:
    """The last two axes exchanged. `Tensor.mT` says it shorter, but torch.onnx's older exporter does not know it."""
    return tensor.transpose(-1, -2)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, sequences: Tensor | None = None) -> Tensor:
    """(B, D, L) with taps (D, W), of several sequences where their numbers (B, L) are given."""
    if sequences is not None:
        return packed_conv(x, weight, bias, silu, sequences)
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
    activation: str | bool | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Causal depthwise convolution.

    Args:
        x: (B, D, L).
        weight: (D, W).
        bias: (D,).
        seq_idx: (B, L) sequences that do not see each other, by number; the result is 0 where it is negative.
        initial_states: (B, D, W - 1), the inputs before.
        return_final_states: whether to return the last W - 1 inputs too.
        final_states_out: (B, D, W - 1), where to write them.
        activation: None, "silu" or "swish".

    Returns:
        (B, D, L), or that and the final states.

    Raises:
        ValueError: if states are given or asked for together with ``seq_idx``, which has more than one.
    """
    silu = wants_silu(activation)
    if seq_idx is not None:
        if initial_states is not None or return_final_states:
            raise ValueError("causal_conv1d_fn: seq_idx goes without initial_states and return_final_states")
        batch, _, length = x.shape
        return convolve(x, weight, bias, silu, sequence_numbers((batch, length), seq_idx=seq_idx))
    if initial_states is None:
        y, seen = convolve(x, weight, bias, silu), x
    else:
        seen = torch.cat([initial_states.to(x.dtype), x], dim=-1)
        y = convolve(seen, weight, bias, silu)[..., initial_states.shape[-1] :]
    if not return_final_states:
        return y
    before = weight.shape[-1] - 1
    seen = F.pad(seen, (before, 0))
    final = seen[..., seen.shape[-1] - before :]
    if final_states_out is not None:
        with torch.no_grad():
            final_states_out.copy_(final)
        final = final_states_out
    return y, final


def called_by_apply(function: Callable[..., Any]) -> type:
    """What some call instead of a function: ``Class.apply(x, weight, ...)``."""
    return type("Function", (), {"__doc__": called_by_apply.__doc__, "apply": staticmethod(function)})


CausalConv1dFn = called_by_apply(causal_conv1d_fn)


def causal_conv1d_ref(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *arguments: Any, **named: Any
) -> Tensor | tuple[Tensor, Tensor]:
    """As `causal_conv1d_fn`, without ``seq_idx``."""
    return causal_conv1d_fn(x, weight, bias, None, *arguments, **named)


def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | bool | None = None,
    cache_seqlens: Tensor | None = None,
    conv_state_indices: Tensor | None = None,
) -> Tensor:
    """Go on with a convolution, changing its state in place.

    Args:
        x: (B, D) or (B, D, L), what is new.
        conv_state: (B, D, S), S at least W - 1, the inputs so far, newest last.
        weight: (D, W).
        bias: (D,).
        activation: None, "silu" or "swish".
        cache_seqlens: (B,) how many inputs there were: the state is then a ring, whose place for the next one is that
            number modulo S.
        conv_state_indices: (B,) which row of a larger state belongs to each entry.

    Returns:
        The shape of x.
    """
    new = x[..., None] if x.dim() == 2 else x
    state = conv_state if conv_state_indices is None else conv_state[conv_state_indices.long()]
    before, arriving = weight.shape[-1] - 1, new.to(conv_state.dtype)
    if cache_seqlens is None:
        seen = torch.cat([state, arriving], dim=-1)
        kept = seen[..., seen.shape[-1] - state.shape[-1] :]
    else:
        ring, start = state.shape[-1], cache_seqlens.long()[:, None]

        def places(first: int, last: int) -> Tensor:
            steps = (start + torch.arange(first, last, device=x.device)) % ring
            return steps[:, None].expand(-1, state.shape[1], -1)

        seen = torch.cat([state.gather(2, places(-before, 0)), arriving], dim=-1)
        latest = max(arriving.shape[-1] - ring, 0)  # earlier ones would be overwritten by those that follow
        kept = state.scatter(2, places(latest, arriving.shape[-1]), arriving[..., latest:])
    y = convolve(seen.to(weight.dtype), weight, bias, wants_silu(activation))
    y = y[..., y.shape[-1] - new.shape[-1] :].to(x.dtype)
    with torch.no_grad():
        if conv_state_indices is None:
            conv_state.copy_(kept)
        else:
            conv_state[conv_state_indices.long()] = kept
    return y[..., 0] if x.dim() == 2 else y


causal_conv1d_update_ref = causal_conv1d_update


def causal_conv1d_varlen_states(x: Tensor, cu_seqlens: Tensor, state_len: int) -> Tensor:
    """The last inputs of each of several sequences.

    Args:
        x: (L, D).
        cu_seqlens: (sequences + 1,) first token of each, and L.
        state_len: how many inputs.

    Returns:
        (sequences, D, state_len), newest last; zeros before a sequence's first token.
    """
    ends, starts = cu_seqlens[1:, None].long(), cu_seqlens[:-1, None].long()
    tokens = ends + torch.arange(-state_len, 0, device=x.device)
    states = x[tokens.clamp(min=0)].transpose(1, 2)
    return torch.where((tokens >= starts)[:, None], states, 0.0)


causal_conv1d_varlen_states_ref = causal_conv1d_varlen_states
