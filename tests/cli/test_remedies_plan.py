"""What planning tells to do next, and to do about an error, is done here as it is told."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from medmamba import io, networks
from medmamba.evaluation.metrics import GROUPS, metric
from medmamba.io import open_dataset
from medmamba.plans import splits
from medmamba.plans.plan import Plan
from medmamba.training.run import Run
from medmamba.volume import Geometry, Volume
from tests.cli.remedies import SMALL, commands, describe, follow, line, run
from tests.data_factory import AFFINE, write_dataset


def test_single_case_is_planned_and_trained_as_told(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "one", cases=1)
    code, said = run("plan", data, "--work", tmp_path / "work")
    assert code == 0, said
    [arguments] = commands(line(said, "next "))
    assert arguments[-2:] == ["--fold", "all"]
    code, said = run("train", data, "--work", tmp_path / "work")
    assert "with fold 'all'" in said
    assert splits.split(open_dataset(data), "all").train == ("case_00",)


def test_edited_plan_is_used_as_told_or_replaced_by_force(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "my data", cases=2)
    planning = ("plan", data, "--network", "unet", "--work", tmp_path / "my work")
    assert run(*planning)[0] == 0
    [path] = tmp_path.glob("my work/*/*/plan.json")
    Plan.load(path).override("topology.features", [4, 8, 8]).override("train.batch_size", 2).save(path)
    code, said = run(*planning)
    assert code == 2
    told = re.search(r"Train with it as it is \((.+)\), or add (--force) to replace it", said)
    assert told is not None, said
    follow(told[1], "--steps", "1")
    assert Run(path.parent / "fold_0").plan.topology.features == (4, 8, 8)
    # Also when the data set is given, the old plan is used only with a word.
    code, said = run("train", data, "--network", "unet", "--work", tmp_path / "my work", "--steps", 1)
    assert code == 0
    assert "differs from what would be planned now, and is used as it is" in said
    assert "topology.features[0]: 4, new" in said or "topology.features: [4, 8, 8], new" in said
    assert run(*planning, told[2])[0] == 0
    assert Plan.load(path).topology.features != (4, 8, 8)


def test_plan_that_cannot_be_read_is_replaced_by_force(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", cases=2)
    planning = ("plan", data, "--network", "unet", "--work", tmp_path / "work")
    assert run(*planning)[0] == 0
    [path] = tmp_path.glob("work/*/*/plan.json")
    whole = path.read_text()
    path.write_text(whole[:-20])
    code, said = run(*planning)
    assert (code, f"correct {path}, or replace it by planning with --force" in said) == (3, True), said
    assert run(*planning, "--force")[0] == 0
    assert path.read_text() == whole


def test_channel_that_is_no_rgb_is_renamed_and_planned_again(tmp_path: Path) -> None:
    data = describe(write_dataset(tmp_path / "data", cases=2), channel_names={"0": "rgb_to_0_1"})
    training = ("train", data, "--network", "unet", "--work", tmp_path / "work", "--steps", 1, *SMALL)
    code, said = run(*training)
    assert (code, "Name the channel otherwise in dataset.json, and plan again with --force" in said) == (3, True), said
    describe(data, channel_names={"0": "MR"})
    assert run("plan", data, "--network", "unet", "--work", tmp_path / "work", "--force")[0] == 0
    code, said = run(*training)
    assert code == 0, said


def test_two_data_sets_of_one_name_take_two_work_folders(tmp_path: Path) -> None:
    for place in "ab":
        write_dataset(tmp_path / place / "data", cases=2)
    assert run("plan", tmp_path / "a" / "data", "--work", tmp_path / "work")[0] == 0
    code, said = run("plan", tmp_path / "b" / "data", "--work", tmp_path / "work")
    assert (code, "another work folder" in said) == (3, True)
    assert run("plan", tmp_path / "b" / "data", "--work", tmp_path / "work2")[0] == 0


def test_slices_are_planned_with_the_configuration_that_is_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    geometry = Geometry((40, 36, 1), AFFINE)
    for name, values in (("images", rng.normal(100, 9, (1, 40, 36, 1))), ("labels", np.ones((1, 40, 36, 1), np.uint8))):
        (tmp_path / "flat" / name).mkdir(parents=True)
        for case in "ab":
            array = values.astype(np.float32) if name == "images" else values
            array[0, :20] = array[0, :20] * (name == "images")
            io.write(Volume(array, geometry), tmp_path / "flat" / name / f"{case}.nii.gz")
    code, said = run("plan", tmp_path / "flat", "--configuration", "3d_fullres", "--work", tmp_path / "work")
    named = re.search(r"choose (configuration) (\w+)", said)
    assert code == 3
    assert named is not None, said
    assert run("plan", tmp_path / "flat", f"--{named[1]}", named[2], "--work", tmp_path / "work")[0] == 0


def test_patch_size_that_is_named_as_nearest_is_accepted(planned: tuple[Path, Path, str]) -> None:
    plan = Plan.load(planned[1])
    patch = [size + 1 for size in plan.topology.patch_size]
    for _ in range(plan.topology.dims + 1):
        try:
            found = plan.override("topology.patch_size", patch)
        except ValueError as error:
            named = re.search(r"nearest for axis (\d) is (\d+)", str(error))
            assert named is not None
            patch[int(named[1])] = int(named[2])
        else:
            break
    assert list(found.topology.patch_size) == patch


def test_networks_and_metrics_that_are_named_exist(planned: tuple[Path, Path, str]) -> None:
    code, said = run("plan", planned[0], "--network", "unett")
    assert code == 2
    for name in said.rpartition("choose one of ")[2].strip().split(", "):
        assert networks.describe(name).task == "segmentation"
    code, said = run("evaluate", planned[0], planned[0], "--metric", "dise")
    names, groups = said.rpartition("choose from ")[2].strip().split(", or groups of metrics: ")
    assert code == 2
    for name in names.replace("nsd_<tolerance>mm such as ", "").split(", "):
        assert metric(name)
    assert groups.split(", ") == list(GROUPS)


def test_networks_that_are_named_for_registration_register(planned: tuple[Path, Path, str]) -> None:
    code, said = run("plan", planned[0], "--task", "registration", "--network", "voxelmorf")
    assert code == 2
    named = said.rpartition("choose one of ")[2].strip().split(", ")
    assert "voxelmorph" in named
    for name in named:
        assert networks.describe(name).task == "registration"
