#!/usr/bin/env bash
# dcm2niix makes even slices of an uneven multi-frame image, and says nothing.
#
# Guessed: for frames at 0, 1, 2, 4, 8 and 9 mm dcm2niix warns of the uneven steps and ends with an error, as for a series of
# single slices at these positions.
# Happens: exit code 0, no warning, and an image whose six slices are 1.8 mm apart. What is 1 mm long at one end, and 4 mm in
# the middle, comes out 1.8 mm long. For the classic series it warns that the distance varies, and ends with 1.
#
# dcm2niix 1.0.20260724, pydicom 3.0.2, nibabel 5.4.2, NumPy 2.4.6, November 2026
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet dcm2niix==1.0.20260724 pydicom==3.0.2 nibabel==5.4.2 numpy==2.4.6
cp "$here/dicom_input.py" .
venv/bin/python - <<'END'
import subprocess
from pathlib import Path

import dicom_input
import nibabel
import numpy as np

heights_mm = (0, 1, 2, 4, 8, 9)
values = np.broadcast_to(100 * (1 + np.arange(6))[:, None, None], (6, 16, 16))
corners = [(0, 0, height) for height in heights_mm]
Path("frames").mkdir()
dicom_input.frames(Path("frames/ct.dcm"), values, corners)
dicom_input.slices(Path("slices"), values, corners)
seen = {}
for kind in ("slices", "frames"):
    told = subprocess.run(["venv/bin/dcm2niix", "-f", kind, "-o", ".", kind], capture_output=True, text=True)
    steps_mm = round(float(nibabel.load(f"{kind}.nii").header.get_zooms()[2]), 3)
    seen[kind] = (told.returncode, "arning: Interslice distance varies" in told.stdout, steps_mm)
    print(f"{kind} at {heights_mm} mm: exit code, warning, step of the image: {seen[kind]}")
print(told.stdout.splitlines()[0])
assert seen["slices"][:2] == (1, True)
assert seen["frames"] == (0, False, 1.8), "it behaves otherwise now"
END
