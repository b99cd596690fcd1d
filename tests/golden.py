"""Reading golden files: weights, inputs, outputs and gradients of the original implementations."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from torch import Tensor

FOLDER = Path(os.environ.get("MEDMAMBA_SHARED", Path(__file__).resolve().parent.parent.parent / "shared")) / "golden"


@dataclass(frozen=True)
class Golden:
    """One file, its tensors by group."""

    name: str
    facts: dict[str, Any]
    tensors: dict[str, Tensor]

    def group(self, prefix: str) -> dict[str, Tensor]:
        """Tensors whose key begins with the prefix, by the rest of the key."""
        return {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}


def load(path: Path) -> Golden:
    """Read a golden file."""
    with safe_open(path, framework="pt") as file:
        facts = json.loads(file.metadata()["json"])
        return Golden(path.stem, facts, {key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118


def parameters(pattern: str) -> list[Any]:
    """pytest parameters for the files that match; one that skips, with the reason, when the folder is absent."""
    if not FOLDER.is_dir():
        reason = f"no golden files at {FOLDER}; set MEDMAMBA_SHARED to the folder that holds them"
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason), id="absent")]
    return [pytest.param(path, id=path.stem) for path in sorted(FOLDER.glob(f"{pattern}.safetensors"))]
