"""nnU-Net's raw data, version 2, also where its dataset.json has labels of another time."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from medmamba.case import Case, some
from medmamba.io.errors import DatasetError
from medmamba.io.layouts import hints, names
from medmamba.io.layouts.description import described, file_ending, labels_by_value, nnunet_cases
from medmamba.io.layouts.layout import DESCRIBED_FOLDERS, Folder, Numbered, Survey, sorted_cases
from medmamba.io.layouts.listed import Locator


class NnUNet:
    """A dataset.json beside imagesTr and labelsTr, or with a list of files."""

    looks = "a dataset.json (nnU-Net raw)"
    labels_of = DESCRIBED_FOLDERS
    is_described = True

    def recognises(self, folder: Folder) -> bool:
        """By the description; a Decathlon's list was looked for before."""
        return folder.description.is_file()

    def survey(self, folder: Folder) -> Survey:
        """The cases of the folders, or of the optional list of files."""
        where, facts, images = folder.description, folder.facts, folder.within("imagesTr")
        found = described(folder)
        if labels_by_value(facts):
            found.remark(
                f"{where}: 'labels' go from value to name, as in the Decathlon and nnU-Net v1, and are taken so; "
                "nnU-Net v2 itself needs names to values"
            )
        usual = Counter(names.split_ending(path)[1] for path in names.images_in(images)).most_common(1)
        ending = usual[0][0] if usual else ".nii.gz"
        if "file_ending" in facts or not labels_by_value(facts):  # which nnU-Net v1 did not have
            ending = found.attempt(lambda: file_ending(where, facts.get("file_ending"), names.ENDINGS), ending)
        found.file_ending = ending
        if "dataset" in facts:
            locator, nothing = Locator(folder.root, len(found.channels or ())), list[Case]()
            cases = found.attempt(lambda: nnunet_cases(where, facts["dataset"], locator.file), nothing)
            found.training, found.listed = sorted_cases(cases), True
            locator.remark_moved(found)
        else:
            _list_folders(found, images, folder.within("labelsTr"), usual[0][0] if usual else None)
        test = names.by_case(names.images_in(folder.within("imagesTs"), ending))
        found.test = sorted_cases(Case(id=case, images=tuple(files.values())) for case, files in test.items())
        return found


def _list_folders(found: Survey, folder: Path, labels: Path, usual: str | None) -> None:
    """The cases of imagesTr and labelsTr; ``usual`` is what images end in there."""
    ending = found.file_ending
    paths, maps = names.images_in(folder, ending), names.labels_in(labels, ending)
    named = names.digits_are_names(paths, maps)
    images = names.by_case(paths, numbered=not named)
    found.attempt(lambda: names.refuse_doubles(folder, paths, images), None)
    found.training = sorted_cases(
        Case(id=case, images=tuple(files.values()), label=maps.get(case, labels / f"{case}{ending}"))
        for case, files in images.items()
    )
    found.note_incomplete(images)
    _remark_numbers(found, images, named)
    if usual and not images:
        where = found.root / "dataset.json"
        found.problems.append(
            DatasetError(f"{where}: 'file_ending' is {ending!r}, but the files in imagesTr end in {usual!r}")
        )
    found.problems += hints.unlike_names(folder, images, labels, set(maps))
    if images and not labels.is_dir():
        found.problems.append(DatasetError(hints.no_labels(found.root, folder, labels)))


def _remark_numbers(found: Survey, images: dict[str, Numbered], named: bool) -> None:
    """nnU-Net itself needs a channel's number at the end of every image's name."""
    bare = [files[None].name for files in images.values() if None in files]
    if not bare:
        return
    stem, ending = names.split_ending(Path(bare[0]))
    why = " (four digits at the end are part of the name, because labels bear them too)" if named else ""
    found.remark(
        f"images without a channel's number: {some(bare)}{why}, taken as holding all channels; nnU-Net itself needs "
        f"{stem}_0000{ending}",
        rule="channel-number",
        is_warning=named,
    )
