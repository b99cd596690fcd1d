"""Which series is read, and how: as values, and as a small file that stands for an image wherever one is read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medmamba.io.dicom.instances import dicom_files
from medmamba.io.dicom.planes import Series
from medmamba.io.dicom.series import Choice, Export, explore, settled
from medmamba.io.errors import ImageFileError
from medmamba.records import from_json, read_json, to_json, write_json

#: What the file of a selection begins with, by which it is recognised.
BEGINS = b'{\n  "dicom_series": '
#: Series that a message lists.
_LISTED = 12
#: What is said of the options of `medmamba predict` where another command may be the one that reads.
ELSEWHERE = (
    "`medmamba predict` goes on all the same with {options}; for other commands, make an even stack of it first, for "
    "example a NIfTI file by the program that exported it"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """A series out of an export, as a file.

    Where its files lie is told in a second one, the file's name with ``.files`` behind it: what is read, and how, stays
    the same where an export is moved or unpacked anew.

    Args:
        dicom_series: UID of the series; one file alone holds files of this one series of one study of one patient.
        part: of the series, where it holds several stacks; 0 for a whole one.
        choice: how to go on where it is no even stack.
        refused: why it is not read; empty where it is.
    """

    dicom_series: str
    part: int = 0
    choice: Choice = field(default_factory=Choice)
    refused: str = ""

    def save(self, path: Path, files: Iterable[Path], where: Path) -> None:
        """Write the selection and the list of its files, in a folder that is made if need be.

        Args:
            path: of the selection.
            files: of its series.
            where: what messages name: a path that the user knows.
        """
        listed = _Files(where=where.absolute(), files=tuple(file.absolute() for file in files))
        write_json(to_json(listed), _list_of(path))
        write_json(to_json(self), path)


def _list_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.files")


def files_of(path: Path) -> tuple[Path, ...]:
    """The DICOM files of a folder, of a selection, or a single one; no header is read.

    Raises:
        DataError: if a selection is damaged.
        OSError: if something cannot be read.
    """
    if path.is_dir():
        return tuple(file for file in dicom_files(path) if file.parent == path)
    if is_selection(path):
        return _listed_in(path).files
    return (path,)


def _listed_in(path: Path) -> _Files:
    return from_json(_Files, read_json(_list_of(path)), str(_list_of(path)))


@dataclass(frozen=True, slots=True)
class _Files:
    where: Path
    files: tuple[Path, ...]


def is_selection(path: Path) -> bool:
    """Whether a file is a `Selection`.

    Raises:
        OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        return file.read(len(BEGINS)) == BEGINS


def series_of(path: Path) -> Series:
    """The one series that a folder, a file or a selection is of, ready to be read.

    Args:
        path: what a case has for an image.

    Returns:
        The series with the phase that is read alone, without open problems.

    Raises:
        ImageFileError: if there is none, there are several, or it is no even stack and nobody said how to go on.
        OSError: if something cannot be read.
    """
    selection, where = None, path
    if path.is_file() and is_selection(path):
        selection, where = from_json(Selection, read_json(path), str(path)), _listed_in(path).where
        if selection.refused:
            raise ImageFileError(where, selection.refused)
    export = explore(files_of(path))
    found = list(export.series)
    if selection is not None:
        found = [each for each in found if (each.uid, each.part) == (selection.dicom_series, selection.part)]
    if not found:
        raise ImageFileError(where, f"there is no scan in it{skipped_words(export)}")
    choice = selection.choice if selection else Choice()
    if len({each.whole_id for each in found}) > 1:
        raise ImageFileError(
            where,
            f"it holds {len(found)} series: {listed(found)}; give each a folder of its own (`medmamba predict` also "
            "takes --series UID)",
        )
    series = settled(found[0], choice, named=selection is not None)
    if series.problems:
        raise ImageFileError(where, refusal(series, ELSEWHERE))
    return series


def refusal(series: Series, way: str = "to go on all the same: {options}") -> str:
    """Why a series is not read, and with which options of `medmamba predict` it would be.

    Args:
        series: with problems.
        way: what is said of these options.
    """
    options = " ".join(dict.fromkeys(problem.option for problem in series.problems if problem.option))
    hopeless = any(not problem.option for problem in series.problems)
    way_out = "" if hopeless or not options else f"; {way.format(options=options)}"
    return f"series {series.id} is not read as it is: {'; '.join(each.message for each in series.problems)}{way_out}"


def listed(series: Sequence[Series]) -> str:
    """Series for a message."""
    words = [
        f"{each.id} ({', '.join(filter(None, (each.modality, each.description)))}, {len(each.planes)} slices)"
        for each in series[:_LISTED]
    ]
    more = f" and {len(series) - _LISTED} more" if len(series) > _LISTED else ""
    return f"{', '.join(words)}{more}"


def skipped_words(export: Export) -> str:
    """What was passed over, for the end of a sentence; empty for nothing."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in export.skipped)
    return f" (passed over: {kinds})" if kinds else ""


def faulty_words(export: Export, root: Path) -> list[str]:
    """Files of which it cannot be said what they are, with the reason; a line each.

    Args:
        export: what was found.
        root: where, by which they are named.
    """
    return [f"{relative(each.file, root)}: {each.fault}" for each in export.faulty]


def relative(path: Path, root: Path) -> str:
    """A path below the folder of an export as users know it; of an unpacked zip its last part."""
    inside = root.is_dir() and path.absolute().is_relative_to(root.absolute())
    return str(path.absolute().relative_to(root.absolute())) if inside else path.name


def folder_of(series: Sequence[Series], root: Path) -> Path:
    """Where users find series of an export: the deepest folder that holds all their files, or the zip or DICOMDIR.

    Args:
        series: with their files.
        root: what was given.
    """
    if not root.is_dir():
        return root
    return Path(os.path.commonpath([file.absolute().parent for each in series for file in each.sources]))
