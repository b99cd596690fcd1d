#!/usr/bin/env bash
# SimpleITK reads all frames of an enhanced CT with the slope of one.
#
# Guessed: where each frame of a multi-frame image has a rescale slope of its own, each is multiplied by its own, as the
# slices of a classic series are.
# Happens: all frames are multiplied by one slope, without a word: 1000 HU come back as 500 and 2000. Classic series with a
# slope a slice are right, and so are highdicom and dcm2niix for the frames.
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

slopes = np.array([1.0, 2.0, 4.0, 0.5])
stored = np.broadcast_to((1000 / slopes)[:, None, None], (4, 16, 16))
dicom_input.frames(Path("ct.dcm"), stored, [(0, 0, 2 * k) for k in range(4)], slopes=slopes)
seen = sitk.GetArrayFromImage(sitk.ReadImage("ct.dcm"))
right = highdicom.imread("ct.dcm").get_volume().array
print("SimpleITK", sitk.Version_VersionString(), "highdicom", version("highdicom"))
print(f"four frames of 1000 HU with slopes {slopes}: highdicom {right[:, 0, 0]}, SimpleITK {seen[:, 0, 0]}")
assert (right == 1000).all()
assert len(np.unique(seen[:, 0, 0] / stored[:, 0, 0])) == 1, "it behaves otherwise now"
END
