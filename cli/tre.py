"""``medmamba tre``: how far landmarks lie apart, before and after a registration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from medmamba.cli._console import note, out, say, table

#: Of the sums, what stands above each.
_SUMS = {"mean": "mean", "median": "median", "sd": "SD", "max": "max", "p95": "95 %"}


def tre(
    fixed: Annotated[Path, typer.Argument(help="Landmarks of the fixed image.", show_default=False)],
    moving: Annotated[Path, typer.Argument(help="The same landmarks in the moving image.", show_default=False)],
    transform: Annotated[
        list[Path] | None,
        typer.Option(
            "--transform",
            "-t",
            help="Transform from the fixed to the moving image: .h5 or .tfm of ITK, a field as .nii.gz. Given several "
            "times, the first acts first on points of the fixed image, as for `medmamba warp`.",
            show_default="none: the error before registration",
        ),
    ] = None,
    fixed_image: Annotated[
        Path | None,
        typer.Option(help="The fixed image, in which its landmarks have to lie.", show_default=False),
    ] = None,
    moving_image: Annotated[Path | None, typer.Option(help="The moving image, likewise.", show_default=False)] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Table to write, with a line for each landmark (CSV).", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Measure the target registration error: how far landmarks lie apart in mm, before and after a registration.

    A transform of a registration takes points of the FIXED image to the MOVING one. So each landmark of the fixed image
    is taken to the moving image by it, and the error is how far it then lies from the same landmark there. No inverse
    is needed: give the transform that warps the moving image onto the fixed one (transform.h5, not inverse.h5). An
    error that is larger after than before may be a transform that leads the other way.

    Landmarks are in mm, in a .csv whose header names the space (name,x_lps,y_lps,z_lps or x_ras,y_ras,z_ras), or in
    Slicer's .fcsv or .mrk.json; both files need not be in the same space. They belong together by their names, or
    in their order where they share none and are as many; where a name is in one file alone, its point is left out, and
    told. SD is the sample standard deviation.

    With the images, landmarks that mostly lie outside of theirs are refused: these are voxels, or of another space
    than the header says.

    For example:

        medmamba tre fixed.csv moving.csv -t out/pair/transform.h5

        medmamba tre fixed.csv moving.csv -t transform.h5 --fixed-image fixed.nii.gz -o errors.csv --json
    """
    from medmamba import io
    from medmamba.errors import DataError
    from medmamba.evaluation import landmarks as measuring
    from medmamba.io.formats.transforms import read_transform
    from medmamba.io.places import check_output_files
    from medmamba.transform import Transform

    given = [fixed, moving, *(transform or ()), *(image for image in (fixed_image, moving_image) if image)]
    if output is not None:
        check_output_files([output], inputs=given)
    whole = Transform(tuple(step for path in transform for step in read_transform(path).steps)) if transform else None
    found = measuring.read_landmarks(
        fixed,
        moving,
        fixed_grid=io.read_geometry(fixed_image) if fixed_image else None,
        moving_grid=io.read_geometry(moving_image) if moving_image else None,
    )
    beyond = [] if whole is None else [n for n, b in zip(found.names, whole.beyond(found.fixed_mm), strict=True) if b]
    if len(beyond) == len(found.names):
        raise DataError(
            f"{fixed}: none of the {len(beyond)} landmarks lies where the transform says anything; see that these are "
            "of the fixed image, and in mm of the space that the file says"
        )
    data = measuring.to_data(found, whole)
    if output is not None:
        measuring.save(data, output)
    if as_json:
        typer.echo(json.dumps(data, indent=2, allow_nan=False))
    else:
        _show(data)
    for words in data["notes"]:
        note(words)
    if beyond:
        note(f"beyond the field, which does not move them: {', '.join(beyond)}")
    if whole is not None and data["after_mm"]["mean"] > data["before_mm"]["mean"]:
        note("the mean error is larger than before: see that the transform leads from the fixed to the moving image")
    if output is not None and not as_json:
        say(f"written {output}")


def _show(data: dict[str, Any]) -> None:
    whens = [when for when in ("before", "after") if f"{when}_mm" in data]
    each = [[row["name"], *(_mm(row[f"{when}_mm"]) for when in whens)] for row in data["landmarks"]]
    out.print(table(("landmark", *(f"{when} (mm)" for when in whens)), each), soft_wrap=False)
    sums = [["landmarks", *(str(data[f"{when}_mm"]["n"]) for when in whens)]]
    sums += [[title, *(_mm(data[f"{when}_mm"][key]) for when in whens)] for key, title in _SUMS.items()]
    out.print(table(("in sum", *(f"{when} (mm)" for when in whens)), sums), soft_wrap=False)


def _mm(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
