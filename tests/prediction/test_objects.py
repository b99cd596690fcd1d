"""From a series to DICOM objects by a network whose regions overlap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medmamba import io
from medmamba.case import Case
from medmamba.errors import UsageError
from medmamba.io.formats import dicom_seg_write
from medmamba.labels import Label, Labels
from medmamba.plans.plan import Plan
from medmamba.prediction.objects import dicom_writers
from medmamba.prediction.predictor import Predictor, predict_cases
from tests.data.factory import channel, make_plan
from tests.dicom_factory import Ellipsoid, Made, Phantom, series

REGIONS = Labels(
    foreground=(
        Label(name="whole tumor", values=(1, 2, 3)),
        Label(name="tumor core", values=(1, 3)),
        Label(name="enhancing tumor", values=(3,)),
    ),
    region_order=(2, 1, 3),
)
#: Shells of 110, 210 and 310 in 10.
TUMOUR = Phantom(
    base=10,  # where it is nothing, nothing is segmented
    ramp_per_mm=(0, 0, 0),
    ellipsoids=tuple(Ellipsoid(centre_mm=(3, -2, 4), radii_mm=(r, 0.9 * r, r - 1), value=100) for r in (14, 10, 6)),
)


class Shells(nn.Module):
    """Logits of three regions, each by itself, none of which is ever sure."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([(x - 50) / 60, (x - 150) / 60, (x - 250) / 60], dim=1)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return series(tmp_path / "scan", TUMOUR, shape=(33, 35), spacing_mm=(1.0, 1.0), step_mm=3.0, rescale=(1.0, 0.0))


def plan() -> Plan:
    return make_plan(spacing=(3.0, 1.0, 1.0), channels=(channel("none"),), labels=REGIONS)


def layers(dataset: pydicom.Dataset, made: Made) -> NDArray[np.int64]:
    """(segments, columns, rows, slices) of an object, in the order of the series."""
    found = np.zeros((len(dataset.SegmentSequence), *made.array().shape), int)
    heights = np.array([each.position_mm[2] for each in made.slices])
    for frame, pixels in zip(dataset.PerFrameFunctionalGroupsSequence, dataset.pixel_array, strict=True):
        at = np.abs(heights - frame.PlanePositionSequence[0].ImagePositionPatient[2]).argmin()
        found[frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber - 1, ..., at] = pixels.T
    return found


def test_regions_that_overlap_are_a_segment_each(made: Made, tmp_path: Path) -> None:
    case = Case(id="scan", images=(made.folder,))
    endings = (".nii.gz", ".seg.dcm", ".rtstruct.dcm")
    predictor = Predictor(plan(), [Shells()], torch.device("cpu"), mirror=False)
    writers = dicom_writers(tmp_path / "out", plan())
    outcomes = predict_cases([case], predictor, tmp_path / "out", endings=endings, writers=writers)
    assert [(outcome.status, outcome.message) for outcome in outcomes] == [("done", "")]
    values = io.read_label(tmp_path / "out" / "scan.nii.gz").array[0]
    scan = made.array()
    np.testing.assert_array_equal(values, np.select([scan > 250, scan > 150, scan > 50], [3, 1, 2]))
    dataset = pydicom.dcmread(tmp_path / "out" / "scan.seg.dcm")
    assert [segment.SegmentLabel for segment in dataset.SegmentSequence] == [label.name for label in REGIONS.foreground]
    for mask, label in zip(layers(dataset, made), REGIONS.foreground, strict=True):
        assert mask.any()
        np.testing.assert_array_equal(mask, np.isin(values, label.values), err_msg=label.name)
    contours = pydicom.dcmread(tmp_path / "out" / "scan.rtstruct.dcm")
    assert [roi.ROIName for roi in contours.StructureSetROISequence] == [label.name for label in REGIONS.foreground]


def test_probabilities_of_regions_are_stored_each(made: Made, tmp_path: Path) -> None:
    predictor = Predictor(plan(), [Shells()], torch.device("cpu"), mirror=False)
    writers = dicom_writers(tmp_path / "out", plan(), seg_type="fractional")
    case = Case(id="scan", images=(made.folder,))
    [outcome] = predict_cases([case], predictor, tmp_path / "out", endings=(".seg.dcm",), writers=writers)
    assert outcome.status == "done", outcome.message
    dataset = pydicom.dcmread(tmp_path / "out" / "scan.seg.dcm")
    for stored, middle in zip(layers(dataset, made), (50, 150, 250), strict=True):
        chances = 255 / (1 + np.exp((middle - made.array()) / 60))
        assert np.abs(stored - chances).max() <= 1


def test_object_that_cannot_be_read_back_fails_its_case_by_name(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = dicom_seg_write.segmentation

    def without_pixels(*given: Any, **named: Any) -> Any:
        written = write(*given, **named)
        del written.PixelData
        return written

    monkeypatch.setattr(dicom_seg_write, "segmentation", without_pixels)
    predictor = Predictor(plan(), [Shells()], torch.device("cpu"), mirror=False)
    case, out = Case(id="scan", images=(made.folder,)), tmp_path / "out"
    [outcome] = predict_cases(
        [case], predictor, out, endings=(".nii.gz", ".seg.dcm"), writers=dicom_writers(out, plan())
    )
    assert outcome.status == "failed"
    assert outcome.message.startswith(f"{out / 'scan.seg.dcm'}: what was written cannot be read back")
    assert not list(out.glob("scan*"))


def test_one_map_of_regions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--seg-type labelmap has one value per voxel, and whole tumor, tumor core"):
        dicom_writers(tmp_path, plan(), seg_type="labelmap")
