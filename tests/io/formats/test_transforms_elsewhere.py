"""One pair, askew in every way, through the transforms that we write: by us, SimpleITK, and all that is there to ask.

`make test-transforms` installs the packages of Python. ANTs and NiTransforms are asked where they can be imported,
those that come with libraries of their own in a process each, programs where they are on the path. Nothing of ours
depends on them.
"""

from __future__ import annotations

import os
import shutil
import site
import subprocess
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from medmamba import io
from medmamba.io.formats.transforms import read_transform, write_transform
from medmamba.transform import Transform, is_inside, resample, voxel_positions
from medmamba.volume import FloatArray, Geometry, Volume
from tests.transform_factory import FLIP, oblique, smooth_field, tilt

FIXED = oblique((30, 34, 17), 3, axes="jiK", spacing=1.6)
MOVING = oblique((29, 33, 25), 2, axes="kIj", spacing=1.7)
#: On another grid than either image, which reaches beyond both.
FIELD = smooth_field(oblique((20, 17, 15), 5, axes="Jki", spacing=4.5), 4, mm=5)
WHOLE = Transform((FIELD, tilt()))
OUTSIDE = -1000.0

#: A folder of environments, each with one package and under its name.
READERS = Path(os.environ.get("MEDMAMBA_READERS", ".readers")).absolute()
for packages in sorted(READERS.glob("antspyx/lib/*/site-packages")) + sorted(READERS.glob("nitransforms/lib/*/site-*")):
    site.addsitedir(str(packages))  # behind our own


def smooth(geometry: Geometry) -> Volume:
    """Slow waves of 1000 from peak to peak, of which a tenth of a voxel makes a difference of many."""
    places = positions(geometry)
    wave = (
        np.sin(places @ (0.12, 0.05, -0.04)) + np.cos(places @ (-0.03, 0.1, 0.06)) + np.sin(places @ (0.02, 0.03, 0.14))
    )
    return Volume((wave * 170).reshape(1, *geometry.shape).astype(np.float32), geometry)


def positions(geometry: Geometry) -> FloatArray:
    index = np.stack(np.meshgrid(*map(np.arange, geometry.shape), indexing="ij"), -1).reshape(-1, 3)
    return np.asarray(index @ geometry.affine[:3, :3].T + geometry.affine[:3, 3])


def well_inside() -> np.ndarray:
    """Voxels of the fixed grid that come from at least a voxel inside the moving image."""
    there = voxel_positions(MOVING, WHOLE.points(positions(FIXED)))
    inside = ((there >= 1) & (there <= np.array(MOVING.shape) - 2)).all(axis=1)
    assert is_inside(voxel_positions(FIELD.geometry, positions(FIXED)), FIELD.geometry).all()
    assert 0.4 < inside.mean() < 1
    return np.asarray(inside.reshape(FIXED.shape))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    io.write(smooth(FIXED), folder / "fixed.nii.gz")
    io.write(smooth(MOVING), folder / "moving.nii.gz")
    for name in ("whole.h5", "whole.tfm"):
        write_transform(WHOLE, folder / name)
    for step, names in zip(WHOLE.steps, (("field.nii.gz", "field.h5"), ("affine.mat", "affine.tfm")), strict=True):
        for name in names:
            write_transform(Transform((step,)), folder / name)
    # NiTransforms bends fields by cubic splines between their voxels, and so agrees at those only.
    write_transform(Transform((WHOLE.displacement(FIXED),)), folder / "whole_at_voxels.nii.gz")
    write_transform(Transform((Transform((FIELD,)).displacement(FIXED),)), folder / "field_at_voxels.nii.gz")
    return folder


@pytest.fixture(scope="module")
def ours(folder: Path) -> np.ndarray:
    return resample(io.read(folder / "moving.nii.gz"), WHOLE, FIXED, outside=OUTSIDE).array[0]


def check(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Interpolation noise: the worst voxel inside differs by less than a hundredth of a percent of the range."""
    inside = well_inside()
    worst = float(np.abs(ours - theirs)[inside].max())
    print(f"worst voxel inside: {worst:.3g} of a range of {np.ptp(ours[inside]):.0f}, {inside.sum()} voxels")
    assert worst < 0.1
    assert np.ptp(ours[inside]) > 800


@pytest.mark.parametrize("name", ["whole.h5", "whole.tfm", "whole_at_voxels.nii.gz"])
def test_simpleitk_makes_the_same_image(folder: Path, ours: np.ndarray, name: str) -> None:
    moving, fixed = (sitk.ReadImage(str(folder / f"{each}.nii.gz")) for each in ("moving", "fixed"))
    if name.endswith(".nii.gz"):
        transform = sitk.DisplacementFieldTransform(sitk.ReadImage(str(folder / name), sitk.sitkVectorFloat64))
    else:
        transform = sitk.ReadTransform(str(folder / name))
    theirs = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, transform, sitk.sitkLinear, OUTSIDE)).transpose(
        2, 1, 0
    )
    check(ours, theirs)
    assert ((ours == OUTSIDE) == (theirs == OUTSIDE)).mean() > 0.999


@pytest.mark.parametrize(
    "names",
    [
        ["field.nii.gz", "affine.mat"],
        ["field.h5", "affine.tfm"],
        ["whole.h5"],
        ["whole.tfm"],
        ["whole_at_voxels.nii.gz"],
    ],
)
def test_ants_makes_the_same_image(folder: Path, ours: np.ndarray, names: list[str]) -> None:
    ants = pytest.importorskip("ants", reason="no antspyx (pip install antspyx) to ask")
    fixed, moving = (ants.image_read(str(folder / f"{name}.nii.gz")) for name in ("fixed", "moving"))
    theirs = ants.apply_transforms(
        fixed,
        moving,
        [str(folder / name) for name in names],
        interpolator="linear",
        whichtoinvert=[False] * len(names),
        defaultvalue=OUTSIDE,
    )
    check(ours, theirs.numpy())


@pytest.mark.parametrize("names", [["field_at_voxels.nii.gz", "affine.tfm"], ["whole_at_voxels.nii.gz"]])
def test_nitransforms_makes_the_same_image(folder: Path, ours: np.ndarray, names: list[str]) -> None:
    chain = by_nitransforms(folder, names)
    from nitransforms.resampling import apply

    moving = nibabel.load(folder / "moving.nii.gz")
    moved = apply(chain, moving, reference=folder / "fixed.nii.gz", order=1, mode="constant", cval=OUTSIDE)
    check(ours, np.asarray(moved.get_fdata()))


def by_nitransforms(folder: Path, names: list[str]) -> Any:
    """A chain of NiTransforms, of which the first acts first."""
    nitransforms = pytest.importorskip("nitransforms", reason="no nitransforms (pip install nitransforms) to ask")
    kinds = {".tfm": nitransforms.linear.Affine, ".gz": nitransforms.nonlinear.DenseFieldTransform}
    steps = [kinds[Path(name).suffix].from_filename(folder / name, fmt="itk") for name in names]
    return nitransforms.manip.TransformChain(steps)


def test_points_go_forwards_and_backwards_alike_in_lps_and_ras(folder: Path) -> None:
    inside = positions(FIXED)[well_inside().ravel()][::17]
    there = read_transform(folder / "whole.h5").points(inside)
    for name in ("whole.h5", "whole.tfm"):
        theirs = sitk.ReadTransform(str(folder / name))
        lps = np.array([theirs.TransformPoint(place) for place in (inside @ FLIP).tolist()])
        np.testing.assert_allclose(lps @ FLIP, there, atol=1e-9)
    np.testing.assert_allclose(WHOLE.points_back(there), inside, atol=1e-3)
    back, residual_mm = WHOLE.inverse()
    assert residual_mm < 1e-3
    write_transform(back, folder / "inverse.h5")
    theirs = sitk.ReadTransform(str(folder / "inverse.h5"))
    lps = np.array([theirs.TransformPoint(place) for place in (there @ FLIP).tolist()])
    np.testing.assert_allclose(lps @ FLIP, back.points(there), atol=1e-6)
    assert np.linalg.norm(lps @ FLIP - inside, axis=1).max() < 0.5  # between voxels of 4.5 to 7.7 mm


def test_ants_takes_points_to_the_same_places(folder: Path) -> None:
    ants = pytest.importorskip("ants", reason="no antspyx (pip install antspyx) to ask")
    import pandas

    inside = positions(FIXED)[well_inside().ravel()][::17]
    table = pandas.DataFrame(inside @ FLIP, columns=list("xyz"))
    names = [str(folder / name) for name in ("field.nii.gz", "affine.mat")]
    theirs = ants.apply_transforms_to_points(3, table, names, whichtoinvert=[False, False])
    there = theirs[["x", "y", "z"]].to_numpy() @ FLIP
    worst = float(np.linalg.norm(there - WHOLE.points(inside), axis=1).max())
    print(f"worst point: {worst:.3g} mm of {len(inside)}")
    assert worst < 1e-3


def test_nitransforms_takes_points_to_the_same_places(folder: Path) -> None:
    chain = by_nitransforms(folder, ["field_at_voxels.nii.gz", "affine.tfm"])
    inside = positions(FIXED)[well_inside().ravel()][::17]
    worst = float(np.linalg.norm(chain.map(inside) - WHOLE.points(inside), axis=1).max())
    print(f"worst point: {worst:.3g} mm of {len(inside)}")
    assert worst < 1e-3


#: By programs: field.nii.gz of a pair, as `medmamba register` writes it, into out.nii.gz.
COMMANDS = {
    "plastimatch": "plastimatch warp --input moving.nii.gz --fixed fixed.nii.gz --xf FIELD --output-img out.nii.gz "
    "--output-type float",
    "wb_command": "wb_command -convert-warpfield -from-itk FIELD -to-world world.nii.gz && wb_command "
    "-volume-warpfield-resample moving.nii.gz world.nii.gz fixed.nii.gz TRILINEAR out.nii.gz",
    "mrtransform": "mrconvert -quiet FIELD -axes 0,1,2,4 lps.mif && "
    "mrcalc -quiet lps.mif -1 -mult - | mrconvert -quiet - -coord 3 0:1 xy.mif && "
    "mrconvert -quiet lps.mif -coord 3 2 z.mif && mrcat -quiet xy.mif z.mif -axis 3 ras.mif && "
    "warpconvert -quiet ras.mif displacement2deformation warp.mif && "
    "mrtransform -quiet moving.nii.gz -warp warp.mif -interp linear out.nii.gz",
}


@pytest.mark.parametrize("program", COMMANDS)
def test_programs_make_the_same_image(folder: Path, ours: np.ndarray, tmp_path: Path, program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"no {program} on the path (apt install plastimatch connectome-workbench mrtrix3) to ask")
    for name in ("fixed", "moving"):
        shutil.copy(folder / f"{name}.nii.gz", tmp_path)
    command = COMMANDS[program].replace("FIELD", str(folder / "whole_at_voxels.nii.gz"))
    subprocess.run(command, shell=True, check=True, cwd=tmp_path, capture_output=True)
    check(ours, on_fixed_axes(tmp_path / "out.nii.gz"))


def on_fixed_axes(path: Path) -> np.ndarray:
    """An image of the fixed grid, which some programs store with its axes in another order."""
    found, orientation = nibabel.load(path), nibabel.orientations.io_orientation
    turn = nibabel.orientations.ornt_transform(orientation(found.affine), orientation(FIXED.affine))
    turned = found.as_reoriented(turn)
    np.testing.assert_allclose(turned.affine, FIXED.affine, atol=1e-5)
    return np.asarray(turned.get_fdata().squeeze())


#: By packages of Python, each in its own environment. The first argument is the folder, to be read only.
SCRIPTS = {
    "fslpy": """
import nibabel
from fsl.data.image import Image
from fsl.transform.fnirt import readFnirt, toFnirt
from fsl.transform.nonlinear import DeformationField, applyDeformation

field = nibabel.load(f"{folder}/whole_at_voxels.nii.gz")
fixed, moving = Image(f"{folder}/fixed.nii.gz"), Image(f"{folder}/moving.nii.gz")
ras = (field.get_fdata()[:, :, :, 0] * [-1, -1, 1]).astype("float32")
spaces = {"srcSpace": "world", "refSpace": "world", "defType": "relative"}
toFnirt(DeformationField(ras, xform=field.affine, src=moving, ref=fixed, **spaces)).save("warp.nii.gz")
moved = applyDeformation(moving, readFnirt("warp.nii.gz", moving, fixed), ref=fixed, order=1, mode="constant")
nibabel.save(nibabel.Nifti1Image(moved.astype("float32"), fixed.voxToWorldMat), "out.nii.gz")
""",
    "picsl_c3d": """
from picsl_c3d import Convert3D

Convert3D().execute(
    f"{folder}/fixed.nii.gz -popas F -mcs {folder}/whole_at_voxels.nii.gz -popas Z -popas Y -popas X "
    f"-push F -push X -push Y -push Z {folder}/moving.nii.gz -warp -o out.nii.gz"
)
""",
    "picsl_greedy": """
from picsl_greedy import Greedy3D

Greedy3D().execute(
    f"-threads 1 -rf {folder}/fixed.nii.gz -ri LINEAR -rm {folder}/moving.nii.gz out.nii.gz "
    f"-r {folder}/field.nii.gz {folder}/affine.tfm"
)
""",
    "itk-elastix": """
import itk

fixed, moving = (itk.imread(f"{folder}/{name}.nii.gz", itk.F) for name in ("fixed", "moving"))
settings = itk.ParameterObject.New()
stage = settings.GetDefaultParameterMap("translation")
stage["MaximumNumberOfIterations"], stage["NumberOfResolutions"] = ["0"], ["1"]
stage["AutomaticTransformInitialization"] = ["false"]
stage["ResampleInterpolator"] = ["FinalLinearInterpolator"]
settings.AddParameterMap(stage)
elastix = itk.ElastixRegistrationMethod[type(fixed), type(moving)].New()
elastix.SetFixedImage(fixed)
elastix.SetMovingImage(moving)
elastix.SetParameterObject(settings)
elastix.SetExternalInitialTransform(itk.transformread(f"{folder}/whole.h5")[0])
elastix.LogToConsoleOff()
elastix.UpdateLargestPossibleRegion()
itk.imwrite(elastix.GetOutput(), "out.nii.gz")
""",
}


@pytest.mark.parametrize("package", SCRIPTS)
def test_packages_make_the_same_image(folder: Path, ours: np.ndarray, tmp_path: Path, package: str) -> None:
    run_in(package, SCRIPTS[package], folder, tmp_path)
    check(ours, on_fixed_axes(tmp_path / "out.nii.gz"))


def run_in(package: str, script: str, folder: Path, at: Path) -> None:
    python = READERS / package / "bin" / "python"
    if not python.exists():
        pytest.skip(f"no {package} in {READERS} (make test-transforms) to ask")
    script = f"folder = {str(folder)!r}\n{script}"
    ran = subprocess.run([python, "-c", script], cwd=at, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]


SLICER = """
import numpy as np
import slicer
import vtk

scene, node, storage = slicer.vtkMRMLScene(), slicer.vtkMRMLTransformNode(), slicer.vtkMRMLTransformStorageNode()
scene.AddNode(node)
scene.AddNode(storage)
storage.SetFileName(f"{folder}/whole_at_voxels.nii.gz")
assert storage.ReadData(node)
for name in ("From", "To"):
    transform = vtk.vtkGeneralTransform()
    getattr(node, f"GetTransform{name}World")(transform)
    np.save(f"{name}.npy", [transform.TransformPoint(point) for point in np.load(f"points_{name}.npy")])
"""


def test_slicer_takes_points_to_the_same_places_and_back(folder: Path, tmp_path: Path) -> None:
    """Forwards at voxels of the field, between which Slicer bends it by cubic splines; back as well as it inverts."""
    inside = positions(FIXED)[well_inside().ravel()][::17]
    there = WHOLE.points(inside)
    np.save(tmp_path / "points_From.npy", inside)
    np.save(tmp_path / "points_To.npy", there)
    run_in("slicer-core", SLICER, folder, tmp_path)
    assert np.linalg.norm(np.load(tmp_path / "From.npy") - there, axis=1).max() < 1e-4
    assert np.linalg.norm(np.load(tmp_path / "To.npy") - inside, axis=1).max() < 0.05
