"""Ways in which DICOM files come: a folder with whatever is in it, a medium with its DICOMDIR, a zip, a single file."""

from __future__ import annotations

import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from tempfile import TemporaryDirectory

from pydicom import uid
from pydicom.fileset import FileSet

from medmamba.errors import MachineError
from medmamba.io.dicom.instances import DAMAGED, damage, dataset_of, dicom_files, is_dicom, is_of_system
from medmamba.io.errors import ImageFileError

#: What is larger than this when unpacked, and than so many times what it is packed, is no export but a bomb.
_BOMB_BYTES, _BOMB_RATIO = 10**9, 100
#: Entries of a zip: a whole examination has some thousand.
_MOST_ENTRIES = 200_000


def is_medium(path: Path) -> bool:
    """Whether a path leads to DICOM files: a zip, a DICOMDIR or DICOM file, or a folder with any below it.

    Raises:
        OSError: if it cannot be read.
    """
    if path.is_dir():
        return next(dicom_files(path), None) is not None
    return path.is_file() and (is_dicom(path) or zipfile.is_zipfile(path))


@contextmanager
def opened(path: Path) -> Iterator[list[Path]]:
    """The DICOM files that a path leads to; those of a zip are there until the block ends.

    Args:
        path: folder, zip, DICOMDIR or DICOM file.

    Raises:
        ImageFileError: if a zip or DICOMDIR is damaged, or names files outside of it.
        MachineError: if there is no room to unpack a zip.
        OSError: if something cannot be read.
    """
    if path.is_dir():
        yield list(dicom_files(path))
    elif zipfile.is_zipfile(path):
        with TemporaryDirectory(prefix="medmamba-") as folder:
            _unpack(path, Path(folder))
            yield list(dicom_files(Path(folder)))
    elif _is_dicomdir(path):
        yield _listed(path)
    else:
        yield [path]


def _is_dicomdir(path: Path) -> bool:
    meta = dataset_of(path).file_meta
    return bool(meta.get("MediaStorageSOPClassUID") == uid.MediaStorageDirectoryStorage)


def _listed(path: Path) -> list[Path]:
    """The files that a DICOMDIR names, all of them below its folder."""
    root = path.resolve().parent
    try:
        files = [Path(instance.path) for instance in FileSet(path)]
    except PermissionError as error:
        raise ImageFileError(path, "the DICOMDIR names files outside of its folder; give the folder instead") from error
    except DAMAGED as error:
        if is_of_system(error):
            raise
        reason = f"the DICOMDIR cannot be read ({damage(error)}); give the folder that it lies in instead"
        raise ImageFileError(path, reason) from error
    if any(root not in file.resolve().parents for file in files):
        raise ImageFileError(path, "the DICOMDIR names files outside of its folder; give the folder instead")
    return [file for file in files if file.is_file()]


def _unpack(path: Path, folder: Path) -> None:
    """Unpack the files of a zip under numbers instead of names, which may be anything."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            _check_entries(path, entries, folder)
            for number, entry in enumerate(sorted(entries, key=lambda entry: entry.filename)):
                entry.filename = f"{number:06d}"
                archive.extract(entry, folder)  # no more than the entry claims, which was checked
    except ImageFileError:
        raise
    except RuntimeError as error:  # how zipfile asks for a password; NotImplementedError: how it names a method
        reason = "is packed in a way that is not known here" if isinstance(error, NotImplementedError) else "is locked"
        raise ImageFileError(path, f"the zip {reason}; unpack it and give the folder") from error
    except (zipfile.BadZipFile, EOFError, zlib.error, ValueError, OSError) as error:
        if is_of_system(error):
            raise
        raise ImageFileError(path, f"the zip is damaged ({type(error).__name__}); copy it again") from error


def _check_entries(path: Path, entries: list[zipfile.ZipInfo], folder: Path) -> None:
    """Refuse a zip that does not stay in its folder, or that would fill the disk."""
    for number, entry in enumerate(entries, start=1):
        ways = PurePosixPath(entry.filename), PureWindowsPath(entry.filename)
        if any(way.is_absolute() or way.drive or ".." in way.parts for way in ways) or entry.filename.startswith("\\"):
            raise ImageFileError(path, f"entry {number} of the zip leads out of its folder; do not trust this file")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise ImageFileError(path, f"entry {number} of the zip is a link; pack the files themselves")
    size = sum(entry.file_size for entry in entries)
    packed = max(sum(entry.compress_size for entry in entries), path.stat().st_size)
    if len(entries) > _MOST_ENTRIES or (size > _BOMB_BYTES and size > _BOMB_RATIO * packed):
        raise ImageFileError(
            path,
            f"the zip claims {len(entries)} files of {size / 1e9:.3g} GB, packed into {packed / 1e9:.3g} GB: that "
            "is no export of images; unpack it yourself if you trust it",
        )
    if size > shutil.disk_usage(folder).free:
        raise MachineError(f"unpacking {path} needs {size / 1e9:.3g} GB in {folder.parent}, which has less; make room")
