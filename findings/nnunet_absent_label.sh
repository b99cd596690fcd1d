#!/usr/bin/env bash
# nnU-Net's mean over the foreground is NaN as soon as one label occurs in no case.
#
# Guessed: a label that is in no reference and no prediction is left out of foreground_mean, as a case without it is
# left out of the label's own mean.
# Happens: the label's mean is NaN, and foreground_mean, which is a plain mean over labels, with it. A small test set
# without one rare structure has no result.
#
# nnunetv2 2.8.1, PyTorch 2.13.0, SimpleITK 2.5.7, November 2026
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet nnunetv2==2.8.1 torch==2.13.0 SimpleITK==2.5.7 nibabel==5.4.2
venv/bin/python - <<'END'
import json
import os
import subprocess
from importlib.metadata import version
from pathlib import Path

import nibabel
import numpy as np

mask = np.zeros((16, 16, 16), np.uint8)
mask[4:8, 4:8, 4:8] = 1
for folder in ("reference", "prediction"):
    for case in ("one", "two"):
        Path(folder).mkdir(exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(mask, np.eye(4)), f"{folder}/{case}.nii.gz")
places = dict.fromkeys(("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"), str(Path.cwd()))
command = ["venv/bin/nnUNetv2_evaluate_simple", "reference", "prediction", "-l", "1", "2"]
subprocess.run(command, check=True, capture_output=True, env=os.environ | places)
summary = json.loads(Path("prediction/summary.json").read_text())
seen = summary["mean"]["1"]["Dice"], summary["foreground_mean"]["Dice"]
print("nnunetv2", version("nnunetv2"))
print(f"Dice {seen[0]} for label 1, label 2 nowhere: expected foreground_mean 1.0, seen {seen[1]}")
assert seen[0] == 1.0
assert np.isnan(seen[1]), "it behaves otherwise now"
END
