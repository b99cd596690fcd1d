"""NIfTI-1 and NIfTI-2, compressed or not.

nibabel parses and writes headers; voxels are read here, so that a header that promises more than the file holds is
noticed before memory is asked for.
"""

from __future__ import annotations

import gzip
import logging
import math
import zlib
from pathlib import Path
from typing import IO, Any

import nibabel
import numpy as np
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from medmamba.files import write_bytes
from medmamba.io._errors import MAX_VOXELS, ImageFileError, check_content, check_size, check_stored, note_spacing
from medmamba.io._gunzip import MAGIC, Gunzip
from medmamba.volume import FloatArray, Geometry, Volume

log = logging.getLogger(__name__)

#: sform and qform that differ by more are worth a word, in millimetres or in direction.
FORM_TOLERANCE = 1e-3
#: The squares of a rotation's quaternion may add up to this much more than 1; more is no rounding.
_QUATERNION_EXCESS = 0.01
#: Byte order of what is written.
_LITTLE = "<"
#: Bytes passed over at a time.
_STEP = 2**20
#: The longest axis that NIfTI-1 has room for.
_NIFTI1_AXIS = 32767
#: Millimetres in a unit, and its name, by the lowest three bits of xyzt_units; 0 is unknown, 2 millimetres.
_OTHER_UNITS = {1: (1000.0, "metres"), 3: (0.001, "micrometres")}
_DAMAGED = (EOFError, zlib.error)


def files(path: Path) -> tuple[Path, ...]:
    """The file alone."""
    return (path,)


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
            _remark(path, header, geometry)
            array = _scaled(header, _voxels(path, file, header))
    except _DAMAGED as error:
        raise _damaged(path, error) from error
    return np.moveaxis(array.reshape((*geometry.shape, -1), order="F"), -1, 0), geometry


def read_geometry(path: Path) -> Geometry:
    """The grid alone, without remarks on the header; errors as `read`."""
    return _geometry(path, _header_alone(path))


def read_channels(path: Path) -> int:
    """How many channels there are; errors as `read`."""
    header = _header_alone(path)
    _check_kind(path, header)
    return math.prod(header.get_data_shape()[3:])


def why_not_integer(path: Path) -> str | None:
    """Why the values of a label map are no integers, if the header's scaling makes them so of integers."""
    with _open(path) as file:
        header = _header(path, file)
        stored = _voxels(path, file, header)
    slope, intercept = _scaling(header)
    if not np.issubdtype(stored.dtype, np.integer) or (slope, intercept) == (1.0, 0.0):
        return None
    values = np.unique(stored)
    some = ", ".join(map(str, values[:5])) + (", ..." if len(values) > 5 else "")
    made = ", ".join(f"{value:.6g}" for value in values[:5] * slope + intercept) + (", ..." if len(values) > 5 else "")
    return (
        f"the header's scl_slope {slope:.6g} and scl_inter {intercept:g} make {made} of the stored integers {some}: "
        "set scl_slope to 1 and scl_inter to 0 if those are the labels, else save the map again as integers (NiBabel "
        "scales labels that it is given as floats)"
    )


def write(volume: Volume, path: Path, like: Path | None) -> None:
    """Write a volume; the header's geometry is that of ``like`` bit for bit, or sform and qform of the affine."""
    array = volume.array[0] if volume.channels == 1 else np.moveaxis(volume.array, 0, -1)
    if like is None:
        header = nibabel.Nifti1Header() if max(array.shape) <= _NIFTI1_AXIS else nibabel.Nifti2Header()
        header.set_sform(volume.geometry.affine, code=1)
        header.set_qform(volume.geometry.affine, code=1, strip_shears=True)
        header.set_xyzt_units("mm")
        header.set_data_shape(array.shape)
        header["pixdim"][1:4] = volume.geometry.spacing_mm
    else:
        header = _clean(_header_alone(like))
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
    # No time of writing in the file: equal images are equal files.
    write_bytes(gzip.compress(data, compresslevel=6, mtime=0) if path.name.lower().endswith(".gz") else data, path)


def _is_compressed(path: Path) -> bool:
    return check_content(path).startswith(MAGIC)


def _open(path: Path) -> Gunzip | IO[bytes]:
    """The uncompressed bytes, whatever the suffix says."""
    return Gunzip(path) if _is_compressed(path) else path.open("rb")


def _damaged(path: Path, error: Exception) -> ImageFileError:
    size = path.stat().st_size
    return ImageFileError(path, f"the compressed data is damaged or cut short at {size} bytes ({error}); copy it again")


def _header_alone(path: Path) -> Any:
    try:
        with _open(path) as file:
            return _header(path, file)
    except _DAMAGED as error:
        raise _damaged(path, error) from error


def _header(path: Path, file: Gunzip | IO[bytes]) -> Any:
    """The header as it is, without the extensions behind it; the file is then at their beginning."""
    size = bytes(file.read(4))
    known = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}
    kind = known.get(int.from_bytes(size, "little")) or known.get(int.from_bytes(size, "big"))
    if size.startswith(MAGIC):
        raise ImageFileError(path, "the file is compressed twice; run gunzip on it once")
    if kind is None:
        raise ImageFileError(
            path, f"this is not a NIfTI file (it begins with bytes {size.hex(' ')}); look at what it is"
        )
    try:
        header = kind(size + bytes(file.read(kind.template_dtype.itemsize - len(size))), check=False)
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


def _voxels(path: Path, file: Gunzip | IO[bytes], header: Any) -> NDArray[Any]:
    """The stored numbers, of a file whose header was just read."""
    dtype, shape = header.get_data_dtype(), header.get_data_shape()
    expected = math.prod(shape) * dtype.itemsize
    check_stored(path, expected, path.stat().st_size, compressed=isinstance(file, Gunzip))
    offset = float(header["vox_offset"])
    if not len(header.binaryblock) <= offset < math.inf:
        raise ImageFileError(path, f"vox_offset {offset:g} puts the voxels into the header; set it to where they begin")
    gap = int(offset) - len(header.binaryblock)
    try:
        for start in range(0, gap, _STEP):
            file.read(min(_STEP, gap - start))
        data = file.read(expected)
    except MemoryError as error:
        raise ImageFileError(path, f"its voxels need {expected / 1e9:.3g} GB, more than there is memory") from error
    if len(data) < expected:
        raise ImageFileError(
            path, f"the file is cut short: {len(data)} bytes of voxels, the header promises {expected}; copy it again"
        )
    file.read(1)  # reaching the end of a compressed file compares its checksum
    if isinstance(file, Gunzip) and file.has_trailing_bytes:
        log.info("%s: bytes that are not compressed follow the image, which is whole; they are passed over", path)
    array: NDArray[Any] = np.frombuffer(data, dtype=dtype).reshape(shape, order="F")
    return array.astype(dtype.newbyteorder("="), copy=False)


def _scaled(header: Any, stored: NDArray[Any]) -> NDArray[Any]:
    slope, intercept = _scaling(header)
    return stored if (slope, intercept) == (1.0, 0.0) else stored * slope + intercept


def _scaling(header: Any) -> tuple[float, float]:
    """Slope and intercept, nonsense taken as none: 1 and 0, as nibabel and ITK do."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if not math.isfinite(slope) or slope == 0:
        return 1.0, 0.0
    return slope, intercept if math.isfinite(intercept) else 0.0


def _geometry(path: Path, header: Any) -> Geometry:
    """The grid in millimetres: sform if its code says it is meant, else qform, else voxel sizes alone.

    A sform that puts all voxels in one plane gives way to a qform, as in ITK; nibabel would keep it.
    """
    shape = header.get_data_shape()
    spatial = tuple(shape[:3]) + (1,) * (3 - len(shape[:3]))
    millimetres, _ = _OTHER_UNITS.get(_unit(header), (1.0, ""))

    def grid(affine: FloatArray) -> Geometry:
        scale = np.array([[millimetres], [millimetres], [millimetres], [1.0]])
        return Geometry((spatial[0], spatial[1], spatial[2]), scale * affine)

    repaired = _repaired(header)
    try:
        if int(header["qform_code"]) > 0:
            if int(header["sform_code"]) > 0 and _is_invertible(header.get_sform()):
                return grid(header.get_sform())
            return grid(repaired.get_qform())
        return grid(repaired.get_best_affine())
    except (ValueError, HeaderDataError, np.linalg.LinAlgError) as error:
        raise ImageFileError(
            path, f"{error}. Set sform and voxel sizes in the header, for instance from the scanner's original"
        ) from error


def _is_invertible(affine: FloatArray) -> bool:
    try:
        Geometry((1, 1, 1), affine)
    except ValueError:
        return False
    return True


def _unit(header: Any) -> int:
    return int(header["xyzt_units"]) & 7


def _repaired(header: Any) -> Any:
    """A copy with the numbers in it that nibabel and ITK take instead of impossible ones.

    qfac, which says whether the third axis is mirrored, is 1 unless it is negative (ITK; nibabel takes 1 also for
    negative numbers other than -1). Voxel sizes count without their sign (nibabel; ITK would mirror the axis) and are 1
    where they are zero or no number. A quaternion that is longer than 1 by rounding is shortened (ITK).
    """
    repaired = header.copy()
    sizes = np.abs(header["pixdim"][1:4])
    repaired["pixdim"][1:4] = np.where(np.isfinite(sizes) & (sizes > 0), sizes, 1)
    repaired["pixdim"][0] = -1 if header["pixdim"][0] < 0 else 1
    parts = ("quatern_b", "quatern_c", "quatern_d")
    length = math.sqrt(sum(float(header[part]) ** 2 for part in parts))
    if 1 < length**2 <= 1 + _QUATERNION_EXCESS:
        for part in parts:
            repaired[part] = header[part] / length
    return repaired


def _remark(path: Path, header: Any, geometry: Geometry) -> None:
    """Say what is odd about a header that can be used: as a warning if the image may lie elsewhere than it says."""
    stored = float(header["scl_slope"]), float(header["scl_inter"])
    if _scaling(header) != stored and stored != (0.0, 0.0):  # two zeros are the standard's way to say "no scaling"
        slope, intercept = _scaling(header)
        log.info(
            "%s: scl_slope %g and scl_inter %g are no scaling; taken as %g and %g", path, *stored, slope, intercept
        )
    if _unit(header) in _OTHER_UNITS:
        _, unit = _OTHER_UNITS[_unit(header)]
        sizes = " x ".join(f"{size:g}" for size in geometry.spacing_mm)
        log.warning("%s: lengths are in %s by the header; converted, voxels measure %s mm", path, unit, sizes)
    else:
        note_spacing(path, geometry)
    sform, qform = int(header["sform_code"]) > 0, int(header["qform_code"]) > 0
    if not sform and not qform:
        log.info("%s: neither sform nor qform is set, so left and right are a guess; only voxel sizes are used", path)
    if sform and qform:
        _compare_forms(path, header)
    if not sform or (qform and not _is_invertible(header.get_sform())):
        _remark_repairs(path, header, geometry)


def _compare_forms(path: Path, header: Any) -> None:
    used, other = header.get_sform(), _qform(header)
    if not _is_invertible(used):
        log.warning("%s: sform %s gives voxels no distinct positions; qform is used", path, _rows(used))
    elif other is None:
        log.warning("%s: qform is damaged; sform is used", path)
    elif np.abs(used - other).max() > FORM_TOLERANCE:
        log.warning(
            "%s: sform and qform differ by up to %.4g: sform %s is used, qform %s is not",
            path,
            np.abs(used - other).max(),
            _rows(used),
            _rows(other),
        )


def _remark_repairs(path: Path, header: Any, geometry: Geometry) -> None:
    """What `_repaired` changed, where positions depend on it."""
    repaired = _repaired(header)
    before, after = header["pixdim"][:4], repaired["pixdim"][:4]
    # The standard asks for a qfac of 1 or -1 only where there is a qform, and for the sizes of axes that there are.
    axes = range(0 if int(header["qform_code"]) > 0 else 1, 1 + min(3, len(header.get_data_shape())))
    for axis in axes:
        if before[axis] == after[axis]:
            continue
        thin = axis > 0 and geometry.shape[axis - 1] == 1
        name = f"pixdim[{axis}]" if axis else "qfac (pixdim[0])"
        log.log(logging.INFO if thin else logging.WARNING, _REPAIR, path, name, before[axis], after[axis])
    length = math.sqrt(sum(float(header[f"quatern_{part}"]) ** 2 for part in "bcd"))
    if int(header["qform_code"]) > 0 and length > 1 + FORM_TOLERANCE:
        log.warning("%s: the quaternion is %.4g long, a rotation's is at most 1; shortened", path, length)


_REPAIR = "%s: %s is %g in the header; taken as %g, as other programs do"


def _qform(header: Any) -> FloatArray | None:
    """None if its numbers are no rotation."""
    try:
        qform: FloatArray = _repaired(header).get_qform()
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
