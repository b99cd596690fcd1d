"""Shared by all tests: where things are, and guards against importing the wrong thing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
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


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Make a file system of a size such as ``200k``; where that is not allowed, the test is skipped."""
    mounted: list[Path] = []

    def make(size: str) -> Path:
        place = tmp_path / f"disk{len(mounted)}"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"a small file system needs root and the right to mount it: {error}")
        mounted.append(place)
        return place

    yield make
    for place in mounted:
        # Lazily: ITK keeps a file open that it could not finish.
        subprocess.run(["umount", "--lazy", str(place)], check=True)
