"""What a dataset.json and a splits_final.json say, read and judged value by value.

Which way the labels are declared (names to values, as in nnU-Net v2, or values to names, as in the Decathlon and
nnU-Net v1) is one thing, where the cases are listed another: data sets mix them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple, TypeGuard

from medmamba.case import Case, Split
from medmamba.io.errors import DatasetError
from medmamba.io.layouts.layout import Folder, Survey
from medmamba.io.regions import order_remedy
from medmamba.labels import Label, Labels
from medmamba.records import read_json


class Entry(NamedTuple):
    """A case of the Decathlon's list: names of its images (one file, or one per channel) and of its label."""

    images: tuple[str, ...]
    label: str | None


def described(folder: Folder, *, channels: Any = None) -> Survey:
    """What a dataset.json says of a data set, all but its cases.

    Args:
        folder: with a dataset.json.
        channels: what is taken where it names none.
    """
    where, facts = folder.description, folder.facts
    name = str(facts.get("name") or folder.root.name)
    found = Survey(name=name, root=folder.root, announced=facts.get("numTraining"))
    names = facts.get("channel_names", facts.get("modality", channels))
    read_labels = labels_of_values_to_names if labels_by_value(facts) else nnunet_labels
    found.channels = found.attempt(lambda: channel_names(where, names), None)
    found.labels = found.attempt(lambda: read_labels(where, facts), None)
    return found


def labels_by_value(facts: dict[str, Any]) -> bool:
    """Whether labels go from value to name, as in the Decathlon and nnU-Net v1; in v2 they go from name to value."""
    labels = facts.get("labels")
    return (
        isinstance(labels, dict)
        and bool(labels)
        and all(str(key).isdecimal() and isinstance(value, str) for key, value in labels.items())
    )


def channel_names(where: Path, names: Any) -> tuple[str, ...]:
    """Names of the channels in order, from ``{"0": name, ...}``; an MSD release has them as a list.

    Raises:
        DatasetError: if they are not numbered from 0 without gaps.
    """
    if isinstance(names, list):
        names = {str(number): name for number, name in enumerate(names)}
    if not isinstance(names, dict) or not names or any(not str(key).isdecimal() for key in names):
        raise DatasetError(
            f"{where}: 'channel_names' (or 'modality') must name each channel, such as {{\"0\": \"T2\"}}, got {names!r}"
        )
    ordered = sorted(names.items(), key=lambda item: int(item[0]))
    if [int(key) for key, _ in ordered] != list(range(len(ordered))):
        raise DatasetError(f"{where}: channels must be numbered from 0 without gaps, got {', '.join(names)}")
    return tuple(str(name) for _, name in ordered)


def file_ending(where: Path, ending: Any, known: tuple[str, ...]) -> str:
    """The ending of all files.

    Raises:
        DatasetError: if no files with it can be read.
    """
    if not isinstance(ending, str) or ending.lower() not in known:
        raise DatasetError(f"{where}: 'file_ending' must be one of {', '.join(known)}, got {ending!r}")
    return ending


def labels_of_values_to_names(where: Path, facts: dict[str, Any]) -> Labels:
    """Labels of the Decathlon and of nnU-Net v1, by value.

    Raises:
        DatasetError: if they contradict each other.
    """
    declared = sorted((int(value), name) for value, name in facts["labels"].items())
    wrong = [value for value, name in declared if name.lower() == "background" and value != 0]
    if wrong:
        raise DatasetError(f"{where}: 'labels' must have background at 0, got {wrong[0]}")
    ignore = next((value for value, name in declared if name == "ignore"), None)
    foreground = tuple(Label(name=name, values=(value,)) for value, name in declared if value not in (0, ignore))
    return _labels(where, foreground, (), ignore)


def nnunet_labels(where: Path, facts: dict[str, Any]) -> Labels:
    """Labels of nnU-Net, in the author's order, which is that of the network's outputs.

    Raises:
        DatasetError: if a key is missing or wrong.
    """
    if "labels" not in facts:
        raise DatasetError(f"{where} has no key 'labels', which says what the label values mean")
    declared = facts["labels"]
    if not isinstance(declared, dict) or declared.get("background") != 0:
        raise DatasetError(f"{where}: 'labels' must map names to values and have 'background': 0, got {declared!r}")
    foreground = []
    for name, values in declared.items():
        several = values if isinstance(values, list) else [values]
        if not several or not all(map(_is_integer, several)):
            raise DatasetError(f"{where}: label {name!r} must be an integer or a list of them, got {values!r}")
        if name not in ("background", "ignore"):
            foreground.append(Label(name=name, values=tuple(several)))
    ignore = declared.get("ignore")
    if isinstance(ignore, list):
        raise DatasetError(f"{where}: label 'ignore' must be one integer, got {ignore!r}")
    claimed = [value for label in foreground for value in set(label.values)]
    regions = any(len(label.values) > 1 for label in foreground) or len(set(claimed)) < len(claimed)
    return _labels(where, tuple(foreground), _region_order(where, facts, foreground) if regions else (), ignore)


def nnunet_cases(where: Path, listed: Any, locate: Callable[[str], Path]) -> list[Case]:
    """nnU-Net's optional list of files, with variables of the environment filled in.

    Args:
        where: the dataset.json.
        listed: what it has under 'dataset'.
        locate: finds a file by its name, relative to the data set.

    Raises:
        DatasetError: naming the first entry that is wrong.
    """
    if not isinstance(listed, dict):
        raise DatasetError(f"{where}: 'dataset' must map case ids to their files, got a {type(listed).__name__}")
    cases = []
    for case, entry in listed.items():
        images, label = (entry.get("images"), entry.get("label")) if isinstance(entry, dict) else (None, None)
        if not _are_names(images) or not isinstance(label, str):
            raise DatasetError(f"{where}: dataset[{case!r}] must have 'images' (a list of files) and 'label' (a file)")
        places = [locate(os.path.expandvars(name)) for name in (*images, label)]
        cases.append(Case(id=case, images=tuple(places[:-1]), label=places[-1]))
    return cases


def training_entries(where: Path, listed: Any) -> list[Entry]:
    """The Decathlon's training cases, without what file managers leave behind.

    Raises:
        DatasetError: naming the first entry that is wrong.
    """
    if not isinstance(listed, list):
        raise DatasetError(f"{where} must list its cases under 'training', as image and label")
    entries = []
    for number, entry in enumerate(listed):
        images = _image_names(entry)
        label = entry.get("label") if isinstance(entry, dict) else None
        if not images or not isinstance(label, str):
            raise DatasetError(
                f"{where}: training[{number}] must have 'image' (a file, or a list with one per channel) and 'label' "
                f"(a file), got {entry!r}"
            )
        entries.append(Entry(images, label))
    return [entry for entry in entries if not _is_leftover(entry)]


def test_entries(listed: Any) -> list[Entry]:
    """The Decathlon's test cases, given as names or as objects with an image; others are passed over."""
    entries = [Entry(_image_names(entry), None) for entry in listed] if isinstance(listed, list) else []
    return [entry for entry in entries if entry.images and not _is_leftover(entry)]


def _image_names(entry: Any) -> tuple[str, ...]:
    """Names of the images of an entry of a list, none if it is no such entry."""
    images = entry.get("image") if isinstance(entry, dict) else entry
    several = images if isinstance(images, list) else [images]
    return tuple(several) if _are_names(several) else ()


def _is_leftover(entry: Entry) -> bool:
    return PureWindowsPath(entry.images[0]).name.startswith("._")


def splits(where: Path) -> tuple[Split, ...]:
    """Folds the author fixed; none if there is no such file.

    Raises:
        DatasetError: if it is not a list of folds.
    """
    if not where.is_file():
        return ()
    folds = read_json(where)
    if not isinstance(folds, list) or not all(
        isinstance(fold, dict) and all(isinstance(fold.get(side), list) for side in ("train", "val")) for fold in folds
    ):
        raise DatasetError(f"{where} must be a list of folds, each with 'train' and 'val' (lists of case ids)")
    return tuple(Split(train=tuple(map(str, fold["train"])), validation=tuple(map(str, fold["val"]))) for fold in folds)


def _region_order(where: Path, facts: dict[str, Any], foreground: list[Label]) -> tuple[int, ...]:
    order = facts.get("regions_class_order")
    names = ", ".join(label.name for label in foreground)
    if not order:
        raise DatasetError(
            f"{where}: labels with several values are regions, which need 'regions_class_order': the value that each "
            f"of {names} paints, in this order, later ones over earlier ones; {order_remedy(foreground)}"
        )
    if not isinstance(order, list) or not all(map(_is_integer, order)) or len(order) != len(foreground):
        raise DatasetError(
            f"{where}: 'regions_class_order' must list one integer for each of the {len(foreground)} regions {names}, "
            f"got {order!r}; {order_remedy(foreground)}"
        )
    return tuple(order)


def _labels(where: Path, foreground: tuple[Label, ...], order: tuple[int, ...], ignore: int | None) -> Labels:
    try:
        return Labels(foreground=foreground, region_order=order, ignore=ignore)
    except ValueError as error:
        raise DatasetError(f"{where}: {error}") from error


def _is_integer(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_names(values: Any) -> TypeGuard[list[str]]:
    return isinstance(values, list) and bool(values) and all(isinstance(value, str) for value in values)
