#!/usr/bin/env bash
# NiTransforms takes a displacement field of intent 1006 for LPS, which ITK takes for RAS.
#
# Guessed: a NIfTI field that ITK applies is applied alike by NiTransforms with fmt="itk". Intent 1006 (DISPVECT) says
# displacements in NIfTI's own axes, RAS; ITK since 5.4 turns them to LPS when it reads, and those of 1007 (VECTOR) not.
# Happens: NiTransforms turns both. Where ITK moves a point by 5 mm to the right, NiTransforms moves it to the left:
# 10 mm apart. It warns of an incorrect intent and goes on.
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

moved = {}
for intent in (1006, 1007):
    vectors = np.zeros((9, 9, 9, 1, 3), np.float32)
    vectors[..., 0] = 5
    image = nibabel.Nifti1Image(vectors, np.eye(4))
    image.header["intent_code"] = intent
    nibabel.save(image, "field.nii.gz")
    theirs = nitransforms.nonlinear.DenseFieldTransform.from_filename("field.nii.gz", fmt="itk")
    itk = sitk.DisplacementFieldTransform(sitk.ReadImage("field.nii.gz", sitk.sitkVectorFloat64))
    right = -itk.TransformPoint((-4.0, -4.0, 4.0))[0] - 4
    moved[intent] = right, round(float(theirs.map([[4.0, 4.0, 4.0]])[0][0]) - 4, 6)
print("nitransforms", nitransforms.__version__, "SimpleITK", sitk.Version_VersionString())
print("millimetres to the right by intent, SimpleITK's and NiTransforms':", moved)
assert moved[1007] == (-5.0, -5.0)
assert moved[1006] == (5.0, -5.0), "it behaves otherwise now"
END
