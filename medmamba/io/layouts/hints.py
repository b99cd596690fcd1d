"""What a folder that is no data set may be instead, and what to rename: words for error messages."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path

from medmamba.case import some
from medmamba.io.errors import DatasetError
from medmamba.io.layouts.brats import holds_modalities
from medmamba.io.layouts.layout import Folder, Layout, folders_in, folders_of
from medmamba.io.layouts.names import images_in, maps_in, split_ending

#: What people call label maps.
_LABEL_FOLDERS = ("masks", "mask", "segmentations", "segmentation", "segs", "seg", "label", "gt", "groundtruth")
_IMAGE_FOLDERS = ("image", "imgs", "img", "scans", "volumes", "data")
#: Words that tell image and label of a case apart, at either end of a name.
_KINDS = r"(?:seg|segs|segmentation|label|labels|lbl|mask|masks|gt|groundtruth|image|img|scan|volume)"
_AFFIX = re.compile(rf"^{_KINDS}[-_. ]+|[-_. ]+{_KINDS}$", re.IGNORECASE)


def no_layout(path: Path, layouts: Collection[Layout]) -> str:
    """Why a folder is no data set of these layouts, and what to give or to rename."""

    def is_dataset(folder: Path) -> bool:
        unnamed = [layout for layout in layouts if not layout.labels_of]
        return (
            (folder / "dataset.json").is_file()
            or bool(folders_in(folder, layouts))
            or any(layout.recognises(Folder(folder)) for layout in unnamed)
        )

    wanted = f"{path} is no data set: it has neither {' nor '.join(layout.looks for layout in layouts)}"
    folders = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    inside = [folder for folder in folders if is_dataset(folder)]
    # nnU-Net v1 kept them one folder deeper.
    inside = inside or [below for folder in folders for below in sorted(folder.iterdir()) if is_dataset(below)]
    part = images_in(path) or any(path.name.lower() in folders_of(layout) for layout in layouts)
    if part and is_dataset(path.parent):
        return f"{wanted}; it is a folder of one: give {path.parent}"
    if inside:
        return f"{wanted}; data sets lie in it, give one of them: {some([str(folder) for folder in inside])}"
    names = {folder.name.lower(): folder for folder in folders}
    if "imagestr" in names:
        return f"{wanted}; it has {names['imagestr'].name}/ but lacks dataset.json, see datasets.md for what that holds"
    renames = [
        f"{names[name].name}/ to {right}/"
        for right, wrong in (("images", _IMAGE_FOLDERS), ("labels", ("labels", *_LABEL_FOLDERS)))
        for name in wrong
        if name in names and name != right
    ]
    if renames:
        return f"{wanted}; rename {some(renames)}"
    images = [image.name for image in images_in(path)]
    if images:
        return f"{wanted}; it holds images itself ({some(images)}): put them into images/ and their labels into labels/"
    if holds_modalities(path):
        return (
            f"{wanted}; folders in it hold images by modality: if they are of BraTS, say with --edition of which "
            "edition, else list the files of each case in a dataset.json, under 'dataset', as datasets.md shows"
        )
    patients = [folder.name for folder in folders if images_in(folder)]
    if patients:
        return (
            f"{wanted}; folders in it hold images ({some(patients)}): list the files of each case in a dataset.json, "
            "under 'dataset', as datasets.md shows"
        )
    return f"{wanted}; see datasets.md for the layouts"


def no_labels(root: Path, images: Path, labels: Path) -> str:
    """Why images of plain folders have no labels."""
    if labels.is_dir():
        return f"no image in {images} has a label of the same name in {labels}"
    called = ("labels", "labelstr", *_LABEL_FOLDERS)
    others = [folder.name for folder in root.iterdir() if folder.is_dir() and folder.name.lower() in called]
    lacks = f"{root} has {images.name}/ but no {labels.name}/"
    if others:
        return f"{lacks}; if {others[0]}/ holds the labels, rename it to {labels.name}/"
    return f"{lacks}; put the label maps there, called as the cases of their images"


def unlike_names(images: Path, cases: Iterable[str], labels: Path, stems: set[str]) -> list[DatasetError]:
    """The problem that labels are called otherwise than their images, when that explains why none was found.

    Args:
        images: folder of the images.
        cases: ids of their cases.
        labels: folder of the labels.
        stems: names of the labels, without ending.
    """
    cases = set(cases)
    pairs = [] if cases & stems else likely_pairs(stems, cases)
    if not pairs:
        return []
    label, case = pairs[0]
    ending = next(split_ending(path)[1] for path in maps_in(labels) if split_ending(path)[0] == label)
    return [
        DatasetError(
            f"labels must be called as the cases of their images: {labels / (label + ending)} belongs to case {case} "
            f"in {images}, rename it to {case}{ending} ({len(pairs)} labels)"
        )
    ]


def likely_pairs(stems: Iterable[str], cases: Iterable[str]) -> list[tuple[str, str]]:
    """Names of labels and the case that each likely belongs to, such as ``anna_seg`` and ``anna``."""
    bare = {_AFFIX.sub("", case): case for case in cases}
    return [(stem, bare[_AFFIX.sub("", stem)]) for stem in sorted(stems) if _AFFIX.sub("", stem) in bare]
