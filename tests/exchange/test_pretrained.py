"""Imported weights come back as they were; what does not fit is said of the file, with what would."""

from __future__ import annotations

import argparse
import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from medmamba.errors import UsageError
from medmamba.exchange.pretrained import import_weights, load, load_backbone, system_of
from medmamba.exchange.weight_files import CheckpointError
from medmamba.files import OutputError
from medmamba.networks import UpstreamError, create_video, from_upstream
from medmamba.networks.mamba import MambaBlock
from medmamba.networks.published import SYSTEMS
from medmamba.plans.plan import Topology
from tests import golden

FILE = Path("weights.pth")


@pytest.fixture
def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return dict(MambaBlock(8).state_dict())


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


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
    assert (described["system"], described["source"]) == ("mamba", "weights.pth")
    assert described["config"]["d_model"] == 8
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
    with pytest.raises(OutputError, match=r"block\.json is already there"):
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


def published(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and configuration of a golden file."""
    [parameter] = golden.parameters(name)
    if parameter.values[0] is None:
        pytest.skip("no golden files")
    file = golden.load(parameter.values[0])
    return file.group("param/"), dict(file.facts["config"])


def hugging_face(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of the transformers library, which has no second copy of the embedding."""
    renamed = {key.replace(".embedding.", ".embeddings."): tensor for key, tensor in tensors.items()}
    return {key: tensor for key, tensor in renamed.items() if key != "lm_head.weight"}


HUGGING_FACE: dict[str, Any] = {
    "architectures": ["MambaForCausalLM"],
    "model_type": "mamba",
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "vocab_size": 8,
    "state_size": 16,
    "conv_kernel": 4,
    "expand": 2,
    "intermediate_size": 16,
    "time_step_rank": 1,
    "use_bias": False,
    "use_conv_bias": True,
    "tie_word_embeddings": True,
    "layer_norm_epsilon": 1e-5,
    "residual_in_fp32": True,
    "hidden_act": "silu",
    "rescale_prenorm_residual": False,
    "bos_token_id": 0,
    "initializer_range": 0.1,
    "transformers_version": "4.39.0",
}
#: As in the published folders, which have some arguments twice.
BOTH = HUGGING_FACE | {"d_model": 8, "n_layer": 1, "rms_norm": True, "ssm_cfg": {}, "pad_vocab_size_multiple": 8}


@pytest.mark.parametrize("config", [HUGGING_FACE, BOTH, {}, {"d_model": 8, "n_layer": 1, "vocab_size": 8}])
@pytest.mark.parametrize("backbone", [True, False], ids=["language-model", "backbone"])
def test_layout_of_transformers_gives_the_same_network(tmp_path: Path, config: dict[str, Any], backbone: bool) -> None:
    expected = from_upstream("mamba_lm", {"d_model": 8, "n_layer": 1, "vocab_size": 8}, language_weights())
    tensors = hugging_face(language_weights())
    if not backbone:
        tensors = {key.removeprefix("backbone."): tensor for key, tensor in tensors.items()}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    imported = import_weights("mamba", tmp_path, tmp_path / "lm.safetensors")
    assert_same(dict(imported.state_dict()), dict(expected.state_dict()))
    assert_same(dict(load(tmp_path / "lm.safetensors").state_dict()), dict(expected.state_dict()))
    ids = torch.tensor([[1, 2, 3, 7]])
    with torch.no_grad():
        assert torch.equal(imported(ids), expected(ids))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tie_word_embeddings": False, "vocab_size": 13},
        {"use_bias": True, "use_conv_bias": False, "conv_kernel": 3, "time_step_rank": 5, "state_size": 4},
        {"expand": 3, "layer_norm_epsilon": 1e-2},
        {"intermediate_size": 26, "residual_in_fp32": False},
    ],
)
def test_logits_are_those_of_the_transformers_library(tmp_path: Path, options: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"vocab_size": 16, "hidden_size": 12, "num_hidden_layers": 2}
    theirs = transformers.MambaForCausalLM(transformers.MambaConfig(**(sizes | options))).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        theirs.save_pretrained(tmp_path / "theirs", max_shard_size="8KB")
        ids = torch.randint(0, 13, (2, 7))
        import_weights("mamba", tmp_path / "theirs", tmp_path / "ours.safetensors")
        ours, expected = load(tmp_path / "ours.safetensors")(ids), theirs(ids, use_cache=False).logits
    assert expected.std() > 0.1, "logits of one value say nothing"
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_epsilon_of_the_norms_is_that_of_the_configuration(tmp_path: Path) -> None:
    save_file(hugging_face(language_weights()), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(HUGGING_FACE | {"layer_norm_epsilon": 0.5}))
    network = import_weights("mamba", tmp_path, tmp_path / "lm.safetensors")
    x = torch.randn(1, 3, 8)
    by_hand = x / (x.square().mean(-1, keepdim=True) + 0.5).sqrt()
    norms = [network.get_submodule("norm"), network.get_submodule("stack.layers.0.norm")]
    for norm in norms:
        torch.testing.assert_close(norm(x), by_hand)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "falcon_mamba", "architectures": ["FalconMambaForCausalLM"]}, "'falcon_mamba' .FalconMambaFor"),
        ({"model_type": "llama"}, "another network"),
        ({"hidden_act": "gelu"}, "hidden_act 'silu' is known here, got 'gelu'"),
        ({"d_model": 9}, "d_model 9 but 8"),
        ({"state_size": "16"}, "state_size of mamba_lm must be a whole number of at least 1, got '16'"),
        ({"hidden_size": 16}, r"instead of .*The weights themselves say d_model=8"),
    ],
)
def test_other_configurations_of_transformers_are_refused_by_name(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    save_file(hugging_face(language_weights()), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(HUGGING_FACE | change))
    with pytest.raises(UpstreamError, match=rf"config\.json: .*{words}"):
        import_weights("mamba", tmp_path, tmp_path / "lm.safetensors")
    assert not (tmp_path / "lm.safetensors").exists()


def test_what_the_configuration_lacks_is_taken_from_the_weights(
    tmp_path: Path, weights: dict[str, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(weights, tmp_path / "theirs.pth")
    with caplog.at_level(logging.INFO):
        network = import_weights("mamba", tmp_path / "theirs.pth", tmp_path / "ours.safetensors", {"d_state": 16})
    assert_same(dict(network.state_dict()), weights)
    assert "from the weights themselves: d_model=8, d_conv=4" in caplog.text
    described = json.loads((tmp_path / "ours.json").read_text())
    assert (described["config"]["d_model"], described["config"]["d_state"]) == (8, 16)
    assert_same(dict(load(tmp_path / "ours.safetensors").state_dict()), weights)


@pytest.mark.parametrize(
    ("name", "family", "needed"),
    [
        ("mamba_lm", "mamba", ()),
        ("segmamba", "segmamba", ()),
        ("segmamba_gsc", "segmamba_gsc", ()),
        ("segmamba_tsmamba_layer", "segmamba_layer", ("num_slices",)),
        ("mambamorph_feat", "mambamorph", ()),
        ("vim", "vim", ("if_divide_out", "use_middle_cls_token", "img_size", "stride")),
        ("bimamba_v2", "vim_mamba", ("if_divide_out",)),
        ("vmamba_v0", "vmamba", ("forward_type",)),
        ("vmamba_s1l8", "vmamba", ("forward_type",)),
        ("ss2d_v05_noz", "vmamba_ss2d", ("forward_type",)),
        ("umamba_enc3d", "umamba", ("patch", "strides")),
        ("vivim", "vivim", ("segformer",)),
    ],
)
def test_weights_of_any_size_need_only_what_they_do_not_tell(
    tmp_path: Path, name: str, family: str, needed: tuple[str, ...]
) -> None:
    tensors, config = published(name)
    torch.save(tensors, tmp_path / "theirs.pth")
    least = {key: config[key] for key in needed}
    imported = import_weights(family, tmp_path / "theirs.pth", tmp_path / "ours.safetensors", least)
    known = SYSTEMS[json.loads((tmp_path / "ours.json").read_text())["system"]]
    whole = {key: value for key, value in config.items() if key in {**known.needs, **known.takes}}
    import_weights(family, tmp_path / "theirs.pth", tmp_path / "whole.safetensors", whole)
    assert_same(dict(imported.state_dict()), dict(load(tmp_path / "whole.safetensors").state_dict()))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w | {"D": torch.ones(3)}, r"D \(3,\) instead of \(16,\)"),
        (lambda w: {k: t for k, t in w.items() if k != "D"}, "missing D; unexpected none"),
        (lambda w: w | {"E": torch.ones(3)}, "missing none; unexpected E"),
    ],
)
def test_weights_that_do_not_fit_are_said_of_the_file(
    tmp_path: Path, weights: dict[str, Tensor], change: Any, words: str
) -> None:
    torch.save(change(weights), tmp_path / "theirs.pth")
    with pytest.raises(UpstreamError, match=rf"theirs\.pth: .*{words}"):
        import_weights("mamba", tmp_path / "theirs.pth", tmp_path / "out.safetensors", {"d_model": 8})


def test_argument_that_would_fit_is_named(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    torch.save(weights, tmp_path / "theirs.pth")
    for config, words in (({"d_model": 4}, "say d_model=8"), ({"d_model": 8, "d_state": 8}, "say d_state=16")):
        with pytest.raises(UpstreamError, match=f"instead of .*The weights themselves {words}"):
            import_weights("mamba", tmp_path / "theirs.pth", tmp_path / "out.safetensors", config)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"n_layer": 2, "vocab_size": 8, "ssm_cfg": {"d_state": 16, "d_conv": 4}}, "say n_layer=1, but"),
        ({"n_layer": 2, "vocab_size": 5, "ssm_cfg": None}, "say n_layer=1, but"),  # padded to eight
        ({"n_layer": 2, "d_model": 8, "ssm_cfg": {"dt_rank": 1}}, "say n_layer=1, but"),  # what "auto" comes to
        ({"n_layer": 1, "vocab_size": 9, "ssm_cfg": {"d_state": 8}}, r"say vocab_size=8, ssm_cfg=\{\}, but"),
    ],
)
def test_only_arguments_that_do_not_fit_are_named(tmp_path: Path, config: dict[str, Any], words: str) -> None:
    torch.save(language_weights(), tmp_path / "theirs.pth")
    with pytest.raises(UpstreamError, match=f"The weights themselves {words} the configuration does not"):
        import_weights("mamba", tmp_path / "theirs.pth", tmp_path / "out.safetensors", config)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"d_model": "8"}, "d_model"),
        ({"vocab_size": "8"}, "vocab_size"),
        ({"ssm_cfg": [1]}, "ssm_cfg"),
        ({"pad_vocab_size_multiple": 0, "vocab_size": 9}, "pad_vocab_size_multiple"),
        ({"ssm_cfg": {"dt_rank": [1]}}, "dt_rank"),
    ],
)
def test_argument_of_another_kind_is_named(tmp_path: Path, config: dict[str, Any], name: str) -> None:
    torch.save(language_weights(), tmp_path / "theirs.pth")
    with pytest.raises(UpstreamError, match=rf"theirs\.pth: {name} .*must be"):
        import_weights("mamba", tmp_path / "theirs.pth", tmp_path / "out.safetensors", config)


def test_argument_that_would_fit_is_named_where_no_network_can_be_made(tmp_path: Path) -> None:
    tensors, config = published("vim")
    torch.save(tensors, tmp_path / "theirs.pth")
    with pytest.raises(
        UpstreamError, match=r"theirs\.pth: .*covered by patches.*The weights themselves say patch_size="
    ):
        import_weights("vim", tmp_path / "theirs.pth", tmp_path / "out.safetensors", config | {"patch_size": 2})


@pytest.mark.parametrize(
    ("name", "family", "head"),
    [("segmamba", "segmamba", "out."), ("mambamorph", "mambamorph", "reg_head."), ("vivim", "vivim", "out.")],
)
def test_network_without_its_head_is_refused_by_name(tmp_path: Path, name: str, family: str, head: str) -> None:
    tensors, config = published(name)
    torch.save({k: t for k, t in tensors.items() if not k.startswith(head)}, tmp_path / "theirs.pth")
    config = {key: value for key, value in config.items() if key in SYSTEMS[family].takes}
    with pytest.raises(UpstreamError, match=rf"theirs\.pth: .*There is no {head}\*, which makes the output"):
        import_weights(family, tmp_path / "theirs.pth", tmp_path / "out.safetensors", config)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_precision_become_float32(
    tmp_path: Path, weights: dict[str, Tensor], dtype: torch.dtype
) -> None:
    torch.save({key: tensor.to(dtype) for key, tensor in weights.items()}, tmp_path / "theirs.pth")
    network = import_weights("mamba", tmp_path / "theirs.pth", tmp_path / "ours.safetensors", {"d_model": 8})
    assert_same(dict(network.state_dict()), {key: tensor.to(dtype).float() for key, tensor in weights.items()})


def test_quantised_weights_are_refused(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    weights["in_proj.weight"] = (100 * weights["in_proj.weight"]).to(torch.int8)
    torch.save(weights, tmp_path / "theirs.pth")
    with pytest.raises(CheckpointError, match=r"in_proj\.weight \(torch\.int8\); take the checkpoint from before"):
        import_weights("mamba", tmp_path / "theirs.pth", tmp_path / "ours.safetensors", {"d_model": 8})


def test_empty_tensors_that_stand_for_weights_are_refused(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    torch.save({"module": {key: torch.empty(0) for key in weights}}, tmp_path / "theirs.pth")
    with pytest.raises(CheckpointError, match=r"9 empty tensors, such as .*zero_to_fp32\.py"):
        import_weights("mamba", tmp_path / "theirs.pth", tmp_path / "ours.safetensors")


def test_weights_that_are_no_numbers_are_said(
    tmp_path: Path, weights: dict[str, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(weights | {"D": torch.full((16,), torch.nan)}, tmp_path / "theirs.pth")
    import_weights("mamba", tmp_path / "theirs.pth", tmp_path / "ours.safetensors", {"d_model": 8})
    assert "1 tensors hold NaN or infinity, such as D" in caplog.text


def test_files_of_an_import_are_never_written_over(tmp_path: Path) -> None:
    save_file(hugging_face(language_weights()), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(HUGGING_FACE))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for output in ("model.safetensors", "config.safetensors"):
        with pytest.raises(OutputError, match="is read for this import and must not be written over"):
            import_weights("mamba", tmp_path, tmp_path / output, overwrite=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_module_is_found_under_the_name_of_earlier_versions() -> None:
    from medmamba import pretrained

    assert pretrained.load is load


SMALL = Topology(patch_size=(16, 24), strides=((4, 4), (2, 2)), kernel_sizes=((7, 7), (3, 3)), features=(6, 8))
CLIPS: dict[str, Any] = {"depths": (1, 1), "heads": (2, 2), "decoder_width": 10, "mamba_layers": 1}


def backbone(channels: int = 3) -> nn.Module:
    """A small Vivim."""
    return create_video("vivim", channels, 2, SMALL, **CLIPS)


@pytest.fixture
def segformer() -> dict[str, Tensor]:
    """One for classification, by the names of the transformers library, whose weights are all 0.5."""
    names = {
        re.sub(r"^stages\.(\d)\.embed\.", r"segformer.encoder.patch_embeddings.\1.", key): tensor
        for key, tensor in backbone().state_dict().items()
        if re.match(r"stages\.\d\.(embed|blocks)\.", key)
    }
    for pattern, name in (
        (r"^stages\.(\d)\.blocks\.", r"segformer.encoder.block.\1."),
        (r"\.attention\.dense\.", ".attention.output.dense."),
        (r"\.attention\.(?!output)", ".attention.self."),
        (r"\.mlp\.fc(\d)\.", r".mlp.dense\1."),
        (r"\.dwconv\.", ".dwconv.dwconv."),
    ):
        names = {re.sub(pattern, name, key): tensor for key, tensor in names.items()}
    return {key: torch.full_like(tensor, 0.5) for key, tensor in names.items()}


@pytest.mark.parametrize("kind", ["folder", "model-alone", "wrapped", "grey"])
def test_backbone_of_a_vivim_comes_from_a_file(tmp_path: Path, segformer: dict[str, Tensor], kind: str) -> None:
    path = tmp_path / "theirs.pth"
    if kind == "folder":
        path = tmp_path / "segformer"
        path.mkdir()
        save_file(segformer, path / "model.safetensors")
        (path / "config.json").write_text("{}")
    elif kind == "model-alone":
        torch.save({key.removeprefix("segformer."): tensor for key, tensor in segformer.items()}, path)
    else:
        torch.save({"meta": {"epoch": 3}, "state_dict": {f"module.{key}": t for key, t in segformer.items()}}, path)
    network = backbone(1 if kind == "grey" else 3)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    load_backbone(network, path)
    for key, tensor in network.state_dict().items():
        if not re.match(r"stages\.\d\.(embed|blocks)\.", key):
            assert torch.equal(tensor, before[key]), key
        else:
            assert (tensor == (1.5 if kind == "grey" and key == "stages.0.embed.proj.weight" else 0.5)).all(), key


def test_backbone_that_does_not_fit_is_said_of_the_file(tmp_path: Path, segformer: dict[str, Tensor]) -> None:
    path = tmp_path / "theirs.pth"
    torch.save(segformer | {"segformer.encoder.patch_embeddings.0.proj.weight": torch.zeros(5, 3, 7, 7)}, path)
    with pytest.raises(UpstreamError, match=r"theirs\.pth: .*embed\.proj\.weight \(5, 3, 7, 7\) instead of"):
        load_backbone(backbone(), path)
    torch.save({"weight": torch.ones(3)}, path)
    with pytest.raises(CheckpointError, match=r"theirs\.pth holds no weights of a SegFormer"):
        load_backbone(backbone(), path)
    torch.save({"one": segformer, "two": segformer}, path)
    with pytest.raises(CheckpointError, match="holds 2 SegFormers"):
        load_backbone(backbone(), path)
    with pytest.raises(UsageError, match="only Vivim has a SegFormer for its backbone, got Linear"):
        load_backbone(nn.Linear(1, 1), path)
