#!/usr/bin/env bash
# SimpleITK leaves the last pixels of a DICOM SEG undefined where its bits do not fill whole bytes.
#
# Guessed: a BINARY segmentation, with a frame for every slice, is read as 0 and 255 by SimpleITK, whatever its size.
# Happens: of 5 frames of 11 x 13 = 143 pixels, 715 bits, whole bytes alone are unpacked: the last 3 pixels are whatever lay in
# memory, of a mask that is full. Their values change from run to run. With 16 x 13 pixels all are right. highdicom reads both.
#
# SimpleITK 2.5.7, highdicom 0.28.2, pydicom 3.0.2, NumPy 2.4.6, November 2026
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet SimpleITK==2.5.7 highdicom==0.28.2 pydicom==3.0.2 numpy==2.4.6
cp "$here/dicom_input.py" .
venv/bin/python - <<'END'
from importlib.metadata import version
from pathlib import Path

import dicom_input
import highdicom
import numpy as np
import SimpleITK as sitk
from pydicom.sr.codedict import codes

ALGORITHM = highdicom.AlgorithmIdentificationSequence(
    name="script", version="1", family=codes.DCM.ArtificialIntelligence
)
print("SimpleITK", sitk.Version_VersionString(), "highdicom", version("highdicom"))
for rows in (16, 11):
    mask = np.zeros((5, rows, 13), bool)
    mask[:] = True
    corners = [(0, 0, 2 * k) for k in range(5)]
    source = dicom_input.slices(Path(f"ct{rows}"), np.full(mask.shape, 100), corners)
    segment = highdicom.seg.SegmentDescription(
        segment_number=1,
        segment_label="box",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Neoplasm,
        algorithm_type="AUTOMATIC",
        algorithm_identification=ALGORITHM,
    )
    highdicom.seg.Segmentation(
        source,
        mask,
        "BINARY",
        [segment],
        series_instance_uid=highdicom.UID(),
        series_number=2,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="script",
        manufacturer_model_name="script",
        software_versions="1",
        device_serial_number="1",
        omit_empty_frames=False,
    ).save_as("seg.dcm")
    right = highdicom.seg.segread("seg.dcm").get_volume(combine_segments=True).array
    seen = sitk.GetArrayFromImage(sitk.ReadImage("seg.dcm"))
    assert seen.shape == mask.shape
    assert right.sum() == mask.sum()
    print(f"{rows} x 13 pixels, full: expected 255 everywhere, seen otherwise in {(seen != 255).sum()} pixels: {seen.ravel()[-8:]}")
    if rows == 16:
        assert (seen == 255).all()
    else:
        assert (seen.ravel()[:-3] == 255).all()
        assert (seen.ravel()[-3:] != 255).any(), "it behaves otherwise now"
END
