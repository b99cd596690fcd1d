"""Where the files of a list are: as it says, under channels' numbers that it leaves out, or where it was moved."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import NamedTuple

from medmamba.io._description import Entry
from medmamba.io._names import by_case, channel_of, images_in, split_ending


class Files(NamedTuple):
    """Images of an entry: id of the case, files in the order of channels, and by number where they bear numbers."""

    case: str
    images: tuple[Path, ...]
    numbers: dict[int | None, Path]


@dataclass(slots=True)
class Locator:
    """Finds listed files; each folder is read once.

    Args:
        root: folder of the data set, which names are relative to.
        channels: how many the data set declares.
        numbered: names as listed and the first file found, where the list leaves out the channels' numbers.
        moved: names as listed and the file found, where the list was written on another machine.
    """

    root: Path
    channels: int
    numbered: list[tuple[str, Path]] = field(default_factory=list)
    moved: list[tuple[str, Path]] = field(default_factory=list)
    _folders: dict[Path, dict[str, dict[int | None, Path]]] = field(default_factory=dict)

    def files(self, entry: Entry) -> Files:
        """Images of an entry."""
        if len(entry.images) > 1:
            paths = tuple(self.file(name) for name in entry.images)
            cases = {channel_of(path)[0] for path in paths}
            return Files(cases.pop() if len(cases) == 1 else split_ending(paths[0])[0], paths, {})
        (name,) = entry.images
        path = self.file(name)
        stem = split_ending(path)[0]
        if not path.is_file():
            numbers = self._numbers(path, stem)
            if numbers:
                self.numbered.append((name, next(iter(numbers.values()))))
                return Files(stem, tuple(numbers.values()), numbers)
        case, number = channel_of(path)
        if number == 0 and self.channels > 1:
            # Only the first channel is listed, the others lie beside it.
            numbers = self._numbers(path, case)
            if len(numbers) > 1:
                return Files(case, tuple(numbers.values()), numbers)
        return Files(stem, (path,), {})

    def file(self, name: str) -> Path:
        """One file, or its numbered channels' common name; where it should be when it is nowhere."""
        told = self.root / name
        if self._is_there(told):
            return told
        parts = PureWindowsPath(name).parts  # takes both kinds of slashes
        for tail in (parts, parts[-2:]):
            path = self.root.joinpath(*tail)
            if path != told and self._is_there(path):
                self.moved.append((name, path.relative_to(self.root) if path.is_relative_to(self.root) else path))
                return path
        return told

    def _is_there(self, path: Path) -> bool:
        return path.is_file() or bool(self._numbers(path, split_ending(path)[0]))

    def _numbers(self, path: Path, case: str) -> dict[int | None, Path]:
        """Files of a case by channel, in the folder and with the ending of ``path``."""
        folder = path.parent
        if folder not in self._folders:
            self._folders[folder] = by_case(images_in(folder))
        ending = split_ending(path)[1]
        return {
            number: file
            for number, file in self._folders[folder].get(case, {}).items()
            if number is not None and split_ending(file)[1] == ending
        }
