"""The errors of images and data sets on disk."""

from __future__ import annotations

from pathlib import Path

from medmamba.errors import DataError


class FileError(DataError):
    """A file cannot be worked with; the message names it and what to do."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)  # what it is made of, so that it can be sent from one process to another
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class ImageFileError(FileError):
    """A file is not an image that can be worked with."""


class TransformFileError(FileError):
    """A file is no transform that can be applied, or cannot hold one."""


class PointsFileError(FileError):
    """A file does not say where points are."""


class LabelValueError(ImageFileError):
    """A file is an image, but no label map: it holds values that are not integers."""


class DatasetError(DataError):
    """A folder is not a data set that can be used; the message names it and what to do."""
