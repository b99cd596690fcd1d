"""``medmamba predict`` on DICOM segments the same voxels as on the NIfTI that SimpleITK makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from medmamba import io
from tests import dicom_factory as factory
from tests.cli.remedies import run
from tests.dicom_factory import Ellipsoid, Phantom

QUICKLY = ("--device", "cpu", "--no-mirror")
#: Two time points with values that the data set of the trained network has.
CONTENT = [
    Phantom(base=100, ramp_per_mm=(0, 0, 0), ellipsoids=(Ellipsoid(centre_mm=centre, radii_mm=(9, 8, 7), value=200),))
    for centre in ((3, -2, 4), (0, 1, 7))
]


def same_from_both(scan: Path, files: Sequence[str], model: Path, place: Path, *more: str) -> None:
    """Segment a folder in DICOM and the NIfTI of its files; all voxels must be the same, and in one place.

    Args:
        scan: the folder, whose name is that of the case.
        files: as SimpleITK is to stack them.
        model: run folder.
        place: for the NIfTI and the segmentations.
        more: options of DICOM.
    """
    nifti = place / f"{scan.name}.nii.gz"
    sitk.WriteImage(sitk.ReadImage(files), str(nifti))
    found = []
    for name, source, options in (("dicom", scan, more), ("nifti", nifti, ())):
        ask = ("predict", "-i", source, "-o", place / name, "-m", model, "--format", "nii.gz", *options, *QUICKLY)
        code, said = run(*ask)
        assert code == 0, said
        found.append(io.read_label(place / name / nifti.name))
    ours, theirs = found
    np.testing.assert_array_equal(ours.array, theirs.array)
    assert ours.geometry.distance_mm(theirs.geometry) < 1e-3
    assert len(np.unique(ours.array)) > 1, "an empty segmentation equals any other"


def by_gdcm(scan: Path) -> Sequence[str]:
    """The files of a series in the order that SimpleITK finds."""
    names: Sequence[str] = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(scan))
    return names


@pytest.mark.parametrize(
    "kind",
    [
        {"plane": "oblique", "order": "shuffled", "numbers": "shuffled"},
        {"plane": "sagittal", "modality": "MR"},
        {"plane": "coronal", "numbers": "none"},
        {"plane": "feet_up"},
        {"order": "reversed"},
        {"shape": (64, 48), "spacing_mm": (0.7, 0.9)},
        {"shape": (48, 64), "spacing_mm": (0.9, 0.7), "plane": "oblique"},
    ],
    ids=lambda kind: "-".join(str(value) for value in kind.values()),
)
def test_series_is_segmented_as_the_nifti_made_of_it(
    trained: tuple[Path, str], tmp_path: Path, kind: dict[str, Any]
) -> None:
    made = factory.series(tmp_path / "export" / "anna", CONTENT[0], **{"shape": (20, 18), "slices": 12, **kind})
    same_from_both(made.folder, by_gdcm(made.folder), trained[0], tmp_path)


@pytest.mark.parametrize("phase", [1, 2])
def test_time_point_is_segmented_as_the_nifti_made_of_it(trained: tuple[Path, str], tmp_path: Path, phase: int) -> None:
    made = factory.series(tmp_path / "export" / "anna", CONTENT, shape=(20, 18), slices=12, order="shuffled")
    files = [str(each.file) for each in made.slices if each.repetition == phase - 1]
    same_from_both(made.folder, files, trained[0], tmp_path, "--phase", str(phase))


@pytest.mark.parametrize("name", ["hippocampus_crop", pytest.param("brain_t1post", marks=pytest.mark.slow)])
def test_scan_of_a_patient_is_segmented_as_the_nifti_made_of_it(
    shared: Path, trained: tuple[Path, str], tmp_path: Path, name: str
) -> None:
    scan = shared / "data" / "dicom" / name
    same_from_both(scan, by_gdcm(scan), trained[0], tmp_path)
