from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from torch import nn
from typer.testing import CliRunner, Result

from medmamba import networks
from medmamba.cli.main import app
from medmamba.errors import DataError
from medmamba.plans import fingerprint as fingerprint_module
from medmamba.plans.plan import Plan
from medmamba.tasks.segmentation import Segmentation
from medmamba.training import fold
from tests.clips_factory import write_films


@pytest.fixture
def balls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set of two scans of balls in nnU-Net's layout."""
    monkeypatch.setattr(fingerprint_module, "FOREGROUND_SAMPLES", 1000)
    root = tmp_path / "Dataset001_Balls"
    index = np.indices((24, 20, 16))
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    for number, radius in enumerate((4, 6)):
        label = ((index - 8) ** 2).sum(0) < radius**2
        image = (10 + 5 * label + index[0]).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), root / "imagesTr" / f"ball_{number}_0000.nii.gz")
        nibabel.save(
            nibabel.Nifti1Image(label.astype(np.uint8), np.eye(4)), root / "labelsTr" / f"ball_{number}.nii.gz"
        )
    description = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "ball": 1},
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(description))
    return root


def run(balls: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["plan", str(balls), "--work", str(balls.parent / "work"), *options])


def planned(result: Result) -> list[dict[str, Any]]:
    return list(json.loads(result.stdout)["plans"])


def test_every_decision_is_shown_with_its_reason_and_what_comes_next(balls: Path) -> None:
    result = run(balls)
    assert result.exit_code == 0, result.output
    words = " ".join(result.stdout.split())
    for expected in ("3d_fullres plan for umamba_bot from 2 training cases", "median of 2 cases", "folds", "digest"):
        assert expected in words
    (path,) = (balls.parent / "work").glob("*/3d_fullres__umamba_bot/plan.json")
    assert f"medmamba train {path} --fold 0" in result.stdout


def test_json_holds_the_same(balls: Path) -> None:
    (result,) = planned(run(balls, "--network", "umamba_enc", "--json"))
    stored = Plan.load(Path(result["plan"]))
    assert result["outcome"] == "written"
    assert (result["configuration"], result["network"]) == ("3d_fullres", "umamba_enc")
    assert result["digest"] == stored.digest()
    assert Path(result["fingerprint"]).is_file()
    assert {decision["what"] for decision in result["decisions"]} > {"spacing", "patch", "batch"}


def test_plans_with_and_without_mamba_lie_side_by_side(balls: Path) -> None:
    for options, folder in (((), "umamba_bot"), (("--mixer", "none"), "umamba_bot__mixer-none")):
        result = run(balls, "--json", *options)
        assert result.exit_code == 0, result.output
        assert Path(planned(result)[0]["plan"]).parent.name == f"3d_fullres__{folder}"
    assert [each["outcome"] for each in planned(run(balls, "--json", "--mixer", "none"))] == ["unchanged"]


def test_all_makes_a_plan_for_slices_and_for_volumes(balls: Path) -> None:
    found = [result["configuration"] for result in planned(run(balls, "-c", "all", "--json"))]
    assert found == ["3d_fullres", "2d"]


def test_an_edited_plan_is_kept_and_the_exit_code_says_so(balls: Path) -> None:
    path = Path(planned(run(balls, "--json"))[0]["plan"])
    Plan.load(path).override("train.epochs", 50).save(path)
    result = run(balls)
    assert result.exit_code == 2
    assert "train.epochs: 50, new 1000" in result.stderr
    assert "--force" in result.stderr
    assert Plan.load(path).train.epochs == 50
    assert run(balls, "--force").exit_code == 0
    assert Plan.load(path).train.epochs == 1000


def test_more_memory_is_asked_for_in_gigabytes(balls: Path) -> None:
    assert run(balls, "--gpu-memory", "24").exit_code == 0
    assert run(balls, "--gpu-memory", "0").exit_code == 2


def test_an_unknown_network_is_refused_with_the_known_ones(balls: Path) -> None:
    result = run(balls, "--network", "resnet")
    assert result.exit_code == 2
    assert "there is no network 'resnet'" in result.stderr
    assert "umamba_bot" in result.stderr
    assert not (balls.parent / "work").exists()


def test_a_network_for_other_data_is_refused_by_what_it_is_for(balls: Path) -> None:
    result = run(balls, "--network", "vivim")
    assert result.exit_code == 2
    said, _, named = " ".join(result.stderr.split()).partition("; choose one of ")
    assert said.endswith("network 'vivim' is for video, and " + f"{balls} is for segmentation")
    assert "umamba_bot" in named
    assert "vivim" not in named
    assert not (balls.parent / "work").exists()


def test_films_are_planned_for_video_with_the_weights_that_its_task_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Video(Segmentation):
        def network(self) -> nn.Module:
            return nn.Linear(6, 1)

    monkeypatch.setitem(fold.TASKS, "video", Video)
    result = run(write_films(tmp_path / "films"), "--json")
    assert result.exit_code == 0, result.output
    (plan,) = planned(result)
    assert (plan["network"], plan["weights"]) == ("vivim", 7)


def test_films_are_told_by_their_folder_and_shown_with_reasons(tmp_path: Path) -> None:
    result = run(write_films(tmp_path / "films"), "--task", "video", "--set", "video.clip_length=3")
    assert result.exit_code == 0, result.output
    said = " ".join(result.stdout.split())
    for part in ("video plan for vivim from 4 clips", "64 x 64 pixels", "label_1", "all 24 frames", "asked for"):
        assert part in said
    (path,) = (tmp_path / "work").glob("*/*/plan.json")
    video = Plan.load(path).video
    assert video is not None
    assert video.clip_length == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--task", "segmentation"], "is laid out as a data set for video, not for segmentation"),
        (["--network", "umamba_bot"], "network 'umamba_bot' is for segmentation, and"),
        (["--configuration", "2d"], "are for segmentation"),
        (["--task", "video", "--network", "mambamorph"], "network 'mambamorph' is not for video"),
    ],
)
def test_what_does_not_go_with_films_is_refused(tmp_path: Path, options: list[str], words: str) -> None:
    result = run(write_films(tmp_path / "films", names=("a",)), *options)
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())


def test_a_network_that_cannot_be_built_is_found_out(balls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise DataError("strides do not suit me")

    monkeypatch.setattr(networks, "create", refuse)
    result = run(balls)
    assert result.exit_code == 3
    assert "its network cannot be built: strides do not suit me" in " ".join(result.stderr.split())


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["plan", str(tmp_path / "none")])
    assert result.exit_code == 2


def test_the_work_folder_can_come_from_the_environment(balls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDMAMBA_WORK", str(balls.parent / "elsewhere"))
    assert CliRunner().invoke(app, ["plan", str(balls)]).exit_code == 0
    assert list((balls.parent / "elsewhere").glob("*/fingerprint.json"))


def test_rules_for_channels_are_given_by_name(planned: tuple[Path, Path, str]) -> None:
    data, path, _ = planned
    command = ["plan", str(data), "--network", "unet", "--work", str(path.parent.parent.parent)]

    def told(rule: str) -> Result:
        return CliRunner().invoke(app, [*command, "--channel-rule", rule])

    assert told("MR=T1.*(GD|post)").exit_code == 0
    assert Plan.load(path).channel_rules == {"MR": "T1.*(GD|post)"}
    for wrong in ("MR", "=T1", "MR="):
        assert told(wrong).exit_code == 2
        assert "--channel-rule is given as NAME=REGEX" in told(wrong).output
    assert told("CT=T1").exit_code == 3
