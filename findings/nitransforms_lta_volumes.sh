#!/usr/bin/env bash
# NiTransforms writes .lta files of FreeSurfer with the two volumes exchanged.
#
# Guessed: an affine map from fixed to moving image, written with `moving=` and read by FreeSurfer's own Python library,
# resamples the moving image onto the fixed one.
# Happens: the matrix is right (FreeSurfer's goes from the moving "src" to the fixed "dst", so it is the inverse), but
# "src volume info" holds the fixed image's grid and "dst volume info" the moving one's. surfa, which resamples onto the
# grid of dst, gives an image on the grid of the moving image that it came from.
#
# nitransforms 25.1.0, surfa 0.6.3, nibabel 5.3.2, NumPy 2.2.6, November 2026
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet nitransforms==25.1.0 surfa==0.6.3 nibabel==5.3.2 numpy==2.2.6
venv/bin/python - <<'END_OF_PYTHON'
import nibabel
import nitransforms
import numpy as np
import surfa

rng = np.random.default_rng(0)
nibabel.save(nibabel.Nifti1Image(rng.random((20, 22, 24), np.float32), np.diag([2.0, 2.0, 2.0, 1.0])), "fixed.nii.gz")
nibabel.save(nibabel.Nifti1Image(rng.random((30, 32, 34), np.float32), np.diag([1.5, 1.5, 1.5, 1.0])), "moving.nii.gz")
fixed_to_moving = np.eye(4)
fixed_to_moving[:3, 3] = 1, 2, 3
affine = nitransforms.linear.Affine(fixed_to_moving, reference="fixed.nii.gz")
affine.to_filename("t.lta", fmt="fs", moving="moving.nii.gz")
lta = surfa.load_affine("t.lta")
moved = surfa.load_volume("moving.nii.gz").transform(lta)
print("nitransforms", nitransforms.__version__, "surfa", surfa.__version__)
print("matrix, fixed to moving (1, 2, 3):", lta.matrix[:3, 3])
print("src, expected the moving grid (30, 32, 34):", *lta.source.shape)
print("dst, expected the fixed grid (20, 22, 24):", *lta.target.shape)
print("the moving image resampled by it is", tuple(moved.baseshape))
assert np.allclose(lta.matrix, np.linalg.inv(fixed_to_moving))
assert tuple(lta.source.shape) == (20, 22, 24) and tuple(lta.target.shape) == (30, 32, 34), "it behaves otherwise now"
assert tuple(moved.baseshape) == (30, 32, 34), "it behaves otherwise now"
END_OF_PYTHON
