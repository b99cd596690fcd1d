"""What a layout of folders has to do, and what is found out of one: no voxels are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

from medmamba.case import Case, Split
from medmamba.io.errors import DatasetError
from medmamba.io.layouts.names import split_ending, subfolder
from medmamba.io.remarks import Remark
from medmamba.labels import Labels
from medmamba.records import read_json

T = TypeVar("T")
#: Files of a case by channel.
Numbered = dict[int | None, Path]
#: Folders of images and of their labels, where nnU-Net and the Decathlon keep them.
DESCRIBED_FOLDERS = {"imagesTr": "labelsTr", "imagesTs": "labelsTs", "imagesVal": "labelsVal"}


@dataclass(frozen=True)
class Folder:
    """A folder that may be a data set; its dataset.json is read once.

    Args:
        root: the folder.
    """

    root: Path

    @property
    def description(self) -> Path:
        """Where its dataset.json would be."""
        return self.root / "dataset.json"

    @cached_property
    def facts(self) -> dict[str, Any]:
        """The object in its dataset.json; empty where there is none.

        Raises:
            DatasetError: if it holds something else.
            ValueError: if it is not JSON.
        """
        facts = read_json(self.description) if self.description.is_file() else {}
        if not isinstance(facts, dict):
            raise DatasetError(f"{self.description} must hold an object, not a {type(facts).__name__}")
        return facts

    def within(self, name: str) -> Path:
        """A folder in it, see `medmamba.io.layouts.names.subfolder`."""
        return subfolder(self.root, name)


class Layout(Protocol):
    """A way to lay out images and labels in a folder.

    Its folders are recognised whatever the case of their names. No command writes into them, nor beside them.
    """

    @property
    def looks(self) -> str:
        """What a folder has by which it is recognised, and whose layout it is, in a few words for messages."""

    @property
    def labels_of(self) -> Mapping[str, str]:
        """Names of its folders of images, and of those of their labels, where these have names of their own.

        With none, the folders of its cases are those that `survey` finds where `recognises` says yes.
        """

    @property
    def is_described(self) -> bool:
        """Whether it has a dataset.json, beside which one of these folders makes a data set; without, it takes all."""

    def recognises(self, folder: Folder) -> bool:
        """Whether a folder is laid out so, however faulty, which `survey` tells."""

    def survey(self, folder: Folder) -> Survey:
        """Find the cases of a folder that was recognised, collecting what is wrong instead of stopping at it."""


@dataclass(slots=True, kw_only=True)
class Survey:
    """What can be told of a data set without reading voxels, also when something is wrong with its description.

    Args:
        name: as in `medmamba.case.Dataset`; so are ``root``, ``layout``, ``training``, ``test``, ``file_ending``,
            ``splits``, ``is_described`` and ``edition``.
        channels: None if they are not known.
        labels: None if they are not known: in plain folders only the label maps tell.
        editions: ids of cases by the editions of BraTS that their names fit; which of them it is, label maps tell.
        splits_file: in which an author fixes folds.
        incomplete: cases whose files are not those of the channels, and what is wrong with them.
        announced: how many training cases the description speaks of, as it says so; None if it does not.
        listed: the description names each file, so that others in the same folders mean nothing.
        problems: all that is wrong; when there are any, the fields concerned hold a guess.
        remarks: how something unusual was taken.
    """

    name: str
    root: Path
    layout: str = "nnunet"
    channels: tuple[str, ...] | None = None
    labels: Labels | None = None
    training: tuple[Case, ...] = ()
    test: tuple[Case, ...] = ()
    file_ending: str = ".nii.gz"
    splits: tuple[Split, ...] = ()
    splits_file: str = "splits_final.json"
    incomplete: dict[str, str] = field(default_factory=dict)
    announced: Any = None
    listed: bool = False
    is_described: bool = True
    edition: str = ""
    editions: dict[tuple[str, ...], list[str]] = field(default_factory=dict)
    problems: list[DatasetError] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)

    def attempt(self, value: Callable[[], T], otherwise: T) -> T:
        """A value of the description, or ``otherwise`` and one more problem."""
        try:
            return value()
        except ValueError as error:
            self.problems.append(error if isinstance(error, DatasetError) else DatasetError(str(error)))
            return otherwise

    def remark(self, message: str, *, rule: str = "layout", is_warning: bool = False) -> None:
        """Tell how something unusual was taken."""
        self.remarks.append(Remark(message, is_warning, rule))

    def note_incomplete(self, cases: Mapping[str, Numbered]) -> None:
        """Compare the numbers of a case's files with the channels; a file without a number may hold them all."""
        names = self.channels or ()
        for case, files in cases.items():
            numbers = [number for number in files if number is not None]
            missing = [n for n in range(len(names)) if n not in numbers] if numbers and names else []
            extra = [n for n in numbers if n >= len(names)] if names else []
            parts = [f"lacks channel {n} ({names[n]}), a file that ends in _{n:04d}" for n in missing]
            if extra:
                stem, ending = split_ending(files[extra[0]])
                has = f"has files _{', _'.join(f'{n:04d}' for n in extra)} beyond the {len(names)} declared channels"
                remedy = f"digits that number patients need the channel's behind them: {stem}_0000{ending}"
                parts.append(f"{has} ({remedy})")
            if parts:
                self.incomplete[case] = ", ".join(parts)


def folders_of(layout: Layout) -> set[str]:
    """Names of a layout's folders, in lower case."""
    return {name.lower() for pair in layout.labels_of.items() for name in pair}


def folders_in(root: Path, layouts: Iterable[Layout]) -> set[str]:
    """Names, in lower case, that folders of the data set in ``root`` may have; none if that holds no data set."""
    below = {path.name.lower() for path in root.iterdir() if path.is_dir()} if root.is_dir() else set()
    found = set[str]()
    for layout in layouts:
        own = folders_of(layout)
        whole = (root / "dataset.json").is_file() if layout.is_described else own <= below
        if own & below and whole:
            found |= own
    return found


def sorted_cases(cases: Iterable[Case]) -> tuple[Case, ...]:
    """In the order in which every command goes through them."""
    return tuple(sorted(cases, key=lambda case: case.id))
