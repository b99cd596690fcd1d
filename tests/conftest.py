"""Shared by all tests: where things are, guards against importing the wrong thing, and room for workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent

# With the checkout's root on the path, `import kernels` would find our folder instead of a library of that name.
sys.path[:] = [entry for entry in sys.path if Path(entry or os.curdir).resolve() != CHECKOUT]

# Tests send themselves Ctrl-C, which a process ignores that a script has started in the background.
signal.signal(signal.SIGINT, signal.default_int_handler)

#: Memory that a worker takes at most, with all the networks and compilers it loads.
WORKER_BYTES = 3e9
if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    # Numba's cache lets two processes that compile at once take the same file; set before anything imports Numba.
    os.environ["NUMBA_CACHE_DIR"] = str(CHECKOUT / ".pytest_cache" / "numba" / worker)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """As many workers as cores and memory allow, which share the cores among them."""
    from medmamba.memory import available_bytes

    cores = len(os.sched_getaffinity(0))
    workers = max(1, int(min(cores, available_bytes() / WORKER_BYTES)))
    # Workers are new processes, so this reaches them before they load PyTorch.
    os.environ.setdefault("OMP_NUM_THREADS", str(cores // workers))
    return workers


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
