"""Reading and writing images, whatever their format.

`medmamba.volume` says what comes out: RAS millimetres and array order, whatever the file's own convention.
"""

from __future__ import annotations

import logging
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmamba.case import Case
from medmamba.io import itk, nifti
from medmamba.io._errors import MAX_VOXELS, ImageFileError, LabelValueError
from medmamba.labels import integer_type
from medmamba.volume import Geometry, Volume

log = logging.getLogger(__name__)

_FORMATS: dict[str, ModuleType] = {
    ".nii.gz": nifti,
    ".nii": nifti,
    ".seg.nrrd": itk,
    ".nrrd": itk,
    ".nhdr": itk,
    ".mha": itk,
    ".mhd": itk,
}

#: float32, of which images are made, tells integers apart up to here.
_EXACT = 2**24
#: A larger share of an image's range than this, lost in rounding to float32, is worth a word.
_ROUNDED_SHARE = 1e-3
#: Label values may be this far from an integer in a file of floats.
ROUNDING = 1e-3


def suffixes() -> tuple[str, ...]:
    """Endings of the files that can be read and written."""
    return tuple(_FORMATS)


def files(path: Path) -> tuple[Path, ...]:
    """The files of an image: itself, and where it is but a header those that are there of its voxels.

    Raises:
        OSError: if it cannot be read.
        ImageFileError: if no format has its suffix.
    """
    found: tuple[Path, ...] = _format(path).files(path)
    return found


def read(path: Path, *, max_voxels: int = MAX_VOXELS) -> Volume:
    """Read an image.

    Args:
        path: the file; odd headers that can still be used are logged.
        max_voxels: files that claim more are refused before memory is asked for.

    Returns:
        (C, I, J, K) float32, stored scaling applied. A file with a fourth axis or with vectors gives its channels, a 2D
        image one slice.

    Raises:
        FileNotFoundError: if there is no such file.
        ImageFileError: if it cannot be read as an image of real numbers on an invertible grid, saying why.
    """
    array, geometry = _format(path).read(path, max_voxels=max_voxels)
    with np.errstate(over="ignore"):  # what does not fit becomes infinite, which nobody overlooks
        voxels = np.ascontiguousarray(array, dtype=np.float32)
    _note_rounding(path, array, voxels)
    return Volume(voxels, geometry)


def read_channels(path: Path) -> int:
    """How many channels `read` gives, going by the header alone; errors as `read`."""
    channels: int = _format(path).read_channels(path)
    return channels


def read_geometry(path: Path) -> Geometry:
    """The grid of an image, without its voxels; errors as `read`."""
    geometry: Geometry = _format(path).read_geometry(path)
    return geometry


def read_label(path: Path, *, max_voxels: int = MAX_VOXELS) -> Volume:
    """Read a label map.

    Args:
        path: the file.
        max_voxels: as in `read`.

    Returns:
        (1, I, J, K) integers, of the type they are stored in; those of a file of floats are rounded.

    Raises:
        FileNotFoundError: if there is no such file.
        LabelValueError: if it holds values that are not integers.
        ImageFileError: as `read`, and if it has several channels.
    """
    array, geometry = _format(path).read(path, max_voxels=max_voxels)
    if len(array) != 1:
        raise ImageFileError(path, _several_layers(path, len(array)))
    if not np.issubdtype(array.dtype, np.integer):
        array = _rounded(path, array)
    return Volume(np.ascontiguousarray(array), geometry)


def read_case(case: Case) -> Volume:
    """Read the images of a case.

    Returns:
        All channels in the case's order, float32, on the grid of the first.

    Raises:
        FileNotFoundError: if a file is missing.
        ImageFileError: if a file cannot be read, or lies on another grid than the first.
    """
    volumes = [read(path) for path in case.images]
    first = volumes[0]
    for path, volume in zip(case.images[1:], volumes[1:], strict=True):
        if first.geometry.allclose(volume.geometry):
            continue
        difference = first.geometry.difference(volume.geometry)
        if not first.geometry.same_grid(volume.geometry):
            raise ImageFileError(
                path,
                f"channels of a case must lie on one grid, but against {case.images[0].name} this has "
                f"{difference}; resample it to the first channel's grid",
            )
        log.warning("%s: less than half a voxel from the first channel, whose grid is used: %s", path, difference)
    if len(volumes) == 1:
        return first
    return Volume(np.concatenate([volume.array for volume in volumes]), first.geometry)


def write(volume: Volume, path: Path, *, like: Path | None = None) -> None:
    """Write an image so that nobody ever meets half of it.

    Integers are stored in the smallest unsigned type that holds them (signed when there are negative values), other
    numbers as float32, which holds seven digits of them.

    Args:
        volume: what to write.
        path: its suffix decides the format.
        like: an image on the same grid. Its header's geometry is copied bit for bit when it has the same format, so
            that every other program sees the two in the same place.

    Raises:
        FileNotFoundError: if the folder does not exist.
        ImageFileError: if the suffix is unknown, ``like`` lies on another grid, or there are numbers that float32
            does not reach.
    """
    target = _format(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: there is no such folder to write {path.name} into")
    if like is not None:
        grid = read_geometry(like)
        if not grid.allclose(volume.geometry):
            raise ImageFileError(like, f"the image to write lies on another grid: {grid.difference(volume.geometry)}")
        if _format(like) is not target:
            like = None
    target.write(volume.with_array(_storable(path, volume.array)), path, like)


def _format(path: Path) -> ModuleType:
    name = path.name.lower()
    for suffix, module in _FORMATS.items():
        if name.endswith(suffix):
            return module
    raise ImageFileError(path, f"images end in {', '.join(_FORMATS)}; convert the file to one of these")


def _several_layers(path: Path, count: int) -> str:
    if path.name.lower().endswith(".seg.nrrd"):
        return (
            f"this is a segmentation of Slicer whose segments overlap, in {count} layers, but a label map has one "
            "value per voxel; in Slicer, export it as a single label map (Segmentations, Export to files)"
        )
    return f"a label map has one value per voxel, this has {count} channels; merge them into one map"


def _rounded(path: Path, array: NDArray[Any]) -> NDArray[Any]:
    """Integers of a label map that is stored as floats."""
    with np.errstate(invalid="ignore"):  # infinite minus infinite is no number, and so no integer
        rounded = np.round(array)
        wrong = ~(np.abs(array - rounded) <= ROUNDING) | (np.abs(array) >= np.iinfo(np.int64).max)
    if wrong.any():
        examples = ", ".join(f"{value:g}" for value in np.unique(array[wrong])[:5])
        cause = _format(path).why_not_integer(path) or (
            "the map was probably interpolated: resample it again with nearest neighbour"
        )
        raise LabelValueError(
            path, f"label values must be integers, {int(wrong.sum())} voxels are not (such as {examples}); {cause}"
        )
    if array.dtype == np.float32 and np.abs(rounded).max() >= _EXACT:
        log.warning("%s: label values above %d are stored as float32, which rounds them; store integers", path, _EXACT)
    return rounded.astype(np.int32 if np.abs(rounded).max() <= np.iinfo(np.int32).max else np.int64)


def _storable(path: Path, array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype == np.bool_:
        return array.astype(np.uint8)
    if np.issubdtype(array.dtype, np.integer):
        return array.astype(integer_type(int(array.min()), int(array.max())))
    if not np.issubdtype(array.dtype, np.floating):
        raise ImageFileError(path, f"images hold real numbers, not {array.dtype}; take magnitude or phase")
    with np.errstate(over="ignore"):
        stored: NDArray[Any] = array.astype(np.float32)
    if np.isinf(stored).sum() > np.isinf(array).sum():
        raise ImageFileError(path, f"images are stored as float32, which does not reach to {np.abs(array).max():g}")
    return stored


def _note_rounding(path: Path, stored: NDArray[Any], voxels: NDArray[np.float32]) -> None:
    """Say so where an image of large and almost equal numbers loses what it shows."""
    if stored.dtype.itemsize < 4 or stored.dtype == np.float32 or not np.isfinite(voxels).all():
        return
    low, high = float(stored.min()), float(stored.max())
    lost = float(np.spacing(np.float32(max(abs(low), abs(high))))) / 2
    if max(abs(low), abs(high)) > _EXACT and low < high and lost > _ROUNDED_SHARE * (high - low):
        log.warning(
            "%s: intensities from %.9g to %.9g are rounded to float32, by up to %g; subtract what they have in common",
            path,
            low,
            high,
            lost,
        )
