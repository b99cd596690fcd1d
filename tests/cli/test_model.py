"""``medmamba model import``, from an authors' folder to segmentations."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from medmamba import io
from medmamba.cli.main import app
from medmamba.data.preprocess import Preprocessor
from medmamba.exchange.pretrained import load
from medmamba.networks.language import MambaLM
from medmamba.networks.mamba import MambaBlock
from medmamba.plans.plan import Plan
from tests.data_factory import make_case
from tests.umamba_factory import Model, write_model


def run(*arguments: str | Path) -> tuple[int, str]:
    """Exit code, and all that was written."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def test_imported_umamba_predicts_as_its_network_does_by_hand(tmp_path: Path) -> None:
    model = Model(
        patch=(24, 24, 24),
        spacing=(1.5, 1.0, 1.0),
        transpose_forward=(0, 1, 2),
        channels=("MR",),
        schemes=("ZScoreNormalization",),
        use_mask=(False,),
        mirror_axes=(1,),
    )
    write_model(tmp_path / "theirs", model)
    code, said = run("model", "import", "--from", "umamba", tmp_path / "theirs", "-o", tmp_path / "ours")
    assert (code, "umamba_bot 3d_fullres, fold 0" in said) == (0, True), said
    image, _ = make_case(0)
    io.write(image, tmp_path / "case_0000.nii.gz")
    code, said = run("predict", "--validation", "-o", tmp_path / "none", "-m", tmp_path / "ours")
    assert (code, "no cases to validate on" in said) == (2, True), said
    code, said = run("predict", "-i", tmp_path / "case_0000.nii.gz", "-o", tmp_path / "out", "-m", tmp_path / "ours")
    assert code == 0, said
    [path] = (tmp_path / "out").glob("*.nii.gz")
    # By hand: the image is at the plan's spacing and smaller than the patch, so it is one window, padded with zeros.
    network = model.network("0").eval()
    array = np.ascontiguousarray(image.array[0].transpose(2, 1, 0))
    x = torch.from_numpy((array - array.mean()) / array.std())[None, None]
    room = [24 - size for size in reversed(x.shape[2:])]
    padding = [side for size in room for side in (size // 2, size - size // 2)]
    padded = torch.nn.functional.pad(x, padding)
    with torch.no_grad():
        logits = (network(padded)[0] + network(padded.flip(3))[0].flip(3)) / 2
    low = [padding[2 * axis] for axis in (2, 1, 0)]
    box = tuple(slice(start, start + size) for start, size in zip(low, x.shape[2:], strict=True))
    by_hand = logits[0][(slice(None), *box)].numpy()
    trail = Preprocessor(Plan.load(tmp_path / "ours" / "plan.json")).forward(image).trail
    assert trail.cropped_shape == by_hand.shape[1:]
    predicted = np.asarray(nibabel.load(path).dataobj)
    np.testing.assert_array_equal(predicted, by_hand.argmax(axis=0).transpose(2, 1, 0))
    assert len(np.unique(predicted)) > 1


def test_other_networks_become_a_pair_of_files(tmp_path: Path) -> None:
    block = MambaBlock(8)
    save_file(block.state_dict(), tmp_path / "theirs.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"d_model": 8}))
    out = tmp_path / "ours.safetensors"
    arguments = ("model", "import", "--from", "mamba", tmp_path / "theirs.safetensors", "-o", out)
    code, said = run(*arguments, "--config", tmp_path / "config.json")
    assert (code, "MambaBlock, " in said) == (0, True), said
    assert torch.equal(load(out).state_dict()["A_log"], block.A_log)
    code, said = run(*arguments, "--config", tmp_path / "config.json")
    assert (code, "already there" in said) == (2, True), said
    assert run(*arguments, "--config", tmp_path / "config.json", "--overwrite")[0] == 0


def test_mistake_of_the_program_is_not_told_as_one_of_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: object, **__: object) -> None:
        raise ValueError("not enough values to unpack")

    monkeypatch.setattr("medmamba.exchange.pretrained.import_weights", wrong)
    (tmp_path / "theirs.bin").touch()
    arguments = ("--from", "mamba", tmp_path / "theirs.bin", "-o", tmp_path / "ours" / "mamba.safetensors")
    result = CliRunner().invoke(app, ["model", "import", *map(str, arguments)])
    assert isinstance(result.exception, ValueError), result.output


@pytest.mark.parametrize(("text", "words"), [("{", "not valid JSON"), ("[1]", "must hold an object")])
def test_broken_configurations_are_refused(tmp_path: Path, text: str, words: str) -> None:
    save_file({"D": torch.zeros(1)}, tmp_path / "theirs.safetensors")
    (tmp_path / "config.json").write_text(text)
    arguments = ("--config", tmp_path / "config.json", "-o", tmp_path / "ours.safetensors")
    code, said = run("model", "import", "--from", "mamba", tmp_path / "theirs.safetensors", *arguments)
    assert (code, words in said) == (3, True), said


def test_weights_of_umamba_alone_need_no_folder(tmp_path: Path) -> None:
    model = Model()
    folder = write_model(tmp_path / "theirs", model)
    config = {"patch": model.patch, "strides": model.topology.strides, "kernels": model.topology.kernel_sizes}
    config |= {"features_per_stage": model.topology.features, "in_ch": 2, "ncls": 3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    out = tmp_path / "ours.safetensors"
    arguments = ("model", "import", "--from", "umamba", folder / "fold_0" / "checkpoint_final.pth", "-o")
    code, said = run(*arguments, out, "--config", tmp_path / "config.json")
    assert (code, "UMamba, " in said) == (0, True), said
    x = torch.randn(1, 2, *model.patch)
    with torch.no_grad():
        assert torch.equal(load(out)(x)[0], model.network("0")(x)[0])
    code, said = run(*arguments, tmp_path / "folder", "--config", tmp_path / "config.json")
    assert (code, "a model folder has its plans.json" in said) == (2, True), said


def test_weights_are_chosen_by_entry_and_the_choice_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    block = MambaBlock(8)
    zeros = {key: torch.zeros_like(tensor) for key, tensor in block.state_dict().items()}
    torch.save({"model": zeros, "model_ema": block.state_dict()}, tmp_path / "theirs.pth")
    arguments = ("model", "import", "--from", "mamba", tmp_path / "theirs.pth", "-o")
    code, said = run(*arguments, tmp_path / "ours.safetensors")
    assert code == 0, said
    assert "taken are model_ema, averaged over training. --entry chooses others: model" in caplog.text
    assert torch.equal(load(tmp_path / "ours.safetensors").state_dict()["A_log"], block.A_log)
    assert run(*arguments, tmp_path / "other.safetensors", "--entry", "model")[0] == 0
    assert not load(tmp_path / "other.safetensors").state_dict()["A_log"].any()
    code, said = run(*arguments, tmp_path / "third.safetensors", "--entry", "best")
    assert (code, "has no weights 'best'; it has model, model_ema" in said) == (3, True), said
    code, said = run(*arguments, tmp_path / "folder", "--entry", "model", "--from", "umamba")
    assert (code, "--entry goes with a .safetensors output" in said) == (2, True), said


def test_folder_of_transformers_needs_no_configuration(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = MambaLM(16, 8, 1)
    names = {"embedding.": "backbone.embeddings.", "stack.": "backbone.", "norm.": "backbone.norm_f."}
    theirs = {
        new + key.removeprefix(old): tensor
        for key, tensor in network.state_dict().items()
        for old, new in names.items()
        if key.startswith(old)
    }
    folder, out = tmp_path / "mamba-hf", tmp_path / "ours.safetensors"
    folder.mkdir()
    save_file(theirs, folder / "model.safetensors")
    config = {"model_type": "mamba", "hidden_size": 8, "num_hidden_layers": 1, "vocab_size": 16, "state_size": 16}
    (folder / "config.json").write_text(json.dumps(config))
    code, said = run("model", "import", "--from", "mamba", folder, "-o", out)
    assert (code, "MambaLM, " in said) == (0, True), said
    ids = torch.tensor([[3, 1, 2]])
    with torch.no_grad():
        assert torch.equal(load(out)(ids), network(ids))


@pytest.mark.parametrize(
    ("content", "words"), [(b"", "an empty file"), (b"<html>", "a web page"), (b"hello", "begins with b'hello'")]
)
def test_file_that_is_no_checkpoint_is_refused_by_name(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "theirs.pth").write_bytes(content)
    code, said = run("model", "import", "--from", "vim", tmp_path / "theirs.pth", "-o", tmp_path / "ours.safetensors")
    assert code == 3
    assert "theirs.pth is no checkpoint" in said
    assert words in said
    assert not (tmp_path / "ours.safetensors").exists()
