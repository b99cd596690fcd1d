"""Films and their masks: folders of both, DAVIS and YouTube-VOS, or a folder for each clip.

A data set is of video when it is laid out in one of these ways, whatever is written elsewhere in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medmamba.case import Case, Split, some
from medmamba.errors import DataError
from medmamba.io.clips import is_clip, open_clip
from medmamba.io.errors import DatasetError
from medmamba.io.layouts.description import described, splits
from medmamba.io.layouts.layout import Folder, Survey, sorted_cases
from medmamba.io.layouts.names import split_ending, subfolder

#: What data sets of these layouts bear as theirs.
LAYOUT = "video"
#: Of a sequence of somebody: ``patient1_seq2``.
_SEQUENCE = re.compile(r"^(?P<patient>.+?)[-_ ]*seq(uence)?[-_ ]*\d+$", re.IGNORECASE)
#: Folders of one resolution, as DAVIS has them.
_RESOLUTION = re.compile(r"^(\d+p|full-resolution)$", re.IGNORECASE)
#: Names of the channels, by how many there are, where no dataset.json has any.
CHANNELS = {1: ("grey",), 3: ("red", "green", "blue")}

#: Clips by name, and their masks by name.
Found = tuple[dict[str, Path], dict[str, Path]]


@dataclass(frozen=True)
class Clips:
    """One of the ways; see `medmamba.io.layouts.layout.Layout`.

    Args:
        looks: what it has, for messages.
        labels_of: its folder of clips, and that of their masks; none where each clip has a folder for both.
        find: all clips, and all masks.
        fixed: the fold its author fixed elsewhere than in splits.json.
    """

    looks: str
    labels_of: Mapping[str, str]
    find: Callable[[Folder], Found]
    fixed: Callable[[Folder], tuple[Split, ...]] = lambda folder: ()
    is_described: bool = False

    def recognises(self, folder: Folder) -> bool:
        """By its folders, where there are none of images and no list of files."""
        if not folder.root.is_dir() or any(folder.within(name).is_dir() for name in ("images", "imagesTr")):
            return False
        if self.labels_of:
            return folder.within(next(iter(self.labels_of))).is_dir()
        clips, masks = self.find(folder)
        return bool(clips.keys() & masks.keys()) and not folder.facts.keys() & {"training", "dataset"}

    def survey(self, folder: Folder) -> Survey:
        """Clips with masks to learn from, and those without to predict; the patient of each."""
        clips, masks = self.find(folder)
        channels = _channels(clips)
        if folder.description.is_file():
            found = described(folder, channels=[*channels])
        else:
            found = Survey(name=folder.root.name, root=folder.root, channels=channels)
        # Nothing else in these folders means anything, and numTraining is no key of theirs.
        found.layout, found.listed, found.splits_file = LAYOUT, True, "splits.json"
        said = found.attempt(lambda: _patients(folder, clips), dict[str, str]())
        cases = [
            Case(id=name, images=(clip,), label=masks.get(name), patient=said.get(name, patient_of_clip(name)))
            for name, clip in clips.items()
        ]
        found.training = sorted_cases(case for case in cases if case.label is not None)
        found.test = sorted_cases(case for case in cases if case.label is None)
        found.file_ending = next((split_ending(case.images[0])[1] for case in found.training), "")
        if lone := sorted(masks.keys() - clips.keys()):
            message = f"masks without a clip of their name: {some(lone)}; add the clips, or remove the masks"
            found.remark(message, rule="label-without-image", is_warning=True)
        if not clips:
            place = folder.root / next(iter(self.labels_of), "")
            found.problems.append(DatasetError(f"{place} holds no clips: films, or folders of frames"))
        folds = found.attempt(lambda: splits(folder.root / found.splits_file), tuple[Split, ...]())
        found.splits = tuple(_of_clips(fold, found.training) for fold in folds or self.fixed(folder))
        return found


def patient_of_clip(name: str) -> str:
    """Whose a clip is, by its name: what stands before ``_seq`` and a number, else the clip's own.

    >>> patient_of_clip("patient1_seq2"), patient_of_clip("anna_seq03"), patient_of_clip("bear")
    ('patient1', 'anna', 'bear')
    """
    found = _SEQUENCE.match(name)
    return found["patient"] if found else name


def _patients(folder: Folder, clips: Mapping[str, Path]) -> dict[str, str]:
    """The patient of each clip that dataset.json names, under ``patients``."""
    said: Any = folder.facts.get("patients", {})
    if not isinstance(said, dict) or not all(isinstance(each, str) and each for each in said.values()):
        raise DatasetError(f"{folder.description}: 'patients' must map clips to patients, got {said!r}")
    if unknown := sorted(said.keys() - clips.keys()):
        raise DatasetError(f"{folder.description}: 'patients' names clips that do not exist: {some(unknown)}")
    return said


def _of_clips(split: Split, cases: tuple[Case, ...]) -> Split:
    """A fold whose sides may name patients in place of all their clips."""
    ids = {case.id for case in cases}

    def clips(names: tuple[str, ...]) -> Iterator[str]:
        for name in names:
            whose = [case.id for case in cases if case.patient == name]
            yield from whose if name not in ids and whose else [name]

    return replace(split, train=tuple(clips(split.train)), validation=tuple(clips(split.validation)))


def _channels(clips: Mapping[str, Path]) -> tuple[str, ...]:
    """What the channels are called, by how many the first clip that can be opened has."""
    for clip in clips.values():
        try:
            with open_clip(clip) as reader:
                return CHANNELS[reader.info.channels]
        except (DataError, OSError):  # which whoever reads all of it will tell
            continue
    return CHANNELS[3]


def _pairs(clips: Path, masks: Path) -> Found:
    """Clips and masks by name, of two folders; a folder without frames is a clip where it has masks."""
    labels = _entries(masks, lambda path: is_clip(path) or (path.is_dir() and any(path.iterdir())))
    return _entries(clips, lambda path: is_clip(path) or (path.is_dir() and path.name in labels)), labels


def _entries(folder: Path, counts: Callable[[Path], bool]) -> dict[str, Path]:
    """What counts in a folder, by name.

    Raises:
        DatasetError: if two are of one name.
    """
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    paths = [path for path in inside if not path.name.startswith(".") and counts(path)]
    found = {split_ending(path)[0]: path for path in paths}
    if doubles := [path.name for path in paths if path not in found.values()]:
        raise DatasetError(
            f"{folder} holds clips for which there is a second one of the same name: {some(doubles)}; remove one of "
            "the two"
        )
    return found


def _in_two(folder: Folder) -> Found:
    return _pairs(folder.within("videos"), folder.within("masks"))


def _in_davis(folder: Folder) -> Found:
    images, masks = folder.within("JPEGImages"), folder.within("Annotations")
    sizes = sorted(path.name for path in images.iterdir() if _RESOLUTION.match(path.name))
    if sizes:  # 480p before Full-Resolution: results are usually told of the former
        images, masks = images / sizes[0], subfolder(masks, sizes[0]) if masks.is_dir() else masks
    return _pairs(images, masks)


def _in_folders(folder: Folder) -> Found:
    inside = [path for path in sorted(folder.root.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    return _parts(inside, "frames"), _parts(inside, "masks")


def _parts(folders: list[Path], role: str) -> dict[str, Path]:
    """What is called by its role in some folders, by their names."""
    found = {}
    for folder in folders:
        for path in sorted(folder.glob(f"{role}*")):
            if split_ending(path)[0] == role and (path.is_file() or any(path.iterdir())):
                found[folder.name] = path
    return found


def _image_sets(folder: Folder) -> tuple[Split, ...]:
    """DAVIS' own fold: of its lists, those that name most of the clips that are here."""
    here, _ = _in_davis(folder)
    folds = []
    for train in sorted(folder.within("ImageSets").rglob("train.txt")):
        sides = [_listed(train), _listed(train.with_name("val.txt"))]
        if all(sides) and {*sides[0], *sides[1]} <= here.keys():
            folds.append(Split(train=sides[0], validation=sides[1]))
    return (max(folds, key=lambda fold: len(fold.train) + len(fold.validation)),) if folds else ()


def _listed(path: Path) -> tuple[str, ...]:
    """The clips that a list names, one a line, or by each of their frames as in 2016."""
    lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
    first = (line.split()[0] for line in lines if line.strip())
    return tuple(dict.fromkeys(Path(name).parent.name if "/" in name else name for name in first))


#: The first that recognises a folder surveys it.
CLIP_LAYOUTS = (
    Clips("a folder videos/ with masks/ beside it", {"videos": "masks"}, _in_two),
    Clips("folders JPEGImages/ and Annotations/", {"JPEGImages": "Annotations"}, _in_davis, _image_sets),
    Clips("folders of clips with frames/ and masks/ in them", {}, _in_folders),
)
