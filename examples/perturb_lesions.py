"""Copies of lesion masks with known mistakes, as if two models had made them: a mild one, and a worse one.

    python -P examples/perturb_lesions.py path/to/masks path/to/output

writes ``output/mild/`` and ``output/worse/`` with a mask for each mask, on its grid and under its name, and
``output/truth.csv`` with one line for everything that was done to it. Two folders to compare, of which is known which
lesions were missed and which are false:

    medmamba evaluate path/to/output/worse path/to/masks

A lesion is a component of voxels that are not 0, of which those that touch at a corner are neighbours. Each is kept,
eroded, shifted or lost by chance, small ones lost more often, and others are invented. Whatever is done is tried on the
mask first and chosen again where it would leave a doubt, so that by construction

- every part of a lesion that is not lost overlaps that lesion, and touches no other, lost or not;
- what is invented touches neither a lesion nor anything else in the copy.

So a lesion that the copy meets with any voxel is one that was not lost, and a component of the copy that meets no
lesion is one that was invented. The columns of truth.csv:

- model, case;
- done: ``kept``, ``eroded``, ``shifted``, ``lost`` or ``invented``;
- kind: what a lesion table must say of it, ``found``, ``missed`` or ``false``;
- voxels, volume_ml: how large it is, in the reference, or in the copy where it was invented;
- i, j, k: a voxel inside it, there, as indices of the array, the one nearest to its centre;
- shift: by how many voxels along each axis, where it was shifted.

The same seed makes the same files from a mask, whatever other masks there are.
"""

import argparse
import csv
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from medmamba.errors import DataError
from medmamba.files import write_bytes
from medmamba.io import is_image, read_label, suffixes, write
from medmamba.io.places import check_output_folder
from medmamba.volume import Volume

#: A voxel and its 26 neighbours.
AROUND = np.stack(np.meshgrid(*3 * [(-1, 0, 1)], indexing="ij"), axis=-1).reshape(-1, 3)
#: How often something else is tried before a lesion is kept as it is, or one fewer is invented.
TRIES = 20
KIND = {"kept": "found", "eroded": "found", "shifted": "found", "lost": "missed", "invented": "false"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """How often each mistake is made.

    Args:
        lost: share of the lesions that are left out, at most a half. The chance falls evenly from twice that for the
            smallest lesion of a mask to none for the largest.
        eroded: chance that another lesion loses its outermost voxels.
        shifted: chance that another lesion lies elsewhere, though still over its own place.
        reach_voxels: a shift's length along each axis at most.
        invented: false lesions, as a share of the number of lesions; at least one a mask on average.
        radius_mm: of the invented ones, from and to.
    """

    lost: float
    eroded: float
    shifted: float
    reach_voxels: int
    invented: float
    radius_mm: tuple[float, float]


MODELS = {
    "mild": Model(lost=0.08, eroded=0.25, shifted=0.15, reach_voxels=1, invented=0.04, radius_mm=(1.0, 2.5)),
    "worse": Model(lost=0.25, eroded=0.40, shifted=0.30, reach_voxels=3, invented=0.15, radius_mm=(1.0, 4.0)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Deed:
    """What was done: to the lesion with these voxels, (N, 3) indices; or the voxels of one that was invented."""

    done: str
    voxels: np.ndarray
    shift: tuple[int, ...] = ()

    def row(self, model: str, case: str, voxel_ml: float) -> dict[str, object]:
        """A line of truth.csv."""
        centre = np.linalg.norm(self.voxels - self.voxels.mean(axis=0), axis=1).argmin()
        size = {"voxels": len(self.voxels), "volume_ml": f"{len(self.voxels) * voxel_ml:.6f}"}
        place = dict(zip("ijk", self.voxels[centre].tolist(), strict=True))
        named = {"model": model, "case": case, "done": self.done, "kind": KIND[self.done]}
        return named | size | place | {"shift": " ".join(map(str, self.shift))}


class Copy:
    """A mask in the making: which lesion each voxel belongs to, in the reference and in the copy.

    Args:
        mask: of the reference, 3D, true inside lesions.
        spacing_mm: of its grid.
        rng: decides.
    """

    def __init__(self, mask: np.ndarray, spacing_mm: tuple[float, float, float], rng: np.random.Generator) -> None:
        self.shape, self.spacing_mm, self.rng = mask.shape, spacing_mm, rng
        # With a border of one voxel, so that every voxel has all its neighbours.
        self.reference, _ = ndimage.label(np.pad(mask, 1), structure=np.ones((3, 3, 3)))
        self.made = np.zeros_like(self.reference)
        found = ndimage.value_indices(self.reference, ignore_value=0)
        self.lesions = {number: np.stack(places, axis=1) - 1 for number, places in found.items()}

    @property
    def mask(self) -> np.ndarray:
        """The copy so far."""
        return self.made[1:-1, 1:-1, 1:-1] > 0

    def perturb(self, model: Model) -> Iterator[Deed]:
        """Treat every lesion, then invent some."""
        smaller = {number: rank for rank, number in enumerate(sorted(self.lesions, key=self._size))}
        for number, voxels in self.lesions.items():
            if self.rng.random() < 2 * model.lost * (1 - smaller[number] / len(self.lesions)):
                yield Deed(done="lost", voxels=voxels)
            else:
                yield self._found(number, model)
        for _ in range(self.rng.poisson(max(1.0, model.invented * len(self.lesions)))):
            yield from self._invented(model)

    def _size(self, number: int) -> int:
        return len(self.lesions[number])

    def _found(self, number: int, model: Model) -> Deed:
        """Put a lesion into the copy, changed as chance has it if that leaves no doubt."""
        voxels = self.lesions[number]
        done = self.rng.choice(
            ["eroded", "shifted", "kept"], p=[model.eroded, model.shifted, 1 - model.eroded - model.shifted]
        )
        if done == "eroded" and len(core := _eroded(voxels)):
            self._put(number, core)
            return Deed(done="eroded", voxels=voxels)
        for _ in range(TRIES if done == "shifted" else 0):
            shift = self.rng.integers(-model.reach_voxels, model.reach_voxels, size=3, endpoint=True)
            if shift.any() and self._fits(number, voxels + shift):
                self._put(number, voxels + shift)
                return Deed(done="shifted", voxels=voxels, shift=tuple(shift.tolist()))
        self._put(number, voxels)
        return Deed(done="kept", voxels=voxels)

    def _invented(self, model: Model) -> Iterator[Deed]:
        """Put a ball where there is nothing, among the lesions; nothing where no such place is found."""
        everywhere = np.concatenate(list(self.lesions.values())) if self.lesions else np.array([(0, 0, 0), self.shape])
        low, high = everywhere.min(axis=0), everywhere.max(axis=0)
        for _ in range(TRIES):
            ball = _ball(self.rng.uniform(*model.radius_mm), self.spacing_mm)
            voxels = ball + self.rng.integers(low, high, endpoint=True)
            number = self.made.max() + len(self.lesions) + 1  # neither a lesion's nor that of one invented before
            if self._fits(number, voxels):
                self._put(number, voxels)
                yield Deed(done="invented", voxels=voxels)
                return

    def _fits(self, number: int, voxels: np.ndarray) -> bool:
        """Whether connected voxels lie on the grid, over their own lesion if there is one, and touch nothing else."""
        if (voxels < 0).any() or (voxels >= self.shape).any():
            return False
        over = self.reference[tuple((voxels + 1).T)] == number
        around = tuple((voxels[:, None] + AROUND + 1).reshape(-1, 3).T)
        touched = set(np.unique(self.reference[around])) | set(np.unique(self.made[around]))
        return touched <= {0, number} and (over.any() or number not in self.lesions)

    def _put(self, number: int, voxels: np.ndarray) -> None:
        self.made[tuple((voxels + 1).T)] = number


def _eroded(voxels: np.ndarray) -> np.ndarray:
    """The voxels of which all six neighbours across a face are among the voxels; maybe none."""
    low = voxels.min(axis=0)
    box = np.zeros(voxels.max(axis=0) - low + 1, dtype=bool)
    box[tuple((voxels - low).T)] = True
    return np.argwhere(ndimage.binary_erosion(box)) + low


def _ball(radius_mm: float, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Offsets in voxels no further than a radius from 0, (N, 3): one component, with 0 in it."""
    reach = [int(radius_mm // spacing) for spacing in spacing_mm]
    offsets = np.argwhere(np.ones([2 * steps + 1 for steps in reach], dtype=bool)) - reach
    return offsets[np.linalg.norm(offsets * spacing_mm, axis=1) <= radius_mm]


def masks_in(folder: Path) -> dict[str, Path]:
    """The masks of a folder by their names without ending."""
    found = {}
    for path in sorted(folder.iterdir()):
        ending = next((ending for ending in suffixes() if path.name.lower().endswith(ending)), None)
        if ending and not path.name.startswith(".") and is_image(path):
            found[path.name[: -len(ending)]] = path
    if not found:
        raise DataError(f"{folder} must hold lesion masks, and holds no image; images end in {', '.join(suffixes())}")
    return found


def perturb(reference: Volume, model: Model, rng: np.random.Generator) -> tuple[Volume, list[Deed]]:
    """A copy of a mask, on its grid and with its label, and what was done.

    Raises:
        DataError: if the mask has several labels, or all of it is one lesion.
    """
    values = np.unique(reference.array)
    if len(values) > 2 or 0 not in values:
        raise DataError(f"a lesion mask has a background of 0 and one label, got values {values[:9].tolist()}")
    copy = Copy(reference.array[0] != 0, reference.geometry.spacing_mm, rng)
    deeds = list(copy.perturb(model))
    label = next(iter(values[values != 0]), 1)  # a mask may be empty, its copy not
    return reference.with_array(np.where(copy.mask, label, 0)[None].astype(reference.array.dtype)), deeds


def perturb_folder(masks: Path, output: Path, *, seed: int = 0) -> Path:
    """Write the copies of a folder of masks, and return where what was done is told."""
    found, rows = masks_in(masks), []
    for number, (name, model) in enumerate(MODELS.items()):
        folder = output / name
        check_output_folder(folder, files=[folder / path.name for path in found.values()], inputs=[masks])
        folder.mkdir(parents=True, exist_ok=True)
        for case, path in found.items():
            reference = read_label(path)
            voxel_ml = float(np.prod(reference.geometry.spacing_mm)) / 1000
            rng = np.random.default_rng([seed, number, zlib.crc32(case.encode())])
            copy, deeds = perturb(reference, model, rng)
            write(copy, folder / path.name, like=path)
            rows += [deed.row(name, case, voxel_ml) for deed in deeds]
            print(f"{name}/{path.name}: " + ", ".join(_counts(deeds)), flush=True)
    text = io.StringIO(newline="")
    columns = ["model", "case", "done", "kind", "voxels", "volume_ml", "i", "j", "k", "shift"]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    truth = output / "truth.csv"
    write_bytes(text.getvalue().encode(), truth)
    return truth


def _counts(deeds: list[Deed]) -> Iterator[str]:
    return (f"{sum(deed.done == done for deed in deeds)} {done}" for done in KIND)


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, write the copies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("masks", type=Path, help="folder of lesion masks, one label each; it is only read")
    parser.add_argument("output", type=Path, help="folder to write into")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    print(f"what was done stands in {perturb_folder(options.masks, options.output, seed=options.seed)}")


if __name__ == "__main__":
    main()
