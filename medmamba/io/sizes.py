"""How large images are, by their headers alone: for knowing how many fit into memory at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from medmamba.errors import DataError
from medmamba.io.images import read_geometry

#: So many headers, evenly spaced, stand for all.
_LOOKED_AT = 32


def largest_voxels(files: Sequence[Path]) -> int:
    """Voxels of the largest of some images; those that cannot be read count nothing.

    Args:
        files: one of each case.
    """
    return max(map(_voxels, files[:: max(1, math.ceil(len(files) / _LOOKED_AT))]), default=0)


def _voxels(file: Path) -> int:
    try:
        return math.prod(read_geometry(file).shape)
    except (DataError, OSError):  # which whoever reads all of it will tell
        return 0
