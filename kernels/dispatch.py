"""Which backend runs a selective scan."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable, Sequence
from functools import cache
from typing import Literal, overload

import torch
from torch import Tensor

from ..errors import UsageError
from ._arguments import Scan, many_orders, one_order
from .cpu_scan import scan_cpu
from .orders import ScanOrder
from .reference import scan_reference
from .torch_scan import scan_torch

_log = logging.getLogger(__name__)

#: Names a backend for every call that does not name one itself.
ENVIRONMENT_VARIABLE = "MEDMAMBA_SCAN_BACKEND"

#: With "1", Triton runs kernels in its interpreter, on the CPU: for tests.
INTERPRETER_VARIABLE = "TRITON_INTERPRET"

Backend = Callable[[Scan], tuple[Tensor, Tensor]]


def _scan_triton(scan: Scan) -> tuple[Tensor, Tensor]:
    # Late: Triton is slow to import, is not to be had everywhere, and reads its settings as it is imported.
    from .triton_scan import scan_triton

    return scan_triton(scan)


_BACKENDS: dict[str, Backend] = {
    "cpu": scan_cpu,
    "triton": _scan_triton,
    "torch": scan_torch,
    "reference": scan_reference,
}


def backends(device: str | None = None) -> tuple[str, ...]:
    """Names that ``selective_scan(backend=...)`` and the environment variable accept.

    Args:
        device: only those that take tensors on such a device, say "cpu" or "cuda", here and now; None: all.
    """
    return tuple(name for name in _BACKENDS if device is None or _why_not(name, device) is None)


#: What suits a device; AMD's GPUs are called "cuda" too.
_BY_DEVICE = {"cpu": "cpu", "cuda": "triton"}


_HAS_TRITON = importlib.util.find_spec("triton") is not None


#: What computes in float32 whatever it is given.
_SINGLE = ("cpu", "triton")


#: What is said once for each function, backend and device.
_say_once = cache(_log.log)


def choose(function: str, asked: str | None, device: str) -> str:
    """The name of the backend that runs a function, which is named in log and errors.

    That is the argument, else the environment variable, else what suits the device.

    Raises:
        ValueError: if there is no such backend, or it cannot serve the device; `UsageError` where the environment
            variable asks for it.
    """
    name, why = asked, "as asked"
    if name is None:
        name, why = os.environ.get(ENVIRONMENT_VARIABLE) or None, f"from {ENVIRONMENT_VARIABLE}"
    if name is None:
        name, why = _BY_DEVICE.get(device, "torch"), "by device"
        if name == "triton" and not _HAS_TRITON:
            name, why = "torch", "by device, without Triton"
        if name == "torch" and not torch.compiler.is_compiling():
            slow = "%s on %s: no kernels of our own here; 'torch' is portable, not fast"
            _say_once(logging.WARNING, slow, function, device)
    reason = _why_not(name, device)
    if reason is not None:
        raise (UsageError if asked is None else ValueError)(f"{function}: backend {reason} ({why})")
    if not torch.compiler.is_compiling():
        _say_once(logging.INFO, "%s on %s: backend %r (%s)", function, device, name, why)
    return name


def _run(scan: Scan, backend: str | None) -> tuple[Tensor, Tensor]:
    name = choose("selective_scan", backend, scan.u.device.type)
    if name in _SINGLE and scan.exact:
        if not torch.compiler.is_compiling():
            slower = "selective_scan: backend %r computes in float32; float64 arguments go to 'torch', which is slower"
            _say_once(logging.INFO, slower, name)
        name = "torch"
    return _BACKENDS[name](scan)


def _why_not(name: str, device: str) -> str | None:
    """What keeps a backend from a device, or None."""
    if name not in _BACKENDS:
        return f"must be one of {', '.join(_BACKENDS)}, but is {name!r}"
    if name == "cpu" and device != "cpu":
        return f"'cpu' must get tensors on the CPU, but they are on {device}; leave the choice to the device"
    if name == "triton" and not _HAS_TRITON:
        return "'triton' needs Triton, which is not installed; install it with 'pip install triton' or name another"
    if name == "triton" and device == "cpu" and os.environ.get(INTERPRETER_VARIABLE) != "1":
        return (
            "'triton' must get tensors on a GPU, but they are on the CPU; use 'cpu', or start Python with "
            f"{INTERPRETER_VARIABLE}=1 to have the kernels interpreted, which is slow"
        )
    if name == "triton" and device not in ("cuda", "cpu"):
        return f"'triton' must get tensors on a GPU, but they are on {device}; use 'torch'"
    return None


@overload
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    initial_state: Tensor | None = None,
    return_last_state: Literal[False] = False,
    backend: str | None = None,
) -> Tensor: ...


@overload
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    initial_state: Tensor | None = None,
    return_last_state: Literal[True],
    backend: str | None = None,
) -> tuple[Tensor, Tensor]: ...


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    initial_state: Tensor | None = None,
    return_last_state: bool = False,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Run a selective scan with the backend that suits the device.

    Shapes and formulas: :func:`~medmamba.kernels.reference.scan_reference`.

    Args:
        u: (B, D, L) input.
        delta: (B, D, L) step sizes.
        A: (D, N) decay, real; N from 1 to 256.
        B: (D, N), (B, N, L) or (B, G, N, L).
        C: like B.
        D: (D,) weight of the path past the states.
        z: (B, D, L) gate.
        delta_bias: (D,) added to delta.
        delta_softplus: whether softplus makes the step sizes positive.
        initial_state: (B, D, N); None: zeros.
        return_last_state: whether to return the state after the last step too.
        backend: one of :func:`backends`; None: what the environment variable MEDMAMBA_SCAN_BACKEND names, else what
            suits the device.

    Returns:
        y (B, D, L) in the type of u, or (y, last state) with the state (B, D, N).

    Raises:
        TypeError: if a tensor is not of a real floating point type.
        ValueError: if shapes or devices do not fit together, or if there is no such backend.
    """
    scan = one_order((u, delta, A, B, C, D, z, delta_bias, initial_state), delta_softplus)
    y, last_state = _run(scan, backend)
    return (y, last_state[:, 0]) if return_last_state else y


def multi_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    orders: Sequence[ScanOrder],
    grid: Sequence[int],
    scale: float = 1.0,
    initial_state: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Scan a grid of tokens in K orders, each with its own parameters, and add up the results.

    All tensors hold their L tokens as the grid lies in memory; the kernels walk it, nothing is flipped or permuted.

    Args:
        u: (B, K, D, L) input of each order, or (B, D, L): the same for all.
        delta: (B, K, D, L) step sizes.
        A: (K, D, N) decay, real; N from 1 to 256.
        B: (K, D, N), (B, K, N, L) or (B, K, G, N, L).
        C: like B.
        D: (K, D) weight of the path past the states.
        z: (B, D, L) gate of the sum.
        delta_bias: (K, D) added to delta.
        delta_softplus: whether softplus makes the step sizes positive.
        orders: K orders.
        grid: numbers of tokens along the axes, slowest first; their product is L.
        scale: factor of the sum, 1 / K for a mean.
        initial_state: (B, K, D, N); None: zeros.
        backend: as in `selective_scan`.

    Returns:
        y (B, D, L) in the type of u, and the states (B, K, D, N) after each order's last step.

    Raises:
        TypeError: if a tensor is not of a real floating point type.
        ValueError: if shapes or devices do not fit together, an order does not fit the grid, or there is no such
            backend.
    """
    nine = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    scan = many_orders(nine, delta_softplus, orders, grid, scale)
    return _run(scan, backend)
