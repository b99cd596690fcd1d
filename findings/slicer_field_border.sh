#!/usr/bin/env bash
# 3D Slicer goes on beyond the border of a displacement field with the vectors at it, where SimpleITK and ANTs stop.
#
# Guessed: Slicer, which is built on ITK, moves a point outside of a field's grid as ITK does: not at all.
# Happens: the vector of the nearest voxel at the border counts, however far away the point is. A field around one organ
# leaves all else where it is in SimpleITK, ANTs and plastimatch, and drags it along in Slicer.
#
# slicer-core 5.13.31053.0, SimpleITK 2.5.7, NumPy 2.2.6, November 2026
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet slicer-core==5.13.31053.0 SimpleITK==2.5.7 numpy==2.2.6
venv/bin/python - <<'END_OF_PYTHON'
from importlib.metadata import version
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import slicer
import vtk

vectors = np.broadcast_to([10.0, 0.0, 0.0], (11, 11, 11, 3)).copy()  # LPS: 10 mm to the left
image = sitk.GetImageFromArray(vectors, isVector=True)
image.SetSpacing((4, 4, 4))
itk = sitk.DisplacementFieldTransform(image)
sitk.WriteTransform(itk, "field.h5")
scene = slicer.vtkMRMLScene()
storage, node = slicer.vtkMRMLTransformStorageNode(), slicer.vtkMRMLTransformNode()
scene.AddNode(storage)
scene.AddNode(node)
storage.SetFileName(str(Path("field.h5").resolve()))
assert storage.ReadData(node)
pull = vtk.vtkGeneralTransform()
node.GetTransformFromWorld(pull)
seen = {}
for mm in (20.0, 60.0, 300.0):  # the grid ends at 40 mm, its last voxel at 42
    left = itk.TransformPoint((mm, 20.0, 20.0))[0] - mm
    seen[mm] = round(left, 3), round(-pull.TransformPoint((-mm, -20.0, 20.0))[0] - mm, 3)
print("slicer-core", version("slicer-core"), "SimpleITK", sitk.Version_VersionString())
print("millimetres to the left at x, by SimpleITK and by Slicer:", seen)
assert seen[20.0] == (10, 10)
assert seen[60.0] == seen[300.0] == (0, 10), "it behaves otherwise now"
END_OF_PYTHON
