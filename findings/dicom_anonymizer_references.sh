#!/usr/bin/env bash
# dicom-anonymizer leaves a DICOM SEG pointing at slices that are no longer there.
#
# Guessed: scan and segmentation, made anonymous in one run, get new UIDs that still fit: the segmentation's frames refer to
# the new UIDs of its slices.
# Happens: the UIDs of both objects are new, those that the SEG names for each frame and for its series are the old ones. No
# viewer finds the slices by reference any more, and readers that index frames by source find nothing.
#
# dicom-anonymizer 2.1.0, highdicom 0.28.2, pydicom 3.0.2, NumPy 2.4.6, November 2026
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet dicom-anonymizer==2.1.0 highdicom==0.28.2 pydicom==3.0.2 numpy==2.4.6
cp "$here/dicom_input.py" .
venv/bin/python - <<'END'
from importlib.metadata import version
from pathlib import Path

import dicom_input
import highdicom
import numpy as np
import pydicom
from dicomanonymizer import anonymize_dataset
from pydicom.sr.codedict import codes

ALGORITHM = highdicom.AlgorithmIdentificationSequence(
    name="script", version="1", family=codes.DCM.ArtificialIntelligence
)
SEGMENT = highdicom.seg.SegmentDescription(
    segment_number=1,
    segment_label="box",
    segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
    segmented_property_type=codes.SCT.Neoplasm,
    algorithm_type="AUTOMATIC",
    algorithm_identification=ALGORITHM,
)
ABOUT = {
    "series_instance_uid": highdicom.UID(),
    "series_number": 2,
    "sop_instance_uid": highdicom.UID(),
    "instance_number": 1,
    "manufacturer": "script",
    "manufacturer_model_name": "script",
    "software_versions": "1",
    "device_serial_number": "1",
}

source = dicom_input.slices(Path("ct"), np.full((4, 16, 16), 100), [(0, 0, 2 * k) for k in range(4)])
mask = np.zeros((4, 16, 16), bool)
mask[:, 4:12, 4:12] = True
highdicom.seg.Segmentation(source, mask, "BINARY", [SEGMENT], **ABOUT).save_as("seg.dcm")
before = {image.SOPInstanceUID for image in source}
seg = pydicom.dcmread("seg.dcm")
for dataset in (*source, seg):
    anonymize_dataset(dataset)
after = {image.SOPInstanceUID for image in source}
named = {
    frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
    for frame in seg.PerFrameFunctionalGroupsSequence
}
of_series = seg.ReferencedSeriesSequence[0].SeriesInstanceUID == source[0].SeriesInstanceUID
print("dicom-anonymizer", version("dicom-anonymizer"), "highdicom", version("highdicom"))
print(f"slices that the frames name: {len(named)}; expected all among the new ones, seen {len(named & after)} of them")
print(f"old ones among them: {len(named & before)}; the series that it names is the new one: {of_series}")
assert seg.FrameOfReferenceUID == source[0].FrameOfReferenceUID
assert not before & after
assert not named & after, "it behaves otherwise now"
END
