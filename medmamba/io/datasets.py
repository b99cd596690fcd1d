"""Data sets as their authors laid them out: nnU-Net v2 raw, Medical Segmentation Decathlon, plain folders.

See datasets.md for pictures of the three layouts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from medmamba.case import Case, Dataset, Split
from medmamba.io import _description
from medmamba.io._errors import DatasetError
from medmamba.io._names import ENDINGS, by_case, channel_of, images_in, labels_in, maps_in, refuse_doubles, split_ending
from medmamba.io.images import read_channels, read_label
from medmamba.labels import Label, Labels
from medmamba.plans._json import read_json

__all__ = ["DatasetError", "Survey", "find_inputs", "labels_of_values", "open_dataset", "split_ending", "survey"]

T = TypeVar("T")


@dataclass(slots=True, kw_only=True)
class Survey:
    """What can be told of a data set without reading voxels, also when something is wrong with its description.

    Args:
        name: as in `medmamba.case.Dataset`; so are ``root``, ``layout``, ``training``, ``test``, ``file_ending`` and
            ``splits``.
        channels: None if they are not known.
        labels: None if they are not known: in plain folders only the label maps tell.
        incomplete: cases whose files are not those of the channels, and what is wrong with them.
        announced: how many training cases the description speaks of, as it says so; None if it does not.
        problems: all that is wrong; when there are any, the fields concerned hold a guess.
    """

    name: str
    root: Path
    layout: str
    channels: tuple[str, ...] | None = None
    labels: Labels | None = None
    training: tuple[Case, ...] = ()
    test: tuple[Case, ...] = ()
    file_ending: str = ".nii.gz"
    splits: tuple[Split, ...] = ()
    incomplete: dict[str, str] = field(default_factory=dict)
    announced: Any = None
    problems: list[DatasetError] = field(default_factory=list)

    def attempt(self, value: Callable[[], T], otherwise: T) -> T:
        """A value of the description, or ``otherwise`` and one more problem."""
        try:
            return value()
        except (DatasetError, ValueError) as error:
            self.problems.append(error if isinstance(error, DatasetError) else DatasetError(str(error)))
            return otherwise


def open_dataset(path: Path) -> Dataset:
    """Find out how a folder is laid out and list its cases; no image is opened, except in plain folders.

    Args:
        path: the folder, or its dataset.json.

    Raises:
        FileNotFoundError: if there is no such folder.
        DatasetError: if it has none of the known layouts, or its dataset.json is wrong, naming the key.
    """
    found = survey(path)
    if found.problems:
        raise found.problems[0]
    if found.incomplete:
        some = "; ".join(f"{case} {why}" for case, why in list(found.incomplete.items())[:10])
        raise DatasetError(f"{found.root} has {len(found.incomplete)} cases whose channels are not complete: {some}")
    assert found.channels is not None  # unknown only with a problem
    return Dataset(
        name=found.name,
        root=found.root,
        layout=found.layout,
        channels=found.channels,
        labels=found.labels if found.labels is not None else _labels_of_maps(found),
        training=found.training,
        test=found.test,
        file_ending=found.file_ending,
        splits=found.splits,
    )


def survey(path: Path) -> Survey:
    """As `open_dataset`, but collecting what is wrong instead of stopping at it, and reading no voxels at all.

    Headers are looked at in plain folders alone, where nothing else says how many channels a file holds.

    Raises:
        FileNotFoundError: if there is no such folder.
        DatasetError: if it has none of the known layouts.
        ValueError: if its dataset.json is not JSON.
    """
    if path.name == "dataset.json":
        path = path.parent
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: there is no such folder")
    path = path.resolve()
    description = path / "dataset.json"
    if description.is_file():
        facts = read_json(description)
        if not isinstance(facts, dict):
            raise DatasetError(f"{description} must hold an object, not a {type(facts).__name__}")
        return _survey_msd(path, facts) if _description.is_msd(facts) else _survey_nnunet(path, facts)
    if (path / "images").is_dir():
        return _survey_folders(path)
    raise DatasetError(
        f"{path} is no data set: it has neither a dataset.json (nnU-Net v2 raw, Medical Segmentation Decathlon) nor "
        "folders images/ and labels/; see datasets.md for the layouts"
    )


def find_inputs(path: Path, channels: int) -> list[Case]:
    """Images to predict: a file, or all images of a folder.

    Args:
        path: the file or folder.
        channels: how many the model takes. With more than one, a case is either files that end in ``_0000``, ``_0001``,
            ... or a single file that holds all channels. With one, and no file that ends in ``_0000``, or with files
            that hold all channels, four digits are part of the name: ``patient_0001`` and ``patient_0002`` are two
            cases.

    Raises:
        FileNotFoundError: if there is nothing of that name.
        DatasetError: if the folder holds no images, a case lacks channels or is there twice, naming them.
    """
    if path.is_file():
        case, channel = channel_of(path)
        if channel == 0 and not _holds_all(path, channels):
            ending = split_ending(path)[1]
            siblings = tuple(path.with_name(f"{case}_{n:04d}{ending}") for n in range(channels))
            if all(sibling.is_file() for sibling in siblings):
                return [Case(id=case, images=siblings)]
        return [Case(id=split_ending(path)[0], images=(path,))]
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: there is no such file or folder")
    images = images_in(path)
    if not images:
        raise DatasetError(f"{path} holds no images; they end in {', '.join(ENDINGS)}")
    # With one channel, and no first one, there is nothing to number but cases; nor with all channels in each file.
    numbers = {channel_of(image)[1]: image for image in images}
    numbered = channels > 1 or 0 in numbers
    if numbers.keys() - {None, 0} and _holds_all(numbers[max(number or 0 for number in numbers)], channels):
        numbered = False
    grouped = by_case(images, numbered=numbered)
    refuse_doubles(path, images, grouped)
    missing = [
        f"{case} ({', '.join(file.name for file in files.values())})"
        for case, files in grouped.items()
        if list(files) not in ([None], list(range(channels)))
        and not (list(files) == [0] and _holds_all(files[0], channels))
    ]
    if missing:
        raise DatasetError(
            f"the model takes {channels} channels, as files that end in _0000 to _{channels - 1:04d} or one file with "
            f"all of them; these cases in {path} have others: {'; '.join(missing[:10])}"
        )
    return [Case(id=case, images=tuple(files.values())) for case, files in grouped.items()]


def labels_of_values(where: Path, values: Iterable[int]) -> Labels:
    """In plain folders nothing says what values mean, so each one that occurs is a structure.

    Raises:
        DatasetError: if there are none, negative ones, or such as `Labels` refuses.
    """
    found = sorted(set(values))
    structures = [value for value in found if value > 0]
    if not structures or found[0] < 0:
        raise DatasetError(f"the labels in {where} hold the values {found}; structures are 1 and more")
    try:
        return Labels(foreground=tuple(Label(name=f"label_{value}", values=(value,)) for value in structures))
    except ValueError as error:
        raise DatasetError(f"{where}: {error}") from error


def _survey_msd(root: Path, facts: dict[str, Any]) -> Survey:
    where = root / "dataset.json"
    found = Survey(
        name=str(facts.get("name") or root.name), root=root, layout="msd", announced=facts.get("numTraining")
    )
    found.channels = found.attempt(
        lambda: _description.channel_names(where, facts.get("modality", {"0": "image"})), None
    )
    found.labels = found.attempt(lambda: _description.msd_labels(where, facts["labels"]), None)
    nothing: list[tuple[Path, Path]] = []
    files = found.attempt(lambda: _description.msd_files(where, facts.get("training")), nothing)
    found.training = _sorted(
        Case(id=split_ending(image)[0], images=(image,), label=label)
        for image, label in files
        if not image.name.startswith("._")
    )
    listed = facts.get("test")
    test = [root / name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
    found.test = _sorted(
        Case(id=split_ending(image)[0], images=(image,)) for image in test if not image.name.startswith("._")
    )
    if found.training:
        found.file_ending = split_ending(found.training[0].images[0])[1]
    found.splits = found.attempt(lambda: _description.splits(root / "splits_final.json"), ())
    return found


def _survey_nnunet(root: Path, facts: dict[str, Any]) -> Survey:
    where = root / "dataset.json"
    found = Survey(
        name=str(facts.get("name") or root.name), root=root, layout="nnunet", announced=facts.get("numTraining")
    )
    names = facts.get("channel_names", facts.get("modality"))
    found.channels = found.attempt(lambda: _description.channel_names(where, names), None)
    found.labels = found.attempt(lambda: _description.nnunet_labels(where, facts), None)
    here = images_in(root / "imagesTr")
    usual = Counter(split_ending(path)[1] for path in here).most_common(1)
    ending = found.file_ending = found.attempt(
        lambda: _description.file_ending(where, facts.get("file_ending"), ENDINGS), usual[0][0] if usual else ".nii.gz"
    )
    if "dataset" in facts:
        found.training = _sorted(found.attempt(lambda: _description.nnunet_cases(where, facts["dataset"]), []))
    else:
        images = by_case(paths := images_in(root / "imagesTr", ending))
        labels = labels_in(root / "labelsTr", ending)
        found.attempt(lambda: refuse_doubles(root / "imagesTr", paths, images), None)
        found.training = _sorted(
            Case(id=case, images=tuple(files.values()), label=labels.get(case, root / "labelsTr" / f"{case}{ending}"))
            for case, files in images.items()
        )
        _note_incomplete(found, images)
        if here and not images:
            found.problems.append(
                DatasetError(f"{where}: 'file_ending' is {ending!r}, but the files in imagesTr end in {usual[0][0]!r}")
            )
    test = by_case(images_in(root / "imagesTs", ending))
    found.test = _sorted(Case(id=case, images=tuple(files.values())) for case, files in test.items())
    found.splits = found.attempt(lambda: _description.splits(root / "splits_final.json"), ())
    return found


def _survey_folders(root: Path) -> Survey:
    found = Survey(name=root.name, root=root, layout="folders")
    paths = images_in(root / "images")
    labels = labels_in(root / "labels")
    maps = maps_in(root / "labels")
    found.attempt(lambda: refuse_doubles(root / "labels", maps, by_case(maps, numbered=False)), None)
    # Where a label bears an image's whole name, four digits at its end count patients, not channels.
    whole = {split_ending(path)[0] for path in paths} & set(labels)
    images = by_case(paths, numbered=not any(channel_of(labels[stem])[1] is not None for stem in whole))
    if not images:
        found.problems.append(DatasetError(f"{root / 'images'} holds no images; they end in {', '.join(ENDINGS)}"))
    found.attempt(lambda: refuse_doubles(root / "images", paths, images), None)
    cases = [Case(id=case, images=tuple(files.values()), label=labels.get(case)) for case, files in images.items()]
    found.training = _sorted(case for case in cases if case.label is not None)
    found.test = _sorted(case for case in cases if case.label is None)
    if images and not found.training:
        found.problems.append(
            DatasetError(f"no image in {root / 'images'} has a label of the same name in {root / 'labels'}")
        )
    channels = max((len(case.images) for case in found.training), default=1)
    held = _channels_of_a_file(found.training) if channels == 1 else 1
    channels = max(channels, held)
    found.channels = tuple(f"channel_{number}" for number in range(channels)) if channels > 1 else ("image",)
    if held == 1:  # else a number says nothing of the channel
        _note_incomplete(found, {case.id: images[case.id] for case in found.training})
    if found.training:
        found.file_ending = split_ending(found.training[0].images[0])[1]
    found.splits = found.attempt(lambda: _description.splits(root / "splits_final.json"), ())
    return found


def _holds_all(path: Path, channels: int) -> bool:
    """Whether a file holds several channels by itself."""
    return channels > 1 and _channels_of_a_file([Case(id=path.name, images=(path,))]) == channels


def _channels_of_a_file(cases: Iterable[Case]) -> int:
    """How many channels the files of most cases hold; those that cannot be read are told of when they are."""
    counts: Counter[int] = Counter()
    for case in cases:
        try:
            counts[read_channels(case.images[0])] += 1
        except (ValueError, OSError):
            continue
    return counts.most_common(1)[0][0] if counts else 1


def _note_incomplete(found: Survey, cases: dict[str, dict[int | None, Path]]) -> None:
    """Compare the numbers of a case's files with the channels; a file without a number may hold them all."""
    names = found.channels or ()
    for case, files in cases.items():
        numbers = [number for number in files if number is not None]
        missing = [n for n in range(len(names)) if n not in numbers] if numbers and names else []
        extra = [n for n in numbers if n >= len(names)] if names else []
        parts = [f"lacks channel {n} ({names[n]}), a file that ends in _{n:04d}" for n in missing]
        if extra:
            parts.append(
                f"has files _{', _'.join(f'{n:04d}' for n in extra)} beyond the {len(names)} declared channels"
            )
        if parts:
            found.incomplete[case] = ", ".join(parts)


def _labels_of_maps(found: Survey) -> Labels:
    values: set[int] = set()
    for case in found.training:
        assert case.label is not None  # what makes it a training case
        values |= set(np.unique(read_label(case.label).array).tolist())
    return labels_of_values(found.root / "labels", values)


def _sorted(cases: Iterable[Case]) -> tuple[Case, ...]:
    return tuple(sorted(cases, key=lambda case: case.id))
