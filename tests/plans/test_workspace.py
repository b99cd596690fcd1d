from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medmamba.case import Dataset
from medmamba.plans import fingerprint as fingerprint_module
from medmamba.plans import workspace as workspace_module
from medmamba.plans.fingerprint import Fingerprint
from medmamba.plans.plan import Plan
from medmamba.plans.planner import make_plan
from medmamba.plans.workspace import Workspace, differences, measured, plan_dataset, run_folder, run_folders, safe_name


@pytest.fixture
def balls(scans: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A writer that has written two cases."""
    monkeypatch.setattr(fingerprint_module, "FOREGROUND_SAMPLES", 1000)
    index = np.indices((24, 24, 24))
    for radius in (6, 8):
        label = ((index - 12) ** 2).sum(0) < radius**2
        scans.add((10 + 5 * label)[None], label)
    return scans


@pytest.fixture
def measurements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the data sets that are measured from now on."""
    names: list[str] = []

    def noted(dataset: Dataset, *arguments: Any, **options: Any) -> Fingerprint:
        names.append(dataset.name)
        return fingerprint_module.fingerprint(dataset, *arguments, **options)

    monkeypatch.setattr(workspace_module, "fingerprint", noted)
    return names


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("Hippocampus", "Hippocampus"),
        ("Liver / MR (T2)", "Liver_MR_T2"),
        ("../../etc", "etc"),
        ("..", "dataset"),
        ("", "dataset"),
        ("a:b*c?", "a_b_c"),
        ("脑MRI", "脑MRI"),
        ("v1.2", "v1.2"),
        ("x" * 300, "x" * 100),
    ],
)
def test_names_become_safe_for_folders(name: str, folder: str) -> None:
    assert safe_name(name) == folder


def test_the_layout_is_as_documented(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, "My data")
    assert workspace.fingerprint == tmp_path / "My_data" / "fingerprint.json"
    assert workspace.plan("2d", "segmamba") == tmp_path / "My_data" / "2d__segmamba" / "plan.json"
    named = workspace.plan("2d", "segmamba", {"mixer": "none", "blocks": [1, 2]}, 24)
    assert named.parent.name == "2d__segmamba__blocks-_1_2__mixer-none__gpu-24GB"


def test_measurements_are_reused_until_the_data_change(balls: Any, tmp_path: Path, measurements: list[str]) -> None:
    dataset, workspace = balls.dataset(), Workspace(tmp_path / "work", "Phantoms")
    first = measured(dataset, workspace)
    assert measured(dataset, workspace) == first
    assert len(measurements) == 1
    os.utime(dataset.training[0].label, ns=(0, 0))
    again = measured(dataset, workspace)
    assert again.cases[0].source != first.cases[0].source
    assert measured(dataset, workspace) == again
    assert len(measurements) == 2


def test_unreadable_measurements_are_made_again(
    balls: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, measurements: list[str]
) -> None:
    dataset, workspace = balls.dataset(), Workspace(tmp_path / "work", "Phantoms")
    workspace.fingerprint.parent.mkdir(parents=True)
    workspace.fingerprint.write_text('{"schema": 99}')
    found = measured(dataset, workspace)
    assert "measuring again" in caplog.text
    assert measured(dataset, workspace) == found
    assert len(measurements) == 1


def test_another_data_set_of_the_same_name_is_refused(balls: Any, tmp_path: Path) -> None:
    dataset, workspace = balls.dataset(), Workspace(tmp_path / "work", "Phantoms")
    measured(dataset, workspace)
    other = replace(dataset, root=tmp_path, training=dataset.training[:1])
    with pytest.raises(ValueError, match=f"another data set named 'Phantoms', in {dataset.root}.*another work folder"):
        measured(other, workspace)


def test_planning_writes_a_plan_and_planning_again_leaves_it(
    balls: Any, tmp_path: Path, measurements: list[str]
) -> None:
    dataset, work = balls.dataset(), tmp_path / "work"
    first = plan_dataset(dataset, "segmamba", work=work)
    assert first.outcome == "written"
    assert first.path == work / "Phantoms" / "3d_fullres__segmamba" / "plan.json"
    assert Plan.load(first.path) == first.plan
    before = first.path.stat().st_mtime_ns
    second = plan_dataset(dataset, "segmamba", work=work)
    assert (second.outcome, second.plan, len(measurements)) == ("unchanged", first.plan, 1)
    assert first.path.stat().st_mtime_ns == before


def test_more_memory_that_changes_nothing_makes_no_folder_whatever_the_options(balls: Any, tmp_path: Path) -> None:
    dataset, work = balls.dataset(), tmp_path / "work"
    for options in ({}, {"mixer": "none"}):
        first = plan_dataset(dataset, "segmamba", work=work, network_options=options)
        more = plan_dataset(dataset, "segmamba", work=work, network_options=options, gpu_memory_gb=8.5)
        assert (more.path, more.outcome) == (first.path, "unchanged")


def test_an_edited_plan_is_kept_unless_forced(balls: Any, tmp_path: Path) -> None:
    dataset, work = balls.dataset(), tmp_path / "work"
    path = plan_dataset(dataset, "segmamba", "2d", work=work).path
    edited = json.loads(path.read_text())
    edited["train"]["epochs"] = 50
    path.write_text(json.dumps(edited))
    kept = plan_dataset(dataset, "segmamba", "2d", work=work)
    assert (kept.outcome, kept.plan.train.epochs) == ("kept", 50)
    assert kept.differences == ("train.epochs: 50, new 1000",)
    assert Plan.load(path).train.epochs == 50
    forced = plan_dataset(dataset, "segmamba", "2d", work=work, force=True)
    assert (forced.outcome, forced.differences) == ("replaced", kept.differences)
    assert Plan.load(path).train.epochs == 1000


def test_plans_with_other_options_have_folders_of_their_own(balls: Any, tmp_path: Path) -> None:
    dataset, work = balls.dataset(), tmp_path / "work"
    plain = plan_dataset(dataset, "umamba_bot", work=work)
    other = plan_dataset(dataset, "umamba_bot", work=work, network_options={"mixer": "none"})
    assert (plain.outcome, other.outcome) == ("written", "written")
    assert other.path.parent.name == "3d_fullres__umamba_bot__mixer-none"
    assert Plan.load(plain.path) == plain.plan
    assert plan_dataset(dataset, "umamba_bot", work=work, network_options={"mixer": "none"}).outcome == "unchanged"


def test_plan_for_more_memory_has_its_own_folder_where_it_is_another(balls: Any, tmp_path: Path) -> None:
    dataset, work = balls.dataset(), tmp_path / "work"
    plain = plan_dataset(dataset, "unet", work=work)
    small = plan_dataset(dataset, "unet", work=work, gpu_memory_gb=0.02)
    assert (small.outcome, small.path.parent.name) == ("written", "3d_fullres__unet__gpu-0.02GB")
    assert small.plan.topology != plain.plan.topology
    assert plan_dataset(dataset, "unet", work=work, gpu_memory_gb=0.02).outcome == "unchanged"
    # Where nothing comes of it, there is nothing to tell apart.
    more = plan_dataset(dataset, "unet", work=work, gpu_memory_gb=24)
    assert (more.outcome, more.path) == ("unchanged", plain.path)


@pytest.mark.parametrize("asked", [{"network_options": {"mixer": "none"}}, {"gpu_memory_gb": 0.02}], ids=str)
def test_plan_that_the_first_version_kept_under_the_plain_name_is_found(
    balls: Any, tmp_path: Path, asked: dict[str, Any]
) -> None:
    dataset, work = balls.dataset(), tmp_path / "work"
    made = plan_dataset(dataset, "umamba_bot", work=work, **asked)
    earlier = made.path.parent.rename(made.path.parents[1] / "3d_fullres__umamba_bot") / "plan.json"
    again = plan_dataset(dataset, "umamba_bot", work=work, **asked)
    assert (again.outcome, again.path) == ("unchanged", earlier)
    edited = made.plan.override("train.epochs", 50)
    edited.save(earlier)
    again = plan_dataset(dataset, "umamba_bot", work=work, **asked)
    if "network_options" in asked:  # they tell whose plan it is
        assert (again.outcome, again.path) == ("kept", earlier)
    assert Plan.load(earlier) == edited


def test_trainings_that_were_set_aside_are_not_among_those_of_a_plan(tmp_path: Path) -> None:
    for fold in ("1", "all", "0", "0.old1"):
        run_folder(tmp_path, fold).mkdir()
    assert [path.name for path in run_folders(tmp_path)] == ["fold_0", "fold_1", "fold_all"]


def test_a_plan_that_cannot_be_read_is_named_and_can_be_replaced(balls: Any, tmp_path: Path) -> None:
    dataset, work = balls.dataset(), tmp_path / "work"
    path = plan_dataset(dataset, "segmamba", work=work).path
    path.write_text("{")
    with pytest.raises(ValueError, match=r"plan\.json is not valid JSON"):
        plan_dataset(dataset, "segmamba", work=work)
    assert plan_dataset(dataset, "segmamba", work=work, force=True).outcome == "replaced"
    assert Plan.load(path).network.name == "segmamba"


def test_a_moved_data_set_only_changes_where_it_is(balls: Any, tmp_path: Path, measurements: list[str]) -> None:
    dataset, work = balls.dataset(), tmp_path / "work"
    before = plan_dataset(dataset, "segmamba", work=work)
    root = balls.root.rename(tmp_path / "elsewhere")
    training = tuple(
        replace(case, images=tuple(root / path.name for path in case.images), label=root / case.label.name)
        for case in dataset.training
    )
    after = plan_dataset(replace(dataset, root=root, training=training), "segmamba", work=work)
    assert (after.outcome, len(measurements)) == ("unchanged", 1)
    assert Plan.load(after.path).dataset_root == str(root)
    assert after.plan.digest() == before.plan.digest()


def test_rules_for_channels_are_kept_until_others_are_given(balls: Any, tmp_path: Path) -> None:
    dataset, work = balls.dataset(), tmp_path / "work"
    [channel] = dataset.channels
    path = plan_dataset(dataset, "segmamba", work=work).path
    for given, expected in (({channel: "T1"}, "T1"), (None, "T1"), ({channel: "T2"}, "T2")):
        result = plan_dataset(dataset, "segmamba", work=work, channel_rules=given)
        assert (result.outcome, result.plan.channel_rules) == ("unchanged", {channel: expected})
        assert Plan.load(path).channel_rules == {channel: expected}


def test_differences_name_the_field(measured_dataset: Any) -> None:
    fingerprint, dataset = measured_dataset([(60, 60, 60)], [(1.0, 1.0, 1.0)])
    plan, _ = make_plan(fingerprint, dataset, network="segmamba")
    other, _ = make_plan(fingerprint, dataset, network="segmamba", network_options={"depth": 2})
    assert differences(plan, plan) == ()
    assert differences(plan, other) == ("network.options.depth: absent, new 2",)
