#!/usr/bin/env bash
# SimpleITK's Jacobian determinant of a displacement field takes no notice of the image's direction.
#
# Guessed: with the image's spacing in use (the default), DisplacementFieldJacobianDeterminant gives the determinant of
# the map x -> x + u(x) in millimetres, wherever the axes of the grid point. A map that shrinks everything to 0.8 of its
# length has 0.512, one that turns left and right inside out at half the length -0.5.
# Happens: vectors are in LPS millimetres and derivatives along the axes of the array. Where those axes are LPS it is
# 0.512 and -0.5; on a grid in RAS, as many NIfTI files have it, shrinking along x and y counts as growing, 1.152, and
# what folds counts as stretched, 2.5. Percentages of folded voxels depend on how an image is stored.
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


def determinant(direction, factors):
    grid = sitk.Image([9, 9, 9], sitk.sitkFloat32)
    grid.SetDirection(direction)
    grid.SetOrigin([-4 * sum(direction[3 * row : 3 * row + 3]) for row in range(3)])
    to_field = sitk.TransformToDisplacementFieldFilter()
    to_field.SetReferenceImage(grid)
    field = to_field.Execute(sitk.ScaleTransform(3, factors))
    return round(float(sitk.DisplacementFieldJacobianDeterminant(field)[4, 4, 4]), 6)


lps, ras = (1, 0, 0, 0, 1, 0, 0, 0, 1), (-1, 0, 0, 0, -1, 0, 0, 0, 1)
print("SimpleITK", sitk.Version_VersionString())
shrunk = [determinant(direction, (0.8, 0.8, 0.8)) for direction in (lps, ras)]
print(f"everything to 0.8 of its length, grids in LPS and RAS: expected [0.512, 0.512], seen {shrunk}")
folded = [determinant(direction, (-0.5, 1.0, 1.0)) for direction in (lps, ras)]
print(f"left and right turned inside out, by -0.5: expected [-0.5, -0.5], seen {folded}")
assert shrunk == [0.512, 1.152], "it behaves otherwise now"
assert folded == [-0.5, 2.5], "it behaves otherwise now"
END
