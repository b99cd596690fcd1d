from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medmamba import io
from medmamba.case import Pairing
from medmamba.io import DatasetError, find_pairs, open_pairs
from medmamba.io.layouts.pairs import survey_pairs
from medmamba.labels import UNLABELLED
from medmamba.plans.splits import folds, pairs_among, split
from medmamba.volume import Geometry, Volume


def image(*paths: Path, label: bool = False) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        array = np.zeros((1, 4, 4, 4), np.uint8 if label else np.float32)
        array[0, 1:3] = 7
        io.write(Volume(array, Geometry((4, 4, 4), np.eye(4))), path)


def ids(pairs: tuple[io.layouts.pairs.Pair, ...]) -> list[str]:
    return [pair.id for pair in pairs]


def table(folder: Path, text: str) -> Path:
    for name in ("a_ct", "a_mr", "b_ct", "b_mr"):
        image(folder / "scans" / f"{name}.nii.gz")
    image(folder / "scans" / "a_seg.nii.gz", label=True)
    (folder / "scans" / "a.csv").write_text("x")
    path = folder / "pairs.csv"
    path.write_text(text)
    return path


GOOD = """\
id,fixed,moving,fixed_label,moving_points
one,scans/a_ct.nii.gz,scans/a_mr.nii.gz,scans/a_seg.nii.gz,scans/a.csv

two,scans/b_ct.nii.gz,scans/b_mr.nii.gz,,
"""


@pytest.mark.parametrize("between", [",", ";", "\t"])
def test_a_table_gives_pairs_with_what_it_says_of_each_side(tmp_path: Path, between: str) -> None:
    one, two = find_pairs(table(tmp_path, GOOD.replace(",", between)))
    assert (one.id, one.fixed.id, one.moving.id) == ("one", "a_ct", "a_mr")
    assert one.fixed.label == tmp_path / "scans/a_seg.nii.gz"
    assert one.moving.points == tmp_path / "scans/a.csv"
    assert (two.fixed.label, two.moving.points) == (None, None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD.replace("b_mr", "c_mr"), r"line 4, column moving: 'scans/c_mr.nii.gz' is no file"),
        (GOOD.replace("scans/a.csv", "scans/z.csv"), r"line 2, column moving_points: 'scans/z.csv'"),
        (GOOD.replace("scans/b_ct.nii.gz", ""), r"line 4, column fixed: '' names no image"),
        (GOOD.replace("b_mr", "b_ct"), r"line 4, column moving: .* is the fixed image as well"),
        (GOOD.replace("fixed_label", "fixed_labels"), r"unknown column 'fixed_labels'; columns are id, patient"),
        (GOOD.replace("fixed,", "", 1), r"lacks the column 'fixed'"),
        (GOOD.replace("two", "one"), r"pairs.csv: line 2, line 4 are all called 'one'; give each an id of its own"),
        (GOOD.replace("two", "One"), r"line 2, line 4 are called 'one' and 'One', which are one where upper and lower"),
        (GOOD.replace("two", "t/o"), r"id 't/o' holds '/'"),
        (GOOD + "three,scans/a_ct.nii.gz,scans/b_mr.nii.gz,scans/b_ct.nii.gz,", r"line 5, .* is not the label of an"),
        (GOOD + '"four', "quotes"),
        ("fixed,moving\n", "lists no pairs"),
    ],
)
def test_a_table_is_refused_by_line_column_and_value(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        find_pairs(table(tmp_path, text))


def test_errors_are_told_together_with_the_command_that_lists_all(tmp_path: Path) -> None:
    lines = [f"p{n},scans/a_ct.nii.gz,scans/lost{n}.nii.gz" for n in range(7)]
    path = table(tmp_path, "\n".join(("id,fixed,moving", *lines)))
    with pytest.raises(DatasetError) as caught:
        find_pairs(path)
    told = str(caught.value).splitlines()
    assert told[0] == f"{path} has 7 errors, and nothing was done:"
    assert [f"line {n + 2}, column moving: 'scans/lost{n}.nii.gz' is no file" in told[n + 1] for n in range(5)] == [
        True
    ] * 5
    assert told[6] == "and 2 more"
    assert told[7].endswith(f"medmamba dataset check {path}")
    for folder in ("one", "other"):
        image(*(tmp_path / folder / f"{name}_{kind}.nii.gz" for name in "ab" for kind in ("t1", "t2")))
        image(*(tmp_path / folder / f"{name}_labels.nii.gz" for name in "ab"), label=True)
    with pytest.raises(DatasetError, match=f"dataset check {tmp_path}/one --moving {tmp_path}/other"):
        find_pairs(tmp_path / "one", Pairing(moving="../other"))
    with pytest.raises(DatasetError, match=f"dataset check {tmp_path}/one --task registration"):
        find_pairs(tmp_path / "one")


def test_subjects_that_upper_case_alone_tells_apart_are_refused(tmp_path: Path) -> None:
    image(tmp_path / "a.nii.gz", tmp_path / "A.nii.gz")
    with pytest.raises(DatasetError, match=r"A\.nii\.gz, .*a\.nii\.gz are called 'A' and 'a', which are one"):
        find_pairs(tmp_path)


def test_a_table_without_ids_names_pairs_by_their_images(tmp_path: Path) -> None:
    for patient in "pq":
        image(tmp_path / patient / "ct.nii.gz", tmp_path / patient / "mr.nii.gz")
    path = tmp_path / "list.csv"
    path.write_text("fixed,moving\np/ct.nii.gz,p/mr.nii.gz\nq/ct.nii.gz,q/mr.nii.gz\n")
    assert ids(find_pairs(path)) == ["p_mr_to_p_ct", "q_mr_to_q_ct"]


def test_two_folders_match_by_what_tells_their_images_apart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image(*(tmp_path / "ct" / f"p{n}_ct.nii.gz" for n in range(3)))
    image(*(tmp_path / "mr" / f"p{n}_mr.nii.gz" for n in (0, 1, 5)))
    image(tmp_path / "mr" / "p1_mask.nii.gz", label=True)
    pairing = Pairing(moving=str(tmp_path / "mr"))
    found = survey_pairs(tmp_path / "ct", pairing)
    assert ids(found.pairs) == ["p0", "p1"]
    assert found.pairs[1].moving.mask == tmp_path / "mr" / "p1_mask.nii.gz"
    assert found.pairing.moving == "../mr"
    assert ["p2" in remark.message or "p5" in remark.message for remark in found.remarks] == [True, True]
    for find in (find_pairs, open_pairs):  # as `register` does, and as `plan` and `train` do
        caplog.clear()
        find(tmp_path / "ct", pairing)
        assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
        assert f"bears the name of p2 in {tmp_path / 'ct'}: left out" in caplog.text


def test_two_folders_without_a_common_name_are_refused_with_the_names(tmp_path: Path) -> None:
    image(tmp_path / "ct" / "anna.nii.gz", tmp_path / "mr" / "ben.nii.gz")
    with pytest.raises(DatasetError, match=r"anna.*ben"):
        find_pairs(tmp_path / "ct", Pairing(moving="../mr"))


def brains(folder: Path, count: int) -> Path:
    image(*(folder / f"{1000 + n}_t1.nii.gz" for n in range(count)))
    image(*(folder / f"{1000 + n}_labels.nii.gz" for n in range(count)), label=True)
    return folder


def test_files_side_by_side_are_subjects_by_the_names_before_their_roles(tmp_path: Path) -> None:
    pairs = find_pairs(brains(tmp_path, 3))
    assert len(pairs) == 6
    assert pairs[0].id == "1000_to_1001"
    assert pairs[0].moving.label == tmp_path / "1000_labels.nii.gz"
    image(tmp_path / "1001_t2.nii.gz")
    with pytest.raises(DatasetError, match=r"several images of subject 1001 \(1001_t1.nii.gz, 1001_t2.nii.gz\)"):
        find_pairs(tmp_path)


@pytest.mark.parametrize(("direction", "count"), [("to_atlas", 3), ("from_atlas", 3), ("both", 6)])
def test_an_atlas_is_in_every_pair_and_on_both_sides_of_every_fold(tmp_path: Path, direction: str, count: int) -> None:
    dataset = open_pairs(brains(tmp_path, 4), Pairing(atlas="1002", direction=direction))  # type: ignore[arg-type]
    assert len(dataset.pairs) == count
    assert dataset.atlas == "1002"
    for fold in folds(dataset):
        assert "1002" in set(fold.train) & set(fold.validation)
        assert pairs_among(dataset, fold.validation)
    with pytest.raises(DatasetError, match="no subject '7' as atlas; there are 1000, 1001"):
        open_pairs(tmp_path, Pairing(atlas="7"))


def test_pairs_never_mix_subjects_to_learn_from_and_to_be_judged_on(tmp_path: Path) -> None:
    dataset = open_pairs(brains(tmp_path, 7))
    assert [label.values for label in dataset.labels.foreground] == [(7,)]
    for fold in folds(dataset):
        learned, judged = pairs_among(dataset, fold.train), pairs_among(dataset, fold.validation)
        assert learned
        assert judged
        assert not {c.id for p in learned for c in p.cases} & {c.id for p in judged for c in p.cases}
    assert len(pairs_among(dataset, split(dataset, "all").train)) == 42


def test_listed_pairs_stay_whole_and_patients_on_one_side(tmp_path: Path) -> None:
    lines = ["fixed,moving,patient"]
    for name in "abcdef":
        image(tmp_path / f"{name}_ct.nii.gz", tmp_path / f"{name}_mr.nii.gz")
        lines.append(f"{name}_ct.nii.gz,{name}_mr.nii.gz,{'ab' if name in 'ab' else name}")
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    dataset = open_pairs(tmp_path / "pairs.csv")
    assert dataset.labels == UNLABELLED
    for fold in folds(dataset):
        assert len(pairs_among(dataset, fold.train)) + len(pairs_among(dataset, fold.validation)) == 6
        assert ("a_ct" in fold.train) == ("b_mr" in fold.train)


def test_other_layouts_give_subjects_with_their_labels(tmp_path: Path) -> None:
    image(*(tmp_path / "images" / f"{name}.nii.gz" for name in "abc"))
    assert [pair.fixed.label for pair in find_pairs(tmp_path)] == [None] * 6
    image(*(tmp_path / "labels" / f"{name}.nii.gz" for name in "abc"), label=True)
    assert all(pair.fixed.label for pair in find_pairs(tmp_path))


def test_one_subject_or_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds no images"):
        find_pairs(tmp_path)
    image(tmp_path / "anna.nii.gz")
    with pytest.raises(DatasetError, match=r"one subject \(anna\), and a pair needs two"):
        find_pairs(tmp_path)
    with pytest.raises(FileNotFoundError):
        find_pairs(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"ends in \.csv"):
        find_pairs(tmp_path / "anna.nii.gz")
