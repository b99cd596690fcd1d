from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner, Result

from medmamba.cli.main import app
from medmamba.evaluation.metrics import expand, metric
from medmamba.evaluation.scores import Policy
from medmamba.evaluation.words import GROUP_WORDS, WORDS


def save(array: NDArray[np.uint8], path: Path, spacing: float = 1.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([spacing, 1.0, 1.0, 1.0])), path)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Six references, and predictions that are worse from case to case."""
    index = np.indices((20, 18, 16))
    for number in range(6):
        for name, shift in (("predictions", number), ("references", 0)):
            centre = np.array([8 + shift, 8, 8])[:, None, None, None]
            ball = ((index - centre) ** 2).sum(0) < 16
            save(ball.astype(np.uint8), tmp_path / name / f"case_{number}.nii.gz")
    return tmp_path / "predictions", tmp_path / "references"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)], env={"COLUMNS": "140"})


def test_table_shows_mean_interval_and_the_worst_cases(folders: tuple[Path, Path]) -> None:
    result = run(*folders)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    header = next(number for number, line in enumerate(lines) if line.startswith("Dice"))
    assert lines[header].split() == ["Dice", "mean", "95", "%", "interval", "median", "cases"]
    row = lines[header + 1].split()
    assert row[0] == "label_1"
    mean, low, high = (float(row[position]) for position in (1, 2, 4))
    assert low < mean < high
    assert "HD95 (mm)" in result.stdout
    worst = next(line for line in lines if line.startswith("worst"))
    assert worst.index("case_5") < worst.index("case_4") < worst.index("case_3")


def test_report_is_written_beside_the_predictions_or_where_asked(folders: tuple[Path, Path], tmp_path: Path) -> None:
    assert run(*folders).exit_code == 0
    assert (folders[0] / "report.json").is_file()
    assert run(*folders, "--output", tmp_path / "elsewhere").exit_code == 0
    assert (tmp_path / "elsewhere" / "report.csv").read_text() == (folders[0] / "report.csv").read_text()


def test_json_is_the_report(folders: tuple[Path, Path]) -> None:
    result = run(*folders, "--json", "--metric", "iou", "--metric", "iou")
    data = json.loads(result.stdout)
    assert list(data["metrics"]) == ["iou"]
    assert data == json.loads((folders[0] / "report.json").read_text())


def test_failed_cases_are_named_and_give_exit_code_3_after_the_report(folders: tuple[Path, Path]) -> None:
    (folders[0] / "case_1.nii.gz").unlink()
    save(np.ones((20, 18, 16), np.uint8), folders[0] / "case_2.nii.gz", spacing=2.0)
    result = run(*folders)
    assert result.exit_code == 3
    assert "1 of 6 references have no prediction, counted as failed" in result.stderr
    assert "failed case_2: " in result.stderr
    assert "spacing (2.0, 1.0, 1.0) against (1.0, 1.0, 1.0) mm" in result.stderr
    assert "compare models by the median, or by Dice, where such a case counts 0" in result.stdout
    assert json.loads((folders[0] / "report.json").read_text())["cases"][1]["status"] == "failed"


def row_of(result: Result, metric: str, label: str = "label_1") -> str:
    """The line of a label in the table of a metric."""
    lines = result.stdout.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(metric))
    return next(line for line in lines[start:] if line.startswith(label))


def test_mean_over_found_structures_says_in_its_cell_that_others_were_missed(tmp_path: Path) -> None:
    cube = np.zeros((12, 12, 12), np.uint8)
    cube[3:7, 3:7, 3:7] = 1
    for name, mask in (("found", cube), ("missed", np.zeros_like(cube))):
        save(cube, tmp_path / "references" / f"{name}.nii.gz")
        save(mask, tmp_path / "predictions" / f"{name}.nii.gz")
    result = run(tmp_path / "predictions", tmp_path / "references", "--metric", "hd95", "--metric", "precision")
    assert " ".join(row_of(result, "HD95 (mm)").split()) == "label_1 inf (0.000 over the 1 finite of 2) inf 1"
    assert row_of(result, "precision").split() == ["label_1", "0.500", "0.500", "2"]
    assert "worst in HD95: missed (inf), found (0.000)" not in result.stdout  # both are in the table already
    narrow = CliRunner().invoke(app, ["evaluate", str(tmp_path / "predictions"), str(tmp_path / "references")])
    assert "inf (0.000 over the 1 finite of 2)" in narrow.stdout


def test_cases_left_out_stand_beside_the_mean(folders: tuple[Path, Path]) -> None:
    (folders[0] / "case_5.nii.gz").unlink()
    (folders[1] / "case_4.nii.gz").write_bytes(b"")
    result = run(*folders, "--missing", "skip")
    assert result.exit_code == 3
    cells = row_of(result, "Dice").split()
    assert " ".join(cells[2:5]) == "over 4 of"
    assert cells[-2:] == ["4", "2"]
    assert result.stdout.splitlines()[0].split()[-1] == "missing"


def test_values_that_no_label_has_are_named_and_counted(folders: tuple[Path, Path]) -> None:
    mask = np.zeros((20, 18, 16), np.uint8)
    mask[:2, :2, :2] = 7
    save(mask, folders[0] / "case_3.nii.gz")
    result = run(*folders)
    assert "case_3: the prediction holds values that no label has, counted as background: 7 (8 voxels)" in result.stderr


def test_missing_predictions_can_be_left_out(folders: tuple[Path, Path]) -> None:
    (folders[0] / "case_1.nii.gz").unlink()
    result = run(*folders, "--missing", "skip")
    assert result.exit_code == 0
    assert "left out: case_1" in result.stderr


def test_few_cases_get_no_interval_and_are_told_why(folders: tuple[Path, Path]) -> None:
    result = run(folders[0] / "case_1.nii.gz", folders[1] / "case_1.nii.gz")
    assert result.exit_code == 0
    assert "at least five cases" in result.stdout
    assert "worst in" not in result.stdout


def test_labels_bear_the_names_of_the_data_set(folders: tuple[Path, Path], tmp_path: Path) -> None:
    description = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "left_ball": 1},
        "numTraining": 6,
        "file_ending": ".nii.gz",
    }
    (tmp_path / "description").mkdir()
    (tmp_path / "description" / "dataset.json").write_text(json.dumps(description))
    result = run(*folders, "--labels", tmp_path / "description" / "dataset.json")
    assert "left_ball" in result.stdout
    (tmp_path / "description" / "dataset.json").rename(tmp_path / "description" / "names.json")
    result = run(*folders, "--labels", tmp_path / "description" / "names.json")
    assert "left_ball" in result.stdout
    (tmp_path / "description" / "names.json").write_text(json.dumps({"names": []}))
    result = run(*folders, "--labels", tmp_path / "description" / "names.json")
    assert (result.exit_code, "names.json has no 'labels'" in result.stderr) == (3, True)
    (tmp_path / "description" / "names.json").rename(tmp_path / "description" / "names.txt")
    result = run(*folders, "--labels", tmp_path / "description" / "names.txt")
    assert result.exit_code == 3
    assert "labels are read from a data set or its dataset.json, not from" in result.stderr


def test_extra_predictions_are_mentioned(folders: tuple[Path, Path]) -> None:
    (folders[1] / "case_3.nii.gz").unlink()
    result = run(*folders)
    assert result.exit_code == 0
    assert "1 prediction has no reference and cannot be scored: case_3.nii.gz" in result.stderr


def test_wrong_metric_lists_the_right_ones(folders: tuple[Path, Path]) -> None:
    result = run(*folders, "--metric", "dise")
    assert result.exit_code == 2
    assert all(name in result.stderr for name in ("dise", *WORDS, *GROUP_WORDS))


def test_help_names_every_metric() -> None:
    words = run("--help").stdout
    assert all(name in words for name in (*WORDS, *GROUP_WORDS))


def test_help_needs_no_heavy_library() -> None:
    code = (
        "import sys, medmamba.cli.evaluate;"
        "print(sorted({'torch', 'monai', 'scipy', 'nibabel', 'SimpleITK'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_number_stands_beside_what_it_means_and_the_policy(folders: tuple[Path, Path]) -> None:
    said = run(*folders, "--metric", "nsd_0.5mm", "--infinite", "374", "--empty", "perfect").stdout
    row = metric("nsd_0.5mm")
    policy = Policy(empty="perfect", infinite="value", infinite_mm=374.0)
    assert f"{row.title}: {row.defined(policy)} [{row.source}]" in said
    assert "374 mm stand for the infinite distance" in said
    assert "the best value (share 1, distance 0)" in said
    data = json.loads((folders[0] / "report.json").read_text())
    assert data["metrics"]["nsd_0.5mm"]["source"] == row.source
    assert data["policies"] == {"empty": "perfect", "missing": "fail", "infinite": "value", "infinite_mm": 374.0}


def test_many_metrics_share_a_table_with_a_column_for_each_label(folders: tuple[Path, Path]) -> None:
    (folders[0] / "case_5.nii.gz").unlink()
    result = run(*folders, "--metric", "surface", "--metric", "volume")
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["mean", "of", "label_1"]
    titles = [
        f"{row.title} ({row.unit})" if row.unit else row.title for row in map(metric, expand(("surface", "volume")))
    ]
    assert [line.split("  ")[0] for line in lines[1:9]] == titles
    assert "inf (2.000 over the 5 finite of 6)" in lines[1]
    assert all(metric(name).definition in result.stdout for name in expand(("surface", "volume")))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--infinite", "far"), "keep, drop, diagonal, or a number of mm above 0"),
        (("--infinite", "-1"), "keep, drop, diagonal, or a number of mm above 0"),
        (("--metric", "nsd_0mm"), "a tolerance must be larger than 0 mm"),
        (("--labels", "brats1999"), "brats1999"),
    ],
)
def test_wrong_word_is_wrong_usage_before_anything_is_written(
    folders: tuple[Path, Path], words: tuple[str, str], said: str
) -> None:
    result = run(*folders, *words)
    assert result.exit_code == 2
    assert said in result.stderr
    assert not (folders[0] / "report.json").exists()


def nnunet_folder(folders: tuple[Path, Path]) -> None:
    """What nnUNetv2_predict 2.8.1 leaves beside its segmentations, with --save_probabilities."""
    facts = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "whole": [1, 2], "core": 2},
        "regions_class_order": [1, 2],
        "numTraining": 6,
        "file_ending": ".nii.gz",
    }
    (folders[0] / "dataset.json").write_text(json.dumps(facts))
    (folders[0] / "plans.json").write_text(json.dumps({"plans_name": "nnUNetPlans", "dataset_name": "Dataset007_Ball"}))
    (folders[0] / "predict_from_raw_data_args.json").write_text(json.dumps({"save_probabilities": True}))
    for path in folders[0].glob("*.nii.gz"):
        mask = np.asarray(nibabel.load(path).dataobj) > 0
        outputs = np.stack([mask * 0.9, mask * 0.2]).astype(np.float32)
        np.savez_compressed(
            path.with_name(path.name.replace(".nii.gz", ".npz")), probabilities=outputs.transpose(0, 3, 2, 1)
        )
        path.with_name(path.name.replace(".nii.gz", ".pkl")).write_bytes(b"a pickle, which stays closed")


def test_folder_of_nnunet_is_evaluated_as_it_lies_with_labels_regions_and_probabilities(
    folders: tuple[Path, Path],
) -> None:
    nnunet_folder(folders)
    result = run(*folders, "--metric", "dice", "--metric", "ece", "--summary-json")
    assert result.exit_code == 0, result.output
    data = json.loads((folders[0] / "report.json").read_text())
    assert data["labels"] == {"whole": [1, 2], "core": [2]}
    assert data["origin"]["model"] == "nnU-Net: nnUNetPlans, Dataset007_Ball"
    whole = data["cases"][0]["scores"][0]
    # 251 of 4788 voxels in the box hold the structure with 0.9: bins of 0.9 and of 0 are 0.1 and 0 wrong.
    assert whole["ece"] == pytest.approx(
        0.1 * sum(whole["reliability"]["positives"]) / sum(whole["reliability"]["voxels"])
    )
    summary = json.loads((folders[0] / "summary.json").read_text())
    assert list(summary["mean"]) == ["(1, 2)", "2"]
    assert [row["prediction_file"] for row in summary["metric_per_case"]] == [
        str(path) for path in sorted(folders[0].glob("*.nii.gz"))
    ]


def test_dice_alone_needs_no_library_that_is_slow_to_load(folders: tuple[Path, Path]) -> None:
    code = (
        "import sys; from medmamba.cli.main import app; app(sys.argv[1:], standalone_mode=False);"
        "print(sorted({'torch', 'monai', 'matplotlib', 'panoptica', 'jinja2', 'cc3d', 'skimage'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, "evaluate", *map(str, folders), "--metric", "dice", "-w", "1"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


@pytest.fixture
def odd(tmp_path: Path) -> tuple[Path, Path]:
    """Regions of BraTS 2023 in seven cases; two predictions are empty, one has a case without enhancing tumour."""
    for number in range(7):
        tumour = np.zeros((16, 16, 16), np.uint8)
        for value, size in ((2, 12), (1, 8), (3, 0 if number == 6 else 4)):
            tumour[1 : 1 + size, 1 : 1 + size, 1 : 1 + size] = value
        for name in ("predictions", "references"):
            save(tumour * (name == "references" or number > 1), tmp_path / name / f"case_{number}.nii.gz")
    return tmp_path / "predictions", tmp_path / "references"


@pytest.mark.parametrize("metrics", [["standard"], ["standard", "brats2024_goat"]])
def test_no_column_is_cut_in_eighty_columns(metrics: list[str], odd: tuple[Path, Path]) -> None:
    asked = [word for name in metrics for word in ("--metric", name)]
    narrow, wide = (
        CliRunner().invoke(
            app, ["evaluate", *map(str, odd), "--labels", "brats2024-goat", *asked], env={"COLUMNS": columns}
        )
        for columns in ("80", "400")
    )
    assert narrow.exit_code == wide.exit_code == 0, narrow.output
    cut = Counter(wide.stdout.split()) - Counter(narrow.stdout.split())
    assert not cut


def test_infinite_mean_stands_before_that_of_the_finite_values(odd: tuple[Path, Path]) -> None:
    result = run(*odd, "--labels", "brats2023-gli", "--metric", "hd95")
    assert "inf (0.000 over the 5 finite of 7)" in result.stdout
    assert "compare models by the median, or by a share such as --metric dice" in result.stdout
    assert "nsd_2mm" not in result.stdout


def test_policy_has_a_line_for_each_option_and_definitions_follow_it(odd: tuple[Path, Path]) -> None:
    policy = ("--empty", "perfect", "--infinite", "374", "--missing", "skip")
    result = run(*odd, *policy, "--metric", "dice", "--metric", "hd95", "--metric", "lesions")
    lines = result.stdout.splitlines()
    for option in ("--empty perfect: ", "--infinite 374: ", "--missing skip: "):
        assert [line for line in lines if line.strip().startswith(option)]
    (distance,) = (line for line in lines if line.startswith("HD95: "))
    assert "374 mm if one mask is empty, 0 if both are" in distance
    (own,) = (line for line in lines if "decide themselves" in line)
    assert own.endswith("infinite distances: lesions missed, lesions invented.")
    facts = json.loads((odd[0] / "report.json").read_text())["metrics"]
    assert facts["dice"]["definition"].endswith("0 if one mask is empty, 1 if both are.")


def test_rule_of_lesions_is_told_once_for_the_metrics_that_it_is_for(odd: tuple[Path, Path]) -> None:
    result = run(*odd, "--labels", "brats2023-gli", "--metric", "brats2023_gli", "--metric", "dice")
    (line,) = (line for line in result.stdout.splitlines() if "touch after growing" in line)
    whose = line.partition(": ")[0]
    assert "lesion-wise Dice (BraTS 2023 GLI)" in whose
    assert "lesions missed" in whose
    assert not any(word in whose.split(", ") for word in ("Dice (BraTS 2023 GLI)", "HD95 (BraTS 2023 GLI)"))
    assert not any(word in whose for word in ("sensitivity", "specificity"))
    assert "Rows with the name of a challenge follow its rules" in result.stdout
    facts = json.loads((odd[0] / "report.json").read_text())["metrics"]
    assert "touch after growing" in facts["brats2023_gli_dice"]["definition"]
    assert "touch after growing" not in facts["brats2023_gli_legacy_dice"]["definition"]


def test_page_that_cannot_be_written_is_refused_before_anything_is_scored(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    result = run(*folders, "--report", tmp_path / "file" / "deep" / "page.html")
    assert (result.exit_code, f"{tmp_path / 'file'} is a file" in result.stderr) == (2, True), result.stderr
    monkeypatch.setattr("medmamba.io.places.os.access", lambda _, mode: not mode & os.W_OK)
    result = run(*folders, "--report", tmp_path / "new" / "page.html")
    assert (result.exit_code, f"no permission to write into {tmp_path}" in result.stderr) == (4, True), result.stderr
    assert not (folders[0] / "report.json").exists()
