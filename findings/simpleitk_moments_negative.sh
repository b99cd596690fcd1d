#!/usr/bin/env bash
# SimpleITK's CenteredTransformInitializer in its mode MOMENTS is off by centimetres on CT in Hounsfield units.
#
# Guessed: MOMENTS lays the centre of one patient on that of the other. The bodies are what is bright, so the transform
# takes the centre of the one to the centre of the other.
# Happens: centres of mass count intensities as they are, negative ones too. Air of -1024 outweighs the body, and its
# centre lies on the other side of the grid's. Two bodies 20 mm apart are moved the wrong way, and end up farther apart
# than before. With 1024 added to both images the centres meet.
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

bodies = np.full((2, 60, 60, 60), -1024, np.float32)
bodies[0, 10:30, 10:30, 10:30] = bodies[1, 30:50, 10:30, 10:30] = 0  # water, centres at 19.5 and 39.5 mm along z


def taken_to(added):
    fixed, moving = (sitk.GetImageFromArray(body + added) for body in bodies)
    mode = sitk.CenteredTransformInitializerFilter.MOMENTS
    start = sitk.CenteredTransformInitializer(fixed, moving, sitk.Euler3DTransform(), mode)
    return round(start.TransformPoint((19.5, 19.5, 19.5))[2], 1)


seen = taken_to(0), taken_to(1024)
print("SimpleITK", sitk.Version_VersionString())
print(f"the centre of a body at 19.5 mm, of one at 39.5 mm: expected at 39.5, seen at {seen[0]}; 1024 added, at {seen[1]}")
assert seen[1] == 39.5
assert seen[0] < 19.5, "it behaves otherwise now"
END
