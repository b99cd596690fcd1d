#!/usr/bin/env bash
# scikit-image 0.26 removes objects of exactly min_size, which 0.25 kept.
#
# Guessed: remove_small_objects(mask, min_size=4) keeps an object of 4 voxels; the new name max_size has another
# meaning, the old one, which is deprecated, keeps its own until it goes, as its warning and description say.
# Happens: in 0.26.0 the value is passed on as max_size, and objects of 4 voxels go too. Code with min_size=1, which
# did nothing, now removes lesions of one voxel.
#
# scikit-image 0.25.2 and 0.26.0, NumPy 2.2.6, November 2026
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat > left.py <<'END'
import sys
import warnings

import numpy as np
import skimage
from skimage.morphology import remove_small_objects

mask = np.zeros((9, 9), bool)
mask[1, 1] = True
mask[3:5, 3:5] = True
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    seen = [int(remove_small_objects(mask, min_size=size).sum()) for size in (1, 4)]
print("scikit-image", skimage.__version__, *(str(told[0].message).split("Note")[1:] if told else ()))
print("objects of 1 and 4 voxels, what is left with min_size 1 and 4: expected [5, 4], seen", seen)
assert str(seen) == sys.argv[1], "it behaves otherwise now"
END
python3 -m venv venv
venv/bin/pip install --quiet scikit-image==0.25.2 numpy==2.2.6
venv/bin/python left.py '[5, 4]'
venv/bin/pip install --quiet scikit-image==0.26.0 numpy==2.2.6
venv/bin/python left.py '[4, 0]'
