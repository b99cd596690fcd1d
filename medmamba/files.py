"""Files that are there whole or not at all, and what is in them."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from medmamba.errors import FileError, UsageError

#: What the system answers when nothing more can be stored: no space, or a user's share of it used up.
_FULL = (errno.ENOSPC, errno.EDQUOT) if hasattr(errno, "EDQUOT") else (errno.ENOSPC,)
#: How names of folders begin in which something is written; what a killed process left can be removed by it.
WRITING = ".writing."


class OutputError(UsageError):
    """A place is not to be written to; the message says whose it is."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``: the file written there takes the place of ``path`` when the block ends well.

    When it does not, ``path`` is what it was before and nothing else is left. A reader, or a run that was killed, never
    meets half a file, also after a power cut.

    Raises:
        OSError, FileError: as from the block, naming ``path`` where they named what is temporary.
    """
    temporary = _temporary(path)
    try:
        with naming(path):
            yield temporary
            sync(temporary)
            os.replace(temporary, path)
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_all(path: Path) -> Iterator[Path]:
    """As `replacing`, for what may be written as several files of which ``path`` names the others, or as a folder.

    Yields ``path`` in a temporary folder beside it. What lies there when the block ends well takes its place, ``path``
    as the last: until then readers meet the old one. No system call exchanges folders everywhere, so a reader may meet
    none for a moment; a run that is killed just then leaves both in the temporary folder.

    Raises:
        OSError, FileError: as from the block, naming ``path`` where they named what is temporary.
    """
    with naming(path), TemporaryDirectory(dir=path.parent, prefix=f"{WRITING}{os.getpid()}.") as folder:
        temporary = Path(folder) / path.name
        yield temporary
        files = sorted(Path(folder).iterdir(), key=lambda file: file == temporary)
        for file in files:
            _sync_all(file)
        for file in files:
            _take_place(file, path.with_name(file.name))
        sync(path.parent)


def _sync_all(path: Path) -> None:
    """As `sync`, with all that is in a folder."""
    for entry in path.iterdir() if path.is_dir() else ():
        _sync_all(entry)
    sync(path)


def _take_place(new: Path, target: Path) -> None:
    """Put a file or folder in the place of another; a folder that was there goes into that of the new one."""
    if not (new.is_dir() and target.exists()) and not target.is_dir():
        os.replace(new, target)
        return
    old = new.with_name(f"{WRITING}{new.name}")
    os.replace(target, old)
    try:
        os.replace(new, target)
    except BaseException:
        os.replace(old, target)
        raise


def append(data: bytes, path: Path) -> None:
    """Add to the end of a file, such as a record to a log: all of it, or nothing where the disk is full.

    It is not synced: a power cut may take the last records, and cut one short.

    Raises:
        OSError: naming ``path``.
    """
    with naming(path), path.open("ab", buffering=0) as file:
        end = file.tell()
        try:
            while data:  # a full disk takes what still fits, and says so only when asked again
                data = data[file.write(data) :]
        except OSError:
            file.truncate(end)
            raise


def sync(path: Path) -> None:
    """Have the disk keep a file, or the names in a folder, before anything else happens.

    Raises:
        OSError: if it does not.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let errors name the file that was to be written, not a temporary one; of the system also where they name none."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and _stands_for(path, error.filename):
            error.filename, error.filename2 = str(path), None
        raise
    except FileError as error:
        if _stands_for(path, error.path):
            error.path, error.args = path, (path, error.reason)
        raise


def _stands_for(path: Path, named: object) -> bool:
    """Whether what an error names is ``path``, or nothing, or lies in its place until it is whole."""
    if not isinstance(named, str | bytes | os.PathLike):
        return True
    file, folder = Path(os.path.abspath(os.fsdecode(named))), Path(os.path.abspath(path.parent))
    if not file.is_relative_to(folder):
        return False
    first = file.relative_to(folder).parts[:1]
    return first in ((path.name,), (_temporary(path).name,)) or any(part.startswith(WRITING) for part in first)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def write_bytes(data: bytes, path: Path, *, secret: bool = False) -> None:
    """Write a file as `replacing` does; a secret one is for its owner alone."""
    with replacing(path) as temporary:
        if secret:
            temporary.touch(0o600, exist_ok=False)
        temporary.write_bytes(data)


def in_words(error: BaseException) -> str:
    """An error for people: of the system, the file and what is wrong with it, as "[Errno 2] ..." tells nobody anything.

    Errors of our own have a text and no number.
    """
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error) or ("not enough memory" if isinstance(error, MemoryError) else repr(error))


def is_full(error: OSError) -> bool:
    """Whether it is the space on the disk that is missing."""
    return error.errno in _FULL


class Signature(NamedTuple):
    """What the system says of a file, by which an exchanged or edited one is noticed without reading it.

    Args:
        size: in bytes.
        changed_ns: when it was written last; copies may keep that, and programs can set it.
        touched_ns: when the system last saw it written, renamed or moved, which nobody can set.
    """

    size: int
    changed_ns: int
    touched_ns: int


def signature(path: Path) -> Signature:
    """The signature of a file.

    Raises:
        OSError: if it is gone.
    """
    state = path.stat()
    return Signature(state.st_size, state.st_mtime_ns, state.st_ctime_ns)


def content_digest(paths: Iterable[Path]) -> str:
    """SHA-256 of the bytes of one or several files, in hexadecimal digits.

    Raises:
        OSError: if one cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
