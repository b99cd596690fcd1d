#!/usr/bin/env bash
# greedy applies something else than the transform, and says nothing, where it is given ITK's binary affine map or composite.
#
# Guessed: greedy, whose options look like those of ANTs, refuses ITK's transforms or reads them, by text or binary alike.
# Happens: an affine map as .tfm (text) is read. The same map as .mat, as ANTs writes 0GenericAffine.mat, and as .h5 moves
# the image to another place; so does a composite of two affine maps as .tfm. Exit code 0 each time.
#
# picsl-greedy 1.4.0.3, SimpleITK 2.5.7, NumPy 2.2.6, November 2026
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet picsl-greedy==1.4.0.3 SimpleITK==2.5.7 numpy==2.2.6
venv/bin/python - <<'END_OF_PYTHON'
import numpy as np
import SimpleITK as sitk

rng = np.random.default_rng(0)
image = sitk.GetImageFromArray(rng.random((20, 20, 20)).astype(np.float32))
image.SetOrigin((-10.0, -10.0, -10.0))
image = sitk.DiscreteGaussian(image, 2.0)
sitk.WriteImage(image, "image.nii.gz")
affine = sitk.AffineTransform(3)
affine.SetTranslation((2.0, 1.0, 3.0))
for name in ("affine.tfm", "affine.mat", "affine.h5"):
    sitk.WriteTransform(affine, name)
sitk.WriteTransform(sitk.CompositeTransform([affine, affine]), "twice.tfm")
END_OF_PYTHON
for name in affine.tfm affine.mat affine.h5 twice.tfm; do
    venv/bin/python -c "
from picsl_greedy import Greedy3D
Greedy3D().execute('-threads 1 -rf image.nii.gz -ri LINEAR -rm image.nii.gz $name.nii.gz -r $name')" >/dev/null
done
venv/bin/python - <<'END_OF_PYTHON'
from importlib.metadata import version

import numpy as np
import SimpleITK as sitk

image, inside, off = sitk.ReadImage("image.nii.gz"), (slice(7, 13),) * 3, {}
for name in ("affine.tfm", "affine.mat", "affine.h5", "twice.tfm"):
    ours = sitk.GetArrayFromImage(sitk.Resample(image, sitk.ReadTransform(name)))[inside]
    theirs = sitk.GetArrayFromImage(sitk.ReadImage(f"{name}.nii.gz"))[inside]
    off[name] = float(np.abs(ours - theirs).max() / np.ptp(ours))
print("picsl-greedy", version("picsl-greedy"), "SimpleITK", sitk.Version_VersionString())
print("worst voxel inside, as a share of the range:", {name: round(share, 3) for name, share in off.items()})
assert off["affine.tfm"] < 1e-4
assert min(off[name] for name in ("affine.mat", "affine.h5", "twice.tfm")) > 0.2, "it behaves otherwise now"
END_OF_PYTHON
