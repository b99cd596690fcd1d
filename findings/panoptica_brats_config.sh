#!/usr/bin/env bash
# panoptica's bundled configuration for BraTS knows no regions, and finds a tumour whatever its label.
#
# Guessed: panoptica_evaluator_BRATS.yaml evaluates whole tumour, tumour core and enhancing tumour, or at least each
# label on its own.
# Happens: it has no groups. All labels go into one list of instances, which are matched by their voxels alone: a
# prediction that calls the core oedema and the oedema core has panoptic quality 1.
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
from pathlib import Path

import numpy as np
import panoptica

config = Path(panoptica.__file__).parent / "configs" / "panoptica_evaluator_BRATS.yaml"
reference = np.zeros((24, 24, 24), np.uint8)
reference[2:8, 2:8, 2:8] = 1
reference[12:20, 12:20, 12:20] = 2
swapped = np.array([0, 2, 1], np.uint8)[reference]
with contextlib.redirect_stdout(io.StringIO()):
    result = panoptica.Panoptica_Evaluator.load_from_config(str(config)).evaluate(swapped, reference)
seen = {group: (scores.to_dict()["pq"], scores.to_dict()["global_bin_dsc"]) for group, scores in result.items()}
print("panoptica", version("panoptica"))
print("labels 1 and 2 exchanged: expected panoptic quality and Dice 0 in groups of their own, seen", seen)
assert seen == {"ungrouped": (1.0, 1.0)}, "it behaves otherwise now"
END
