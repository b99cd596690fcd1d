from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medmamba.case import Split
from medmamba.files import OutputError
from medmamba.io import DatasetError, open_dataset
from medmamba.io.layouts import survey
from medmamba.io.places import check_output_folder
from medmamba.plans.splits import folds
from tests.clips_factory import write_clip, write_films
from tests.data_factory import write_dataset

DESCRIPTION = {"labels": {"background": 0, "disk": 1, "square": 2}}


def describe(root: Path, **facts: Any) -> Path:
    (root / "dataset.json").write_text(json.dumps(DESCRIPTION | facts))
    return root


def split_by(root: Path, *folds: dict[str, list[str]]) -> Path:
    (root / "splits.json").write_text(json.dumps(folds))
    return root


def test_films_and_masks_in_two_folders_are_cases_of_their_patients(tmp_path: Path) -> None:
    write_clip(tmp_path / "videos" / "new", None)
    dataset = open_dataset(write_films(tmp_path))
    assert (dataset.layout, dataset.task, dataset.channels) == ("video", "video", ("red", "green", "blue"))
    assert [case.id for case in dataset.training] == ["p1_seq1", "p1_seq2", "p2_seq1", "p3_seq1"]
    assert [case.patient for case in dataset.training] == ["p1", "p1", "p2", "p3"]
    assert [case.id for case in dataset.test] == ["new"]
    assert [label.name for label in dataset.labels.foreground] == ["label_1", "label_2"]
    first = dataset.training[0]
    assert (first.images, first.label) == ((tmp_path / "videos/p1_seq1",), tmp_path / "masks/p1_seq1")


def test_folds_keep_the_clips_of_a_patient_together(tmp_path: Path) -> None:
    found = folds(open_dataset(describe(write_films(tmp_path))))
    assert len(found) == 3
    for fold in found:
        assert ("p1_seq1" in fold.train) == ("p1_seq2" in fold.train)


def test_dataset_json_says_labels_channels_and_patients_as_everywhere(tmp_path: Path) -> None:
    root = describe(
        write_films(tmp_path, names=("a", "b"), colour=False),
        name="Disks", channel_names={"0": "ultrasound"}, patients={"a": "anna", "b": "anna"},
    )  # fmt: skip
    dataset = open_dataset(root)
    assert (dataset.name, dataset.channels) == ("Disks", ("ultrasound",))
    assert [label.name for label in dataset.labels.foreground] == ["disk", "square"]
    assert [case.patient for case in dataset.training] == ["anna", "anna"]


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"patients": ["a"]}, "'patients' must map clips to patients"),
        ({"patients": {"z": "anna"}}, "'patients' names clips that do not exist: z"),
        ({"labels": {"disk": 1}}, "have 'background': 0"),
    ],
)
def test_a_description_is_refused_by_its_key(tmp_path: Path, facts: dict[str, Any], words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        open_dataset(describe(write_films(tmp_path, names=("a",)), **facts))


def test_folds_of_the_author_may_name_patients_in_place_of_clips(tmp_path: Path) -> None:
    root = split_by(describe(write_films(tmp_path)), {"train": ["p1", "p3_seq1"], "val": ["p2"]})
    assert open_dataset(root).splits == (Split(train=("p1_seq1", "p1_seq2", "p3_seq1"), validation=("p2_seq1",)),)


def test_a_patient_on_both_sides_of_a_fold_is_refused(tmp_path: Path) -> None:
    root = split_by(describe(write_films(tmp_path)), {"train": ["p1_seq1", "p2_seq1"], "val": ["p1_seq2"]})
    words = r"fold 0 learns from clips of patients whom it is judged on: p1 \(p1_seq1, p1_seq2\)"
    with pytest.raises(DatasetError, match=words):
        open_dataset(root)


def test_films_may_be_split_by_film_where_the_description_says_so(tmp_path: Path) -> None:
    root = split_by(write_films(tmp_path), {"train": ["p1_seq1", "p2_seq1"], "val": ["p1_seq2"]})
    describe(root, patients={"p1_seq1": "film 1", "p1_seq2": "film 2"})
    assert open_dataset(root).splits[0].validation == ("p1_seq2",)


def test_a_fold_that_names_nobody_is_refused_with_the_name_of_its_file(tmp_path: Path) -> None:
    root = split_by(describe(write_films(tmp_path)), {"train": ["p1"], "val": ["p9"]})
    with pytest.raises(DatasetError, match=r"splits.json: fold 0 names cases that do not exist: p9"):
        open_dataset(root)


def test_davis_and_youtube_vos_are_read_with_their_lists(tmp_path: Path) -> None:
    for name in ("bear", "boat", "camel"):
        folders = (tmp_path / part / "480p" / name for part in ("JPEGImages", "Annotations"))
        write_clip(*folders, numbers=(0, 5, 10), labelled=(0, 10))
        write_clip(tmp_path / "JPEGImages" / "Full-Resolution" / name, None, numbers=(0, 5, 10))
    lists = tmp_path / "ImageSets" / "2017"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("bear\ncamel\n")
    (lists / "val.txt").write_text("boat\n")
    older = tmp_path / "ImageSets" / "480p"
    older.mkdir()
    (older / "train.txt").write_text("/JPEGImages/480p/bear/00000.jpg /Annotations/480p/bear/00000.png\n")
    (older / "val.txt").write_text("/JPEGImages/480p/wolf/00000.jpg /Annotations/480p/wolf/00000.png\n")
    dataset = open_dataset(tmp_path)
    assert dataset.training[0].images == (tmp_path / "JPEGImages/480p/bear",)
    assert dataset.splits == (Split(train=("bear", "camel"), validation=("boat",)),)


def test_a_folder_for_each_clip_may_hold_files_in_place_of_folders(tmp_path: Path) -> None:
    write_clip(tmp_path / "patient1_seq1" / "frames", tmp_path / "patient1_seq1" / "masks")
    write_clip(tmp_path / "patient1_seq2" / "frames", None)
    (tmp_path / "notes").mkdir()
    dataset = open_dataset(tmp_path)
    assert [case.id for case in dataset.training] == ["patient1_seq1"]
    assert [case.id for case in dataset.test] == ["patient1_seq2"]
    assert dataset.training[0].label == tmp_path / "patient1_seq1" / "masks"


def test_masks_without_a_clip_are_told_of(tmp_path: Path) -> None:
    write_films(tmp_path, names=("a",))
    write_clip(tmp_path / "masks" / "b", None)
    (remark,) = survey(tmp_path).remarks
    assert "masks without a clip of their name: b" in remark.message
    assert remark.is_warning


def test_two_films_of_one_name_are_refused(tmp_path: Path) -> None:
    write_films(tmp_path, names=("a",))
    (tmp_path / "videos" / "a.mp4").write_bytes(b"\0\0\0\x20ftypisom" + bytes(200))
    with pytest.raises(DatasetError, match=r"there is a second one of the same name: a"):
        open_dataset(tmp_path)


def test_a_folder_videos_does_not_make_films_of_a_data_set_of_images(tmp_path: Path) -> None:
    write_films(write_dataset(tmp_path), names=("a",))
    assert open_dataset(tmp_path).layout == "nnunet"


@pytest.mark.parametrize("inside", ["videos", "masks/a", "."])
def test_nothing_is_written_into_a_data_set_of_films(tmp_path: Path, inside: str) -> None:
    with pytest.raises(OutputError):
        check_output_folder(write_films(tmp_path / "films", names=("a",)) / inside)


def test_nothing_is_written_among_the_frames_of_a_clip(tmp_path: Path) -> None:
    write_clip(tmp_path / "one" / "frames", tmp_path / "one" / "masks")
    with pytest.raises(OutputError):
        check_output_folder(tmp_path / "one" / "frames")
