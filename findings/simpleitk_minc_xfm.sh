#!/usr/bin/env bash
# SimpleITK writes its LPS numbers into .xfm files of MINC, whose world is RAS.
#
# Guessed: a transform written as .xfm means in MINC's tools what it means in SimpleITK, turned to RAS as MINC's images
# are, if perhaps in the other direction.
# Happens: the numbers of an affine map, and the vectors of a field, are written as they are. mincresample moves a blob
# by them to a place that is mirrored left to right and front to back, and asking it for the inverse does not help.
#
# SimpleITK 2.5.7, minc-tools 2.3.00 (apt install minc-tools), nibabel 5.3.2, NumPy 2.2.6, h5py 3.13.0, November 2026
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
command -v mincresample >/dev/null || { echo "no mincresample: apt install minc-tools" >&2; exit 2; }
python3 -m venv venv
venv/bin/pip install --quiet SimpleITK==2.5.7 nibabel==5.3.2 numpy==2.2.6 h5py==3.13.0
venv/bin/python - <<'END_OF_PYTHON'
import subprocess

import nibabel
import numpy as np
import SimpleITK as sitk

image = sitk.Image(24, 24, 24, sitk.sitkFloat32)
image.SetSpacing((2, 2, 2))
image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))  # the axes of RAS, voxel 12 in the world's origin
image.SetOrigin((24, 24, -24))
image[12, 12, 12] = 100
image = sitk.DiscreteGaussian(image, 9.0)
sitk.WriteImage(image, "image.nii")
subprocess.run(["nii2mnc", "image.nii", "image.mnc"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def centre(name):
    found = nibabel.load(name)
    array = np.asarray(found.dataobj, float)
    index = np.argwhere(array > array.max() / 5)
    weights = array[tuple(index.T)]
    middle = (index * weights[:, None]).sum(0) / weights.sum()
    return tuple(float(mm) + 0.0 for mm in np.round(nibabel.affines.apply_affine(found.affine, middle), 1))


affine = sitk.AffineTransform(3)
affine.SetTranslation((-6.0, -4.0, 2.0))  # LPS; images are pulled by it, so that the blob moves by (6, 4, -2) in LPS
vectors = sitk.GetImageFromArray(np.broadcast_to([-6.0, -4.0, 2.0], (24, 24, 24, 3)).copy(), isVector=True)
vectors.CopyInformation(image)
sitk.WriteImage(sitk.Resample(image, image, affine), "pulled.nii")
print("SimpleITK", sitk.Version_VersionString())
print("RAS mm of the blob, before", centre("image.mnc"), "and after SimpleITK", centre("pulled.nii"))
assert centre("image.mnc") == (0, 0, 0) and centre("pulled.nii") == (-6, -4, -2)
for name, transform in (("affine", affine), ("field", sitk.DisplacementFieldTransform(vectors))):
    sitk.WriteTransform(transform, f"{name}.xfm")
    seen = []
    for options in ([], ["-invert_transformation"]):
        command = ["mincresample", "-quiet", "-clobber", *options, "-transformation", f"{name}.xfm"]
        subprocess.run([*command, "-like", "image.mnc", "image.mnc", "moved.mnc"], check=True)
        seen.append(centre("moved.mnc"))
    print(name, "by mincresample, as it is and inverted:", *seen)
    assert seen == [(-6, -4, 2), (6, 4, -2)], "it behaves otherwise now"
END_OF_PYTHON
