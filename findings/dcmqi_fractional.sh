#!/usr/bin/env bash
# dcmqi gives probabilities of a DICOM SEG as whole numbers to 255.
#
# Guessed: segimage2itkimage converts a FRACTIONAL segmentation to what it says, 0.2 and 0.6, or at least to 0 and 1.
# Happens: 51 and 153, the numbers as they are stored, in an image of integers: MaximumFractionalValue is not divided by. Of
# BINARY it gives 0 and the segment's number, so a threshold that suits one kind does not suit the other.
#
# dcmqi 1.5.7, highdicom 0.28.2, pydicom 3.0.2, SimpleITK 2.5.7, NumPy 2.4.6, November 2026
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet dcmqi==1.5.7 highdicom==0.28.2 pydicom==3.0.2 SimpleITK==2.5.7 numpy==2.4.6
cp "$here/dicom_input.py" .
venv/bin/python - <<'END'
import subprocess
from pathlib import Path

import dicom_input
import highdicom
import numpy as np
import SimpleITK as sitk
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
probability = np.zeros((4, 16, 16), np.float32)
probability[:, 4:12, 4:12] = 0.2
probability[:, 6:10, 6:10] = 0.6
highdicom.seg.Segmentation(source, probability, "FRACTIONAL", [SEGMENT], **ABOUT).save_as("seg.dcm")
right = np.unique(highdicom.seg.segread("seg.dcm").get_volume().array.round(3))
command = "venv/bin/segimage2itkimage --inputDICOM seg.dcm --outputDirectory . --prefix seg -t nrrd".split()
told = subprocess.run(command, capture_output=True, text=True)
seen = np.unique(sitk.GetArrayFromImage(sitk.ReadImage("seg-1.nrrd"))).tolist()
print(f"probabilities 0, 0.2, 0.6: highdicom {right}, dcmqi (exit code {told.returncode}) {seen}")
assert np.allclose(right, [0, 0.2, 0.6], atol=0.005)
assert seen == [0, 51, 153], "it behaves otherwise now"
END
