"""Small pairs on disk, with a deformation that can be learned in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medmamba import io
from medmamba.volume import Geometry, Volume

SHAPE = (14, 13, 12)
#: Left-handed, as many scanners store images.
AFFINE = np.array([[-4.0, 0, 0, 26], [0, 4.0, 0, -24], [0, 0, 4.0, -22], [0, 0, 0, 1]])


def subject(seed: int, shift: float = 0.0) -> tuple[Volume, Volume]:
    """A head with two structures, whose places differ a little by seed, and its label map.

    Args:
        seed: of the places.
        shift: of the structures along the first axis, in voxels.
    """
    random = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in SHAPE), indexing="ij"))

    def ball(centre: NDArray[np.float64], radius: float) -> NDArray[np.bool_]:
        return np.asarray(((grid - centre.reshape(3, 1, 1, 1)) ** 2).sum(0) < radius**2)

    label = np.zeros(SHAPE, dtype=np.uint8)
    for value, y in ((1, 2.2), (2, -2.2)):
        label[ball(np.array([shift, y, 0]) + random.uniform(-0.4, 0.4, 3), 2.2)] = value
    image = 100.0 * ball(np.zeros(3), 5.5) + 120.0 * (label == 1) + 60.0 * (label == 2)
    geometry = Geometry(SHAPE, AFFINE)
    return Volume(image[None].astype(np.float32), geometry), Volume(label[None], geometry)


def write_subjects(folder: Path, count: int) -> Path:
    """Images and label maps side by side."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(count):
        image, label = subject(seed)
        io.write(image, folder / f"s{seed}_t1.nii.gz")
        io.write(label, folder / f"s{seed}_labels.nii.gz")
    return folder


def write_shifted(folder: Path, count: int, shift: float) -> Path:
    """A table of pairs with labels, of which the moving images' structures are shifted, all alike."""
    folder.mkdir(parents=True)
    lines = ["id,fixed,moving,fixed_label,moving_label"]
    for seed in range(count):
        for side, far in (("fixed", 0.0), ("moving", shift)):
            image, label = subject(seed, far)
            io.write(image, folder / f"{side}{seed}_t1.nii.gz")
            io.write(label, folder / f"{side}{seed}_seg.nii.gz")
        lines.append(
            ",".join((f"p{seed}", *(f"{s}{seed}_{k}.nii.gz" for k in ("t1", "seg") for s in ("fixed", "moving"))))
        )
    (folder / "pairs.csv").write_text("\n".join(lines))
    return folder / "pairs.csv"


def write_modalities(folder: Path, count: int) -> Path:
    """A table of pairs without label maps, CT fixed and another contrast moving, which its header shifts by 6 mm."""
    (folder / "ct").mkdir(parents=True)
    (folder / "mr").mkdir()
    lines = ["fixed,moving"]
    affine = AFFINE.copy()
    affine[0, 3] += 6
    for seed in range(count):
        image, _ = subject(seed)
        io.write(image.with_array(image.array * 4 - 1000), folder / "ct" / f"p{seed}.nii.gz")
        other = (300 - image.array) * (image.array > 0)
        io.write(Volume(other, Geometry(SHAPE, affine)), folder / "mr" / f"p{seed}.nii.gz")
        lines.append(f"ct/p{seed}.nii.gz,mr/p{seed}.nii.gz")
    (folder / "pairs.csv").write_text("\n".join(lines))
    return folder / "pairs.csv"
