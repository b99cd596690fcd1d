"""What training tells to do next, and to do about an error, is done here as it is told."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from medmamba import networks
from medmamba.cli.train import parse_time
from medmamba.errors import UsageError
from medmamba.io import open_dataset
from medmamba.plans import splits
from medmamba.plans.plan import Plan
from medmamba.training.run import Run
from tests.cli.remedies import SMALL, follow, line, one_image, run


def test_next_of_training_on_all_cases_asks_for_new_ones(
    trained: tuple[Path, str], planned: tuple[Path, Path, str], tmp_path: Path
) -> None:
    _, plan, _ = planned
    code, said = run("train", plan, "--fold", "all", "--steps", 1, *SMALL)
    assert code == 0, said
    follow(line(said, "Next:"), "--no-mirror", IMAGES=one_image(tmp_path), SEGMENTATIONS=tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").glob("*.nii.gz")] == ["new.nii.gz"]
    # Every case was learned from: what comes of judging on them would look better than it is.
    code, said = run("predict", "--validation", "-m", plan.parent / "fold_all", "-o", tmp_path / "none")
    assert (code, "no cases to validate on; give images with -i instead of --validation" in said) == (2, True), said
    assert not (tmp_path / "none").exists()
    # Of several folds one is to be chosen, and those there are named.
    code, said = run("predict", "--validation", "-m", plan.parent, "-o", tmp_path / "none")
    assert code == 2
    assert f"give one of {plan.parent / 'fold_0'}, {plan.parent / 'fold_all'} with -m" in said


def test_other_settings_start_over_with_restart(trained: tuple[Path, str], planned: tuple[Path, Path, str]) -> None:
    again = ["train", planned[1], "--fold", "0", "--steps", "2", *SMALL]
    code, said = run(*again)
    assert code == 3
    assert "start over with --restart, which sets the old run aside" in said
    code, said = run(*again, "--restart")
    assert code == 0, said
    old = line(said, "The run that was here is now")
    assert Run.exists(Path(old))
    # As it was, for the other tests.
    code, said = run("train", planned[1], "--fold", "0", "--steps", "1", *SMALL, "--restart")
    assert code == 0, said


@pytest.mark.parametrize("key", ["batch_size", "train.batchsize", "topology.patch"])
def test_fields_of_a_plan_that_are_named_are_there(planned: tuple[Path, Path, str], key: str) -> None:
    code, said = run("train", planned[1], "--set", f"{key}=4")
    assert code == 2
    assert f"--set {key}: the plan has no field" in said
    names = said.rpartition("there are ")[2].strip().split(", ")
    assert {"train.batch_size", "topology.patch_size", "train"} & set(names)
    data: dict[str, Any] = json.loads(planned[1].read_text())
    for name in names:
        value: Any = data
        for part in name.split("."):
            value = value[part]
        assert Plan.load(planned[1]).override(name, value) == Plan.load(planned[1])


@pytest.mark.parametrize(
    "wrong",
    ["train.batch_size=0", "axes=[0,0,0]", "train.seed=99999999999999999999999", "train.seed=" + "[" * 100_000],
    ids=lambda text: text[:24],
)
def test_wrong_set_is_wrong_usage_and_leaves_the_run_where_it_is(
    planned: tuple[Path, Path, str], tmp_path: Path, wrong: str
) -> None:
    path = tmp_path / "plan.json"
    Plan.load(planned[1]).save(path)
    (tmp_path / "fold_0").mkdir()
    code, said = run("train", path, "--restart", "--set", wrong)
    assert code == 2, said
    assert f"--set {wrong.partition('=')[0]}: plan" in said
    assert sorted(file.name for file in tmp_path.iterdir()) == ["fold_0", "plan.json"]


def test_options_of_a_network_that_are_named_are_taken_by_the_same_command(
    planned: tuple[Path, Path, str], tmp_path: Path
) -> None:
    path = tmp_path / "work" / "data" / "3d_fullres__unet" / "plan.json"
    path.parent.mkdir(parents=True)
    Plan.load(planned[1]).save(path)
    training = ("train", path, "--steps", 1, *SMALL, "--set")
    code, said = run(*training, "network.options.deep=true")
    named = re.search(r"its options are: (\w+)", said)
    assert code == 2
    assert named is not None, said
    assert not (path.parent / "fold_0").exists()  # or the corrected command would be another one than it began with
    value = json.dumps(networks.describe("unet").options[named[1]])
    code, said = run(*training, f"network.options.{named[1]}={value}")
    assert code == 0, said


def test_folds_that_are_named_are_there(planned: tuple[Path, Path, str]) -> None:
    dataset = open_dataset(planned[0])
    with pytest.raises(ValueError, match="has folds") as caught:
        splits.split(dataset, "9")
    numbers = re.search(r"folds (\d) to (\d)", str(caught.value))
    assert numbers is not None
    for number in range(int(numbers[1]), int(numbers[2]) + 1):
        assert splits.split(dataset, str(number)).held_out
    assert splits.split(dataset, "all").held_out == ()


def test_times_that_are_named_are_understood() -> None:
    with pytest.raises(UsageError) as refusal:
        parse_time("soon")
    named = str(refusal.value).partition("such as ")[2].partition(", got")[0].replace(" or ", ", ").split(", ")
    assert [parse_time(time) for time in named] == [90, 1200, 5400, 172800]
