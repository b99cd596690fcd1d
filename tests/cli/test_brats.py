"""From a folder as BraTS is downloaded to scores, on two editions, without a file renamed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from medmamba import io
from medmamba.evaluation.evaluate import evaluate
from medmamba.evaluation.matching import find_labels, match_files
from medmamba.io.layouts.editions import labels_of_edition
from medmamba.plans import fingerprint
from medmamba.plans.plan import Plan
from medmamba.plans.workspace import planned_dataset
from tests.brats_factory import FIRST, SECOND, brats2020, brats2023, write_case
from tests.cli.remedies import SMALL, follow, line, run


@pytest.fixture(scope="module", autouse=True)
def few_samples() -> Iterator[None]:
    """Measuring draws so many voxels that it takes seconds, however small the cases."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fingerprint, "FOREGROUND_SAMPLES", 1000)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three patients of 2020, one of whom has no oedema."""
    root = brats2020(tmp_path_factory.mktemp("downloads") / "MICCAI_BraTS2020", cases=2)
    write_case(root / "BraTS20_Training_003", FIRST, (1, 4), divider="_", ending=".nii")
    return root


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run of one step on it, by the command that planning gave, and what it said."""
    work = tmp_path_factory.mktemp("work")
    code, said = run("plan", folder, "--network", "unet", "--work", work)
    assert code == 0, said
    told = follow(line(said, "next "), "--steps", "1", "--workers", "0", *SMALL)
    [run_folder] = work.glob("*/*/fold_0")
    return run_folder, told


def test_plan_has_channels_by_name_and_overlapping_regions(trained: tuple[Path, str]) -> None:
    plan = Plan.load(trained[0].parent / "plan.json")
    assert [channel.name for channel in plan.channels] == ["t1", "t1ce", "t2", "flair"]
    assert (plan.edition, plan.labels) == ("brats2020", labels_of_edition("brats2020"))
    means = [channel.intensities.mean for channel in plan.channels]
    assert means == pytest.approx([150, 200, 250, 300], abs=5)  # as they were written, by modality
    measured = json.loads((trained[0].parent.parent / "fingerprint.json").read_text())
    assert "2" not in measured["cases"][2]["label_voxels"]


def test_predictions_are_held_against_the_folder_in_place(trained: tuple[Path, str], folder: Path) -> None:
    run_folder, told = trained
    assert all(f"{region} " in follow(line(told, "Next: ")) for region in ("WT", "TC", "ET"))
    predictions = run_folder / "predictions"
    labels = find_labels(predictions, folder)
    assert labels == labels_of_edition("brats2020")
    [case] = evaluate(match_files(predictions, folder).pairs, labels, metrics=("dice",)).cases
    reference = io.read_label(folder / case.id / f"{case.id}_seg.nii").array
    prediction = io.read_label(predictions / f"{case.id}.nii").array
    for score, values in zip(case.scores, ((1, 2, 4), (1, 4), (4,)), strict=True):
        ours, theirs = np.isin(prediction, values), np.isin(reference, values)
        assert score.values == pytest.approx((2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()),))


def test_model_of_one_edition_predicts_cases_of_another_by_name(trained: tuple[Path, str], tmp_path: Path) -> None:
    run_folder, _ = trained
    first = next(Path(Plan.load(run_folder.parent / "plan.json").dataset_root).iterdir())
    later = tmp_path / "later" / "BraTS-GLI-00001-000"
    later.mkdir(parents=True)  # links of bare names to the same scans
    for old, new in (("t1", "t1n"), ("t1ce", "t1c"), ("t2", "t2w"), ("flair", "t2f")):
        os.symlink(first / f"{first.name}_{old}.nii", later / f"{new}.nii")
    said = []
    for images, out in ((tmp_path / "later", "a"), (later, "b"), (first, "c")):
        code, words = run("predict", "-i", images, "-o", tmp_path / out, "-m", run_folder, "--device", "cpu")
        assert code == 0, words
        said.append(words)
    maps = [io.read_label(next((tmp_path / out).glob("BraTS*.nii"))).array for out in "abc"]
    assert all(np.array_equal(maps[0], other) for other in maps[1:])
    assert "not those of brats2023-gli, of which" in said[0]
    assert "not those of" not in said[2]
    (later / "t2w.nii").unlink()
    code, words = run("predict", "-i", later, "-o", tmp_path / "d", "-m", run_folder, "--device", "cpu")
    assert (code, "BraTS-GLI-00001-000 lacks t2/t2w" in words) == (3, True), words


def test_edition_that_is_told_is_remembered(tmp_path: Path) -> None:
    ids = ("PED-00002-000", "PED-00003-000")
    root = brats2023(tmp_path / "PEDs", ids, values=(1, 2, 3))
    code, said = run("plan", root, "--network", "unet", "--work", tmp_path / "work")
    assert (code, "fit brats2023-ped, brats2024-ped" in said) == (3, True), said
    code, said = run("plan", root, "--edition", "brats2024-ped", "--network", "unet", "--work", tmp_path / "work")
    assert code == 0, said
    [path] = tmp_path.glob("work/*/*/plan.json")
    plan = Plan.load(path)
    assert plan.edition == "brats2024-ped"
    # The label maps alone would not tell, also to the commands that come next.
    assert planned_dataset(plan).labels == plan.labels == labels_of_edition("brats2024-ped")
    assert planned_dataset(plan, root.rename(tmp_path / "elsewhere")).edition == "brats2024-ped"
    code, said = run("train", path, "--edition", "brats2024-ped")
    assert code == 2
    assert "leave out --edition" in said


@pytest.mark.parametrize("command", ["dataset check", "plan", "train"])
def test_mixture_is_refused_by_every_command(command: str, tmp_path: Path) -> None:
    brats2020(tmp_path / "mixed", cases=1)
    brats2023(tmp_path / "mixed", ("GLI-00000-000",), files=SECOND)
    work = [] if command == "dataset check" else ["--work", tmp_path / "work"]
    code, said = run(*command.split(), tmp_path / "mixed", *work)
    assert code == 3
    assert "brats2020: BraTS20_Training_001" in said
    assert "brats2023-gli: BraTS-GLI-00000-000" in said
    assert not (tmp_path / "work").exists()
