"""Subjects of a folder, one image each, to form pairs of: in a layout of `LAYOUTS`, or all files side by side.

Side by side, files belong together by their names: ``1000_t1.nii.gz``, ``1000_labels.nii.gz``, ``1000_mask.nii.gz`` and
``1000_points.csv`` are subject ``1000``, and with them ``1004_t1.nii.gz`` is ``1004``. Where nothing belongs to
any image, each is a subject of its whole name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from medmamba.case import Case, some
from medmamba.io.errors import DatasetError
from medmamba.io.layouts import LAYOUTS, survey
from medmamba.io.layouts.layout import Folder
from medmamba.io.layouts.names import ENDINGS, maps_in, split_ending
from medmamba.io.remarks import Remark
from medmamba.labels import Labels

#: What the name of a file beside an image ends in, by the field of the case that it is.
ROLES: dict[str, tuple[str, ...]] = {
    "label": ("_labels", "_label", "_segmentation", "_seg"),
    "mask": ("_mask",),
    "points": ("_points", "_landmarks"),
}
#: Endings of files of landmarks.
POINTS = (".csv", ".fcsv", ".mrk.json", ".txt", ".pts")


@dataclass(slots=True, kw_only=True)
class Subjects:
    """The subjects of a folder.

    Args:
        cases: one image each, sorted by id.
        labels: as the folder's description has them; None if there is none.
        problems: all that is wrong.
        remarks: how something unusual was taken.
    """

    cases: tuple[Case, ...] = ()
    labels: Labels | None = None
    problems: list[DatasetError] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)


def subjects(path: Path) -> Subjects:
    """Find the subjects of a folder; no voxels are read.

    Raises:
        FileNotFoundError: if there is no such folder.
        DatasetError: if it is none.
    """
    if path.is_file():
        raise DatasetError(f"{path} is a file; give the folder of the images, or a table of pairs that ends in .csv")
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: there is no such folder")
    folder = Folder(path.resolve())
    images = folder.within("images")
    if images.is_dir() and not folder.within("labels").is_dir() and not folder.description.is_file():
        return _side_by_side(images)
    if any(layout.recognises(folder) for layout in LAYOUTS):
        return _of_dataset(path)
    return _side_by_side(folder.root)


def _of_dataset(path: Path) -> Subjects:
    """Those to learn from and those without a label alike: registration needs none."""
    listed = survey(path)
    found = Subjects(labels=listed.labels, problems=list(listed.problems), remarks=list(listed.remarks))
    cases = sorted((*listed.training, *listed.test), key=lambda case: case.id)
    if several := [case.id for case in cases if len(case.images) > 1]:
        found.problems.append(
            DatasetError(
                f"registration takes one image of each subject, but {some(several)} in {path} have several channels; "
                "list the images to register in a table of pairs (see datasets.md)"
            )
        )
    found.cases = tuple(cases)
    return found


def _side_by_side(folder: Path) -> Subjects:
    found = Subjects()
    images, beside = _sorted_by_role(folder)
    owners = {image: _subject(split_ending(image)[0], beside) for image in images}
    tails = tuple({split_ending(image)[0][len(owner) :] for image, owner in owners.items() if owner} - {""})
    groups: dict[str, list[Path]] = defaultdict(list)
    for image, owner in owners.items():
        groups[owner or _without(split_ending(image)[0], tails)].append(image)
    for subject, files in groups.items():
        if len(files) > 1:
            found.problems.append(
                DatasetError(
                    f"{folder} holds several images of subject {subject} ({some([file.name for file in files])}), and "
                    "registration takes one; keep one, or list those to register in a table of pairs"
                )
            )
    if lonely := sorted(file.name for subject in beside.keys() - groups.keys() for file in beside[subject].values()):
        message = f"{folder} has no image to which {some(lonely)} belong"
        found.remarks.append(Remark(message, True, rule="label-without-image"))
    if not images:
        found.problems.append(DatasetError(f"{folder} holds no images; they end in {', '.join(ENDINGS)}"))
    found.cases = tuple(
        Case(id=subject, images=(files[0],), label=own.get("label"), mask=own.get("mask"), points=own.get("points"))
        for subject, files in sorted(groups.items())
        for own in [beside.get(subject, {})]
    )
    return found


def _sorted_by_role(folder: Path) -> tuple[list[Path], dict[str, dict[str, Path]]]:
    """Images, and what else there is by subject and role."""
    images: list[Path] = []
    beside: dict[str, dict[str, Path]] = defaultdict(dict)
    points = (path for path in folder.iterdir() if path.name.lower().endswith(POINTS) and path.is_file())
    for path in (*maps_in(folder), *sorted(points)):
        is_points = path.name.lower().endswith(POINTS)
        stem = _without(path.name, POINTS) if is_points else split_ending(path)[0]
        role, subject = _role(stem, ("points",) if is_points else ("label", "mask"))
        if role:
            beside[subject][role] = path
        elif not is_points:
            images.append(path)
    return images, dict(beside)


def _role(stem: str, roles: Iterable[str]) -> tuple[str, str]:
    """What a file is beside an image, and of which subject; an empty role for an image."""
    for role in roles:
        if (subject := _without(stem, ROLES[role])) not in (stem, ""):
            return role, subject
    return "", stem


def _without(name: str, endings: tuple[str, ...]) -> str:
    """A name without the longest of the endings that it has."""
    fitting = [ending for ending in endings if name.lower().endswith(ending)]
    return name[: -len(max(fitting, key=len))] if fitting else name


def _subject(stem: str, known: Iterable[str]) -> str:
    """The longest known subject with whose name an image's begins; empty if there is none."""
    fitting = [subject for subject in known if stem == subject or stem.startswith((f"{subject}_", f"{subject}-"))]
    return max(fitting, key=len, default="")
