"""Plans of nnU-Net's models become ours, and what ours cannot do is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medmamba.errors import DataError
from medmamba.io import open_dataset
from medmamba.plans.fingerprint import fingerprint
from medmamba.plans.from_nnunet import plan_from_nnunet
from medmamba.plans.nnunet import PLANS_NAME, export_nnunet
from medmamba.plans.planner import make_plan
from tests import umamba_factory as factory
from tests.data_factory import write_dataset
from tests.umamba_factory import Model

Change = Callable[[dict[str, Any], dict[str, Any]], object]


def written(folder: Path, change: Change = lambda plans, facts: None) -> Path:
    """plans.json and dataset.json, changed."""
    plans, facts = factory.plans(Model()), factory.description(Model())
    change(plans["configurations"]["parent"] | {"_": plans}, facts)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(facts))
    return folder


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_exported_plan_comes_back(tmp_path: Path, configuration: Any) -> None:
    dataset = open_dataset(write_dataset(tmp_path / "Dataset042_Small"))
    measured = fingerprint(dataset)
    plan, _ = make_plan(measured, dataset, network="umamba_bot", configuration=configuration, gpu_memory_gb=4)
    assert export_nnunet(tmp_path, dataset, measured, [plan]) == 42
    folder = tmp_path / "nnUNet_preprocessed" / "Dataset042_Small"
    (folder / f"{PLANS_NAME}.json").rename(folder / "plans.json")
    back = plan_from_nnunet(folder, configuration, "umamba_bot", mirror_axes=plan.train.mirror_axes)
    assert back.preprocessing_digest() == plan.preprocessing_digest()
    assert (back.topology, back.network, back.median_shape) == (plan.topology, plan.network, plan.median_shape)
    assert (back.train.batch_size, back.train.mirror_axes) == (plan.train.batch_size, plan.train.mirror_axes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c, f: c["_"].update(image_reader_writer="NibabelIOWithReorient"), "read by NibabelIOWithReorient"),
        (lambda c, f: c["resampling_fn_seg_kwargs"].update(force_separate_z=True), "without force_separate_z"),
        (lambda c, f: c["resampling_fn_seg_kwargs"].update(order_z=1), "one order_z"),
        (lambda c, f: c["normalization_schemes"].__setitem__(0, "MyOwn"), "normalisation MyOwn is not known"),
        (lambda c, f: c["normalization_schemes"].pop(), "normalises 1 channels, but dataset.json names CT, T2"),
        (lambda c, f: c["_"].pop("transpose_forward"), r"plans\.json has no 'transpose_forward'"),
        (lambda c, f: f.pop("file_ending"), r"dataset\.json has no 'file_ending'"),
        (lambda c, f: c["patch_size"].__setitem__(0, 15), r"plans\.json.topology: patch size .* must be divisible"),
    ],
)
def test_what_is_done_otherwise_here_is_refused(tmp_path: Path, change: Change, words: str) -> None:
    with pytest.raises(DataError, match=words):
        plan_from_nnunet(written(tmp_path, change), "3d_fullres", "umamba_bot")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("preprocessor_name", "Other", "only DefaultPreprocessor"),
        ("previous_stage", "3d_lowres", "cascade"),
        ("resampling_fn_data", "resample_torch", "resampling_fn_data resample_torch"),
        ("batch_dice", "yes", r"plans\.json\.train\.batch_dice: must be of type bool, got 'yes'"),
        ("inherits_from", "3d_fullres", "no configuration '3d_fullres'"),
        ("inherits_from", "missing", "no configuration 'missing'; it has parent, 3d_fullres"),
    ],
)
def test_other_configurations_are_refused(tmp_path: Path, key: str, value: str, words: str) -> None:
    def change(configuration: dict[str, Any], facts: dict[str, Any]) -> None:
        configuration["_"]["configurations"]["parent"][key] = value

    with pytest.raises(DataError, match=words):
        plan_from_nnunet(written(tmp_path, change), "3d_fullres", "umamba_bot")


def test_files_of_another_kind_are_replaced_by_nifti_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def change(configuration: dict[str, Any], facts: dict[str, Any]) -> None:
        facts["file_ending"] = ".png"

    assert plan_from_nnunet(written(tmp_path, change), "3d_fullres", "umamba_bot").file_ending == ".nii.gz"
    assert "trained on .png files" in caplog.text
