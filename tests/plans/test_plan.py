from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medmamba import Label, Labels
from medmamba.case import Pairing
from medmamba.errors import DataError
from medmamba.plans.plan import (
    ChannelPlan,
    IntensityStatistics,
    NetworkPlan,
    Plan,
    RegistrationPlan,
    Resampling,
    Topology,
    TrainSettings,
)
from medmamba.records import RecordError, from_json, read_json, to_json, write_json

TOPOLOGY = Topology(
    patch_size=(16, 32, 24),
    strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)),
    kernel_sizes=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
    features=(8, 16, 32),
)
STATISTICS = IntensityStatistics(
    mean=1.5, median=1.0, std=0.1, min=-7.0, max=9.0, percentile_00_5=-5.0, percentile_99_5=8.0
)
PLAN = Plan(
    dataset="Phantoms",
    dataset_root="/data/phantoms",
    configuration="3d_fullres",
    channels=(ChannelPlan(name="CT", normalization="ct", use_mask=False, intensities=STATISTICS),),
    labels=Labels(
        foreground=(Label(name="whole", values=(1, 2)), Label(name="core", values=(2,))), region_order=(1, 2)
    ),
    axes=(2, 1, 0),
    spacing_mm=(5.0, 0.1, 1 / 3),
    median_shape=(20.0, 300.5, 310.0),
    resampling=Resampling(),
    network=NetworkPlan(name="segmamba", options={"depths": [2, 2], "drop": None}),
    topology=TOPOLOGY,
    train=TrainSettings(batch_size=2, batch_dice=False),
)


def test_reading_what_was_written_gives_the_same_plan(tmp_path: Path) -> None:
    PLAN.save(tmp_path / "a" / "plan.json")
    assert Plan.load(tmp_path / "a" / "plan.json") == PLAN


def test_a_plan_written_by_hand_may_leave_out_defaults(tmp_path: Path) -> None:
    data = to_json(PLAN)
    for key in ("inference", "file_ending", "schema"):
        del data[key]
    del data["train"]["epochs"]
    assert from_json(Plan, data, "plan") == PLAN


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda d: d.update(patch=1), "plan.json: unknown key patch; known are dataset"),
        (lambda d: d.pop("axes"), "plan.json: missing key axes"),
        (
            lambda d: d.update(configuration="4d"),
            "plan.json.configuration: must be one of '2d', '3d_fullres', got '4d'",
        ),
        (lambda d: d["train"].update(epochs="many"), "plan.json.train.epochs: must be of type int, got 'many'"),
        (lambda d: d["train"].update(epochs=True), "plan.json.train.epochs: must be of type int, got True"),
        (lambda d: d["train"].update(batch_dice=1), "plan.json.train.batch_dice: must be of type bool, got 1"),
        (lambda d: d.update(axes=[0, 1]), "plan.json.axes: must have 3 entries, got 2"),
        (lambda d: d.update(axes=[0, 1, 1]), "plan.json: axes must be a permutation"),
        (lambda d: d.update(axes=3), "plan.json.axes: must be a list, got 3"),
        (lambda d: d.update(train=[]), "plan.json.train: must be an object"),
        (lambda d: d.update(schema=2), "plan.json: plan has schema 2"),
        (lambda d: d.update(spacing_mm=[1, 1]), "plan.json: spacing needs 3 positive entries"),
        (lambda d: d.update(spacing_mm=[1, 0, 1]), "plan.json: spacing needs 3 positive entries"),
        (lambda d: d.update(configuration="2d"), "plan.json: a 2d plan cannot have a patch of (16, 32, 24)"),
        (lambda d: d["topology"].update(patch_size=[15, 32, 24]), "plan.json.topology: patch size (15, 32, 24)"),
        (lambda d: d.update(channel_rules={"T7": "x"}), "plan.json: channel_rules must be for "),
        (
            lambda d: d.update(channel_rules={d["channels"][0]["name"]: "T1("}),
            "is no regular expression: 'T1(' (missing )",
        ),
        (lambda d: d["channels"][0]["intensities"].pop("std"), "plan.json.channels[0].intensities: missing key std"),
    ],
)
def test_a_wrong_plan_is_refused_with_the_place(tmp_path: Path, edit: Callable[[Any], Any], words: str) -> None:
    data = to_json(PLAN)
    edit(data)
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match="plan") as caught:
        Plan.load(path)
    assert words in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path))
    assert str(caught.value).count(str(tmp_path)) == 1


def test_whole_numbers_may_stand_for_fractions() -> None:
    data = to_json(PLAN)
    data["spacing_mm"] = [5, 1, 1]
    assert from_json(Plan, data, "plan").spacing_mm == (5.0, 1.0, 1.0)


def test_the_digest_changes_with_decisions_and_not_with_the_place() -> None:
    assert len(PLAN.digest()) == 12
    assert replace(PLAN, dataset_root="/elsewhere").digest() == PLAN.digest()
    assert PLAN.override("train.epochs", 7).digest() != PLAN.digest()
    assert PLAN.digest() == "ad7a3ebcef8e"  # as before plans held an edition
    assert replace(PLAN, edition="brats2021").digest() == PLAN.digest()
    channel = PLAN.channels[0].name
    assert replace(PLAN, channel_rules={channel: "T1"}).digest() == PLAN.digest()


def test_the_digest_survives_a_file(tmp_path: Path) -> None:
    PLAN.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json").digest() == PLAN.digest()


@pytest.mark.parametrize(
    ("key", "value", "changes"),
    [
        ("train.epochs", 7, False),
        ("network.name", "umamba_bot", False),
        ("topology.patch_size", [16, 32, 32], False),
        ("spacing_mm", [5.0, 0.2, 0.2], True),
        ("axes", [0, 1, 2], True),
        ("resampling.image_order", 1, True),
    ],
)
def test_the_digest_of_preprocessing_sees_only_what_cases_depend_on(key: str, value: Any, changes: bool) -> None:
    assert (PLAN.override(key, value).preprocessing_digest() != PLAN.preprocessing_digest()) == changes


def test_override_changes_one_field() -> None:
    assert PLAN.override("train.epochs", 7) == replace(PLAN, train=replace(PLAN.train, epochs=7))
    assert PLAN.override("network.options.width", 9).network.options == {"depths": [2, 2], "drop": None, "width": 9}


@pytest.mark.parametrize("key", ["epochs", "train.epoch", "train.epochs.more", "", "train."])
def test_override_refuses_unknown_fields(key: str) -> None:
    with pytest.raises(ValueError, match="no field"):
        PLAN.override(key, 7)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.batch_size", 0),
        ("train.epochs", 0),
        ("train.steps_per_epoch", -1),
        ("train.learning_rate", float("nan")),
        ("train.learning_rate", float("inf")),
        ("train.momentum", 2.0),
        ("train.oversample_foreground", 7.0),
        ("train.mirror_axes", [7]),
        ("train.seed", -1),
        ("train.seed", 99999999999999999999999),
        ("train.seed", 18 * 10**12 + 1),
        ("train.learning_rate", 1001.0),
        ("train.learning_rate", 10**400),
        ("train.rotation_degrees", -1.0),
        ("train.rotation_degrees", 181.0),
        ("median_shape", [0.5, 20.0, 20.0]),
        ("inference.overlap", 1.0),
        ("resampling.image_order", 9),
        ("spacing_mm", [float("nan"), 1.0, 1.0]),
        ("topology.features", [0] * len(PLAN.topology.features)),
        ("channels", []),
    ],
)
def test_values_that_nothing_can_be_done_with_are_refused_at_the_door(key: str, value: Any) -> None:
    with pytest.raises(DataError, match=rf"plan.*{key.rpartition('.')[2][:7]}"):
        PLAN.override(key, value)


def test_largest_seed_of_a_plan_is_taken_by_what_draws_with_it() -> None:
    seed = PLAN.override("train.seed", 18 * 10**12).train.seed
    torch.manual_seed(seed * 1_000_003 + 10**9)  # as a step does
    np.random.default_rng([seed, 10**9, 0])


def test_override_refuses_values_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"plan\.train\.epochs: must be of type int"):
        PLAN.override("train.epochs", "many")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"features": (8,)}, "got 1 features, 3 strides and 3 kernel sizes; change the features to as many"),
        ({"patch_size": (16,)}, "2D or 3D"),
        ({"strides": ((1, 1, 1), (1, 2), (2, 2, 2))}, "3 positive entries"),
        ({"strides": ((1, 1, 1), (0, 2, 2), (2, 2, 2))}, "3 positive entries"),
        ({"kernel_sizes": ((2, 3, 3), (3, 3, 3), (3, 3, 3))}, "odd"),
        ({"patch_size": (16, 32, 25)}, "nearest for axis 2 is 24"),
        ({"patch_size": (16, 32, 0)}, "nearest for axis 2 is 4"),
    ],
)
def test_a_topology_that_does_not_fit_together_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(TOPOLOGY, **changes)


def test_total_stride_is_the_product() -> None:
    assert TOPOLOGY.total_stride == (2, 4, 4)
    assert TOPOLOGY.dims == 3


def test_a_file_that_is_not_json_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text('{\n"a": 1,\n}')
    with pytest.raises(ValueError, match=r"plan\.json is not valid JSON: .* in line 3"):
        read_json(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="not a text file in UTF-8"):
        read_json(path)
    path.write_text("[" * 100_000)
    with pytest.raises(RecordError, match=r"plan\.json has lists or objects in one another too deep"):
        read_json(path)
    path.write_text('{"a": ' + "1" * 5000 + "}")
    with pytest.raises(RecordError, match=r"plan\.json has a number that is too long"):
        read_json(path)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none.json")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    write_json({"a": 1}, path)
    with pytest.raises(ValueError, match="JSON"):
        write_json({"a": float("nan")}, path)
    assert read_json(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def registration(**changes: Any) -> Plan:
    plan = replace(PLAN, channels=PLAN.channels * 2, task="registration", registration=RegistrationPlan(**changes))
    return replace(plan, train=replace(plan.train, optimizer="adam"))


def test_a_plan_for_registration_has_two_images_and_its_own_part(tmp_path: Path) -> None:
    plan = registration(similarity="mind", pairing=Pairing(moving="../mr"))
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan
    with pytest.raises(DataError, match="two channels"):
        replace(plan, channels=PLAN.channels)
    with pytest.raises(DataError, match="registration needs the part 'registration'"):
        replace(plan, registration=None)
    with pytest.raises(DataError, match="segmentation has no use for the part"):
        replace(plan, task="segmentation")
    with pytest.raises(DataError, match="nothing pulls"):
        registration(similarity_weight=0.0)
    with pytest.raises(DataError, match="smoothness_weight must be 0 or more, got -1"):
        registration(smoothness_weight=-1.0)


def test_digests_of_registration_see_its_decisions_and_not_where_the_second_folder_lies() -> None:
    plan = registration(pairing=Pairing(moving="../mr"))
    assert plan.digest() == registration(pairing=Pairing(moving="elsewhere")).digest()
    assert plan.digest() != registration().digest()
    assert plan.override("registration.smoothness_weight", 2).digest() != plan.digest()
    assert plan.override("train.optimizer", "sgd").digest() != plan.digest()
    prepared = plan.preprocessing_digest()
    assert plan.override("registration.affine", "rigid").preprocessing_digest() != prepared
    assert plan.override("registration.smoothness_weight", 2).preprocessing_digest() == prepared


def test_fields_that_fit_one_another_only_together_are_changed_at_once() -> None:
    plan = registration()
    changes = {"registration.similarity_weight": 0.0, "registration.synthetic_mm": 12.0}
    with pytest.raises(DataError, match="nothing pulls otherwise"):
        plan.override("registration.similarity_weight", 0.0)
    changed = plan.overridden(changes).registration
    assert changed is not None
    assert (changed.similarity_weight, changed.synthetic_mm) == (0.0, 12.0)
