"""The norms of `mamba_ssm`, which add a residual on the way."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812  (the name everybody knows)
from torch import Tensor, nn

from ._convolution import refuse


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
) -> Tensor | tuple[Tensor, Tensor]:
    """Norm of x, or of x + residual.

    Args:
        x: (..., d).
        weight: (d,).
        bias: (d,), or None.
        residual: (..., d), added to x first.
        x1: refused, as are weight1, bias1, rowscale and the dropout mask.
        weight1: refused.
        bias1: refused.
        eps: added to the variance.
        dropout_p: of x, before the residual is added.
        rowscale: refused.
        prenorm: whether to return the sum too.
        residual_in_fp32: whether the sum is float32.
        zero_centered_weight: whether 1 is added to the weight.
        is_rms_norm: whether the mean is left alone.
        return_dropout_mask: refused.

    Returns:
        The norm in the type of x; with ``prenorm`` also the sum.
    """
    refuse(
        "layer_norm_fn",
        x1=x1,
        weight1=weight1,
        bias1=bias1,
        rowscale=rowscale,
        return_dropout_mask=return_dropout_mask or None,
    )
    total = F.dropout(x, dropout_p) if dropout_p else x
    kind = x.dtype
    if residual is not None:
        total = total.float() + residual.float()
        kind = residual.dtype
    total = total.to(torch.float32 if residual_in_fp32 else kind)
    values = total.float()
    if not is_rms_norm:
        values = values - values.mean(-1, keepdim=True)
    values = values * torch.rsqrt(values.square().mean(-1, keepdim=True) + eps)
    scale = weight.float() + 1 if zero_centered_weight else weight.float()
    values = values * scale if bias is None else values * scale + bias.float()
    y = values.to(x.dtype)
    return (y, total) if prenorm else y


def rms_norm_fn(
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
    return_dropout_mask: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """`layer_norm_fn` that leaves the mean alone."""
    return layer_norm_fn(
        x, weight, bias, residual, x1, weight1, bias1, eps, dropout_p, rowscale, prenorm, residual_in_fp32,
        zero_centered_weight, is_rms_norm=True, return_dropout_mask=return_dropout_mask,
    )  # fmt: skip


def layer_norm_ref(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None = None,
    eps: float = 1e-6,
    prenorm: bool = False,
    upcast: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """As `layer_norm_fn`, which computes in float32 anyway."""
    return layer_norm_fn(x, weight, bias, residual, eps=eps, prenorm=prenorm, residual_in_fp32=upcast)


def rms_norm_ref(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None = None,
    eps: float = 1e-6,
    prenorm: bool = False,
    upcast: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """As `rms_norm_fn`, which computes in float32 anyway."""
    return rms_norm_fn(x, weight, bias, residual, eps=eps, prenorm=prenorm, residual_in_fp32=upcast)


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
        self.eps, self.dropout_p, self.zero_centered_weight = eps, dropout_p, zero_centered_weight
        start = torch.zeros if zero_centered_weight else torch.ones
        self.weight = nn.Parameter(start(hidden_size, device=device, dtype=dtype))
        self.register_parameter("bias", None)

    def forward(
        self, x: Tensor, residual: Tensor | None = None, prenorm: bool = False, residual_in_fp32: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """As `rms_norm_fn`."""
        dropout = self.dropout_p if self.training else 0.0
        return rms_norm_fn(
            x, self.weight, None, residual, eps=self.eps, dropout_p=dropout, prenorm=prenorm,
            residual_in_fp32=residual_in_fp32, zero_centered_weight=self.zero_centered_weight,
        )  # fmt: skip
