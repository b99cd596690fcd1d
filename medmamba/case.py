"""One item of work: what it is called and where its files are. No pixels, no readers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from medmamba.errors import DataError
from medmamba.labels import Labels


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """The files of one examination.

    Args:
        id: what the case is called everywhere: in tables, logs and names of output files.
        images: one file per channel in the order of the data set's channels, or a single file that holds all.
        label: the reference segmentation, where there is one.
        patient: whose it is, where several cases may be of one; they stay on one side of every fold. Empty: its own.
        points: its landmarks, where there are any, see `medmamba.io.points`.
        mask: where the image counts in registration; None: everywhere.

    Raises:
        DataError: if there is no id or no image.
    """

    id: str
    images: tuple[Path, ...]
    label: Path | None = None
    patient: str = ""
    points: Path | None = None
    mask: Path | None = None

    def __post_init__(self) -> None:
        if not self.id or not self.images:
            raise DataError(
                f"a case needs an id and at least one image, got {self.id!r} with {len(self.images)} images"
            )

    @property
    def files(self) -> tuple[Path, ...]:
        """Images and, where there are some, label, mask and landmarks."""
        return (*self.images, *(file for file in (self.label, self.mask, self.points) if file is not None))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two images to be registered.

    Args:
        id: what the pair is called everywhere.
        fixed: whose grid the registered image comes onto.
        moving: which is brought there.
    """

    id: str
    fixed: Case
    moving: Case

    @property
    def cases(self) -> tuple[Case, Case]:
        """Fixed, then moving."""
        return self.fixed, self.moving


#: Which of the pairs with an atlas: each image brought to it, it to each image, or both.
Direction = Literal["to_atlas", "from_atlas", "both"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """How a folder's images become pairs; nothing here says: all ordered pairs of one folder.

    Args:
        moving: a second folder, whose images are brought to those of the same name; as it was given, or relative to the
            first one.
        atlas: id of the one image that all others are paired with.
        direction: of the pairs with an atlas.
    """

    moving: str = ""
    atlas: str = ""
    direction: Direction = "to_atlas"


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """One fold: the ids of the cases to learn from and of those to be judged on."""

    train: tuple[str, ...]
    validation: tuple[str, ...]

    @property
    def held_out(self) -> tuple[str, ...]:
        """Ids of the cases to be judged on that are not learned from; none when all are."""
        return tuple(sorted(set(self.validation) - set(self.train)))


def split_problems(splits: Sequence[Split], ids: Collection[str]) -> list[str]:
    """What is wrong with the folds of a data set, in words; nothing when they can be trained with.

    Args:
        splits: the folds, in order.
        ids: of the training cases there are.
    """
    problems = []
    for number, fold in enumerate(splits):
        unknown = sorted({*fold.train, *fold.validation} - set(ids))
        both = sorted(set(fold.train) & set(fold.validation))
        twice = sorted({case for side in (fold.train, fold.validation) for case in side if side.count(case) > 1})
        faults = (
            (unknown, "names cases that do not exist: "),
            (both, "has cases on both sides: "),
            (twice, "names cases twice: "),
        )
        problems += [f"fold {number} {what}{some(cases)}" for cases, what in faults if cases]
        problems += [f"fold {number} has nothing to learn from"] * (not fold.train)
        problems += [f"fold {number} has nothing to validate on"] * (not fold.validation)
    return problems


def some(names: Sequence[str], most: int = 5) -> str:
    """The first few names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A folder of cases as its author laid it out, read in place.

    Args:
        name: name of the data set.
        root: its folder.
        layout: how the folder is organised: ``nnunet``, ``nnunet-v1``, ``msd``, ``folders`` or ``brats``, or ``pairs``
            or ``video`` (see datasets.md).
        channels: names of the image channels, in order; they decide the normalisation (``CT`` is Hounsfield units).
        labels: what the values in label maps mean.
        training: cases with a reference segmentation, sorted by id.
        test: cases without.
        file_ending: ending of the image files, such as ``.nii.gz``.
        splits: folds the author fixed, or empty.
        is_described: a dataset.json says what there should be; without, the label maps alone tell of labels.
        edition: of BraTS, whose labels these are; empty for other data sets.
        pairs: of cases, where it is for registration.
        pairing: how they came about.
        atlas: id of the case that is in all pairs, and on both sides of every fold; empty if there is none.

    Raises:
        DataError: if the folds cannot be trained with, see `split_problems`.
    """

    name: str
    root: Path
    layout: str
    channels: tuple[str, ...]
    labels: Labels
    training: tuple[Case, ...]
    test: tuple[Case, ...] = ()
    file_ending: str = ".nii.gz"
    splits: tuple[Split, ...] = ()
    is_described: bool = True
    edition: str = ""
    pairs: tuple[Pair, ...] = ()
    pairing: Pairing = field(default_factory=Pairing)
    atlas: str = ""

    @property
    def task(self) -> Literal["segmentation", "registration", "video"]:
        """What its cases are for: images, pairs of them, or films, of which each is one case with one image."""
        if self.pairs:
            return "registration"
        return "video" if self.layout == "video" else "segmentation"

    def __post_init__(self) -> None:
        problems = split_problems(self.splits, {case.id for case in self.training})
        if problems:
            raise DataError(f"{self.name}: {problems[0]}; correct the splits file in {self.root}")
