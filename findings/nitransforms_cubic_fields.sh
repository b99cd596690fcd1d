#!/usr/bin/env bash
# NiTransforms bends displacement fields by cubic splines where ITK and ANTs interpolate them linearly.
#
# Guessed: a field that ITK wrote takes a point to the same place in both, for the file holds vectors in millimetres.
# Happens: at the centres of the field's voxels it does. In between, DenseFieldTransform.map evaluates a cubic spline
# (SciPy's map_coordinates of order 3), which overshoots where a field is not smooth: beside one voxel that moves by
# 10 mm, a point 1.5 voxels away moves by 1.3 mm the other way. For fields on a coarser grid than the image, landmark
# errors and resampled images differ from those of the software that made the registration.
#
# nitransforms 25.1.0, SimpleITK 2.5.7, nibabel 5.3.2, NumPy 2.2.6, November 2026
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet nitransforms==25.1.0 SimpleITK==2.5.7 nibabel==5.3.2 numpy==2.2.6 scipy==1.15.3
venv/bin/python - <<'END'
import nibabel
import nitransforms
import numpy as np
import SimpleITK as sitk

vectors = np.zeros((11, 11, 11, 1, 3), np.float32)
vectors[5, :, :, 0, 0] = 10  # LPS millimetres: to the left
image = nibabel.Nifti1Image(vectors, np.diag([4.0, 4.0, 4.0, 1.0]))
image.header.set_intent("vector")
nibabel.save(image, "field.nii.gz")
theirs = nitransforms.nonlinear.DenseFieldTransform.from_filename("field.nii.gz", fmt="itk")
itk = sitk.DisplacementFieldTransform(sitk.ReadImage("field.nii.gz", sitk.sitkVectorFloat64))
moved = {}
for voxel in (5, 5.5, 6.5):
    x, y, z = voxel * 4.0, 20.0, 20.0  # RAS millimetres
    left = itk.TransformPoint((-x, -y, z))[0] + x
    moved[voxel] = round(left, 2), round(x - theirs.map([[x, y, z]])[0][0], 2)
print("nitransforms", nitransforms.__version__, "SimpleITK", sitk.Version_VersionString())
print("millimetres to the left by voxel, SimpleITK's and NiTransforms':", moved)
assert moved[5] == (10.0, 10.0)
assert moved[5.5][0] == 5.0 and moved[6.5][0] == 0.0
assert moved[5.5][1] > 5.5 and moved[6.5][1] < -1, "it behaves otherwise now"
END
