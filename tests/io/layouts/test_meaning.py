"""Which edition a folder is of: by names and values together, as told, and never by a guess."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medmamba import io
from medmamba.errors import DataError, UsageError
from medmamba.io import DatasetError, open_dataset
from medmamba.io.check import check_dataset
from medmamba.io.layouts import evidence, survey
from medmamba.io.layouts.editions import labels_of_edition
from medmamba.plans import fingerprint
from medmamba.volume import Geometry, Volume
from tests.brats_factory import FIRST, SECOND, brats2020, brats2023, write_case


def told(root: Path, edition: str = "") -> str:
    """What a check says, in one text."""
    return "\n".join(finding.in_words for finding in check_dataset(root, edition=edition))


def test_sessions_of_glioma_tell_before_treatment_from_after(tmp_path: Path) -> None:
    before = brats2023(tmp_path / "before", ("GLI-00000-000", "GLI-00002-001"))
    assert open_dataset(before).edition == "brats2023-gli"
    assert "read as brats2023-gli (BraTS 2023, glioma), by the names of cases" in told(before)
    after = brats2023(tmp_path / "after", ("GLI-02405-100", "GLI-02405-101"))
    assert open_dataset(after).edition == "brats2024-gli"


def test_values_of_2021_under_names_of_2023_are_refused_with_the_editions_that_have_them(tmp_path: Path) -> None:
    root = brats2023(tmp_path, ("GLI-00000-000", "GLI-00002-000"), values=(1, 2, 4))
    words = (
        r"named as in brats2023-gli, .* but BraTS-GLI-00000-000, BraTS-GLI-00002-000 hold 4; say .*--edition .*: "
        r"brats2018, brats2019, brats2020, brats2021 have all of them"
    )
    with pytest.raises(DatasetError, match=words):
        open_dataset(root)
    assert open_dataset(root, edition="brats2021").labels == labels_of_edition("brats2021")


@pytest.mark.parametrize("case", ["GLI-02405-10{}", "MET-0000{}-000"])
def test_values_of_2021_under_names_of_2024_are_asked_about(tmp_path: Path, case: str) -> None:
    brats2023(tmp_path, (case.format(0), case.format(1)), values=(1, 2, 4))
    words = r"1, 2, 4 without a 3 in any of 2 label maps are the values of brats2018, .*, where 4 is ET and not RC; say"
    with pytest.raises(DatasetError, match=words):
        open_dataset(tmp_path)
    edition = "brats2024-" + case[:3].lower()
    assert open_dataset(tmp_path, edition=edition).edition == edition
    brats2023(tmp_path, (case.format(2),), values=(1, 2, 3))
    assert open_dataset(tmp_path).edition == edition


def test_label_map_that_contradicts_the_names_and_all_others_is_named(tmp_path: Path) -> None:
    root = brats2023(tmp_path, tuple(f"GLI-0000{number}-000" for number in range(4)))
    brats2023(root, ("GLI-00007-000",), values=(1, 2, 3, 4))
    words = r"but BraTS-GLI-00007-000 holds 4; the 4 others do not; correct what is wrong, .* brats2024-gli"
    with pytest.raises(DatasetError, match=words):
        open_dataset(root)
    assert open_dataset(root, edition="brats2024-gli").edition == "brats2024-gli"


def test_glioma_before_and_after_treatment_is_a_mixture_unless_told(tmp_path: Path) -> None:
    brats2023(tmp_path, ("GLI-00000-000", "GLI-00002-000"))
    brats2023(tmp_path, ("GLI-02405-100", "GLI-02405-101"), values=(1, 2, 3, 4))
    words = (
        r"mixes editions of BraTS: brats2023-gli: BraTS-GLI-00000-000, BraTS-GLI-00002-000; "
        r"brats2024-gli: BraTS-GLI-02405-100, BraTS-GLI-02405-101"
    )
    with pytest.raises(DatasetError, match=words):
        open_dataset(tmp_path)
    assert len(open_dataset(tmp_path, edition="brats2024-gli").training) == 4


def test_cases_that_decided_are_named_and_few_of_them_are_warned_about(tmp_path: Path) -> None:
    brats2023(tmp_path, ("MET-00001-000", "MET-00002-000"))
    brats2023(tmp_path, ("MET-00004-000",), values=(1, 2, 3, 4))
    [finding] = [finding for finding in check_dataset(tmp_path) if finding.rule == "edition"]
    assert finding.severity == "warning"
    assert "brats2024-met" in finding.message
    assert "because BraTS-MET-00004-000 holds 4; the 2 others do not; --edition takes another" in finding.message
    assert "[edition]" not in told(tmp_path, "brats2024-met")


def test_values_that_mean_other_things_are_asked_for(tmp_path: Path) -> None:
    root = brats2023(tmp_path, ("PED-00002-000", "PED-00003-000"))
    with pytest.raises(DatasetError, match=r"values 1, 2, 3 .* fit brats2023-ped, brats2024-ped, .* --edition"):
        open_dataset(root)
    assert open_dataset(root, edition="brats2023-ped").labels == labels_of_edition("brats2023-ped")
    assert open_dataset(root, edition="brats2024-ped").labels == labels_of_edition("brats2024-ped")


def test_children_of_two_editions_are_refused_unless_told_that_they_are_of_one(tmp_path: Path) -> None:
    root = brats2023(tmp_path, ("PED-00004-000",), values=(1, 2, 3, 4))
    assert open_dataset(root).edition == "brats2024-ped"
    brats2023(root, ("PED-00002-000", "PED-00003-000"))
    words = (
        r"BraTS-PED-00004-000 holds 4; the 2 others do not. That is brats2024-ped, but 2 of 3 label maps may be of "
        r"brats2023-ped \(BraTS-PED-00002-000, BraTS-PED-00003-000\), where 1 is NC and not ET; .* --edition"
    )
    with pytest.raises(DatasetError, match=words):
        open_dataset(root)
    assert open_dataset(root, edition="brats2024-ped").edition == "brats2024-ped"


def test_editions_alike_in_all_need_no_answer(tmp_path: Path) -> None:
    dataset = open_dataset(brats2023(tmp_path, ("MEN-00004-000",)))
    assert dataset.edition == "brats2023-men"
    assert dataset.labels == labels_of_edition("brats2024-men")


def test_edition_of_a_year_with_the_values_of_another_is_told_by_either_name(tmp_path: Path) -> None:
    root = brats2023(tmp_path, ("GLI-02405-100", "GLI-02405-101"), values=(1, 2, 3, 4))
    assert open_dataset(root, edition="BraTS2025-GLI").edition == "brats2024-gli"
    assert "named as in" not in told(root, "brats2025-gli")


def test_names_and_values_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    root = brats2020(tmp_path, values=(1, 2, 3))
    with pytest.raises(
        DatasetError,
        match=r"named as in brats2020, whose label values are 1, 2, 4, but BraTS20_Training_001, BraTS20_Training_002 "
        r"hold 3; .*brats2023",
    ):
        open_dataset(root)
    dataset = open_dataset(root, edition="brats2023-gli")
    assert (dataset.edition, dataset.channels) == ("brats2023-gli", ("t1n", "t1c", "t2w", "t2f"))
    assert "named as in brats2020: BraTS20_Training_001, BraTS20_Training_002 are read as brats2023-gli" in told(
        root, "brats2023-gli"
    )


def test_folder_that_mixes_editions_is_refused_with_the_cases_of_each(tmp_path: Path) -> None:
    brats2020(tmp_path, cases=1)
    brats2023(tmp_path, ("GLI-02405-100",), values=(1, 2, 3, 4))
    words = r"mixes editions of BraTS: .*brats2024-gli: BraTS-GLI-02405-100.*"
    for edition in ("", "brats2024-gli", "brats2020"):
        with pytest.raises(DatasetError, match=words) as refused:
            open_dataset(tmp_path, edition=edition)
        assert "brats2020: BraTS20_Training_001" in str(refused.value)
    assert "mixes editions" in told(tmp_path)


def test_cases_of_several_challenges_with_one_meaning_are_taken_when_told(tmp_path: Path) -> None:
    brats2023(tmp_path, ("GLI-00000-000", "SSA-00002-000", "MEN-00004-000"))
    with pytest.raises(DatasetError, match="mixes editions"):
        open_dataset(tmp_path)
    assert len(open_dataset(tmp_path, edition="brats2023-gli").training) == 3


def test_mixture_under_names_that_tell_nothing_shows_in_the_values(tmp_path: Path) -> None:
    for number, values in enumerate(((1, 2, 4), (1, 2, 4), (1, 2, 3), (1, 2, 3))):
        write_case(tmp_path / f"case_{number}", FIRST, values)
    words = r"label maps hold 3 \(case_2, case_3\) or 4 \(case_0, case_1\), and none both"
    with pytest.raises(DatasetError, match=words):
        open_dataset(tmp_path)
    assert open_dataset(tmp_path, edition="brats2013").edition == "brats2013"


def test_cases_of_any_name_are_read_where_spelling_and_values_leave_one_meaning(tmp_path: Path) -> None:
    for name in ("anna", "ben"):
        write_case(tmp_path / "first" / name, FIRST, (1, 2, 4))
        write_case(tmp_path / "second" / name, SECOND, (1, 2, 4))
    assert open_dataset(tmp_path / "first").labels == labels_of_edition("brats2021")
    assert "by the names of files: names fit brats2013, brats2019" in told(tmp_path / "first")
    with pytest.raises(DatasetError, match=r"fit brats2024-gli, brats2024-ped, brats2024-met, .*dataset.json"):
        open_dataset(tmp_path / "second")


def test_undeclared_value_is_named_with_its_case(tmp_path: Path) -> None:
    root = brats2020(tmp_path, cases=3)
    write_case(root / "BraTS20_Training_009", FIRST, (1, 2, 7), divider="_")
    errors = [finding for finding in check_dataset(root) if finding.severity == "error"]
    assert [(error.rule, error.case) for error in errors] == [("label-values", "BraTS20_Training_009")]
    assert "label holds [7], declared are [0, 1, 2, 4]; which are those of brats2020" in errors[0].message


def test_value_that_only_a_few_maps_hold_is_found_when_all_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "_LARGE_SAMPLE", 2)
    root = brats2023(tmp_path, ("MET-00001-000", "MET-00002-000", "MET-00003-000"))
    write_case(root / "BraTS-MET-00004-000", SECOND, (1, 2, 3, 4), divider="-")
    dataset = open_dataset(root)
    assert dataset.edition == "brats2023-met"
    monkeypatch.setattr(fingerprint, "FOREGROUND_SAMPLES", 1000)
    measured = fingerprint.fingerprint(dataset)
    words = r"BraTS-MET-00004-000 holds 4; correct the files, or name another edition than brats2023-met"
    with pytest.raises(DataError, match=words):
        measured.check_labels(dataset.labels, dataset.edition)


def test_unreadable_label_map_is_told_of_by_the_check_and_hides_nothing(tmp_path: Path) -> None:
    root = brats2023(tmp_path, ("GLI-00000-000", "GLI-00002-000"))
    (root / "BraTS-GLI-00000-000" / "BraTS-GLI-00000-000-seg.nii.gz").write_bytes(b"")
    assert survey(root).edition == "brats2023-gli"
    assert [f.rule for f in check_dataset(root) if f.severity == "error"] == ["unreadable"]


def plain(root: Path, values: tuple[int, ...]) -> Path:
    """Plain folders with a case."""
    array = np.zeros((1, 4, 4, 4), np.uint8)
    array.flat[: len(values)] = values
    for name, voxels in (("images", array.astype(np.float32)), ("labels", array)):
        (root / name).mkdir(parents=True)
        io.write(Volume(voxels, Geometry((4, 4, 4), np.eye(4))), root / name / "a.nii.gz")
    return root


def test_values_of_brats_in_another_layout_are_proposed_and_taken_when_told(tmp_path: Path) -> None:
    root = plain(tmp_path, (1, 2, 4))
    assert [label.name for label in open_dataset(root).labels.foreground] == ["label_1", "label_2", "label_4"]
    assert "values 1, 2, 4 are those of brats2018, brats2019" in told(root)
    dataset = open_dataset(root, edition="brats2021")
    assert (dataset.layout, dataset.edition) == ("folders", "brats2021")
    assert dataset.labels == labels_of_edition("brats2021")
    assert "label-values" not in {finding.rule for finding in check_dataset(root, edition="brats2021")}
    with pytest.raises(UsageError, match="no edition 'foo'"):
        check_dataset(root, edition="foo")


def decathlon(root: Path, labels: dict[str, str]) -> Path:
    """Task01 of the Decathlon with a case, and these labels."""
    plain(root, (1, 2, 3))
    (root / "images").rename(root / "imagesTr")
    (root / "labels").rename(root / "labelsTr")
    facts = {
        "name": "BRATS",
        "modality": {"0": "FLAIR"},
        "labels": {"0": "background", **labels},
        "numTraining": 1,
        "training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}],
    }
    (root / "dataset.json").write_text(json.dumps(facts))
    return root


def test_task01_keeps_its_classes_unless_its_regions_are_asked_for(tmp_path: Path) -> None:
    root = decathlon(tmp_path, {"1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"})
    assert not open_dataset(root).labels.has_regions
    assert open_dataset(root, edition="msd").labels == labels_of_edition("msd")
    words = "labels 1 edema, 2 non-enhancing tumor, 3 enhancing tumour are those of msd: --edition msd gives"
    assert words in told(root)
    assert words not in told(root, "msd")
    assert "are those of" not in told(decathlon(tmp_path / "other", {"1": "kidney", "2": "tumour", "3": "cyst"}))
    with pytest.raises(DatasetError, match=r"gives 'edema' the value 1, which is 2 in brats2023-gli"):
        open_dataset(root, edition="brats2023-gli")


def test_regions_of_a_description_are_not_replaced(tmp_path: Path) -> None:
    root = decathlon(tmp_path, {})
    facts = json.loads((root / "dataset.json").read_text())
    del facts["training"]
    facts |= {
        "labels": {"background": 0, "whole": [1, 2, 3], "core": 3},
        "regions_class_order": [1, 3],
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(facts))
    assert open_dataset(root).labels.has_regions
    with pytest.raises(DatasetError, match="declares regions itself"):
        open_dataset(root, edition="brats2023-gli")


def test_scans_of_a_patient_on_both_sides_of_a_fold_are_told_of(tmp_path: Path) -> None:
    root = brats2023(tmp_path, ("GLI-02405-100", "GLI-02405-101", "GLI-02406-100"))
    assert "same-patient" not in {finding.rule for finding in check_dataset(root)}  # folds are by patient
    first, second, third = (case.id for case in open_dataset(root).training)
    (root / "splits_final.json").write_text(json.dumps([{"train": [first, third], "val": [second]}]))
    [finding] = [finding for finding in check_dataset(root) if finding.rule == "same-patient"]
    assert finding.severity == "warning"
    assert "fold 0 learns from scans of patients whom it is judged on: BraTS-GLI-02405" in finding.message
