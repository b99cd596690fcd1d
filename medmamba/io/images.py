"""Reading and writing images, whatever their format.

`medmamba.volume` says what comes out: RAS millimetres and array order, whatever the file's own convention. What is read
is recognised by its content; the name decides what is written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmamba.case import Case
from medmamba.io.errors import ImageFileError, LabelValueError
from medmamba.io.formats import DICOM_SEG, FORMATS, MAX_VOXELS, OF_SERIES, RTSTRUCT, Format, Stored
from medmamba.io.formats.dicom import Dicom
from medmamba.io.formats.dicom_seg import names_by_value
from medmamba.io.formats.partial import completed
from medmamba.io.remarks import LAYERS, Remark, tell
from medmamba.labels import Labels, integer_type
from medmamba.volume import Geometry, Volume

#: Formats are recognised by this much of a file.
_START_BYTES = 256  # DICOM has its name behind the first 128
#: float32, of which images are made, tells integers apart up to here.
_EXACT = 2**24
#: A larger share of an image's range than this, lost in rounding to float32, is worth a word.
_ROUNDED_SHARE = 1e-3
#: Label values may be this far from an integer in a file of floats.
ROUNDING = 1e-3


def suffixes() -> tuple[str, ...]:
    """Endings of the files, and folders, that can be read and written by themselves."""
    return tuple(suffix for suffix in map_suffixes() if suffix not in OF_SERIES)


def map_suffixes() -> tuple[str, ...]:
    """Endings of segmentations: all `suffixes`, and those of objects that refer to the DICOM series they are of."""
    return tuple(suffix for known in FORMATS for suffix in known.suffixes)


def is_image(path: Path) -> bool:
    """Whether something is looked at as one image: a file, or a folder that a format recognises by what is in it.

    A folder must also bear a suffix, unless the format has none, as DICOM. Any other may hold images, and is none.

    Raises:
        OSError: if a folder cannot be looked into.
    """
    if path.is_file():
        return True
    if not path.is_dir() or (found := _recognised(path)) is None:
        return False
    return not found.suffixes or path.name.lower().endswith(map_suffixes())


def is_scan(path: Path) -> bool:
    """Whether an image is of a DICOM series.

    Raises:
        OSError: if it cannot be looked at.
    """
    return isinstance(_recognised(path), Dicom)


def is_dicom_seg(path: Path) -> bool:
    """Whether a file is a DICOM SEG, whatever it is called.

    Raises:
        OSError: if it cannot be read.
    """
    return DICOM_SEG.recognises(path, _start(path))


def is_structure_set(path: Path) -> bool:
    """Whether a file is a DICOM RTSTRUCT, whatever it is called: contours, and no voxels.

    Raises:
        OSError: if it cannot be read.
    """
    return RTSTRUCT.recognises(path, _start(path))


def read_names(path: Path) -> dict[int, str] | None:
    """Names of the structures in a label map by their values, going by the header alone.

    None where the file keeps none; an empty mapping where structures overlap, so that no value stands for a whole one.

    Raises:
        OSError: if it cannot be read.
        ImageFileError: if it is damaged.
    """
    return names_by_value(path) if DICOM_SEG.recognises(path, _start(path)) else None


def files(path: Path) -> tuple[Path, ...]:
    """The files of an image: itself, and where it is but a header those that are there of its voxels.

    Raises:
        OSError: if it cannot be read.
        ImageFileError: if it is of no format that is known.
    """
    return (_recognised(path) or _named(path)).files(path)


def read(path: Path | str, *, max_voxels: int = MAX_VOXELS) -> Volume:
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
        MemoryError: if there is too little memory for it now.
    """
    volume, remarks = read_with_remarks(path := Path(path), max_voxels=max_voxels)
    tell(remarks, path)
    return volume


def read_with_remarks(path: Path, *, max_voxels: int = MAX_VOXELS) -> tuple[Volume, tuple[Remark, ...]]:
    """As `read`, with what is odd about the file as values: nothing is logged."""
    stored = _stored(path, max_voxels)
    with np.errstate(over="ignore"):  # what does not fit becomes infinite, which nobody overlooks
        voxels = np.ascontiguousarray(stored.array, dtype=np.float32)
    return Volume(voxels, stored.geometry), (*stored.remarks, *_lost_by_rounding(stored.array, voxels))


def read_channels(path: Path | str) -> int:
    """How many channels `read` gives, going by the header alone; errors as `read`."""
    return _format(path := Path(path)).read_header(path).channels


def read_geometry(path: Path | str) -> Geometry:
    """The grid of an image, without its voxels; errors as `read`."""
    return _format(path := Path(path)).read_header(path).geometry


def read_label(
    path: Path | str, *, within: Geometry | None = None, as_stored: bool = False, max_voxels: int = MAX_VOXELS
) -> Volume:
    """Read a label map.

    Args:
        path: the file.
        within: the grid of the image, over which those of a format are filled up that leaves out slices without
            anything in them, where they lie on it.
        as_stored: leave voxels in memory as they lie in the file, which spares a copy that takes longer than reading;
            else the last axis runs fastest.
        max_voxels: as in `read`.

    Returns:
        (1, I, J, K) integers, of the type they are stored in; those of a file of floats are rounded.

    Raises:
        FileNotFoundError: if there is no such file.
        LabelValueError: if it holds values that are not integers.
        ImageFileError: as `read`, and if it has several channels.
    """
    path = Path(path)
    volume, remarks = read_label_with_remarks(path, within=within, as_stored=as_stored, max_voxels=max_voxels)
    tell(remarks, path)
    return volume


def read_label_with_remarks(
    path: Path, *, within: Geometry | None = None, as_stored: bool = False, max_voxels: int = MAX_VOXELS
) -> tuple[Volume, tuple[Remark, ...]]:
    """As `read_label`, with what is odd about the file as values: nothing is logged."""
    stored = _stored(path, max_voxels)
    if within is not None:
        stored = completed(stored, within)
    array, remarks = stored.array, stored.remarks
    if len(array) != 1:
        raise ImageFileError(path, _several_layers(path, stored))
    if not np.issubdtype(array.dtype, np.integer):
        array = _rounded(path, array)
        if stored.array.dtype == np.float32 and np.abs(array).max() >= _EXACT:
            message = f"label values above {_EXACT} are stored as float32, which rounds them; store integers"
            remarks = (*remarks, Remark(message))
    return Volume(array if as_stored else np.ascontiguousarray(array), stored.geometry), remarks


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
        if apart := first.geometry.apart(volume.geometry):
            raise ImageFileError(
                path,
                f"channels of a case must lie on one grid, but against {case.images[0].name} this has "
                f"{apart}; resample it to the first channel's grid",
            )
        if rounded := first.geometry.rounded(volume.geometry):
            tell([Remark(f"less than half a voxel from the first channel, whose grid is used: {rounded}")], path)
    if len(volumes) == 1:
        return first
    return Volume(np.concatenate([volume.array for volume in volumes]), first.geometry)


def write(
    volume: Volume,
    path: Path | str,
    *,
    like: Path | str | None = None,
    labels: Labels | None = None,
    to: Format | None = None,
) -> None:
    """Write an image so that nobody ever meets half of it.

    Integers are stored in the smallest unsigned type that holds them (signed when there are negative values), other
    numbers as float32, which holds seven digits of them.

    Args:
        volume: what to write.
        path: its suffix decides the format.
        like: an image on the same grid. Its header's geometry is copied bit for bit when it has the same format, so
            that every other program sees the two in the same place.
        labels: what the values of a label map mean, for formats that keep names.
        to: the format, where it is to write otherwise than by itself; None: that of the suffix.

    Raises:
        FileNotFoundError: if the folder does not exist.
        ImageFileError: if the suffix is unknown, ``like`` lies on another grid, or there are numbers that float32
            does not reach.
    """
    path, like = Path(path), Path(like) if like is not None else None
    target = to or _named(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: there is no such folder to write {path.name} into")
    if like is not None and not (grid := read_geometry(like)).allclose(volume.geometry):
        raise ImageFileError(like, f"the image to write lies on another grid: {grid.difference(volume.geometry)}")
    target.write(volume.with_array(_storable(path, volume.array)), path, like=like, labels=labels)


def _recognised(path: Path) -> Format | None:
    """The format of a file or folder by its content."""
    start = _start(path)
    return next((known for known in FORMATS if known.recognises(path, start)), None)


def _start(path: Path) -> bytes:
    """The first bytes of a file; none where there is none, or a folder."""
    if not path.is_file():
        return b""
    with path.open("rb") as file:
        return file.read(_START_BYTES)


def _named(path: Path) -> Format:
    """The format of a file by its name."""
    for known in FORMATS:
        if path.name.lower().endswith(known.suffixes):
            return known
    raise ImageFileError(path, f"images end in {', '.join(suffixes())}; convert the file to one of these")


def _format(path: Path) -> Format:
    """The format to read a file by: of its content, or else of its name, which says what is wrong with it."""
    found = _recognised(path)
    if found is None:
        _check_content(path)
    return found or _named(path)


def _stored(path: Path, max_voxels: int) -> Stored:
    found = _format(path)
    stored = found.read(path, max_voxels=max_voxels)
    if not path.name.lower().endswith(map_suffixes()) or (named := _named(path)) is found:
        return stored
    remark = Remark(f"the file is {found.name}, but its name is of {named.name}; read by its content")
    return Stored(stored.array, stored.geometry, (remark, *stored.remarks))


def _check_content(path: Path) -> None:
    """Refuse what is an image of no format.

    Raises:
        FileNotFoundError: if there is no such file.
        ImageFileError: if it is empty, a folder, or text that was saved under an image's name.
    """
    if path.is_dir():
        raise ImageFileError(path, "this is a folder, not an image; name the files in it")
    if not path.is_file():
        link = " (a link that leads nowhere)" if path.is_symlink() else ""
        raise FileNotFoundError(f"{path}: there is no such file{link}")
    start = _start(path)
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


def _several_layers(path: Path, stored: Stored) -> str:
    count = len(stored.array)
    if told := [remark.message for remark in stored.remarks if remark.rule == LAYERS]:
        return f"{told[0]}, but a label map has one value per voxel; write them apart with other software"
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


def _lost_by_rounding(stored: NDArray[Any], voxels: NDArray[np.float32]) -> list[Remark]:
    """A remark where an image of large and almost equal numbers loses what it shows."""
    if stored.dtype.itemsize < 4 or stored.dtype == np.float32 or not np.isfinite(voxels).all():
        return []
    low, high = float(stored.min()), float(stored.max())
    lost = float(np.spacing(np.float32(max(abs(low), abs(high))))) / 2
    if max(abs(low), abs(high)) <= _EXACT or low == high or lost <= _ROUNDED_SHARE * (high - low):
        return []
    message = f"intensities from {low:.9g} to {high:.9g} are rounded to float32, by up to {lost:g}"
    return [Remark(f"{message}; subtract what they have in common")]
