"""The norms of `mamba_ssm`, which add a residual on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def layer_norm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None = None,
    x1: Tensor | None = None,
    weight1: Tensor | None = None,
    bias1: Tensor | None = None,
    eps: float = 1e-6,
    dropout_p: float = 0.0,
    rowscale: Tensor | None = None,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    zero_centered_weight: bool = False,
    is_rms_norm: bool = False,
    return_dropout_mask: bool = False,
    *,
    masks: Sequence[Tensor | None] | None = None,
) -> Any:
    """Norm of x, or of x + x1 + residual, with one weight or with two.

    Args:
        x: (..., d).
        weight: (d,).
        bias: (d,), or None.
        residual: (..., d), added to x first.
        x1: (..., d), added too.
        weight1: (d,) of a second norm of the same sum.
        bias1: (d,) of that.
        eps: added to the variance.
        dropout_p: of x and x1, before they are added.
        rowscale: (...), factor of each row of x.
        prenorm: whether to return the sum too.
        residual_in_fp32: whether the sum is float32.
        zero_centered_weight: whether 1 is added to the weights.
        is_rms_norm: whether the mean is left alone.
        return_dropout_mask: whether to return what dropout left of x and of x1 too.
        masks: of dropout of x and of x1, True where they are kept; None: drawn.

    Returns:
        The norm in the type of x; then, if wanted, the second norm, the sum, and both masks (None: nothing dropped).

    Raises:
        ValueError: if rows are scaled and x1 is given.
    """
    if rowscale is not None:
        if x1 is not None:
            raise ValueError("layer_norm_fn: rowscale and x1 do not go together; scale the rows of both beforehand")
        x = x * rowscale[..., None].to(x.dtype)
    if masks is None:
        dropped = (t if dropout_p else None for t in (x, x1))
        masks = [None if t is None else torch.rand(t.shape, device=t.device) >= dropout_p for t in dropped]
    kind = x.dtype if residual is None else residual.dtype
    parts = [
        tensor.float() if mask is None else tensor.float() * mask / (1 - dropout_p)
        for tensor, mask in ((x, masks[0]), (x1, masks[1]), (residual, None))
        if tensor is not None
    ]
    total = reduce(torch.add, parts).to(torch.float32 if residual_in_fp32 else kind)
    values = total.float()
    if not is_rms_norm:
        values = values - values.mean(-1, keepdim=True)
    values = values * torch.rsqrt(values.square().mean(-1, keepdim=True) + eps)
    results: list[Any] = []
    for scale, shift in ((weight, bias), (weight1, bias1)):
        if scale is not None:
            y = values * (scale.float() + 1 if zero_centered_weight else scale.float())
            results.append((y if shift is None else y + shift.float()).to(x.dtype))
    results += [total] if prenorm else []
    results += masks if return_dropout_mask else []
    return results[0] if len(results) == 1 else tuple(results)


def rms_norm_fn(*arguments: Any, **named: Any) -> Any:
    """`layer_norm_fn` that leaves the mean alone, and takes the same arguments but for ``is_rms_norm``."""
    norm: Callable[..., Any] = layer_norm_fn
    place = 13  # that of is_rms_norm
    if len(arguments) > place:
        return norm(*arguments[:place], True, *arguments[place:], **named)
    return norm(*arguments, is_rms_norm=True, **named)


def layer_norm_ref(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None = None,
    x1: Tensor | None = None,
    weight1: Tensor | None = None,
    bias1: Tensor | None = None,
    eps: float = 1e-6,
    dropout_p: float = 0.0,
    rowscale: Tensor | None = None,
    prenorm: bool = False,
    zero_centered_weight: bool = False,
    dropout_mask: Tensor | None = None,
    dropout_mask1: Tensor | None = None,
    upcast: bool = False,
    *,
    is_rms_norm: bool = False,
) -> Any:
    """As `layer_norm_fn`, which computes in float32 anyway, with masks that are given: True where x is kept."""
    masks = None if dropout_p and dropout_mask is None else (dropout_mask, dropout_mask1)
    return layer_norm_fn(
        x, weight, bias, residual, x1, weight1, bias1, eps, dropout_p, rowscale, prenorm, upcast, zero_centered_weight,
        is_rms_norm, masks=masks,
    )  # fmt: skip


rms_norm_ref: Callable[..., Any] = partial(layer_norm_ref, is_rms_norm=True)


def layer_norm_linear_fn(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor | None,
    linear_weight: Tensor,
    linear_bias: Tensor | None,
    residual: Tensor | None = None,
    eps: float = 1e-6,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    is_rms_norm: bool = False,
) -> Any:
    """`layer_norm_fn` and a projection (out, d) of its result."""
    y, total = layer_norm_fn(
        x, norm_weight, norm_bias, residual, eps=eps, prenorm=True, residual_in_fp32=residual_in_fp32,
        is_rms_norm=is_rms_norm,
    )  # fmt: skip
    y = F.linear(y.to(linear_weight.dtype), linear_weight, linear_bias)
    return (y, total) if prenorm else y


class RMSNorm(nn.Module):
    """Root mean square norm with a weight.

    Args:
        hidden_size: d.
        eps: added to the mean square.
        dropout_p: of x, before a residual is added.
        zero_centered_weight: whether 1 is added to the weight.
        device: of the weight.
        dtype: of the weight.
    """

    zero_centered_weight = False  # norms that older releases pickled do not have it

    def __init__(
        self,
        hidden_size: int,
        eps: float = 1e-5,
        dropout_p: float = 0.0,
        zero_centered_weight: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.eps, self.zero_centered_weight = eps, zero_centered_weight
        self.drop = nn.Dropout(dropout_p) if dropout_p else None
        start = torch.zeros if zero_centered_weight else torch.ones
        self.weight = nn.Parameter(start(hidden_size, device=device, dtype=dtype))
        self.register_parameter("bias", None)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the state of a pickled norm, upstream's and that of older releases included."""
        state = dict(state)
        dropout_p = state.pop("dropout_p", 0.0)
        if "drop" not in state["_modules"]:
            state.setdefault("drop", None)
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # PyTorch's
        if dropout_p:
            self.drop = nn.Dropout(dropout_p)

    def forward(
        self, x: Tensor, residual: Tensor | None = None, prenorm: bool = False, residual_in_fp32: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """As `rms_norm_fn`."""
        dropout = self.drop.p if self.drop is not None and self.training else 0.0
        y: Tensor | tuple[Tensor, Tensor] = rms_norm_fn(
            x, self.weight, None, residual, eps=self.eps, dropout_p=dropout, prenorm=prenorm,
            residual_in_fp32=residual_in_fp32, zero_centered_weight=self.zero_centered_weight,
        )  # fmt: skip
        return y
