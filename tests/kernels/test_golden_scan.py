"""Every backend against the scan of the published implementation, outputs and gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from medmamba.kernels import selective_scan
from tests import golden

INPUTS = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")
#: Our error may be this many times what float32 costs the published implementation.
MARGIN = 10
#: What one rounding of the largest value costs; for results that the published implementation happens to hit exactly.
FLOOR = 2.0**-23
#: A GPU's power of two and its division are each good to two units of the last place, also in the published kernel.
GPU_FLOOR = 2.0**-21


def run(
    tensors: dict[str, torch.Tensor], facts: dict[str, Any], backend: str, device: str = "cpu"
) -> dict[str, torch.Tensor]:
    tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
    leaves = {n: tensors[f"input/{n}"].clone().requires_grad_() for n in INPUTS if f"input/{n}" in tensors}
    softplus = facts["config"]["delta_softplus"]
    y, state = selective_scan(**leaves, delta_softplus=softplus, return_last_state=True, backend=backend)
    y.backward(tensors["input/upstream_grad"])
    grads = {f"grad/{n}": torch.zeros_like(v) if v.grad is None else v.grad for n, v in leaves.items()}
    results = {"out": y.detach(), "last_state": state.detach(), **grads}
    return {name: result.cpu() for name, result in results.items()}


def is_scan(file: golden.Golden) -> bool:
    """Whether a file is of the scan itself, whatever its name."""
    return golden.class_of(file) == "selective_scan_ref"


@pytest.mark.parametrize(("backend", "device"), golden.places())
@pytest.mark.parametrize("path", golden.parameters(wanted=is_scan))
def test_backend_is_as_close_to_float64_as_float32_allows(path: Path, backend: str, device: str) -> None:
    file = golden.load(path)
    tensors, facts = file.tensors, file.facts
    results = run(tensors, facts, backend, device)
    floor = GPU_FLOOR if device == "cuda" else FLOOR
    for name, error in facts["fp32_vs_fp64"].items():
        key = name if name.startswith("grad/") else f"output64/{name}"
        worst = float((results[name].double() - tensors[key].double()).abs().max())
        allowed = MARGIN * error["max_abs"] + floor * max(error["ref_absmax"], 1e-30)
        assert worst <= allowed, f"{name}: off by {worst:.2e}, allowed {allowed:.2e}"


@pytest.mark.parametrize("path", golden.parameters(wanted=is_scan))
def test_reference_in_float64_is_the_published_scan(path: Path) -> None:
    file = golden.load(path)
    tensors = {key: tensor.double() for key, tensor in file.tensors.items()}
    results = run(tensors, file.facts, "reference")
    for name, result in results.items():
        key = name if name.startswith("grad/") else f"output64/{name}"
        tolerance = 1e-12 if key.startswith("output64") else 1e-7  # gradients are stored as float32
        torch.testing.assert_close(
            result, tensors[key], rtol=tolerance, atol=tolerance * float(result.abs().max() + 1e-30)
        )
