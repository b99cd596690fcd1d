"""Where the files of a list are: as it says, under channels' numbers that it leaves out, or where it was moved."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath

from medmamba.case import Case
from medmamba.io.images import is_image
from medmamba.io.layouts.description import Entry
from medmamba.io.layouts.layout import Numbered, Survey
from medmamba.io.layouts.names import by_case, channel_of, images_in, split_ending


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
    _folders: dict[Path, dict[str, Numbered]] = field(default_factory=dict)

    def case(self, entry: Entry) -> tuple[Case, Numbered]:
        """The case of an entry, and its images by channel where they bear numbers that it leaves out."""
        name, images, numbers = self._images(entry)
        return Case(id=name, images=images, label=self.file(entry.label) if entry.label else None), numbers

    def _images(self, entry: Entry) -> tuple[str, tuple[Path, ...], Numbered]:
        paths = tuple(map(self.file, entry.images))
        case, number = channel_of(paths[0])
        stem = split_ending(paths[0])[0]
        if len(paths) > 1:
            return case if {channel_of(path)[0] for path in paths} == {case} else stem, paths, {}
        if not is_image(paths[0]) and (numbers := self._numbers(paths[0], stem)):
            self.numbered.append((entry.images[0], next(iter(numbers.values()))))
            return stem, tuple(numbers.values()), numbers
        if number == 0 and self.channels > 1:
            # Only the first channel is listed, the others lie beside it.
            numbers = self._numbers(paths[0], case)
            if len(numbers) > 1:
                return case, tuple(numbers.values()), numbers
        return stem, paths, {}

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
        return is_image(path) or bool(self._numbers(path, split_ending(path)[0]))

    def _numbers(self, path: Path, case: str) -> Numbered:
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

    def remark_moved(self, found: Survey) -> None:
        """Tell of files that are not where the list says."""
        if self.moved:
            listed, there = self.moved[0]
            message = f"{found.root / 'dataset.json'} lists files that are not where it says, such as {listed}"
            taken = f"those of this folder are taken, such as {there} ({len(self.moved)} files)"
            found.remark(f"{message}; {taken}", is_warning=True)
