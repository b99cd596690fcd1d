#!/usr/bin/env bash
# GDCM's spacing of an ultrasound image is in centimetres, or in whatever unit its first region has.
#
# Guessed: the spacing that GDCM returns of any image is in mm; of ultrasound, from the region that shows tissue.
# Happens: it returns PhysicalDeltaX and PhysicalDeltaY of the first region as they are. With cm, the only unit of length
# there, lengths come out a tenth and areas a hundredth of what they are; where the trace of a Doppler comes first, the
# spacing is in seconds and cm/s, and negative. A PixelSpacing in the same file, which is in mm, is ignored. SimpleITK, which
# reads by GDCM, takes PixelSpacing, and 1 mm where there is none.
#
# python-gdcm 3.2.6, SimpleITK 2.5.7, pydicom 3.0.2, NumPy 2.4.6, November 2026
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet python-gdcm==3.2.6 SimpleITK==2.5.7 pydicom==3.0.2 numpy==2.4.6
cp "$here/dicom_input.py" .
venv/bin/python - <<'END'
import dicom_input
import gdcm
import numpy as np
import SimpleITK as sitk
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundMultiFrameImageStorage

TISSUE = {"RegionSpatialFormat": 1, "RegionDataType": 1, "PhysicalUnitsXDirection": 3, "PhysicalUnitsYDirection": 3}
DOPPLER = {"RegionSpatialFormat": 3, "RegionDataType": 3, "PhysicalUnitsXDirection": 4, "PhysicalUnitsYDirection": 7}


def region(rows, dx, dy, **attributes):
    place = {"RegionLocationMinX0": 0, "RegionLocationMinY0": rows[0]}
    end = {"RegionLocationMaxX1": 31, "RegionLocationMaxY1": rows[1] - 1, "RegionFlags": 0}
    return dicom_input.item(**attributes, **place, **end, PhysicalDeltaX=dx, PhysicalDeltaY=dy)


def write(file, regions, **attributes):
    clip = dicom_input.identity(UltrasoundMultiFrameImageStorage, "clip")
    clip.file_meta = FileMetaDataset()
    clip.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    more = {"Modality": "US", "NumberOfFrames": 3, "FrameTime": "40", "FrameIncrementPointer": 0x00181063, **attributes}
    for keyword, value in more.items():
        setattr(clip, keyword, value)
    clip.SequenceOfUltrasoundRegions = regions
    del clip.FrameOfReferenceUID, clip.PositionReferenceIndicator
    dicom_input.with_pixels(clip, np.zeros((3, 24, 32)))
    clip.save_as(file, enforce_file_format=True)


def spacings(file):
    reader = gdcm.ImageReader()
    reader.SetFileName(file)
    assert reader.Read()
    image = reader.GetImage()
    return [image.GetSpacing(axis) for axis in range(2)], list(sitk.ReadImage(file).GetSpacing()[:2])


tissue, doppler = region((0, 12), 0.05, 0.02, **TISSUE), region((12, 24), 0.001, -2.0, **DOPPLER)
write("tissue.dcm", [tissue, doppler])
write("doppler.dcm", [doppler, tissue])
write("both.dcm", [tissue], PixelSpacing=[0.2, 0.5])
seen = {}
print("GDCM", gdcm.Version.GetVersion(), "SimpleITK", sitk.Version_VersionString())
print("pixels of 0.05 x 0.02 cm, which are 0.5 x 0.2 mm")
for file in ("tissue.dcm", "doppler.dcm", "both.dcm"):
    seen[file] = spacings(file)
    print(f"    {file}: GDCM {seen[file][0]}, SimpleITK {seen[file][1]}")
expected = {
    "tissue.dcm": ([0.05, 0.02], [1, 1]),
    "doppler.dcm": ([0.001, -2.0], [1, 1]),
    "both.dcm": ([0.05, 0.02], [0.5, 0.2]),
}
assert seen == expected, "it behaves otherwise now"
END
