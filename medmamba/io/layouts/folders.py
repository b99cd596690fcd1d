"""Plain folders: images/ and labels/ with files of the same name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from medmamba.case import Case
from medmamba.errors import DataError
from medmamba.io.errors import DatasetError
from medmamba.io.images import read_channels
from medmamba.io.layouts import hints, names
from medmamba.io.layouts.layout import Folder, Survey, sorted_cases


class PlainFolders:
    """Folders without a description; headers alone tell how many channels a file holds."""

    looks = "folders images/ and labels/"
    labels_of: ClassVar = {"images": "labels"}
    is_described = False

    def recognises(self, folder: Folder) -> bool:
        """By the folder of images."""
        return folder.within("images").is_dir()

    def survey(self, folder: Folder) -> Survey:
        """Images with a label of their name to learn from, and those without to predict."""
        found = Survey(name=folder.root.name, root=folder.root, layout="folders")
        images, masks = folder.within("images"), folder.within("labels")
        paths, labels, maps = names.images_in(images), names.labels_in(masks), names.maps_in(masks)
        found.attempt(lambda: names.refuse_doubles(masks, maps, names.by_case(maps, numbered=False)), None)
        files = names.by_case(paths, numbered=not names.digits_are_names(paths, labels))
        if not files:
            found.problems.append(DatasetError(f"{images} holds no images; they end in {', '.join(names.ENDINGS)}"))
        found.attempt(lambda: names.refuse_doubles(images, paths, files), None)
        cases = [Case(id=case, images=tuple(each.values()), label=labels.get(case)) for case, each in files.items()]
        found.training = sorted_cases(case for case in cases if case.label is not None)
        found.test = sorted_cases(case for case in cases if case.label is None)
        unlike = hints.unlike_names(images, files, masks, set(labels))
        found.problems += unlike
        if files and not found.training and not unlike:
            found.problems.append(DatasetError(hints.no_labels(folder.root, images, masks)))
        channels = max((len(case.images) for case in found.training), default=1)
        held = channels_of_files(case.images[0] for case in found.training) if channels == 1 else 1
        channels = max(channels, held)
        found.channels = tuple(f"channel_{number}" for number in range(channels)) if channels > 1 else ("image",)
        if held == 1:  # else a number says nothing of the channel
            found.note_incomplete({case.id: files[case.id] for case in found.training})
        if found.training:
            found.file_ending = names.split_ending(found.training[0].images[0])[1] or found.file_ending
        return found


def channels_of_files(paths: Iterable[Path]) -> int:
    """How many channels most files hold; those that cannot be read are told of when they are."""
    counts: Counter[int] = Counter()
    for path in paths:
        try:
            counts[read_channels(path)] += 1
        except (DataError, OSError):
            continue
    return counts.most_common(1)[0][0] if counts else 1
