"""Errors that are no fault of the program: a command ends with their text and the exit code of their kind.

Everything else that is raised is a bug, and shows where it came from. Texts give rule, value, place and remedy.
"""

from __future__ import annotations

from pathlib import Path


class MedMambaError(Exception):
    """Something that whoever reads the message can put right."""


class UsageError(MedMambaError, ValueError):
    """What was asked for cannot be: a name, an option, a place to write to."""


class DataError(MedMambaError, ValueError):
    """What is in a file, or what is missing in it, does not allow what was asked for."""


class FileError(DataError):
    """A file is not what it should be; the message names it and what to do."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)  # what it is made of, so that it can be sent from one process to another
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class MachineError(MedMambaError, OSError):
    """The machine lacks what was asked for."""


class StoppedError(MedMambaError):
    """What was under way was asked to stop, and did so in good order; the same command goes on."""
