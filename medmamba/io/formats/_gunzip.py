"""Reading gzip as zlib's own reader does, on which other readers stand: what follows the last member is no data.

Python's `gzip` refuses a file with anything behind its compressed data, even when all of that was read and is sound.
"""

from __future__ import annotations

import zlib
from pathlib import Path

MAGIC = b"\x1f\x8b"
#: Window size 2^15, and a header and checksum as gzip or zlib has them.
_WINDOW = 15 + 32
_CHUNK = 2**20


class Gunzip:
    """A compressed file, to be read from its beginning to its end.

    Args:
        path: of the file.
        start: byte where the compressed data begins.
    """

    def __init__(self, path: Path, start: int = 0) -> None:
        self._file = path.open("rb")
        self._file.seek(start)
        self._member = zlib.decompressobj(_WINDOW)
        self._waiting = b""
        #: Whether something that is not compressed follows; known once the end was reached.
        self.has_trailing_bytes = False
        self._ended = False

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self, size: int) -> bytearray:
        """The next bytes, fewer at the end.

        Raises:
            EOFError: if the compressed data is cut short.
            zlib.error: if it is damaged; its checksum is compared when its end is reached.
        """
        done = bytearray()
        while len(done) < size and not self._ended:
            if self._member.eof:
                self._next_member()
                continue
            stored = self._waiting or self._file.read(_CHUNK)
            found = self._member.decompress(stored, min(size - len(done), _CHUNK))
            if not stored and not found and not self._member.eof:
                raise EOFError("compressed data ends before its end mark")
            done += found
            self._waiting = self._member.unconsumed_tail
        return done

    def _next_member(self) -> None:
        behind = self._member.unused_data.lstrip(b"\0")  # zeros fill up the blocks of a tape
        while len(behind) < len(MAGIC) and (more := self._file.read(_CHUNK)):
            behind = (behind + more).lstrip(b"\0")
        if behind.startswith(MAGIC):
            self._member, self._waiting = zlib.decompressobj(_WINDOW), behind
        else:
            self._ended, self.has_trailing_bytes = True, bool(behind)
