#!/usr/bin/env bash
# platipy and DicomRTTool move the points of an RTSTRUCT contour to pixels before they fill it: structures grow.
#
# Guessed: a ball of 10 mm, drawn as true circles of 100 points, comes back with its volume of 4.19 ml, give or take a percent.
# Happens: both round each point to the nearest pixel and then fill up to and with these. On pixels of 0.7 x 0.9 mm the ball
# has 4.64 ml, 11 % more than the pixels whose centres are in it; Dice of a perfect contour with its own mask is 0.95.
#
# platipy 0.7.2 (pydicom 2.4.5), DicomRTTool 6.2.0, SimpleITK 2.5.7, NumPy 2.4.6, November 2026
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet DicomRTTool==6.2.0 pydicom==3.0.2 SimpleITK==2.5.7 numpy==2.4.6
python3 -m venv other
other/bin/pip install --quiet platipy==0.7.2 pydicom==2.4.5 SimpleITK==2.5.7 numpy==2.4.6
cp "$here/dicom_input.py" .
venv/bin/python - <<'END'
import subprocess
from importlib.metadata import version
from pathlib import Path

import dicom_input
import numpy as np
import SimpleITK as sitk
from DicomRTTool.ReaderWriter import DicomReaderWriter

spacing_mm = np.array((0.7, 0.9))
centre_mm, radius_mm = np.array((20.0, 22.0, 19.5)), 10.0
corners = [(0, 0, 2 * k) for k in range(20)]
images = dicom_input.slices(Path("ct"), np.full((20, 64, 48), 100), corners, spacing_mm=spacing_mm)
outlines = list(dicom_input.ball_outlines(images, centre_mm, radius_mm))
dicom_input.structure_set(Path("structures.dcm"), "ball", images, outlines)
z, y, x = np.meshgrid(2.0 * np.arange(20), 0.7 * np.arange(64), 0.9 * np.arange(48), indexing="ij")
inside = (x - centre_mm[0]) ** 2 + (y - centre_mm[1]) ** 2 + (z - centre_mm[2]) ** 2 <= radius_mm**2

convert = """
from platipy.dicom.io.rtstruct_to_nifti import convert_rtstruct
convert_rtstruct("ct", "structures.dcm", prefix="", output_dir=".")
"""
subprocess.run(["other/bin/python", "-W", "ignore", "-c", convert], check=True, capture_output=True)
reader = DicomReaderWriter(Contour_Names=["ball"])
reader.walk_through_folders(".")
reader.get_images_and_mask()
masks = {
    "platipy 0.7.2": sitk.GetArrayFromImage(sitk.ReadImage("ball.nii.gz")) > 0,
    f"DicomRTTool {version('DicomRTTool')}": np.asarray(reader.mask) > 0,
}
voxel_ml = spacing_mm.prod() * 2 / 1000
print(f"the ball: {4 / 3 * np.pi * radius_mm**3 / 1000:.2f} ml, pixels whose centre is in it: {inside.sum() * voxel_ml:.2f} ml")
for name, mask in masks.items():
    dice = 2 * (mask & inside).sum() / (mask.sum() + inside.sum())
    print(f"{name}: expected the same, seen {mask.sum() * voxel_ml:.2f} ml, Dice {dice:.3f}")
    assert 0.94 < dice < 0.96, "it behaves otherwise now"
    assert mask.sum() > 1.1 * inside.sum(), "it behaves otherwise now"
END
