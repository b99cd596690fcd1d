"""New memory for results of compiled kernels."""

from __future__ import annotations

import ctypes
import mmap
import sys
from functools import cache
from typing import Any

import torch
from torch import Tensor

#: Below this many bytes memory is likely to be some that was used before, and page faults are few.
LARGE = 4 * 2**20


@cache
def _madvise() -> Any:
    """The C library's function, where the system has large pages to ask for."""
    if not sys.platform.startswith("linux"):
        return None
    function = ctypes.CDLL(None, use_errno=True).madvise
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return function


def in_large_pages(tensor: Tensor) -> Tensor:
    """Ask the system to back new memory by large pages, before it is first written to.

    A page of 4 KiB costs about a microsecond when it is first touched, for a long scan as much as the scan itself.
    This is advice: a system that does not take it loses only time.
    """
    if tensor.nbytes >= LARGE and tensor.device.type == "cpu" and _madvise() is not None:
        start = -(-tensor.untyped_storage().data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        end = tensor.untyped_storage().data_ptr() + tensor.untyped_storage().nbytes()
        _madvise()(start, end // mmap.PAGESIZE * mmap.PAGESIZE - start, mmap.MADV_HUGEPAGE)
    return tensor


def dense_like(tensor: Tensor, kind: torch.dtype | None = None) -> Tensor:
    """New memory of a tensor's shape (..., D, L), channels side by side where they are so in the tensor.

    Args:
        tensor: whose shape, device and order of the last two axes to take.
        kind: another type than the tensor's.
    """
    *lead, rows, columns = tensor.shape
    if tensor.stride(-2) == 1 and tensor.stride(-1) != 1:
        return tensor.new_empty((*lead, columns, rows), dtype=kind).mT
    return tensor.new_empty((*lead, rows, columns), dtype=kind)
