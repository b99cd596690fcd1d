"""Where a command may write: never onto, or among, what it or somebody else reads.

A place is refused before the first byte is written. Folders are recognised by what is in them, so that a command need
not have opened a data set, or a run, to leave it alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from medmamba.case import Dataset
from medmamba.errors import MachineError
from medmamba.files import OutputError
from medmamba.io import layouts
from medmamba.io.images import map_suffixes
from medmamba.io.manifest import MANIFEST

#: How many folders that exist, from an output upwards, are asked whether they are a data set of folders of any name.
_LEVELS = 4
#: What names of files end in; a folder is not called so.
_ENDINGS = (*map_suffixes(), ".json", ".csv", ".png", ".safetensors", ".pth", ".pt")


def check_output_folder(folder: Path, *, files: Iterable[Path] = (), inputs: Iterable[Path] = ()) -> None:
    """Refuse a folder to write into when something in it is to be read only.

    Args:
        folder: of the output; it need not exist.
        files: what will be written there, as far as it is known.
        inputs: what the command reads. None must be among ``files``, by whatever name or link; in a folder, or
            below it, nothing is written.

    Raises:
        MachineError: if there is no permission to make it.
        OutputError: if it is a file, lies in one or has the name of one; if a file of the output is an input; if the
            folder lies in a folder of the inputs, in the images or labels of a data set; or if it is the folder of a
            data set, a training run or preprocessed cases itself.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"the output must be a folder, but {folder} is a file; give another name")
    if not folder.exists() and folder.name.lower().endswith(_ENDINGS):
        raise OutputError(f"the output is a folder, but {folder} is the name of a file; give a name without its ending")
    if not folder.exists():
        _check_writable(folder)
    given = list(inputs)
    _check_inside(folder, [path for path in given if path.is_dir()])
    _check_files(files, given)  # folders too, which may be images


def places_of(dataset: Dataset) -> set[Path]:
    """The folders that hold the files of a data set, for the ``inputs`` of `check_output_folder`.

    Not the data set's own folder, if some of its files lie there: the default work folder may be in it.
    """
    cases = (*dataset.training, *dataset.test)
    found = {file.parent for case in cases for file in (*case.images, case.label) if file is not None}
    return found - {dataset.root, *dataset.root.parents}


def check_output_files(files: Iterable[Path], *, inputs: Iterable[Path] = ()) -> None:
    """As `check_output_folder`, for a command that is told the names of its files.

    Raises:
        MachineError: if there is no permission to write there.
    """
    written, given = list(files), list(inputs)
    for path in written:
        if path.is_dir():
            raise OutputError(f"the output must be a file, but {path} is a folder; give a name in it")
        _check_writable(path)
        _check_inside(path.parent, [place for place in given if place.is_dir()], output=path)
    _check_files(written, [path for path in given if not path.is_dir()])


def _check_writable(path: Path) -> None:
    """Refuse a file that nobody could write, by the nearest folder there is."""
    outer = next((folder for folder in path.absolute().parents if folder.exists()), None)
    if outer is None:
        return
    if not outer.is_dir():
        raise OutputError(f"{path} cannot be written: {outer} is a file, not a folder; give another name")
    if not os.access(outer, os.W_OK | os.X_OK):
        raise MachineError(f"{path} cannot be written: no permission to write into {outer}; give another name")


def _check_files(written: Iterable[Path], read: Iterable[Path]) -> None:
    real = {_identity(path): path for path in read}
    for path in written:
        if source := real.get(_identity(path)):
            link = "" if path == source else f" ({source})"
            raise OutputError(f"{path} is an input of this command{link} and would be overwritten; give another output")


def _identity(path: Path) -> object:
    """What two names of one file have in common: hard links, and names that a file system holds for equal, too."""
    try:
        status = path.stat()
    except OSError:
        return os.path.realpath(path)
    return status.st_dev, status.st_ino


def _check_inside(folder: Path, read: Iterable[Path], output: Path | None = None) -> None:
    # What is said of a folder that is the output, or holds it.
    here = f"the output {folder} is" if output is None else f"the output {output} lies in {folder}, which is"
    lies = f"the output {output or folder} lies in"
    # Both ways to see it: a link leads into a folder of inputs, or a folder of inputs is a link into this one.
    place = Path(os.path.realpath(folder))
    above = [place, *place.parents]
    identities = {_identity(outer) for outer in above if outer.exists()}
    for path in read:
        if _identity(path) in identities:
            raise OutputError(f"{lies} {path}, which this command reads; give another folder")
    if layouts.folders_in(place, layouts.LAYOUTS):
        raise OutputError(f"{here} a data set, and data sets are only read; give another folder")
    if place.is_dir() and next(place.glob("*.b2nd"), None):
        raise OutputError(f"{here} a folder of cases prepared for training; give another folder")
    if (place / "run.json").is_file() and (place / "plan.json").is_file():
        raise OutputError(f"{here} a training run; give another folder, such as one in it")
    roots, among = _unnamed([outer for outer in above if outer.is_dir()][:_LEVELS])
    if place in roots:
        raise OutputError(f"{here} a data set, and data sets are only read; give another folder")
    for outer in above:
        if _holds_images_or_labels(outer) or outer in among:
            raise OutputError(f"{lies} {outer}, among the images or labels of a data set; give another folder")


def _holds_images_or_labels(folder: Path) -> bool:
    # Segmentations may become the labels of a new data set, one after the other.
    if not folder.is_dir() or (folder / MANIFEST).is_file():
        return False
    known = folder.name.lower() in layouts.folders_in(folder.parent, layouts.LAYOUTS)
    return known and any(not path.name.startswith(".") for path in folder.iterdir())


def _unnamed(folders: Iterable[Path]) -> tuple[set[Path], set[Path]]:
    """Which of these are data sets whose layouts have no names for folders, and the folders of their cases."""
    roots, among = set[Path](), set[Path]()
    asked = [layout for layout in layouts.LAYOUTS if not layout.labels_of]
    for folder in map(layouts.Folder, folders):
        # Segmentations may look as a data set does.
        layout = next((each for each in asked if each.recognises(folder)), None)
        if layout is None or (folder.root / MANIFEST).is_file():
            continue
        roots.add(folder.root)
        found = layout.survey(folder)
        for case in (*found.training, *found.test):
            files = [file for file in (*case.images, case.label) if file is not None]
            among |= {inner for file in files for inner in file.parents if folder.root in inner.parents}
    return roots, {inner for inner in among if not (inner / MANIFEST).is_file()}
