#!/usr/bin/env bash
# panoptica applies the spacing of image files to the axes in reverse.
#
# Guessed: a mask shifted by one voxel across slices of 5 mm is 5 mm away, whether panoptica is given files, SimpleITK
# images, nibabel images, or arrays and a spacing.
# Happens: for files and SimpleITK images, arrays are in z, y, x and the spacing in x, y, z: the shift across slices is
# 1 mm, the same shift within a slice 5 mm. Distances and surface Dice per instance are wrong on every grid that is not
# isotropic, also in tools that hand files on, such as brats-evaluation. nibabel images and arrays are right.
#
# panoptica 2.1.7, SimpleITK 2.5.7, nibabel 5.4.2, NumPy 2.2.6, November 2026
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet panoptica==2.1.7 SimpleITK==2.5.7 nibabel==5.4.2 numpy==2.2.6
venv/bin/python - <<'END'
import contextlib
import io
from importlib.metadata import version

import nibabel
import numpy as np
from panoptica import ConnectedComponentsInstanceApproximator, InputType, NaiveThresholdMatching, Panoptica_Evaluator
from panoptica.metrics import Metric

spacing_mm = (1.0, 1.0, 5.0)
reference = np.zeros((20, 20, 20), np.uint8)
reference[4:10, 4:10, 4:10] = 1


def save(array, name):
    nibabel.save(nibabel.Nifti1Image(array, np.diag((*spacing_mm, 1))), name)
    return name


evaluator = Panoptica_Evaluator(
    expected_input=InputType.SEMANTIC,
    instance_approximator=ConnectedComponentsInstanceApproximator(),
    instance_matcher=NaiveThresholdMatching(),
    instance_metrics=[Metric.HD],
    global_metrics=[],
)
print("panoptica", version("panoptica"))
save(reference, "reference.nii.gz")
seen = {}
for axis, step_mm in enumerate(spacing_mm):
    save(np.roll(reference, 1, axis), "prediction.nii.gz")
    names = ("prediction.nii.gz", "reference.nii.gz")
    for kind, images in (("files", names), ("nibabel", [nibabel.load(name) for name in names])):
        with contextlib.redirect_stdout(io.StringIO()):
            result = evaluator.evaluate(*images)["ungrouped"].to_dict()
        seen[kind, axis] = result["sq_hd"]
        print(f"{kind:8} shift by a voxel along axis {axis}: expected {step_mm} mm, seen {result['sq_hd']} mm")
assert [seen["nibabel", axis] for axis in range(3)] == [1, 1, 5]
assert [seen["files", axis] for axis in range(3)] == [5, 1, 1], "it behaves otherwise now"
END
