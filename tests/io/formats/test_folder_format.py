"""A format whose images are folders goes through the commands as one of files does."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from medmamba import io
from medmamba.case import Case
from medmamba.cli.main import app
from medmamba.evaluation.matching import find_labels, match_files
from medmamba.files import OutputError, replacing_all
from medmamba.io import images
from medmamba.io.check import check_dataset
from medmamba.io.formats import FORMATS, Header, Stored
from medmamba.io.layouts import names
from medmamba.io.manifest import Maker
from medmamba.labels import Labels
from medmamba.plans.fingerprint import case_signature, fingerprint
from medmamba.prediction.folder import ForeignFileError, SegmentationFolder
from medmamba.volume import Geometry, Volume
from tests.data_factory import make_case

MAKER = Maker(plan="p", weights=("w",), precision="fp32", mirror=True)
LABELS = Labels.of_values((1, 2))


class Stack:
    """A toy: a folder with the affine matrix and an array for each slice, in one folder more."""

    name = "stack"
    suffixes = (".stack",)

    def recognises(self, path: Path, start: bytes) -> bool:
        return (path / "affine.npy").is_file()

    def files(self, path: Path) -> tuple[Path, ...]:
        return path / "affine.npy", *sorted(path.glob("slices/*.npy"))

    def read_header(self, path: Path) -> Header:
        stored = self.read(path, max_voxels=images.MAX_VOXELS)
        return Header(stored.geometry, len(stored.array))

    def read(self, path: Path, *, max_voxels: int) -> Stored:
        affine, *slices = map(np.load, self.files(path))
        array = np.stack(slices, axis=-1)
        return Stored(array, Geometry(array.shape[1:], affine), ())

    def why_not_integer(self, path: Path) -> str | None:
        return None

    def write(self, volume: Volume, path: Path, *, like: Path | None, labels: Labels | None) -> None:
        with replacing_all(path) as temporary:
            (temporary / "slices").mkdir(parents=True)
            np.save(temporary / "affine.npy", volume.geometry.affine)
            for number, plane in enumerate(np.moveaxis(volume.array, -1, 0)):
                np.save(temporary / "slices" / f"{number:03d}.npy", plane)


@pytest.fixture(autouse=True)
def stack(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line in the table."""
    monkeypatch.setattr(images, "FORMATS", (*FORMATS, Stack()))
    monkeypatch.setattr(names, "ENDINGS", images.suffixes())


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Five cases in nnU-Net's layout, and a folder beside them that is no image, whatever it is called."""
    root = tmp_path / "data"
    for folder in ("imagesTr", "labelsTr"):
        (root / folder / "notes.stack").mkdir(parents=True)
        (root / folder / "notes.stack" / "read me.txt").write_text("mine")
    for seed in range(5):
        image, label = make_case(seed)
        io.write(image, root / "imagesTr" / f"case_{seed}_0000.stack")
        io.write(label, root / "labelsTr" / f"case_{seed}.stack")
    facts = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, "block": 1, "core": 2},
        "numTraining": 5,
        "file_ending": ".stack",
    }
    (root / "dataset.json").write_text(json.dumps(facts))
    return root


def test_a_folder_is_an_image_by_its_suffix_and_content(dataset: Path, tmp_path: Path) -> None:
    image = dataset / "imagesTr" / "case_0_0000.stack"
    shutil.copytree(image, tmp_path / "IM0001")
    (tmp_path / "a.txt").touch()
    assert io.is_image(image)
    assert io.is_image(tmp_path / "a.txt")
    for folder in (dataset, tmp_path / "IM0001", dataset / "imagesTr" / "notes.stack", tmp_path / "nothing.stack"):
        assert not io.is_image(folder)


def test_data_set_is_checked_and_measured(dataset: Path) -> None:
    assert check_dataset(dataset, workers=1) == []
    found = io.open_dataset(dataset)
    measured = fingerprint(found, workers=1)
    assert [case.shape for case in measured.cases] == [(20, 18, 16)] * 5
    assert measured.describes(found)
    label = dataset / "labelsTr" / "case_4.stack"
    before = case_signature(found.training[4])
    os.utime(label / "slices" / "003.npy", ns=(1, 1))
    assert case_signature(found.training[4]) != before
    shutil.rmtree(label)
    assert next(finding.rule for finding in check_dataset(dataset, workers=1)) == "missing-label"
    with pytest.raises(FileNotFoundError, match=r"1 files of training cases.*case_4\.stack"):
        fingerprint(found, workers=1)


def test_listed_images_are_found(dataset: Path) -> None:
    facts = json.loads((dataset / "dataset.json").read_text())
    listed = [
        {"image": f"imagesTr/case_{seed}_0000.stack", "label": f"labelsTr/case_{seed}.stack"} for seed in range(5)
    ]
    (dataset / "dataset.json").write_text(json.dumps({**facts, "training": listed}))
    assert check_dataset(dataset, workers=1) == []


def test_inputs_are_found_one_or_all(dataset: Path) -> None:
    folder = dataset / "imagesTr"
    assert [case.id for case in io.find_inputs(folder, 1)] == [f"case_{seed}" for seed in range(5)]
    one = folder / "case_3_0000.stack"
    assert [case.images for case in io.find_inputs(one, 1)] == [(one,)]
    with pytest.raises(io.DatasetError, match=r"notes\.stack holds no images"):
        io.find_inputs(folder / "notes.stack", 1)


def test_segmentations_are_stored_replaced_and_kept(dataset: Path, tmp_path: Path) -> None:
    case, image = Case(id="case_0", images=(dataset / "imagesTr" / "case_0_0000.stack",)), make_case(0)[1]

    def opened(maker: Maker = MAKER) -> SegmentationFolder:
        return SegmentationFolder(tmp_path / "out", [case], maker, LABELS)

    opened().store(case, image)
    assert opened().standing(case).kind == "finished"
    other = opened(replace(MAKER, plan="q"))
    assert other.standing(case).kind == "outdated"
    other.store(case, image.with_array(image.array * 0))
    assert opened(replace(MAKER, plan="q")).standing(case).kind == "finished"
    path = tmp_path / "out" / "case_0.stack"
    assert not io.read_label(path).array.any()
    assert sorted(entry.name for entry in path.parent.iterdir()) == [".lock", "case_0.stack", "prediction.json"]
    np.save(path / "slices" / "000.npy", np.ones((1, 20, 18), dtype=np.uint8))
    assert opened().standing(case).kind == "foreign"
    (path / "affine.npy").unlink()  # nothing says any more that it is an image
    with pytest.raises(ForeignFileError, match="is a folder and is no segmentation"):
        opened().store(case, image, overwrite=True)
    assert (path / "slices" / "000.npy").is_file()


def test_segmentation_never_takes_the_place_of_its_image(tmp_path: Path) -> None:
    io.write(make_case(0)[1], tmp_path / "a.stack")
    with pytest.raises(OutputError, match=r"a\.stack is an input of this command"):
        SegmentationFolder(tmp_path, [Case(id="a", images=(tmp_path / "a.stack",))], MAKER, LABELS)


def test_segmentations_among_the_images_are_no_inputs(dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(dataset / "imagesTr", tmp_path / "scans")
    cases = io.find_inputs(tmp_path / "scans", 1)
    folder = SegmentationFolder(tmp_path / "scans", cases, MAKER, LABELS)
    for case in cases:
        folder.store(case, make_case(0)[1])
    assert io.find_inputs(tmp_path / "scans", 1) == cases


def test_label_maps_are_compared_one_or_all(dataset: Path, tmp_path: Path) -> None:
    references = dataset / "labelsTr"
    shutil.copytree(references, tmp_path / "predictions")
    one = tmp_path / "predictions" / "case_1.stack"
    for arguments in ((tmp_path / "predictions", references), (one, references / "case_1.stack")):
        result = CliRunner().invoke(app, ["evaluate", *map(str, arguments), "--workers", "1", "--json"])
        assert result.exit_code == 0, result.output
        report = json.loads((tmp_path / "predictions" / "report.json").read_text())
        assert {case["status"] for case in report["cases"]} == {"scored"}
        assert len(report["cases"]) == (5 if arguments[1] == references else 1)
    assert not (one / "report.json").exists()
    labels = find_labels(one, references / "case_1.stack")
    assert labels is not None
    assert [label.name for label in labels.foreground] == ["block", "core"]
    with pytest.raises(ValueError, match="compare two files or two folders"):
        match_files(one, references)


def test_folder_is_replaced_whole_or_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, label = make_case(0)
    path = tmp_path / "a.stack"
    io.write(image, path)
    put = os.replace

    def fail(source: Path, target: Path) -> None:
        if target == path and source.name == path.name:
            raise OSError("broken")
        put(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="broken"):
        io.write(label, path)
    monkeypatch.setattr(os, "replace", put)
    np.testing.assert_array_equal(io.read(path).array, image.array)
    io.write(label, path)
    np.testing.assert_array_equal(io.read(path).array, label.array)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.stack"]
