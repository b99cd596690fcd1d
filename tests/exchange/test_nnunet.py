"""Trained U-Mambas become runs that predict as the originals do."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from safetensors.torch import load_file

from medmamba import io
from medmamba.case import Case
from medmamba.exchange.nnunet import import_model
from medmamba.exchange.weight_files import CheckpointError
from medmamba.files import OutputError
from medmamba.networks import UpstreamError
from medmamba.prediction.predictor import Predictor
from medmamba.training.run import Run
from medmamba.volume import Geometry, Volume
from tests import umamba_factory as factory
from tests.umamba_factory import LABELS, REGIONS, Model, write_model

CPU = torch.device("cpu")
#: nnU-Net weights overlapping windows in 16 bits; of a probability that leaves this much open.
ROUNDED = 1e-4
FLAT: dict[str, Any] = {"patch": (24, 16), "spacing": (1.1, 1.2), "mirror_axes": (0, 1)}


def write_case(folder: Path, seed: int = 0) -> Case:
    """An ellipsoid with a core in two channels, zero around it."""
    rng = np.random.default_rng(seed)
    shape = (14, 12, 20)
    places = np.meshgrid(*(np.linspace(-1.1, 1.1, size) for size in shape), indexing="ij")
    distance = np.square(places).sum(axis=0)
    body = 1.0 * (distance < 1) + (distance < 0.3)
    channels = [np.where(body > 0, scale * body + rng.normal(0, 20, shape), 0) for scale in (100, 30)]
    geometry = Geometry(shape, np.diag([-1.2, -1.6, 1.0, 1.0]))
    images = tuple(folder / f"case_{number:04d}.nii.gz" for number in range(2))
    for path, channel in zip(images, channels, strict=True):
        io.write(Volume(channel[None].astype(np.float32), geometry), path)
    return Case(id="case", images=images)


def predicted_by_nnunet(
    model: Model, folder: Path, case: Case, parameters: list[dict[str, Any]]
) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities that nnU-Net's own predictor makes of the folder, with our network for the authors'."""
    plans = PlansManager(json.loads((folder / "plans.json").read_text()))
    facts = json.loads((folder / "dataset.json").read_text())
    network = model.network("0")
    network.decoder.deep_supervision = False  # type: ignore[union-attr]  # a plain attribute
    predictor = nnUNetPredictor(
        use_mirroring=model.mirror_axes is not None, perform_everything_on_device=False, device=CPU, allow_tqdm=False
    )
    predictor.manual_initialization(
        network,
        plans,
        plans.get_configuration(model.configuration),
        parameters,
        facts,
        model.trainer,
        model.mirror_axes,
    )
    image, properties = plans.image_reader_writer_class().read_images([str(path) for path in case.images])
    labels, probabilities = predictor.predict_single_npy_array(image, properties, None, None, True)
    return np.asarray(labels).transpose(2, 1, 0), np.asarray(probabilities).transpose(0, 3, 2, 1)


@pytest.mark.filterwarnings("ignore:Detected old nnU-Net plans")
@pytest.mark.parametrize(
    "model",
    [
        pytest.param(Model(folds=("0", "3")), id="bot-folds"),
        pytest.param(Model(trainer="nnUNetTrainerUMambaEncNoAMP", folds=("all",), mirror_axes=None), id="enc-all"),
        pytest.param(Model(labels=REGIONS), id="bot-regions"),
        pytest.param(Model(**FLAT), id="bot-slices"),
        pytest.param(Model(trainer="nnUNetTrainerUMambaEnc", **FLAT, transpose_forward=(0, 1, 2)), id="enc-slices"),
    ],
)
def test_imported_model_predicts_as_nnunet_does(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, case = write_model(tmp_path / "model", model), write_case(tmp_path)
    runs = import_model(folder, tmp_path / "imported")
    assert [run.info.fold for run in runs] == list(model.folds)
    predictor = Predictor.from_runs(runs, CPU)
    weights = [dict(model.network(fold).state_dict()) for fold in model.folds]
    with monkeypatch.context() as patched:
        patched.setattr(torch, "half", torch.float32)  # in which nnU-Net adds windows up: too coarse to compare with
        labels, probabilities = predicted_by_nnunet(model, folder, case, weights)
    assert len(np.unique(labels)) > 1, "a prediction of one value says nothing"
    sample = predictor.preprocessor.forward(io.read_case(case))
    logits = predictor.logits(torch.from_numpy(sample.image)).numpy()
    ours = predictor.preprocessor.restore_probabilities(logits, sample.trail)
    np.testing.assert_allclose(ours, probabilities, atol=ROUNDED)
    best, next_best = -np.partition(-probabilities, 1, axis=0)[:2]
    margins = best - next_best if model.labels is LABELS else np.abs(probabilities - 0.5).min(axis=0)
    clear = margins > 2 * ROUNDED
    assert clear.mean() > 0.98
    np.testing.assert_array_equal(predictor(case).array[0][clear], labels[clear])


@pytest.mark.parametrize("blocks", [{}, {"blocks": [3, 1, 2], "decoder_blocks": [1, 4]}], ids=["usual", "listed"])
def test_imported_weights_are_those_of_the_checkpoint(blocks: dict[str, list[int]], tmp_path: Path) -> None:
    model = Model(blocks=blocks)
    [run] = import_model(write_model(tmp_path / "model", model), tmp_path / "imported")
    expected = model.network("0")
    assert run.plan.network.options == blocks
    network = Predictor.from_runs([run], CPU).members[0]
    for key, tensor in expected.state_dict().items():
        assert torch.equal(network.state_dict()[key], tensor), key


def test_plan_holds_what_nnunet_planned(tmp_path: Path) -> None:
    model = Model()
    [run] = import_model(write_model(tmp_path / "model", model), tmp_path / "imported")
    plan = run.plan
    assert (plan.topology, plan.spacing_mm, plan.axes) == (model.topology, model.spacing, (1, 2, 0))
    assert [(c.name, c.normalization, c.use_mask) for c in plan.channels] == [
        ("CT", "ct", False),
        ("T2", "zscore", True),
    ]
    assert plan.channels[0].intensities.percentile_99_5 == factory.INTENSITIES["percentile_99_5"]
    assert {label.name: label.values[0] for label in plan.labels.foreground} == {"block": 1, "core": 2}
    assert plan.train.mirror_axes == (0, 2)
    assert (run.info.precision, run.info.schedule.steps) == ("fp32", 250_000)
    assert run.info.versions["imported from"] == model.trainer
    assert (tmp_path / "imported" / "plan.json").read_text() == (run.folder / "plan.json").read_text()


def test_best_weights_are_taken_where_there_are_no_final_ones(tmp_path: Path) -> None:
    [run] = import_model(write_model(tmp_path / "model", Model(), ["checkpoint_best.pth"]), tmp_path / "out")
    assert run.weights_path("best").is_file()
    assert not run.finished


def test_one_fold_or_one_checkpoint_may_be_asked_for(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", Model(folds=("0", "1")))
    [of_fold] = import_model(folder / "fold_1", tmp_path / "fold")
    [of_file] = import_model(folder / "fold_1" / "checkpoint_final.pth", tmp_path / "file")
    for run in (of_fold, of_file):
        assert run.folder.name == "fold_1"
    ours, expected = (load_file(run.weights_path("final")) for run in (of_fold, of_file))
    assert all(torch.equal(tensor, expected[key]) for key, tensor in ours.items())


def test_what_is_there_is_kept_unless_it_is_to_be_replaced(tmp_path: Path) -> None:
    folder, out = write_model(tmp_path / "model", Model()), tmp_path / "out"
    [run] = import_model(folder, out)
    with pytest.raises(OutputError, match=r"already there.*--overwrite"):
        import_model(folder, out)
    (run.folder / "log.jsonl").touch()
    shutil.copytree(run.folder, out / "fold_4")  # which would be averaged with what comes
    [again] = import_model(folder, out, overwrite=True)
    assert not again.log_path.exists()
    assert sorted(path.name for path in out.iterdir()) == ["fold_0", "plan.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out"], "nothing temporary may be left"


def test_folder_that_is_no_run_is_never_replaced(tmp_path: Path) -> None:
    folder, out = write_model(tmp_path / "model", Model()), tmp_path / "out"
    (out / "fold_0").mkdir(parents=True)
    (out / "fold_0" / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="it is no run"):
        import_model(folder, out, overwrite=True)
    assert (out / "fold_0" / "thesis.txt").read_text() == "mine"
    with pytest.raises(OutputError, match="it is no run"):
        import_model(folder, folder, overwrite=True)
    with pytest.raises(OutputError, match="it is no run"):
        import_model(folder, folder / "plans.json", overwrite=True)
    assert (folder / "fold_0" / "checkpoint_final.pth").is_file()


def test_failure_leaves_nothing(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", Model(folds=("0", "1")))
    damaged = folder / "fold_1" / "checkpoint_final.pth"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="damaged"):
        import_model(folder, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_first_version_of_umamba_is_refused_with_the_reason(tmp_path: Path) -> None:
    model = Model()
    folder = write_model(tmp_path / "model", model)
    content = factory.checkpoint(model, model.network("0"), "0")
    content["network_weights"] = {
        key.replace("mamba_layer.mamba", "mamba").replace("mamba_layer.norm", "ln"): tensor
        for key, tensor in content["network_weights"].items()
    }
    torch.save(content, folder / "fold_0" / "checkpoint_final.pth")
    with pytest.raises(UpstreamError, match=r"fold_0/checkpoint_final\.pth: .*first version"):
        import_model(folder, tmp_path / "out")


def test_other_trainers_and_files_are_refused_by_name(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", Model(trainer="nnUNetTrainer"))
    with pytest.raises(CheckpointError, match="trained by nnUNetTrainer,"):
        import_model(folder, tmp_path / "out")
    torch.save({"weights": torch.zeros(1)}, folder / "fold_0" / "checkpoint_final.pth")
    with pytest.raises(CheckpointError, match="no checkpoint of nnU-Net"):
        import_model(folder, tmp_path / "out")
    (folder / "fold_0" / "checkpoint_final.pth").unlink()
    with pytest.raises(FileNotFoundError, match=r"checkpoint_final\.pth or checkpoint_best\.pth"):
        import_model(folder, tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"no plans\.json; give the folder that has it, such as model$"):
        import_model(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("init_args", "none"),
        ("init_args", {"fold": 0}),
        ("init_args", {"configuration": []}),
        ("current_epoch", "many"),
        ("inference_allowed_mirroring_axes", 3),
    ],
)
def test_checkpoint_with_something_of_another_kind_is_refused_by_its_name(
    tmp_path: Path, key: str, value: object
) -> None:
    content = {"network_weights": {}, "trainer_name": "x", "init_args": {"configuration": "2d"}}
    torch.save(content | {key: value}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=rf"x\.pth: {key} is not what nnU-Net writes"):
        import_model(tmp_path / "x.pth", tmp_path / "out")


def assert_same_weights(one: Run, other: Run) -> None:
    ours, theirs = (load_file(run.weights_path("final")) for run in (one, other))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())


@pytest.mark.parametrize("lacking", [("plans.json", "dataset.json"), ("plans.json",), ("dataset.json",)])
def test_checkpoint_knows_what_the_files_beside_it_say(tmp_path: Path, lacking: tuple[str, ...]) -> None:
    folder = write_model(tmp_path / "model", Model(folds=("0", "3")))
    whole = import_model(folder, tmp_path / "whole")
    for name in lacking:
        (folder / name).unlink()
    runs = import_model(folder, tmp_path / "out")
    assert [run.info.fold for run in runs] == ["0", "3"]
    for run, expected in zip(runs, whole, strict=True):
        assert run.plan == expected.plan
        assert_same_weights(run, expected)


def test_checkpoint_alone_is_enough(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", Model(folds=("3",)))
    [expected] = import_model(folder, tmp_path / "whole")
    (tmp_path / "downloads").mkdir()
    lone = shutil.move(folder / "fold_3" / "checkpoint_final.pth", tmp_path / "downloads" / "abdomen.pth")
    [run] = import_model(Path(lone), tmp_path / "out")
    assert (run.info.fold, run.folder.name) == ("3", "fold_3")
    assert run.plan == replace(expected.plan, dataset_root=str(tmp_path / "downloads"))
    assert_same_weights(run, expected)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["fold_3", "plan.json"]


def test_configuration_may_have_any_name(tmp_path: Path) -> None:
    model = Model()
    folder = write_model(tmp_path / "model", model)
    [expected] = import_model(folder, tmp_path / "usual")
    plans = json.loads((folder / "plans.json").read_text())
    plans["configurations"]["3d_mine"] = {"inherits_from": "3d_fullres", "batch_size": 7}
    (folder / "plans.json").write_text(json.dumps(plans))
    content = factory.checkpoint(model, model.network("0"), "0")
    content["init_args"]["configuration"] = "3d_mine"
    torch.save(content, folder / "fold_0" / "checkpoint_final.pth")
    [run] = import_model(folder, tmp_path / "out")
    assert run.plan == replace(expected.plan, train=replace(expected.plan.train, batch_size=7))


def test_weights_of_another_plan_are_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", Model())
    (folder / "dataset.json").write_text(json.dumps(factory.description(replace(Model(), labels={**LABELS, "rim": 3}))))
    with pytest.raises(UpstreamError, match=r"seg_layers.*instead of"):
        import_model(folder, tmp_path / "out")
    assert not Run.exists(tmp_path / "out" / "fold_0")
