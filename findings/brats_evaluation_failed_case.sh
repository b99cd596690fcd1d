#!/usr/bin/env bash
# brats-evaluation leaves a case that it cannot evaluate out of the mean, though a missing one counts 0.
#
# Guessed: a prediction that cannot be evaluated, here for a label that the challenge does not know, counts like one
# that is missing (Dice 0), or the command fails.
# Happens: the reason stands in the JSON file, both commands end with exit code 0, and the table and its mean are those
# of the other cases. Of three cases, one perfect, one missing, one with an unknown label, the mean Dice is 1/2 and not
# 1/3.
#
# brats-evaluation 0.0.10, panoptica 2.1.7, NumPy 2.2.6, November 2026
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet brats-evaluation==0.0.10 panoptica==2.1.7 nibabel==5.4.2 numpy==2.2.6
venv/bin/python - <<'END'
import csv
import subprocess
from importlib.metadata import version
from pathlib import Path

import nibabel
import numpy as np

tumour = np.zeros((32, 32, 32), np.uint8)
tumour[4:10, 4:10, 4:10] = 3
unknown = tumour.copy()
unknown[20:23, 20:23, 20:23] = 9
predictions = {"00001": tumour, "00002": unknown}
for number in ("00001", "00002", "00003"):
    for folder, mask in (("reference", tumour), ("prediction", predictions.get(number))):
        Path(folder).mkdir(exist_ok=True)
        if mask is not None:
            nibabel.save(nibabel.Nifti1Image(mask, np.eye(4)), f"{folder}/BraTS-GLI-{number}-000.nii.gz")
evaluate = "venv/bin/brats-evaluate --config gli --ref_path reference --pred_path prediction --summary_json out.json"
parse = "venv/bin/brats-parse-metrics seg --json_path out.json --output_csv_path out.csv"
for command in (evaluate, parse):
    subprocess.run(command.split(), check=True, capture_output=True)
rows = {row["subject_id"]: row["global_dsc_et"] for row in csv.DictReader(Path("out.csv").read_text().splitlines())}
print("brats-evaluation", version("brats-evaluation"))
print("enhancing tumour, Dice of three cases: expected 1, 0, 0 and mean 0.333, seen", rows)
assert "BraTS-GLI-00002-000.nii.gz" not in rows, "it behaves otherwise now"
assert float(rows["mean"]) == 0.5, "it behaves otherwise now"
END
