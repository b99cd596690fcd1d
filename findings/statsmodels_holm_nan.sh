#!/usr/bin/env bash
# statsmodels adjusts p values for tests that were never made.
#
# Guessed: a p value that is NaN, of a test that could not be made, is no test: Holm adjusts the other two for two.
# Happens: it counts as one. 0.01 and 0.04 beside a NaN become 0.03 and 0.08 instead of 0.02 and 0.04, and nothing says so:
# at 5 % the second is no longer refused.
#
# statsmodels 0.15.0, SciPy 1.17.1, NumPy 2.4.6, November 2026
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet statsmodels==0.15.0 scipy==1.17.1 numpy==2.4.6
venv/bin/python - <<'END'
import numpy as np
import statsmodels
from statsmodels.stats.multitest import multipletests

seen = [round(float(p), 4) for p in multipletests([0.01, np.nan, 0.04], method="holm")[1]]
print("statsmodels", statsmodels.__version__)
print("Holm of 0.01, NaN, 0.04: expected 0.02, NaN, 0.04; seen", seen)
assert (seen[0], seen[2]) == (0.03, 0.08), "it behaves otherwise now"
END
