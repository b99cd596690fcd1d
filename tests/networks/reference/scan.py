"""The recurrence, and the blocks around it: Mamba in one order or several, and SS2D.

Letters: B batch, L tokens, d width, e inner width, N states, R rank of the step size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.networks.reference.weights import Weights


def recurrence(u: Tensor, step: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """(B, L, e) inputs and positive steps, (e, N), (B, L, N) twice, (e,), to (B, L, e)."""
    state = u.new_zeros(u.shape[0], u.shape[2], A.shape[1])
    outputs = []
    for t in range(u.shape[1]):
        decay = torch.exp(step[:, t, :, None] * A)
        state = decay * state + step[:, t, :, None] * B[:, t, None, :] * u[:, t, :, None]
        outputs.append((state * C[:, t, None, :]).sum(-1) + D * u[:, t])
    return torch.stack(outputs, dim=1)


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), and the identity above 20."""
    return torch.where(x > 20, x, torch.log1p(torch.exp(x.clamp(max=20))))


def silu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def rms_norm(x: Tensor, weight: Tensor, bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    y = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight
    return y if bias is None else y + bias


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float = 1e-5) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    y = centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps) * weight
    return y if bias is None else y + bias


def rank_of(width: int, asked: int | str) -> int:
    return math.ceil(width / 16) if asked == "auto" else int(asked)


def logs(channels: int, states: int) -> Tensor:
    """Where A_log is drawn around: log 1, ..., log N."""
    return torch.log(torch.arange(1.0, states + 1)).repeat(channels, 1)


def causal_conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(B, L, e) with (e, 1, taps), the last tap on the current token."""
    taps = weight.shape[2]
    padded = F.pad(x, (0, 0, taps - 1, 0))
    y = sum(padded[:, tap : tap + x.shape[1]] * weight[:, 0, tap] for tap in range(taps))
    return y if bias is None else y + bias  # type: ignore[return-value]  # no sum of nothing


def reading(w: Weights, suffix: str, xz: Tensor, options: Mapping[str, Any], *, own: bool = True) -> Tensor:
    """One order's branch of a Mamba block: (B, L, 2e) in the order it reads to gated (B, L, e).

    Args:
        suffix: of the order's parameters.
        own: whether all of them are its own; otherwise A only, and the others are the first order's.
    """
    d, expand = options["d_model"], options.get("expand", 2)
    inner, states, taps = int(expand * d), options.get("d_state", 16), options.get("d_conv", 4)
    rank = rank_of(d, options.get("dt_rank", "auto"))
    name = suffix if own else ""
    x, z = xz.chunk(2, dim=-1)
    bias = w(f"conv1d{name}.bias", inner) if options.get("conv_bias", True) else None
    x = silu(causal_conv(x, w(f"conv1d{name}.weight", inner, 1, taps), bias))
    projected = x @ w(f"x_proj{name}.weight", rank + 2 * states, inner).mT
    low, B, C = projected.split([rank, states, states], dim=-1)
    step = low @ w(f"dt_proj{name}.weight", inner, rank).mT + w(f"dt_proj{name}.bias", inner, around=-1.0, spread=0.5)
    A = -torch.exp(w(f"A{suffix}_log", inner, states, around=logs(inner, states), spread=0.1))
    y = recurrence(x, softplus(step), A, B, C, w(f"D{name}", inner, around=1.0))
    return y * silu(z)


def mamba(
    w: Weights,
    x: Tensor,
    options: Mapping[str, Any],
    orders: Sequence[tuple[str, Tensor | None]] = (("", None),),
    scale: float = 1.0,
) -> Tensor:
    """A Mamba block, (B, L, d) to (B, L, d), that reads its tokens in some orders and adds up.

    Args:
        options: of the original's constructor.
        orders: suffix of each one's parameters, and the tokens as it reads them; None: as they are.
        scale: of the sum.
    """
    d, inner = options["d_model"], int(options.get("expand", 2) * options["d_model"])
    weight, bias = w.layer("in_proj", 2 * inner, d, bias=options.get("bias", False))
    xz = F.linear(x, weight, bias)
    total = x.new_zeros(*x.shape[:2], inner)
    for suffix, order in orders:
        back = None if order is None else torch.argsort(order)
        shared = options.get("bimamba_type") == "v1" and suffix != ""
        if shared:  # of one convolution, step size, B and C, read backwards after that
            total = total + _read_shared(w, suffix, xz, options)
            continue
        y = reading(w, suffix, xz if order is None else xz[:, order], options)
        total = total + (y if back is None else y[:, back])
    weight, bias = w.layer("out_proj", d, inner, bias=options.get("bias", False))
    y = F.linear(total * scale, weight, bias)
    return (
        y if options.get("init_layer_scale") is None else y * w("gamma", d, around=float(options["init_layer_scale"]))
    )


def _read_shared(w: Weights, suffix: str, xz: Tensor, options: Mapping[str, Any]) -> Tensor:
    """The second direction of a block that shares all but A."""
    d = options["d_model"]
    inner, states = int(options.get("expand", 2) * d), options.get("d_state", 16)
    rank = rank_of(d, options.get("dt_rank", "auto"))
    x, z = xz.chunk(2, dim=-1)
    bias = w("conv1d.bias", inner) if options.get("conv_bias", True) else None
    x = silu(causal_conv(x, w("conv1d.weight", inner, 1, options.get("d_conv", 4)), bias)).flip(1)
    projected = x @ w("x_proj.weight", rank + 2 * states, inner).mT
    low, B, C = projected.split([rank, states, states], dim=-1)
    step = low @ w("dt_proj.weight", inner, rank).mT + w("dt_proj.bias", inner)
    A = -torch.exp(w(f"A{suffix}_log", inner, states, around=logs(inner, states), spread=0.1))
    return recurrence(x, softplus(step), A, B, C, w("D", inner)).flip(1) * silu(z)


def both_ways(length: int) -> list[tuple[str, Tensor | None]]:
    """Forwards, and backwards."""
    return [("", None), ("_b", torch.arange(length).flip(0))]


def three_ways(length: int, pieces: int) -> list[tuple[str, Tensor | None]]:
    """Forwards, backwards, and the first token of all pieces, then the second of all."""
    return [*both_ways(length), ("_s", torch.arange(length).view(pieces, -1).mT.flatten())]


def ss2d(w: Weights, x: Tensor, options: Mapping[str, Any]) -> Tensor:
    """VMamba's mixer, (B, H, W, d) to the same: along rows, along columns, and back."""
    d, ratio, kind = options["d_model"], options.get("ssm_ratio", 2.0), options["forward_type"]
    inner, states = int(ratio * d), options.get("d_state", 16)
    rank = rank_of(d, options.get("dt_rank", "auto"))
    gate, first = "_noz" not in kind, kind == "v0"
    bias = options.get("bias", False) and not first
    height, width = x.shape[1:3]
    y = F.linear(x, *w.layer("in_proj", (2 if gate else 1) * inner, d, bias=bias))
    z = None
    if gate:
        y, z = y.chunk(2, dim=-1)
    edge = 3 if first else options.get("d_conv", 3)
    weight, conv_bias = w.layer("conv2d", inner, 1, edge, edge, bias=first or options.get("conv_bias", True))
    y = F.conv2d(y.movedim(-1, 1), weight, conv_bias, padding=edge // 2, groups=inner)
    u = silu(y).movedim(1, -1).flatten(1, 2)
    rows = torch.arange(height * width)
    columns = rows.view(height, width).mT.flatten()
    x_proj = w("x_proj_weight", 4, rank + 2 * states, inner, spread=inner**-0.5)
    steps = w("dt_projs_weight", 4, inner, rank, spread=rank**-0.5)
    step_bias = w("dt_projs_bias", 4, inner, around=-1.0, spread=0.5)
    A = -torch.exp(w("A_logs", 4 * inner, states, around=logs(4 * inner, states), spread=0.1)).view(4, inner, states)
    D = w("Ds", 4 * inner, around=1.0).view(4, inner)
    total = torch.zeros_like(u)
    for k, order in enumerate((rows, columns, rows.flip(0), columns.flip(0))):
        low, B, C = (u[:, order] @ x_proj[k].mT).split([rank, states, states], dim=-1)
        read = recurrence(u[:, order], softplus(low @ steps[k].mT + step_bias[k]), A[k], B, C, D[k])
        total = total + read[:, torch.argsort(order)]
    y = layer_norm(total, *w.norm("out_norm", inner)).view(-1, height, width, inner)
    y = y if z is None else y * silu(z)
    return F.linear(y, *w.layer("out_proj", d, inner, bias=bias))
