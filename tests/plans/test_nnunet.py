"""Stock nnU-Net trains and predicts with our networks, through the plans file alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medmamba.io import open_dataset
from medmamba.labels import Label, Labels
from medmamba.networks import nnunet as builder
from medmamba.plans import fingerprint as fingerprint_module
from medmamba.plans.fingerprint import fingerprint
from medmamba.plans.nnunet import PLANS_NAME, export_nnunet, nnunet_name
from medmamba.plans.plan import Topology
from medmamba.plans.planner import make_plan
from tests.brats_factory import brats2023
from tests.data_factory import write_dataset

#: Two epochs of two steps; validation of whole cases is left out, which prediction stands in for.
TRAINER = """
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class TwoShortEpochs(nnUNetTrainer):
    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cpu")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 2, 2, 1

    def perform_actual_validation(self, save_probabilities=False):
        pass
"""
SMALL = Topology(
    patch_size=(16, 16, 16),
    strides=((1, 1, 1), (2, 2, 2), (2, 2, 2)),
    kernel_sizes=((3, 3, 3),) * 3,
    features=(4, 6, 8),
)


def run(command: str, folder: Path, *arguments: str) -> None:
    """One of nnU-Net's own commands."""
    variables = {f"nnUNet_{kind}": str(folder / f"nnUNet_{kind}") for kind in ("raw", "preprocessed", "results")}
    variables |= {"nnUNet_compile": "0", "nnUNet_n_proc_DA": "1", "nnUNet_extTrainer": str(folder / "trainer")}
    script = str(Path(sys.executable).parent / command)
    result = subprocess.run([script, *arguments], env=os.environ | variables, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize("network", ["umamba_bot", "umamba_enc", "segmamba"])
def test_stock_nnunet_trains_and_predicts_with(network: str, tmp_path: Path) -> None:
    dataset = open_dataset(write_dataset(tmp_path / "Dataset042_Small", cases=6))
    measured = fingerprint(dataset)
    plan, _ = make_plan(measured, dataset, network=network, configuration="3d_fullres", gpu_memory_gb=4)
    plan = replace(plan, topology=SMALL, train=replace(plan.train, batch_size=2))
    number = export_nnunet(tmp_path, dataset, measured, [plan])
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer" / "two_short_epochs.py").write_text(TRAINER)
    asked = ("3d_fullres", "-p", PLANS_NAME, "-tr", "TwoShortEpochs", "-device", "cpu")
    run("nnUNetv2_preprocess", tmp_path, "-d", "42", "-plans_name", PLANS_NAME, "-c", "3d_fullres", "-np", "1")
    run("nnUNetv2_train", tmp_path, "42", "3d_fullres", "0", *asked[1:])
    images = tmp_path / "images"
    images.mkdir()
    case = dataset.training[0]
    for channel, image in enumerate(case.images):
        shutil.copy(image, images / f"{case.id}_{channel:04d}.nii.gz")
    options = ("-f", "0", "-i", str(images), "-o", str(tmp_path / "out"), "--disable_tta", "-npp", "1", "-nps", "1")
    run("nnUNetv2_predict", tmp_path, "-d", str(number), "-c", *asked, *options)
    predicted, image = (nibabel.load(p) for p in (tmp_path / "out" / f"{case.id}.nii.gz", case.images[0]))
    assert predicted.shape == image.shape
    np.testing.assert_allclose(predicted.affine, image.affine, atol=1e-5)
    assert set(np.unique(np.asarray(predicted.dataobj))) <= set(dataset.labels.values)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("Dataset004_Hippocampus", "Dataset004_Hippocampus"),
        ("Task4_Hippocampus", "Dataset004_Hippocampus"),
        ("BraTS 2023", "Dataset999_BraTS2023"),
    ],
)
def test_data_sets_are_named_as_nnunet_wants_it(ours: str, theirs: str) -> None:
    assert nnunet_name(ours) == theirs


def test_exported_plan_builds_the_planned_network(tmp_path: Path) -> None:
    dataset = open_dataset(write_dataset(tmp_path / "data"))
    measured = fingerprint(dataset)
    plan, _ = make_plan(measured, dataset, network="unet", configuration="3d_fullres", gpu_memory_gb=4)
    assert export_nnunet(tmp_path, dataset, measured, [plan]) == 999
    written = json.loads(
        (tmp_path / "nnUNet_preprocessed" / nnunet_name(dataset.name) / f"{PLANS_NAME}.json").read_text()
    )
    architecture = written["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    network = builder.build(len(plan.channels), plan.labels.output_channels, **architecture, deep_supervision=False)
    assert network.decoder.deep_supervision is False
    assert len(network.decoder.stages) == len(plan.topology.features) - 1


def test_labels_that_nnunet_would_change_are_not_exported(tmp_path: Path) -> None:
    dataset = open_dataset(write_dataset(tmp_path / "Dataset042_Small", cases=2))
    atlas = replace(dataset, labels=Labels(foreground=(Label(name="a", values=(40_000,)),)))
    with pytest.raises(ValueError, match="40000 becomes another value"):
        export_nnunet(tmp_path / "out", atlas, fingerprint(dataset), [])
    assert not (tmp_path / "out").exists()


def test_folds_that_nnunet_would_not_make_are_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint_module, "FOREGROUND_SAMPLES", 1000)
    own = write_dataset(tmp_path / "Dataset043_Small", cases=2)
    patients = brats2023(tmp_path / "Dataset044_Brats", ("GLI-02405-100", "GLI-02405-101", "GLI-02406-100"))
    for number, root in ((43, own), (44, patients)):
        dataset = open_dataset(root)
        measured = fingerprint(dataset)
        plan, _ = make_plan(measured, dataset, network="unet", configuration="3d_fullres")
        assert export_nnunet(tmp_path / "out", dataset, measured, [plan]) == number
    preprocessed = tmp_path / "out" / "nnUNet_preprocessed"
    assert not (preprocessed / "Dataset043_Small" / "splits_final.json").exists()
    splits = json.loads((preprocessed / "Dataset044_Brats" / "splits_final.json").read_text())
    together = {"BraTS-GLI-02405-100", "BraTS-GLI-02405-101"}
    assert all(together in (set(fold["train"]), set(fold["val"])) for fold in splits)
