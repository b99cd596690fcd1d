"""How a folder is laid out, and which cases it holds: no voxels are read, and headers in plain folders alone.

Three things are decided apart from one another, because data sets mix them: which way the labels are declared (names to
values, as in nnU-Net v2, or values to names, as in the Decathlon and nnU-Net v1), where the cases are listed
(`dataset`, `training`, or the folders imagesTr and labelsTr), and whether four digits at the end of a file's name count
channels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from medmamba.case import Case, Split, some
from medmamba.io import _description, _hints
from medmamba.io._errors import DatasetError
from medmamba.io._findings import Finding
from medmamba.io._listed import Locator
from medmamba.io._names import (
    ENDINGS,
    by_case,
    digits_are_names,
    images_in,
    labels_in,
    maps_in,
    refuse_doubles,
    split_ending,
    subfolder,
)
from medmamba.io.images import read_channels
from medmamba.labels import Labels

T = TypeVar("T")
Numbered = dict[int | None, Path]


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
        listed: the description names each file, so that others in the same folders mean nothing.
        problems: all that is wrong; when there are any, the fields concerned hold a guess.
        remarks: how something unusual was taken.
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
    listed: bool = False
    problems: list[DatasetError] = field(default_factory=list)
    remarks: list[Finding] = field(default_factory=list)

    def attempt(self, value: Callable[[], T], otherwise: T) -> T:
        """A value of the description, or ``otherwise`` and one more problem."""
        try:
            return value()
        except (DatasetError, ValueError) as error:
            self.problems.append(error if isinstance(error, DatasetError) else DatasetError(str(error)))
            return otherwise

    def remark(self, message: str, *, rule: str = "layout", warning: bool = False) -> None:
        """Tell how something unusual was taken."""
        self.remarks.append(Finding(severity="warning" if warning else "note", rule=rule, message=message))


def survey(path: Path) -> Survey:
    """Find out how a folder is laid out, collecting what is wrong instead of stopping at it.

    Raises:
        FileNotFoundError: if there is no such folder.
        DatasetError: if it has none of the known layouts.
        ValueError: if its dataset.json is not JSON.
    """
    if path.name == "dataset.json":
        path = path.parent
    if path.is_file():
        raise DatasetError(f"{path} is a file, not the folder of a data set; unpack it if it is an archive")
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: there is no such folder")
    path = path.resolve()
    description = path / "dataset.json"
    if description.is_file():
        return _survey_described(path, _description.read_facts(description))
    if subfolder(path, "images").is_dir():
        return _survey_folders(path)
    raise DatasetError(_hints.no_layout(path))


def _survey_described(root: Path, facts: dict[str, Any]) -> Survey:
    where = root / "dataset.json"
    found = Survey(
        name=str(facts.get("name") or root.name), root=root, layout="nnunet", announced=facts.get("numTraining")
    )
    by_value = _description.labels_by_value(facts)
    training = subfolder(root, "imagesTr")
    # nnU-Net v2 may carry the Decathlon's list along, which then names files that are not there.
    decathlon = by_value and "dataset" not in facts and (bool(facts.get("training")) or not training.is_dir())
    names = facts.get("channel_names", facts.get("modality", {"0": "image"} if decathlon else None))
    found.channels = found.attempt(lambda: _description.channel_names(where, names), None)
    read_labels = _description.labels_of_values_to_names if by_value else _description.nnunet_labels
    found.labels = found.attempt(lambda: read_labels(where, facts), None)
    if by_value and not decathlon:
        found.remark(
            f"{where}: 'labels' go from value to name, as in the Decathlon and nnU-Net v1, and are taken so; "
            "nnU-Net v2 itself needs names to values"
        )
    if decathlon:
        _list_decathlon(found, facts)
    else:
        _list_nnunet(found, facts)
    found.splits = found.attempt(lambda: _description.splits(root / "splits_final.json"), ())
    return found


def _list_decathlon(found: Survey, facts: dict[str, Any]) -> None:
    """The cases of the Decathlon's list, whose files may be numbered as nnU-Net v1 numbered them."""
    where = found.root / "dataset.json"
    nothing: list[_description.Entry] = []
    locator = Locator(found.root, len(found.channels or ()))
    entries = found.attempt(lambda: _description.training_entries(where, facts.get("training")), nothing)
    training = [(locator.files(entry), entry) for entry in entries]
    test = [(locator.files(entry), entry) for entry in _description.test_entries(facts.get("test"))]
    found.training = _sorted(
        Case(id=files.case, images=files.images, label=locator.file(entry.label) if entry.label else None)
        for files, entry in training
    )
    found.test = _sorted(Case(id=files.case, images=files.images) for files, _ in test)
    found.layout, found.listed = "nnunet-v1" if locator.numbered else "msd", True
    _note_incomplete(found, {files.case: files.numbers for files, _ in training if files.numbers})
    if locator.numbered:
        listed, there = locator.numbered[0]
        found.remark(
            f"{where}: read as nnU-Net v1, whose list under 'training' leaves out the channel's number: "
            f"{listed} is {there.name} ({len(locator.numbered)} images)"
        )
    _remark_moved(found, locator)
    if found.training:
        found.file_ending = split_ending(found.training[0].images[0])[1]


def _remark_moved(found: Survey, locator: Locator) -> None:
    if locator.moved:
        listed, there = locator.moved[0]
        found.remark(
            f"{found.root / 'dataset.json'} lists files that are not where it says, such as {listed}; those of this "
            f"folder are taken, such as {there} ({len(locator.moved)} files)",
            warning=True,
        )


def _list_nnunet(found: Survey, facts: dict[str, Any]) -> None:
    """The cases of nnU-Net's folders, or of its optional list of files."""
    root, where = found.root, found.root / "dataset.json"
    folder = subfolder(root, "imagesTr")
    here = images_in(folder)
    usual = Counter(split_ending(path)[1] for path in here).most_common(1)
    ending = usual[0][0] if usual else ".nii.gz"
    if "file_ending" in facts or not _description.labels_by_value(facts):  # which nnU-Net v1 did not have
        ending = found.attempt(lambda: _description.file_ending(where, facts.get("file_ending"), ENDINGS), ending)
    found.file_ending = ending
    if "dataset" in facts:
        locator = Locator(root, len(found.channels or ()))
        nothing: list[Case] = []
        cases = found.attempt(lambda: _description.nnunet_cases(where, facts["dataset"], locator.file), nothing)
        found.training, found.listed = _sorted(cases), True
        _remark_moved(found, locator)
    else:
        labels = subfolder(root, "labelsTr")
        paths = images_in(folder, ending)
        maps = labels_in(labels, ending)
        stems = set(maps)
        named = digits_are_names(paths, stems)
        images = by_case(paths, numbered=not named)
        found.attempt(lambda: refuse_doubles(folder, paths, images), None)
        found.training = _sorted(
            Case(id=case, images=tuple(files.values()), label=maps.get(case, labels / f"{case}{ending}"))
            for case, files in images.items()
        )
        _note_incomplete(found, images)
        _remark_numbers(found, images, named)
        if here and not images:
            found.problems.append(
                DatasetError(f"{where}: 'file_ending' is {ending!r}, but the files in imagesTr end in {usual[0][0]!r}")
            )
        found.problems += _hints.unlike_names(folder, images, labels, stems)
        if images and not labels.is_dir():
            found.problems.append(DatasetError(_hints.no_labels(root, folder, labels)))
    test = by_case(images_in(subfolder(root, "imagesTs"), ending))
    found.test = _sorted(Case(id=case, images=tuple(files.values())) for case, files in test.items())


def _remark_numbers(found: Survey, images: dict[str, Numbered], named: bool) -> None:
    """nnU-Net itself needs a channel's number at the end of every image's name."""
    bare = [files[None].name for files in images.values() if None in files]
    if not bare:
        return
    stem, ending = split_ending(Path(bare[0]))
    why = " (four digits at the end are part of the name, because labels bear them too)" if named else ""
    found.remark(
        f"images without a channel's number: {some(bare)}{why}, taken as holding all channels; nnU-Net itself needs "
        f"{stem}_0000{ending}",
        rule="channel-number",
        warning=named,
    )


def _survey_folders(root: Path) -> Survey:
    found = Survey(name=root.name, root=root, layout="folders")
    folder, label_folder = subfolder(root, "images"), subfolder(root, "labels")
    paths = images_in(folder)
    labels = labels_in(label_folder)
    maps = maps_in(label_folder)
    found.attempt(lambda: refuse_doubles(label_folder, maps, by_case(maps, numbered=False)), None)
    images = by_case(paths, numbered=not digits_are_names(paths, labels))
    if not images:
        found.problems.append(DatasetError(f"{folder} holds no images; they end in {', '.join(ENDINGS)}"))
    found.attempt(lambda: refuse_doubles(folder, paths, images), None)
    cases = [Case(id=case, images=tuple(files.values()), label=labels.get(case)) for case, files in images.items()]
    found.training = _sorted(case for case in cases if case.label is not None)
    found.test = _sorted(case for case in cases if case.label is None)
    hints = _hints.unlike_names(folder, images, label_folder, set(labels))
    found.problems += hints
    if images and not found.training and not hints:
        found.problems.append(DatasetError(_hints.no_labels(root, folder, label_folder)))
    channels = max((len(case.images) for case in found.training), default=1)
    held = channels_of_files(found.training) if channels == 1 else 1
    channels = max(channels, held)
    found.channels = tuple(f"channel_{number}" for number in range(channels)) if channels > 1 else ("image",)
    if held == 1:  # else a number says nothing of the channel
        _note_incomplete(found, {case.id: images[case.id] for case in found.training})
    if found.training:
        found.file_ending = split_ending(found.training[0].images[0])[1]
    found.splits = found.attempt(lambda: _description.splits(root / "splits_final.json"), ())
    return found


def channels_of_files(cases: Iterable[Case]) -> int:
    """How many channels the files of most cases hold; those that cannot be read are told of when they are."""
    counts: Counter[int] = Counter()
    for case in cases:
        try:
            counts[read_channels(case.images[0])] += 1
        except (ValueError, OSError):
            continue
    return counts.most_common(1)[0][0] if counts else 1


def _note_incomplete(found: Survey, cases: dict[str, Numbered]) -> None:
    """Compare the numbers of a case's files with the channels; a file without a number may hold them all."""
    names = found.channels or ()
    for case, files in cases.items():
        numbers = [number for number in files if number is not None]
        missing = [n for n in range(len(names)) if n not in numbers] if numbers and names else []
        extra = [n for n in numbers if n >= len(names)] if names else []
        parts = [f"lacks channel {n} ({names[n]}), a file that ends in _{n:04d}" for n in missing]
        if extra:
            stem, ending = split_ending(files[extra[0]])
            parts.append(
                f"has files _{', _'.join(f'{n:04d}' for n in extra)} beyond the {len(names)} declared channels (digits "
                f"that number patients need the channel's behind them: {stem}_0000{ending})"
            )
        if parts:
            found.incomplete[case] = ", ".join(parts)


def _sorted(cases: Iterable[Case]) -> tuple[Case, ...]:
    return tuple(sorted(cases, key=lambda case: case.id))
