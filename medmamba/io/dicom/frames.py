"""Frames of an object one at a time, also where they are bits that do not fill bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.pixels.utils import iter_pixels, unpack_bits


def frames_of(dataset: Dataset) -> Iterator[NDArray[Any]]:
    """The frames (rows, columns) of an object, as they are stored.

    Bits of a frame follow those of the one before without a gap (PS3.5 section 8.1.1). pydicom 3.0.2 takes a byte too
    few for a frame that begins and ends within bytes, of 47 x 37 pixels for example, so its bytes are chosen here.

    Raises:
        What pydicom does of a damaged object, and a ValueError where there are too few bytes.
    """
    if int(dataset.BitsAllocated) != 1 or dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        yield from iter_pixels(dataset)
        return
    shape = int(dataset.Rows), int(dataset.Columns)
    size, stored = shape[0] * shape[1], dataset.PixelData
    for start in range(0, size * int(dataset.get("NumberOfFrames") or 1), size):
        bits = unpack_bits(stored[start // 8 : -(-(start + size) // 8)])
        assert isinstance(bits, np.ndarray)
        yield bits[start % 8 : start % 8 + size].reshape(shape)
