"""Seeded damage to DICOM files: bytes that are gone or others, attributes that are gone or nonsense."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.dataset import Dataset

from tests import dicom_factory as factory

Rng = np.random.Generator


class Hang(BaseException):
    """Nobody catches this."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise Hang(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def exports(root: Path) -> dict[str, Path]:
    """Sound exports of a few small files, a folder each, by their names."""
    two = [factory.HEAD, factory.RAMP]
    small = {"slices": 3, "shape": (12, 16)}
    factory.series(root / "ct", **small)
    factory.series(root / "implicit", syntax=uid.ImplicitVRLittleEndian, **small)
    factory.series(root / "rle", syntax=uid.RLELossless, **small)
    factory.series(root / "jpeg_ls", syntax=uid.JPEGLSLossless, **small)
    factory.series(root / "deflated", syntax=uid.DeflatedExplicitVRLittleEndian, **small)
    factory.series(root / "echoes", two, told_by="echo", modality="MR", **small)
    factory.series(root / "enhanced", enhanced=True, **small)
    factory.series(root / "enhanced_b", two, told_by="b_value", modality="MR", enhanced=True, **small)
    factory.series(root / "tilt", tilt_deg=15, heights_mm=(0, 1, 3), shape=(12, 16))
    mixed = factory.series(root / "mixed", **small)
    factory.localizer(root / "mixed", mixed)
    factory.ultrasound(root / "mixed" / "us.dcm", frames=2)
    plain = factory.series(root / "for_cd", **small)
    factory.medium(root / "cd", plain.files)
    (root / "zip").mkdir()
    factory.zipped(plain.folder, root / "zip" / "export.zip")
    shutil.rmtree(plain.folder)
    return {folder.name: folder for folder in sorted(root.iterdir())}


def lock(monkeypatch: pytest.MonkeyPatch, locked: Path) -> None:
    """As the system does for a file without permission, which it does not for root."""

    def refuse(path: Path, *arguments: Any, **more: Any) -> Any:
        if path == locked:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return opened(path, *arguments, **more)

    def read(path: Path, **more: Any) -> Dataset:
        with path.open("rb"):
            return read_by_pydicom(path, **more)

    opened, read_by_pydicom = Path.open, pydicom.dcmread
    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(pydicom, "dcmread", read)


def truncate(path: Path, rng: Rng) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.integers(0, len(content))])


def flip_bytes(path: Path, rng: Rng) -> None:
    content = bytearray(path.read_bytes())
    for place in rng.integers(0, len(content), rng.integers(1, 20)):
        content[place] = rng.integers(0, 256)
    path.write_bytes(content)


def flip_header(path: Path, rng: Rng) -> None:
    """Where the lengths and representations of the first attributes are."""
    content = bytearray(path.read_bytes())
    for place in rng.integers(128, min(len(content), 1200), 4) if len(content) > 200 else ():
        content[place] = rng.choice([0, 1, 0x41, 0x7F, 0x80, 0xFF])
    path.write_bytes(content)


def drop_middle(path: Path, rng: Rng) -> None:
    content = path.read_bytes()
    start = rng.integers(0, len(content))
    path.write_bytes(content[:start] + content[start + rng.integers(1, 400) :])


def other_representation(path: Path, rng: Rng) -> None:
    """An attribute says that it is of another kind than it is."""
    content = path.read_bytes()
    known = [b"DS", b"IS", b"US", b"UI", b"CS", b"SQ", b"OW", b"FD", b"LO", b"UN", b"ZZ"]
    places = [i for vr in known[:9] for i in range(132, len(content) - 2) if content[i : i + 2] == vr]
    if places:
        place = rng.choice(places)
        path.write_bytes(content[:place] + bytes(rng.choice(known)) + content[place + 2 :])


def _attributes(dataset: Dataset) -> list[tuple[Dataset, int]]:
    """Every attribute with the data set that it stands in, also those in sequences."""
    found = []
    for tag in list(dataset.keys()):
        found.append((dataset, tag))
        if dataset[tag].VR == "SQ":
            found += [inner for item in dataset[tag].value for inner in _attributes(item)]
    return found


def _edited(edit: Callable[[Dataset, Rng], None]) -> Callable[[Path, Rng], None]:
    def mutate(path: Path, rng: Rng) -> None:
        if path.suffix == ".zip" or path.name == "DICOMDIR":
            return truncate(path, rng)
        dataset = pydicom.dcmread(path)
        edit(dataset, rng)
        try:
            dataset.save_as(path)
        except (ValueError, TypeError, AttributeError, KeyError, struct.error, NotImplementedError):
            # pydicom does not write this damage; there is other damage.
            truncate(path, rng)

    mutate.__name__ = edit.__name__
    return mutate


def delete_attributes(dataset: Dataset, rng: Rng) -> None:
    for _ in range(rng.integers(1, 4)):
        found = _attributes(dataset)
        holder, tag = found[rng.integers(len(found))]
        del holder[tag]


#: What geometry, values and grouping hang on.
TELLING = (
    "Rows",
    "Columns",
    "NumberOfFrames",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "SamplesPerPixel",
    "PixelSpacing",
    "PhotometricInterpretation",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "RescaleSlope",
    "RescaleIntercept",
    "PixelData",
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "Modality",
    "PerFrameFunctionalGroupsSequence",
    "SharedFunctionalGroupsSequence",
    "SliceThickness",
    "InstanceNumber",
    "SeriesNumber",
    "EchoTime",
)


def delete_telling(dataset: Dataset, rng: Rng) -> None:
    found = [(holder, tag) for holder, tag in _attributes(dataset) if holder[tag].keyword in TELLING]
    holder, tag = found[rng.integers(len(found))]
    del holder[tag]


def swap_dimensions(dataset: Dataset, rng: Rng) -> None:
    dataset.Rows, dataset.Columns = dataset.get("Columns", 1), dataset.get("Rows", 1)


def other_number(dataset: Dataset, rng: Rng) -> None:
    """Whole numbers that hang together no longer do."""
    keyword = str(rng.choice(["Rows", "Columns", "BitsAllocated", "BitsStored", "SamplesPerPixel", "HighBit"]))
    setattr(dataset, keyword, int(rng.choice([0, 1, 2, 7, 8, 12, 17, 32, 64, 255, 65535])))
    if rng.random() < 0.3:
        dataset.NumberOfFrames = int(rng.choice([0, 1, 2, 7, 10**6, 2**31 - 1]))


def odd_decimals(dataset: Dataset, rng: Rng) -> None:
    """Numbers in words that are none, endless, or nonsense."""
    words = [
        "nan",
        "inf",
        "-1",
        "0",
        "1e308",
        "-1e-300",
        "",
        "abc",
        "1\\2",
        "1,5",
        "0\\0\\0\\0\\0\\0",
        "1\\0\\0\\0\\1\\0",
    ]
    found = [(holder, tag) for holder, tag in _attributes(dataset) if holder[tag].VR in ("DS", "IS", "FD")]
    with pydicom.config.disable_value_validation():
        for _ in range(rng.integers(1, 3)):
            holder, tag = found[rng.integers(len(found))]
            element = pydicom.DataElement(tag, "LO", str(rng.choice(words)))
            holder[tag] = element


def other_text(dataset: Dataset, rng: Rng) -> None:
    """Identities and kinds that are empty, foreign, or those of another object."""
    keyword = str(
        rng.choice(["SOPClassUID", "SeriesInstanceUID", "Modality", "PhotometricInterpretation", "ImageType"])
    )
    values = [
        "",
        "1.2.3",
        uid.SegmentationStorage,
        uid.RTStructureSetStorage,
        "RGB",
        "PALETTE COLOR",
        "SEG",
        "../x",
        "ü",
    ]
    setattr(dataset, keyword, str(rng.choice(values)))


def other_syntax(dataset: Dataset, rng: Rng) -> None:
    syntaxes = [uid.RLELossless, uid.JPEG2000Lossless, uid.JPEGLSLossless, uid.JPEGBaseline8Bit, uid.MPEG2MPML, "1.2.3"]
    dataset.file_meta.TransferSyntaxUID = uid.UID(str(rng.choice(syntaxes)))


MUTATIONS: list[Callable[[Path, Rng], None]] = [
    truncate,
    flip_bytes,
    flip_header,
    drop_middle,
    other_representation,
    *map(
        _edited,
        (
            delete_attributes,
            delete_telling,
            swap_dimensions,
            other_number,
            odd_decimals,
            other_text,
            other_syntax,
        ),
    ),
]


def damaged(sources: dict[str, Path], place: Path, seed: int) -> tuple[Path, str]:
    """An export with damage in one of its files, or two, and what was done."""
    rng = np.random.default_rng([20261128, seed])
    name = list(sources)[seed % len(sources)]
    mutate = MUTATIONS[(seed + seed // len(sources)) % len(MUTATIONS)]
    export = place / "export"
    shutil.copytree(sources[name], export)
    files = sorted(file for file in export.rglob("*") if file.is_file())
    for file in rng.choice(len(files), min(len(files), int(rng.integers(1, 3))), replace=False):
        mutate(files[file], rng)
    [target] = list(export.glob("*.zip")) or [export / "DICOMDIR" if rng.random() < 0.5 and name == "cd" else export]
    return target, f"{mutate.__name__} of {name}, seed {seed}"
