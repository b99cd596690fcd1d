#!/usr/bin/env bash
# ants.registration takes random_seed= without a word, and ignores it, as it does any argument that it does not know.
#
# Guessed: two registrations with random_seed=1 on one thread give the same transform.
# Happens: they differ as two without a seed do. What has no place in the signature ends in **kwargs, unread. The seed
# counts in the environment (ANTS_RANDOM_SEED), or by ants.config.set_ants_deterministic before the first filter runs.
#
# antspyx 0.6.3, NumPy 2.2.6, November 2026
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS=1
python3 -m venv venv
venv/bin/pip install --quiet antspyx==0.6.3 numpy==2.2.6
cat >twice.py <<'END_OF_PYTHON'
import sys
from importlib.metadata import version

import ants
import numpy as np


def blobs(shift):
    places = np.stack(np.meshgrid(*map(np.arange, (40, 36, 34)), indexing="ij"), -1) - np.array(shift)
    centres = np.random.default_rng(1).uniform(3, 36, (60, 3))
    return ants.from_numpy(sum(np.exp(-((places - each) ** 2).sum(-1) / 18) for each in centres).astype("float32"))


fixed, moving = blobs((0, 0, 0)), blobs((2.0, -1.5, 1.0))
options = dict(word.split("=") for word in sys.argv[1:])
fields = []
for _ in range(2):
    found = ants.registration(fixed, moving, "SyN", reg_iterations=(10, 5), **options)
    fields.append(ants.image_read(found["fwdtransforms"][0]).numpy())
differ = float(np.abs(fields[0] - fields[1]).max())
print(f"antspyx {version('antspyx')} {options}: fields of two runs differ by up to {differ:.3f} mm", file=sys.stderr)
print(int(differ > 0))
END_OF_PYTHON
by_argument=$(venv/bin/python twice.py random_seed=1)
by_nonsense=$(venv/bin/python twice.py no_such_argument=1)
by_environment=$(ANTS_RANDOM_SEED=1 venv/bin/python twice.py)
[ "$by_environment" = 0 ]
[ "$by_argument" = 1 ] && [ "$by_nonsense" = 1 ] || { echo "it behaves otherwise now" >&2; exit 1; }
