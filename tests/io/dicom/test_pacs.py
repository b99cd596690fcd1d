"""What we write goes into a PACS and comes back: Orthanc, started here on the loopback, by C-STORE."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medmamba import io
from medmamba.labels import Label, Labels
from medmamba.volume import Geometry, Volume
from tests import dicom_factory as factory

#: Debian's packages `orthanc` and `dcmtk`.
MISSING = [name for name in ("Orthanc", "storescu") if shutil.which(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (Debian: orthanc, dcmtk)")
STARTS_WITHIN_S = 30


@dataclass(frozen=True)
class Pacs:
    http: int
    dicom: int

    def ask(self, path: str, body: str | None = None) -> bytes:
        data = None if body is None else body.encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", data, timeout=10) as answer:
            content: bytes = answer.read()
        return content

    def store(self, path: Path) -> None:
        # storescu proposes 64 classes by itself, and SEG is not among them: -R proposes what the files need.
        command = ["storescu", "-R", "-aet", "MEDMAMBA", "127.0.0.1", str(self.dicom), str(path)]
        subprocess.run(command, check=True, capture_output=True, timeout=30)

    def stored(self, instance_uid: str) -> pydicom.Dataset:
        found = [each for each in json.loads(self.ask("/tools/lookup", instance_uid)) if each["Type"] == "Instance"]
        assert len(found) == 1
        return pydicom.dcmread(BytesIO(self.ask(f"{found[0]['Path']}/file")))


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pacs]:
    folder = tmp_path_factory.mktemp("orthanc")
    server = Pacs(http=free_port(), dicom=free_port())
    settings = {
        "StorageDirectory": str(folder),
        "IndexDirectory": str(folder),
        "HttpPort": server.http,
        "DicomPort": server.dicom,
        "RemoteAccessAllowed": False,
        "Plugins": [],
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(["Orthanc", str(folder / "settings.json")], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + STARTS_WITHIN_S
        while True:
            try:
                server.ask("/system")
                break
            except (urllib.error.URLError, ConnectionError):
                told = (folder / "log.txt").read_text()
                assert process.poll() is None, f"Orthanc did not start: {told}"
                assert time.monotonic() < deadline, f"Orthanc does not answer: {told}"
                time.sleep(0.05)
        yield server
    finally:
        process.terminate()
        process.wait(timeout=20)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> factory.Made:
    return factory.series(tmp_path_factory.mktemp("scan"), plane="oblique", order="shuffled")


def head_and_core(made: factory.Made) -> tuple[Volume, Labels]:
    points = np.stack([made.points(each) for each in made.slices]).transpose(2, 1, 0, 3)
    array = np.zeros((1, *points.shape[:3]), np.uint8)
    for value, ellipsoid in enumerate(factory.HEAD.ellipsoids, 1):
        array[0][ellipsoid.inside(points)] = value
    foreground = (Label(name="head", values=(1, 2)), Label(name="core", values=(2,)))
    labels = Labels(foreground=foreground, region_order=(1, 2))
    return Volume(array, Geometry(array.shape[1:], made.affine)), labels


@pytest.mark.parametrize("suffix", [".seg.dcm", ".rtstruct.dcm"])
def test_what_a_pacs_takes_it_gives_back(pacs: Pacs, source: factory.Made, tmp_path: Path, suffix: str) -> None:
    mask, labels = head_and_core(source)
    path = tmp_path / f"mask{suffix}"
    io.write(mask, path, like=source.folder, labels=labels)
    pacs.store(path)
    sent = pydicom.dcmread(path)
    # The header of the file is each one's own; all that is said of the object, and its pixels, are equal.
    assert pacs.stored(sent.SOPInstanceUID) == sent


@pytest.mark.parametrize("suffix", [".seg.dcm", ".rtstruct.dcm"])
def test_a_pacs_puts_it_into_the_study_of_its_scan(
    pacs: Pacs, source: factory.Made, tmp_path: Path, suffix: str
) -> None:
    mask, labels = head_and_core(source)
    path = tmp_path / f"mask{suffix}"
    io.write(mask, path, like=source.folder, labels=labels)
    for file in (source.files[0], path):
        pacs.store(file)
    (study,) = (json.loads(pacs.ask(f"/studies/{each}")) for each in json.loads(pacs.ask("/studies")))
    assert study["MainDicomTags"]["StudyInstanceUID"] == source.study_uid
    kinds = {json.loads(pacs.ask(f"/series/{each}"))["MainDicomTags"]["Modality"] for each in study["Series"]}
    assert {"CT", "SEG" if suffix == ".seg.dcm" else "RTSTRUCT"} <= kinds


@pytest.mark.parametrize("suffix", [".seg.dcm", ".rtstruct.dcm"])
def test_a_second_result_does_not_take_the_place_of_the_first(
    pacs: Pacs, source: factory.Made, tmp_path: Path, suffix: str
) -> None:
    """A PACS keeps the first of two objects with one UID, and says that all went well."""
    mask, labels = head_and_core(source)
    sent = []
    for name in ("one", "other"):
        path = tmp_path / f"{name}{suffix}"
        io.write(mask, path, like=source.folder, labels=labels)
        pacs.store(path)
        sent.append(pydicom.dcmread(path))
    assert len({each.SOPInstanceUID for each in sent}) == 2
    assert all(pacs.stored(each.SOPInstanceUID) == each for each in sent)
