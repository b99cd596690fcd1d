"""``medmamba warp``: images, label maps and points through transforms."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medmamba.cli._console import note, say

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from medmamba.transform import Mode, Transform
    from medmamba.volume import Volume


#: Ways there and back that miss by more are worth a word.
_RESIDUAL_MM = 0.1


class Interpolation(StrEnum):
    """How values between voxels are found."""

    AUTO = "auto"
    LINEAR = "linear"
    NEAREST = "nearest"
    LABEL = "label"


def warp(
    transform: Annotated[
        list[Path],
        typer.Option(
            "--transform",
            "-t",
            help="Transform from the fixed to the moving image: .h5 or .tfm of ITK, a field as .nii.gz. Given several "
            "times, the first acts first on points of the fixed image, the order of antsApplyTransforms: "
            "-t 1Warp.nii.gz -t 0GenericAffine.mat.",
            show_default=False,
        ),
    ],
    given: Annotated[
        Path,
        typer.Option("--input", "-i", help="Image, label map, DICOM series, or points in mm.", show_default=False),
    ],
    out: Annotated[Path, typer.Option("--output", "-o", help="File to write.", show_default=False)],
    like: Annotated[
        Path | None,
        typer.Option(
            help="Image whose grid the result has: the fixed one, or any other in its space. For points, those that "
            "lie outside of it are told.",
            show_default=False,
        ),
    ] = None,
    inverse: Annotated[
        bool,
        typer.Option(
            "--inverse",
            help="Go the other way: bring the fixed image onto the moving one, points back to the fixed one.",
        ),
    ] = False,
    interpolation: Annotated[
        Interpolation,
        typer.Option(
            help="linear, nearest, or label: of the labels around the one with the largest share, for smooth borders. "
            "auto: label for whole numbers that neighbours share, else linear."
        ),
    ] = Interpolation.AUTO,
    outside: Annotated[
        float | None,
        typer.Option(
            help="Value beyond the image; 0 unless set, or the smallest of an image that has values below 0.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Bring an image, a label map or points from one image's space to the other's by transforms.

    A transform of a registration takes points of the FIXED image to the MOVING one. Images are pulled by it: for each
    voxel of the fixed grid it says where in the moving image to look. So a moving image is warped with the transform,
    and points of the moving image go along with it by --inverse. Points of the fixed image go to the moving one by the
    transform itself.

    | what | from | to | how |
    |---|---|---|---|
    | image, labels | moving | fixed | -t T --like FIXED |
    | image, labels | fixed | moving | -t T --like MOVING --inverse |
    | points | fixed | moving | -t T |
    | points | moving | fixed | -t T --inverse |

    Points are in mm, in a .csv whose header names the space (name,x_lps,y_lps,z_lps or x_ras,y_ras,z_ras), or in
    Slicer's .fcsv or .mrk.json. The result is in the space of the input.

    For example:

        medmamba warp -t transform.h5 -i moving.nii.gz --like fixed.nii.gz -o warped.nii.gz

        medmamba warp -t transform.h5 -i moving_points.csv --inverse -o points_on_fixed.csv
    """
    from medmamba.io.formats.transforms import read_transform
    from medmamba.io.places import check_output_files
    from medmamba.io.points import is_points
    from medmamba.transform import Transform

    check_output_files([out], inputs=[given, *transform, *([like] if like else [])])
    out.parent.mkdir(parents=True, exist_ok=True)
    whole = Transform(tuple(step for path in transform for step in read_transform(path).steps))
    if is_points(given):
        _points(whole, given, out, like, inverse)
    else:
        _image(whole, given, out, like, inverse, interpolation, outside)


def _image(
    transform: Transform,
    given: Path,
    out: Path,
    like: Path | None,
    inverse: bool,
    interpolation: Interpolation,
    outside: float | None,
) -> None:
    from medmamba import io
    from medmamba.errors import UsageError
    from medmamba.transform import resample_telling

    if like is None:
        raise UsageError(
            "an image needs a grid to come onto: name an image that has it by --like, such as the fixed one"
        )
    if not out.name.lower().endswith(io.suffixes()):
        raise UsageError(f"{out}: images end in {', '.join(io.suffixes())}; name the result so")
    grid = io.read_geometry(like)
    volume, mode, why = _read(given, interpolation)
    if inverse:
        transform, residual_mm = transform.inverse()
        if residual_mm > _RESIDUAL_MM:
            note(
                f"the field has no exact inverse everywhere: at its worst voxel the way there and back misses by "
                f"{residual_mm:.2g} mm, as where a field is steep; what register tells is the mean"
            )
    if outside is None:
        outside = 0.0 if mode != "linear" else min(0.0, float(volume.array.min()))
    result, share = resample_telling(volume, transform, grid, mode, outside)
    io.write(result, out, like=like)
    say(f"{out}: {mode} interpolation{why}, {share:.1%} of the voxels from within {given}, {outside:g} in the others")
    if not share:
        note(
            f"no voxel of the result lies in {given}: these images do not overlap by this transform; see whether it "
            f"leads from the fixed to the moving image, or the other way ({'without ' if inverse else ''}--inverse)"
        )


def _read(path: Path, interpolation: Interpolation) -> tuple[Volume, Mode, str]:
    """Voxels, how to interpolate them, and why if that was decided here; label maps keep their type."""
    from medmamba import io
    from medmamba.io.errors import LabelValueError
    from medmamba.labels import looks_like_labels

    if interpolation is Interpolation.LINEAR:
        return io.read(path), "linear", ""
    one_channel = io.read_channels(path) == 1
    if interpolation is not Interpolation.AUTO:
        try:
            volume = io.read_label(path) if one_channel else io.read(path)
        except LabelValueError:
            if interpolation is Interpolation.LABEL:
                raise
            volume = io.read(path)
        return volume, "nearest" if interpolation is Interpolation.NEAREST else "label", ""
    volume = io.read(path)
    if one_channel and looks_like_labels(volume.array):
        return io.read_label(path), "label", " (whole numbers that neighbours share, taken for labels)"
    return volume, "linear", " (taken for an image)"


def _points(transform: Transform, given: Path, out: Path, like: Path | None, inverse: bool) -> None:
    import numpy as np

    from medmamba import io
    from medmamba.errors import DataError
    from medmamba.io.points import Points, read_points, write_points
    from medmamba.transform import is_inside, voxel_positions

    points = read_points(given)
    moved = transform.points_back(points.mm) if inverse else transform.points(points.mm)
    fixed = moved if inverse else points.mm
    beyond = transform.beyond(fixed)
    if beyond.all():
        raise DataError(
            f"{given}: none of the {len(points.names)} points lies where the transform says anything; see that they "
            f"are in mm and {points.space} as the file says, and of the {'moving' if inverse else 'fixed'} image"
        )
    write_points(Points(points.names, moved, points.space), out)
    way = ("moving", "fixed") if inverse else ("fixed", "moving")
    say(f"{out}: {len(points.names)} points taken from the {way[0]} to the {way[1]} image, in {points.space} mm")
    _told(points.names, beyond, "beyond the field, which does not move them")
    if inverse:
        missed = np.linalg.norm(transform.points(moved) - points.mm, axis=1)
        _told(
            points.names,
            missed > _RESIDUAL_MM,
            f"nothing leads there, by up to {missed.max():.2g} mm",
        )
    if like is not None:
        grid = io.read_geometry(like)
        _told(points.names, ~is_inside(voxel_positions(grid, moved), grid), f"outside of {like}")


def _told(names: tuple[str, ...], which: NDArray[np.bool_], what: str) -> None:
    """A line about some of the points, if there are any."""
    if which.any():
        some = ", ".join(name for name, is_one in zip(names, which, strict=True) if is_one)
        note(f"{what}: {some} ({which.sum()} of {len(names)} points)")
