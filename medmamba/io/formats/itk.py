"""NRRD and MetaImage through SimpleITK, whose world is LPS: x to the left, y to the back."""

from __future__ import annotations

import os
import re
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from medmamba.files import replacing_all
from medmamba.io.errors import ImageFileError
from medmamba.io.formats import _nrrd
from medmamba.io.formats._gunzip import Gunzip
from medmamba.io.formats._text_header import TextHeader
from medmamba.io.formats.format import Header, Stored, check_size, check_stored, odd_spacing
from medmamba.io.remarks import Remark
from medmamba.labels import Labels
from medmamba.volume import FloatArray, Geometry, Volume

#: Bytes looked at at a time.
_STEP = 2**20
#: Headers are shorter than this.
_HEADER_BYTES = 65536


def lps_to_ras(affine: FloatArray) -> FloatArray:
    """A matrix from voxel index to LPS millimetres as one to RAS millimetres.

    Left and posterior are minus right and minus anterior, so the same step leads back.

    >>> lps_to_ras(np.eye(4)).diagonal().tolist()
    [-1.0, -1.0, 1.0, 1.0]
    """
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


@dataclass(frozen=True)
class Itk:
    """A format that ITK reads and writes.

    Args:
        name: what people call it.
        suffixes: see `medmamba.io.formats.Format`.
        reader: what ITK calls its reader.
        begins: what its headers begin with.
    """

    name: str
    suffixes: tuple[str, ...]
    reader: str
    begins: re.Pattern[bytes]

    def recognises(self, path: Path, start: bytes) -> bool:
        """By the first words of the header."""
        return self.begins.match(start) is not None

    def files(self, path: Path) -> tuple[Path, ...]:
        """The file, and those of its voxels if it is a header alone."""
        return path, *(file for file in TextHeader(path).voxels if file.is_file())

    def read_header(self, path: Path) -> Header:
        """Grid and channels."""
        header = TextHeader(path)
        information = self._information(header)
        channels = int(information.GetNumberOfComponents() * np.prod(information.GetSize()[3:], dtype=np.int64))
        return Header(_geometry(header, information), channels)

    def read(self, path: Path, *, max_voxels: int) -> Stored:
        """Voxels and grid; channels are a fourth axis or the components of each voxel, not both."""
        header = TextHeader(path)
        information = self._information(header)
        size, components = information.GetSize(), information.GetNumberOfComponents()
        # MetaImage and NRRD call themselves complete before their voxels are looked for.
        item_bytes = sitk.Image([1, 1], information.GetPixelIDValue(), components).GetSizeOfPixelComponent()
        check_size(path, (*size, components) if components > 1 else size, item_bytes, max_voxels=max_voxels)
        _check_voxels(header, int(np.prod(size, dtype=np.int64)) * components * item_bytes)
        geometry = _geometry(header, information)
        with _readable_name(header) as name, _refusing(path, "the voxels cannot be read"):
            image = sitk.ReadImage(name, imageIO=self.reader)
        array = sitk.GetArrayFromImage(image)
        if components > 1:
            array = np.moveaxis(array, -1, 0)
        elif image.GetDimension() < 4:
            array = array[None]
        # SimpleITK's arrays have the last axis first.
        array = np.moveaxis(array.reshape(len(array), *reversed(geometry.shape)), (1, 2, 3), (3, 2, 1))
        return Stored(array, geometry, tuple(_remarks(header, geometry)))

    def why_not_integer(self, path: Path) -> None:
        """Nothing is known: these formats do not scale what they store."""

    def write(self, volume: Volume, path: Path, *, like: Path | None, labels: Labels | None) -> None:
        """Write a volume with the spacing, origin and direction of ``like``, or those of its grid."""
        _check_name(path)
        array = volume.array.transpose(0, 3, 2, 1)
        header = grid = None
        if like is not None and (known := _recognised(like)):
            header = TextHeader(like)
            grid = known._information(header)
        if grid is not None and grid.GetDimension() == 2:
            array = array[:, 0]
        array = array[0] if volume.channels == 1 else np.moveaxis(array, 0, -1)
        image = sitk.GetImageFromArray(np.ascontiguousarray(array), isVector=volume.channels > 1)
        if grid is not None and header is not None:
            dims, full = image.GetDimension(), grid.GetDimension()
            factor = _millimetres(header)
            image.SetSpacing([size * factor for size in grid.GetSpacing()[:dims]])
            image.SetOrigin([place * factor for place in grid.GetOrigin()[:dims]])
            image.SetDirection(np.reshape(grid.GetDirection(), (full, full))[:dims, :dims].ravel().tolist())
        else:
            affine = lps_to_ras(volume.geometry.affine)
            image.SetSpacing(volume.geometry.spacing_mm)
            image.SetOrigin(affine[:3, 3].tolist())
            image.SetDirection((affine[:3, :3] / np.array(volume.geometry.spacing_mm)).ravel().tolist())
        with replacing_all(path) as temporary:  # it may be a header and a file of voxels that the header names
            written = temporary if _is_utf8(path.name) else temporary.with_name(f"image{path.suffix}")
            _write(image, written, path)
            os.replace(written, temporary)

    def _information(self, header: TextHeader) -> Any:
        """What ITK says of a header: of real numbers, and one axis of channels at most."""
        if header.voxels and not header.several_files and not header.voxels[0].is_file():
            name = header.voxels[0].name
            raise ImageFileError(
                header.path, f"this is a header whose voxels are in {name}, which is missing; copy both"
            )
        reader = sitk.ImageFileReader()
        reader.SetImageIO(self.reader)  # whatever the file is called
        with _readable_name(header) as name, _refusing(header.path, "the header cannot be read"):
            reader.SetFileName(name)
            reader.ReadImageInformation()
        _check_kind(header.path, reader)
        return reader


NRRD = Itk("NRRD", (".seg.nrrd", ".nrrd", ".nhdr"), "NrrdImageIO", re.compile(rb"NRRD"))
METAIMAGE = Itk("MetaImage", (".mha", ".mhd"), "MetaImageIO", re.compile(rb"\s*[A-Za-z]+[ \t]*=[ \t]*\S"))


def _recognised(path: Path) -> Itk | None:
    if path.is_dir():
        return None
    with path.open("rb") as file:
        start = file.read(_HEADER_BYTES)
    return next((known for known in (NRRD, METAIMAGE) if known.recognises(path, start)), None)


def _remarks(header: TextHeader, geometry: Geometry) -> list[Remark]:
    """What is odd about a header that can be used: a warning if the image may lie elsewhere than it says."""
    found, rewritten = odd_spacing(geometry), _nrrd.rewritten(header)
    if rewritten is not None and rewritten.remark:
        found = [Remark(rewritten.remark)]
    elif _millimetres(header) != 1:
        found = [Remark(f"lengths are in {header.fields['distanceunits'].lower()} by the header; converted to mm")]
    if (space := _nrrd.foreign_space(header)) is not None:
        message = f"the space is {space}, so left and right are a guess; taken as left-posterior-superior"
        found.append(Remark(message, is_warning=False))
    return found


def _write(image: Any, temporary: Path, path: Path) -> None:
    """Write an image that shall become ``path``, and see that it is all there.

    ITK's errors do not say which of the system's they are, and where the end of a file did not fit onto the disk there
    may be none. So what cannot be written, or read back, is tried once more with a plain file of the same size.

    Raises:
        OSError: if the disk is full, or does not allow it for another reason.
        ImageFileError: if ITK cannot write the image.
    """
    try:
        with plain_name(temporary) as name:
            sitk.WriteImage(image, name, useCompression=True)
            written = sitk.ReadImage(name)
        if not np.array_equal(sitk.GetArrayViewFromImage(written), sitk.GetArrayViewFromImage(image)):
            raise RuntimeError("what was written is not what is read back")
    except RuntimeError as error:
        voxels = image.GetNumberOfPixels() * image.GetNumberOfComponentsPerPixel()
        check_room(temporary, path, _HEADER_BYTES + voxels * image.GetSizeOfPixelComponent(), error)
        raise ImageFileError(path, f"cannot be written ({last_line(error)})") from error


def check_room(temporary: Path, path: Path, needed_bytes: int, error: RuntimeError) -> None:
    """Try a plain file in the place of one that ITK could not write as ``path``, alone in its folder.

    Raises:
        OSError: if that cannot be written either, which is then the reason.
    """
    for file in temporary.parent.iterdir():
        file.unlink()
    try:
        temporary.with_name("trial").write_bytes(bytes(needed_bytes))
    except OSError as reason:
        reason.filename = str(path)
        raise reason from error


@contextmanager
def plain_name(path: Path) -> Iterator[str]:
    """A name of the same file that is valid UTF-8: with any other, SimpleITK ends the whole process."""
    if _is_utf8(str(path)):
        yield str(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / f"image{path.suffix}"
        if _is_utf8(path.name):
            link.symlink_to(path.parent.absolute(), target_is_directory=True)
            yield str(link / path.name)
        else:
            link.symlink_to(path.absolute())
            yield str(link)


@contextmanager
def _readable_name(header: TextHeader) -> Iterator[str]:
    """As `plain_name`, but for a header that ITK would not understand the name of one that says the same."""
    rewritten = _nrrd.rewritten(header)
    if rewritten is None:
        _check_name(header.path)
        with plain_name(header.path) as name:
            yield name
        return
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / _nrrd.VOXELS).symlink_to(rewritten.voxels.absolute())
        (Path(folder) / "image.nhdr").write_bytes(rewritten.text)
        yield str(Path(folder) / "image.nhdr")


def _check_name(path: Path) -> None:
    """A header that names its file of voxels cannot go by another name itself."""
    ending = path.suffix.lower()
    if not _is_utf8(path.name) and ending in (".mhd", ".nhdr"):
        raise ImageFileError(path, f"the name of a {ending} file must be valid UTF-8; rename it and its file of voxels")


def _is_utf8(name: str) -> bool:
    """Python keeps bytes of a file name that are no UTF-8 as lone surrogates."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _check_kind(path: Path, information: Any) -> None:
    """Refuse voxels that are not real numbers, and more than one axis of channels."""
    kind = sitk.GetPixelIDValueAsString(information.GetPixelIDValue())
    if "complex" in kind.lower():
        raise ImageFileError(path, f"voxels of type {kind} are not real numbers; take magnitude or phase")
    # Three unsigned bytes per voxel may be three channels; only NRRD can say that they are a colour.
    kinds = [information.GetMetaData(key) for key in information.GetMetaDataKeys() if key.startswith("NRRD_kinds")]
    if any(kind.upper().startswith(("RGB", "HSV", "XYZ-COLOR")) for kind in kinds):
        raise ImageFileError(path, "voxels of type RGB are not real numbers; convert the image to greyscale")
    if information.GetNumberOfComponents() > 1 and information.GetDimension() == 4 and information.GetSize()[3] > 1:
        raise ImageFileError(
            path,
            f"channels are a fourth axis or components of each voxel, but this has {information.GetSize()[3]} times "
            f"{information.GetNumberOfComponents()}; split the file",
        )


def _check_voxels(header: TextHeader, promised_bytes: int) -> None:
    """Find what ITK would not: too few voxels before it asks for memory, damage before it passes over it.

    Several files are left to ITK.
    """
    file, start = (header.voxels[0], 0) if header.voxels else (header.path, header.end)
    compressed = header.compression in ("gzip", "gz", "true")
    if header.several_files or not (compressed or header.compression in ("raw", "false")):
        return
    check_stored(header.path, promised_bytes, file.stat().st_size - start, compressed=compressed)
    if not compressed or not header.fields.keys().isdisjoint(("headersize", "line skip", "byte skip")):
        return
    try:
        with closing(Gunzip(file, start)) as voxels:
            while voxels.read(_STEP):
                pass
    except (EOFError, zlib.error) as error:
        damage = f"the compressed data is damaged or cut short ({error})"
        raise ImageFileError(header.path, f"{damage}; copy the file again") from error


def _millimetres(header: TextHeader) -> float:
    """Millimetres in the unit that a MetaImage header declares, which ITK leaves alone; 1 for any other file."""
    return 1.0 if header.is_nrrd else _nrrd.UNITS_MM.get(header.fields.get("distanceunits", "").lower(), 1.0)


def _geometry(header: TextHeader, information: Any) -> Geometry:
    dims = information.GetDimension()
    if dims not in (2, 3, 4):
        raise ImageFileError(header.path, f"images have two or three dimensions and channels, this has {dims} axes")
    used = min(dims, 3)
    direction, spacing, origin = np.eye(3), np.ones(3), np.zeros(3)
    direction[:used, :used] = np.array(information.GetDirection()).reshape(dims, dims)[:used, :used]
    spacing[:used] = information.GetSpacing()[:used]
    origin[:used] = information.GetOrigin()[:used]
    affine = np.eye(4)
    factor = _millimetres(header)
    affine[:3, :3] = direction * spacing * factor
    affine[:3, 3] = origin * factor
    size = [int(n) for n in information.GetSize()[:used]] + [1] * (3 - used)
    try:
        return Geometry((size[0], size[1], size[2]), lps_to_ras(affine))
    except ValueError as error:
        raise ImageFileError(header.path, f"{error}. Repair spacing and direction in the header") from error


@contextmanager
def _refusing(path: Path, what: str) -> Iterator[None]:
    """Errors of ITK are those of a damaged file."""
    try:
        yield
    except RuntimeError as error:
        raise ImageFileError(path, f"{what} ({last_line(error)}); copy the file again") from error


def last_line(error: RuntimeError) -> str:
    """SimpleITK's messages end with what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("Reason:")] or lines  # the system's last error, of anything
    return lines[-1] if lines else "no reason given"
