"""Files of weights are told by what is in them, folders by what they hold, and what is wrong is said of the file."""

from __future__ import annotations

import argparse
import importlib
import io
import json
import pathlib
import pickle
import sys
import types
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file
from torch import Tensor, nn

from medmamba.exchange.weight_files import CheckpointError, files_of, read_checkpoint, weights_file
from medmamba.kernels import compat

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b.bias": torch.tensor([1.5, -2.5])}


class Unknown:
    """An object that PyTorch does not know; reading one may run programs."""


def saved(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def archive(**members: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        for name, text in members.items():
            opened.writestr(name.replace("__", "/"), text)
    return buffer.getvalue()


def assert_weights(content: Any) -> None:
    assert content.keys() == WEIGHTS.keys()
    assert all(torch.equal(content[key], tensor) for key, tensor in WEIGHTS.items())


@pytest.mark.parametrize("name", ["x.safetensors", "x.pth", "x.pth.tar", "x.ckpt", "x.bin", "x"])
@pytest.mark.parametrize(
    "content",
    [save(WEIGHTS), saved(WEIGHTS), saved(WEIGHTS, _use_new_zipfile_serialization=False)],
    ids=["safetensors", "archive", "pickle"],
)
def test_format_is_told_by_the_content_whatever_the_name(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert_weights(read_checkpoint(tmp_path / name))


def test_safetensors_may_hold_metadata(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "x.safetensors", {"format": "pt", "epoch": "3"})
    assert_weights(read_checkpoint(tmp_path / "x.safetensors"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an empty file"),
        (b"\n <!DOCTYPE html><html>not found", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "a pointer of Git LFS.*git lfs pull"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "an HDF5 file"),
        (b"GGUF\x03" + bytes(99), "a GGUF file"),
        (b"\x93NUMPY\x01" + bytes(99), "an array of NumPy"),
        (b"\x1f\x8b\x08" + bytes(99), "a gzip archive; unpack it"),
        (bytes(257) + b"ustar" + bytes(99), "a tar archive; unpack it"),
        (b'{"weights": "elsewhere"}', "JSON; .*--config"),
        (archive(case__image="x", case__label="y"), "a zip archive of case/image, case/label; unpack it"),
        (archive(net__data__pkl="x", **{"net__constants.pkl": "y"}), "a program of TorchScript; .*state_dict"),
        (saved(WEIGHTS)[:700], "the beginning of one, 700 bytes long.*fetch it again"),
        (b"hello world", r"damaged: it begins with b'hello world'; fetch it again"),
        (b"\x80\x02hello", "damaged .*fetch it again"),
        (saved(WEIGHTS, _use_new_zipfile_serialization=False)[:-9], "damaged .*fetch it again"),
        (save(WEIGHTS)[:-4], "damaged .*fetch it again"),
        (save(WEIGHTS)[:40], "damaged .*fetch it again"),
        (pickle.dumps({"a": np.zeros(3)}), "PyTorch but a pickle"),
    ],
)
@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_what_is_no_checkpoint_is_called_what_it_is(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name} is no .*{words}"):
        read_checkpoint(tmp_path / name)


def test_damaged_numbers_are_noticed(tmp_path: Path) -> None:
    tensor = torch.arange(1000.0)
    content = bytearray(saved({"a": tensor}))
    content[content.index(tensor.numpy().tobytes()) + 2002] ^= 4
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.pth is no checkpoint, but a damaged file \(checksum of .*fetch it"):
        read_checkpoint(tmp_path / "x.pth")


def test_program_of_torchscript_is_not_read(tmp_path: Path) -> None:
    traced = torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2))
    traced.save(str(tmp_path / "x.pt"))
    with pytest.raises(CheckpointError, match="a program of TorchScript"):
        read_checkpoint(tmp_path / "x.pt")


def test_harmless_things_beside_weights_need_no_trust(tmp_path: Path) -> None:
    beside = {
        "dice": [np.float64(0.5), np.float32(0.25), np.arange(3.0)],
        "args": argparse.Namespace(lr=0.1, output=pathlib.Path("runs/1")),
        "step": np.int64(7),
        "counts": defaultdict(int, {"a": 1}),
    }
    torch.save({"model": OrderedDict(WEIGHTS), **beside}, tmp_path / "x.pth")
    content = read_checkpoint(tmp_path / "x.pth")
    assert_weights(content["model"])
    assert content["dice"][:2] == [0.5, 0.25]
    np.testing.assert_array_equal(content["dice"][2], [0, 1, 2])
    assert (content["args"].lr, str(content["args"].output), content["step"]) == (0.1, "runs/1", 7)
    assert content["counts"] == {"a": 1}


@pytest.mark.parametrize(
    ("module", "name"), [("yacs.config", "CfgNode"), ("mmengine.logging.history_buffer", "HistoryBuffer")]
)
def test_configurations_and_logs_of_other_packages_need_neither_trust_nor_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str
) -> None:
    made = type(name, (dict,) if name == "CfgNode" else (), {"__module__": module})
    with monkeypatch.context() as patched:
        for count in range(1, module.count(".") + 2):
            package = ".".join(module.split(".")[:count])
            patched.setitem(sys.modules, package, types.ModuleType(package))
        setattr(sys.modules[module], name, made)
        thing = made()
        if name == "CfgNode":
            thing["lr"] = 0.1
        thing.frozen = True
        torch.save({"model": WEIGHTS, "config": thing}, tmp_path / "x.pth")
    content = read_checkpoint(tmp_path / "x.pth")
    assert_weights(content["model"])
    assert content["config"].frozen is True
    assert name != "CfgNode" or content["config"]["lr"] == 0.1


def test_objects_that_can_run_programs_need_trust(tmp_path: Path) -> None:
    torch.save({"model": WEIGHTS, "hook": Unknown()}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"more than weights \(.*Unknown\).*--trust-pickle.*state_dict"):
        read_checkpoint(tmp_path / "x.pth")
    assert_weights(read_checkpoint(tmp_path / "x.pth", trust_pickle=True)["model"])


def test_network_pickled_under_mamba_ssm_is_read_under_its_standin(tmp_path: Path) -> None:
    compat.install()
    try:
        torch.save(importlib.import_module("mamba_ssm").Mamba(4), tmp_path / "x.pth")
        assert isinstance(read_checkpoint(tmp_path / "x.pth", trust_pickle=True), torch.nn.Module)
    finally:
        compat.uninstall()
    with pytest.raises(CheckpointError, match=r"package mamba_ssm.*run this under python -m medmamba\.kernels\.compat"):
        read_checkpoint(tmp_path / "x.pth", trust_pickle=True)


def test_class_that_is_not_to_be_found_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(Unknown(), tmp_path / "x.pth")
    monkeypatch.delitem(globals(), "Unknown")
    with pytest.raises(CheckpointError, match=r"whose class is not to be found \(.*Unknown.*state dict"):
        read_checkpoint(tmp_path / "x.pth", trust_pickle=True)


def write_shards(folder: Path, write: Callable[[dict[str, Tensor], Path], Any], stem: str, suffix: str) -> Path:
    """One tensor for each shard, and their index."""
    names = {key: f"{stem}-0000{i}-of-00002{suffix}" for i, key in enumerate(WEIGHTS, 1)}
    for key, name in names.items():
        write({key: WEIGHTS[key]}, folder / name)
    index = folder / f"{stem}{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": names}))
    return index


@pytest.mark.parametrize(
    ("write", "stem", "suffix"),
    [(save_file, "model", ".safetensors"), (torch.save, "pytorch_model", ".bin"), (torch.save, "own", ".pth")],
)
def test_shards_are_read_by_their_index_or_folder(tmp_path: Path, write: Any, stem: str, suffix: str) -> None:
    index = write_shards(tmp_path, write, stem, suffix)
    assert_weights(read_checkpoint(index))
    assert_weights(read_checkpoint(tmp_path))
    assert [path.name for path in files_of(tmp_path)] == [index.name, *sorted(p.name for p in tmp_path.glob("*-of-*"))]
    with pytest.raises(CheckpointError, match=rf"one of 2 parts of the weights; give {index.name} or the folder"):
        read_checkpoint(tmp_path / f"{stem}-00001-of-00002{suffix}")


def test_shards_that_are_not_all_there_are_named(tmp_path: Path) -> None:
    index = write_shards(tmp_path, save_file, "model", ".safetensors")
    save_file({"other": torch.zeros(1)}, tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(CheckpointError, match=r"model-00001-of-00002\.safetensors lacks a\.weight, which"):
        read_checkpoint(index)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"names model-00002-of-00002\.safetensors, which are not there"):
        read_checkpoint(index)
    index.unlink()
    with pytest.raises(CheckpointError, match=r"parts of weights, model-00001-of-00002.*but no index"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/x.safetensors", "sub/x.safetensors"])
def test_index_cannot_lead_out_of_its_folder(tmp_path: Path, name: str) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CheckpointError, match="names files elsewhere"):
        read_checkpoint(index)


@pytest.mark.parametrize("content", ["[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 1}}'])
def test_index_of_nothing_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(CheckpointError, match="it has no weight_map"):
        read_checkpoint(tmp_path)


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        torch.save(WEIGHTS, folder / name)
    return folder


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (["model.safetensors", "pytorch_model.bin", "other.pth"], "model.safetensors"),
        (
            ["pytorch_model.bin", "training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"],
            "pytorch_model.bin",
        ),
        (["best.ckpt", "optimizer.bin", "readme.txt"], "best.ckpt"),
        (["weights.pth.tar"], "weights.pth.tar"),
    ],
)
def test_weights_in_a_folder_are_found(tmp_path: Path, names: list[str], taken: str) -> None:
    assert weights_file(fill(tmp_path, *names)).name == taken


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["best.pth", "last.pth"], "several checkpoints, best.pth, last.pth; give the path of one"),
        (["notes.txt"], "holds no weights"),
        (
            ["step-500/model.safetensors", "step-900/model.safetensors"],
            "below it are step-500/model.safetensors, step-900",
        ),
        (["__0_0.distcp"], "dcp_to_torch"),
        (["zero_to_fp32.py", "latest"], r"zero_to_fp32\.py"),
    ],
)
def test_folder_without_one_set_of_weights_is_refused_with_what_it_has(
    tmp_path: Path, names: list[str], words: str
) -> None:
    with pytest.raises(CheckpointError, match=words):
        weights_file(fill(tmp_path, *names))


def test_one_shard_of_one_is_whole(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "model-00001-of-00001.safetensors")
    assert_weights(read_checkpoint(tmp_path / "model-00001-of-00001.safetensors"))
    assert_weights(read_checkpoint(tmp_path))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*missing\.pth"):
        read_checkpoint(tmp_path / "missing.pth")
