"""What is noted of each registered pair, and of the folder of all of them.

::

    <folder>/
      registration.json   which pairs were asked for, and what became of them
      <pair>/run.json     what made the files beside it, and the numbers
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from medmamba.case import Case
from medmamba.plans.plan import AffineKind, Similarity
from medmamba.records import from_json, read_json, to_json, write_json
from medmamba.registration.refine import Deformation

RECORD, OVERVIEW = "run.json", "registration.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What whoever started it decided; all of it is part of what a finished pair is recognised by.

    Args:
        affine: alignment before all else; None: the model's, or an affine map.
        refine: steps of refinement; None: 50 without a model, none with one.
        similarity: by which refinement compares; None: the model's, or what suits the intensities.
        deformation: what refinement lets a field do; None: what suits the two kinds of image.
        model: digest of plan and weights; empty without one.
        text: also write transforms as text, .tfm.
    """

    affine: AffineKind | None = None
    refine: int | None = None
    similarity: Similarity | None = None
    deformation: Deformation | None = None
    model: str = ""
    text: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SideRecord:
    """The files of one side of a pair."""

    id: str
    image: str
    label: str | None = None
    points: str | None = None
    mask: str | None = None

    @classmethod
    def of(cls, case: Case) -> SideRecord:
        """Of a case; paths from the root on, so that they mean the same wherever they are read."""
        label, points, mask = (
            None if path is None else str(path.absolute()) for path in (case.label, case.points, case.mask)
        )
        return cls(id=case.id, image=str(case.images[0].absolute()), label=label, points=points, mask=mask)


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """Dice of each structure that both label maps have, on the grid of the fixed one.

    Args:
        before: by label value, as the headers have the images.
        aligned: after the affine map alone.
        after: with the whole transform.
    """

    before: dict[str, float]
    aligned: dict[str, float]
    after: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class PointErrors:
    """Distance in mm of each landmark of the moving image from where the transform takes its partner.

    Args:
        names: of the landmarks.
        before: as the headers have the images.
        aligned: after the affine map alone.
        after: with the whole transform.
    """

    names: tuple[str, ...]
    before: tuple[float, ...]
    aligned: tuple[float, ...]
    after: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignmentRecord:
    """The affine map, RAS mm, fixed to moving, and mutual information before and after it (None: no overlap)."""

    matrix: tuple[tuple[float, ...], ...]
    before: float | None
    after: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PairRecord:
    """All that is known of a registered pair.

    Args:
        pair: its id.
        fixed: files of the fixed image.
        moving: of the moving one.
        inputs_digest: of their content.
        asked: what was asked for.
        medmamba: version of the software.
        decisions: what was chosen, by what it is about, with reasons.
        alignment: the affine part.
        measures: numbers about the field, see `medmamba.registration.register.Measures`; None where there is none.
        seconds: by stage.
        peak_bytes: memory that the process had taken at most.
        checked: for each transform, how far at most SimpleITK's image by it is from ours, in the image's units.
        files: digest of each file in the folder, by name.
        overlap: of labels, where both have some.
        points: of landmarks, where both have some.
        remarks: what to know.
        warnings: what makes the result doubtful.
    """

    pair: str
    fixed: SideRecord
    moving: SideRecord
    inputs_digest: str
    asked: Asked
    medmamba: str
    decisions: dict[str, str]
    alignment: AlignmentRecord
    measures: dict[str, float | None]
    seconds: dict[str, float]
    peak_bytes: int
    checked: dict[str, float]
    files: dict[str, str]
    overlap: Overlap | None = None
    points: PointErrors | None = None
    remarks: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @classmethod
    def load(cls, folder: Path) -> PairRecord:
        """That of a pair's folder.

        Raises:
            FileNotFoundError: if there is none.
            RecordError: if it is damaged.
        """
        return from_json(cls, read_json(folder / RECORD), str(folder / RECORD))

    def save(self, folder: Path) -> None:
        """Write it into a pair's folder."""
        write_json(to_json(self), folder / RECORD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a pair: ``done``, ``skipped`` (finished earlier), ``failed``, or ``waiting``.

    Args:
        pair: its id.
        status: see above.
        message: why it failed, or was done again.
        fixed: files of the fixed image, for whoever counts pairs that failed; None in folders of earlier versions.
        moving: of the moving one.
    """

    pair: str
    status: Literal["done", "skipped", "failed", "waiting"]
    message: str = ""
    fixed: SideRecord | None = None
    moving: SideRecord | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """What is in a folder of registrations: pairs by id, and what became of them when they were last asked for."""

    medmamba: str = ""
    pairs: dict[str, Outcome] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> Overview:
        """That of a folder; an empty one where there is none.

        Raises:
            RecordError: if it is damaged, or of another program.
        """
        path = folder / OVERVIEW
        return from_json(cls, read_json(path), str(path)) if path.is_file() else cls()

    def save(self, folder: Path) -> None:
        """Write it."""
        write_json(to_json(self), folder / OVERVIEW)
