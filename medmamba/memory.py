"""How much memory there is, and errors that say that it was too little."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from medmamba.errors import MedMambaError
from medmamba.volume import Geometry

_PROC, _CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
#: A cgroup without a limit has a word in place of the number, or, in the first version, a number as large as this.
_NO_LIMIT = 2**60
#: What PyTorch's allocators say; on a GPU it has a class of its own, on a CPU it is a RuntimeError like any other.
_SAID = re.compile(r"tried to allocate|can't allocate memory|not enough memory|out of memory|bad_alloc", re.IGNORECASE)


class TooLittleMemoryError(MedMambaError, MemoryError):
    """Something needs more memory than there is; the message says how much of both."""


def available_bytes(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> float:
    """Memory that this process can still take: of the machine, of its container, and of its own limit.

    Args:
        proc: where the kernel tells about processes.
        cgroups: where it tells about containers.

    Returns:
        Bytes; infinite where the system does not tell.
    """
    rooms = [math.inf, *_of_machine(proc), *_of_cgroups(proc, cgroups), *_of_process(proc)]
    return max(0.0, min(rooms))


def check_memory(needed_bytes: float, what: str) -> None:
    """Refuse to work on an image for which there is too little memory, before the system ends the process for it.

    Raises:
        TooLittleMemoryError: with both figures.
    """
    available = available_bytes()
    if needed_bytes > available:
        raise TooLittleMemoryError(
            f"{what} needs {gigabytes(needed_bytes)} of memory, {gigabytes(available)} are free; check the voxel size "
            "in the image's header, or crop the image"
        )


def peak_bytes() -> int:
    """Memory that this process has held at most so far; 0 where the system does not tell."""
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def gigabytes(size: float) -> str:
    """A number of bytes for people.

    >>> gigabytes(1.234e9), gigabytes(4.2e13)
    ('1.23 GB', '42,000 GB')
    """
    return f"{size / 1e9:,.0f} GB" if size >= 1e11 else f"{size / 1e9:.3g} GB"


def grid(shape: Sequence[int], spacing_mm: Sequence[float]) -> str:
    """A grid for people.

    >>> grid((20, 24), (1.0, 0.5))
    '20 x 24 voxels of 1 x 0.5 mm'
    """
    return f"{' x '.join(map(str, shape))} voxels of {' x '.join(f'{size:.4g}' for size in spacing_mm)} mm"


def check_reading(geometry: Geometry, channels: int) -> None:
    """Refuse an image that is too large to be read: as stored, which is at least a byte a voxel, and as float32.

    Raises:
        TooLittleMemoryError: with the size of the image.
    """
    check_memory(5.0 * math.prod(geometry.shape) * channels, f"an image of {grid(geometry.shape, geometry.spacing_mm)}")


@contextmanager
def memory_errors() -> Iterator[None]:
    """Let PyTorch's errors for lack of memory, of whatever class, be a MemoryError as NumPy's are."""
    try:
        yield
    except RuntimeError as error:
        if not _SAID.search(str(error)):
            raise
        raise TooLittleMemoryError(str(error).splitlines()[0]) from error


def _of_machine(proc: Path) -> Iterator[float]:
    if found := re.search(r"^MemAvailable: *(\d+) kB", _text(proc / "meminfo"), re.MULTILINE):
        yield 1024.0 * int(found[1])


def _of_process(proc: Path) -> Iterator[float]:
    if sys.platform == "win32":
        return
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    pages = _text(proc / "self" / "statm").split()
    if limit != resource.RLIM_INFINITY and pages:
        yield float(limit - int(pages[0]) * resource.getpagesize())


def _of_cgroups(proc: Path, cgroups: Path) -> Iterator[float]:
    """What is left in each group around the process; pages of files that nobody uses count as free."""
    names = ("memory.max", "memory.current", "inactive_file")
    old = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    for line in _text(proc / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = cgroups / "memory" if controllers else cgroups
        group = root / path.lstrip("/")
        yield from _rooms([group, *group.parents], root, *(old if controllers else names))


def _rooms(groups: Iterable[Path], root: Path, limit: str, usage: str, unused: str) -> Iterator[float]:
    for group in groups:
        allowed, used = _text(group / limit).strip(), _text(group / usage).strip()
        if allowed.isdigit() and used.isdigit() and int(allowed) < _NO_LIMIT:
            found = re.search(rf"^{unused} (\d+)$", _text(group / "memory.stat"), re.MULTILINE)
            yield float(int(allowed) - int(used) + (int(found[1]) if found else 0))
        if group == root:
            return


def _text(path: Path) -> str:
    """Nothing where the system has no such file, or keeps it to itself."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
