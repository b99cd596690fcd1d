#!/usr/bin/env bash
# miseval rewards an empty prediction of an empty reference in Dice, and punishes it in IoU.
#
# Guessed: metrics that are functions of one another, Dice = 2 IoU / (1 + IoU), agree where both masks are empty.
# Happens: Dice is 1, IoU, sensitivity, precision and kappa are 0. A table of healthy cases that are segmented without
# a fault shows a Dice of 1 beside an IoU of 0.
#
# miseval 1.3.0, NumPy 2.2.6, November 2026
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet miseval==1.3.0 numpy==2.2.6
venv/bin/python - <<'END'
from importlib.metadata import version

import numpy as np
from miseval import evaluate

empty = np.zeros((8, 8, 8), int)
seen = {metric: float(evaluate(empty, empty, metric=metric)) for metric in ("DSC", "IoU", "SENS", "PREC")}
print("miseval", version("miseval"))
print("both masks empty: expected one value for all, seen", seen)
assert seen == {"DSC": 1.0, "IoU": 0.0, "SENS": 0.0, "PREC": 0.0}, "it behaves otherwise now"
END
