"""Images and data sets on disk: one module per family of formats, one table of suffixes in `medmamba.io.images`."""

from medmamba.io._errors import ImageFileError
from medmamba.io.datasets import DatasetError, find_inputs, open_dataset
from medmamba.io.images import files, read, read_case, read_channels, read_geometry, read_label, suffixes, write

__all__ = [
    "DatasetError",
    "ImageFileError",
    "files",
    "find_inputs",
    "open_dataset",
    "read",
    "read_case",
    "read_channels",
    "read_geometry",
    "read_label",
    "suffixes",
    "write",
]
