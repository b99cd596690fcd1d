#!/usr/bin/env bash
# seg-metrics gives a structure that was missed altogether the distance of a perfect one.
#
# Guessed: with an empty prediction, or an empty reference, distances are infinite or NaN.
# Happens: Hausdorff distance, its 95th percentile and all mean distances are 0.0 mm, beside a Dice of 0. Their mean
# over cases gets better with every case that is missed.
#
# seg-metrics 1.2.8, SimpleITK 2.5.7, NumPy 2.2.6, November 2026
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet seg-metrics==1.2.8 SimpleITK==2.5.7 numpy==2.2.6 "setuptools<81"
venv/bin/python - <<'END'
import logging
from importlib.metadata import version

import numpy as np
import seg_metrics.seg_metrics as seg
import SimpleITK as sitk

logging.disable()
mask = np.zeros((16, 16, 16), np.uint8)
mask[4:8, 4:8, 4:8] = 1
images = {"reference": sitk.GetImageFromArray(mask), "prediction": sitk.GetImageFromArray(np.zeros_like(mask))}
scores = seg.write_metrics(
    labels=[1],
    gdth_img=images["reference"],
    pred_img=images["prediction"],
    metrics=["dice", "hd", "hd95", "msd"],
    verbose=False,
)
scores = scores[0] if isinstance(scores, list) else scores
seen = {name: float(scores[name][0]) for name in ("dice", "hd", "hd95", "msd")}
print("seg-metrics", version("seg-metrics"))
print("nothing predicted: expected dice 0 and distances infinite or NaN, seen", seen)
assert seen == {"dice": 0.0, "hd": 0.0, "hd95": 0.0, "msd": 0.0}, "it behaves otherwise now"
END
