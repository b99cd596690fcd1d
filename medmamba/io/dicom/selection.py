"""Which series is read, and how: as values, and as a small file that stands for an image wherever one is read."""

from __future__ import annotations

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """A series out of an export, as a file.

    Where its files lie is told in a second one, the file's name with ``.files`` behind it: what is read, and how, stays
    the same where an export is moved or unpacked anew.

    Args:
        dicom_series: what `Series.id` says.
        choice: how to go on where it is no even stack.
    """

    dicom_series: str
    choice: Choice = field(default_factory=Choice)

    def save(self, path: Path, files: Iterable[Path]) -> None:
        """Write the selection and the list of its files, in a folder that is made if need be."""
        write_json([str(file.absolute()) for file in files], _list_of(path))
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
        return from_json(_Files, {"files": read_json(_list_of(path))}, str(path)).files
    return (path,)


@dataclass(frozen=True, slots=True)
class _Files:
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
    selection = None
    if path.is_file() and is_selection(path):
        selection = from_json(Selection, read_json(path), str(path))
    export = explore(files_of(path))
    found = list(export.series)
    if selection is not None:
        found = [each for each in found if each.id == selection.dicom_series]
    if not found:
        raise ImageFileError(path, f"there is no scan in it{skipped_words(export)}")
    choice = selection.choice if selection else Choice()
    if len(found) > 1 and len({each.uid for each in found}) > 1:
        raise ImageFileError(
            path,
            f"it holds {len(found)} series: {listed(found)}; give each a folder of its own, or `medmamba predict` the "
            "option --series",
        )
    series = settled(found[0], choice, named=selection is not None)
    if series.problems:
        raise ImageFileError(path, refusal(series))
    return series


def refusal(series: Series) -> str:
    """Why a series is not read, and with which options of `medmamba predict` it would be."""
    options = " ".join(dict.fromkeys(problem.option for problem in series.problems if problem.option))
    hopeless = any(not problem.option for problem in series.problems)
    way_out = "" if hopeless or not options else f"; to go on all the same: {options}"
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
