"""NRRD and MetaImage through SimpleITK, whose world is LPS: x to the left, y to the back."""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import SimpleITK as sitk  # noqa: N813  (the name everybody knows)
from numpy.typing import NDArray

from medmamba.io import _nrrd
from medmamba.io._errors import MAX_VOXELS, ImageFileError, check_content, check_size, check_stored, note_spacing
from medmamba.volume import FloatArray, Geometry, Volume

log = logging.getLogger(__name__)

#: Headers are text and shorter than this.
_HEADER_BYTES = 65536
#: Where a header says that its voxels are.
_DETACHED = re.compile(rb"(?im)^(?:ElementDataFile *=|data ?file:) *([^\r\n]+?) *\r?$")


def lps_to_ras(affine: FloatArray) -> FloatArray:
    """A matrix from voxel index to LPS millimetres as one to RAS millimetres.

    Left and posterior are minus right and minus anterior, so the same step leads back.

    >>> lps_to_ras(np.eye(4)).diagonal().tolist()
    [-1.0, -1.0, 1.0, 1.0]
    """
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def files(path: Path) -> tuple[Path, ...]:
    """The file, and those of its voxels if it is a header alone."""
    header, detached = _header_and_voxels(path)
    if detached is None or detached[1] == b"LOCAL":
        return (path,)
    if detached[1].startswith(b"LIST"):
        names = header[detached.end() :].split(b"\n")
    else:
        names = _numbered(detached[1]) if b"%" in detached[1] else [detached[1]]
    voxels = [path.parent / os.fsdecode(name.strip()) for name in names if name.strip()]
    return path, *(file for file in voxels if file.is_file())


def _numbered(rule: bytes) -> list[bytes]:
    """Names of slices by a rule such as ``slice%03d.raw 1 20 1``."""
    pattern, *numbers = rule.split()
    try:
        first, last, step = (int(number) for number in numbers[:3])
        return [pattern % number for number in range(first, last + 1, step)]
    except (ValueError, TypeError):
        return []  # a damaged header, which reading will find


def read(path: Path, *, max_voxels: int = MAX_VOXELS) -> tuple[NDArray[Any], Geometry]:
    """Voxels (C, I, J, K) and the grid.

    Channels are a fourth axis or the components of each voxel, not both.

    Raises:
        FileNotFoundError: if there is no such file.
        ImageFileError: if it is damaged, too large, has voxels that are not real numbers or a singular grid.
    """
    information = _information(path)
    _check_kind(path, information)
    size, components = information.GetSize(), information.GetNumberOfComponents()
    # MetaImage and NRRD call themselves complete before their voxels are looked for.
    item_bytes = sitk.Image([1, 1], information.GetPixelIDValue(), components).GetSizeOfPixelComponent()
    check_size(path, (*size, components) if components > 1 else size, item_bytes, max_voxels=max_voxels)
    _check_voxels_are_there(path, int(np.prod(size, dtype=np.int64)) * components * item_bytes)
    geometry = _geometry(path, information)
    _remark(path, geometry)
    try:
        with _readable_name(path) as name:
            image = sitk.ReadImage(name)
    except RuntimeError as error:
        raise ImageFileError(path, f"the voxels cannot be read ({_last_line(error)}); copy the file again") from error
    array = sitk.GetArrayFromImage(image)
    if components > 1:
        array = np.moveaxis(array, -1, 0)
    elif image.GetDimension() < 4:
        array = array[None]
    # SimpleITK's arrays have the last axis first.
    channels = array.shape[0]
    return np.moveaxis(array.reshape(channels, *reversed(geometry.shape)), (1, 2, 3), (3, 2, 1)), geometry


def read_geometry(path: Path) -> Geometry:
    """The grid alone; errors as `read`."""
    return _geometry(path, _information(path))


def read_channels(path: Path) -> int:
    """How many channels there are; errors as `read`."""
    information = _information(path)
    _check_kind(path, information)
    return int(information.GetNumberOfComponents() * np.prod(information.GetSize()[3:], dtype=np.int64))


def why_not_integer(path: Path) -> None:
    """These formats do not scale what they store."""


def write(volume: Volume, path: Path, like: Path | None) -> None:
    """Write a volume with the spacing, origin and direction of ``like``, or those of its grid."""
    _check_name(path)
    array = volume.array.transpose(0, 3, 2, 1)
    source = _information(like) if like is not None else None
    flat = source is not None and source.GetDimension() == 2
    if flat:
        array = array[:, 0]
    if volume.channels == 1:
        image = sitk.GetImageFromArray(np.ascontiguousarray(array[0]))
    else:
        image = sitk.GetImageFromArray(np.ascontiguousarray(np.moveaxis(array, 0, -1)), isVector=True)
    if source is not None and like is not None:
        dims = image.GetDimension()
        full = source.GetDimension()
        direction = np.array(source.GetDirection()).reshape(full, full)[:dims, :dims]
        factor = _millimetres(like)
        image.SetSpacing([size * factor for size in source.GetSpacing()[:dims]])
        image.SetOrigin([place * factor for place in source.GetOrigin()[:dims]])
        image.SetDirection(direction.ravel().tolist())
    else:
        affine = lps_to_ras(volume.geometry.affine)
        image.SetSpacing(volume.geometry.spacing_mm)
        image.SetOrigin(affine[:3, 3].tolist())
        image.SetDirection((affine[:3, :3] / np.array(volume.geometry.spacing_mm)).ravel().tolist())
    # In a folder of its own: MetaImage may be a header and a file of voxels that the header names.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing.") as folder:
        _write(image, Path(folder) / path.name, path)
        for file in sorted(Path(folder).iterdir(), key=lambda file: file.name == path.name):  # the header last
            os.replace(file, path.with_name(file.name))


def _write(image: Any, temporary: Path, path: Path) -> None:
    """Write an image that shall become ``path``, and see that it is all there.

    ITK's errors do not say which of the system's they are, and where the end of a file did not fit onto the disk there
    may be none. So what cannot be written, or read back, is tried once more with a plain file of the same size.

    Raises:
        OSError: if the disk is full, or does not allow it for another reason.
        ImageFileError: if ITK cannot write the image.
    """
    try:
        with _plain_name(temporary, written=True) as name:
            sitk.WriteImage(image, name, useCompression=True)
        with _plain_name(temporary) as name:
            written = sitk.ReadImage(name)
        if not np.array_equal(sitk.GetArrayViewFromImage(written), sitk.GetArrayViewFromImage(image)):
            raise RuntimeError("what was written is not what is read back")
    except RuntimeError as error:
        for file in temporary.parent.iterdir():
            file.unlink()
        voxels = image.GetNumberOfPixels() * image.GetNumberOfComponentsPerPixel()
        try:
            temporary.with_name("trial").write_bytes(bytes(_HEADER_BYTES + voxels * image.GetSizeOfPixelComponent()))
        except OSError as reason:
            reason.filename = str(path)
            raise reason from error
        raise ImageFileError(path, f"cannot be written ({_last_line(error)})") from error


@contextmanager
def _plain_name(path: Path, *, written: bool = False) -> Iterator[str]:
    """A name of the same file that is valid UTF-8: with any other, SimpleITK ends the whole process."""
    if _is_utf8(str(path)):
        yield str(path)
        return
    _check_name(path)
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / "folder"
        link.symlink_to(path.parent.absolute(), target_is_directory=True)
        if _is_utf8(path.name):
            yield str(link / path.name)
        elif written:
            plain = f"image{path.suffix}"
            yield str(link / plain)
            os.replace(path.with_name(plain), path)
        else:
            alias = Path(folder) / f"image{path.suffix}"
            alias.symlink_to(path.absolute())
            yield str(alias)


@contextmanager
def _readable_name(path: Path) -> Iterator[str]:
    """As `_plain_name`, but for a header that ITK would not understand the name of one that says the same."""
    header = _nrrd.rewritten(path)
    if header is None:
        with _plain_name(path) as name:
            yield name
        return
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / _nrrd.VOXELS).symlink_to(header.voxels.absolute())
        (Path(folder) / "image.nhdr").write_bytes(header.text)
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


def _information(path: Path) -> Any:
    check_content(path)
    _check_file_of_voxels(path)
    reader = sitk.ImageFileReader()
    try:
        with _readable_name(path) as name:
            reader.SetFileName(name)
            reader.ReadImageInformation()
    except RuntimeError as error:
        raise ImageFileError(path, f"the header cannot be read ({_last_line(error)}); copy the file again") from error
    return reader


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


def _header_and_voxels(path: Path) -> tuple[bytes, re.Match[bytes] | None]:
    """The beginning of a file, and in it the name of its file of voxels, or what stands there instead."""
    with path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    return header, _DETACHED.search(header)


def _is_one_file(detached: re.Match[bytes] | None) -> TypeGuard[re.Match[bytes]]:
    return detached is not None and detached[1] not in (b"LOCAL", b"LIST") and b"%" not in detached[1]


def _check_file_of_voxels(path: Path) -> None:
    _, detached = _header_and_voxels(path)
    if _is_one_file(detached) and not (data := path.parent / os.fsdecode(detached[1])).is_file():
        raise ImageFileError(path, f"this is a header whose voxels are in {data.name}, which is missing; copy both")


def _check_voxels_are_there(path: Path, promised_bytes: int) -> None:
    """ITK asks for memory before it looks for the voxels."""
    header, detached = _header_and_voxels(path)
    stored = path.stat().st_size
    if _is_one_file(detached):
        stored += (path.parent / os.fsdecode(detached[1])).stat().st_size
    elif detached and detached[1] != b"LOCAL":
        return  # several files: left to ITK
    else:
        stored -= detached.end() if detached else 0
    encoding = re.search(rb"(?im)^(?:encoding:|CompressedData *=) *(\w+)", header)
    method = encoding[1].lower() if encoding else b"raw"
    if method in (b"raw", b"false", b"gzip", b"gz", b"true"):
        check_stored(path, promised_bytes, stored, compressed=method in (b"gzip", b"gz", b"true"))


def _remark(path: Path, geometry: Geometry) -> None:
    """Say what is odd about a header that can be used: as a warning if the image may lie elsewhere than it says."""
    header = _nrrd.rewritten(path)
    if header is not None and header.remark:
        log.warning("%s: %s", path, header.remark)
    elif _millimetres(path) != 1:
        log.warning("%s: lengths are in %s by the header; converted to mm", path, _declared_unit(path))
    else:
        note_spacing(path, geometry)
    space = _nrrd.foreign_space(path)
    if space is not None:
        log.info("%s: the space is %s, so left and right are a guess; taken as left-posterior-superior", path, space)


def _millimetres(path: Path) -> float:
    """Millimetres in the unit that a MetaImage header declares, which ITK leaves alone; 1 for any other file."""
    return _nrrd.UNITS_MM.get(_declared_unit(path), 1.0)


def _declared_unit(path: Path) -> str:
    if path.suffix.lower() not in (".mha", ".mhd"):
        return ""
    with path.open("rb") as file:
        declared = re.search(rb"(?im)^DistanceUnits *= *(\S+)", file.read(_HEADER_BYTES))
    return declared[1].decode("utf-8", "replace").lower() if declared else ""


def _geometry(path: Path, information: Any) -> Geometry:
    dims = information.GetDimension()
    if dims not in (2, 3, 4):
        raise ImageFileError(path, f"images have two or three dimensions and channels, this has {dims} axes")
    used = min(dims, 3)
    direction, spacing, origin = np.eye(3), np.ones(3), np.zeros(3)
    direction[:used, :used] = np.array(information.GetDirection()).reshape(dims, dims)[:used, :used]
    spacing[:used] = information.GetSpacing()[:used]
    origin[:used] = information.GetOrigin()[:used]
    affine = np.eye(4)
    factor = _millimetres(path)
    affine[:3, :3] = direction * spacing * factor
    affine[:3, 3] = origin * factor
    size = [int(n) for n in information.GetSize()[:used]] + [1] * (3 - used)
    try:
        return Geometry((size[0], size[1], size[2]), lps_to_ras(affine))
    except ValueError as error:
        raise ImageFileError(path, f"{error}. Repair spacing and direction in the header") from error


def _last_line(error: RuntimeError) -> str:
    """SimpleITK's messages end with what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("Reason:")] or lines  # the system's last error, of anything
    return lines[-1] if lines else "no reason given"
