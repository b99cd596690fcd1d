#!/usr/bin/env bash
# MONAI's DiceMetric takes probabilities for masks, in one way with one channel and in another with several.
#
# Guessed: probabilities of 0.4 inside the reference give a soft Dice of about 0.57 (its description says that soft
# labels are permitted), or an error.
# Happens: with one channel only voxels of exactly 1 count, and Dice is 0; with two channels everything that is not 0
# counts, and Dice is 1. After a sigmoid, nothing is exactly 0, and every voxel of every channel counts. Nothing is
# said.
#
# MONAI 1.6.1, PyTorch 2.13.0, November 2026
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet monai==1.6.1 torch==2.13.0 "numpy<2.5"
venv/bin/python - <<'END'
import monai
import torch
from monai.metrics import DiceMetric

reference = torch.zeros(1, 1, 16, 16, 16)
reference[..., 4:12] = 1
probability = 0.4 * reference
both = [torch.cat([1 - mask, mask], dim=1) for mask in (probability, reference)]


def dice(prediction, reference):
    metric = DiceMetric(include_background=False)
    metric(prediction, reference)
    return metric.aggregate().item()


seen = dice(probability, reference), dice(*both)
print("MONAI", monai.__version__, "PyTorch", torch.__version__)
print(f"probability 0.4 inside, 0 outside: expected about 0.57, seen {seen[0]} in one channel, {seen[1]} in two")
assert seen == (0.0, 1.0), "it behaves otherwise now"
END
