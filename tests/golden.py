"""Golden files: weights, inputs, outputs and gradients of the original implementations, and how near ours must come."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from medmamba.kernels import backends

_SHARED = Path(os.environ.get("MEDMAMBA_SHARED", Path(__file__).resolve().parent.parent.parent / "shared"))
#: Where the files are; MEDMAMBA_GOLDEN names other files of the same kind.
FOLDER = Path(os.environ.get("MEDMAMBA_GOLDEN", _SHARED / "golden"))
#: Times the difference of the original's float32 run to its float64 run.
MARGIN = 10


@dataclass(frozen=True)
class Golden:
    """One file, its tensors by group."""

    name: str
    facts: dict[str, Any]
    tensors: dict[str, Tensor]

    def group(self, prefix: str) -> dict[str, Tensor]:
        """Tensors whose key begins with the prefix, by the rest of the key."""
        return {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}

    def to(self, device: str) -> Golden:
        """The same on a device."""
        return replace(self, tensors={key: value.to(device) for key, value in self.tensors.items()})


def load(path: Path) -> Golden:
    """Read a golden file."""
    with safe_open(path, framework="pt") as file:
        facts = json.loads(file.metadata()["json"])
        return Golden(path.stem, facts, {key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118


def header(path: Path) -> Golden:
    """A golden file without its tensors."""
    with safe_open(path, framework="pt") as file:
        return Golden(path.stem, json.loads(file.metadata()["json"]), {})


def class_of(file: Golden) -> str:
    """The original's class by its own name, without the path to it and remarks about it."""
    found = re.search(r"[A-Za-z_]\w*(?=\s*\(|\s+via\b|\s*$)", file.facts["cls"])
    assert found, f"{file.name}: no class in {file.facts['cls']!r}"
    return found[0]


def paths(folder: Path, pattern: str = "*") -> list[Path]:
    """All golden files in a folder and its folders."""
    return sorted(folder.rglob(f"{pattern}.safetensors"))


def parameters(pattern: str = "*", *, wanted: Callable[[Golden], bool] | None = None) -> list[Any]:
    """pytest parameters for the files that match; one that skips, with the reason, when the folder is absent.

    Args:
        pattern: of the names.
        wanted: whether a file is, by its header, whatever its name.
    """
    if not FOLDER.is_dir():
        reason = f"no golden files at {FOLDER}; set MEDMAMBA_GOLDEN to their folder, or MEDMAMBA_SHARED to its parent"
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason), id="absent")]
    found = [path for path in paths(FOLDER, pattern) if wanted is None or wanted(header(path))]
    return [pytest.param(path, id=str(path.relative_to(FOLDER).with_suffix(""))) for path in found]


def places() -> list[Any]:
    """pytest parameters for each backend on each device at hand, (backend, device)."""
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    return [
        pytest.param(backend, device, id=f"{backend}-{device}", marks=[pytest.mark.gpu] if device == "cuda" else [])
        for device in devices
        for backend in backends(device)
    ]


def assert_close(ours: Tensor, theirs: Tensor, error: float, largest: float, what: str) -> None:
    """Worst element within the margin of the file's own rounding error, both relative to the largest output."""
    assert ours.shape == theirs.shape, what
    worst = (ours.double().cpu() - theirs.double().cpu()).abs().max().item()
    # A file's own error can be accidentally tiny; float32 cannot promise less than a few units of its last place.
    bound = MARGIN * max(error, 2 * torch.finfo(torch.float32).eps * largest)
    assert worst <= bound, f"{what}: worst element off by {worst:.3g}, allowed {bound:.3g} of {largest:.3g}"
