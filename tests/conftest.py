"""Shared by all tests: where things are, and guards against importing the wrong thing."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent

# With the checkout's root on the path, `import kernels` would find our folder instead of a library of that name.
sys.path[:] = [entry for entry in sys.path if Path(entry or os.curdir).resolve() != CHECKOUT]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden files and real scans, kept beside the project."""
    folder = Path(os.environ.get("MEDMAMBA_SHARED", CHECKOUT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no golden files and scans at {folder}; set MEDMAMBA_SHARED to where they are")
    return folder
