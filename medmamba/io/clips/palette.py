"""Colours of label values, as DAVIS has them, in which masks are written and shown."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Colours in a palette.
COUNT = 256


def palette() -> NDArray[np.uint8]:
    """(256, 3) red, green, blue of the values from 0: the map of DAVIS and PASCAL VOC, in which 0 is black.

    The bits of a value are dealt out to red, green and blue in turn, the lowest as the highest.

    >>> palette()[:3].tolist()
    [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    """
    values = np.arange(COUNT)[:, None]
    colours = np.zeros((COUNT, 3), np.int64)
    for bit in range(8):
        colours |= ((values >> (3 * bit + np.arange(3))) & 1) << (7 - bit)
    return colours.astype(np.uint8)
