#!/usr/bin/env bash
# MedPy's rates of found objects are those of the other array.
#
# Guessed: obj_tpr(result, reference) is the share of the objects in the reference that were found, and obj_fpr(result,
# reference) the share of those in the result that are in no place of the reference, as described, and as in the
# examples of its own documentation.
# Happens: they are the precision of the result and the share of missed objects. Three false objects beside a found one
# leave obj_fpr at 0; of the example in the documentation, 0.667 and 1.0 come out the other way round.
#
# MedPy 0.5.2, NumPy 2.2.6, November 2026
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet medpy==0.5.2 numpy==2.2.6
venv/bin/python - <<'END'
from importlib.metadata import version

import numpy as np
from medpy.metric.binary import obj_fpr, obj_tpr

result, reference = np.array([1, 0, 1, 0, 0]), np.array([1, 0, 1, 0, 1])
example = round(obj_tpr(result, reference), 3), round(obj_tpr(reference, result), 3)
print("MedPy", version("medpy"))
print("the documentation's example: expected obj_tpr (0.667, 1.0), seen", example)

found = np.array([1, 0, 0, 0, 0, 0, 0])
invented = np.array([1, 0, 1, 0, 1, 0, 1])
rates = obj_tpr(invented, found), obj_fpr(invented, found)
print("one object found and three invented: expected obj_tpr 1.0 and obj_fpr 0.75, seen", rates)
assert example == (1.0, 0.667), "it behaves otherwise now"
assert rates == (0.25, 0.0), "it behaves otherwise now"
END
