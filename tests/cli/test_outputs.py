"""Commands write where they are told to, and never onto what somebody else needs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from medmamba import io
from medmamba.case import Split
from medmamba.cli.main import main
from medmamba.plans.plan import NetworkPlan
from medmamba.plans.workspace import Workspace
from medmamba.tasks.segmentation import build_network
from medmamba.training.run import Position, Run, RunInfo, Schedule, versions
from tests.data.factory import channel, make_plan
from tests.data_factory import make_case, write_dataset


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set, scans of three kinds, and two trained folds."""
    root = tmp_path_factory.mktemp("outputs")
    dataset = write_dataset(root / "Dataset001_A", cases=2)
    for name in ("plain/a", "numbered/n_0000"):
        path = root / f"{name}.nii.gz"
        path.parent.mkdir()
        io.write(make_case(9)[0], path)
    plan = make_plan(spacing=(1.5, 1.0, 1.0), channels=(channel("none"),))
    plan = replace(plan, network=NetworkPlan(name="unet"), dataset_root=str(dataset))
    for fold in "01":
        info = RunInfo(
            fold=fold,
            split=Split(train=("case_00",), validation=("case_01",)),
            schedule=Schedule(steps=1),
            precision="fp32",
            overrides={},
            versions=versions(),
        )
        run = Run.create(root / "model" / f"fold_{fold}", plan, info)
        torch.manual_seed(int(fold))
        run.save_weights("final", build_network(plan).state_dict(), Position())
    save_file({"w": torch.zeros(3)}, root / "w.safetensors")
    (root / "w.json").write_text("{}")
    (root / "alias").symlink_to(root / "plain")
    os.link(root / "w.safetensors", root / "hard.safetensors")
    return root


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def medmamba(place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run a command in the folder: exit code, standard output, standard error."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("COLUMNS", "400")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["medmamba", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        said = capsys.readouterr()
        return int(stopped.value.code or 0), said.out, said.err

    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


FOLD = "model/fold_0"
REFUSED = {
    "scans": (["predict", "-m", FOLD, "-i", "plain", "-o", "plain"], "is an input"),
    "scans-overwrite": (["predict", "-m", FOLD, "-i", "plain", "-o", "plain", "--overwrite"], "is an input"),
    "scans-by-link": (["predict", "-m", FOLD, "-i", "plain", "-o", "alias"], "is an input"),
    "links-of-scans": (["predict", "-m", FOLD, "-i", "alias", "-o", "plain"], "is an input"),
    "single-scan": (["predict", "-m", FOLD, "-i", "plain/a.nii.gz", "-o", "plain/../plain"], "is an input"),
    "file": (["predict", "-m", FOLD, "-i", "plain", "-o", "plain/a.nii.gz"], "is a file"),
    "name-of-file": (["predict", "-m", FOLD, "-i", "plain", "-o", "new.nii.gz"], "name of a file"),
    "run": (["predict", "-m", FOLD, "-i", "plain", "-o", FOLD], "training run"),
    "images": (["predict", "-m", FOLD, "--validation", "-o", "Dataset001_A/imagesTr"], "images or labels"),
    "labels": (["predict", "-m", FOLD, "--validation", "-o", "Dataset001_A/labelsTr"], "images or labels"),
    "labels-overwrite": (
        ["predict", "-m", FOLD, "-i", "Dataset001_A/imagesTr", "-o", "Dataset001_A/labelsTr", "--overwrite"],
        "images or labels",
    ),
    "below-labels": (["predict", "-m", FOLD, "--validation", "-o", "Dataset001_A/labelsTr/new"], "images or labels"),
    "data-set": (["predict", "-m", FOLD, "--validation", "-o", "Dataset001_A"], "is a data set"),
    "report-among-references": (["evaluate", "plain", "numbered", "-o", "numbered"], "which this command reads"),
    "report-in-labels": (["evaluate", "Dataset001_A/labelsTr", "plain"], "images or labels"),
    "work-in-images": (["plan", "Dataset001_A", "--work", "Dataset001_A/imagesTr/work"], "imagesTr"),
    "train-work-in-labels": (["train", "Dataset001_A", "--steps", "1", "--work", "Dataset001_A/labelsTr"], "labelsTr"),
    "work-onto-data-set": (["plan", "Dataset001_A", "--work", "."], "is a data set"),
    "export-in-images": (["plan", "Dataset001_A", "--export-nnunet", "Dataset001_A/imagesTr"], "imagesTr"),
    "demo-in-labels": (["demo", "-o", "Dataset001_A/labelsTr"], "images or labels"),
    "import-onto-source": (
        ["model", "import", "--from", "mamba", "w.safetensors", "-o", "w.safetensors", "--overwrite"],
        "is an input",
    ),
    "import-onto-source-by-link": (
        ["model", "import", "--from", "mamba", "w.safetensors", "-o", "hard.safetensors", "--overwrite"],
        "is an input",
    ),
    "import-onto-config": (
        ["model", "import", "--from", "mamba", FOLD + "/final.safetensors", "--config", "w.json", "-o", "w.safetensors",
         "--overwrite"],
        "is an input",
    ),
    "import-into-source": (
        ["model", "import", "--from", "umamba", "model", "-o", "model/fold_9"],
        "which this command reads",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_output_that_is_somebodys_input_is_refused_before_anything_is_written(
    name: str, place: Path, medmamba: Command
) -> None:
    arguments, reason = REFUSED[name]
    before = contents(place)
    code, _, words = medmamba(*arguments)
    assert code == 2, words
    assert reason in words
    assert len([line for line in words.splitlines() if line.startswith("error: ")]) == 1
    assert contents(place) == before


def test_numbered_scans_and_their_segmentations_may_share_a_folder(place: Path, medmamba: Command) -> None:
    scan = (place / "numbered" / "n_0000.nii.gz").read_bytes()
    command = ["predict", "-m", FOLD, "-i", "numbered", "-o", "numbered", "--no-mirror"]
    for counts in ("1 predicted, 0 finished earlier, 0 failed", "0 predicted, 1 finished earlier, 0 failed"):
        code, said, words = medmamba(*command)
        assert code == 0, words
        assert counts in said
    assert (place / "numbered" / "n_0000.nii.gz").read_bytes() == scan
    assert io.read_label(place / "numbered" / "n.nii.gz").geometry == make_case(9)[0].geometry


def test_another_fold_predicts_again_and_says_so(place: Path, medmamba: Command) -> None:
    command = ["predict", "-i", "plain", "-o", "out", "--no-mirror", "-m"]
    medmamba(*command, "model/fold_0")
    first = (place / "out" / "a.nii.gz").read_bytes()
    code, said, words = medmamba(*command, "model/fold_1")
    assert (code, "1 predicted" in said) == (0, True)
    assert "predicted again, because the weights changed: a" in words
    assert (place / "out" / "a.nii.gz").read_bytes() != first
    medmamba(*command, "model/fold_0")
    assert (place / "out" / "a.nii.gz").read_bytes() == first
    code, said, words = medmamba("predict", "-i", "plain", "-o", "out", "--mirror", "-m", "model/fold_0")
    assert "predicted again, because mirroring changed: a" in words


def test_scores_of_what_an_earlier_model_left_are_told(place: Path, medmamba: Command) -> None:
    for number in range(3):
        path = place / "three" / f"s{number}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        io.write(make_case(number)[0], path)
        (place / "truth").mkdir(exist_ok=True)
        io.write(make_case(number)[1], place / "truth" / path.name)
    command = ["predict", "-i", "three", "-o", "mixed", "--no-mirror", "-m"]
    medmamba(*command, "model/fold_0")
    assert "models or sets of options" not in medmamba("evaluate", "mixed", "truth")[2]
    (place / "three" / "s2.nii.gz").write_bytes(b"")
    assert medmamba(*command, "model/fold_1")[0] == 3
    code, _, words = medmamba("evaluate", "mixed", "truth")
    assert code == 0, words
    assert "predictions of 2 models or sets of options" in words
    assert "2 of one, s2 of others" in words


def test_segmentation_of_nrrd_comes_back_as_nrrd_and_in_another_format_when_told(
    place: Path, medmamba: Command
) -> None:
    (place / "slicer").mkdir()
    io.write(make_case(4)[0], place / "slicer" / "s.nrrd")
    command = ["predict", "-m", FOLD, "-i", "slicer", "--no-mirror", "-o"]
    assert medmamba(*command, "slicer-out")[0] == 0
    assert [path.name for path in (place / "slicer-out").glob("s.*")] == ["s.nrrd"]
    assert medmamba(*command, "told", "--format", "mha")[0] == 0
    assert [path.name for path in (place / "told").glob("s.*")] == ["s.mha"]
    code, _, words = medmamba(*command, "told", "--format", ".nrrd")
    assert (code, "another format: s.mha" in words) == (2, True)
    code, _, words = medmamba(*command, "none", "--format", ".png")
    assert (code, ".nii.gz" in words) == (2, True)


def test_file_from_elsewhere_fails_by_name_and_stays(place: Path, medmamba: Command) -> None:
    mine = place / "mine" / "a.nii.gz"
    mine.parent.mkdir()
    io.write(make_case(0)[1], mine)
    before = mine.read_bytes()
    command = ["predict", "-m", FOLD, "-i", "plain", "-o", "mine", "--no-mirror"]
    code, said, words = medmamba(*command)
    assert (code, "1 failed" in said) == (3, True)
    assert "mine/a.nii.gz" in words
    assert "--overwrite" in words
    assert mine.read_bytes() == before
    code, said, _ = medmamba(*command, "--overwrite")
    assert (code, "1 predicted" in said) == (0, True)


def test_names_with_brackets_are_shown_as_they_are(place: Path, medmamba: Command) -> None:
    for name in ("brackets[/b[old].nii.gz", "brackets[/c].nii.gz"):
        path = place / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    code, _, words = medmamba("predict", "-m", FOLD, "-i", "brackets[", "-o", "failed", "--no-mirror")
    assert code == 3, words
    table = words.partition("why it failed")[2]
    assert "b[old]" in table
    assert "brackets[/c].nii.gz" in table


def test_predictions_go_on_after_the_disk_was_full(
    place: Path, medmamba: Command, small_disk: Callable[[str], Path]
) -> None:
    disk = small_disk("40k")
    (disk / "taken").write_bytes(bytes(32 * 1024))
    command = ["predict", "-m", FOLD, "-i", "plain", "-o", str(disk / "out"), "--no-mirror"]
    code, _, words = medmamba(*command)
    assert code == 4, words
    assert words.splitlines()[-1].startswith("error: no space left on the disk to write")
    left = [path.name for path in disk.rglob("*") if path.is_file()]
    assert not [name for name in left if name.endswith(".tmp") or name.startswith(".writing")]
    (disk / "taken").unlink()
    code, said, _ = medmamba(*command)
    assert (code, "1 predicted" in said) == (0, True)


def test_export_leaves_what_nnunet_planned_itself_and_may_be_repeated(place: Path, medmamba: Command) -> None:
    command = ["plan", "Dataset001_A", "--network", "unet", "--work", "work", "--export-nnunet"]
    assert medmamba(*command, "export")[0] == 0
    assert medmamba(*command, "export")[0] == 0
    theirs = place / "theirs" / "nnUNet_preprocessed" / "Dataset001_A"
    theirs.mkdir(parents=True)
    (theirs / "dataset.json").write_text("nnU-Net's")
    code, _, words = medmamba(*command, "theirs")
    assert (code, "nnU-Net's own" in words) == (2, True)
    assert (theirs / "dataset.json").read_text() == "nnU-Net's"
    # A data set that lies where nnU-Net keeps it has its description there.
    home = place / "home" / "nnUNet_raw"
    home.mkdir(parents=True)
    dataset = write_dataset(home / "Dataset001_A", cases=2)
    before = contents(place / "home")
    code, _, words = medmamba("plan", str(dataset), "--network", "unet", "--work", "w", "--export-nnunet", "home")
    assert (code, "data set" in words) == (2, True)
    assert contents(place / "home") == before


def test_report_may_lie_in_a_data_set_beside_its_predictions(place: Path, medmamba: Command) -> None:
    predictions = place / "Dataset001_A" / "predictions"
    predictions.mkdir()
    io.write(make_case(0)[1], predictions / "case_00.nii.gz")
    assert medmamba("evaluate", str(predictions), "Dataset001_A", "--missing", "skip")[0] == 0
    assert (predictions / "report.json").is_file()


def test_run_in_which_a_process_trains_is_not_set_aside(place: Path, medmamba: Command) -> None:
    work = Workspace(place / "restarted", "Dataset001_A")
    assert medmamba("plan", "Dataset001_A", "--network", "unet", "--work", "restarted")[0] == 0
    (plan,) = work.folder.glob("*/plan.json")
    run = plan.parent / "fold_all"
    Run.create(run, Run(place / FOLD).plan, Run(place / FOLD).info)
    hold = "import sys, filelock as f; k = f.FileLock(sys.argv[1]); k.acquire(); print('held', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(run / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        code, _, words = medmamba("train", str(plan), "--fold", "all", "--restart", "--steps", "1")
        other.communicate("\n")
    assert (code, "another process is training" in words) == (3, True)
    assert [path.name for path in plan.parent.iterdir() if path.is_dir()] == ["fold_all"]


def test_a_fold_that_is_given_twice_counts_once(medmamba: Command, tmp_path: Path) -> None:
    code, out, err = medmamba("predict", "--validation", "-m", FOLD, "-m", FOLD, "-o", str(tmp_path / "new"))
    assert code == 0, err
    assert "1 predicted" in out


def test_link_that_leads_nowhere_is_told_by_its_name(medmamba: Command, place: Path, tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    (scans / "a.nii.gz").symlink_to(tmp_path / "gone.nii.gz")
    (scans / "b.nii.gz").symlink_to(place / "plain" / "a.nii.gz")
    code, out, err = medmamba("predict", "-i", str(scans), "-m", FOLD, "-o", str(tmp_path / "new"))
    assert (code, "1 predicted, 0 finished earlier, 1 failed" in out) == (3, True)
    assert "No such file or directory" in err
    assert "Errno" not in err


def test_damaged_run_is_told_with_a_way_out(medmamba: Command, place: Path) -> None:
    damaged = place / "damaged" / "fold_0"
    damaged.mkdir(parents=True)
    (damaged / "plan.json").write_bytes((place / FOLD / "plan.json").read_bytes())
    (damaged / "run.json").write_text("{")
    code, _, err = medmamba("predict", "-i", "plain", "-m", "damaged/fold_0", "-o", "new")
    assert code == 3
    assert "run.json" in err
    assert "--restart" in err
