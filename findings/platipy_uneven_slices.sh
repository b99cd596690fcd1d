#!/usr/bin/env bash
# platipy loses contours on slices in uneven steps.
#
# Guessed: contours belong to slices, so a structure on slices 1 to 4 mm apart comes back on these slices.
# Happens: platipy looks each contour's height up in an even grid, as SimpleITK reads the slices with a warning. Several
# contours land on one slice and others nowhere or elsewhere: of a ball, whose contours lie on 10 slices, less than half of
# the voxels come back.
#
# platipy 0.7.2 (pydicom 2.4.5), pydicom 3.0.2 for the input, SimpleITK 2.5.7, NumPy 2.4.6, November 2026
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet pydicom==3.0.2 SimpleITK==2.5.7 numpy==2.4.6
python3 -m venv other
other/bin/pip install --quiet platipy==0.7.2 pydicom==2.4.5 SimpleITK==2.5.7 numpy==2.4.6
cp "$here/dicom_input.py" .
venv/bin/python - <<'END'
import subprocess
from pathlib import Path

import dicom_input
import numpy as np
import SimpleITK as sitk

CONVERT = """
from platipy.dicom.io.rtstruct_to_nifti import convert_rtstruct
convert_rtstruct("{0}", "{0}.dcm", prefix="", output_dir="{0}_masks")
"""
seen = {}
for name, steps_mm in (("even", [2] * 19), ("uneven", [1, 2, 3, 1, 2, 4] * 3)):
    heights_mm = np.concatenate([[0], np.cumsum(steps_mm)]).astype(float)
    corners = [(0, 0, height) for height in heights_mm]
    images = dicom_input.slices(Path(name), np.full((len(corners), 64, 64), 100), corners)
    centre_mm = np.array((32.0, 32.0, heights_mm[-1] / 2))
    outlines = list(dicom_input.ball_outlines(images, centre_mm, 12.0))
    dicom_input.structure_set(Path(f"{name}.dcm"), "ball", images, outlines)
    Path(f"{name}_masks").mkdir()
    command = ["other/bin/python", "-W", "ignore", "-c", CONVERT.format(name)]
    subprocess.run(command, check=True, capture_output=True)
    mask = sitk.GetArrayFromImage(sitk.ReadImage(f"{name}_masks/ball.nii.gz")) > 0
    drawn = sum(outline is not None for outline in outlines)
    found = int(mask.any(axis=(1, 2)).sum())
    area = sum(np.pi * (12.0**2 - (height - centre_mm[2]) ** 2) for height in heights_mm if abs(height - centre_mm[2]) < 12)
    seen[name] = mask.sum() / area
    print(f"{name} steps: contours on {drawn} slices, expected as many, seen {found}; voxels: {seen[name]:.2f} of those drawn")
print("platipy 0.7.2, pydicom 2.4.5")
assert 0.95 < seen["even"] < 1.15
assert seen["uneven"] < 0.7, "it behaves otherwise now"
END
