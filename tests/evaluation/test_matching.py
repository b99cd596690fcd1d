"""What belongs together: files by their names, and the labels that the values in them mean."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medmamba.errors import DataError, UsageError
from medmamba.evaluation.matching import Match, find_labels, find_meaning, labels_in, match_files
from medmamba.io.layouts.editions import labels_of_edition
from medmamba.labels import Label
from tests.brats_factory import FIRST, SECOND, brats2020, brats2023, write_case
from tests.evaluation.factory import AFFINE, BALL, REGIONS, ball, description, save


def test_labels_are_found_in_the_references_when_nothing_names_them(folders: tuple[Path, Path]) -> None:
    save(ball() * 7, folders[1] / "b.nii.gz")
    labels = labels_in(match_files(*folders).pairs)
    assert [(label.name, label.values) for label in labels.foreground] == [("label_1", (1,)), ("label_7", (7,))]


def test_references_without_any_label_are_refused(folders: tuple[Path, Path]) -> None:
    save(np.zeros_like(ball()), folders[1] / "a.nii.gz")
    with pytest.raises(ValueError, match=r"no label besides background in 1 references.*a\.nii\.gz"):
        labels_in(match_files(*folders).pairs[:1])


def test_references_that_cannot_be_read_say_why(folders: tuple[Path, Path]) -> None:
    for name in "abc":
        nibabel.save(nibabel.Nifti1Image(ball().astype(np.float32) * 0.3, AFFINE), folders[1] / f"{name}.nii.gz")
    with pytest.raises(ValueError, match=r"no reference can be read: .*a\.nii\.gz: label values .* \(2 more have"):
        labels_in(match_files(*folders).pairs)


def test_labels_are_read_from_the_dataset_json_that_lies_with_the_files(folders: tuple[Path, Path]) -> None:
    assert find_labels(*folders) is None
    # From the weakest place to the strongest.
    places = (folders[0], folders[1].parent, folders[1])
    for place, name in zip(places, ("copied", "above", "beside"), strict=True):
        (place / "dataset.json").write_text(description(**{name: 1}))
        for prediction, reference in (folders, (folders[0] / "a.nii.gz", folders[1] / "a.nii.gz")):
            labels = find_labels(prediction, reference)
            assert labels is not None
            assert labels.foreground == (Label(name=name, values=(1,)),)


def test_regions_are_read_from_the_dataset_json(folders: tuple[Path, Path]) -> None:
    (folders[1] / "dataset.json").write_text(description(whole=[1, 2], core=2))
    assert find_labels(*folders) == REGIONS


def test_data_set_stands_for_its_training_labels(folders: tuple[Path, Path], tmp_path: Path) -> None:
    root = tmp_path / "Dataset001_Balls"
    for name in "abc":
        save(ball(), root / "labelsTr" / f"{name}.nii.gz")
        save(ball() * 9, root / "imagesTr" / f"{name}_0000.nii.gz")
    (root / "dataset.json").write_text(description(ball=1))
    pairs = match_files(folders[0], root).pairs
    assert [pair.reference for pair in pairs] == [root / "labelsTr" / f"{name}.nii.gz" for name in "abc"]
    assert find_labels(folders[0], root) == BALL


def test_two_files_are_a_pair_whatever_they_are_called(folders: tuple[Path, Path]) -> None:
    matches = match_files(folders[0] / "a.nii.gz", folders[1] / "b.nii.gz")
    assert matches.pairs == (Match(id="b", reference=folders[1] / "b.nii.gz", prediction=folders[0] / "a.nii.gz"),)


def test_other_files_beside_the_predictions_do_not_disturb(folders: tuple[Path, Path]) -> None:
    for name in ("report.json", "report.csv", ".hidden.nii.gz", "a.npz", "notes.txt"):
        (folders[0] / name).write_text("{}")
    assert match_files(*folders).extra == ()


@pytest.mark.parametrize("manifest", [{"cases": ["a", "b"]}, {"cases": {"a": {"status": "done"}, "b": {}}}])
def test_manifest_adds_cases_to_expect_and_hides_no_file(
    folders: tuple[Path, Path], manifest: dict[str, object]
) -> None:
    (folders[0] / "prediction.json").write_text(json.dumps(manifest))
    (folders[0] / "b.nii.gz").unlink()
    save(ball(), folders[1] / "d.nii.gz")
    matches = match_files(*folders)
    assert [(pair.id, pair.prediction is None) for pair in matches.pairs] == [("a", False), ("b", True), ("c", False)]
    assert (matches.extra, matches.not_asked_for) == ((), ("d",))


@pytest.mark.parametrize("manifest", [[1, 2], {"cases": 3}, {"cases": [{"what": "else"}]}, {}])
def test_manifest_of_another_program_makes_every_reference_expected(
    folders: tuple[Path, Path], manifest: object
) -> None:
    (folders[0] / "prediction.json").write_text(json.dumps(manifest))
    (folders[0] / "b.nii.gz").unlink()
    assert [pair.prediction is None for pair in match_files(*folders).pairs] == [False, True, False]


def test_what_nnunet_leaves_beside_its_predictions_does_not_disturb(folders: tuple[Path, Path]) -> None:
    for name in (
        "summary.json",
        "plans.json",
        "predict_from_raw_data_args.json",
        "a.npz",
        "a.pkl",
        "postprocessing.pkl",
    ):
        (folders[0] / name).write_text("{}")
    # A description that was copied away from its images, and that counts cases nobody has here.
    (folders[0] / "dataset.json").write_text(description(ball=1))
    matches = match_files(*folders)
    assert ([pair.id for pair in matches.pairs], matches.extra) == (["a", "b", "c"], ())
    assert find_labels(*folders) == BALL


def test_copied_list_of_the_decathlon_names_the_labels(folders: tuple[Path, Path]) -> None:
    listed = [{"image": "./imagesTr/x.nii.gz", "label": "./labelsTr/x.nii.gz"}]
    facts = {"modality": {"0": "MR"}, "labels": {"0": "background", "1": "ball"}, "training": listed, "numTraining": 1}
    (folders[1] / "dataset.json").write_text(json.dumps(facts))
    assert find_labels(*folders) == BALL
    assert [pair.id for pair in match_files(*folders).pairs] == ["a", "b", "c"]


def test_reference_is_not_compared_with_itself(folders: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match=r"a\.nii\.gz is both prediction and reference"):
        match_files(folders[1], folders[1])
    (folders[0] / "c.nii.gz").unlink()
    (folders[0] / "c.nii.gz").symlink_to(folders[1] / "c.nii.gz")
    with pytest.raises(ValueError, match=r"c\.nii\.gz is both prediction and reference"):
        match_files(*folders)


def test_empty_folder_is_told(folders: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty has no images"):
        match_files(tmp_path / "empty", folders[1])
    with pytest.raises(ValueError, match="empty is no data set"):
        match_files(folders[0], tmp_path / "empty")


def test_file_against_folder_is_refused(folders: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match="two files or two folders"):
        match_files(folders[0] / "a.nii.gz", folders[1])


def test_path_that_does_not_exist_is_named(folders: tuple[Path, Path]) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        match_files(folders[0] / "nowhere", folders[1])


def test_folders_without_a_common_name_are_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    save(ball(), tmp_path / "others" / "a_pred.nii.gz")
    with pytest.raises(ValueError, match=r"has a_pred, .*references has a, b, c"):
        match_files(tmp_path / "others", folders[1])


@pytest.mark.parametrize("kind", ["-seg", "_seg", "-gtv", "_SEGM"])
def test_references_called_as_brats_calls_label_maps_are_paired(
    kind: str, folders: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    for path in sorted(folders[1].iterdir()):
        path.rename(folders[1] / path.name.replace(".nii", f"{kind}.nii"))
    pairs = match_files(*folders).pairs
    assert [pair.id for pair in pairs] == ["a", "b", "c"]
    assert all(pair.prediction is not None for pair in pairs)
    assert f"references are taken by their names without {kind}" in caplog.text.replace(str(folders[1]), "references")


def test_value_that_hardly_any_reference_holds_is_told(
    folders: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    for name in "def":
        save(ball(), folders[1] / f"{name}.nii.gz")
    stray = ball()
    stray[0, 0, 0] = 255
    save(stray, folders[1] / "b.nii.gz")
    pairs = match_files(*folders).pairs
    assert [label.name for label in labels_in(pairs).foreground] == ["label_1", "label_255"]
    assert "label_255 occurs in 1 of 6 references, 1 voxels in all" in caplog.text
    assert "label_1 occurs" not in caplog.text


def test_two_files_with_one_id_are_refused(folders: tuple[Path, Path]) -> None:
    save(ball(), folders[0] / "a.nii")
    with pytest.raises(ValueError, match="same id 'a'"):
        match_files(*folders)


def test_regions_of_brats_are_those_of_its_edition_found_in_place_or_told(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    root = brats2023(tmp_path / "downloaded", ("GLI-00001-000", "GLI-00002-000"))
    made = tmp_path / "made"
    made.mkdir()
    shutil.copy(root / "BraTS-GLI-00001-000" / "BraTS-GLI-00001-000-seg.nii.gz", made / "BraTS-GLI-00001-000.nii.gz")
    assert [(pair.id, pair.prediction is None) for pair in match_files(made, root).pairs] == [
        ("BraTS-GLI-00001-000", False),
        ("BraTS-GLI-00002-000", True),
    ]
    meaning = find_meaning(made, root)
    assert meaning is not None
    assert (meaning.edition, meaning.labels) == ("brats2023-gli", labels_of_edition("brats2023-gli"))
    for given in (str(root), "brats2023-gli", "BraTS2023-GLI"):
        assert find_meaning(*folders, given) == meaning
    told = find_meaning(*folders, "brats2025-met")
    assert told is not None
    assert (told.edition, told.labels) == ("brats2024-met", labels_of_edition("brats2024-met"))


def test_folder_that_mixes_editions_is_refused_by_name(tmp_path: Path) -> None:
    root = brats2020(tmp_path / "mixed", cases=1)
    brats2023(root, ("GLI-00000-000",))
    with pytest.raises(DataError, match=r"mixes editions.*: BraTS-GLI-00000-000; brats2020: BraTS20_Training_001"):
        find_meaning(tmp_path, root)


def test_edition_that_there_is_none_of_is_refused_with_those_there_are(folders: tuple[Path, Path]) -> None:
    with pytest.raises(UsageError, match=r"'brats1999' is nothing that exists, and none of brats2013, .*brats2024-met"):
        find_meaning(*folders, "brats1999")


def test_edition_that_is_told_does_not_make_one_of_two_whose_values_differ(tmp_path: Path) -> None:
    write_case(tmp_path / "BraTS2021_00001", FIRST, (1, 2, 4), divider="_")
    write_case(tmp_path / "BraTS-GLI-00002-000", SECOND, (1, 2, 3), divider="-")
    with pytest.raises(DataError, match="mixes editions of BraTS"):
        find_meaning(tmp_path, tmp_path, "brats2021")
