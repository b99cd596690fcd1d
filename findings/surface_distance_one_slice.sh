#!/usr/bin/env bash
# surface-distance closes a mask of one slice above and below.
#
# Guessed: in a volume of shape (1, 12, 12) the surface of a mask is its outline, as in 2D.
# Happens: the slice is padded, and the mask gets a lid and a floor, of which every part within both masks is at
# distance 0. A shift that puts half of the outline out of place has surface Dice 0.5 in 2D and 0.9 as one slice, and
# the mean distance falls from 0.5 to 0.1: the larger the mask, the better it looks.
#
# surface-distance 0.1, NumPy 2.2.6, November 2026
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet surface-distance==0.1 numpy==2.2.6
venv/bin/python - <<'END'
from importlib.metadata import version

import numpy as np
import surface_distance

reference = np.zeros((12, 12), bool)
reference[3:9, 3:9] = True
prediction = np.roll(reference, 1, axis=1)


def measured(*masks):
    distances = surface_distance.compute_surface_distances(*masks, [1.0] * masks[0].ndim)
    dice = surface_distance.compute_surface_dice_at_tolerance(distances, 0)
    return round(float(dice), 2), round(float(surface_distance.compute_average_surface_distance(distances)[0]), 2)


flat, slab = measured(reference, prediction), measured(reference[None], prediction[None])
print("surface-distance", version("surface-distance"))
print(f"surface Dice at 0 mm and mean distance: expected the same, seen {flat} as (12, 12), {slab} as (1, 12, 12)")
assert (flat, slab) == ((0.5, 0.5), (0.9, 0.1)), "it behaves otherwise now"
END
