"""The Medical Segmentation Decathlon, and nnU-Net v1, which kept its list but numbered the files of channels."""

from __future__ import annotations

from medmamba.io.layouts.description import Entry, described, labels_by_value, test_entries, training_entries
from medmamba.io.layouts.layout import DESCRIBED_FOLDERS, Folder, Survey, sorted_cases
from medmamba.io.layouts.listed import Locator
from medmamba.io.layouts.names import split_ending


class Decathlon:
    """A dataset.json with labels from value to name and a list of files."""

    looks = "a dataset.json with a list of files (Medical Segmentation Decathlon)"
    labels_of = DESCRIBED_FOLDERS
    is_described = True

    def recognises(self, folder: Folder) -> bool:
        """By the list; nnU-Net v2 may carry it along, which then names files that are not there."""
        facts = folder.facts
        listed = bool(facts.get("training")) or not folder.within("imagesTr").is_dir()
        return listed and labels_by_value(facts) and "dataset" not in facts

    def survey(self, folder: Folder) -> Survey:
        """The listed cases, whose files may be numbered as nnU-Net v1 numbered them."""
        where, facts, nothing = folder.description, folder.facts, list[Entry]()
        found = described(folder, channels={"0": "image"})
        locator = Locator(found.root, len(found.channels or ()))
        entries = found.attempt(lambda: training_entries(where, facts.get("training")), nothing)
        training = [locator.case(entry) for entry in entries]
        found.training = sorted_cases(case for case, _ in training)
        found.test = sorted_cases(locator.case(entry)[0] for entry in test_entries(facts.get("test")))
        found.layout, found.listed = "nnunet-v1" if locator.numbered else "msd", True
        found.note_incomplete({case.id: numbers for case, numbers in training if numbers})
        if locator.numbered:
            listed, there = locator.numbered[0]
            found.remark(
                f"{where}: read as nnU-Net v1, whose list under 'training' leaves out the channel's number: "
                f"{listed} is {there.name} ({len(locator.numbered)} images)"
            )
        locator.remark_moved(found)
        if found.training:
            found.file_ending = split_ending(found.training[0].images[0])[1]
        return found
