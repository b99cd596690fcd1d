"""The weights are found wherever training code keeps them, and a choice among several is made by name or said aloud."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from medmamba.exchange.state_dicts import find_weights, looks_like
from medmamba.exchange.weight_files import CheckpointError
from medmamba.networks.mamba import MambaBlock
from medmamba.networks.segmamba import MambaLayer
from tests import golden

FILE = Path("weights.pth")
Weights = dict[str, Tensor]


@pytest.fixture
def weights() -> Weights:
    torch.manual_seed(0)
    return dict(MambaBlock(8).state_dict())


def under(prefix: str, tensors: Weights) -> Weights:
    return {prefix + key: tensor for key, tensor in tensors.items()}


def zeros(tensors: Weights) -> Weights:
    return {key: torch.zeros_like(tensor) for key, tensor in tensors.items()}


def assert_same(ours: Weights, theirs: Weights) -> None:
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda w: w, id="plain"),
        pytest.param(
            lambda w: {"network_weights": w, "optimizer_state": {"state": {}}, "trainer_name": "x"}, id="nnunet"
        ),
        pytest.param(lambda w: {"model": w, "model_ema": {"other": torch.zeros(1)}, "epoch": 3}, id="deit"),
        pytest.param(lambda w: {"state_dict": under("model.", w), "hyper_parameters": {}}, id="lightning"),
        pytest.param(
            lambda w: {"state_dict": {**under("net.", w), "criterion.weight": torch.ones(2)}}, id="lightning-loss"
        ),
        pytest.param(lambda w: {**w, "loss_fn.pos_weight": torch.ones(2)}, id="loss-beside"),
        pytest.param(lambda w: {"module": under("module.", w), "optimizer": None}, id="deepspeed"),
        pytest.param(lambda w: under("_orig_mod.module.", w), id="compiled"),
        pytest.param(lambda w: under("module._orig_mod.model.", w), id="stacked"),
        pytest.param(lambda w: under("net._orig_mod.", w), id="compiled-inside"),
        pytest.param(lambda w: under("_fsdp_wrapped_module._checkpoint_wrapped_module.", w), id="fsdp"),
        pytest.param(lambda w: {"model": {"state_dict": w}}, id="nested"),
        pytest.param(lambda w: {**under("module.", w), "n_averaged": torch.tensor(3)}, id="averaged-model"),
        pytest.param(lambda w: {**w, "total_ops": torch.zeros(1), "x_proj.total_params": torch.zeros(1)}, id="thop"),
        pytest.param(lambda w: (w, {"lr": 0.1}), id="tuple"),
        pytest.param(lambda w: {key: tensor.numpy() for key, tensor in w.items()}, id="numpy"),
        pytest.param(lambda w: {"a": {"b": {"c": under("d.e.f.", w)}}}, id="unheard-of"),
        *(
            pytest.param(lambda w, name=name: {name: w, "epoch": 3}, id=name)
            for name in ("ema", "ema_state_dict", "params_ema", "params", "state_dict_ema", "model_ema", "teacher")
        ),
        *(
            pytest.param(lambda w, prefix=prefix: under(prefix, w), id=prefix)
            for prefix in ("net.", "network.", "student.", "encoder.", "backbone.", "generator.", "model.encoder.")
        ),
    ],
)
def test_weights_are_found_wherever_training_code_keeps_them(wrap: Callable[[Weights], Any], weights: Weights) -> None:
    assert_same(find_weights(wrap(weights), FILE, "mamba"), weights)


def test_average_of_pytorch_and_whole_modules_give_their_weights(weights: Weights) -> None:
    module = MambaBlock(8)
    module.load_state_dict(weights)
    assert_same(find_weights(AveragedModel(module).state_dict(), FILE, "mamba"), weights)
    assert_same(find_weights({"model": module}, FILE, "mamba"), weights)


@pytest.mark.parametrize(
    ("wrap", "taken", "other"),
    [
        (lambda w, z: {"model": z, "model_ema": w}, "model_ema", "model"),
        (lambda w, z: {"state_dict": z, "state_dict_ema": w}, "state_dict_ema", "state_dict"),
        (lambda w, z: {"params": z, "params_ema": w}, "params_ema", "params"),
        (
            lambda w, z: {"state_dict": {**under("net.", z), **under("net_ema.", w)}},
            "state_dict.net_ema",
            "state_dict.net",
        ),
        (
            lambda w, z: {
                "model": z,
                "ema": {**under("ema_model.", w), **under("online_model.", z), "step": torch.ones(1)},
            },
            "ema.ema_model",
            "model",
        ),
        (
            lambda w, z: {"state_dict": w, "current_model_state": z, "averaging_state": {"n_averaged": torch.ones(1)}},
            "state_dict",
            "current_model_state",
        ),
        (lambda w, z: {"model": z, "ema": {"shadow_params": list(w.values())}}, "ema.shadow_params", "model"),
    ],
    ids=["deit", "timm", "basicsr", "prefixes", "ema_pytorch", "lightning", "torch_ema"],
)
def test_average_is_taken_where_both_are_there_and_that_is_said(
    wrap: Any, taken: str, other: str, weights: Weights, caplog: pytest.LogCaptureFixture
) -> None:
    content = wrap(weights, zeros(weights))
    with caplog.at_level(logging.WARNING):
        assert_same(find_weights(content, FILE, "mamba"), weights)
    [said] = caplog.messages
    assert f"taken are {taken}" in said
    assert f"--entry chooses others: {other}" in said
    assert_same(find_weights(content, FILE, "mamba", entry=other), zeros(weights))
    assert_same(find_weights(content, FILE, "mamba", entry=taken), weights)


def test_one_set_of_weights_under_two_names_is_no_choice(weights: Weights, caplog: pytest.LogCaptureFixture) -> None:
    copies = {key: tensor.clone() for key, tensor in weights.items()}
    assert_same(find_weights({"model": weights, "best": copies}, FILE, "mamba"), weights)
    assert not caplog.messages


@pytest.mark.parametrize(
    ("names", "listed"),
    [
        (["student.", "teacher."], r"state_dict\.student, state_dict\.teacher"),
        (["ema_0.99.", "ema_0.999.", "model."], r"state_dict\.ema_0\.99, state_dict\.ema_0\.999, state_dict\.model"),
        (["net_g.", "net_d."], r"state_dict\.net_g, state_dict\.net_d"),
    ],
)
def test_several_sets_are_listed_and_one_is_chosen_by_name(names: list[str], listed: str, weights: Weights) -> None:
    sets = [{key: tensor + number for key, tensor in weights.items()} for number in range(len(names))]
    content = {key: tensor for name, each in zip(names, sets, strict=True) for key, tensor in under(name, each).items()}
    with pytest.raises(CheckpointError, match=f"several weights of mamba: {listed}; choose one with --entry"):
        find_weights({"state_dict": content}, FILE, "mamba")
    for name, each in zip(names, sets, strict=True):
        assert_same(find_weights({"state_dict": content}, FILE, "mamba", entry=name.removesuffix(".")), each)
    with pytest.raises(CheckpointError, match=f"no weights 'other'; it has state_dict.{names[0][:-1]}"):
        find_weights({"state_dict": content}, FILE, "mamba", entry="other")
    with pytest.raises(CheckpointError, match="several weights 'state_dict'"):
        find_weights({"state_dict": content}, FILE, "mamba", entry="state_dict")


def test_what_is_left_out_is_said(weights: Weights, caplog: pytest.LogCaptureFixture) -> None:
    content = {**under("backbone.", weights), "decode_head.conv.weight": torch.ones(2), "n_averaged": torch.ones(1)}
    assert_same(find_weights(content, FILE, "mamba"), weights)
    assert caplog.messages == ["weights.pth: left out, as no part of mamba: decode_head.conv.weight"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "holds no state dict but a list"),
        (3, "holds no state dict but a int"),
        ({"epoch": 3, "args": None}, "it has epoch, args"),
        ({}, "it has nothing"),
        ({"net": {"fc.weight": torch.ones(1)}}, "no tensor is called .*A_log.*; net has 1 others: fc.weight"),
    ],
)
def test_file_without_weights_is_refused_with_what_it_has(content: Any, words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        find_weights(content, FILE, "mamba")


def test_part_is_taken_by_name_but_no_whole_network_for_a_part() -> None:
    torch.manual_seed(0)
    layers = nn.ModuleList(MambaBlock(8) for _ in range(2))
    content = under("layers.", {key.replace(".", ".mixer.", 1): t for key, t in layers.state_dict().items()})
    content |= {"patch_embed.proj.weight": torch.ones(8, 3, 4, 4)}
    with pytest.raises(
        CheckpointError, match=r"looks like weights of vim, .*--entry: layers\.0\.mixer, layers\.1\.mixer"
    ):
        find_weights(content, FILE, "mamba")
    found = find_weights(content, FILE, "mamba", entry="layers.1")
    assert_same(found, dict(layers[1].state_dict()))


@pytest.mark.parametrize("path", golden.parameters("*"))
def test_published_networks_are_told_from_each_other_by_their_names(path: Path) -> None:
    families = {"umamba": "umamba", "segmamba": "segmamba", "vivim": "vivim", "vim": "vim", "mambamorph": "mambamorph"}
    families |= {"mambamorph_feat": "mambamorph", "mamba_lm": "mamba", "moe_mamba_lm": "moe_mamba_lm"}
    families |= {"vmamba_v0": "vmamba", "vmamba_s1l8": "vmamba"}
    name = "umamba" if path.stem.startswith("umamba_") else path.stem
    tensors = golden.load(path).group("param/")
    assert looks_like(tensors) == families.get(name)
    if name in families:
        assert_same(find_weights({"state_dict": under("module.model.", tensors)}, FILE, families[name]), tensors)
        other = "vim" if name != "vim" else "segmamba"
        with pytest.raises(CheckpointError, match=f"no weights of {other}: they look like weights of {families[name]}"):
            find_weights(tensors, FILE, other)


def test_language_model_given_as_another_network_is_proposed_by_the_name_to_import_it_by() -> None:
    tensors = {f"backbone.layers.0.mixer.{key}": tensor for key, tensor in MambaBlock(8).state_dict().items()}
    tensors["backbone.embedding.weight"] = torch.ones(4, 8)
    with pytest.raises(CheckpointError, match=r"weights of mamba; import them with --from mamba, if they are"):
        find_weights(tensors, FILE, "vim")


def test_networks_of_nnunet_are_told_apart_by_their_mamba_layers() -> None:
    body = {
        "encoder.stages.0.0.convs.0.conv.weight",
        "decoder.stages.0.convs.0.conv.weight",
        "decoder.seg_layers.0.bias",
    }
    assert looks_like(dict.fromkeys(body)) == "unet"
    assert looks_like(dict.fromkeys(body | {"mamba_layer.mamba.A_log"})) == "umamba"


def test_layer_of_another_network_is_not_taken_for_one_of_ours() -> None:
    layer = MambaLayer(8, 3)
    with pytest.raises(CheckpointError, match="holds no weights of vmamba"):
        find_weights(layer.state_dict(), FILE, "vmamba")


def test_unknown_family_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"no weights of 'resnet' are known; choose one of umamba, .*segmamba"):
        find_weights({}, FILE, "resnet")
