"""Layouts of data sets: one module each, all of them in one table."""

from __future__ import annotations

from pathlib import Path

from medmamba.io.errors import DatasetError
from medmamba.io.layouts.brats import Brats, holds_modalities
from medmamba.io.layouts.clips import CLIP_LAYOUTS
from medmamba.io.layouts.description import splits
from medmamba.io.layouts.folders import PlainFolders
from medmamba.io.layouts.hints import no_layout
from medmamba.io.layouts.layout import Folder, Layout, Survey, folders_in
from medmamba.io.layouts.meaning import settle
from medmamba.io.layouts.msd import Decathlon
from medmamba.io.layouts.nnunet import NnUNet

__all__ = ["LAYOUTS", "Folder", "Layout", "Survey", "folders_in", "listing", "settle", "survey"]

#: The first that recognises a folder surveys it.
LAYOUTS: tuple[Layout, ...] = (*CLIP_LAYOUTS, Decathlon(), NnUNet(), PlainFolders(), Brats())


def survey(path: Path, edition: str = "", *, workers: int | None = None) -> Survey:
    """Find out how a folder is laid out, collecting what is wrong instead of stopping at it.

    No images are opened but for headers in plain folders, and label maps only where the edition of BraTS depends on
    their values.

    Args:
        path: the folder, or its dataset.json.
        edition: of BraTS, where the user says which it is.
        workers: processes that read label maps, at most.

    Raises:
        FileNotFoundError: if there is no such folder.
        DatasetError: if it has none of the known layouts.
        UsageError: if there is no such edition.
        ValueError: if its dataset.json is not JSON.
    """
    found = listing(path, by_modality=bool(edition))
    settle(found, edition, at_most=workers)
    return found


def listing(path: Path, *, by_modality: bool = False) -> Survey:
    """As `survey`, of files alone: without saying what the labels of BraTS mean; errors as there.

    Args:
        path: the folder, or its dataset.json.
        by_modality: take folders of images by modality as BraTS even where nothing is called so.
    """
    if path.name == "dataset.json":
        path = path.parent
    if path.is_file():
        raise DatasetError(f"{path} is a file, not the folder of a data set; unpack it if it is an archive")
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: there is no such folder")
    folder = Folder(path.resolve())
    layout = next((known for known in LAYOUTS if known.recognises(folder)), None)
    if layout is None and by_modality and holds_modalities(folder.root):
        layout = Brats()
    if layout is None:
        raise DatasetError(no_layout(folder.root, LAYOUTS))
    found = layout.survey(folder)
    found.is_described = layout.is_described
    found.splits = found.splits or found.attempt(lambda: splits(folder.root / "splits_final.json"), ())
    return found
