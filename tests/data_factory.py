"""Small data sets on disk, with an answer that can be learned in seconds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from medmamba import io
from medmamba.volume import Geometry, Volume

SHAPE = (20, 18, 16)
AFFINE = np.array([[-1.0, 0, 0, 30], [0, -1.0, 0, 20], [0, 0, 1.5, -10], [0, 0, 0, 1]])


def make_case(seed: int) -> tuple[Volume, Volume]:
    """A dim noisy image with a bright block (1) and a brighter core in it (2)."""
    rng = np.random.default_rng(seed)
    label = np.zeros(SHAPE, dtype=np.uint8)
    start = rng.integers(2, 6, size=3)
    block = tuple(slice(a, a + n) for a, n in zip(start, (9, 8, 7), strict=True))
    core = tuple(slice(a + 2, a + n - 2) for a, n in zip(start, (9, 8, 7), strict=True))
    label[block] = 1
    label[core] = 2
    image = 100.0 + 100.0 * label + rng.normal(0, 15, SHAPE)
    geometry = Geometry(SHAPE, AFFINE)
    return Volume(image[None].astype(np.float32), geometry), Volume(label[None], geometry)


def write_dataset(folder: Path, cases: int = 6) -> Path:
    """An nnU-Net raw data set of `make_case`."""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for seed in range(cases):
        image, label = make_case(seed)
        io.write(image, folder / "imagesTr" / f"case_{seed:02d}_0000.nii.gz")
        io.write(label, folder / "labelsTr" / f"case_{seed:02d}.nii.gz")
    facts = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, "block": 1, "core": 2},
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(facts))
    return folder
