"""Fingerprints and data sets made by hand, without a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from medmamba import Case, Dataset, Label, Labels
from medmamba.plans.fingerprint import CaseFingerprint, Fingerprint
from medmamba.plans.plan import IntensityStatistics

Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]
FingerprintMaker = Callable[..., tuple[Fingerprint, Dataset]]

STATISTICS = IntensityStatistics(
    mean=100.5, median=99.0, std=20.25, min=-3.0, max=400.0, percentile_00_5=10.0, percentile_99_5=300.0
)


@pytest.fixture
def measured_dataset() -> FingerprintMaker:
    """Makes a data set and its fingerprint from the shapes and spacings of its cases (array order)."""

    def make(
        shapes: Sequence[Shape],
        spacings: Sequence[Spacing],
        *,
        channels: tuple[str, ...] = ("MRI",),
        labels: int = 2,
        relative_size: float = 1.0,
        ignore: int | None = None,
    ) -> tuple[Fingerprint, Dataset]:
        cases = tuple(
            CaseFingerprint(
                id=f"case_{index:03}",
                shape=shape,
                cropped_shape=shape,
                spacing_mm=spacing,
                label_voxels={str(value): 10 for value in range(labels + 1)},
                source="0" * 12,
            )
            for index, (shape, spacing) in enumerate(zip(shapes, spacings, strict=True))
        )
        fingerprint = Fingerprint(
            dataset="Phantoms",
            dataset_root="/data/phantoms",
            channels=channels,
            cases=cases,
            intensities=(STATISTICS,) * len(channels),
            median_relative_size=relative_size,
        )
        dataset = Dataset(
            name="Phantoms",
            root=Path("/data/phantoms"),
            layout="nnunet",
            channels=channels,
            labels=Labels(
                foreground=tuple(Label(name=f"structure_{n}", values=(n,)) for n in range(1, labels + 1)),
                ignore=ignore,
            ),
            training=tuple(
                Case(
                    id=case.id,
                    images=tuple(Path(f"{case.id}_{channel:04}.nii.gz") for channel in range(len(channels))),
                    label=Path(f"{case.id}.nii.gz"),
                )
                for case in cases
            ),
        )
        return fingerprint, dataset

    return make


class ScanWriter:
    """Writes cases of a data set as NIfTI files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cases: list[Case] = []

    def add(
        self, image: NDArray[Any], label: NDArray[Any], spacing_mm: Spacing = (1.0, 1.0, 1.0), shift_mm: float = 0.0
    ) -> Case:
        """One case of (C, I, J, K) images and an (I, J, K) label; the label's grid is shifted along the first axis."""
        name = f"case_{len(self.cases):03}"
        affine = np.diag((*spacing_mm, 1.0))
        files = []
        for index, channel in enumerate(image):
            files.append(self.root / f"{name}_{index:04}.nii.gz")
            nibabel.save(nibabel.Nifti1Image(channel.astype(np.float32), affine), files[-1])
        affine[0, 3] = shift_mm
        label_file = self.root / f"{name}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(label.astype(np.uint8), affine), label_file)
        self.cases.append(Case(id=name, images=tuple(files), label=label_file))
        return self.cases[-1]

    def dataset(self, channels: tuple[str, ...] = ("MRI",), name: str = "Phantoms") -> Dataset:
        return Dataset(
            name=name,
            root=self.root,
            layout="nnunet",
            channels=channels,
            labels=Labels(foreground=(Label(name="ball", values=(1,)),)),
            training=tuple(self.cases),
        )


@pytest.fixture
def scans(tmp_path: Path) -> ScanWriter:
    """An empty data set in a folder of its own, to add cases to."""
    (tmp_path / "data").mkdir()
    return ScanWriter(tmp_path / "data")
