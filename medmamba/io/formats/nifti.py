"""NIfTI-1 and NIfTI-2, compressed or not.

nibabel parses and writes headers; voxels are read here, so that a header that promises more than the file holds is
noticed before memory is asked for.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any

import nibabel
import numpy as np
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from medmamba.files import write_bytes
from medmamba.io.errors import ImageFileError
from medmamba.io.formats import _nifti_grid
from medmamba.io.formats._gunzip import MAGIC, Gunzip
from medmamba.io.formats.format import Header, Stored, check_size, check_stored
from medmamba.io.remarks import Remark
from medmamba.labels import Labels
from medmamba.memory import TooLittleMemoryError
from medmamba.volume import Geometry, Volume

#: Byte order of what is written.
_LITTLE = "<"
#: Bytes passed over at a time.
_STEP = 2**20
#: The longest axis that NIfTI-1 has room for.
_NIFTI1_AXIS = 32767


class Nifti:
    """NIfTI-1 and NIfTI-2 in one file."""

    name = "NIfTI"
    suffixes = (".nii.gz", ".nii")

    def recognises(self, path: Path, start: bytes) -> bool:
        """By the size of the header, which stands first, compressed or not."""
        return bool(start) and _is_nifti(path)

    def files(self, path: Path) -> tuple[Path, ...]:
        """The file alone."""
        return (path,)

    def read_header(self, path: Path) -> Header:
        """Grid and channels."""
        with _open(path) as file:
            header = _header(path, file)
        _check_kind(path, header)
        return Header(_nifti_grid.geometry(path, header), math.prod(header.get_data_shape()[3:]))

    def read(self, path: Path, *, max_voxels: int) -> Stored:
        """Voxels and grid.

        One axis beyond the third may be longer than 1 and holds the channels: the fourth (time points, modalities) or
        the fifth (components of a vector).
        """
        with _open(path) as file:
            header = _header(path, file)
            _check_kind(path, header)
            check_size(path, header.get_data_shape(), header.get_data_dtype().itemsize, max_voxels=max_voxels)
            geometry = _nifti_grid.geometry(path, header)
            array = _scaled(header, _voxels(path, file, header))
        remarks = (*_remarks(path, file), *_scaling_remarks(header), *_nifti_grid.remarks(header, geometry))
        return Stored(np.moveaxis(array.reshape((*geometry.shape, -1), order="F"), -1, 0), geometry, remarks)

    def why_not_integer(self, path: Path) -> str | None:
        """The header's scaling, if it makes fractions of integers."""
        with _open(path) as file:
            header = _header(path, file)
            stored = _voxels(path, file, header)
        slope, intercept = _scaling(header)
        if not np.issubdtype(stored.dtype, np.integer) or (slope, intercept) == (1.0, 0.0):
            return None
        values = np.unique(stored)
        more = ", ..." if len(values) > 5 else ""
        some = ", ".join(map(str, values[:5])) + more
        made = ", ".join(f"{value:.6g}" for value in values[:5] * slope + intercept) + more
        return (
            f"the header's scl_slope {slope:.6g} and scl_inter {intercept:g} make {made} of the stored integers "
            f"{some}: set scl_slope to 1 and scl_inter to 0 if those are the labels, else save the map again as "
            "integers (NiBabel scales labels that it is given as floats)"
        )

    def write(self, volume: Volume, path: Path, *, like: Path | None, labels: Labels | None) -> None:
        """Write a volume; the header's geometry is that of ``like`` bit for bit, or sform and qform of the affine."""
        array = volume.array[0] if volume.channels == 1 else np.moveaxis(volume.array, 0, -1)
        if like is not None and like.is_file() and _is_nifti(like):
            header = _header_like(like, array)
        else:
            header = _header_of(volume.geometry, array)
        header.set_data_dtype(array.dtype)
        header["scl_slope"], header["scl_inter"] = 1, 0
        header["magic"] = header.single_magic
        header["vox_offset"] = header.single_vox_offset
        # nibabel's images would recompute voxel sizes; the header's bytes are to stay as they are.
        gap = bytes(header.single_vox_offset - len(header.binaryblock))
        data = header.binaryblock + gap + array.tobytes(order="F")
        # No time of writing in the file: equal images are equal files.
        write_bytes(gzip.compress(data, compresslevel=6, mtime=0) if path.name.lower().endswith(".gz") else data, path)


NIFTI = Nifti()


@contextmanager
def _open(path: Path) -> Iterator[Gunzip | IO[bytes]]:
    """The uncompressed bytes, whatever the suffix says; damage that is met in them is refused."""
    with path.open("rb") as plain:
        if plain.read(len(MAGIC)) != MAGIC:
            plain.seek(0)
            yield plain
            return
    try:
        with closing(Gunzip(path)) as file:
            yield file
    except (EOFError, zlib.error) as error:
        damage = f"the compressed data is damaged or cut short at {path.stat().st_size} bytes ({error})"
        raise ImageFileError(path, f"{damage}; copy it again") from error


def _is_nifti(path: Path) -> bool:
    try:
        with _open(path) as file:
            return _header_type(bytes(file.read(4))) is not None
    except ImageFileError:
        return False


def _header_type(size: bytes) -> Any:
    """Nibabel's class of a header that begins with its size, in either order of bytes; None if it is no header."""
    known = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}
    return known.get(int.from_bytes(size, "little")) or known.get(int.from_bytes(size, "big"))


def _header(path: Path, file: Gunzip | IO[bytes]) -> Any:
    """The header as it is, without the extensions behind it; the file is then at their beginning."""
    size = bytes(file.read(4))
    kind = _header_type(size)
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
        need = f"its voxels need {expected / 1e9:.3g} GB"
        raise TooLittleMemoryError(f"{path}: {need}, more than there is memory") from error
    if len(data) < expected:
        raise ImageFileError(
            path, f"the file is cut short: {len(data)} bytes of voxels, the header promises {expected}; copy it again"
        )
    file.read(1)  # reaching the end of a compressed file compares its checksum
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


def _remarks(path: Path, file: Gunzip | IO[bytes]) -> list[Remark]:
    """What is odd about a file that was read to its end, whatever its header says."""
    compressed, name, found = isinstance(file, Gunzip), path.name.lower(), []
    if name.endswith(Nifti.suffixes) and compressed != name.endswith(".gz"):
        state = "compressed" if compressed else "not compressed"
        found.append(Remark(f"the file is {state}, unlike its name says; read by its content"))
    if isinstance(file, Gunzip) and file.has_trailing_bytes:
        message = "bytes that are not compressed follow the image, which is whole; they are passed over"
        found.append(Remark(message, is_warning=False))
    return found


def _scaling_remarks(header: Any) -> list[Remark]:
    stored, taken = (float(header["scl_slope"]), float(header["scl_inter"])), _scaling(header)
    if stored in (taken, (0.0, 0.0)):  # two zeros are the standard's way to say "no scaling"
        return []
    names = "scl_slope {:g} and scl_inter {:g} are no scaling; taken as {:g} and {:g}"
    return [Remark(names.format(*stored, *taken), is_warning=False)]


def _header_of(geometry: Geometry, array: NDArray[Any]) -> Any:
    """A header that says where the voxels are in both ways."""
    header = nibabel.Nifti1Header() if max(array.shape) <= _NIFTI1_AXIS else nibabel.Nifti2Header()
    header.set_sform(geometry.affine, code=1)
    header.set_qform(geometry.affine, code=1, strip_shears=True)
    header.set_xyzt_units("mm")
    header.set_data_shape(array.shape)
    header["pixdim"][1:4] = geometry.spacing_mm
    return header


def _header_like(like: Path, array: NDArray[Any]) -> Any:
    """The header of an image for other voxels on its grid; a flat image stays flat."""
    with _open(like) as file:
        header = _clean(_header(like, file))
    sizes, shape = header["pixdim"].copy(), header.get_data_shape()
    header.set_data_shape(shape if len(shape) == 2 and array.ndim == 3 else array.shape)
    header["pixdim"] = sizes  # the line above resets those of unused axes
    return header


def _clean(header: Any) -> Any:
    """A little-endian copy without the texts that scanners leave in it, and without the meaning of its values."""
    clean = header.as_byteswapped(_LITTLE) if header.endianness != _LITTLE else header.copy()
    for text in ("descrip", "aux_file", "intent_name", *(("db_name",) if "db_name" in clean.keys() else ())):  # noqa: SIM118
        clean[text] = b""
    for number in ("intent_code", "intent_p1", "intent_p2", "intent_p3", "cal_min", "cal_max"):
        clean[number] = 0
    clean.extensions.clear()
    return clean
