"""Invented brain scans with a tumour: something to try every command on, with a known answer and no patient.

Each phantom is a skull-stripped head in two modalities, FLAIR and T1ce (T1-weighted with contrast agent), and a tumour
in the coding of BraTS 2023: 1 necrotic core, 2 oedema, 3 enhancing tumour. As in patients, no threshold on one modality
finds the parts: oedema is bright on FLAIR, but so are small lesions of the ageing white matter; the enhancing rim is
bright on T1ce, but so are vessels; the necrotic core is as dark as a ventricle; a bias field shades everything.
Shapes are coarse and invented: a phantom says that a pipeline works, nothing about how well it will do on patients.

Frame: RAS millimetres with the origin in the middle of the head; arrays (I, J, K) run to the left, back and head,
as those of BraTS do.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import edt
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medmamba import io
from medmamba.errors import DataError
from medmamba.progress import Progress, silent
from medmamba.records import read_json, write_json
from medmamba.volume import Geometry, Volume

FloatArray = NDArray[np.float64]
Mask = NDArray[np.bool_]

CHANNELS = ("FLAIR", "T1ce")
NECROSIS, OEDEMA, ENHANCING = 1, 2, 3

#: Brightness of each tissue as (FLAIR, T1ce), tissue without a tumour staying below 1.
_TISSUES = {
    "white": (0.56, 0.84),
    "grey": (0.72, 0.62),
    "fluid": (0.16, 0.20),
    "vessel": (0.45, 1.1),
    "white_lesion": (0.95, 0.68),
}
#: Voxels are about this large, in mm, so that a head fits the default shape.
_SPACING_MM = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Phantom:
    """One invented examination.

    Args:
        images: one channel per entry of `CHANNELS`, int16, zero outside of the brain.
        label: uint8, one channel.
    """

    images: Volume
    label: Volume


def make_phantom(seed: int | Sequence[int], shape: tuple[int, int, int] = (64, 64, 48)) -> Phantom:
    """Invent a head with a tumour; the same seed gives the same phantom.

    Args:
        seed: start of the random numbers, an integer or several.
        shape: voxels along each axis, at least 24; their size follows, so that the head fits.

    Raises:
        ValueError: if the shape is too small to hold a head.
    """
    if min(shape) < 24:
        raise ValueError(f"a phantom needs at least 24 voxels along each axis, got shape {shape}")
    rng = np.random.default_rng(seed)
    geometry = _grid(rng, shape)
    head = _Head(rng, geometry)
    tumour = _grow_tumour(rng, head)
    label = np.zeros(shape, dtype=np.uint8)
    for value, mask in tumour.items():
        label[mask] = value
    images = _scan(rng, head, tumour)
    return Phantom(images=Volume(images, geometry), label=Volume(label[None], geometry))


def make_cohort(
    folder: Path,
    n_training: int = 20,
    n_test: int = 5,
    *,
    seed: int = 0,
    shape: tuple[int, int, int] = (64, 64, 48),
    progress: Progress = silent,
) -> Path:
    """Write phantoms as an nnU-Net raw data set with the regions of BraTS.

    Test cases have their reference too, in ``labelsTs``, where training never looks.

    Args:
        folder: the data set's folder, such as ``Dataset900_Phantom``; made if need be; the same cases are replaced.
        n_training: how many cases to learn from.
        n_test: how many to be judged on.
        seed: the same seed gives the same cohort, and case ``i`` does not depend on how many there are.
        shape: voxels of each scan.
        progress: told after each case.

    Returns:
        ``folder``.

    Raises:
        ValueError: if there is no training case or the shape is too small.
        DataError: if the folder holds other cases.
    """
    if n_training < 1 or n_test < 0:
        raise ValueError(f"a cohort needs at least one training case, got {n_training} and {n_test} test cases")
    cases = {f"phantom_{index:03d}": ("Tr", index) for index in range(n_training)}
    cases |= {f"unseen_{index:03d}": ("Ts", index) for index in range(n_test)}
    _refuse_other_cases(folder, cases)
    for case, (part, index) in progress(cases.items(), title="Inventing scans", total=len(cases)):
        phantom = make_phantom((seed, int(part == "Ts"), index), shape)
        images, labels = folder / f"images{part}", folder / f"labels{part}"
        images.mkdir(parents=True, exist_ok=True)
        labels.mkdir(exist_ok=True)
        for channel in range(len(CHANNELS)):
            image = phantom.images.with_array(phantom.images.array[channel : channel + 1])
            io.write(image, images / f"{case}_{channel:04d}.nii.gz")
        io.write(phantom.label, labels / f"{case}.nii.gz")
    write_json(_dataset_json(folder.name, n_training, seed), folder / "dataset.json")
    return folder


def cohort_seed(folder: Path) -> int | None:
    """The seed of a cohort that `make_cohort` wrote; None where it was not noted."""
    seed = read_json(folder / "dataset.json").get("seed")
    return seed if isinstance(seed, int) else None


def _refuse_other_cases(folder: Path, cases: Collection[str]) -> None:
    # An earlier, larger cohort would mix with this one.
    for path in sorted(folder.glob("images*/*.nii.gz")):
        if path.name.rsplit("_", 1)[0] not in cases:
            raise DataError(f"{path} does not belong to the cohort to be written; choose an empty folder")


def _dataset_json(name: str, n_training: int, seed: int) -> dict[str, object]:
    return {
        "name": name,
        "description": "invented brain scans with a tumour, made by medmamba; no patient data",
        "channel_names": {str(index): channel for index, channel in enumerate(CHANNELS)},
        "labels": {
            "background": 0,
            "whole_tumour": [NECROSIS, OEDEMA, ENHANCING],
            "tumour_core": [NECROSIS, ENHANCING],
            "enhancing_tumour": [ENHANCING],
        },
        # Painted in this order, later over earlier: the whole as oedema, the core as necrosis, then what enhances.
        "regions_class_order": [OEDEMA, NECROSIS, ENHANCING],
        "numTraining": n_training,
        "seed": seed,
        "file_ending": ".nii.gz",
    }


def _grid(rng: np.random.Generator, shape: tuple[int, int, int]) -> Geometry:
    """A grid around the origin, its voxels a few per cent larger or smaller from case to case."""
    spacing = _SPACING_MM * np.array((64, 64, 48)) / np.array(shape) * rng.uniform(0.96, 1.04, size=3)
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) - 1) / 2
    return Geometry(shape, affine)


#: Centre and radii of each half of the cerebellum, mm.
_CEREBELLUM = ((20.0, -46.0, -40.0), (32.0, 32.0, 24.0))


class _Head:
    """Anatomy on a grid: how much of each voxel is which tissue.

    Attributes:
        position_mm: (3, I, J, K) where each voxel is, RAS.
        brain: (I, J, K) inside of the head that survives skull stripping.
        depth_mm: (I, J, K) distance to the brain's surface.
        parts: (I, J, K) per tissue, shares of a voxel that add up to at most 1; the rest is white matter.
        ventricle: (I, J, K) share of each voxel that is inside a ventricle.
    """

    def __init__(self, rng: np.random.Generator, geometry: Geometry) -> None:
        self.geometry = geometry
        self._rng = rng
        index = np.indices(geometry.shape, dtype=np.float64)
        self.position_mm = np.tensordot(geometry.affine[:3, :3], index, 1) + geometry.affine[:3, 3, None, None, None]
        # No two heads have the same size, none is level and straight, and all are narrower at the forehead.
        turned = _turned(self.position_mm, rng.normal(0, 0.05, size=3))
        x, self._y, self._z = turned / rng.uniform(0.94, 1.04, size=3)[:, None, None, None]
        self._x = x / (1 - 0.1 * self._y / 84)
        surface = _depth_mm(self._brain_surface() > 0, geometry) + 1.2 * self.field(7.0)
        self.brain: Mask = surface > 0
        self.depth_mm = _depth_mm(self.brain, geometry)
        self.parts = self._tissues()

    def field(self, size_mm: float) -> FloatArray:
        """(I, J, K) smooth random values of mean 0 and deviation 1, with bumps of about the given size."""
        sigma = [size_mm / step for step in self.geometry.spacing_mm]
        noise = ndimage.gaussian_filter(self._rng.normal(size=self.geometry.shape), sigma, mode="wrap")
        return np.asarray((noise - noise.mean()) / noise.std(), dtype=np.float64)

    def _blob(self, centre: Sequence[float], radii: Sequence[float], bend: float = 0.0) -> FloatArray:
        """Roughly the distance in mm to the surface of an ellipsoid on each side of the head, positive inside.

        ``bend`` moves the ellipsoid's ends away from the middle of the head, in mm.
        """
        x = np.abs(self._x) - centre[0] - bend * ((self._y - centre[1]) / radii[1]) ** 2
        squares = (
            (x / radii[0]) ** 2 + ((self._y - centre[1]) / radii[1]) ** 2 + ((self._z - centre[2]) / radii[2]) ** 2
        )
        return np.asarray((1 - np.sqrt(squares)) * min(radii), dtype=np.float64)

    def _brain_surface(self) -> FloatArray:
        parts = [
            self._blob((17, 0, 14), (49, 84, 53)),  # cerebrum
            self._blob((40, 12, -26), (24, 42, 24)),  # temporal lobes
            self._blob(*_CEREBELLUM),
            self._blob((0, -20, -42), (15, 16, 34)),  # brain stem
        ]
        return _largest(parts)

    def _tissues(self) -> dict[str, FloatArray]:
        age = self._rng.uniform(0.0, 1.0)
        folds = self.field(4.0)
        ventricles = self._ventricles(wide=0.8 + 0.7 * age)
        self.ventricle = _soft(ventricles + 0.8 * self.field(4.0), 0.8)
        sulci = (0.5 + 0.4 * age) * np.exp(-((folds / 0.35) ** 2)) * _soft(11 - self.depth_mm, 4.0)
        fluid = _largest([self.ventricle, sulci, self._fissures()])
        parts = {
            "vessel": self._vessels(ventricles),
            "fluid": fluid,
            "white_lesion": self._white_lesions(ventricles, age),
            "grey": self._grey_matter(folds),
        }
        # Each tissue takes its share of what those before it left.
        left = np.ones(self.geometry.shape)
        for name, part in parts.items():
            parts[name] = left * part.clip(0, 1)
            left = left - parts[name]
        return parts

    def _ventricles(self, wide: float) -> FloatArray:
        lateral = self._blob((8 + 3 * wide, -2, 20), (4.5 * wide, 42, 9 * wide), bend=11)
        third = self._blob((0, -4, 6), (2.2 * wide, 14, 9))
        fourth = self._blob((0, -34, -38), (6 * wide, 6, 7))
        return _largest([lateral, third, fourth])

    def _fissures(self) -> FloatArray:
        above_callosum = _soft(np.sqrt((self._y / 52) ** 2 + ((self._z - 12) / 26) ** 2) * 26 - 26, 2.0)
        between_halves = np.exp(-((self._x / 2.6) ** 2)) * above_callosum * (self._z > -20)
        slope = np.exp(-(((self._z + 6 - 0.25 * self._y) / 3.0) ** 2))
        sylvian = slope * _soft(np.abs(self._x) - 38, 3.0) * _soft(self._y + 25, 5.0) * _soft(45 - self._y, 5.0)
        return _largest([between_halves, 0.8 * sylvian])

    def _grey_matter(self, folds: FloatArray) -> FloatArray:
        cortex = _soft(6 - self.depth_mm, 1.2)
        gyri = np.exp(-((folds / 0.8) ** 2)) * _soft(18 - self.depth_mm, 3.0)
        leaves = _soft(self._blob(*_CEREBELLUM), 2.0) * (0.55 + 0.25 * np.tanh(2 * self.field(2.5)))
        nuclei = [
            self._blob((11, -12, 8), (9, 15, 9)),  # thalamus
            self._blob((25, 6, 4), (7, 17, 10)),  # lentiform nucleus
            self._blob((13, 20, 14), (5, 9, 11)),  # head of the caudate nucleus
        ]
        return _largest([cortex, gyri, leaves, 0.8 * _soft(_largest(nuclei), 1.0)])

    def _vessels(self, ventricles: FloatArray) -> FloatArray:
        # Two smooth fields are zero together along lines.
        small = 0.9 * np.exp(-((self.field(9.0) / 0.13) ** 2 + (self.field(9.0) / 0.13) ** 2))
        small *= _soft(22 - self.depth_mm, 3.0)
        sinus = np.exp(-((self._x / 3.2) ** 2)) * _soft(5 - self.depth_mm, 1.2) * (self._z > -12)
        sinus *= 0.7 * (0.7 + 0.3 * self.field(10.0)).clip(0, 1)
        plexus = 0.6 * _soft(ventricles - 3.5 + 1.5 * self.field(3.0), 0.8) * (self._y < 0)
        return _largest([small, sinus, plexus])

    def _white_lesions(self, ventricles: FloatArray, age: float) -> FloatArray:
        amount = 0.2 + 0.8 * age
        caps = 0.7 * np.exp(-((ventricles + 2.5) ** 2) / 8) * (0.6 + 0.4 * np.tanh(self.field(6.0)))
        spots = _soft(self.field(4.0) - 2.3, 0.15) * _soft(self.depth_mm - 12, 2.0)
        return amount * _largest([caps, spots])


def _grow_tumour(rng: np.random.Generator, head: _Head) -> dict[int, Mask]:
    """Three nested, irregular parts, as masks by label value that do not overlap."""
    possible = (head.depth_mm > 16) & (head.ventricle < 0.2) & (head.position_mm[2] > -25)
    centre = head.position_mm[:, *rng.choice(np.argwhere(possible))]
    whole_mm = rng.uniform(23, 35)
    core_mm = whole_mm * rng.uniform(0.55, 0.7)
    rim_mm = rng.uniform(6.0, 9.0)
    core_centre = centre + rng.normal(0, 0.12 * whole_mm, size=3)
    stretch = rng.uniform(0.85, 1.2, size=3)

    def distance(middle: FloatArray) -> FloatArray:
        offset = (head.position_mm - middle[:, None, None, None]) / stretch[:, None, None, None]
        return np.asarray(np.linalg.norm(offset, axis=0), dtype=np.float64)

    solid = head.brain & (head.ventricle < 0.5)
    lumps = head.field(6.0)
    to_core = distance(core_centre) - core_mm * (1 + 0.16 * lumps)
    core = solid & (to_core < 0)
    # Oedema creeps along white matter and stops at grey matter.
    spread = whole_mm * (1 + 0.24 * head.field(7.0) - 0.3 * head.parts["grey"])
    whole = core | (solid & (distance(centre) < spread))
    necrosis = core & (to_core < -rim_mm * (1 + 0.35 * head.field(5.0)))
    return {OEDEMA: whole & ~core, ENHANCING: core & ~necrosis, NECROSIS: necrosis}


def _scan(rng: np.random.Generator, head: _Head, tumour: dict[int, Mask]) -> NDArray[np.int16]:
    """What the scanner makes of it: (channels, I, J, K)."""
    looks = {
        OEDEMA: (rng.uniform(1.02, 1.2), rng.uniform(0.5, 0.6)),
        ENHANCING: (rng.uniform(0.75, 1.05), rng.uniform(0.98, 1.25)),
        NECROSIS: (rng.uniform(0.35, 0.85), rng.uniform(0.25, 0.45)),
    }
    patchy = head.field(5.0)
    channels = []
    for channel in range(len(CHANNELS)):
        image = np.full(head.geometry.shape, _TISSUES["white"][channel])
        for name, share in head.parts.items():
            image += share * (_TISSUES[name][channel] - _TISSUES["white"][channel])
        for value, mask in tumour.items():
            # Normal structure shines through the oedema, and no part takes up contrast agent evenly.
            shine = 0.85 if value == OEDEMA else 1.0
            image[mask] = ((1 - shine) * image + shine * looks[value][channel] * (1 + 0.12 * patchy))[mask]
        image *= 1 + 0.03 * head.field(2.5)
        image = ndimage.gaussian_filter(image * head.brain, 0.55)
        image *= np.exp(0.12 * head.field(45.0))
        sigma = rng.uniform(0.015, 0.03)
        image = np.hypot(image + rng.normal(0, sigma, image.shape), rng.normal(0, sigma, image.shape))
        channels.append(np.round(image * rng.uniform(300, 1200)) * head.brain)
    return np.stack(channels).astype(np.int16)


def _largest(maps: Sequence[FloatArray]) -> FloatArray:
    """The largest value at each voxel: the union of soft shapes."""
    return np.asarray(np.maximum.reduce(maps), dtype=np.float64)


def _soft(distance_mm: FloatArray, width_mm: float) -> FloatArray:
    """1 well inside, 0 well outside, with a blurred border."""
    return np.asarray(0.5 * (1 + np.tanh(distance_mm / width_mm)), dtype=np.float64)


def _depth_mm(mask: Mask, geometry: Geometry) -> FloatArray:
    """Distance to the mask's surface, negative outside."""
    inside, outside = (edt.edt(part, anisotropy=geometry.spacing_mm) for part in (mask, ~mask))
    return np.asarray(inside - outside, dtype=np.float64)


def _turned(position_mm: FloatArray, angles: FloatArray) -> FloatArray:
    """Positions in a head that is turned by small angles (radians) about the three axes."""
    a, b, c = angles
    turn = np.array([[1, -c, b], [c, 1, -a], [-b, a, 1]])
    return np.asarray(np.tensordot(turn, position_mm, 1), dtype=np.float64)
