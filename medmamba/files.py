"""Files that are there whole or not at all, and what is in them."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from medmamba.errors import UsageError

#: What the system answers when nothing more can be stored: no space, or a user's share of it used up.
_FULL = (errno.ENOSPC, errno.EDQUOT) if hasattr(errno, "EDQUOT") else (errno.ENOSPC,)


class OutputError(UsageError):
    """A place is not to be written to; the message says whose it is."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``: the file written there takes the place of ``path`` when the block ends well.

    When it does not, ``path`` is what it was before and nothing else is left. A reader, or a run that was killed, never
    meets half a file, also after a power cut.

    Raises:
        OSError: as from the block, naming ``path``.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path):
            yield temporary
            sync(temporary)
            os.replace(temporary, path)
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


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
    """Let errors of the system name the file that was to be written, not a temporary one."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            error.filename, error.filename2 = str(path), None
        raise


def write_bytes(data: bytes, path: Path) -> None:
    """Write a file as `replacing` does."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def in_words(error: Exception) -> str:
    """An error for people: of the system, the file and what is wrong with it, as "[Errno 2] ..." tells nobody anything.

    Errors of our own have a text and no number.
    """
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error) or ("not enough memory" if isinstance(error, MemoryError) else repr(error))


def is_full(error: OSError) -> bool:
    """Whether it is the space on the disk that is missing."""
    return error.errno in _FULL


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
