#!/usr/bin/env bash
# fslpy moves a point by the vector of the nearest voxel of a warp, where ITK and ANTs interpolate.
#
# Guessed: a warp of FNIRT takes a point between two voxels to a place between theirs.
# Happens: DeformationField.transform rounds to voxels. Halfway up a slope of 4 mm from voxel to voxel, points are off by
# up to 2 mm, and jump there: enough for landmark errors of a registration on a coarse grid.
#
# fslpy 3.29.1, SimpleITK 2.5.7, nibabel 5.4.2, NumPy 2.2.6, November 2026
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet fslpy==3.29.1 SimpleITK==2.5.7 nibabel==5.4.2 numpy==2.2.6
venv/bin/python - <<'END_OF_PYTHON'
import fsl.version
import nibabel
import numpy as np
import SimpleITK as sitk
from fsl.data.image import Image
from fsl.transform.nonlinear import DeformationField

vectors = np.zeros((11, 11, 11, 3), np.float32)
vectors[..., 0] = 4 * np.arange(11)[:, None, None]  # RAS millimetres to the right, 4 more with each voxel of 8 mm
grid = np.diag([8.0, 8.0, 8.0, 1.0])
image = Image(nibabel.Nifti1Image(np.zeros((11, 11, 11), np.float32), grid))
warp = DeformationField(
    vectors, xform=grid, src=image, ref=image, srcSpace="world", refSpace="world", defType="relative"
)
lps = sitk.GetImageFromArray((vectors * [-1, -1, 1]).transpose(2, 1, 0, 3).astype(float), isVector=True)
lps.SetSpacing((8, 8, 8))
lps.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
itk = sitk.DisplacementFieldTransform(lps)
seen = {}
for voxel in (5.0, 5.25, 5.45, 5.55):
    x = 8 * voxel
    moved = float(warp.transform([[x, 40, 40]], "world", "world")[0, 0])
    seen[voxel] = round(-itk.TransformPoint((-x, -40.0, 40.0))[0] - x, 2), round(moved - x, 2)
print("fslpy", fsl.version.__version__, "SimpleITK", sitk.Version_VersionString())
print("millimetres to the right by voxel, SimpleITK's and fslpy's:", seen)
assert seen[5.0] == (20, 20)
assert [seen[voxel][0] for voxel in (5.25, 5.45, 5.55)] == [21, 21.8, 22.2]
assert [seen[voxel][1] for voxel in (5.25, 5.45, 5.55)] == [20, 20, 24], "it behaves otherwise now"
END_OF_PYTHON
