"""The selective scan on a GPU, checked there at its first use."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..errors import MachineError
from ._arguments import NAMES, Nine, Scan, many_orders, wants_gradient
from ._operators import Numbers, scan_of, scan_operator
from ._triton_launch import kept_shape, scan_backward, scan_forward
from .orders import ScanOrder, encode
from .reference import scan_reference

_log = logging.getLogger(__name__)


def _forward(nine: Nine, numbers: Numbers, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    if nine[0].device.type == "cuda":
        _check_device(nine[0].device)
    return scan_forward(scan_of(nine, numbers), keep)


def _backward(
    grad_y: Tensor | None, grad_state: Tensor | None, kept: Tensor, nine: Nine, numbers: Numbers
) -> Sequence[Tensor | None]:
    return scan_backward(scan_of(nine, numbers), grad_y, grad_state, kept)


def _kept_shape(nine: Nine) -> tuple[Any, ...]:
    batch, orders, channels, length = nine[1].shape
    return kept_shape(batch, orders, length, nine[2].shape[-1], channels)


_scan = scan_operator("triton", ("cuda", "cpu"), _forward, _backward, _kept_shape, kept_axis=0)

#: What the check of a device may be off by, as a share of the largest value: far above rounding, far below a mistake.
CHECK_TOLERANCE = 1e-3
#: The grid that is scanned for it, long enough for several chunks.
CHECK_GRID = (20, 21)


def check_kernels(device: torch.device) -> None:
    """Compare the kernels with the reference on a small scan, results and gradients.

    Args:
        device: where the kernels run.

    Raises:
        MachineError: if they cannot run there, or are wrong.
    """
    # Inside an operator, where scans run, PyTorch keeps autograd off for the thread, and the reference needs it.
    with ThreadPoolExecutor(1) as another_thread:
        another_thread.submit(_compare_with_reference, device).result()


def _compare_with_reference(device: torch.device) -> None:
    remedy = "use backend='torch', or set MEDMAMBA_SCAN_BACKEND=torch"
    scan, grads = _small_scan()
    try:
        own = scan.of(tuple(t.to(device) for t in scan.given))  # type: ignore[arg-type]  # all nine
        y, last, kept = scan_forward(own, keep=True)
        results = [y, last, *scan_backward(own, grads[0].to(device), grads[1].to(device), kept)]
    except Exception as problem:  # whatever a compiler or driver comes up with
        raise MachineError(f"selective_scan: backend 'triton' fails on {device}: {problem}; {remedy}") from problem
    leaves = [t.requires_grad_() for t in scan.given]
    expected = list(scan_reference(scan))
    expected += torch.autograd.grad(expected, leaves, grads)
    for name, found, exact in zip(("y", "last_state", *NAMES), results, expected, strict=False):
        assert found is not None
        right = exact.detach()
        off = float((found.cpu() - right).abs().max() / right.abs().max())
        if not off <= CHECK_TOLERANCE:  # NaN is wrong too
            what = name if name in ("y", "last_state") else f"the gradient of {name}"
            raise MachineError(
                f"selective_scan: backend 'triton' is wrong on {device}: {what} is off by {off:.1e} of its largest "
                f"value, where {CHECK_TOLERANCE} is allowed; {remedy}"
            )


def _small_scan() -> tuple[Scan, list[Tensor]]:
    """A scan in two orders, and gradients of its results."""
    generator = torch.Generator().manual_seed(0)
    orders = (ScanOrder(), ScanOrder(axes=(1, 0), reverse=True))
    channels, states, length = 20, 16, math.prod(CHECK_GRID)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    nine = (
        draw(1, channels, length),
        draw(1, 2, channels, length) - 1,
        -draw(2, channels, states).exp(),
        draw(1, 2, states, length),
        draw(1, 2, length, states).mT,
        draw(2, channels),
        draw(1, length, channels).mT,
        draw(2, channels),
        draw(1, 2, channels, states),
    )
    scan = many_orders(nine, True, orders, CHECK_GRID, scale=0.5)
    return scan, [draw(1, channels, length), draw(1, 2, channels, states)]


@cache
def _check_device(device: torch.device) -> None:
    """Check each device at its first use."""
    check_kernels(device)
    name = torch.cuda.get_device_name(device)
    _log.info("selective scan on %s (%s): backend 'triton' agrees with the reference", device, name)


def scan_triton(scan: Scan) -> tuple[Tensor, Tensor]:
    """Run a scan with compiled kernels on a GPU, or in Triton's interpreter on a CPU.

    Arguments and results: :func:`~medmamba.kernels.reference.scan_reference`, none of them float64. Arithmetic and
    states are float32. Results are the same at each run. Can be differentiated once.

    Raises:
        RuntimeError: when a second derivative is asked for.
        MachineError: if the kernels are wrong on this GPU, which is checked at the first scan.
    """
    y, state, _ = _scan(*scan.tensors, scan.delta_softplus, encode(scan.walks), scan.scale, wants_gradient(scan))
    return y, state
