"""The errors of images and data sets on disk."""

from __future__ import annotations

from pathlib import Path

from medmamba.errors import DataError, FileError


class ImageFileError(FileError):
    """A file is not an image that can be worked with."""


class ClipFileError(FileError):
    """A file or folder is not a film, or not the masks of one, that can be worked with."""


class ClipEndsEarlyError(ClipFileError):
    """A film is cut off or damaged behind its first frames, all of which have been given.

    Args:
        path: of the film.
        reason: what is wrong.
        frames: how many good ones there are before that.
    """

    def __init__(self, path: Path, reason: str, frames: int = 0) -> None:
        super().__init__(path, reason)
        self.frames = frames
        self.args = (path, reason, frames)


class TransformFileError(FileError):
    """A file is no transform that can be applied, or cannot hold one."""


class PointsFileError(FileError):
    """A file does not say where points are."""


class LabelValueError(ImageFileError):
    """A file is an image, but no label map: it holds values that are not integers."""


class DatasetError(DataError):
    """A folder is not a data set that can be used; the message names it and what to do."""
