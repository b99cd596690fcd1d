#!/usr/bin/env bash
# SimpleITK applies the composites that uniGradICON writes, calls their parts AffineTransform, and cannot give them out.
#
# Guessed: a composite that SimpleITK reads and applies can be taken apart, to be written, inverted or converted.
# Happens: uniGradICON (icon_registration's create_itk_transform) puts a field between two CenteredAffineTransform of
# ITK. SimpleITK has no class of that kind, takes it for an AffineTransform, and raises "Transform is not of type
# AffineTransform!" from GetNthTransform. Points go through the whole as they do in ITK.
#
# SimpleITK 2.5.7, itk 5.4.7, NumPy 2.2.6, November 2026
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet SimpleITK==2.5.7 itk==5.4.7 numpy==2.2.6
venv/bin/python - <<'END_OF_PYTHON'
import itk
import SimpleITK as sitk

centred = itk.CenteredAffineTransform[itk.D, 3].New()
centred.SetCenter([5.0, 6.0, 7.0])
centred.Scale(2.0)
composite = itk.CompositeTransform[itk.D, 3].New()
composite.AddTransform(centred)
itk.transformwrite([composite], "t.h5")
point = (1.0, 2.0, 3.0)
read = sitk.ReadTransform("t.h5")
print("SimpleITK", sitk.Version_VersionString(), "ITK", itk.Version.GetITKVersion())
print("a point by ITK and by SimpleITK:", tuple(composite.TransformPoint(point)), read.TransformPoint(point))
assert tuple(composite.TransformPoint(point)) == read.TransformPoint(point)
try:
    print("its part:", read.GetNthTransform(0).GetName())
except RuntimeError as error:
    print("its part:", str(error).strip().splitlines()[-1])
    assert "not of type AffineTransform" in str(error)
else:
    raise SystemExit("it behaves otherwise now")
END_OF_PYTHON
