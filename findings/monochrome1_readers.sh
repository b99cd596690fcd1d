#!/usr/bin/env bash
# Of MONOCHROME1, some readers give the stored numbers, and others what they are turned into.
#
# Guessed: MONOCHROME1 says how to show an image (the smallest number is white), and readers give its numbers as they are.
# Happens: pydicom and dcm2niix do. SimpleITK and highdicom give the largest number that can be
# stored minus each, before slope and intercept: 4095 - 1000 = 3095. The same scan, converted by dcm2niix and by SimpleITK,
# has opposite contrast.
#
# SimpleITK 2.5.7, highdicom 0.28.2, dcm2niix 1.0.20260724, pydicom 3.0.2, nibabel 5.4.2, NumPy 2.4.6, November 2026
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet SimpleITK==2.5.7 highdicom==0.28.2 dcm2niix==1.0.20260724 pydicom==3.0.2 nibabel==5.4.2 numpy==2.4.6
cp "$here/dicom_input.py" .
venv/bin/python - <<'END'
import subprocess
from pathlib import Path

import dicom_input
import highdicom
import nibabel
import numpy as np
import SimpleITK as sitk

values = np.full((4, 16, 16), 1000)
values[:, 4:9, 4:9] = 1200
made = dicom_input.slices(
    Path("ct"),
    values,
    [(0, 0, 2 * k) for k in range(4)],
    PhotometricInterpretation="MONOCHROME1",
    BitsStored=12,
    HighBit=11,
)
command = ["venv/bin/dcm2niix", "-f", "image", "-o", ".", "ct"]
print(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[0])
files = sorted(str(file) for file in Path("ct").iterdir())
seen = {
    "pydicom": made[0].pixel_array,
    "dcm2niix": np.asanyarray(nibabel.load("image.nii").dataobj),
    "SimpleITK": sitk.GetArrayFromImage(sitk.ReadImage(files)),
    "highdicom": highdicom.get_volume_from_series(made).array,
}
for reader, array in seen.items():
    print(f"{reader}: expected 1000 with a square of 1200, seen {np.unique(array)}")
assert all(set(np.unique(seen[reader])) == {1000, 1200} for reader in ("pydicom", "dcm2niix"))
turned = all(set(np.unique(seen[reader])) == {3095, 2895} for reader in ("SimpleITK", "highdicom"))
assert turned, "it behaves otherwise now"
END
