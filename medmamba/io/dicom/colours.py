"""Colours by which structures beside one another are told apart."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import numpy as np

from medmamba.volume import FloatArray

#: Red, green, blue, 0 to 255.
Colour = tuple[int, int, int]
#: Of structures that have none of their own, told apart also without red or green (Okabe and Ito 2008).
PALETTE: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
#: Two colours are taken for one where they are nearer in CIELab: a trained eye begins to tell them apart at 2.3.
_ALIKE = 10.0
#: Scans are black and white: colours to choose from are neither dark, nor pale, nor grey.
_LIGHTNESS, _CHROMA = (35.0, 90.0), 20.0
#: Of sRGB, to XYZ by its own white (IEC 61966-2-1).
_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def distinct(wanted: Mapping[str, Colour | None], keep: Mapping[str, Colour | None]) -> dict[str, Colour]:
    """A colour for each structure that none before it has, or one like it.

    Those that have none, or one that is taken, get the next of `PALETTE` and, where that is used up, the colour that is
    farthest from all that are taken.

    Args:
        wanted: colours as recommended, by names of structures.
        keep: those that stay as they are, whatever others have.
    """
    found = {name: colour for name, colour in keep.items() if colour is not None}
    for name, colour in wanted.items():
        if colour is not None and not _is_taken(colour, found):
            found.setdefault(name, colour)
    choices = _choices()
    away = np.full(len(choices), np.inf)
    for colour in found.values():
        away = np.minimum(away, _distances(colour, choices))
    for name in wanted:
        if name not in found:
            free = next((colour for colour in PALETTE if not _is_taken(colour, found)), None)
            red, green, blue = free or choices[int(away.argmax())].tolist()
            found[name] = (red, green, blue)
            away = np.minimum(away, _distances(found[name], choices))
    return {name: found[name] for name in wanted}


def lab(colours: FloatArray) -> FloatArray:
    """CIELab of colours in sRGB (N, 3), 0 to 255."""
    parts = np.asarray(colours, float) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    light = linear @ (_XYZ / _XYZ.sum(axis=1, keepdims=True)).T
    x, y, z = np.where(light > (6 / 29) ** 3, np.cbrt(light), light * (29 / 6) ** 2 / 3 + 4 / 29).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


def _distances(colour: Colour, others: FloatArray) -> FloatArray:
    away: FloatArray = np.linalg.norm(lab(others) - lab(np.array([colour], float)), axis=1)
    return away


def _is_taken(colour: Colour, found: Mapping[str, Colour]) -> bool:
    return bool(found) and bool((_distances(colour, np.array([*found.values()], float)) < _ALIKE).any())


def _choices() -> FloatArray:
    """What may be chosen from (N, 3), 0 to 255."""
    colours = np.array([*product(range(0, 256, 17), repeat=3)], float)
    lightness, *chroma = lab(colours).T
    low, high = _LIGHTNESS
    chosen: FloatArray = colours[(lightness > low) & (lightness < high) & (np.hypot(*chroma) > _CHROMA)]
    return chosen
