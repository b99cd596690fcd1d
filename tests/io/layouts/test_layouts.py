"""Data sets as people really have them: taken without conversion where that is safe, else told what to rename."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medmamba import io
from medmamba.io import DatasetError, find_inputs, open_dataset
from medmamba.io.check import check_dataset
from medmamba.volume import Geometry, Volume

V1_LABELS = {"0": "background", "1": "organ", "2": "core"}
V2_LABELS = {"background": 0, "organ": 1, "core": 2}


def scan(path: Path, seed: int = 0) -> Path:
    """A tiny image of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(abs(hash(path.name)) % 2**32 + seed).normal(100, 10, (1, 4, 5, 6))
    io.write(Volume(array.astype(np.float32), Geometry((4, 5, 6), np.eye(4))), path)
    return path


def label(path: Path) -> Path:
    """A tiny label map with both structures."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.zeros((1, 4, 5, 6), np.uint8)
    array[0, 0, 0, :2] = (1, 2)
    io.write(Volume(array, Geometry((4, 5, 6), np.eye(4))), path)
    return path


def described(root: Path, **facts: Any) -> Path:
    """Write a dataset.json; None leaves a key out."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(json.dumps({key: value for key, value in facts.items() if value is not None}))
    return root


def v1(root: Path, channels: int = 1, **changes: Any) -> Path:
    """A data set of two cases as nnU-Net v1 kept it."""
    for case in ("c1", "c0"):
        for channel in range(channels):
            scan(root / "imagesTr" / f"{case}_{channel:04d}.nii.gz")
        label(root / "labelsTr" / f"{case}.nii.gz")
    for channel in range(channels):
        scan(root / "imagesTs" / f"t_{channel:04d}.nii.gz")
    facts = {
        "name": "Lung",
        "modality": {str(channel): f"M{channel}" for channel in range(channels)},
        "labels": V1_LABELS,
        "numTraining": "2",
        "numTest": "1",
        "training": [{"image": f"./imagesTr/{c}.nii.gz", "label": f"./labelsTr/{c}.nii.gz"} for c in ("c1", "c0")],
        "test": [{"image": "./imagesTs/t.nii.gz"}],
    }
    return described(root, **{**facts, **changes})


def v2(root: Path, names: tuple[str, ...], masks: tuple[str, ...], **changes: Any) -> Path:
    """A data set as nnU-Net v2 keeps it, with these names of images and labels."""
    for name in names:
        scan(root / "imagesTr" / f"{name}.nii.gz")
    for name in masks:
        label(root / "labelsTr" / f"{name}.nii.gz")
    facts = {
        "channel_names": {"0": "CT"},
        "labels": V2_LABELS,
        "numTraining": len(masks),
        "file_ending": ".nii.gz",
    }
    return described(root, **{**facts, **changes})


def ids(root: Path) -> list[str]:
    """Training cases of a data set."""
    return [case.id for case in open_dataset(root).training]


def errors(root: Path) -> list[tuple[str, str]]:
    """Rule and message of what a check calls errors."""
    return [(found.rule, found.message) for found in check_dataset(root) if found.severity == "error"]


@pytest.mark.parametrize("channels", [1, 2])
def test_nnunet_v1_is_read_as_it_is(channels: int, tmp_path: Path) -> None:
    root = v1(tmp_path / "Task501_Lung", channels)
    dataset = open_dataset(root)
    assert (dataset.layout, dataset.name, dataset.file_ending) == ("nnunet-v1", "Lung", ".nii.gz")
    assert [case.id for case in dataset.training] == ["c0", "c1"]
    assert [path.name for path in dataset.training[0].images] == [f"c0_{n:04d}.nii.gz" for n in range(channels)]
    assert dataset.training[0].label == root / "labelsTr" / "c0.nii.gz"
    assert [(entry.name, entry.values) for entry in dataset.labels.foreground] == [("organ", (1,)), ("core", (2,))]
    assert [(case.id, len(case.images)) for case in dataset.test] == [("t", channels)]
    (remark,) = [found for found in check_dataset(root) if found.rule == "layout"]
    assert remark.severity == "note"
    assert "nnU-Net v1" in remark.message
    assert "./imagesTr/c1.nii.gz is c1_0000.nii.gz" in remark.message


def test_case_of_nnunet_v1_that_lacks_a_channel_is_refused(tmp_path: Path) -> None:
    root = v1(tmp_path, 2)
    (root / "imagesTr" / "c1_0000.nii.gz").unlink()
    assert errors(root)[0][0] == "channels"
    with pytest.raises(DatasetError, match=r"case c1: lacks channel 0 \(M0\)"):
        open_dataset(root)


def test_list_of_first_channels_finds_the_others(tmp_path: Path) -> None:
    root = v1(tmp_path, 2, training=[{"image": "imagesTr/c0_0000.nii.gz", "label": "labelsTr/c0.nii.gz"}])
    (case,) = open_dataset(root).training
    assert (case.id, [path.name for path in case.images]) == ("c0", ["c0_0000.nii.gz", "c0_0001.nii.gz"])


def test_entry_may_list_a_file_for_each_channel(tmp_path: Path) -> None:
    images = ["imagesTr/c0_0001.nii.gz", "imagesTr/c0_0000.nii.gz"]
    (case,) = open_dataset(v1(tmp_path, 2, training=[{"image": images, "label": "labelsTr/c0.nii.gz"}])).training
    assert (case.id, [path.name for path in case.images]) == ("c0", ["c0_0001.nii.gz", "c0_0000.nii.gz"])


@pytest.mark.parametrize("prefix", ["/gone/Task501_Lung/imagesTr/", "C:\\data\\imagesTr\\", ".\\imagesTr\\"])
def test_list_that_was_written_elsewhere_finds_its_files(prefix: str, tmp_path: Path) -> None:
    entry = {"image": f"{prefix}c0.nii.gz", "label": f"{prefix.replace('imagesTr', 'labelsTr')}c0.nii.gz"}
    root = v1(tmp_path, training=[entry], numTraining=1)
    (case,) = open_dataset(root).training
    assert case.images == (root / "imagesTr" / "c0_0000.nii.gz",)
    assert case.label == root / "labelsTr" / "c0.nii.gz"
    assert any("not where it says" in found.message for found in check_dataset(root) if found.severity == "warning")


def test_absolute_paths_that_lead_somewhere_are_taken(tmp_path: Path) -> None:
    image, mask = scan(tmp_path / "store" / "x.nii.gz"), label(tmp_path / "store" / "y.nii.gz")
    root = v1(tmp_path / "data", training=[{"image": str(image), "label": str(mask)}])
    (case,) = open_dataset(root).training
    assert (case.images, case.label) == ((image,), mask)


def test_labels_the_wrong_way_round_are_understood_and_told(tmp_path: Path) -> None:
    root = v2(tmp_path, ("a_0000", "b_0000"), ("a", "b"), labels={**V1_LABELS, "3": "ignore"})
    dataset = open_dataset(root)
    assert [case.id for case in dataset.training] == ["a", "b"]
    assert [(entry.name, entry.values) for entry in dataset.labels.foreground] == [("organ", (1,)), ("core", (2,))]
    assert dataset.labels.ignore == 3
    assert not errors(root)
    assert any("value to name" in found.message for found in check_dataset(root))


def test_background_that_is_not_zero_is_refused(tmp_path: Path) -> None:
    root = v2(tmp_path, ("a_0000",), ("a",), labels={"0": "organ", "1": "background"})
    with pytest.raises(DatasetError, match="background at 0, got 1"):
        open_dataset(root)


def test_forgotten_channel_numbers_are_told_and_digits_stay_with_the_patient(tmp_path: Path) -> None:
    names = tuple(f"liver_{n:04d}" for n in range(4))
    root = v2(tmp_path, names, names)
    assert ids(root) == list(names)
    (found,) = [found for found in check_dataset(root) if found.rule == "channel-number"]
    assert found.severity == "warning"
    assert "liver_0000_0000.nii.gz" in found.message
    assert "labels bear them" in found.message


def test_digits_that_are_neither_channels_nor_in_labels_are_explained(tmp_path: Path) -> None:
    root = v2(tmp_path, ("liver_0000", "liver_0001"), ("liver_a", "liver_b"))
    with pytest.raises(DatasetError, match=r"_0001 beyond the 1 declared channels .*liver_0001_0000\.nii\.gz"):
        open_dataset(root)


def test_training_and_prediction_take_digits_alike(tmp_path: Path) -> None:
    names = [f"brain_{n:04d}" for n in range(3)]
    for name in names:
        scan(tmp_path / "d" / "images" / f"{name}.nii.gz")
        label(tmp_path / "d" / "labels" / f"{name}.nii.gz")
    assert ids(tmp_path / "d") == names
    assert [case.id for case in find_inputs(tmp_path / "d" / "images", 1)] == names
    one = tmp_path / "d" / "images" / "brain_0000.nii.gz"
    assert find_inputs(one, 1)[0].id == "brain_0000"
    (tmp_path / "d" / "images").rename(tmp_path / "elsewhere")
    assert [case.id for case in find_inputs(tmp_path / "elsewhere", 1, known=["brain_0002"])] == names
    with pytest.raises(
        DatasetError, match=r"one channel.*brain_0000.*digits number patients.*brain_0000_0000\.nii\.gz"
    ):
        find_inputs(tmp_path / "elsewhere", 1)


def test_known_cases_do_not_make_names_of_channels(tmp_path: Path) -> None:
    for case in ("hippo_0001", "hippo_0002"):
        for channel in range(2):
            scan(tmp_path / f"{case}_{channel:04d}.nii.gz")
    found = find_inputs(tmp_path, 2, known=["hippo_0001", "hippo_0002"])
    assert [(case.id, len(case.images)) for case in found] == [("hippo_0001", 2), ("hippo_0002", 2)]


def test_folder_names_may_be_written_in_any_case(tmp_path: Path) -> None:
    root = v2(tmp_path / "n", ("a_0000",), ("a",))
    (root / "imagesTr").rename(root / "ImagesTR")
    (root / "labelsTr").rename(root / "LabelsTr")
    assert ids(root) == ["a"]
    scan(tmp_path / "f" / "Images" / "a.nii.gz")
    label(tmp_path / "f" / "LABELS" / "a.nii.gz")
    assert ids(tmp_path / "f") == ["a"]


def test_folder_inside_or_around_data_sets_is_told_which_to_give(tmp_path: Path) -> None:
    raw = tmp_path / "nnUNet_raw"
    one, two = v2(raw / "Dataset001_A", ("a_0000",), ("a",)), v2(raw / "Dataset002_B", ("a_0000",), ("a",))
    with pytest.raises(DatasetError, match=f"give {one}$"):
        open_dataset(one / "imagesTr")
    with pytest.raises(DatasetError, match=f"give one of them: {one}, {two}"):
        open_dataset(raw)
    with pytest.raises(DatasetError, match=f"give one of them: {one}, {two}"):
        open_dataset(tmp_path)
    with pytest.raises(DatasetError, match=f"those of the data set are in {one / 'imagesTr'}"):
        find_inputs(one, 1)


@pytest.mark.parametrize(
    ("image", "mask", "words"),
    [
        ("image/a", "mask/a", "rename image/ to images/, mask/ to labels/"),
        ("images/a", "masks/a", "if masks/ holds the labels, rename it to labels/"),
        ("images/a", "Segmentations/a", "if Segmentations/ holds the labels, rename it"),
        ("imagesTr/a", "labelsTr/a", r"has imagesTr/ but lacks dataset\.json"),
        ("images/a", "labels/a_seg", r"labels/a_seg\.nii\.gz belongs to case a .*rename it to a\.nii\.gz \(1 labels\)"),
        ("images/a", "labels/a-label", r"a-label\.nii\.gz belongs to case a "),
        ("images/a_img", "labels/a_mask", r"rename it to a_img\.nii\.gz"),
        ("images/a_0000", "labels/a_segmentation", r"rename it to a\.nii\.gz"),
        ("images/a", "labels/b", "no image in .* has a label of the same name"),
        ("a", "seg_a", r"holds images itself \(a\.nii\.gz, seg_a\.nii\.gz\)"),
        ("patient_1/t1", "patient_1/seg", r"hold images \(patient_1\).*under 'dataset'"),
    ],
)
def test_layout_that_is_nearly_right_is_told_what_to_rename(image: str, mask: str, words: str, tmp_path: Path) -> None:
    scan(tmp_path / "d" / f"{image}.nii.gz")
    label(tmp_path / "d" / f"{mask}.nii.gz")
    with pytest.raises(DatasetError, match=words):
        open_dataset(tmp_path / "d")
    assert [rule for rule, _ in errors(tmp_path / "d")] == ["layout"]


def test_suffixed_labels_of_nnunets_layout_are_told_too(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"a_seg\.nii\.gz belongs to case a .*rename it to a\.nii\.gz \(2 labels\)"):
        open_dataset(v2(tmp_path, ("a_0000", "b_0000"), ("a_seg", "b_seg")))


def test_archive_is_not_taken_for_a_missing_folder(tmp_path: Path) -> None:
    (tmp_path / "Task04.tar").write_bytes(b"x")
    with pytest.raises(DatasetError, match=r"is a file, not the folder.*unpack"):
        open_dataset(tmp_path / "Task04.tar")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{\n"a": 1,\n// the labels\n"labels": {}}', "line 3; JSON has no comments"),
        ('{\n"a": 1 /* why */}', "line 2; JSON has no comments"),
        ('{\n"a": {"b": 1,},\n"c": 1}', "line 2; remove the comma"),
        ('{"a": [1, 2,]}', "line 1; remove the comma"),
        ("{'a': 1}", "double quotes"),
        ('{"labels": {"background": 0, "a": 1, "a": 2}}', "key 'a' occurs twice"),
    ],
)
def test_text_that_is_not_quite_json_is_told_by_line(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(ValueError, match=words):
        open_dataset(tmp_path)
    assert [rule for rule, _ in errors(tmp_path)] == ["layout"]


def test_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    root = v2(tmp_path, ("a_0000",), ("a",))
    (root / "dataset.json").write_bytes(b"\xef\xbb\xbf" + (root / "dataset.json").read_bytes())
    assert ids(root) == ["a"]


def listed(root: Path, *names: str, **changes: Any) -> Path:
    """nnU-Net's optional list of files, with these ids; images and labels lie in one folder."""
    cases = {}
    for number, name in enumerate(names):
        scan(root / f"p{number}" / "t1.nii.gz")
        label(root / f"p{number}" / "seg.nii.gz")
        cases[name] = {"images": [f"p{number}/t1.nii.gz"], "label": f"p{number}/seg.nii.gz"}
    facts = {"channel_names": {"0": "T1"}, "labels": V2_LABELS, "numTraining": len(names), "file_ending": ".nii.gz"}
    return described(root, dataset=cases, **{**facts, **changes})


@pytest.mark.parametrize("name", ["Müller 07", "患者_1", "a.b-c", "x" * 200, "a b;$(id)"])
def test_ids_that_files_can_bear_are_taken(name: str, tmp_path: Path) -> None:
    root = listed(tmp_path, name)
    assert ids(root) == [name]
    # Structures in a single case are rare; nothing else, and no label is taken for one without an image.
    assert {found.rule for found in check_dataset(root)} <= {"rare-label", "absent-label"}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("site/p0", "holds '/'"),
        ("/abs", "holds '/'"),
        ("a\\b", r"holds '\\\\'"),
        ("..", "begins with a dot"),
        (".hidden", "begins with a dot"),
        (" ", "is blank"),
        ("a\nb", "holds a control character"),
        ("ä" * 101, "is 202 bytes long"),
    ],
)
def test_ids_that_no_file_can_bear_are_refused_alike_everywhere(name: str, words: str, tmp_path: Path) -> None:
    root = listed(tmp_path, "fine", name)
    found = errors(root)
    assert [rule for rule, _ in found] == ["case-id"]
    with pytest.raises(DatasetError, match=words) as error:
        open_dataset(root)
    assert str(error.value) == found[0][1]


def test_empty_id_is_an_error_of_the_description(tmp_path: Path) -> None:
    root = listed(tmp_path, "")
    assert [rule for rule, _ in errors(root)] == ["layout"]
    with pytest.raises(DatasetError, match="needs an id"):
        open_dataset(root)


def test_ids_for_other_systems_are_a_warning(tmp_path: Path) -> None:
    root = listed(tmp_path, "a:b")
    assert ids(root) == ["a:b"]
    assert [found.severity for found in check_dataset(root) if found.rule == "odd-id"] == ["warning"]


def faulty(root: Path, kind: str) -> Path:
    """A data set with an error that no image is needed to see."""
    if kind == "twice":
        entries = []
        for number in range(3):
            scan(root / f"p{number}" / "t1.nii.gz")
            label(root / f"p{number}" / "seg.nii.gz")
            entries.append({"image": f"p{number}/t1.nii.gz", "label": f"p{number}/seg.nii.gz"})
        return described(root, modality={"0": "MR"}, labels=V1_LABELS, numTraining=3, training=entries)
    if kind == "cases-alike":
        return v2(root, ("a_0000", "A_0000"), ("a", "A"))
    if kind == "composed":
        return v2(root, ("\u00e9_0000", "e\u0301_0000"), ("\u00e9", "e\u0301"))
    if kind == "ignore":
        return v2(root, ("a_0000",), ("a",), labels={"background": 0, "organ": 1, "core": 3, "ignore": 2})
    if kind == "regions":
        regions = {"background": 0, "core": 2, "whole": [1, 2]}
        return v2(root, ("a_0000",), ("a",), labels=regions, regions_class_order=[2, 1])
    v2(root, ("a_0000", "b_0000"), ("a", "b"))
    train = {"unknown": ["a", "z"], "shared": ["a", "b"], "repeated": ["a", "a"], "none": []}[kind]
    (root / "splits_final.json").write_text(json.dumps([{"train": train, "val": ["b"]}]))
    return root


@pytest.mark.parametrize(
    ("kind", "rule", "words"),
    [
        ("twice", "ids-collide", "case id t1 occurs 3 times"),
        ("cases-alike", "ids-collide", "A, a are one"),
        ("composed", "ids-collide", "are one"),
        ("ignore", "ignore-label", "ignore value 2 must be the highest"),
        ("regions", "region-order", "region core is lost"),
        ("unknown", "splits", "fold 0 names cases that do not exist: z"),
        ("shared", "splits", "fold 0 has cases on both sides: b"),
        ("repeated", "splits", "fold 0 names cases twice: a"),
        ("none", "splits", "fold 0 has nothing to learn from"),
    ],
)
def test_what_a_check_refuses_without_images_no_command_opens(kind: str, rule: str, words: str, tmp_path: Path) -> None:
    root = faulty(tmp_path / "d", kind)
    found = errors(root)
    assert [name for name, _ in found] == [rule]
    assert words in found[0][1]
    with pytest.raises(DatasetError) as error:
        open_dataset(root)
    assert found[0][1] in str(error.value)


def test_several_errors_are_counted_where_one_stops(tmp_path: Path) -> None:
    root = faulty(tmp_path / "d", "unknown")
    (root / "imagesTr" / "a_0000.nii.gz").rename(root / "imagesTr" / "a_0001.nii.gz")
    with pytest.raises(DatasetError, match=r"case a: lacks channel 0.*1 more errors: medmamba dataset check"):
        open_dataset(root)


def test_test_cases_called_as_training_cases_are_a_warning(tmp_path: Path) -> None:
    root = v2(tmp_path, ("a_0000", "b_0000"), ("a", "b"))
    scan(root / "imagesTs" / "a_0000.nii.gz")
    assert ids(root) == ["a", "b"]
    assert [found.severity for found in check_dataset(root) if found.rule == "ids-in-test"] == ["warning"]


def test_unusual_layouts_are_told_when_they_are_opened(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "medmamba.io"):
        open_dataset(v1(tmp_path))
    assert "read as nnU-Net v1" in caplog.text


@pytest.mark.parametrize(
    ("value", "rule", "severity"),
    [
        (np.finfo(np.float32).min, "extreme-values", "error"),
        (1e30, "extreme-values", "error"),
        (np.inf, "not-finite", "error"),
        (-32768.0, "no-data-value", "warning"),
    ],
)
def test_values_for_no_data_are_told_with_case_value_and_share(
    value: float, rule: str, severity: str, tmp_path: Path
) -> None:
    root = v2(tmp_path, ("a_0000", "b_0000"), ("a", "b"))
    volume = io.read(root / "imagesTr" / "b_0000.nii.gz")
    volume.array[0, :2] = value
    io.write(volume, root / "imagesTr" / "b_0000.nii.gz")
    (found,) = [found for found in check_dataset(root) if found.rule == rule]
    assert (found.case, found.severity) == ("b", severity)
    assert "60 of 120 intensities (50 %)" in found.message
    assert f"{value:.6g}" in found.message or rule == "not-finite"


def test_one_label_with_a_suffix_is_told_which_case_lacks_it(tmp_path: Path) -> None:
    root = v2(tmp_path, ("a_0000", "b_0000"), ("a", "b_seg"))
    (found,) = [found for found in check_dataset(root) if found.rule == "label-without-image"]
    assert "rename b_seg to b" in found.message


def test_misnamed_folder_of_labels_is_one_error(tmp_path: Path) -> None:
    root = v2(tmp_path, ("a_0000", "b_0000"), ("a", "b"))
    (root / "labelsTr").rename(root / "labels")
    with pytest.raises(DatasetError, match="has imagesTr/ but no labelsTr/; if labels/ holds the labels, rename it to"):
        open_dataset(root)


def test_nnunet_v1_without_its_list_is_read_from_its_folders(tmp_path: Path) -> None:
    root = v1(tmp_path, 2, training=None)
    assert ids(root) == ["c0", "c1"]
    assert len(open_dataset(root).training[0].images) == 2


def test_list_of_files_with_slashes_of_windows_is_found(tmp_path: Path) -> None:
    root = listed(tmp_path, "a")
    facts = json.loads((root / "dataset.json").read_text())
    facts["dataset"]["a"] = {"images": ["p0\\t1.nii.gz"], "label": "D:\\data\\p0\\seg.nii.gz"}
    described(root, **facts)
    (case,) = open_dataset(root).training
    assert (case.images, case.label) == ((root / "p0" / "t1.nii.gz",), root / "p0" / "seg.nii.gz")
