"""Small folders as BraTS is downloaded, with tumours that hold the values asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medmamba import io
from medmamba.volume import Geometry, Volume

SHAPE = (20, 18, 16)
GRID = Geometry(SHAPE, np.diag([-1.0, -1.0, 1.0, 1.0]))
#: Brightness of a tumour in each modality, so that one can be told from another.
BRIGHTNESS = {"t1": 1.0, "t1n": 1.0, "t1ce": 2.0, "t1c": 2.0, "t2": 3.0, "t2w": 3.0, "flair": 4.0, "t2f": 4.0}


def write_case(
    folder: Path,
    files: tuple[str, ...],
    values: tuple[int, ...] | None = None,
    *,
    divider: str | None = None,
    label: str = "seg",
    ending: str = ".nii.gz",
) -> Path:
    """A case folder.

    Args:
        folder: of the case.
        files: what the images' names end in.
        values: that the label map holds, in slabs of a box; None: there is none.
        divider: between the case's name and the modality; None: the modality is the whole name.
        label: what the label map's name ends in.
        ending: of all files.
    """
    folder.mkdir(parents=True)
    start = f"{folder.name}{divider}" if divider else ""
    tumour = np.zeros(SHAPE, np.uint8)
    for place, value in enumerate(values or ()):
        tumour[4 + 2 * place : 6 + 2 * place, 4:12, 4:12] = value
    seed = sum(folder.name.encode())
    for name in files:
        noise = np.random.default_rng(seed + ord(name[-1])).normal(100, 5, SHAPE)
        image = noise + 50 * BRIGHTNESS[name] * (tumour > 0)
        io.write(Volume(image[None].astype(np.float32), GRID), folder / f"{start}{name}{ending}")
    if values is not None:
        io.write(Volume(tumour[None], GRID), folder / f"{start}{label}{ending}")
    return folder


FIRST, SECOND = ("flair", "t1", "t1ce", "t2"), ("t1c", "t1n", "t2f", "t2w")


def brats2020(root: Path, cases: int = 2, values: tuple[int, ...] = (1, 2, 4), files: tuple[str, ...] = FIRST) -> Path:
    """A folder of the edition of 2020."""
    for number in range(1, cases + 1):
        write_case(root / f"BraTS20_Training_{number:03d}", files, values, divider="_", ending=".nii")
    return root


def brats2023(
    root: Path, ids: tuple[str, ...], values: tuple[int, ...] = (1, 2, 3), files: tuple[str, ...] = SECOND
) -> Path:
    """A folder with these cases, named as since 2023: ``GLI-00000-000``."""
    for case in ids:
        write_case(root / f"BraTS-{case}", files, values, divider="-")
    return root
