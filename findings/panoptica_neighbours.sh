#!/usr/bin/env bash
# panoptica takes other neighbours in 2D than in 3D.
#
# Guessed: two voxels that touch at a corner are one instance, in a slice as in a volume.
# Happens: they are one in a volume (and in a volume of one slice) and two in a 2D array: with the backend left open, a
# volume goes to cc3d with 26 neighbours, a 2D array to SciPy with the 4 across an edge. Counts of lesions, and so
# panoptic quality, change with an axis of length 1.
#
# panoptica 2.1.7, NumPy 2.2.6, November 2026
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet panoptica==2.1.7 numpy==2.2.6
venv/bin/python - <<'END'
import contextlib
import io
from importlib.metadata import version

import numpy as np
from panoptica import ConnectedComponentsInstanceApproximator, InputType, NaiveThresholdMatching, Panoptica_Evaluator

evaluator = Panoptica_Evaluator(
    expected_input=InputType.SEMANTIC,
    instance_approximator=ConnectedComponentsInstanceApproximator(),
    instance_matcher=NaiveThresholdMatching(),
)


def instances(mask):
    with contextlib.redirect_stdout(io.StringIO()):
        return evaluator.evaluate(mask, mask)["ungrouped"].to_dict()["n_ref_instances"]


slice_ = np.eye(16, dtype=np.uint8) * (np.arange(16) < 2)
seen = instances(slice_), instances(slice_[None])
print("panoptica", version("panoptica"))
print(f"pixels touching at a corner: expected the same count, seen {seen[0]} as (16, 16), {seen[1]} as (1, 16, 16)")
assert seen == (2, 1), "it behaves otherwise now"
END
