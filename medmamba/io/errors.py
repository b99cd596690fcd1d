"""The errors of images and data sets on disk."""

from __future__ import annotations

from medmamba.errors import DataError, FileError


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
