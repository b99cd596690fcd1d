"""What the names of image files say: format, case, channel."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable
from pathlib import Path

from medmamba.io.errors import DatasetError
from medmamba.io.images import is_dicom_seg, is_image, map_suffixes

ENDINGS = map_suffixes()
#: Of Slicer's segmentations and of objects in DICOM, which lie beside the images that they are of.
SEGMENTATIONS = (".seg.nrrd", ".seg.dcm", ".rtstruct.dcm")
#: Of contours, which are no label maps.
CONTOURS = ".rtstruct.dcm"
#: Names of files are made of ids; file systems allow 255 bytes.
LONGEST_ID_BYTES = 200
#: nnU-Net's mark of a channel at the end of a file's stem.
_CHANNEL = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$")


def split_ending(path: Path) -> tuple[str, str]:
    """Stem and ending of an image's name, ``.nii.gz`` being one ending.

    >>> split_ending(Path("a.b_0000.nii.gz"))
    ('a.b_0000', '.nii.gz')
    """
    for ending in ENDINGS:
        if path.name.lower().endswith(ending):
            return path.name[: -len(ending)], path.name[-len(ending) :]
    return (path.name, "") if path.is_dir() else (path.stem, path.suffix)


def channel_of(path: Path) -> tuple[str, int | None]:
    """Case and channel number of a file; one without a number is a case of its own.

    >>> channel_of(Path("anna_0001.nii.gz")), channel_of(Path("anna.nii.gz"))
    (('anna', 1), ('anna', None))
    """
    stem, _ = split_ending(path)
    match = _CHANNEL.match(stem)
    return (match["case"], int(match["channel"])) if match else (stem, None)


def images_in(folder: Path, ending: str | None = None) -> list[Path]:
    """Images of a folder, sorted, links that lead nowhere too; what file managers leave behind is passed over.

    Folders that are images are among them, whatever they are called.

    So are segmentations of Slicer and in DICOM, unless the ending asks for them.
    """
    return [
        path
        for path in _named(folder, ending)
        if ending is not None or split_ending(path)[1].lower() not in SEGMENTATIONS
    ]


def maps_in(folder: Path, ending: str | None = None) -> list[Path]:
    """As `images_in`, of a folder of label maps, to which segmentations of Slicer and in DICOM belong.

    A file in DICOM may be called anything: where no ending is asked for, it counts if it is a SEG by its content.
    """
    found = _named(folder, ending)
    if ending is not None or not folder.is_dir():
        return found
    others = {path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file()} - {*found}
    return sorted([*found, *(path for path in others if is_dicom_seg(path))])


def _named(folder: Path, ending: str | None) -> list[Path]:
    if not folder.is_dir():
        return []
    endings = tuple(known for known in ENDINGS if known != CONTOURS) if ending is None else (ending.lower(),)
    return sorted(
        path
        for path in folder.iterdir()
        if not path.name.startswith(".") and (is_image(path) if path.is_dir() else path.name.lower().endswith(endings))
    )


def labels_in(folder: Path, ending: str | None = None) -> dict[str, Path]:
    """Label maps by what their names say without ending; among several of one name that with the ending counts."""
    paths = maps_in(folder)
    return {split_ending(path)[0]: path for path in sorted(paths, key=lambda path: split_ending(path)[1] == ending)}


def subfolder(root: Path, name: str) -> Path:
    """A folder by its name, written in upper or lower case; the name as it should be when there is none or several."""
    told = root / name
    if told.is_dir():
        return told
    alike = [entry for entry in root.iterdir() if entry.name.lower() == name.lower() and entry.is_dir()]
    return alike[0] if len(alike) == 1 else told


def digits_are_names(paths: Iterable[Path], known: Collection[str]) -> bool:
    """Whether four digits at the end of names are part of the case's id, in a whole folder, and not a channel's number.

    They are where a known name, of a label or of a case that a model was trained on, is an image's whole name with
    them.

    >>> digits_are_names([Path("brain_0000.nii"), Path("brain_0001.nii")], {"brain_0001"})
    True
    >>> digits_are_names([Path("anna_0000.nii"), Path("anna_0001.nii")], {"anna"})
    False
    """
    return any(channel_of(path)[1] is not None and split_ending(path)[0] in known for path in paths)


def by_case(paths: Iterable[Path], *, numbered: bool = True) -> dict[str, dict[int | None, Path]]:
    """Files by case and channel number; where two claim one place, the last of them is there.

    Args:
        paths: sorted.
        numbered: whether four digits at the end of a name are the channel's number or part of the case's id.
    """
    cases: dict[str, dict[int | None, Path]] = {}
    for path in paths:
        case, channel = channel_of(path) if numbered else (split_ending(path)[0], None)
        cases.setdefault(case, {})[channel] = path
    return cases


def refuse_doubles(folder: Path, paths: Iterable[Path], cases: dict[str, dict[int | None, Path]]) -> None:
    """Refuse files that claim the same channel of the same case.

    Raises:
        DatasetError: naming them: two formats of one name, or a file with and one without a channel's number.
    """
    kept = {path for files in cases.values() if None not in files or len(files) == 1 for path in files.values()}
    doubles = [path.name for path in paths if path not in kept]
    if doubles:
        raise DatasetError(
            f"{folder} holds files for which there is a second one of the same case and channel: "
            f"{', '.join(doubles[:10])}; remove one of the two"
        )


def as_filed(case: str) -> str:
    """A case id as file systems may have it to which upper and lower case are one.

    >>> as_filed("Anna") == as_filed("anna")
    True
    """
    return unicodedata.normalize("NFC", case).lower()


def id_problem(case: str) -> str:
    """Why no file can be called after a case id; empty when all is well.

    >>> id_problem("site A/p0")
    "holds '/', which divides folders"
    >>> id_problem("Müller_07")
    ''
    """
    for divider in "/\\":
        if divider in case:
            return f"holds {divider!r}, which divides folders"
    if any(unicodedata.category(letter) == "Cc" for letter in case):
        return "holds a control character"
    if case.startswith("."):
        return "begins with a dot, as hidden files do, which are passed over"
    if not case.strip():
        return "is blank"
    length = len(case.encode("utf-8", "surrogateescape"))
    return f"is {length} bytes long, more than {LONGEST_ID_BYTES}" if length > LONGEST_ID_BYTES else ""
