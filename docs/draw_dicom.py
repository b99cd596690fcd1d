"""Draw the pictures of dicom.md: SEG objects, read back, over the scans that they refer to.

``python -m docs.draw_dicom FOLDER OBJECTS``: the one holds the series ``brain_t1post`` and ``hippocampus_crop``, the
other what `medmamba predict` made of the second as dicom.md shows. The head is a plain threshold and needs no model.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pydicom

from medmamba import io
from medmamba.evaluation.overlay import overlay
from medmamba.labels import Label, Labels
from medmamba.volume import Volume

HERE = Path(__file__).parent
#: From this value on a voxel of ``brain_t1post`` is of the head.
HEAD = 120.0


def head(scan: Volume, series: Path, place: Path) -> Path:
    """Write a SEG of all that is bright."""
    path = place / f"{series.name}.seg.dcm"
    labels = Labels(foreground=(Label(name="head", values=(1,)),))
    io.write(scan.with_array((scan.array > HEAD).astype(np.uint8)), path, like=series, labels=labels)
    return path


def draw(scan: Volume, seg: Path, name: str) -> None:
    """Draw a SEG over its scan; its segments have their numbers as values."""
    segments = enumerate(pydicom.dcmread(seg, stop_before_pixels=True).SegmentSequence, start=1)
    labels = Labels(foreground=tuple(Label(name=each.SegmentLabel, values=(number,)) for number, each in segments))
    found = io.read_label(seg, within=scan.geometry)
    overlay(scan, {"segmentation": found}, labels, HERE / f"dicom_{name}.png", title=f"{seg.name} over {name}")


def main(folder: Path, objects: Path) -> None:
    """Draw both."""
    name = "brain_t1post"
    scan = io.read(folder / name)
    with TemporaryDirectory() as temporary:
        draw(scan, head(scan, folder / name, Path(temporary)), name)
    name = "hippocampus_crop"
    draw(io.read(folder / name), objects / f"{name}.seg.dcm", name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
