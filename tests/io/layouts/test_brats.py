"""BraTS as downloaded: files by modality, names of all editions, and nothing that belongs to another layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medmamba import io
from medmamba.files import OutputError
from medmamba.io import DatasetError, find_inputs, open_dataset
from medmamba.io.check import check_dataset
from medmamba.io.layouts import listing, survey
from medmamba.io.layouts.brats import coding_remark
from medmamba.io.layouts.editions import labels_of_edition
from medmamba.io.places import check_output_folder
from medmamba.volume import Volume
from tests.brats_factory import FIRST, SECOND, brats2020, brats2023, write_case


def words(case: io.Case) -> list[str]:
    """What the names of a case's images end in."""
    return [path.name.split(".")[0].replace("-", "_").split("_")[-1] for path in case.images]


def test_folder_of_2020_is_read_in_place(tmp_path: Path) -> None:
    dataset = open_dataset(brats2020(tmp_path / "MICCAI_BraTS2020"))
    assert (dataset.name, dataset.layout, dataset.edition) == ("MICCAI_BraTS2020", "brats", "brats2020")
    assert dataset.channels == ("t1", "t1ce", "t2", "flair")
    assert [case.id for case in dataset.training] == ["BraTS20_Training_001", "BraTS20_Training_002"]
    assert [words(case) for case in dataset.training] == [list(dataset.channels)] * 2
    assert dataset.labels == labels_of_edition("brats2020")
    assert dataset.file_ending == ".nii"
    findings = check_dataset(dataset.root)
    assert {finding.rule for finding in findings if finding.severity != "note"} == set()
    assert [finding.message for finding in findings if finding.rule == "edition"] == [
        "read as brats2020 (BraTS 2020, glioma before treatment), by the names of cases"
    ]


def test_names_of_files_need_not_bear_the_case(tmp_path: Path) -> None:
    write_case(tmp_path / "BraTS-GLI-00000-000", SECOND, (1, 2, 3))
    write_case(tmp_path / "BraTS-GLI-00001-000", SECOND, (1, 2, 3))
    dataset = open_dataset(tmp_path)
    assert dataset.channels == ("t1n", "t1c", "t2w", "t2f")
    assert [path.name for path in dataset.training[1].images] == [f"{name}.nii.gz" for name in dataset.channels]


def test_folders_for_grades_are_looked_into_and_may_be_given_themselves(tmp_path: Path) -> None:
    write_case(tmp_path / "HGG" / "Brats18_TCIA01_1_1", FIRST, (1, 2, 4), divider="_")
    write_case(tmp_path / "LGG" / "Brats18_TCIA02_2_1", FIRST, (1, 2, 4), divider="_")
    assert [case.id for case in open_dataset(tmp_path).training] == ["Brats18_TCIA01_1_1", "Brats18_TCIA02_2_1"]
    assert [case.id for case in open_dataset(tmp_path / "LGG").training] == ["Brats18_TCIA02_2_1"]


def test_label_of_case_355_of_2020_is_found_under_its_odd_name(tmp_path: Path) -> None:
    case = brats2020(tmp_path, cases=1) / "BraTS20_Training_001"
    (case / "BraTS20_Training_001_seg.nii").rename(case / "W39_1998.09.19_Segm.nii")
    assert open_dataset(tmp_path).training[0].label == case / "W39_1998.09.19_Segm.nii"


def test_radiotherapy_has_one_modality_and_one_structure(tmp_path: Path) -> None:
    write_case(tmp_path / "BraTS-MEN-RT-0060-1", ("t1c",), (1,), divider="_", label="gtv")
    dataset = open_dataset(tmp_path)
    assert (dataset.edition, dataset.channels) == ("brats2024-menrt", ("t1c",))
    assert not dataset.labels.has_regions


def test_channels_are_those_that_cases_have_and_an_incomplete_case_is_named(tmp_path: Path) -> None:
    brats2020(tmp_path, cases=3, files=("flair", "t1ce"))
    assert open_dataset(tmp_path).channels == ("t1ce", "flair")
    (tmp_path / "BraTS20_Training_002" / "BraTS20_Training_002_t1ce.nii").unlink()
    with pytest.raises(DatasetError, match=r"BraTS20_Training_002: lacks t1ce/t1c/t1gd \(no file in .*\); add"):
        open_dataset(tmp_path)
    assert [(f.rule, f.case) for f in check_dataset(tmp_path) if f.severity == "error"] == [
        ("channels", "BraTS20_Training_002")
    ]


def test_two_files_of_one_modality_are_refused(tmp_path: Path) -> None:
    case = brats2020(tmp_path, cases=1) / "BraTS20_Training_001"
    (case / "t1c.nii").write_bytes((case / "BraTS20_Training_001_t1ce.nii").read_bytes())
    with pytest.raises(DatasetError, match=r"two files of one kind: .*t1ce.nii, t1c.nii"):
        open_dataset(tmp_path)


def test_cases_without_label_are_for_prediction(tmp_path: Path) -> None:
    for number in range(2):
        write_case(tmp_path / f"BraTS20_Validation_{number:03d}", FIRST, divider="_")
    dataset = open_dataset(tmp_path)
    assert (len(dataset.training), len(dataset.test)) == (0, 2)
    write_case(tmp_path / "BraTS20_Training_001", FIRST, (1, 2, 4), divider="_")
    write_case(tmp_path / "BraTS20_Validation_007", ("t1", "t2"), divider="_")
    found = listing(tmp_path)
    assert [case.id for case in found.test] == ["BraTS20_Validation_000", "BraTS20_Validation_001"]
    told = " ".join(remark.message for remark in found.remarks)
    assert "3 cases have no label map" in told
    assert "BraTS20_Validation_007 lacks t1ce/t1c/t1gd, flair/t2f" in told


def test_folder_of_cases_to_predict_alone_is_checked_as_such(tmp_path: Path) -> None:
    root = brats2023(tmp_path, ("PED-00001-000", "PED-00002-000"), values=(1,))
    for label in root.glob("*/*-seg.nii.gz"):
        label.unlink()
    assert {(f.severity, f.rule) for f in check_dataset(root)} == {("note", "edition"), ("note", "for-prediction")}
    said = " ".join(finding.message for finding in check_dataset(root))
    assert "none of 2 cases has a label map: a folder for medmamba predict" in said
    assert "names fit brats2024-ped as well, and there is no label map to tell" in said
    (root / "BraTS-PED-00001-000" / "BraTS-PED-00001-000-t1c.nii.gz").write_bytes(b"cut")
    (root / "BraTS-PED-00002-000" / "BraTS-PED-00002-000-t2f.nii.gz").unlink()
    errors = [(f.rule, f.case) for f in check_dataset(root) if f.severity == "error"]
    assert errors == [("channels", "BraTS-PED-00002-000"), ("unreadable", "BraTS-PED-00001-000")]


def test_modality_that_few_cases_have_is_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = brats2023(tmp_path, ("GLI-00001-000", "GLI-00002-000", "GLI-00003-000"))
    for case in ("BraTS-GLI-00001-000", "BraTS-GLI-00003-000"):
        (root / case / f"{case}-t2f.nii.gz").unlink()
    words = "flair/t2f is there in 1 of 3 cases alone (BraTS-GLI-00002-000), so it is no channel"
    [finding] = [finding for finding in check_dataset(root) if finding.rule == "left-out-channel"]
    assert (finding.severity, words in finding.message) == ("warning", True)
    assert open_dataset(root).channels == ("t1n", "t1c", "t2w")
    assert words in caplog.text  # as plan and train show it


def test_data_sets_of_other_layouts_are_not_taken(tmp_path: Path) -> None:
    brats2023(tmp_path / "nnunet" / "imagesTr", ("GLI-00000-000",))
    for name in ("imagesTr", "labelsTr"):
        (tmp_path / "nnunet" / name).mkdir(exist_ok=True)
    facts = {"channel_names": {"0": "t1"}, "labels": {"background": 0, "x": 1}, "numTraining": 1}
    (tmp_path / "nnunet" / "dataset.json").write_text(json.dumps({**facts, "file_ending": ".nii.gz"}))
    assert listing(tmp_path / "nnunet").layout == "nnunet"
    assert open_dataset(brats2020(tmp_path / "brats")).layout == "brats"
    (tmp_path / "brats" / "images").mkdir()
    assert listing(tmp_path / "brats").layout == "folders"


def test_loose_scans_in_a_home_folder_make_no_data_set(tmp_path: Path) -> None:
    write_case(tmp_path / "home" / "anna", FIRST)
    check_output_folder(tmp_path / "home" / "anna" / "out")
    with pytest.raises(DatasetError, match="is no data set"):
        listing(tmp_path / "home")
    write_case(tmp_path / "home" / "ben", FIRST)
    with pytest.raises(DatasetError, match="if they are of BraTS, say with --edition"):
        listing(tmp_path / "home")
    assert len(find_inputs(tmp_path / "home", 2, names_of_channels=("t1ce", "flair"))) == 2


#: Files of cases of other data sets: multiple sclerosis, BIDS in one folder, strokes, dementia, tumours of two clinics.
OTHERS = {
    "patient{}": ("FLAIR", "T1", "T1POST", "T2", "lesions"),
    "case{}": ("FLAIR", "T1", "wmh"),
    "subject{}": ("flair", "t1", "t2", "seg"),
    "sub-{}": ("sub-{}_T1w", "sub-{}_T2w", "sub-{}_FLAIR", "sub-{}_ce-gd_T1w", "sub-{}_label-lesion_mask"),
    "sub-strokecase{}": ("sub-strokecase{}_ses-0001_flair", "sub-strokecase{}_ses-0001_dwi", "sub-strokecase{}_msk"),
    "{}_S_4001": ("ADNI_{}_S_4001_MR_T1", "ADNI_{}_S_4001_MR_FLAIR", "ADNI_{}_S_4001_seg"),
    "UCSF-PDGM-{}": ("UCSF-PDGM-{}_T1", "UCSF-PDGM-{}_T1c", "UCSF-PDGM-{}_FLAIR", "UCSF-PDGM-{}_tumor_segmentation"),
    "tumour{}": ("t1c", "t2f", "t1n", "t2w"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_scans_of_other_data_sets_are_not_taken_for_brats(tmp_path: Path, case: str) -> None:
    for number in ("0001", "0002"):
        (tmp_path / case.format(number)).mkdir()
        for name in OTHERS[case]:
            (tmp_path / case.format(number) / f"{name.format(number)}.nii.gz").touch()
    with pytest.raises(DatasetError, match="is no data set"):
        listing(tmp_path)
    check_output_folder(tmp_path / case.format("0001") / "out")


def test_cases_and_files_of_any_name_are_of_the_edition_that_users_tell(tmp_path: Path) -> None:
    for name in ("anna", "ben"):
        case = write_case(tmp_path / name, FIRST, (1, 2, 4))
        for each in FIRST:
            (case / f"{each}.nii.gz").rename(case / f"{each.upper()}.nii.gz")
    with pytest.raises(DatasetError, match="say with --edition"):
        open_dataset(tmp_path)
    dataset = open_dataset(tmp_path, edition="brats2020")
    assert (dataset.edition, [case.id for case in dataset.training]) == ("brats2020", ["anna", "ben"])


def test_masks_of_one_value_are_no_tumours_unless_a_case_is_called_so(tmp_path: Path) -> None:
    for name in ("anna", "ben"):
        write_case(tmp_path / name, FIRST, (1,))
    assert survey(tmp_path).edition == ""
    with pytest.raises(DatasetError, match="label maps hold 1 alone and no case is called as in BraTS"):
        open_dataset(tmp_path)
    assert open_dataset(tmp_path, edition="brats2021").edition == "brats2021"


def test_case_folders_are_only_read(tmp_path: Path) -> None:
    root = brats2020(tmp_path / "brats")
    for place in (root, root / "BraTS20_Training_001", root / "BraTS20_Training_001" / "out"):
        with pytest.raises(OutputError, match="data set"):
            check_output_folder(place)
    check_output_folder(root / "predictions")
    check_output_folder(tmp_path / "work")


def test_folder_around_or_inside_a_data_set_says_which_to_give(tmp_path: Path) -> None:
    root = brats2020(tmp_path / "outer" / "MICCAI_BraTS2020")
    with pytest.raises(DatasetError, match=rf"data sets lie in it, give one of them: {root}"):
        open_dataset(tmp_path / "outer")
    with pytest.raises(DatasetError, match=rf"it is a folder of one: give {root}"):
        open_dataset(root / "BraTS20_Training_001")


@pytest.mark.parametrize("given", ["", "BraTS-GLI-00007-000"])
def test_inputs_are_matched_by_modality_across_editions(tmp_path: Path, given: str) -> None:
    brats2023(tmp_path, ("GLI-00007-000",))
    for names in (("t1", "t1ce", "t2", "flair"), ("FLAIR", "T1w", "t1gd", "T2w"), ("t1c",)):
        (case,) = find_inputs(tmp_path / given, len(names), names_of_channels=names)
        assert case.id == "BraTS-GLI-00007-000"
        spelled = {"t1": "t1n", "t1w": "t1n", "t1ce": "t1c", "t1gd": "t1c", "t2": "t2w", "flair": "t2f"}
        assert words(case) == [spelled.get(name.lower(), name.lower()) for name in names]


def test_inputs_that_lack_a_modality_or_cannot_be_told_are_refused(tmp_path: Path) -> None:
    brats2023(tmp_path, ("GLI-00007-000", "GLI-00008-000"), files=("t1c", "t2f"))
    with pytest.raises(DatasetError, match=r"takes t1n, t1c, but .* BraTS-GLI-00007-000 lacks t1/t1n"):
        find_inputs(tmp_path, 2, names_of_channels=("t1n", "t1c"))
    with pytest.raises(DatasetError, match=r"channels are t1c, CT, and which modality of BraTS CT is cannot be told"):
        find_inputs(tmp_path, 2, names_of_channels=("t1c", "CT"))


def test_model_of_another_coding_is_remarked_on(tmp_path: Path) -> None:
    root = brats2020(tmp_path)
    assert coding_remark(root, labels_of_edition("brats2021")) == ""
    assert "ET 3), which are not those of brats2020" in coding_remark(root, labels_of_edition("brats2023-gli"))
    assert coding_remark(tmp_path / "BraTS20_Training_001" / "x.nii", labels_of_edition("msd")) == ""


def test_images_are_those_of_their_channels(tmp_path: Path) -> None:
    dataset = open_dataset(brats2020(tmp_path))
    case = dataset.training[0]
    image, label = io.read_case(case), io.read_label(case.label or Path())
    means = [float(np.mean(channel[label.array[0] > 0])) for channel in image.array]
    assert means == pytest.approx([150, 200, 250, 300], abs=3)  # t1, t1ce, t2, flair, as they were written


def test_real_cases_of_2013_are_read_under_the_names_and_values_of_two_editions(shared: Path, tmp_path: Path) -> None:
    theirs = open_dataset(shared / "data" / "brats2013")
    assert (theirs.edition, theirs.channels, len(theirs.training)) == ("brats2013", ("t1ce", "flair"), 3)
    case = theirs.training[0]
    coded = io.read_label(case.label or Path())
    ours = tmp_path / "BraTS-GLI-00001-000"
    ours.mkdir()
    for image, name in zip(case.images, ("t1c", "t2f"), strict=True):
        (ours / f"{name}.nii.gz").symlink_to(image)
    recoded = np.array([0, 1, 2, 1, 3], np.uint8)[coded.array]  # non-enhancing tumour is one with necrosis since 2017
    io.write(Volume(recoded, coded.geometry), ours / "seg.nii.gz")
    later = open_dataset(tmp_path)
    assert (later.edition, later.channels) == ("brats2023-gli", ("t1c", "t2f"))
    for before, after in zip(theirs.labels.foreground, later.labels.foreground, strict=True):
        assert before.name == after.name
        assert np.array_equal(np.isin(coded.array, before.values), np.isin(recoded, after.values))
    (tmp_path / case.id).symlink_to(case.images[0].parent)
    with pytest.raises(DatasetError, match=rf"brats2023-gli: {ours.name}; brats2013: {case.id}"):
        open_dataset(tmp_path)
