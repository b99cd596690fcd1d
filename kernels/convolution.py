"""The causal depthwise convolution with SiLU that comes before the scan, along the same orders."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ._sizes import as_numbers, sizes_as_numbers
from .cpu_conv import causal_conv_cpu
from .dispatch import choose
from .orders import ScanOrder, Walk, encode


def causal_conv_reference(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: bool, walks: Sequence[Walk]
) -> Tensor:
    """The convolution by gathering the tokens of each order; shapes are those of `causal_conv`."""
    taps = weight.shape[-1]
    exact = torch.float64 if x.dtype == torch.float64 else torch.float32
    results = []
    for order, walk in enumerate(walks):
        tokens = walk.positions(x.device)
        given = F.pad(x[..., tokens].to(exact), (taps - 1, 0))
        kernel = weight[order, :, None].to(exact)
        summed = F.conv1d(given, kernel, None if bias is None else bias[order].to(exact), groups=x.shape[1])
        results.append((F.silu(summed) if activation else summed)[..., tokens.argsort()])
    return torch.stack(results, dim=1).to(x.dtype)


def causal_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    orders: Sequence[ScanOrder],
    grid: Sequence[int],
    activation: bool = True,
    backend: str | None = None,
) -> Tensor:
    """Convolve each channel along each order, a token seeing itself and those before, and apply SiLU.

    Args:
        x: (B, D, L), tokens as the grid lies in memory.
        weight: (K, D, W) taps of each order; the last one meets the token itself.
        bias: (K, D), or None.
        orders: K orders.
        grid: numbers of tokens along the axes, slowest first.
        activation: whether SiLU follows.
        backend: as in :func:`~medmamba.kernels.selective_scan`; those without a convolution of their own gather.

    Returns:
        (B, K, D, L) in the type of x, tokens as the grid lies in memory.

    Raises:
        ValueError: if shapes do not fit together.
    """
    walks = _check(x, weight, bias, orders, grid)
    chosen = choose("causal_conv", backend, x.device.type)
    if x.dtype == torch.float64 or chosen not in ("cpu", "triton"):
        return causal_conv_reference(x, weight, bias, activation, walks)
    encoded = encode(walks)
    if chosen == "cpu":
        return causal_conv_cpu(x, weight, bias, activation, encoded)
    from .triton_conv import causal_conv_triton  # late, as in `dispatch`

    return causal_conv_triton(x, weight, bias, activation, encoded)


@sizes_as_numbers
def _check(
    x: Tensor, weight: Tensor, bias: Tensor | None, orders: Sequence[ScanOrder], grid: Sequence[int]
) -> tuple[Walk, ...]:
    """The walks of a convolution."""
    grid = as_numbers(grid)
    walks = tuple(order.walk(grid) for order in orders)
    if x.dim() != 3:
        raise ValueError(f"causal_conv: x must have the three axes (batch, channels, length), but is {tuple(x.shape)}")
    channels, length = x.shape[1:]
    if weight.dim() != 3 or tuple(weight.shape[:2]) != (len(walks), channels):
        raise ValueError(f"causal_conv: weight must be ({len(walks)}, {channels}, taps), but is {tuple(weight.shape)}")
    if bias is not None and tuple(bias.shape) != (len(walks), channels):
        raise ValueError(f"causal_conv: bias must be {(len(walks), channels)}, but is {tuple(bias.shape)}")
    if not walks or walks[0].length != length:
        raise ValueError(f"causal_conv: orders and grid {tuple(grid)} must cover the {length} tokens of x")
    return walks
