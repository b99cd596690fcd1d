#!/usr/bin/env bash
# panoptica counts an overlap of exactly one half as found; the definition of panoptic quality does not.
#
# Guessed: a match needs IoU > 0.5, which makes it unique (Kirillov et al., CVPR 2019, section 4.1), as in MONAI.
# Happens: IoU >= 0.5 matches. Small lesions meet one half often, one voxel of two, two of four, and a lesion that
# other tools count as missed, with a false one beside it, is found.
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
reference = np.zeros((16, 16, 16), np.uint8)
prediction = reference.copy()
reference[4, 4, 4:6] = 1
prediction[4, 4, 4] = 1
with contextlib.redirect_stdout(io.StringIO()):
    result = evaluator.evaluate(prediction, reference)["ungrouped"].to_dict()
print("panoptica", version("panoptica"))
print("one voxel found of a lesion of two: expected recognition quality 0, seen", result["rq"])
assert (result["tp"], result["rq"], result["pq"]) == (1, 1.0, 0.5), "it behaves otherwise now"
END
