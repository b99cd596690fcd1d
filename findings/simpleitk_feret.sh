#!/usr/bin/env bash
# SimpleITK's Feret diameter runs between the centres of voxels.
#
# Guessed: the longest diameter of a lesion reaches from edge to edge: 5 voxels of 4 mm in a row are 20 mm long, and a
# lesion of one voxel 4 mm wide.
# Happens: it is 16 mm, and 0 mm for one voxel. Against a caliper a voxel is missing, which for a lesion of 1 cm on
# thick slices is half of it.
#
# SimpleITK 2.5.7, NumPy 2.2.6, November 2026
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet SimpleITK==2.5.7 numpy==2.2.6
venv/bin/python - <<'END'
import numpy as np
import SimpleITK as sitk

mask = np.zeros((12, 12, 12), np.uint8)
mask[6, 6, 2:7] = 1
image = sitk.GetImageFromArray(mask)
image.SetSpacing((4.0, 1.0, 1.0))
shape = sitk.LabelShapeStatisticsImageFilter()
shape.ComputeFeretDiameterOn()
shape.Execute(image)
seen = shape.GetFeretDiameter(1)
print("SimpleITK", sitk.Version_VersionString())
print(f"5 voxels of 4 mm in a row: expected 20 mm, seen {seen} mm")
assert seen == 16.0, "it behaves otherwise now"
END
