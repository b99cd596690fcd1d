#!/usr/bin/env bash
# NiTransforms writes warps for FSL that hold only where both images lie on one grid along the axes of the world.
#
# Guessed: a displacement field in millimetres is converted to FSL's convention, which counts along the edges of both
# images, by their grids, so that fslpy, FSL's own library, takes points to the same places; at most images stored from
# right to left go wrong.
# Happens: those are right. But where the moving image begins elsewhere, all points are off by as much, and where the
# grids are turned to the world, the vectors are not. Nothing is said.
#
# nitransforms 25.1.0, fslpy 3.29.1, nibabel 5.4.2, NumPy 2.2.6, November 2026
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet nitransforms==25.1.0 fslpy==3.29.1 nibabel==5.4.2 numpy==2.2.6
venv/bin/python - <<'END_OF_PYTHON'
import fsl.version
import nibabel
import nitransforms
import numpy as np
from fsl.data.image import Image
from fsl.transform.fnirt import readFnirt

along = np.array([4.0, -2.0, 3.0])  # RAS millimetres, from each point of the fixed image to the moving one
right, left, turned = np.diag([2.0, 2, 2, 1]), np.diag([-2.0, 2, 2, 1]), np.eye(4)
angle = np.radians(20)
turned[:2, :2] = 2 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
turned[2, 2] = 2
elsewhere = right.copy()
elsewhere[:3, 3] = 10, 0, 0
off = {}
for name, fixed, moving in (
    ("one grid, x to the right", right, right),
    ("one grid, x to the left", left, left),
    ("moving begins 10 mm further right", right, elsewhere),
    ("one grid, turned by 20 degrees", turned, turned),
):
    for image, affine in (("fixed", fixed), ("moving", moving)):
        nibabel.save(nibabel.Nifti1Image(np.zeros((12, 12, 12), np.float32), affine), f"{image}.nii.gz")
    vectors = np.broadcast_to(along.astype(np.float32), (12, 12, 12, 3)).copy()
    field = nitransforms.nonlinear.DenseFieldTransform(nibabel.Nifti1Image(vectors, fixed), is_deltas=True)
    point = nibabel.affines.apply_affine(fixed, [[5, 6, 7]])
    assert np.allclose(field.map(point) - point, along, atol=1e-4)
    field.to_filename("warp.nii.gz", fmt="fsl", moving="moving.nii.gz")
    warp = readFnirt("warp.nii.gz", Image("moving.nii.gz"), Image("fixed.nii.gz"), intent=2006, defType="relative")
    off[name] = round(float(np.linalg.norm(warp.transform(point, "world", "world") - point - along)), 2)
print("nitransforms", nitransforms.__version__, "fslpy", fsl.version.__version__)
for name, mm in off.items():
    print(f"{name}: {mm} mm off")
assert off["one grid, x to the right"] == off["one grid, x to the left"] == 0
assert off["moving begins 10 mm further right"] == 10, "it behaves otherwise now"
assert off["one grid, turned by 20 degrees"] > 1, "it behaves otherwise now"
END_OF_PYTHON
