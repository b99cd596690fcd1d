"""Images and data sets on disk: formats in `medmamba.io.formats`, layouts in `medmamba.io.layouts`, one table each."""

from medmamba.io.datasets import find_inputs, open_dataset, open_pairs
from medmamba.io.errors import DatasetError, ImageFileError
from medmamba.io.images import (
    files,
    is_image,
    is_scan,
    is_structure_set,
    map_suffixes,
    read,
    read_case,
    read_channels,
    read_geometry,
    read_label,
    read_names,
    suffixes,
    write,
)
from medmamba.io.layouts.pairs import find_pairs
from medmamba.io.points import read_points, write_points

__all__ = [
    "DatasetError",
    "ImageFileError",
    "files",
    "find_inputs",
    "find_pairs",
    "is_image",
    "is_scan",
    "is_structure_set",
    "map_suffixes",
    "open_dataset",
    "open_pairs",
    "read",
    "read_case",
    "read_channels",
    "read_geometry",
    "read_label",
    "read_names",
    "read_points",
    "suffixes",
    "write",
    "write_points",
]
