#!/usr/bin/env bash
# SimpleITK's ball of radius r reaches beyond r.
#
# Guessed: dilating one voxel by a ball of radius 1 gives it and its 6 neighbours, 7 voxels; radius 2 gives 33.
# Happens: 19 and 81. The ball is drawn as one of diameter 2 r + 1 voxels, so offsets up to about r + 0.5 are in it. A
# rim of "2 voxels" around lesions, and what merges within it, is another one than in scikit-image.
#
# SimpleITK 2.5.7, scikit-image 0.26.0, NumPy 2.2.6, November 2026
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet SimpleITK==2.5.7 scikit-image==0.26.0 numpy==2.2.6
venv/bin/python - <<'END'
import numpy as np
import SimpleITK as sitk
import skimage

mask = np.zeros((15, 15, 15), np.uint8)
mask[7, 7, 7] = 1
image = sitk.GetImageFromArray(mask)
radii = (1, 2, 5)
seen = [int(sitk.GetArrayFromImage(sitk.BinaryDilate(image, [r] * 3, sitk.sitkBall)).sum()) for r in radii]
other = [int(skimage.morphology.ball(r).sum()) for r in radii]
print("SimpleITK", sitk.Version_VersionString(), "scikit-image", skimage.__version__)
print(f"one voxel dilated by balls of radius {radii}: expected {other}, as in scikit-image, seen {seen}")
assert other == [7, 33, 515]
assert seen == [19, 81, 739], "it behaves otherwise now"
END
