"""A layout is a class and a line in the table."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from medmamba import io
from medmamba.case import Case
from medmamba.files import OutputError
from medmamba.io import layouts
from medmamba.io.check import check_dataset
from medmamba.io.layouts import LAYOUTS, Folder, Layout, Survey
from medmamba.io.places import check_output_folder
from medmamba.volume import Geometry, Volume


class Patients:
    """A toy: a folder for each patient, with scan and mask in it, beside one of scans that nobody has outlined yet."""

    looks = "folders of patients"
    labels_of: ClassVar = {"waiting": "outlined"}
    is_described = False

    def recognises(self, folder: Folder) -> bool:
        return any(folder.root.glob("*/mask.nii"))

    def survey(self, folder: Folder) -> Survey:
        masks = sorted(folder.root.glob("*/mask.nii"))
        cases = tuple(Case(id=m.parent.name, images=(m.with_name("scan.nii"),), label=m) for m in masks)
        return Survey(
            name=folder.root.name,
            root=folder.root,
            layout="patients",
            channels=("MR",),
            training=cases,
            listed=True,
        )


def test_new_layout_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for patient in ("anna", "ben"):
        (tmp_path / patient).mkdir()
        array = np.arange(60, dtype=np.float32).reshape(1, 3, 4, 5)
        for name, voxels in (("scan", array + len(patient)), ("mask", array % 3)):
            io.write(Volume(voxels, Geometry((3, 4, 5), np.eye(4))), tmp_path / patient / f"{name}.nii")
    with pytest.raises(io.DatasetError, match=r"no data set: it has neither .* a dataset.json .* nor folders images/"):
        io.open_dataset(tmp_path)
    added: tuple[Layout, ...] = (*LAYOUTS, Patients())
    monkeypatch.setattr(layouts, "LAYOUTS", added)
    with pytest.raises(io.DatasetError, match=r"nor folders images/ and labels/ nor .* nor folders of patients"):
        io.open_dataset(tmp_path / "anna")
    (tmp_path / "splits_final.json").write_text('[{"train": ["anna"], "val": ["ben"]}]')
    dataset = io.open_dataset(tmp_path)
    assert (dataset.layout, [case.id for case in dataset.training]) == ("patients", ["anna", "ben"])
    assert [label.name for label in dataset.labels.foreground] == ["label_1", "label_2"]
    assert dataset.splits[0].validation == ("ben",)
    assert not [found for found in check_dataset(tmp_path) if found.severity == "error"]
    for name in ("waiting", "Outlined"):
        check_output_folder(tmp_path)
        (tmp_path / name).mkdir()
        (tmp_path / name / "clara.nii").touch()
    with pytest.raises(OutputError, match="is a data set"):
        check_output_folder(tmp_path)
    with pytest.raises(OutputError, match="among the images or labels"):
        check_output_folder(tmp_path / "Outlined" / "new")
