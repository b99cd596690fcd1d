#!/usr/bin/env bash
# elastix starts from a field or a composite of ITK; what it then writes has lost it for transformix, which says nothing.
#
# Guessed: TransformParameters.0.txt names the initial transform, which elastix has written beside it, and transformix
# gives the image that elastix gave.
# Happens: with an affine map it does. With a displacement field, or with a composite of even one affine map,
# transformix ends without an exception, and gives the image as if there had been no initial transform; its log has an
# "Error: " among the rest.
#
# itk-elastix 0.25.4, NumPy 2.2.6, November 2026
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet itk-elastix==0.25.4 numpy==2.2.6
venv/bin/python - <<'END_OF_PYTHON'
import os
from importlib.metadata import version
from pathlib import Path

import itk
import numpy as np

z, y, x = np.mgrid[:24, :24, :24].astype(np.float32)
image = itk.image_from_array(100 * np.exp(-((x - 12) ** 2 + (y - 12) ** 2 + (z - 12) ** 2) / 20))


def centre_x(image):
    array = itk.array_from_image(image)
    return round(float((array * x).sum() / array.sum()), 1)


affine = itk.AffineTransform[itk.D, 3].New()
affine.Translate([3.0, 0.0, 0.0])
composite = itk.CompositeTransform[itk.D, 3].New()
composite.AddTransform(affine)
field = itk.DisplacementFieldTransform[itk.D, 3].New()
vectors = np.zeros((24, 24, 24, 3))
vectors[..., 0] = 3
field.SetDisplacementField(itk.image_view_from_array(vectors, ttype=itk.Image[itk.Vector[itk.D, 3], 3]))
seen, here = {}, Path.cwd()
for name, initial in (("affine", affine), ("composite", composite), ("field", field)):
    folder = here / name
    folder.mkdir()
    settings = itk.ParameterObject.New()
    stage = settings.GetDefaultParameterMap("translation")
    stage["MaximumNumberOfIterations"], stage["NumberOfResolutions"] = ["0"], ["1"]
    stage["AutomaticTransformInitialization"] = ["false"]
    settings.AddParameterMap(stage)
    elastix = itk.ElastixRegistrationMethod[type(image), type(image)].New()
    elastix.SetFixedImage(image)
    elastix.SetMovingImage(image)
    elastix.SetParameterObject(settings)
    elastix.SetExternalInitialTransform(initial)
    elastix.SetOutputDirectory(str(folder))
    elastix.LogToConsoleOff()
    elastix.UpdateLargestPossibleRegion()
    os.chdir(folder)  # the files name one another without a folder
    written = itk.ParameterObject.New()
    written.ReadParameterFile("TransformParameters.0.txt")
    transformix = itk.TransformixFilter[type(image)].New()
    transformix.SetMovingImage(image)
    transformix.SetTransformParameterObject(written)
    transformix.SetOutputDirectory(str(folder))
    transformix.LogToConsoleOff()
    transformix.UpdateLargestPossibleRegion()
    seen[name] = centre_x(elastix.GetOutput()), centre_x(transformix.GetOutput())
print("itk-elastix", version("itk-elastix"))
print("blob at x = 12, moved by 3 voxels to 9; elastix's image and transformix's:", seen)
assert seen["affine"] == (9.0, 9.0)
assert seen["composite"] == seen["field"] == (9.0, 12.0), "it behaves otherwise now"
END_OF_PYTHON
