"""Three layouts are recognised, and what is wrong with one is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medmamba import io
from medmamba.io import DatasetError, find_inputs, open_dataset
from medmamba.io.check import check_dataset
from medmamba.io.layouts import survey
from medmamba.volume import Geometry, Volume

GRID = Geometry((3, 4, 5), np.eye(4))


def image(path: Path, value: float = 1.0, channels: int = 1) -> Path:
    """A tiny image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    io.write(Volume(np.full((channels, 3, 4, 5), value, np.float32), GRID), path)
    return path


def label(path: Path, *values: int) -> Path:
    """A tiny label map that holds the values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.zeros((1, 3, 4, 5), np.uint8)
    array.flat[: len(values)] = values
    io.write(Volume(array, GRID), path)
    return path


def nnunet(root: Path, **changes: Any) -> Path:
    """An nnU-Net raw data set of two cases with two channels."""
    for case in ("b", "a_1"):
        for channel in range(2):
            image(root / "imagesTr" / f"{case}_{channel:04d}.nii.gz")
        label(root / "labelsTr" / f"{case}.nii.gz", 1, 2)
    image(root / "imagesTs" / "t_0000.nii.gz")
    image(root / "imagesTs" / "t_0001.nii.gz")
    (root / "imagesTr" / "._b_0000.nii.gz").write_bytes(b"x")
    facts: dict[str, Any] = {
        "channel_names": {"0": "T1", "1": "CT"},
        "labels": {"background": 0, "zebra": 1, "ant": 2},
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }
    facts = {key: value for key, value in {**facts, **changes}.items() if value is not None}
    (root / "dataset.json").write_text(json.dumps(facts))
    return root


def test_nnunet_raw(tmp_path: Path) -> None:
    dataset = open_dataset(nnunet(tmp_path / "Dataset001_X"))
    assert (dataset.name, dataset.layout, dataset.channels) == ("Dataset001_X", "nnunet", ("T1", "CT"))
    assert [case.id for case in dataset.training] == ["a_1", "b"]
    assert [path.name for path in dataset.training[0].images] == ["a_1_0000.nii.gz", "a_1_0001.nii.gz"]
    assert [entry.name for entry in dataset.labels.foreground] == ["zebra", "ant"]  # in the author's order
    assert [case.id for case in dataset.test] == ["t"]
    assert dataset.test[0].label is None


def test_nnunet_regions_ignore_and_list_of_files(tmp_path: Path) -> None:
    root = nnunet(
        tmp_path,
        labels={"background": 0, "whole": [1, 2], "core": 2, "ignore": 3},
        regions_class_order=[1, 2],
        dataset={
            "only": {"images": ["imagesTr/b_0000.nii.gz", "imagesTr/b_0001.nii.gz"], "label": "labelsTr/b.nii.gz"}
        },
    )
    dataset = open_dataset(root / "dataset.json")
    assert dataset.labels.region_order == (1, 2)
    assert dataset.labels.ignore == 3
    assert [case.id for case in dataset.training] == ["only"]
    assert dataset.training[0].label == root / "labelsTr" / "b.nii.gz"


def test_nnunet_splits(tmp_path: Path) -> None:
    root = nnunet(tmp_path)
    (root / "splits_final.json").write_text('[{"train": ["b"], "val": ["a_1"]}]')
    assert open_dataset(root).splits[0].validation == ("a_1",)
    (root / "splits_final.json").write_text('[{"train": ["b"]}]')
    with pytest.raises(DatasetError, match="splits_final"):
        open_dataset(root)


def test_all_that_is_wrong_with_a_description_is_collected(tmp_path: Path) -> None:
    root = nnunet(tmp_path, labels={"background": 0, "a": "x"}, file_ending=None, channel_names={"1": "T1"})
    (root / "splits_final.json").write_text("not JSON")
    found = survey(root)
    assert [word for word in ("without gaps", "'a'", "'file_ending'", "splits_final") if word in str(found.problems)]
    assert len(found.problems) == 4
    assert [case.id for case in found.training] == ["a_1", "b"]  # and still the images can be looked at
    with pytest.raises(DatasetError, match="without gaps"):
        open_dataset(root)


def test_incomplete_case_is_refused_and_its_channels_do_not_move_up(tmp_path: Path) -> None:
    root = nnunet(tmp_path)
    (root / "imagesTr" / "b_0001.nii.gz").rename(root / "imagesTr" / "b_0002.nii.gz")
    with pytest.raises(
        DatasetError, match=r"case b: lacks channel 1 \(CT\), a file that ends in _0001, has files _0002"
    ):
        open_dataset(root)


def test_links_are_followed_and_those_that_lead_nowhere_are_cases_still(tmp_path: Path) -> None:
    root = nnunet(tmp_path / "data")
    image(tmp_path / "elsewhere.nii.gz")
    for name, target in (("b_0000", tmp_path / "elsewhere.nii.gz"), ("b_0001", "b_0001.nii.gz")):
        (root / "imagesTr" / f"{name}.nii.gz").unlink()
        (root / "imagesTr" / f"{name}.nii.gz").symlink_to(target)
    b = open_dataset(root).training[1]
    assert io.read(b.images[0]).channels == 1
    with pytest.raises(FileNotFoundError, match="leads nowhere"):
        io.read(b.images[1])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": None}, "'labels'"),
        ({"labels": {"a": 1}}, "'background': 0"),
        ({"labels": {"background": 0, "a": "one"}}, "'a'"),
        ({"labels": {"background": 0, "a": 1, "b": 1}}, "regions_class_order"),
        ({"labels": {"background": 0, "whole": [1, 2], "core": 2}}, "'regions_class_order'"),
        ({"labels": {"background": 0, "w": [1, 2], "c": 2}, "regions_class_order": [1]}, "2 regions"),
        ({"channel_names": None}, "'channel_names'"),
        ({"channel_names": {"0": "a", "2": "b"}}, "without gaps"),
        ({"file_ending": ".dcm"}, "'file_ending'"),
        ({"dataset": {"x": {"images": "a"}}}, r"dataset\['x'\]"),
        ({"dataset": ["x"]}, "'dataset' must map"),
        ({"labels": {"background": 0, "w": [1, 2], "c": 2}, "regions_class_order": ["1", "2"]}, "one integer for each"),
        ({"labels": {"background": 0, "a": 1, "ignore": [2, 3]}}, "'ignore' must be one integer"),
        ({"labels": {"background": 0, "a": True}}, "'a' must be an integer"),
        ({"file_ending": ".nrrd"}, r"imagesTr end in '\.nii\.gz'"),
    ],
)
def test_wrong_description_is_refused_by_key(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=words) as error:
        open_dataset(nnunet(tmp_path, **changes))
    assert "dataset.json" in str(error.value)


def test_decathlon(tmp_path: Path) -> None:
    for name in ("x_2", "x_1"):
        image(tmp_path / "imagesTr" / f"{name}.nii.gz", channels=2)
        label(tmp_path / "labelsTr" / f"{name}.nii.gz", 1)
    facts = {
        "name": "BRATS",
        "modality": {"0": "FLAIR", "1": "T1w"},
        "labels": {"0": "background", "1": "edema", "2": "core"},
        "training": [
            {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
            for name in ("x_2", "._x_2", "x_1")
        ],
        "test": ["./imagesTs/y.nii.gz"],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(facts))
    dataset = open_dataset(tmp_path)
    assert (dataset.name, dataset.layout, dataset.channels) == ("BRATS", "msd", ("FLAIR", "T1w"))
    assert [case.id for case in dataset.training] == ["x_1", "x_2"]
    assert dataset.labels.values == (0, 1, 2)
    assert io.read_case(dataset.training[0]).channels == 2
    for entry in ({"image": "a.nii.gz"}, {"image": [3], "label": "b.nii.gz"}, "a.nii.gz"):
        (tmp_path / "dataset.json").write_text(json.dumps({**facts, "training": [entry]}))
        with pytest.raises(DatasetError, match=r"training\[0\]"):
            open_dataset(tmp_path)


def test_plain_folders(tmp_path: Path) -> None:
    for name in ("a", "b", "new"):
        image(tmp_path / "images" / f"{name}_0000.nrrd")
        image(tmp_path / "images" / f"{name}_0001.nrrd")
    label(tmp_path / "labels" / "a.nrrd", 1)
    label(tmp_path / "labels" / "b.nrrd", 4)
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "folders"
    assert [entry.values for entry in dataset.labels.foreground] == [(1,), (4,)]
    assert [case.id for case in dataset.training] == ["a", "b"]
    assert [case.id for case in dataset.test] == ["new"]
    assert len(dataset.channels) == 2


def test_numbered_patients_are_not_channels(tmp_path: Path) -> None:
    for number in range(1, 4):
        image(tmp_path / "images" / f"patient_{number:04d}.nii.gz")
        if number < 3:
            label(tmp_path / "labels" / f"patient_{number:04d}.nii.gz", 1)
    dataset = open_dataset(tmp_path)
    assert [case.id for case in dataset.training] == ["patient_0001", "patient_0002"]
    assert [case.id for case in dataset.test] == ["patient_0003"]
    assert dataset.channels == ("image",)
    assert [case.id for case in find_inputs(tmp_path / "images", 1)] == [f"patient_{n:04d}" for n in (1, 2, 3)]
    # The rule of training, so that each file has to hold both channels, which is seen when it is read.
    assert [len(case.images) for case in find_inputs(tmp_path / "images", 2)] == [1, 1, 1]
    (tmp_path / "labels").rename(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match="2 channels"):
        find_inputs(tmp_path / "images", 2)


def test_case_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "a.nrrd", "b_0000.nii.gz", "b.nii.gz"):
        image(tmp_path / "images" / name)
    for name in ("a", "b"):
        label(tmp_path / "labels" / f"{name}.nii.gz", 1)
    for call in (lambda: open_dataset(tmp_path), lambda: find_inputs(tmp_path / "images", 2)):
        with pytest.raises(DatasetError, match=r"a\.nii\.gz, b\.nii\.gz, b_0000\.nii\.gz; remove one"):
            call()


def test_plain_labels_are_looked_at(tmp_path: Path) -> None:
    image(tmp_path / "images" / "a.nii.gz")
    label(tmp_path / "labels" / "a.nii.gz")
    with pytest.raises(DatasetError, match=r"values \[0\]"):
        open_dataset(tmp_path)
    label(tmp_path / "labels" / "b.nii.gz")
    (tmp_path / "labels" / "a.nii.gz").unlink()
    with pytest.raises(DatasetError, match="label of the same name"):
        open_dataset(tmp_path)


def test_folder_without_a_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"is no data set: it has neither .* nor a dataset\.json"):
        open_dataset(tmp_path)
    with pytest.raises(FileNotFoundError, match="absent"):
        open_dataset(tmp_path / "absent")
    (tmp_path / "images").mkdir()
    with pytest.raises(DatasetError, match="no images"):
        open_dataset(tmp_path)


def test_inputs_are_grouped_by_channel(tmp_path: Path) -> None:
    for channel in range(2):
        image(tmp_path / f"case_a_{channel:04d}.nii.gz")
    image(tmp_path / "whole.nii.gz", channels=2)
    (tmp_path / "notes.txt").write_text("x")
    cases = find_inputs(tmp_path, 2)
    assert [(case.id, len(case.images)) for case in cases] == [("case_a", 2), ("whole", 1)]
    assert find_inputs(tmp_path / "case_a_0000.nii.gz", 2)[0].images == cases[0].images
    assert find_inputs(tmp_path / "whole.nii.gz", 2)[0].id == "whole"
    for channels, words in ((1, "one channel"), (3, "3 channels")):
        with pytest.raises(DatasetError, match=f"{words}.*case_a"):
            find_inputs(tmp_path, channels)
    (tmp_path / "case_a_0001.nii.gz").rename(tmp_path / "case_a_0002.nii.gz")
    with pytest.raises(DatasetError, match=r"2 channels.*case_a_0002"):
        find_inputs(tmp_path, 2)
    with pytest.raises(FileNotFoundError):
        find_inputs(tmp_path / "absent", 1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="no images"):
        find_inputs(tmp_path / "empty", 1)


@pytest.mark.parametrize("ending", sorted(set(io.suffixes()) - {".seg.nrrd"}))
def test_file_with_several_channels_is_a_case_of_plain_folders(ending: str, tmp_path: Path) -> None:
    for number in range(1, 4):
        image(tmp_path / "images" / f"patient_{number:04d}{ending}", value=number, channels=3)
    for number in (1, 2):
        label(tmp_path / "labels" / f"patient_{number:04d}.nii.gz", 1)
    dataset = open_dataset(tmp_path)
    assert dataset.channels == ("channel_0", "channel_1", "channel_2")
    assert [case.id for case in dataset.training] == ["patient_0001", "patient_0002"]
    assert io.read_case(dataset.training[1]).array[:, 0, 0, 0].tolist() == [2, 2, 2]
    assert {finding.rule for finding in check_dataset(tmp_path) if finding.severity == "error"} == set()
    inputs = find_inputs(tmp_path / "images", 3)
    assert [case.id for case in inputs] == ["patient_0001", "patient_0002", "patient_0003"]
    assert [len(case.images) for case in inputs] == [1, 1, 1]


def test_file_of_first_channel_may_hold_all_of_them(tmp_path: Path) -> None:
    for case in ("anna", "ben"):
        image(tmp_path / "images" / f"{case}_0000.nii.gz", channels=2)
        label(tmp_path / "labels" / f"{case}.nii.gz", 1)
    dataset = open_dataset(tmp_path)
    assert (dataset.channels, [case.id for case in dataset.training]) == (("channel_0", "channel_1"), ["anna", "ben"])
    assert [case.id for case in find_inputs(tmp_path / "images", 2)] == ["anna", "ben"]
    with pytest.raises(DatasetError, match="3 channels"):
        find_inputs(tmp_path / "images", 3)


def test_first_image_that_cannot_be_read_does_not_decide_the_channels(tmp_path: Path) -> None:
    for case in "abcd":
        image(tmp_path / "images" / f"{case}.nii.gz", channels=1 if case == "b" else 2)
        label(tmp_path / "labels" / f"{case}.nii.gz", 1)
    (tmp_path / "images" / "a.nii.gz").write_bytes(b"")
    assert len(survey(tmp_path).channels or ()) == 2
    errors = {(finding.rule, finding.case) for finding in check_dataset(tmp_path) if finding.severity == "error"}
    assert errors == {("unreadable", "a"), ("channels", "b")}


@pytest.mark.parametrize("layout", ["nnunet", "folders"])
@pytest.mark.parametrize("ending", [".nii.gz", ".seg.nrrd"])
def test_labels_may_end_otherwise_than_images(layout: str, ending: str, tmp_path: Path) -> None:
    images, labels = ("imagesTr", "labelsTr") if layout == "nnunet" else ("images", "labels")
    for case in ("a", "b"):
        image(tmp_path / images / f"{case}_0000.mha")
        label(tmp_path / labels / f"{case}{ending}", 1)
    label(tmp_path / labels / f"left{ending}", 1)
    if layout == "nnunet":
        facts = {"channel_names": {"0": "T1"}, "labels": {"background": 0, "x": 1}, "file_ending": ".mha"}
        (tmp_path / "dataset.json").write_text(json.dumps({**facts, "numTraining": 2}))
    dataset = open_dataset(tmp_path)
    assert [case.label and case.label.name for case in dataset.training] == [f"a{ending}", f"b{ending}"]
    assert dataset.file_ending == ".mha"
    findings = check_dataset(tmp_path)
    assert not [finding for finding in findings if finding.severity == "error"]
    assert [f"left{ending}" in finding.message for finding in findings if finding.rule == "label-without-image"] == [
        True
    ]


def test_segmentations_of_slicer_beside_images_are_no_images(tmp_path: Path) -> None:
    image(tmp_path / "images" / "a.nrrd")
    for folder in ("images", "labels"):
        label(tmp_path / folder / "a.seg.nrrd", 1)
    assert [case.images[0].name for case in find_inputs(tmp_path / "images", 1)] == ["a.nrrd"]
    (case,) = open_dataset(tmp_path).training
    assert (case.id, case.images[0].name, case.label and case.label.name) == ("a", "a.nrrd", "a.seg.nrrd")
    assert find_inputs(tmp_path / "images" / "a.seg.nrrd", 1)[0].id == "a"  # asked for by name


def test_label_that_is_there_twice_is_refused_where_nothing_says_which_counts(tmp_path: Path) -> None:
    image(tmp_path / "images" / "a.nrrd")
    label(tmp_path / "labels" / "a.nrrd", 1)
    label(tmp_path / "labels" / "a.seg.nrrd", 2)
    with pytest.raises(DatasetError, match=r"labels holds files .* a\.nrrd; remove one of the two"):
        open_dataset(tmp_path)
    root = nnunet(tmp_path / "nnunet")
    label(root / "labelsTr" / "b.nrrd", 2)
    assert [case.label and case.label.name for case in open_dataset(root).training] == ["a_1.nii.gz", "b.nii.gz"]


def test_label_values_beyond_all_use_are_refused_by_name(tmp_path: Path) -> None:
    image(tmp_path / "images" / "a.nii.gz")
    label(tmp_path / "labels" / "a.nii.gz")
    io.write(Volume(np.full((1, 3, 4, 5), 2**60, np.int64), GRID), tmp_path / "labels" / "a.nii.gz")
    with pytest.raises(DatasetError, match="labels: label values reach to"):
        open_dataset(tmp_path)
    assert [finding.rule for finding in check_dataset(tmp_path) if finding.severity == "error"] == ["label-values"]


def test_channels_of_a_single_input_may_end_otherwise(tmp_path: Path) -> None:
    image = Volume(np.zeros((1, 4, 5, 6), dtype=np.float32), Geometry((4, 5, 6), np.eye(4)))
    io.write(image, tmp_path / "c6_0000.nii.gz")
    io.write(image, tmp_path / "c6_0001.nrrd")
    (case,) = find_inputs(tmp_path / "c6_0000.nii.gz", 2)
    assert (case.id, [path.name for path in case.images]) == ("c6", ["c6_0000.nii.gz", "c6_0001.nrrd"])
    assert case.images == find_inputs(tmp_path, 2)[0].images
