"""What a benchmark ran on, in a line, without importing what it is to measure."""

from __future__ import annotations

import os
import platform
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

#: Distributions whose versions are told where they are installed.
PACKAGES = ("medmamba", "torch", "numba", "triton")


def machine() -> str:
    """Date, processor, threads and versions."""
    threads = os.environ.get("OMP_NUM_THREADS")
    limit = f" (OMP_NUM_THREADS={threads})" if threads else ""
    return (
        f"{date.today()}, {processor_line('model name') or platform.machine()}, {os.cpu_count()} cores{limit}, "
        f"Python {platform.python_version()}, {', '.join(versions())}"
    )


def versions() -> list[str]:
    """Names and versions of `PACKAGES`, those that are installed."""
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue  # optional on some platforms
    return found


def processor_line(name: str) -> str:
    """What /proc/cpuinfo says first under a name; empty where there is no such file or line."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), "")
