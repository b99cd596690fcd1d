"""NIfTI-1 and NIfTI-2, compressed or not.

nibabel parses and writes headers; voxels are read here, so that a header that promises more than the file holds is
noticed before memory is asked for.
"""

from __future__ import annotations

import gzip
import logging
import math
import os
import zlib
from pathlib import Path
from typing import IO, Any, cast

import nibabel
import numpy as np
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from medmamba.io._errors import MAX_VOXELS, ImageFileError, check_content, check_size, check_stored
from medmamba.volume import FloatArray, Geometry, Volume

log = logging.getLogger(__name__)

_GZIP = b"\x1f\x8b"
#: sform and qform that differ by more are worth a word, in millimetres or in direction.
FORM_TOLERANCE = 1e-3
#: Byte order of what is written.
_LITTLE = "<"
#: Codes of the header field xyzt_units, whose lowest three bits are for space; 0 is unknown, 2 millimetres.
_OTHER_UNITS = {1: "metres", 3: "micrometres"}
_DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile)


def read(path: Path, *, max_voxels: int = MAX_VOXELS) -> tuple[NDArray[Any], Geometry]:
    """Voxels (C, I, J, K), scaling applied, and the grid.

    One axis beyond the third may be longer than 1 and holds the channels: the fourth (time points, modalities) or the
    fifth (components of a vector).

    Raises:
        FileNotFoundError: if there is no such file.
        ImageFileError: if it is damaged, too large, has voxels that are not real numbers or a singular grid.
    """
    compressed = _is_compressed(path)
    if compressed != path.name.lower().endswith(".gz"):
        # The path stays an argument of its own in every remark: the check of data sets sorts them by it.
        state = "compressed" if compressed else "not compressed"
        log.warning("%s: the file is %s, unlike its name says; read by its content", path, state)
    try:
        with _open(path) as file:
            header = _header(path, file)
            _check_kind(path, header)
            check_size(path, header.get_data_shape(), header.get_data_dtype().itemsize, max_voxels=max_voxels)
            geometry = _geometry(path, header)
            _remark(path, header)
            array = _voxels(path, file, header)
    except _DAMAGED as error:
        raise _damaged(path, error) from error
    return np.moveaxis(array.reshape((*geometry.shape, -1), order="F"), -1, 0), geometry


def read_geometry(path: Path) -> Geometry:
    """The grid alone, without remarks on the header; errors as `read`."""
    try:
        with _open(path) as file:
            return _geometry(path, _header(path, file))
    except _DAMAGED as error:
        raise _damaged(path, error) from error


def write(volume: Volume, path: Path, like: Path | None) -> None:
    """Write a volume; the header's geometry is that of ``like`` bit for bit, or sform and qform of the affine."""
    array = volume.array[0] if volume.channels == 1 else np.moveaxis(volume.array, 0, -1)
    if like is None:
        header = nibabel.Nifti1Header()
        header.set_sform(volume.geometry.affine, code=1)
        header.set_qform(volume.geometry.affine, code=1, strip_shears=True)
        header.set_xyzt_units("mm")
        header.set_data_shape(array.shape)
        header["pixdim"][1:4] = volume.geometry.spacing_mm
    else:
        with _open(like) as file:
            header = _clean(_header(like, file))
        sizes = header["pixdim"].copy()
        header.set_data_shape(array.shape if volume.channels > 1 else _like_shape(header, array))
        header["pixdim"] = sizes  # the line above resets those of unused axes
    header.set_data_dtype(array.dtype)
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["magic"] = header.single_magic
    header["vox_offset"] = header.single_vox_offset
    # nibabel's images would recompute voxel sizes; the header's bytes are to stay as they are.
    gap = bytes(header.single_vox_offset - len(header.binaryblock))
    data = header.binaryblock + gap + array.tobytes(order="F")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # No time of writing in the file: equal images are equal files.
        temporary.write_bytes(
            gzip.compress(data, compresslevel=6, mtime=0) if path.name.lower().endswith(".gz") else data
        )
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _is_compressed(path: Path) -> bool:
    return check_content(path).startswith(_GZIP)


def _open(path: Path) -> IO[bytes]:
    """The uncompressed bytes, whatever the suffix says."""
    return cast(IO[bytes], gzip.open(path, "rb")) if _is_compressed(path) else path.open("rb")


def _damaged(path: Path, error: Exception) -> ImageFileError:
    size = path.stat().st_size
    return ImageFileError(path, f"the compressed data is damaged or cut short at {size} bytes ({error}); copy it again")


def _header(path: Path, file: IO[bytes]) -> Any:
    size = file.read(4)
    file.seek(0)
    known = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}
    kind = known.get(int.from_bytes(size, "little")) or known.get(int.from_bytes(size, "big"))
    if kind is None:
        raise ImageFileError(
            path, f"this is not a NIfTI file (it begins with bytes {size.hex(' ')}); look at what it is"
        )
    try:
        header = kind.from_fileobj(file, check=False)
    except (HeaderDataError, WrapStructError) as error:
        raise ImageFileError(path, f"the NIfTI header is damaged ({error}); copy the file again") from error
    magic = bytes(header["magic"].item()).rstrip(b"\0\r\n\x1a")
    if magic not in (b"n+1", b"n+2"):
        what = (
            "the header of a pair .hdr and .img" if magic in (b"ni1", b"ni2") else f"of another kind (magic {magic!r})"
        )
        raise ImageFileError(path, f"this is no NIfTI file with voxels in it but {what}; convert it to .nii.gz")
    shape = header.get_data_shape()
    if not shape or min(shape) < 1:
        raise ImageFileError(path, f"the header claims an image of {shape} voxels; copy the file again")
    return header


def _check_kind(path: Path, header: Any) -> None:
    """Refuse voxels that are not real numbers, and more than one axis of channels."""
    dtype = header.get_data_dtype() if int(header["datatype"]) in nibabel.nifti1.data_type_codes.code else None
    if dtype is None or dtype.fields or not (np.issubdtype(dtype, np.integer) or np.issubdtype(dtype, np.floating)):
        kind_name = "unknown" if dtype is None else "RGB" if dtype.fields else str(dtype)
        raise ImageFileError(path, f"voxels of type {kind_name} are not real numbers; convert the image to greyscale")
    shape = header.get_data_shape()
    if sum(size > 1 for size in shape[3:]) > 1:
        raise ImageFileError(
            path, f"one axis of channels can be read, but beyond the third axis this has {shape[3:]}; split the file"
        )


def _voxels(path: Path, file: IO[bytes], header: Any) -> NDArray[Any]:
    dtype, shape = header.get_data_dtype(), header.get_data_shape()
    expected = math.prod(shape) * dtype.itemsize
    check_stored(path, expected, path.stat().st_size, compressed=isinstance(file, gzip.GzipFile))
    offset = int(header.get_data_offset())
    if offset < len(header.binaryblock):
        raise ImageFileError(path, f"vox_offset {offset} puts the voxels into the header; set it to where they begin")
    file.seek(offset)
    try:
        data = file.read(expected)
    except MemoryError as error:
        raise ImageFileError(path, f"its voxels need {expected / 1e9:.3g} GB, more than there is memory") from error
    if len(data) < expected:
        raise ImageFileError(
            path, f"the file is cut short: {len(data)} bytes of voxels, the header promises {expected}; copy it again"
        )
    file.read(1)  # reaching the end of a compressed file compares its checksum
    array: NDArray[Any] = np.frombuffer(data, dtype=dtype).reshape(shape, order="F")
    slope, intercept = _scaling(header)
    if (slope, intercept) == (1.0, 0.0):
        return array.astype(dtype.newbyteorder("="), copy=False)
    return array * slope + intercept


def _scaling(header: Any) -> tuple[float, float]:
    """Slope and intercept, nonsense taken as none: 1 and 0, as nibabel and ITK do."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if not math.isfinite(slope) or slope == 0:
        return 1.0, 0.0
    return slope, intercept if math.isfinite(intercept) else 0.0


def _geometry(path: Path, header: Any) -> Geometry:
    """The grid: sform if its code says it is meant, else qform, else voxel sizes alone."""
    shape = header.get_data_shape()
    spatial = tuple(shape[:3]) + (1,) * (3 - len(shape[:3]))
    try:
        return Geometry((spatial[0], spatial[1], spatial[2]), header.get_best_affine())
    except (ValueError, HeaderDataError, np.linalg.LinAlgError) as error:
        raise ImageFileError(
            path, f"{error}. Set sform and voxel sizes in the header, for instance from the scanner's original"
        ) from error


def _remark(path: Path, header: Any) -> None:
    """Say what is odd about a header that can be used: as a warning if the image may lie elsewhere than it says."""
    stored = float(header["scl_slope"]), float(header["scl_inter"])
    if _scaling(header) != stored and stored != (0.0, 0.0):  # two zeros are the standard's way to say "no scaling"
        slope, intercept = _scaling(header)
        log.info(
            "%s: scl_slope %g and scl_inter %g are no scaling; taken as %g and %g", path, *stored, slope, intercept
        )
    unit = _OTHER_UNITS.get(int(header["xyzt_units"]) & 7)
    if unit:
        log.warning("%s: the header says that lengths are in %s; they are taken as millimetres", path, unit)
    sform, qform = int(header["sform_code"]) > 0, int(header["qform_code"]) > 0
    if not sform and not qform:
        log.info("%s: neither sform nor qform is set, so left and right are a guess; only voxel sizes are used", path)
    if sform and qform:
        used, other = header.get_sform(), _qform(header)
        if other is None:
            log.warning("%s: qform is damaged; sform is used", path)
        elif np.abs(used - other).max() > FORM_TOLERANCE:
            log.warning(
                "%s: sform and qform differ by up to %.4g: sform %s is used, qform %s is not",
                path,
                np.abs(used - other).max(),
                _rows(used),
                _rows(other),
            )


def _qform(header: Any) -> FloatArray | None:
    """None if its numbers are no rotation."""
    try:
        qform: FloatArray = header.get_qform()
    except (ValueError, HeaderDataError, np.linalg.LinAlgError):
        return None
    return qform if np.isfinite(qform).all() else None


def _rows(affine: FloatArray) -> str:
    return str([[float(f"{value:.5g}") for value in row] for row in affine[:3].tolist()])


def _like_shape(header: Any, array: NDArray[Any]) -> tuple[int, ...]:
    """A flat image stays flat."""
    shape = header.get_data_shape()
    return tuple(shape[:2]) if len(shape) == 2 else array.shape


def _clean(header: Any) -> Any:
    """A little-endian copy without the texts that scanners leave in it, and without the meaning of its values."""
    clean = header.as_byteswapped(_LITTLE) if header.endianness != _LITTLE else header.copy()
    for text in ("descrip", "aux_file", "intent_name", *(("db_name",) if "db_name" in clean.keys() else ())):  # noqa: SIM118
        clean[text] = b""
    for number in ("intent_code", "intent_p1", "intent_p2", "intent_p3", "cal_min", "cal_max"):
        clean[number] = 0
    clean.extensions.clear()
    return clean
