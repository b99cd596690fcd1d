"""What worker processes do in tests: in a module that they can import by its name."""

from __future__ import annotations

import atexit
import errno
import logging
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from medmamba.errors import DataError
from medmamba.memory import TooLittleMemoryError

log = logging.getLogger("medmamba.engine_work")


@dataclass(frozen=True)
class Item:
    """A case, what becomes of it, and where to leave a trace."""

    id: str
    fate: str = ""
    folder: Path | None = None

    def marked(self, name: str) -> bool:
        """Whether the item was here before; it is from now on."""
        assert self.folder is not None
        mark = self.folder / f"{self.id}.{name}"
        before = mark.exists()
        mark.write_text(str(os.getpid()))
        return before


class BrokenError(DataError):
    """A foreseeable error that cannot be pickled and read back, as `medmamba.io.ImageFileError`."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")


class OddError(Exception):
    """An exception that cannot be pickled and read back."""

    def __init__(self, one: str, other: str) -> None:
        super().__init__(f"{one} and {other}")


def work(item: Item) -> str:
    """The name of the item and of the process, unless its fate is another."""
    match item.fate:
        case "broken":
            raise BrokenError(item.id, "the file is empty")
        case "absent":
            Path("/absent/file").stat()
        case "full":
            raise OSError(errno.ENOSPC, "No space left on device", f"/disk/{item.id}")
        case "mistake":
            raise OddError("this", "that")
        case "unpicklable":
            return lambda: item  # type: ignore[return-value]
        case "short":
            raise TooLittleMemoryError("it needs 9 GB of memory, 2 GB are free")
        case "short at first" if not item.marked("short"):
            raise MemoryError
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "crashed":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "left":
            os._exit(7)
        case "killed at first" if not item.marked("killed"):
            os.kill(os.getpid(), signal.SIGKILL)
        case "logs":
            log.warning("%s is odd", item.id)
            log.debug("not for people")
        case "waits":
            item.marked("begun")
            time.sleep(600)
        case "leaves slowly":
            _wait_for(item, "case1.begun")
            atexit.register(_clear_up, item)
        case "sees the other leave":
            item.marked("begun")
            _wait_for(item, "case0.leaving")
        case "threads":
            return os.environ["OMP_NUM_THREADS"]
    return f"{item.id} done"


def _wait_for(item: Item, mark: str) -> None:
    """Until another item left a trace."""
    assert item.folder is not None
    until = time.monotonic() + 30
    while not (item.folder / mark).exists():
        assert time.monotonic() < until, mark
        time.sleep(0.01)


def _clear_up(item: Item) -> None:
    """As libraries do when the interpreter ends."""
    item.marked("leaving")
    time.sleep(5)


def process_of(item: Item) -> int:
    """Which process works on the item."""
    return os.getpid()


def dies_or_is_short(case: Item, plan: object, folder: Path) -> None:
    """In place of preparing a case: one ends its process, one is short of memory at first."""
    fate = {"case1": "killed", "case2": "short at first"}.get(case.id, "")
    work(Item(case.id, fate, folder))
    (folder / f"{case.id}.done").touch()


def import_fails(item: Item) -> None:
    """Never called: to read it, a worker would have to find a module that is not there."""
