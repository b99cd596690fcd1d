"""Draw the pictures of dicom.md: SEG objects, read back, over the scans that they refer to.

``python -m docs.draw_dicom FOLDER``, which holds the series ``brain_t1post`` and ``hippocampus_crop``. Structures are
plain thresholds, so that no model is needed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from medmamba import io
from medmamba.evaluation.overlay import overlay
from medmamba.labels import Label, Labels

#: Series -> structure, and the value from which on a voxel is of it.
THRESHOLDS = {"brain_t1post": ("head", 120.0), "hippocampus_crop": ("white matter", 97.0)}


def draw(folder: Path, place: Path) -> None:
    """Write a picture of each series into a folder."""
    for name, (structure, threshold) in THRESHOLDS.items():
        scan = io.read(folder / name)
        labels = Labels(foreground=(Label(name=structure, values=(1,)),))
        with TemporaryDirectory() as temporary:
            path = Path(temporary) / f"{name}.seg.dcm"
            io.write(
                scan.with_array((scan.array > threshold).astype(np.uint8)), path, like=folder / name, labels=labels
            )
            found = io.read_label(path, within=scan.geometry)
        title = f"{name}.seg.dcm over {name}"
        overlay(scan, {"segmentation": found}, labels, place / f"dicom_{name}.png", title=title)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(__file__).parent)
