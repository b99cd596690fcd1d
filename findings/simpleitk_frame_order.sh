#!/usr/bin/env bash
# SimpleITK loses the size of pixels where frames of an enhanced CT do not lie in the file from end to end.
#
# Guessed: frames carry positions, so their order in the file does not matter: SimpleITK sorts them, as it does slices.
# Happens: frames stay as they are stored, neighbours or not, and pixels of 0.7 x 0.9 mm and steps of 2 mm become
# 1 x 1 x 1 mm, without a word: volumes are wrong by the factor, distances besides. Sorted frames are right.
#
# SimpleITK 2.5.7, highdicom 0.28.2, pydicom 3.0.2, NumPy 2.4.6, November 2026
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet SimpleITK==2.5.7 highdicom==0.28.2 pydicom==3.0.2 numpy==2.4.6
cp "$here/dicom_input.py" .
venv/bin/python - <<'END'
from importlib.metadata import version
from pathlib import Path

import dicom_input
import highdicom
import numpy as np
import SimpleITK as sitk

print("SimpleITK", sitk.Version_VersionString(), "highdicom", version("highdicom"))
seen = {}
for name, order in (("sorted", [0, 1, 2, 3, 4]), ("odd ones first", [1, 3, 0, 2, 4])):
    values = np.broadcast_to(100 * (1 + np.array(order))[:, None, None], (5, 16, 16))
    corners = [(0, 0, 2 * k) for k in order]
    dicom_input.frames(Path("ct.dcm"), values, corners, spacing_mm=(0.9, 0.7))
    right = highdicom.imread("ct.dcm").get_volume()
    assert np.allclose(right.spacing, (2, 0.9, 0.7))
    assert np.allclose(np.abs(np.diff(right.array[:, 0, 0])), 100)
    image = sitk.ReadImage("ct.dcm")
    seen[name] = np.round(image.GetSpacing(), 3).tolist()
    print(f"{name}: expected 0.7, 0.9, 2 mm, seen {seen[name]} and {sitk.GetArrayFromImage(image)[:, 0, 0]}")
assert seen["sorted"] == [0.7, 0.9, 2.0]
assert seen["odd ones first"] == [1.0, 1.0, 1.0], "it behaves otherwise now"
END
