"""One item of work: what it is called and where its files are. No pixels, no readers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medmamba.labels import Labels

#: In a folder of segmentations: which cases were asked for, by whom.
MANIFEST = "prediction.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """The files of one examination.

    Args:
        id: what the case is called everywhere: in tables, logs and names of output files.
        images: one file per channel in the order of the data set's channels, or a single file that holds all.
        label: the reference segmentation, where there is one.
    """

    id: str
    images: tuple[Path, ...]
    label: Path | None = None

    def __post_init__(self) -> None:
        if not self.id or not self.images:
            raise ValueError(
                f"a case needs an id and at least one image, got {self.id!r} with {len(self.images)} images"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """One fold: the ids of the cases to learn from and of those to be judged on."""

    train: tuple[str, ...]
    validation: tuple[str, ...]

    @property
    def held_out(self) -> tuple[str, ...]:
        """Ids of the cases to be judged on that are not learned from; none when all are."""
        return tuple(sorted(set(self.validation) - set(self.train)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A folder of cases as its author laid it out, read in place.

    Args:
        name: name of the data set.
        root: its folder.
        layout: how the folder is organised: ``nnunet``, ``msd`` or ``folders`` (see datasets.md).
        channels: names of the image channels, in order; they decide the normalisation (``CT`` is Hounsfield units).
        labels: what the values in label maps mean.
        training: cases with a reference segmentation, sorted by id.
        test: cases without.
        file_ending: ending of the image files, such as ``.nii.gz``; predictions get the same.
        splits: folds the author fixed, or empty.
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
