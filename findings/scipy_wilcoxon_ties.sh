#!/usr/bin/env bash
# Pairs that SciPy's Wilcoxon test discards make its p value smaller.
#
# Guessed: with zero_method="wilcox", the default, equal pairs are dropped, so five differences among any number of ties are
# a test of five.
# Happens: the statistic is that of the five. How the p value is found depends on the number before dropping: above 13
# values with a tie it is the normal approximation, also where all but five are ties. Five gains of five, which cannot
# have a two-sided p value below 1/16, are "significant" as soon as nine equal pairs are added. The exact p value comes
# from dropping them before the call.
#
# SciPy 1.17.1, NumPy 2.4.6, November 2026
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet scipy==1.17.1 numpy==2.4.6
venv/bin/python - <<'END'
import scipy
from scipy.stats import wilcoxon

seen = [round(float(wilcoxon([1, 2, 3, 4, 5] + ties * [0]).pvalue), 4) for ties in (0, 8, 9)]
print("SciPy", scipy.__version__)
print("five gains and 0, 8, 9 equal pairs: expected p = 0.0625 three times, seen", seen)
assert seen == [0.0625, 0.0625, 0.0431], "it behaves otherwise now"
END
