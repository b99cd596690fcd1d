"""What all commands share: where words go, how bars look, which exit code means what."""

from __future__ import annotations

import logging
import math
import shlex
import warnings
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import TypeVar

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from medmamba.errors import DataError, MedMambaError, StoppedError, UsageError
from medmamba.files import in_words, is_full

T = TypeVar("T")

#: Results go to standard output, everything else to standard error, so that results can be piped.
out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)


#: What the option ``--edition`` is for, the same for all commands.
EDITION = (
    "Which edition of BraTS the labels are of, such as brats2021 or brats2024-gli, where files do not tell; a wrong "
    "one lists all, 'msd' gives the regions of BraTS to Task01."
)


class Exit(IntEnum):
    """Exit codes of every command."""

    OK = 0
    BUG = 1  #: a mistake in the program, with where it happened
    USAGE = 2  #: a wrong option, a path that does not exist
    DATA = 3  #: the data does not allow it; the message names file, value and remedy
    ENVIRONMENT = 4  #: no device, no space, no permission
    INTERRUPTED = 5  #: stopped by the user or a signal; the same command goes on


#: How a command ends with an error that is no fault of the program, by its kind; the first that fits counts.
ENDS: dict[type[Exception] | type[KeyboardInterrupt], Exit] = {
    KeyboardInterrupt: Exit.INTERRUPTED,
    StoppedError: Exit.INTERRUPTED,
    UsageError: Exit.USAGE,
    DataError: Exit.DATA,
    MemoryError: Exit.ENVIRONMENT,
    FileNotFoundError: Exit.DATA,
    OSError: Exit.ENVIRONMENT,  # also a MachineError
    MedMambaError: Exit.ENVIRONMENT,
}


def say(text: str, style: str | None = None, *, end: str = "\n") -> None:
    """A line of a result, on standard output.

    Plain text, as all that we print: a file name may hold square brackets, which rich would take for markup.
    """
    out.print(text, style=style, end=end, markup=False, highlight=False)


def note(text: str, style: str | None = "yellow") -> None:
    """A line beside the result, on standard error: a remark, unless the style says otherwise."""
    err.print(text, style=style, markup=False, highlight=False)


def table(titles: Iterable[str], rows: Iterable[Iterable[str | Text]]) -> Table:
    """Cells that may hold names of files, to be printed where the table belongs."""
    built = Table(*titles, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in built.columns:
        column.overflow = "fold"  # what is cut off cannot be pasted into a command
    for row in rows:
        built.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return built


def command(*words: object) -> str:
    """A command of this program as it can be pasted into a shell.

    >>> command("train", "my data/plan.json", "--fold", 0)
    "medmamba train 'my data/plan.json' --fold 0"
    """
    return shlex.join(["medmamba", *map(str, words)])


def pairs(option: str, given: Iterable[str], value: str) -> dict[str, str]:
    """What an option says that is given as NAME=VALUE, once for each name.

    Raises:
        UsageError: if there is no name, no value, or a name twice.
    """
    found: dict[str, str] = {}
    for each in given:
        name, _, told = each.partition("=")
        if not name or not told or name in found:
            raise UsageError(f"{option} is given as NAME={value}, once for each name, got {each!r}")
        found[name] = told
    return found


def foreseen(error: Exception | KeyboardInterrupt) -> tuple[str, Exit]:
    """What a command says at the end that an error of `ENDS` makes of it, and its exit code."""
    code = next(code for kind, code in ENDS.items() if isinstance(error, kind))
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; the same command goes on", code
    text = in_words(error)
    if isinstance(error, MemoryError) and str(error):
        text = f"not enough memory: {error}"
    elif isinstance(error, OSError) and is_full(error):
        place = f" to write {error.filename}" if error.filename else ""
        text = f"no space left on the disk{place}; make room, then the same command goes on"
    return f"error: {text}", code


def track(items: Iterable[T], *, title: str, total: int) -> Iterator[T]:
    """A loop with a bar and the time left, on standard error (a `medmamba.progress.Progress`)."""
    with bars(MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()) as progress:
        yield from progress.track(items, total=total, description=title)


def bars(*columns: ProgressColumn, hidden: bool = False) -> Progress:
    """Bars on standard error with these columns behind them; the time left goes by all that was done.

    Of rich itself it goes by the last 30 seconds, and so is never known of what takes longer for each.
    """
    begin = TextColumn("{task.description}"), BarColumn()
    return Progress(*begin, *columns, console=err, disable=hidden, speed_estimate_period=math.inf)


def set_up_logging(verbose: bool) -> None:
    """Show the library's notes: warnings always, the rest when asked to."""
    # What pydicom warns of may quote values of a header.
    warnings.filterwarnings("ignore", module="pydicom")
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    handler = RichHandler(console=err, show_path=False, show_time=False, markup=False)
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(message)s", handlers=[handler])
