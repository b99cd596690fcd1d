"""Data sets as their authors laid them out: nnU-Net raw (v2 and v1), Decathlon, BraTS, plain folders.

See datasets.md for pictures of the layouts.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from medmamba.case import Case, Dataset, Pair, Pairing
from medmamba.clip import UNLABELLED as NO_MASK
from medmamba.errors import DataError
from medmamba.files import content_digest
from medmamba.io import images as image_files
from medmamba.io.check.rules import description_errors
from medmamba.io.clips import open_clip, open_clip_masks
from medmamba.io.dicom.media import is_medium
from medmamba.io.errors import DatasetError
from medmamba.io.layouts import LAYOUTS, Survey, brats, names, survey
from medmamba.io.layouts.clips import LAYOUT as CLIPS
from medmamba.io.layouts.folders import channels_of_files
from medmamba.io.layouts.pairs import SIDES, survey_pairs
from medmamba.io.manifest import Manifest
from medmamba.io.remarks import tell
from medmamba.labels import UNLABELLED, Labels

log = logging.getLogger(__name__)


def open_dataset(path: Path, *, edition: str = "") -> Dataset:
    """Find out how a folder is laid out and list its cases; no image is opened, except in plain folders.

    Args:
        path: the folder, or its dataset.json.
        edition: of BraTS, where the user says which it is, see `medmamba.io.layouts.editions`.

    Raises:
        FileNotFoundError: if there is no such folder.
        UsageError: if there is no such edition.
        DatasetError: if it has none of the known layouts, or any error that `medmamba.io.check` finds without opening
            an image: the first of them, in its words.
    """
    found = survey(path, edition)
    errors = list(description_errors(found))
    if errors:
        more = f" ({len(errors) - 1} more errors: medmamba dataset check {found.root})" if len(errors) > 1 else ""
        raise DatasetError(errors[0].in_words + more)
    tell(found.remarks)
    if found.labels is None:
        found.labels = _labels_of_maps(found)
    return Dataset(**{each.name: getattr(found, each.name) for each in fields(Dataset) if hasattr(found, each.name)})


def open_pairs(path: Path, pairing: Pairing | None = None, *, labels: Labels | None = None) -> Dataset:
    """The pairs of a table or of folders as a data set for registration; label maps alone are opened.

    Its cases are the images, each once. Those of one patient, and where pairs are few and far between those of one
    pair, are of one ``patient``, so that folds keep them together. The one image that all pairs share is the atlas.

    Args:
        path: a table that ends in ``.csv`` or ``.tsv``, or a folder.
        pairing: how images of folders become pairs, see `medmamba.io.layouts.pairs.find_pairs`.
        labels: what their label maps hold, where that is known: then none is opened.

    Raises:
        FileNotFoundError: if there is nothing of that name.
        DatasetError: for anything that is wrong with the pairs.
    """
    found = survey_pairs(path, pairing)
    found.refuse()
    tell(found.remarks)
    shared = set.intersection(*({case.id for case in pair.cases} for pair in found.pairs)) if found.pairs else set()
    atlas = found.pairing.atlas or (shared.pop() if len(shared) == 1 and len(found.pairs) > 1 else "")
    patients = _kept_together(found.cases, found.pairs, atlas)
    cases = {case.id: replace(case, patient=patients[case.id]) for case in found.cases}
    maps = [case.label for case in found.cases if case.label is not None]
    if labels is None:
        labels = (found.labels or _labels_of_values(maps, path)) if maps else UNLABELLED
    return Dataset(
        name=found.name,
        root=found.root,
        layout="pairs",
        channels=SIDES,
        labels=labels,
        training=tuple(cases.values()),
        pairs=tuple(replace(pair, fixed=cases[pair.fixed.id], moving=cases[pair.moving.id]) for pair in found.pairs),
        pairing=found.pairing,
        atlas=atlas,
        is_described=found.labels is not None,
    )


def _kept_together(cases: Sequence[Case], pairs: Sequence[Pair], atlas: str) -> dict[str, str]:
    """The patient of each case by its id: its own, or one for all that are bound by pairs.

    Where pairs bind more than half of the cases to one another, as when each is paired with each, they bind nobody:
    pairs across a fold are left out then.
    """
    patients = {case.id: case.patient or case.id for case in cases}
    groups = dict(zip(patients.values(), patients.values(), strict=True))

    def root(patient: str) -> str:
        while groups[patient] != patient:
            patient = groups[patient]
        return patient

    for pair in pairs:
        if atlas not in (pair.fixed.id, pair.moving.id):
            first, second = sorted(root(patients[case.id]) for case in pair.cases)
            groups[second] = first
    bound = {case: root(patient) for case, patient in patients.items()}
    largest = max(map(list(bound.values()).count, set(bound.values())), default=0)
    return bound if 2 * largest <= len(bound) else patients


def find_inputs(
    path: Path, channels: int, *, known: Collection[str] = (), names_of_channels: Sequence[str] = ()
) -> list[Case]:
    """Images to predict: one, or all of a folder.

    Args:
        path: the image or folder.
        channels: how many the model takes. With more than one, a case is either files that end in ``_0000``, ``_0001``,
            ... or a single file that holds all channels. With one, and no file that ends in ``_0000``, or with files
            that hold all channels, four digits are part of the name: ``patient_0001`` and ``patient_0002`` are two
            cases. Segmentations that `medmamba predict` wrote among the images are none of them.
        known: ids of the cases that the model was trained on. Where one of them, or a label in the data set that the
            images belong to, is an image's whole name with its four digits, the digits are part of all names: the same
            rule as in training.
        names_of_channels: what the model calls its channels. Where they are given, the path may be a folder of case
            folders of BraTS, or one of these, in which files are found by their modality.

    Raises:
        FileNotFoundError: if there is nothing of that name.
        DatasetError: if the folder holds no images, a case lacks channels or is there twice, naming them.
    """
    if not path.is_dir() and not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file or folder")
    if path.is_dir() and names_of_channels and (cases := brats.inputs(path.resolve(), names_of_channels)):
        return cases
    if image_files.is_image(path):
        named = names.digits_are_names([path], {*known, *_labels_beside(path.parent)})
        return [_single_input(path, channels, named)]
    found = names.images_in(path)
    images = _without_segmentations(path, found)
    named = names.digits_are_names(images, {*known, *_labels_beside(path)})
    if not images:
        kind = "no images but segmentations that `medmamba predict` made" if found else "no images"
        raise DatasetError(f"{path} holds {kind}; images end in {', '.join(names.ENDINGS)}{_images_below(path)}")
    if named:
        log.info("%s: four digits at the end of a name are part of it, as in the labels or in training", path)
    # With one channel, and no first one, there is nothing to number but cases; nor with all channels in each file.
    numbers = {names.channel_of(image)[1]: image for image in images}
    numbered = not named and (channels > 1 or 0 in numbers)
    if numbers.keys() - {None, 0} and _holds_all(numbers[max(number or 0 for number in numbers)], channels):
        numbered = False
    grouped = names.by_case(images, numbered=numbered)
    names.refuse_doubles(path, images, grouped)
    missing = [
        f"{case} ({', '.join(file.name for file in files.values())})"
        for case, files in grouped.items()
        if list(files) not in ([None], list(range(channels)))
        and not (list(files) == [0] and _holds_all(files[0], channels))
    ]
    if missing:
        takes = (
            "one channel, as a file that ends in _0000 or has no number"
            if channels == 1
            else f"{channels} channels, as files that end in _0000 to _{channels - 1:04d} or one file with all of them"
        )
        raise DatasetError(
            f"the model takes {takes}; these cases in {path} have others: {'; '.join(missing[:10])}; add or remove "
            "files, or, where the digits number patients, put a channel's number behind them, such as "
            f"{names.split_ending(images[0])[0]}_0000{names.split_ending(images[0])[1]}"
        )
    return [Case(id=case, images=tuple(files.values())) for case, files in grouped.items()]


def is_export(path: Path, channels: int) -> bool:
    """Whether images to predict are an export in DICOM, whose series are told by their headers.

    A folder of folders whose names say all, ``anna_0000`` for each channel, is none; nor is one that holds other
    images.

    Raises:
        OSError: if it cannot be read.
    """
    if not path.is_dir():
        return is_medium(path)
    images = names.images_in(path)
    numbered = channels > 1 and images and all(names.channel_of(image)[1] is not None for image in images)
    return not numbered and all(image.is_dir() for image in images) and is_medium(path)


def _single_input(path: Path, channels: int, named: bool) -> Case:
    case, channel = names.channel_of(path)
    if channel == 0 and not named and not _holds_all(path, channels):
        wanted = [(case, number) for number in range(channels)]
        ours = [other for other in names.images_in(path.parent) if names.channel_of(other) in wanted]
        siblings = names.by_case(ours).get(case, {})
        if len(siblings) == channels:
            names.refuse_doubles(path.parent, ours, {case: siblings})
            return Case(id=case, images=(path, *(siblings[number] for _, number in wanted[1:])))
    return Case(id=names.split_ending(path)[0], images=(path,))


def _holds_all(path: Path, channels: int) -> bool:
    """Whether a file holds several channels by itself."""
    return channels > 1 and channels_of_files([path]) == channels


def _labels_beside(images: Path) -> set[str]:
    """Names of the labels in the data set that a folder of images belongs to; none for another folder."""
    folder = images.resolve()
    places = {images.lower(): labels for layout in LAYOUTS for images, labels in layout.labels_of.items()}
    labels = places.get(folder.name.lower())
    return set(names.labels_in(names.subfolder(folder.parent, labels))) if labels else set()


def _images_below(path: Path) -> str:
    """Where the images are when the folder of a data set is given."""
    below = [name for name in ("imagesTs", "images", "imagesTr") if names.images_in(names.subfolder(path, name))]
    return f"; those of the data set are in {names.subfolder(path, below[0])}" if below else ""


def _without_segmentations(folder: Path, images: list[Path]) -> list[Path]:
    """What is to be segmented in a folder into which `medmamba predict` wrote before."""
    try:
        manifest = Manifest.load(folder)
    except ValueError as error:
        log.info("%s; passed over", error)
        return images
    numbered = {case for case, channel in map(names.channel_of, images) if channel is not None}

    def is_segmentation(image: Path) -> bool:
        stem, made = names.split_ending(image)[0], manifest.made.get(image.name)
        if stem in numbered:  # the images are those with numbers, also if the segmentation was edited
            return made is not None or stem in manifest.unrecorded.cases
        return made is not None and content_digest(image_files.files(image)) == made.digest

    return [image for image in images if not is_segmentation(image)]


def _labels_of_maps(found: Survey) -> Labels:
    """In plain folders, and of films, nothing says what values mean, so each one that occurs is a structure."""
    if found.layout == CLIPS:
        return _labels_of_masks(found)
    return _labels_of_values([case.label for case in found.training if case.label is not None], found.root / "labels")


def _labels_of_values(maps: Sequence[Path], place: Path) -> Labels:
    """A structure for each value that occurs in label maps."""
    return _structures({value for path in maps for value in np.unique(image_files.read_label(path).array)}, place)


def _labels_of_masks(found: Survey) -> Labels:
    """A structure for each value that occurs in masks of films."""
    values = set[int]()
    for case in found.training:
        assert case.label is not None
        with open_clip(case.images[0]) as clip, open_clip_masks(case.label, clip) as masks:
            values.update(*map(np.unique, masks))
    return _structures(values - {NO_MASK}, found.root / "masks")


def _structures(values: Iterable[int], place: Path) -> Labels:
    try:
        return Labels.of_values(map(int, values))
    except DataError as error:
        raise DatasetError(f"{place}: {error}") from error
