"""Which device to compute on, and in which precision."""

from __future__ import annotations

import logging
from typing import Any, Literal

import torch

from medmamba.errors import MachineError

Precision = Literal["fp32", "bf16"]

log = logging.getLogger(__name__)


def choose_device(name: str) -> torch.device:
    """A device by name; ``auto`` takes a CUDA GPU if there is one that works, else the CPU, and says so.

    Raises:
        MachineError: if the named device is not there.
    """
    if name == "auto":
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        log.info("computing on %s", device)
        return device
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise MachineError(f"no device {name!r} on this machine ({reason}); use --device cpu or auto") from error
    return device


def choose_precision(device: torch.device) -> Precision:
    """bfloat16 where the processor multiplies it directly, float32 elsewhere.

    float16 is never chosen: scans overflow in it, which is where published Mamba networks get their NaN from.
    """
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device.type == "cpu":
        # Not in every version of torch; without it the safe answer is the exact one.
        capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        return "bf16" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "fp32"
    return "fp32"
