"""BraTS as downloaded: a folder for each case, in which names of files end in the modality.

Files are found by their modality and never by their place. The edition, which says what label values mean, is another
matter, see `medmamba.io.layouts.meaning`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import ClassVar

from medmamba.case import Case, some
from medmamba.io.errors import DatasetError
from medmamba.io.layouts.editions import (
    EDITIONS,
    FOLDERS,
    LABEL_SPELLINGS,
    SPELLINGS,
    as_spelled,
    common_editions,
    listed,
    modality,
    names_of,
    patient_of,
)
from medmamba.io.layouts.layout import Folder, Survey, sorted_cases
from medmamba.io.layouts.names import ENDINGS, images_in, split_ending
from medmamba.labels import Labels

#: Folders between the data set and its cases: high and low grade gliomas, up to 2019.
GRADES = ("hgg", "lgg")
#: So many folders, and files of each, are looked at to recognise a data set.
_LOOKED_AT = 200
#: What sets the modality apart from the case's name.
_DIVIDER = re.compile(r"[-_. ]")


@dataclass(frozen=True, slots=True)
class Examination:
    """The files of a case folder.

    Args:
        folder: called as the case.
        images: by modality.
        label: the label map, if there is one.
        doubles: files for which there is another one of the same modality.
    """

    folder: Path
    images: dict[str, Path]
    label: Path | None
    doubles: tuple[Path, ...] = ()

    @property
    def id(self) -> str:
        """What the case is called."""
        return self.folder.name

    def case(self, modalities: Iterable[str]) -> Case:
        """Its images in the order of these modalities, as far as they are there."""
        images = tuple(self.images[each] for each in modalities if each in self.images)
        images = images or tuple(self.images.values())  # one that lacks all is told of by its name
        return Case(id=self.id, images=images, label=self.label, patient=patient_of(self.id))

    @property
    def editions(self) -> tuple[str, ...]:
        """Names of the editions that it may be of, going by names; of a case of another name, by those of its files."""
        spelled = {_last_word(path) for path in self.images.values()}
        by_case = tuple(each.name for each in FOLDERS if each.bears(self.id))
        by_files = tuple(each.name for each in FOLDERS if spelled <= set(each.channels))
        return by_case or by_files or tuple(each.name for each in FOLDERS)


class Brats:
    """Folders of cases, whose names no other layout has."""

    looks = "a folder for each case, called as in BraTS or with files t1c or t1ce, t2f or flair, seg and so on"
    labels_of: ClassVar[dict[str, str]] = {}
    is_described = False

    def recognises(self, folder: Folder) -> bool:
        """By the first folders in it: a case called as in BraTS, or others whose files are called as there.

        Folders of FLAIR, T1 and T2 are those of many a data set whose labels are no tumours.
        """
        found = list(islice(filter(_is_of_brats, islice(_case_folders(folder.root), _LOOKED_AT)), 2))
        return len(found) > 1 or any(map(_is_called_so, found))  # one folder may happen to hold a t1c.nii and a seg.nii

    def survey(self, folder: Folder) -> Survey:
        """Cases with a label map to learn from, and those without to predict; label maps are not read."""
        found = Survey(name=folder.root.name, root=folder.root, layout="brats", listed=True)
        cases = examinations(folder.root)
        labelled, others = ([c for c in cases if (c.label is not None) == has] for has in (True, False))
        doubles = {case.folder: some([path.name for path in case.doubles]) for case in cases if case.doubles}
        found.problems += [
            DatasetError(f"{place} holds two files of one kind: {names}; remove one of the two")
            for place, names in doubles.items()
        ]
        for case in cases:
            found.editions.setdefault(case.editions, []).append(case.id)
        having = {each: [case.id for case in cases if each in case.images] for each in SPELLINGS}
        modalities = [each for each, ids in having.items() if 2 * len(ids) >= len(cases)]
        for each, ids in having.items():
            if ids and each not in modalities:
                found.remark(_left_out(each, ids, len(cases)), rule="left-out-channel", is_warning=True)
        found.channels = as_spelled(modalities, common_editions(found.editions))
        judged = labelled or others  # cases to predict are what matters where there are no others
        found.incomplete = {case.id: wrong for case in judged if (wrong := _lacking(case, modalities))}
        found.training = sorted_cases(case.case(modalities) for case in labelled)
        found.test = sorted_cases(
            case.case(modalities) for case in others if not (labelled and _lacking(case, modalities))
        )
        if labelled and others:
            names = some([case.id for case in others])
            have = "1 case has" if len(others) == 1 else f"{len(others)} cases have"
            found.remark(f"{have} no label map, kept for prediction: {names}", is_warning=True)
        lacking = [f"{case.id} {wrong}" for case in others if (wrong := _lacking(case, modalities))]
        if labelled and lacking:
            found.remark(f"cases to predict are left out: {some(lacking)}", is_warning=True)
        if found.training or found.test:
            found.file_ending = split_ending((*found.training, *found.test)[0].images[0])[1]
        return found


def holds_modalities(root: Path) -> bool:
    """Whether there are folders of images by modality, of whatever data set: BraTS where the user says so."""
    return any(map(_is_case, islice(_case_folders(root), _LOOKED_AT)))


def holds_labels(root: Path) -> bool:
    """Whether such folders hold a label map as well."""
    return any(_examine(folder).label is not None for folder in filter(_is_case, _case_folders(root)))


def examinations(root: Path) -> list[Examination]:
    """The case folders of a data set, or the one that ``root`` itself is, sorted by name."""
    folders = [root] if _is_case(root) else [folder for folder in _case_folders(root) if _is_case(folder)]
    return sorted(map(_examine, folders), key=lambda case: case.id)


def inputs(root: Path, channels: Sequence[str]) -> list[Case] | None:
    """Cases to predict, their files in the order of a model's channels, matched by modality.

    Args:
        root: a data set of case folders, or one of these.
        channels: names of the model's channels.

    Returns:
        The cases; None if ``root`` is neither.

    Raises:
        DatasetError: if a channel is no modality of BraTS, or cases lack one, naming them.
    """
    if not (_is_case(root) or holds_modalities(root)):
        return None
    cases = examinations(root)
    unknown = [name for name in channels if modality(name) is None]
    if unknown:
        raise DatasetError(
            f"the model's channels are {', '.join(channels)}, and which modality of BraTS {some(unknown)} is cannot be "
            f"told, so the case folders in {root} do not say what to read; give files that end in _0000, _0001, ..."
        )
    wanted = [modality(name) or name for name in channels]
    lacking = [f"{case.id} {wrong}" for case in cases if (wrong := _lacking(case, wanted))]
    lacking += [f"{case.id} has two of {some([path.name for path in case.doubles])}" for case in cases if case.doubles]
    if lacking:
        raise DatasetError(
            f"the model takes {', '.join(channels)}, but in {root} {some(lacking)}; restore the files, or take the "
            "case folder away"
        )
    return [case.case(wanted) for case in cases]


def coding_remark(root: Path, labels: Labels) -> str:
    """What is to be said where segmentations hold other values than the label maps of their cases' edition; or nothing.

    Args:
        root: as for `inputs`.
        labels: of the model.
    """
    ours = {label.name: set(label.values) for label in labels.foreground}
    editions = [EDITIONS[name] for name in common_editions(case.editions for case in examinations(root))]
    theirs = [{region.name: set(region.values) for region in each.regions} for each in editions]
    if not editions or any(all(ours.get(name, values) == values for name, values in each.items()) for each in theirs):
        return ""
    coded = "; ".join(f"{label.name} {listed(label.values)}" for label in labels.foreground)
    return (
        f"segmentations hold the values that the model learned ({coded}), which are not those of "
        f"{names_of(editions)}, of which the cases in {root} are"
    )


def _lacking(case: Examination, modalities: Iterable[str]) -> str:
    """Which modalities a case lacks, in words; empty if none."""
    missing = [each for each in modalities if each not in case.images]
    if not missing:
        return ""
    names = ", ".join("/".join(SPELLINGS[each]) for each in missing)
    return f"lacks {names} (no file in {case.folder} ends so)"


def _left_out(each: str, ids: list[str], cases: int) -> str:
    """That a modality is no channel, in words."""
    names = "/".join(SPELLINGS[each])
    return (
        f"{names} is there in {len(ids)} of {cases} cases alone ({some(ids)}), so it is no channel and those files are "
        "not read; restore it in the other cases, or take these away, to learn from it"
    )


def _case_folders(root: Path) -> Iterator[Path]:
    """Folders that may be those of cases: in ``root``, and in its folders for grades."""
    for folder in _folders(root):
        if folder.name.casefold() in GRADES:
            yield from _folders(folder)
        else:
            yield folder


def _folders(root: Path) -> Iterator[Path]:
    try:
        yield from (path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:
        return


def _is_case(folder: Path) -> bool:
    """Whether a folder holds images of modalities: one under the name of a case of BraTS, two under any other."""
    found = {each for path in _files(folder) if (each := modality(_last_word(path)))}
    return len(found) >= (1 if _is_named(folder) else 2)


def _is_of_brats(folder: Path) -> bool:
    """Whether a case is called as in BraTS, or its files: all in lower case, with contrast agent and label map."""
    if _is_named(folder):
        return _is_case(folder)
    words = {_DIVIDER.split(split_ending(path)[0])[-1] for path in _files(folder)}
    images = words & {name for each in FOLDERS for name in each.channels}
    return len(images) > 1 and bool(words & set(SPELLINGS["t1ce"])) and "seg" in words


def _is_called_so(folder: Path) -> bool:
    return _is_named(folder) or any(path.name.startswith(folder.name) for path in _files(folder))


def _is_named(folder: Path) -> bool:
    return any(each.bears(folder.name) for each in FOLDERS)


def _files(folder: Path) -> list[Path]:
    """The first files of a folder that are called as images."""
    try:
        found = list(islice(folder.iterdir(), _LOOKED_AT))
    except OSError:  # what may not be looked into is nobody's data set
        return []
    return [path for path in found if path.name.lower().endswith(ENDINGS) and not path.name.startswith(".")]


def _examine(folder: Path) -> Examination:
    images, labels, doubles = dict[str, Path](), list[Path](), list[Path]()
    for path in images_in(folder):
        word = _last_word(path)
        if word in LABEL_SPELLINGS:
            labels.append(path)
        elif (each := modality(word)) is not None and images.setdefault(each, path) != path:
            doubles += [images[each], path]
    return Examination(folder, images, labels[0] if labels else None, (*doubles, *(labels if len(labels) > 1 else ())))


def _last_word(path: Path) -> str:
    """What a file's name ends in, in lower case: ``t1c`` of ``BraTS-GLI-00000-000-t1c.nii.gz``."""
    return _DIVIDER.split(split_ending(path)[0])[-1].casefold()
