"""The compiled modules that `mamba_ssm` and VMamba import, as far as their Python code calls them.

What a forward pass hands to its backward pass (``x``) is here the last state, in the layout in which callers look for
it; the backward pass computes everything else again.

Letters: B batch, D channels, L length, N states, G groups.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..dispatch import selective_scan

_Optional = Tensor | None

#: `mamba_ssm.utils.torch`, for autograd functions that run under autocast.
custom_fwd = partial(torch.amp.custom_fwd, device_type="cuda")
custom_bwd = partial(torch.amp.custom_bwd, device_type="cuda")


def _forward(*scan: Any) -> list[Tensor]:
    """Y and x (B, D, 1, 2 N), whose odd entries are the last state, from the arguments of `selective_scan`."""
    with torch.no_grad():
        y, last = selective_scan(*scan, return_last_state=True)
    return [y, torch.stack([torch.zeros_like(last), last], dim=-1).flatten(2)[:, :, None]]


def _backward(tensors: list[_Optional], softplus: bool, grad: Tensor) -> list[Any]:
    """Gradients of u, delta, A, B, C, D, z and the bias, each in the type upstream gives it, or None."""
    leaves: list[Any] = [None if t is None else t.detach().requires_grad_() for t in tensors]
    with torch.enable_grad():
        u, delta, A, B, C, D, z, bias = leaves
        y = selective_scan(u, delta, A, B, C, D, z, bias, softplus)
        grads = iter(torch.autograd.grad(y, [t for t in leaves if t is not None], grad.to(y.dtype)))
    return [None if t is None else next(grads) for t in leaves]


def _softplus(rest: tuple[Any, ...]) -> bool:
    """Whether there is softplus, of what follows x: that and a number of rows, or in older code the result first."""
    return bool(rest[1] if rest[0] is None or isinstance(rest[0], Tensor) else rest[0])


def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: _Optional = None,
    delta_bias: _Optional = None,
    delta_softplus: bool = False,
    nrows: int = 1,
    *,
    backend: str | None = None,
) -> Tensor:
    """VMamba's `selective_scan.selective_scan_fn`: no gate; how many rows a thread has changes no result."""
    return selective_scan(u, delta, A, B, C, D, None, delta_bias, delta_softplus, backend=backend)


#: The same as a plain loop.
selective_scan_ref = partial(selective_scan_fn, backend="reference")


class selective_scan_cuda:  # noqa: N801  (the name of the module it stands for)
    """`mamba_ssm`'s."""

    @staticmethod
    def fwd(
        u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: _Optional, z: _Optional, delta_bias: _Optional,
        delta_softplus: bool,
    ) -> list[Tensor]:  # fmt: skip
        """The sum before the gate, x, and the gated result if there is a gate."""
        plain, x = _forward(u, delta, A, B, C, D, None, delta_bias, delta_softplus)
        if z is None:
            return [plain, x]
        return [plain, x, _forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus)[0]]

    @staticmethod
    def bwd(
        u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: _Optional, z: _Optional, delta_bias: _Optional,
        dout: Tensor, x: Tensor, out: _Optional, dz: _Optional, delta_softplus: bool, recompute_out_z: bool,
    ) -> list[Any]:  # fmt: skip
        """Gradients of u, delta, A, B, C, D and the bias, then that of z, and the gated result if asked for."""
        grads = _backward([u, delta, A, B, C, D, z, delta_bias], delta_softplus, dout)
        results = [*grads[:6], grads[7]]
        if z is not None:
            results.append(grads[6] if dz is None else dz.copy_(grads[6]))
            if recompute_out_z:
                results.append(_forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus)[0])
        return results


class selective_scan_cuda_core:  # noqa: N801  (the name of the module it stands for)
    """VMamba's: no gate, B and C grouped (B, G, N, L)."""

    @staticmethod
    def fwd(
        u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: _Optional, delta_bias: _Optional,
        delta_softplus: bool, nrows: int = 1, *_: Any,
    ) -> list[Tensor]:  # fmt: skip
        """Y and x."""
        return _forward(u, delta, A, B, C, D, None, delta_bias, delta_softplus)

    @staticmethod
    def bwd(
        u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: _Optional, delta_bias: _Optional, dout: Tensor,
        x: Tensor, *rest: Any,
    ) -> list[Any]:  # fmt: skip
        """Gradients of u, delta, A, B, C, D and the bias."""
        grads = _backward([u, delta, A, B, C, D, None, delta_bias], _softplus(rest), dout)
        return [*grads[:6], grads[7]]


class selective_scan_cuda_oflex(selective_scan_cuda_core):  # noqa: N801  (the name of the module it stands for)
    """VMamba's with a float32 result for any type of input."""

    @staticmethod
    def fwd(
        u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: _Optional, delta_bias: _Optional,
        delta_softplus: bool, nrows: int = 1, flexible: bool = True, *_: Any,
    ) -> list[Tensor]:  # fmt: skip
        """y, float32 unless the last argument is false, and x."""
        return _forward(u.float() if flexible else u, delta, A, B, C, D, None, delta_bias, delta_softplus)


class selective_scan_cuda_nrow(selective_scan_cuda_core):  # noqa: N801  (the name of the module it stands for)
    """VMamba's with several rows for each thread, which changes no result."""


class selective_scan_cuda_ndstate:  # noqa: N801  (the name of the module it stands for)
    """VMamba's for one state: A (D,), B and C (B, G, L)."""

    @staticmethod
    def fwd(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, *rest: Any) -> list[Tensor]:
        """Y and x."""
        return selective_scan_cuda_core.fwd(u, delta, A[:, None], B[:, :, None], C[:, :, None], *rest)

    @staticmethod
    def bwd(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, *rest: Any) -> list[Any]:
        """Gradients of u, delta, A, B, C, D and the bias."""
        grads = selective_scan_cuda_core.bwd(u, delta, A[:, None], B[:, :, None], C[:, :, None], *rest)
        gu, gdelta, gA, gB, gC, gD, gbias = grads
        return [gu, gdelta, gA[:, 0], gB[:, :, 0], gC[:, :, 0], gD, gbias]


COMPILED = (
    selective_scan_cuda, selective_scan_cuda_core, selective_scan_cuda_oflex, selective_scan_cuda_nrow,
    selective_scan_cuda_ndstate,
)  # fmt: skip
