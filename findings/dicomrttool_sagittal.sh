#!/usr/bin/env bash
# DicomRTTool gives empty masks for structures on sagittal images.
#
# Guessed: contours in mm are brought to the image's own axes, however these lie, as they are for axial images.
# Happens: on a sagittal series the mask is empty, without a word: the structure seems not to be there.
#
# DicomRTTool 6.2.0, pydicom 3.0.2, SimpleITK 2.5.7, NumPy 2.4.6, November 2026
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet DicomRTTool==6.2.0 pydicom==3.0.2 SimpleITK==2.5.7 numpy==2.4.6
cp "$here/dicom_input.py" .
venv/bin/python - <<'END'
from importlib.metadata import version
from pathlib import Path

import dicom_input
import numpy as np
from DicomRTTool.ReaderWriter import DicomReaderWriter

seen = {}
for name, plane, along in (
    ("axial", dicom_input.AXIAL, (0, 0, 1)),
    ("sagittal", dicom_input.SAGITTAL, (-1, 0, 0)),
):
    Path(name).mkdir()
    corners = [2.0 * k * np.array(along) for k in range(20)]
    images = dicom_input.slices(Path(name, "ct"), np.full((20, 64, 64), 100), corners, plane=plane)
    row, column = np.array(plane, float)
    centre_mm = 32 * row + 32 * column + 19 * np.array(along)
    outlines = list(dicom_input.ball_outlines(images, centre_mm, 10.0))
    dicom_input.structure_set(Path(name, "structures.dcm"), "ball", images, outlines)
    reader = DicomReaderWriter(Contour_Names=["ball"])
    reader.walk_through_folders(name)
    reader.get_images_and_mask()
    seen[name] = int((np.asarray(reader.mask) > 0).sum()) * 2 / 1000
    print(f"a ball of 4.19 ml on {name} images: seen {seen[name]:.2f} ml")
print("DicomRTTool", version("DicomRTTool"))
assert 4 < seen["axial"] < 5
assert seen["sagittal"] == 0, "it behaves otherwise now"
END
