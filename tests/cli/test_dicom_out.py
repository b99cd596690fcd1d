"""From a series to objects: several formats at once, nothing of the patient in what is said or noted."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medmamba import io
from medmamba.io.manifest import MANIFEST, Manifest
from medmamba.training.run import Run
from tests.cli.remedies import run
from tests.dicom_factory import SECRETS, Ellipsoid, Made, Phantom, series

ENDINGS = ("nii.gz", "seg.dcm", "rtstruct.dcm")
#: Values that the data set of the trained network has.
CONTENT = Phantom(
    base=100,
    ramp_per_mm=(0, 0, 0),
    ellipsoids=(
        Ellipsoid(centre_mm=(3, -2, 4), radii_mm=(12, 10, 9), value=100),
        Ellipsoid(centre_mm=(4, -1, 5), radii_mm=(5, 4, 4), value=100),
    ),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return series(tmp_path_factory.mktemp("export") / "scan", CONTENT, spacing_mm=(1.0, 1.2), step_mm=1.5)


@pytest.fixture(scope="module")
def predicted(made: Made, trained: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Folder of what was predicted in three formats, and all that was said, logged notes included."""
    folder = tmp_path_factory.mktemp("out") / "objects"
    code, said = run("-v", "predict", "-i", made.folder, "-o", folder, "-m", trained[0], "--format", ",".join(ENDINGS))
    assert code == 0, said
    return folder, said


def test_a_case_is_written_in_all_formats_and_then_finished(
    predicted: tuple[Path, str], made: Made, trained: tuple[Path, str], caplog: pytest.LogCaptureFixture
) -> None:
    folder, said = predicted
    assert "1 predicted" in said
    assert set(Manifest.load(folder).made) == {f"scan.{ending}" for ending in ENDINGS}
    nifti = io.read_label(folder / "scan.nii.gz")
    seg = io.read_label(folder / "scan.seg.dcm", within=nifti.geometry)
    assert seg.geometry.allclose(nifti.geometry)
    np.testing.assert_array_equal(seg.array, nifti.array)
    again = ("predict", "-i", made.folder, "-o", folder, "-m", trained[0], "--format", ",".join(ENDINGS))
    assert "0 predicted, 1 finished earlier" in run(*again)[1]
    (folder / "scan.rtstruct.dcm").unlink()
    assert "1 predicted, 0 finished earlier" in run(*again)[1]
    references = folder.parent / "references"
    references.mkdir()
    shutil.copy(folder / "scan.seg.dcm", references)
    with caplog.at_level(logging.WARNING):
        code, said = run("evaluate", folder, references)
    assert code == 0, said
    assert "holds cases in several formats, of which .nii.gz is taken; to compare .seg.dcm, give" in caplog.text


def test_nothing_of_the_patient_is_said_or_noted(predicted: tuple[Path, str]) -> None:
    folder, said = predicted
    noted = "".join(file.read_text() for file in folder.rglob("*") if file.suffix in (".json", ".files"))
    assert MANIFEST in {file.name for file in folder.iterdir()}
    assert [secret for secret in SECRETS if secret in said + noted] == []
    dataset = pydicom.dcmread(folder / "scan.seg.dcm")
    assert dataset.PatientID in SECRETS, "objects are the patient's unless they are anonymous"


def test_odd_headers_are_not_quoted(
    made: Made,
    trained: tuple[Path, str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    recwarn: pytest.WarningsRecorder,
) -> None:
    shutil.copytree(made.folder, tmp_path / "scan")
    for file in (tmp_path / "scan").iterdir():
        dataset = pydicom.dcmread(file)
        dataset.PatientName, dataset.PatientSex = "Quillfeather", "Zebedee"  # one part alone, and no sex
        dataset.PatientBirthDate = "17.4.1931"
        dataset.save_as(file)
    recwarn.clear()
    with caplog.at_level(logging.DEBUG):
        code, said = run("predict", "-i", tmp_path / "scan", "-o", tmp_path / "out", "-m", trained[0])
    assert code == 0, said
    assert (tmp_path / "out" / "scan.seg.dcm").is_file()
    quoted = said + caplog.text + "".join(str(each.message) for each in recwarn)
    assert [secret for secret in (*SECRETS, "17.4.1931") if secret in quoted] == []


def test_anonymous_objects_of_a_folder_belong_together(made: Made, trained: tuple[Path, str], tmp_path: Path) -> None:
    ask = ("predict", "-i", made.folder, "-m", trained[0], "--anonymise", "--format", "seg.dcm,rtstruct.dcm")
    code, said = run(*ask, "-o", tmp_path / "out")
    assert code == 0, said
    seg, contours = (pydicom.dcmread(tmp_path / "out" / f"scan.{ending}") for ending in ENDINGS[1:])
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID"):
        assert seg[keyword].value == contours[keyword].value
    assert seg.StudyInstanceUID != made.study_uid
    for ending in ENDINGS[1:]:
        data = (tmp_path / "out" / f"scan.{ending}").read_bytes()
        assert [secret for secret in (*SECRETS, made.uid, made.study_uid) if secret.encode() in data] == []
    secret = tmp_path / "out" / ".anonymise"
    assert secret.stat().st_mode & 0o777 == 0o600, "who reads it can tell which UID stands for which"
    assert "1 predicted" in run(*ask, "-o", tmp_path / "out", "--overwrite")[1]
    assert pydicom.dcmread(tmp_path / "out" / "scan.seg.dcm").StudyInstanceUID == seg.StudyInstanceUID


def test_other_kinds_are_made_anew(made: Made, trained: tuple[Path, str], tmp_path: Path) -> None:
    ask = ("predict", "-i", made.folder, "-o", tmp_path / "out", "-m", trained[0])
    for kind in ("fractional", "itk", "labelmap", "binary"):
        code, said = run(*ask, "--seg-type", kind)
        assert (code, "1 predicted" in said) == (0, True), said
        path = tmp_path / "out" / "scan.seg.dcm"
        assert path.is_dir() == (kind == "itk")
        file = min(path.iterdir()) if path.is_dir() else path
        assert pydicom.dcmread(file).SegmentationType == {"itk": "BINARY"}.get(kind, kind.upper())
    assert "the kind of object changed" in said


@pytest.mark.parametrize(
    ("options", "idle", "otherwise"),
    [
        (("--anonymise", "--seg-type", "labelmap"), "--anonymise and --seg-type labelmap", "seg.dcm"),
        (("--anonymise", "--format", "nii.gz,nrrd"), "--anonymise", "seg.dcm or rtstruct.dcm"),
        (("--seg-type", "fractional", "--format", "rtstruct.dcm"), "--seg-type fractional", "seg.dcm"),
        (("--codes",), "--codes", "seg.dcm or rtstruct.dcm"),
    ],
)
def test_options_without_effect_are_refused_before_anything_is_made(
    made: Made,
    trained: tuple[Path, str],
    planned: tuple[Path, Path, str],
    options: tuple[str, ...],
    idle: str,
    otherwise: str,
    tmp_path: Path,
) -> None:
    images = made.folder if "--format" in options else planned[0] / "imagesTr"
    (tmp_path / "codes.json").write_text("{}")
    given = [*options, *([tmp_path / "codes.json"] if "--codes" in options else [])]
    code, said = run("predict", "-i", images, "-o", tmp_path / "out", "-m", trained[0], *given)
    assert code == 2, said
    assert f"{idle} would have no effect" in said
    assert f"a --format that it is for: {otherwise}" in said
    assert not (tmp_path / "out" / ".anonymise").exists()
    assert not (tmp_path / "out" / MANIFEST).exists()


def test_codes_of_structures_that_the_model_lacks_are_refused(
    made: Made, trained: tuple[Path, str], tmp_path: Path
) -> None:
    term = {"value": "1", "meaning": "Thing", "scheme": "99OURS"}
    (tmp_path / "codes.json").write_text(json.dumps({"Misspelt": {"category": term, "type": term}}))
    ask = ("predict", "-i", made.folder, "-o", tmp_path / "out", "-m", trained[0], "--codes", tmp_path / "codes.json")
    code, said = run(*ask)
    names = ", ".join(repr(label.name) for label in Run(trained[0]).plan.labels.foreground)
    assert code == 3, said
    assert f"codes of 'Misspelt', and the model has no such structure; it has {names}" in said
    assert not (tmp_path / "out").exists()


def test_objects_of_no_series_are_refused_before_anything_is_segmented(
    trained: tuple[Path, str], planned: tuple[Path, Path, str], tmp_path: Path
) -> None:
    scans = planned[0] / "imagesTr"
    code, said = run("predict", "-i", scans, "-o", tmp_path / "out", "-m", trained[0], "--format", "nii.gz,seg.dcm")
    assert code == 2, said
    assert "refer to slices of a DICOM series" in said
    assert not (tmp_path / "out").exists()
