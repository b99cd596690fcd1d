"""Checkpoints of any training code are read, safely, and imported weights come back as they were."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from medmamba.networks import UpstreamError, from_upstream
from medmamba.networks.mamba import MambaBlock
from medmamba.pretrained import CheckpointError, find_weights, import_weights, load, read_checkpoint, system_of
from tests import golden

FILE = Path("weights.pth")


class Unknown:
    """An object that PyTorch does not know; reading one may run programs."""


@pytest.fixture
def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return dict(MambaBlock(8).state_dict())


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: w,
        lambda w: {"network_weights": w, "optimizer_state": {"state": {}}, "trainer_name": "x"},
        lambda w: {"model": w, "model_ema": {"other": torch.zeros(1)}, "epoch": 3},
        lambda w: {"state_dict": {f"model.{k}": t for k, t in w.items()}, "hyper_parameters": {}},
        lambda w: {"module": {f"module.{k}": t for k, t in w.items()}},
        lambda w: {f"_orig_mod.module.{k}": t for k, t in w.items()},
        lambda w: {"model": {"state_dict": w}},
    ],
    ids=["plain", "nnunet", "deit", "lightning", "deepspeed", "compiled", "nested"],
)
def test_state_dict_is_found_wherever_training_code_keeps_it(wrap: Any, weights: dict[str, Tensor]) -> None:
    assert_same(find_weights(wrap(weights), FILE), weights)


def test_whole_module_gives_its_state_dict() -> None:
    module = MambaBlock(8)
    assert_same(find_weights({"model": module}, FILE), dict(module.state_dict()))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "holds no state dict but a list"),
        ({"epoch": 3, "args": None}, "it has epoch, args"),
        ({}, "it has nothing"),
    ],
)
def test_file_without_state_dict_is_refused_with_what_it_has(content: Any, words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        find_weights(content, FILE)


def test_harmless_things_beside_weights_need_no_trust(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    beside = {"dice": [np.float64(0.5), np.float32(0.25)], "args": argparse.Namespace(lr=0.1), "step": np.int64(7)}
    torch.save({"model": weights, **beside}, tmp_path / "weights.pth")
    content = read_checkpoint(tmp_path / "weights.pth")
    assert_same(content["model"], weights)
    assert content["dice"] == beside["dice"]
    assert content["args"].lr == 0.1


def test_objects_that_can_run_programs_need_trust(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    torch.save({"model": weights, "hook": Unknown()}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"more than weights \(.*Unknown\).*--trust-pickle"):
        read_checkpoint(tmp_path / "weights.pth")
    assert_same(read_checkpoint(tmp_path / "weights.pth", trust_pickle=True)["model"], weights)


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"PK\x03\x04 and then nothing"])
@pytest.mark.parametrize("trust", [False, True])
def test_damaged_files_are_refused_by_name(tmp_path: Path, name: str, content: bytes, trust: bool) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{name} is no .*fetch it again"):
        read_checkpoint(tmp_path / name, trust_pickle=trust)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*missing\.pth"):
        read_checkpoint(tmp_path / "missing.pth")


@pytest.mark.parametrize(
    ("family", "key", "system"),
    [
        ("umamba", "mamba_layer.norm.weight", "umamba_bot"),
        ("umamba", "encoder.mamba_layers.0.norm.weight", "umamba_enc"),
        ("mamba", "backbone.embedding.weight", "mamba_lm"),
        ("mamba", "A_log", "mamba"),
        ("mambamorph", "feature_extractor.encoder.0.0.main.weight", "mambamorph_feat"),
        ("mambamorph", "transformer.norm0.weight", "mambamorph"),
        ("vim", "head.weight", "vim"),
        ("segmamba_gsc", "proj.weight", "segmamba_gsc"),
    ],
)
def test_system_is_told_by_the_names_of_the_weights(family: str, key: str, system: str) -> None:
    assert system_of(family, {key: torch.zeros(1)}) == system


def test_unknown_family_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"no weights of 'resnet' are known; choose one of umamba, .*segmamba"):
        system_of("resnet", {})


def test_imported_weights_come_back(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    torch.save({"model": {f"module.{k}": t for k, t in weights.items()}}, tmp_path / "weights.pth")
    out = tmp_path / "new" / "block.safetensors"
    import_weights("mamba", tmp_path / "weights.pth", out, {"d_model": 8})
    assert_same(load_file(out), weights)
    described = json.loads(out.with_suffix(".json").read_text())
    assert described == {"system": "mamba", "config": {"d_model": 8}, "source": "weights.pth"}
    assert_same(dict(load(out).state_dict()), weights)
    assert sorted(path.name for path in out.parent.iterdir()) == ["block.json", "block.safetensors"]


def test_tensors_that_share_memory_can_be_imported(tmp_path: Path) -> None:
    config = {"d_model": 8, "n_layer": 1, "vocab_size": 8}
    network = from_upstream("mamba_lm", config, language_weights())
    torch.save(language_weights(), tmp_path / "pytorch_model.bin")
    out = tmp_path / "lm.safetensors"
    import_weights("mamba", tmp_path / "pytorch_model.bin", out, config)
    assert_same(dict(load(out).state_dict()), dict(network.state_dict()))


def language_weights() -> dict[str, Tensor]:
    """Of a language model of one layer, with its embedding tied."""
    torch.manual_seed(0)
    tensors = {f"backbone.layers.0.mixer.{key}": tensor for key, tensor in MambaBlock(8).state_dict().items()}
    tensors |= {"backbone.layers.0.norm.weight": torch.ones(8), "backbone.norm_f.weight": torch.ones(8)}
    embedding = torch.randn(8, 8)
    return tensors | {"backbone.embedding.weight": embedding, "lm_head.weight": embedding}


def test_what_is_there_is_kept_unless_it_is_to_be_replaced(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    save_file(weights, tmp_path / "theirs.safetensors")
    out = tmp_path / "block.safetensors"
    out.with_suffix(".json").write_text("mine")
    with pytest.raises(FileExistsError, match=r"block\.json is already there"):
        import_weights("mamba", tmp_path / "theirs.safetensors", out, {"d_model": 8})
    assert not out.exists()
    import_weights("mamba", tmp_path / "theirs.safetensors", out, {"d_model": 8}, overwrite=True)
    assert isinstance(load(out), nn.Module)


def test_weights_that_do_not_fit_leave_nothing(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    save_file(weights, tmp_path / "theirs.safetensors")
    with pytest.raises(UpstreamError, match="instead of"):
        import_weights("mamba", tmp_path / "theirs.safetensors", tmp_path / "out.safetensors", {"d_model": 4})
    with pytest.raises(ValueError, match=r"end the name in \.safetensors"):
        import_weights("mamba", tmp_path / "theirs.safetensors", tmp_path / "out.pth", {"d_model": 8})
    assert [path.name for path in tmp_path.iterdir()] == ["theirs.safetensors"]


@pytest.mark.parametrize("path", golden.parameters("vim"))
def test_published_network_is_imported_from_a_training_checkpoint(path: Path, tmp_path: Path) -> None:
    file = golden.load(path)
    torch.save({"model": file.group("param/"), "args": argparse.Namespace(model="vim")}, tmp_path / "vim.pth")
    import_weights("vim", tmp_path / "vim.pth", tmp_path / "vim.safetensors", file.facts["config"])
    with torch.no_grad():
        logits = load(tmp_path / "vim.safetensors").eval()(file.tensors["input/x"])
    error = file.facts["fp32_vs_fp64"]["output"]
    golden.assert_close(logits, file.tensors["output/out"], error["max_abs"], error["ref_absmax"], "logits")
