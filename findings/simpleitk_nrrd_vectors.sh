#!/usr/bin/env bash
# SimpleITK turns the grid of a NRRD in RAS to LPS, and leaves the vectors on it as they are.
#
# Guessed: a displacement field is stored in the space that its NRRD names; read into SimpleITK, whose world is LPS, both
# the grid and the vectors are turned, as SimpleITK does for NIfTI of intent 1006.
# Happens: origin and directions are turned. A vector of (1, 2, 3) stays (1, 2, 3), so that a field in
# right-anterior-superior moves points to the wrong side, and none says so. A measurement frame in the header changes
# nothing.
#
# SimpleITK 2.5.7, pynrrd 1.1.3, NumPy 2.2.6, November 2026
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet SimpleITK==2.5.7 pynrrd==1.1.3 numpy==2.2.6
venv/bin/python - <<'END'
import nrrd
import numpy as np
import SimpleITK as sitk

vectors = np.broadcast_to(np.array([1, 2, 3], np.float32)[:, None, None, None], (3, 4, 4, 4)).copy()
header = {
    "space": "right-anterior-superior",
    "kinds": ["vector", "domain", "domain", "domain"],
    "space directions": np.vstack([np.full(3, np.nan), np.eye(3)]),
    "space origin": np.array([10.0, 20.0, 30.0]),
}
seen = []
for more in ({}, {"measurement frame": np.eye(3)}):
    nrrd.write("field.nrrd", vectors, header | more)
    image = sitk.ReadImage("field.nrrd")
    seen.append((image.GetOrigin(), image[0, 0, 0]))
print("SimpleITK", sitk.Version_VersionString())
print("origin (10, 20, 30) and vector (1, 2, 3) in RAS: expected (-10, -20, 30) and (-1, -2, 3), seen", *seen)
assert seen == [((-10.0, -20.0, 30.0), (1.0, 2.0, 3.0))] * 2, "it behaves otherwise now"
END
