"""The judge of fingerprint and planner: nnunetv2 itself, run on the same data."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from medmamba import Dataset
from medmamba.io import open_dataset
from medmamba.plans.decisions import times
from medmamba.plans.fingerprint import Fingerprint, fingerprint
from medmamba.plans.plan import Plan
from medmamba.plans.planner import make_plan, possible_configurations

NAME = "Dataset999_Parity"

SCHEMES = {
    "ZScoreNormalization": "zscore",
    "CTNormalization": "ct",
    "NoNormalization": "none",
    "RescaleTo01Normalization": "rescale_0_1",
    "RGBTo01Normalization": "rgb_0_1",
}


@pytest.fixture
def nnunet_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable, folder in [("raw", "raw"), ("preprocessed", "preprocessed"), ("results", "results")]:
        monkeypatch.setenv(f"nnUNet_{variable}", str(tmp_path / folder))
        (tmp_path / folder / NAME).mkdir(parents=True)
    return tmp_path


def dataset_json(dataset: Dataset) -> dict[str, Any]:
    labels = {"background": 0, **{label.name: label.values[0] for label in dataset.labels.foreground}}
    if dataset.labels.ignore is not None:
        labels["ignore"] = dataset.labels.ignore
    return {
        "channel_names": {str(index): name for index, name in enumerate(dataset.channels)},
        "labels": labels,
        "numTraining": len(dataset.training),
        "file_ending": dataset.file_ending,
        "overwrite_image_reader_writer": "SimpleITKIO",
        "dataset": {
            case.id: {"images": [str(image) for image in case.images], "label": str(case.label)}
            for case in dataset.training
        },
    }


def nnunet_fingerprint(ours: Fingerprint) -> dict[str, Any]:
    """Our fingerprint as nnU-Net writes its own."""
    return {
        "spacings": [list(case.spacing_mm[::-1]) for case in ours.cases],
        "shapes_after_crop": [list(case.cropped_shape[::-1]) for case in ours.cases],
        "foreground_intensity_properties_per_channel": {
            str(index): {
                name: getattr(statistics, name)
                for name in ("mean", "median", "std", "min", "max", "percentile_00_5", "percentile_99_5")
            }
            for index, statistics in enumerate(ours.intensities)
        },
        "median_relative_size_after_cropping": ours.median_relative_size,
    }


def nnunet_plan(folders: Path, dataset: Dataset, theirs: dict[str, Any], memory_gb: float) -> dict[str, Any]:
    """What nnU-Net's planner makes of a fingerprint, as it is written to disk."""
    (folders / "raw" / NAME / "dataset.json").write_text(json.dumps(dataset_json(dataset)))
    (folders / "preprocessed" / NAME / "dataset_fingerprint.json").write_text(json.dumps(theirs))
    # The planner builds a network for each patch size that it tries, to count feature maps; without memory it is fast.
    with torch.device("meta"):
        ExperimentPlanner(NAME, gpu_memory_target_in_gb=memory_gb).plan_experiment()
    return json.loads((folders / "preprocessed" / NAME / "nnUNetPlans.json").read_text())


def nnunet_augmentation(theirs: dict[str, Any], configuration: str) -> tuple[float, bool, tuple[int, ...]]:
    """Rotation in degrees, augmentation in slices, mirror axes, as nnU-Net's trainer takes them from a plan."""

    class Trainer(nnUNetTrainer):
        def __init__(self) -> None:
            self.configuration_manager = PlansManager(theirs).get_configuration(configuration)

        def print_to_log_file(self, *args: Any, **_: Any) -> None:
            pass

    rotation, in_plane, _, mirror_axes = Trainer().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    return float(np.degrees(rotation[1])), in_plane, mirror_axes


def assert_same_plan(ours: Plan, theirs: dict[str, Any]) -> None:
    configuration = theirs["configurations"][ours.configuration]
    network = configuration["architecture"]["arch_kwargs"]
    assert [2 - axis for axis in ours.axes] == theirs["transpose_forward"]
    assert list(ours.spacing_mm) == configuration["spacing"]
    assert list(ours.median_shape) == configuration["median_image_size_in_voxels"]
    assert list(ours.topology.patch_size) == configuration["patch_size"]
    assert ours.train.batch_size == configuration["batch_size"]
    assert ours.train.batch_dice == configuration["batch_dice"]
    assert [list(row) for row in ours.topology.strides] == network["strides"]
    assert [list(row) for row in ours.topology.kernel_sizes] == network["kernel_sizes"]
    assert list(ours.topology.features) == network["features_per_stage"]
    assert [c.normalization for c in ours.channels] == [SCHEMES[s] for s in configuration["normalization_schemes"]]
    assert [c.use_mask for c in ours.channels] == configuration["use_mask_for_norm"]
    for order, name in [
        (ours.resampling.image_order, "data"),
        (ours.resampling.label_order, "seg"),
        (ours.resampling.logits_order, "probabilities"),
    ]:
        arguments = configuration[f"resampling_fn_{name}_kwargs"]
        assert (order, ours.resampling.coarse_axis_order) == (arguments["order"], arguments["order_z"])
        assert arguments["force_separate_z"] is None
    rotation, in_plane, mirror_axes = nnunet_augmentation(theirs, ours.configuration)
    assert ours.train.rotation_degrees == pytest.approx(rotation)
    assert (ours.train.in_plane_augmentation, ours.train.mirror_axes) == (in_plane, mirror_axes)


def compare(folders: Path, ours: Fingerprint, dataset: Dataset, memory_gb: float) -> list[Plan]:
    theirs = nnunet_plan(folders, dataset, nnunet_fingerprint(ours), memory_gb)
    configurations = possible_configurations(ours)
    assert set(configurations) == set(theirs["configurations"]) & {"2d", "3d_fullres"}
    plans = []
    for configuration in configurations:
        plan, decisions = make_plan(
            ours, dataset, network="umamba_bot", configuration=configuration, gpu_memory_gb=memory_gb
        )
        assert_same_plan(plan, theirs)
        if configuration == "3d_fullres":
            advice = [decision.value for decision in decisions if decision.what == "low resolution"]
            lowres = [theirs["configurations"][name] for name in theirs["configurations"] if name == "3d_lowres"]
            assert advice == [
                f"a stage at {times(stage['spacing'])} mm would be advised; not available yet" for stage in lowres
            ]
        plans.append(plan)
    return plans


@pytest.mark.parametrize("memory_gb", [4.0, 8.0, 24.0])
@pytest.mark.parametrize(
    ("shapes", "spacings", "options"),
    [
        pytest.param([(36, 50, 35), (35, 51, 34), (38, 47, 40)] * 40, [(1.0, 1.0, 1.0)] * 120, {}, id="small_mr"),
        pytest.param(
            [(256, 256, 10), (216, 256, 12), (320, 320, 8)] * 10,
            [(0.5, 0.5, 10.0), (0.6, 0.6, 5.0), (0.4, 0.4, 10.0)] * 10,
            {"labels": 3},
            id="coarse_slices",
        ),
        pytest.param(
            [(20, 400, 420)] * 3 + [(21, 380, 400)] * 3, [(5.0, 0.5, 0.5)] * 5 + [(0.2, 0.5, 0.5)], {}, id="sagittal"
        ),
        pytest.param(
            [(512, 512, 130), (512, 512, 640), (512, 512, 320)] * 5,
            [(0.8, 0.8, 2.5), (0.7, 0.7, 1.0), (0.9, 0.9, 1.5)] * 5,
            {"channels": ("CT",), "labels": 13},
            id="large_ct",
        ),
        pytest.param(
            [(140, 172, 138), (135, 170, 141)] * 50,
            [(1.0, 1.0, 1.0)] * 100,
            {"channels": ("T1", "T1ce", "T2", "FLAIR"), "labels": 3, "relative_size": 0.3, "ignore": 4},
            id="brats_like",
        ),
        pytest.param(
            [(640, 480, 1)] * 30,
            [(1.0, 1.0, 999.0)] * 30,
            {"channels": ("rgb_to_0_1",) * 3, "labels": 1, "relative_size": 0.5},
            id="pictures",
        ),
        pytest.param(
            [(90, 60, 120), (100, 64, 110)],
            [(1.3, 2.2, 0.7), (1.25, 2.0, 0.75)],
            {"channels": ("noNorm", "zscore", "rescale_to_0_1", "CT"), "relative_size": 0.7},
            id="odd_channels",
        ),
    ],
)
def test_plans_equal_those_of_nnunet(
    nnunet_folders: Path, measured_dataset: Any, shapes: Any, spacings: Any, options: dict[str, Any], memory_gb: float
) -> None:
    ours, dataset = measured_dataset(shapes, spacings, **options)
    compare(nnunet_folders, ours, dataset, memory_gb)


@pytest.mark.parametrize("seed", range(12))
def test_plans_of_random_data_sets_equal_those_of_nnunet(
    nnunet_folders: Path, measured_dataset: Any, seed: int
) -> None:
    chance = random.Random(seed)
    cases = chance.randint(1, 60)
    size = [chance.randint(24, 400) for _ in range(3)]
    spacing = [chance.uniform(0.3, 4.0) for _ in range(3)]
    ours, dataset = measured_dataset(
        [tuple(round(n * chance.uniform(0.8, 1.25)) for n in size) for _ in range(cases)],
        [tuple(mm * chance.uniform(0.8, 1.25) for mm in spacing) for _ in range(cases)],
        labels=chance.randint(1, 20),
        relative_size=chance.uniform(0.2, 1.0),
    )
    compare(nnunet_folders, ours, dataset, chance.choice([2.0, 6.0, 8.0, 11.0, 40.0]))


@pytest.mark.slow
def test_fingerprint_and_plans_of_real_scans_equal_those_of_nnunet(nnunet_folders: Path, shared: Path) -> None:
    dataset = open_dataset(shared / "data" / "msd_hippocampus")
    ours = fingerprint(dataset)
    (nnunet_folders / "raw" / NAME / "dataset.json").write_text(json.dumps(dataset_json(dataset)))
    theirs = DatasetFingerprintExtractor(NAME, num_processes=min(8, os.cpu_count() or 1)).run()
    np.testing.assert_allclose([case.spacing_mm[::-1] for case in ours.cases], theirs["spacings"], rtol=1e-6)
    assert [case.cropped_shape[::-1] for case in ours.cases] == [tuple(shape) for shape in theirs["shapes_after_crop"]]
    assert ours.median_relative_size == theirs["median_relative_size_after_cropping"]
    expected = theirs["foreground_intensity_properties_per_channel"][0]
    statistics = ours.intensities[0]
    # Sums are made in float64 here and in float32 there, everything else is the same number.
    for name in ("mean", "std"):
        assert getattr(statistics, name) == pytest.approx(expected[name], rel=1e-5)
    for name in ("median", "min", "max", "percentile_00_5", "percentile_99_5"):
        assert getattr(statistics, name) == pytest.approx(expected[name], rel=1e-6)
    written = json.loads((nnunet_folders / "preprocessed" / NAME / "dataset_fingerprint.json").read_text())
    for configuration in ("2d", "3d_fullres"):
        plan, _ = make_plan(ours, dataset, network="umamba_bot", configuration=configuration)
        assert_same_plan(plan, nnunet_plan(nnunet_folders, dataset, written, 8.0))
