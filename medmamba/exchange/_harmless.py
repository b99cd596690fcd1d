"""Harmless things that checkpoints hold beside tensors, and that PyTorch does not know to be so.

Numbers and arrays of NumPy, by their names before and since NumPy 2; paths; arguments of a command line; and the
containers in which much used packages keep a configuration or a log. Of the last, stand-ins are made, so that the
package is not needed and no code of it runs.
"""

from __future__ import annotations

import _codecs
import argparse
import collections
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np


class Record:
    """Stands for an object of another package: holds what it held, and does nothing."""

    def __init__(self, *values: Any) -> None:
        self.values = values


def _without_default(*_: Any) -> collections.OrderedDict[Any, Any]:
    """Stands for a ``defaultdict``, which PyTorch's reader would not fill."""
    return collections.OrderedDict()


_TABLES = (
    "yacs.config.CfgNode",
    "easydict.EasyDict",
    "addict.addict.Dict",
    "mmengine.config.config.ConfigDict",
    "mmcv.utils.config.ConfigDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
)
_DTYPES = (np.float64, np.float32, np.float16, np.int64, np.int32, np.int16, np.int8, np.uint8, np.bool_)

#: For `torch.serialization.safe_globals`.
KNOWN: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    *(
        (getattr(np._core.multiarray, name), f"numpy.{core}.multiarray.{name}")  # type: ignore[attr-defined]  # pickles name it
        for core in ("core", "_core")
        for name in ("scalar", "_reconstruct")
    ),
    np.ndarray,
    np.dtype,
    *(type(np.dtype(kind)) for kind in _DTYPES),
    _codecs.encode,
    argparse.Namespace,
    (_without_default, "collections.defaultdict"),
    *(int, float, list, dict),
    *(
        (pathlib.PurePosixPath if "Posix" in name else pathlib.PureWindowsPath, f"{module}.{name}")
        for module in ("pathlib", "pathlib._local")
        for name in ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")
    ),
    *((collections.OrderedDict, name) for name in _TABLES),
    (Record, "mmengine.logging.history_buffer.HistoryBuffer"),
]
