"""The errors of reading and writing, and the checks at the door that all formats share."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

from medmamba.errors import DataError
from medmamba.volume import Geometry

log = logging.getLogger(__name__)

#: More voxels than this are refused before memory is asked for: 16 GB as float32.
MAX_VOXELS = 4_000_000_000
#: Deflate, the method of gzip and zlib, never makes data smaller than this fraction: what claims to be is no such data.
DEFLATE_RATIO = 1032
#: Voxels outside of these sizes are more likely in other units than millimetres.
PLAUSIBLE_SPACING_MM = (0.01, 20.0)


class ImageFileError(DataError):
    """A file is not an image that can be worked with; the message names it and what to do."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class LabelValueError(ImageFileError):
    """A file is an image, but no label map: it holds values that are not integers."""


class DatasetError(DataError):
    """A folder is not a data set that can be used; the message names it and what to do."""


def check_content(path: Path) -> bytes:
    """First bytes of a file.

    Raises:
        FileNotFoundError: if there is no such file.
        ImageFileError: if it is empty, a folder, or text that was saved under an image's name.
    """
    if path.is_dir():
        raise ImageFileError(path, "this is a folder, not an image; name the files in it")
    if not path.is_file():
        link = " (a link that leads nowhere)" if path.is_symlink() else ""
        raise FileNotFoundError(f"{path}: there is no such file{link}")
    with path.open("rb") as file:
        start = file.read(32)
    if not start:
        raise ImageFileError(path, "the file is empty (0 bytes); copy or download it again")
    if start.lstrip().startswith((b"<", b"{")):
        raise ImageFileError(
            path,
            f"this is no image but text that begins with {start[:8].decode('latin-1')!r}, most likely the error page "
            "of a failed download; download it again",
        )
    if start.startswith(b"version https://git-lfs"):
        raise ImageFileError(path, "this is no image but a pointer to one in Git LFS; fetch it with `git lfs pull`")
    return start


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


def note_spacing(path: Path, geometry: Geometry) -> None:
    """Say so where voxel sizes look like another unit than the millimetres they are taken for."""
    low, high = PLAUSIBLE_SPACING_MM
    spacing = geometry.spacing_mm
    thick = max(spacing) > high and min(geometry.shape) > 1  # a single slice may stand for any thickness
    if min(spacing) < low or thick:
        sizes = " x ".join(f"{size:g}" for size in spacing)
        unit = "micrometres" if thick else "metres"
        log.warning("%s: voxels of %s mm look like %s; check the header", path, sizes, unit)
