#!/usr/bin/env bash
# SciPy's BCa interval of a mean depends on the unit when values are rounded.
#
# Guessed: the interval of ten times the values is ten times the interval, with the same seed.
# Happens: BCa counts the draws whose mean lies below and at the mean of the sample. Draws with the same mean in another
# order are summed to numbers that differ in the last bit, in tenths but not in whole numbers, and count as below or above.
# With few values rounded to one decimal a bound jumps to another draw: 0.64 in place of 0.66. Means rounded to 12 decimals
# inside the statistic are equal again.
#
# SciPy 1.17.1, NumPy 2.4.6, November 2026
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet scipy==1.17.1 numpy==2.4.6
venv/bin/python - <<'END'
import numpy as np
import scipy
from scipy.stats import bootstrap

tenths = np.array([6.0, 7.0, 9.0, 9.0, 8.0])


def lower(values, statistic=np.mean):
    return bootstrap((values,), statistic, n_resamples=9999, rng=0).confidence_interval.low


def rounded(values, axis):
    return np.mean(values, axis=axis).round(12)


seen = [round(float(low), 4) for low in (lower(tenths) / 10, lower(tenths / 10), lower(tenths / 10, rounded))]
print("SciPy", scipy.__version__)
print("lower bound in tenths / 10, in units, in units with rounded means: expected the same, seen", seen)
assert seen == [0.66, 0.64, 0.66], "it behaves otherwise now"
END
