"""Transforms as other software reads and writes them: ITK's files, and displacement fields as images.

`medmamba.transform` says what comes out: maps of points of the fixed image to the moving one, RAS millimetres, the
first step acts first. Files are in ITK's frame, LPS; in a composite of ITK the last transform acts first. What is
written is read back by SimpleITK, which must take the same points to the same places.

Of fields as NIfTI, ITK since 5.4 takes the vectors of intent 1007 (VECTOR) as they are, in LPS, and those of 1006
(DISPVECT) for RAS. Four-dimensional ones are refused: FSL, MRtrix and VoxelMorph mean different things by them.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from SimpleITK import _SimpleITK

from medmamba.files import replacing_all
from medmamba.io.errors import ImageFileError, TransformFileError
from medmamba.io.formats._text_header import TextHeader
from medmamba.io.formats.format import MAX_VOXELS
from medmamba.io.formats.itk import METAIMAGE, NRRD, Itk, check_room, last_line, lps_to_ras, plain_name
from medmamba.io.formats.nifti import NIFTI
from medmamba.transform import Affine, Field, Transform
from medmamba.volume import Geometry

#: Endings of what ITK calls a transform, and of those among them that hold a composite with fields.
ITK_SUFFIXES = (".h5", ".hdf5", ".tfm", ".txt", ".mat")
_OF_COMPOSITES = (".h5", ".hdf5", ".tfm", ".txt")
#: What is read back must take points to within so many millimetres of where the transform does: headers of NIfTI round.
_WRITTEN_WITHIN_MM = 2e-3
_TRIED_POINTS = 500
_DISPVECT, _VECTOR = 1006, 1007
_LPS = np.array([-1.0, -1.0, 1.0])
_FSL = range(2006, 2020)


def read_transform(path: Path) -> Transform:
    """Read a transform.

    Args:
        path: of ITK (.h5, .hdf5, .tfm, .txt, .mat), or a field as NIfTI, MetaImage or NRRD with three components.

    Returns:
        From the fixed to the moving image, as software reads it that resamples by it.

    Raises:
        FileNotFoundError: if there is no such file.
        TransformFileError: if it is no transform that can be applied and inverted, saying why.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file of a transform")
    if path.name.lower().endswith(ITK_SUFFIXES):
        return Transform(tuple(_read_itk(path)))
    with path.open("rb") as file:
        start = file.read(256)
    try:
        if NIFTI.recognises(path, start):
            return Transform((_read_nifti(path),))
        for known in (NRRD, METAIMAGE):
            if path.name.lower().endswith(known.suffixes) and known.recognises(path, start):
                return Transform((_read_vectors(path, known),))
    except ImageFileError as error:
        raise TransformFileError(path, error.reason) from error
    raise TransformFileError(
        path, f"transforms end in {', '.join((*ITK_SUFFIXES, '.nii.gz', '.nii', '.mha', '.nrrd'))}; convert it to one"
    )


def write_transform(transform: Transform, path: Path) -> None:
    """Write a transform, and have SimpleITK read it back.

    Args:
        transform: from the fixed to the moving image.
        path: .h5 (or .hdf5) holds any; .tfm (or .txt) too, as text, a field in about 2.5 times the bytes; .mat affine
            maps; .nii.gz (or .nii) one field, as a whole transform becomes by `Transform.displacement`.

    Raises:
        FileNotFoundError: if the folder does not exist.
        TransformFileError: if the suffix is unknown or its files cannot hold this transform, or if SimpleITK reads back
            another one.
        OSError: if the disk is full or does not allow it.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: there is no such folder to write {path.name} into")
    write = _writer(transform, path)
    with replacing_all(path) as temporary:
        try:
            with plain_name(temporary) as name:
                write(name)
                worst_mm = _apart_mm(transform, _by_simpleitk(name))
        except RuntimeError as error:
            check_room(temporary, path, _most_bytes(transform), error)
            raise TransformFileError(path, f"it cannot be written ({last_line(error)})") from error
        if not worst_mm <= _WRITTEN_WITHIN_MM:
            raise TransformFileError(
                path,
                f"SimpleITK reads back a transform that takes points up to {worst_mm:.3g} mm elsewhere, so it was not "
                "written; files of ITK do not keep a grid with shear, so have the field on one without",
            )


def _most_bytes(transform: Transform) -> int:
    """More than a file of it takes, text included."""
    return sum(30 * step.vectors_mm.size for step in transform.steps if isinstance(step, Field)) + 2**16


def _writer(transform: Transform, path: Path) -> Callable[[str], None]:
    """What writes a transform to a file of this name."""
    name, fields = path.name.lower(), [step for step in transform.steps if isinstance(step, Field)]
    if name.endswith((".nii", ".nii.gz")):
        if len(transform.steps) != 1 or not fields:
            raise TransformFileError(
                path, "an image holds one field, not a composite; write .h5, or all of it as one field on a grid"
            )
        return lambda file: _write_nifti(fields[0], Path(file))
    if not name.endswith(ITK_SUFFIXES):
        raise TransformFileError(path, f"transforms end in {', '.join((*ITK_SUFFIXES, '.nii.gz', '.nii'))}")
    if not name.endswith(_OF_COMPOSITES) and (fields or len(transform.steps) > 1):
        raise TransformFileError(path, "a .mat file of ITK holds one affine map only; write .h5 or .tfm")
    return lambda file: sitk.WriteTransform(to_simpleitk(transform), file)


def to_simpleitk(transform: Transform) -> Any:
    """The same for SimpleITK: a lone step as it is, several as a composite, whose last one acts first."""
    steps = [_to_itk(step) for step in transform.steps or (Affine(np.eye(4)),)]
    if len(steps) == 1:
        return steps[0]
    composite = sitk.CompositeTransform(3)
    for step in reversed(steps):
        composite.AddTransform(step)
    return composite


def _to_itk(step: Affine | Field) -> Any:
    if isinstance(step, Affine):
        matrix = lps_to_ras(lps_to_ras(step.matrix).T).T  # the same flip on either side, as points go in and come out
        return sitk.AffineTransform(matrix[:3, :3].ravel().tolist(), matrix[:3, 3].tolist(), (0.0, 0.0, 0.0))
    affine = lps_to_ras(step.geometry.affine)
    vectors = _flipped(step.vectors_mm).transpose(3, 2, 1, 0).astype(np.float64, order="C")
    image = sitk.GetImageFromArray(vectors, isVector=True)
    image.SetSpacing(step.geometry.spacing_mm)
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / np.array(step.geometry.spacing_mm)).ravel().tolist())
    return sitk.DisplacementFieldTransform(image)


class _Heard(sitk.LoggerBase):  # type: ignore[misc]  # SimpleITK has no types
    """Keeps what ITK warns of, which it prints otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.words = ""

    def __enter__(self) -> _Heard:
        self._before = self.SetAsGlobalITKLogger()
        return self

    def __exit__(self, *_: object) -> None:
        self._before.SetAsGlobalITKLogger()

    def DisplayWarningText(self, text: str) -> None:
        self.words += text

    DisplayErrorText = DisplayText = DisplayGenericOutputText = DisplayDebugText = DisplayWarningText


def _read_itk(path: Path) -> list[Affine | Field]:
    try:
        with plain_name(path) as name, _Heard() as heard:
            found = _SimpleITK.ReadTransform(name)
    except RuntimeError as error:
        raise TransformFileError(path, f"ITK cannot read it as a transform ({last_line(error)})") from error
    if "more than one transform" in heard.words:
        raise TransformFileError(
            path,
            "it holds several transforms that are not joined in a composite, of which ITK reads the first only; "
            "write one file each, and give them in the order in which they act",
        )
    if found.GetDimension() != 3:
        raise TransformFileError(path, f"this is a transform of {found.GetDimension()}D images, not of 3D ones")
    return _steps(path, found)


def _steps(path: Path, transform: Any) -> list[Affine | Field]:
    """The steps of a transform of ITK, composites in composites made flat.

    What SimpleITK has no class for it applies, but gives out neither alone nor as a part, such as the centred affine
    maps of uniGradICON; underneath its own classes it does.
    """
    kind = transform.GetTransformEnum()
    if kind == sitk.sitkComposite:
        parts = sitk.CompositeTransform(transform)
        numbers = reversed(range(parts.GetNumberOfTransforms()))
        nth = _SimpleITK.CompositeTransform_GetNthTransform
        return [step for number in numbers for step in _steps(path, nth(parts, number))]
    try:
        if kind == sitk.sitkDisplacementField:
            return [_field_of_image(sitk.DisplacementFieldTransform(transform).GetDisplacementField())]
        if transform.IsLinear():
            return [_affine_of(transform)]
    except ValueError as error:
        raise TransformFileError(path, f"{error}; it is of no use for images") from error
    raise TransformFileError(
        path,
        f"it holds a {str(transform).split()[1]}, which has no inverse in closed form; make a field of it, in "
        "SimpleITK by TransformToDisplacementField on the fixed image's grid",
    )


def _affine_of(transform: Any) -> Affine:
    """The matrix of a linear transform of any kind, by what it does to four points."""
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    matrix = np.eye(4)
    matrix[:3, :3] = np.stack([transform.TransformPoint(axis) - origin for axis in np.eye(3).tolist()], axis=1)
    matrix[:3, 3] = origin
    return Affine(lps_to_ras(lps_to_ras(matrix).T).T)


def _field_of_image(image: Any) -> Field:
    """A field of an image of SimpleITK, vectors in LPS millimetres."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    i, j, k = image.GetSize()
    vectors = sitk.GetArrayViewFromImage(image).transpose(3, 2, 1, 0).astype(np.float32, order="C")
    return Field(_flipped(vectors), Geometry((i, j, k), lps_to_ras(affine)))


def _read_nifti(path: Path) -> Field:
    header = nibabel.load(path).header
    shape, intent = header.get_data_shape(), int(header["intent_code"])
    if intent in _FSL:
        raise TransformFileError(
            path,
            f"this is a warp of FSL (intent {intent}), which counts millimetres along the axes of its reference; "
            "convert it to ITK's, such as by nitransforms or wb_command -convert-warpfield",
        )
    if len(shape) != 5 or shape[3:] != (1, 3) or intent not in (_DISPVECT, _VECTOR):
        raise TransformFileError(
            path,
            f"fields are five-dimensional, (X, Y, Z, 1, 3), with intent 1007 (LPS) or 1006 (RAS), but this is {shape} "
            f"with intent {intent}; what its numbers mean (voxels or mm, which axes, positions or displacements) is "
            "not said, so write it again by the software that made it, as a field of ITK",
        )
    stored = NIFTI.read(path, max_voxels=MAX_VOXELS)
    vectors = stored.array if intent == _DISPVECT else _flipped(stored.array)
    return _checked(path, vectors, stored.geometry)


def _read_vectors(path: Path, known: Itk) -> Field:
    """A field as MetaImage or NRRD with three components, in LPS, as ITK, elastix and Slicer write them.

    ITK turns the grid of a NRRD in another space to LPS, and leaves the vectors alone.
    """
    header = TextHeader(path)
    space = header.fields.get("space", "")
    if header.is_nrrd and space.lower() not in ("left-posterior-superior", "lps"):
        raise TransformFileError(
            path,
            f"the space of this field is {space or 'of no name'}, and ITK would turn its grid but not its vectors; "
            "write it again in left-posterior-superior",
        )
    vectors = "vector" in header.fields.get("kinds", "") or header.fields.get("elementnumberofchannels") == "3"
    stored = known.read(path, max_voxels=MAX_VOXELS)
    if not vectors or len(stored.array) != 3:
        raise TransformFileError(
            path,
            "a field holds three components for each voxel of a 3D grid, as ITK's images of vectors do, but this holds "
            f"{len(stored.array)} {'components' if vectors else 'channels'}",
        )
    return _checked(path, _flipped(stored.array), stored.geometry)


def _flipped(vectors: NDArray[Any]) -> NDArray[Any]:
    """Vectors (3, I, J, K) in RAS of those in LPS, and the other way round."""
    return np.asarray(vectors * np.array([-1, -1, 1], dtype=vectors.dtype)[:, None, None, None])


def _checked(path: Path, vectors: NDArray[Any], geometry: Geometry) -> Field:
    try:
        return Field(vectors, geometry)
    except ValueError as error:
        raise TransformFileError(path, f"{error}; it is of no use for images") from error


def _write_nifti(field: Field, path: Path) -> None:
    vectors = np.moveaxis(_flipped(field.vectors_mm), 0, -1)[:, :, :, None]
    image = nibabel.Nifti1Image(vectors, None)
    image.header.set_intent("vector")
    image.header.set_xyzt_units("mm")
    image.set_sform(field.geometry.affine, code=1)
    image.set_qform(field.geometry.affine, code=1, strip_shears=True)
    data = image.to_bytes()  # floats hardly become smaller by more effort than the least
    path.write_bytes(gzip.compress(data, compresslevel=1, mtime=0) if path.name.lower().endswith(".gz") else data)


def _by_simpleitk(name: str) -> Any:
    """What SimpleITK takes a file for."""
    if name.lower().endswith(ITK_SUFFIXES):
        return sitk.ReadTransform(name)
    return sitk.DisplacementFieldTransform(sitk.ReadImage(name, sitk.sitkVectorFloat64))


def _apart_mm(transform: Transform, read: Any) -> float:
    """How far at most another takes points elsewhere, all over the first field or around the world's origin."""
    field = next((step for step in transform.steps if isinstance(step, Field)), None)
    grid = field.geometry if field is not None else Geometry((256, 256, 256), np.eye(4))
    index = np.random.default_rng(0).uniform(0, np.array(grid.shape) - 1, (_TRIED_POINTS, 3))
    mm = index @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    theirs = np.array([read.TransformPoint(point) for point in (mm * _LPS).tolist()]) * _LPS
    return float(np.linalg.norm(theirs - transform.points(mm), axis=1).max())
