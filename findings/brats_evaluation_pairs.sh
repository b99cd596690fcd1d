#!/usr/bin/env bash
# brats-evaluation pairs files by the number in their names alone.
#
# Guessed: two folders with the same names are paired by name, and cohorts whose cases bear the same number, such as
# GLI and MET in the generalisability task, are kept apart.
# Happens: a prediction belongs to a reference when its name ends in the reference's number, so one of two equal
# numbers is compared with the other's prediction, and which one depends on the order in which the file system lists
# them.
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

for cohort, start in (("GLI", 4), ("MET", 20)):
    tumour = np.zeros((32, 32, 32), np.uint8)
    tumour[start : start + 6, 4:10, 4:10] = 3
    for folder in ("reference", "prediction"):
        Path(folder).mkdir(exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(tumour, np.eye(4)), f"{folder}/BraTS-{cohort}-00001-000.nii.gz")
evaluate = "venv/bin/brats-evaluate --config GoAT --ref_path reference --pred_path prediction --summary_json out.json"
parse = "venv/bin/brats-parse-metrics seg --json_path out.json --output_csv_path out.csv"
for command in (evaluate, parse):
    subprocess.run(command.split(), check=True, capture_output=True)
rows = {row["subject_id"]: row["global_dsc_et"] for row in csv.DictReader(Path("out.csv").read_text().splitlines())}
print("brats-evaluation", version("brats-evaluation"))
print("predictions that are copies of the references: expected Dice 1 and 1, seen", rows)
assert sorted(float(dice) for name, dice in rows.items() if "BraTS" in name) == [0, 1], "it behaves otherwise now"
END
