"""Nothing is written onto, or among, what is only to be read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

import pytest

from medmamba.case import Case
from medmamba.files import OutputError
from medmamba.io import layouts
from medmamba.io.layouts import Folder, Survey
from medmamba.io.manifest import MANIFEST
from medmamba.io.places import check_output_files, check_output_folder
from tests.data_factory import write_dataset


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A folder with two files that stand for scans."""
    folder = tmp_path / "scans"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.nii.gz").write_text("a")
    (folder / "sub" / "a.nii.gz").write_text("another a")
    return folder


def aliases(folder: Path, tmp_path: Path) -> dict[str, Path]:
    """Ways to name a folder."""
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)
    linked = tmp_path / "links"
    linked.mkdir()
    os.link(folder / "a.nii.gz", linked / "a.nii.gz")
    (tmp_path / "soft").mkdir()
    (tmp_path / "soft" / "a.nii.gz").symlink_to(folder / "a.nii.gz")
    return {
        "same": folder,
        "detour": folder / "sub" / "..",
        "link": tmp_path / "link",
        "hard": linked,
        "soft": tmp_path / "soft",
    }


@pytest.mark.parametrize("way", ["same", "detour", "link", "hard", "soft"])
def test_file_of_the_output_must_not_be_an_input_by_any_name(way: str, scans: Path, tmp_path: Path) -> None:
    folder = aliases(scans, tmp_path)[way]
    with pytest.raises(OutputError, match=r"a\.nii\.gz is an input of this command"):
        check_output_folder(folder, files=[folder / "a.nii.gz"], inputs=[scans / "a.nii.gz"])
    check_output_folder(folder, files=[folder / "b.nii.gz"], inputs=[scans / "a.nii.gz"])


@pytest.mark.parametrize("place", ["", "new", "sub", "sub/new/deep"])
def test_nothing_is_written_into_a_folder_of_inputs_or_below(place: str, scans: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(scans, target_is_directory=True)
    for given, read in ((scans, scans), (tmp_path / "link", scans), (scans, tmp_path / "link")):
        with pytest.raises(OutputError, match="which this command reads"):
            check_output_folder(given / place, inputs=[read])
    check_output_folder(tmp_path / "elsewhere" / place, inputs=[scans])
    check_output_folder(tmp_path, inputs=[scans])  # above is another place


def test_file_is_no_folder_and_a_folder_no_file(scans: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is a file"):
        check_output_folder(scans / "a.nii.gz")
    with pytest.raises(OutputError, match="name of a file"):
        check_output_folder(tmp_path / "out.nii.gz")
    with pytest.raises(OutputError, match="is a folder"):
        check_output_files([scans])
    check_output_folder(tmp_path / "results v1.2")


def test_images_and_labels_of_any_data_set_are_left_alone(tmp_path: Path) -> None:
    described = write_dataset(tmp_path / "Dataset001_A", cases=1)
    plain = tmp_path / "plain"
    for name in ("images", "labels"):
        (plain / name).mkdir(parents=True)
        (plain / name / "a.nii.gz").touch()
    for inner in (described / "imagesTr", described / "labelsTr" / "new", plain / "images", plain / "labels"):
        with pytest.raises(OutputError, match="images or labels of a data set"):
            check_output_folder(inner)
    for root in (described, plain):
        with pytest.raises(OutputError, match="is a data set"):
            check_output_folder(root)
        check_output_folder(root / "predictions")
    # Without a dataset.json beside it, a name means nothing.
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "imagesTr" / "a.nii.gz").touch()
    check_output_folder(tmp_path / "imagesTr")


class Sessions:
    """A toy: scans in a folder for each session of each patient, whose names say nothing."""

    looks = "folders of sessions"
    labels_of: ClassVar[dict[str, str]] = {}
    is_described = False

    def recognises(self, folder: Folder) -> bool:
        return any(folder.root.glob("*/*/scan.nii"))

    def survey(self, folder: Folder) -> Survey:
        scans = sorted(folder.root.glob("*/*/scan.nii"))
        return Survey(
            name="", root=folder.root, training=tuple(Case(id=scan.parent.name, images=(scan,)) for scan in scans)
        )


def test_cases_in_folders_of_any_name_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "study"
    (root / "anna" / "monday").mkdir(parents=True)
    (root / "anna" / "monday" / "scan.nii").touch()
    check_output_folder(root)
    monkeypatch.setattr(layouts, "LAYOUTS", (*layouts.LAYOUTS, Sessions()))
    with pytest.raises(OutputError, match="is a data set"):
        check_output_folder(root)
    for inner in ("anna", "anna/monday", "anna/monday/new/deep", "anna/new"):
        with pytest.raises(OutputError, match="among the images or labels of a data set"):
            check_output_folder(root / inner)
    (root / "predictions").mkdir()
    (root / "predictions" / "a.nii.gz").touch()
    for other in (tmp_path, root / "predictions", root / "work" / "new"):
        check_output_folder(other)
    again = root / "predictions" / "anna"
    again.mkdir()
    (again / "scan.nii").touch()
    with pytest.raises(OutputError, match="among the images"):
        check_output_folder(again)
    (again / MANIFEST).touch()
    (root / "predictions" / MANIFEST).touch()
    check_output_folder(again)
    (root / MANIFEST).touch()
    check_output_folder(root)


def test_a_folder_below_a_file_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "prep.py").touch()
    with pytest.raises(OutputError, match=r"prep.py is a file, not a folder; give another name"):
        check_output_folder(tmp_path / "prep.py" / "x" / "y")


def test_segmentations_may_become_labels_also_when_the_command_is_repeated(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.nii.gz").touch()
    labels = tmp_path / "labels"
    check_output_folder(labels)
    labels.mkdir()
    check_output_folder(labels)
    (labels / MANIFEST).write_text("{}")
    (labels / "a.nii.gz").touch()
    check_output_folder(labels)
    (labels / MANIFEST).unlink()
    with pytest.raises(OutputError, match="images or labels"):
        check_output_folder(labels)


def test_run_and_prepared_cases_are_no_output_folders(tmp_path: Path) -> None:
    run, prepared = tmp_path / "fold_0", tmp_path / "preprocessed"
    run.mkdir()
    for name in ("run.json", "plan.json"):
        (run / name).touch()
    prepared.mkdir()
    (prepared / "a.image.b2nd").touch()
    with pytest.raises(OutputError, match="is a training run"):
        check_output_folder(run)
    check_output_folder(run / "predictions")
    with pytest.raises(OutputError, match="prepared for training"):
        check_output_folder(prepared)
