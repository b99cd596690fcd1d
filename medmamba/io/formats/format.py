"""What a file format has to do, and what the doors of all formats have in common."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from medmamba.io.errors import ImageFileError
from medmamba.io.remarks import Remark
from medmamba.labels import Labels
from medmamba.volume import Geometry, Volume

#: More voxels than this are refused before memory is asked for: 16 GB as float32.
MAX_VOXELS = 4_000_000_000
#: Deflate, the method of gzip and zlib, never makes data smaller than this fraction: what claims to be is no such data.
DEFLATE_RATIO = 1032
#: Voxels outside of these sizes are more likely in other units than millimetres.
PLAUSIBLE_SPACING_MM = (0.01, 20.0)


@dataclass(frozen=True, slots=True)
class Header:
    """What can be told without the voxels; the grid of a partial one is that of what is not empty."""

    geometry: Geometry
    channels: int
    is_partial: bool = False


@dataclass(frozen=True, slots=True)
class Stored:
    """What a file holds.

    Args:
        array: (C, I, J, K) real numbers of the type they are stored in, scaling applied.
        geometry: the grid, (I, J, K).
        remarks: what is odd about it.
        is_partial: whether slices without anything in them may be left out.
    """

    array: NDArray[Any]
    geometry: Geometry
    remarks: tuple[Remark, ...]
    is_partial: bool = False


class Format(Protocol):
    """A way to keep an image in a file, in a header and files of voxels, or in a folder.

    All methods but `recognises` and `write` are called for what was recognised, or bears one of the suffixes and was
    recognised by no other format. They raise `OSError` for what cannot be opened, and `ImageFileError` for what is
    damaged, larger than allowed, no image of real numbers, or on a grid without positions.
    """

    @property
    def name(self) -> str:
        """What people call it."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Endings, in lower case, of what it writes, files or folders, and of what is looked for; longer ones first."""

    def recognises(self, path: Path, start: bytes) -> bool:
        """Whether something is of this format, whatever it is called.

        Args:
            path: a file or folder.
            start: the first bytes of a file; none of a folder.
        """

    def files(self, path: Path) -> tuple[Path, ...]:
        """All files of an image that are there, the one that is named first."""

    def read_header(self, path: Path) -> Header:
        """Grid and channels."""

    def read(self, path: Path, *, max_voxels: int) -> Stored:
        """Voxels and grid; more than ``max_voxels`` are refused before memory is asked for."""

    def why_not_integer(self, path: Path) -> str | None:
        """Why the numbers of a label map are no integers, where the format can tell, and what to do."""

    def write(self, volume: Volume, path: Path, *, like: Path | None, labels: Labels | None) -> None:
        """Write an image as `medmamba.files` does: whole or not at all.

        Args:
            volume: what to write, of a type that `medmamba.io.write` stores.
            path: of the file, with one of the suffixes.
            like: an image of any format on the same grid, whose header is copied if it is of this one.
            labels: names of a label map's values, for formats that keep them.
        """


def check_size(path: Path, shape: Sequence[int], item_bytes: int, *, max_voxels: int) -> None:
    """Refuse an image that is too large, going by its header.

    Raises:
        ImageFileError: if it has more than ``max_voxels`` voxels.
    """
    voxels = math.prod(shape)
    if voxels > max_voxels:
        size = " x ".join(map(str, shape))
        raise ImageFileError(
            path,
            f"the header claims {size} voxels, which need {voxels * max(item_bytes, 4) / 1e12:.3g} TB of memory; the "
            f"file is damaged or not an image (more than {max_voxels:,} voxels are read only when asked for)",
        )


def check_stored(path: Path, promised_bytes: int, stored_bytes: int, *, compressed: bool) -> None:
    """Refuse a file that cannot hold the voxels its header promises, before memory for them is asked for.

    Raises:
        ImageFileError: if it is too short.
    """
    if promised_bytes > stored_bytes * (DEFLATE_RATIO if compressed else 1):
        raise ImageFileError(
            path,
            f"the file is cut short: it has {stored_bytes} bytes{' (compressed)' if compressed else ''}, the header "
            f"promises {promised_bytes} bytes of voxels; copy it again",
        )


def odd_spacing(geometry: Geometry) -> list[Remark]:
    """A remark where voxel sizes look like another unit than the millimetres they are taken for."""
    low, high = PLAUSIBLE_SPACING_MM
    spacing = geometry.spacing_mm
    thick = max(spacing) > high and min(geometry.shape) > 1  # a single slice may stand for any thickness
    if min(spacing) >= low and not thick:
        return []
    sizes = " x ".join(f"{size:g}" for size in spacing)
    return [Remark(f"voxels of {sizes} mm look like {'micrometres' if thick else 'metres'}; check the header")]
