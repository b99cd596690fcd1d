"""Files that weights come in: what a file really is, whatever its name says; shards with their index; and folders."""

from __future__ import annotations

import logging
import pickle
import re
import struct
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from medmamba.case import some
from medmamba.errors import DataError
from medmamba.exchange import _harmless
from medmamba.records import read_json

log = logging.getLogger(__name__)

#: What transformers and accelerate call the weights in a folder, in the order in which they look for them.
STANDARD = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".tar")
_INDEX = ".index.json"
#: Packages that `medmamba.kernels.compat` stands in for.
SERVED = ("mamba_ssm", "causal_conv1d")
#: One file of several: "model-00001-of-00002.safetensors".
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d+)-of-(?P<count>\d+)(?P<suffix>\.\w+)")
#: What training leaves beside the weights.
_BESIDE = re.compile(r"optim|scheduler|scaler|sampler|training_args|rng_state|random_states|\.")
_MAGIC = {
    b"version https://git-lfs": "a pointer of Git LFS; run `git lfs pull` where it is from, or fetch it again",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file, as Keras writes it; take the weights that PyTorch wrote",
    b"GGUF": "a GGUF file, whose weights are rounded for llama.cpp; take the safetensors it was made of",
    b"\x93NUMPY": "an array of NumPy; take the file that PyTorch wrote",
    b"\x1f\x8b": "a gzip archive; unpack it and give what is in it",
    b"7z\xbc\xaf": "a 7z archive; unpack it and give what is in it",
    b"Rar!": "a RAR archive; unpack it and give what is in it",
    b"BZh": "a bzip2 archive; unpack it and give what is in it",
    b"\xfd7zXZ": "an xz archive; unpack it and give what is in it",
    b"%PDF": "a PDF; fetch it again from the address of the file itself",
}


#: What PyTorch's reader raises for bytes that are not what they should be.
_DAMAGED = (RuntimeError, EOFError, OSError, UnicodeDecodeError, LookupError, struct.error, AssertionError)


class CheckpointError(DataError):
    """A file is no checkpoint that can, or should, be read."""


def read_checkpoint(path: Path, *, trust_pickle: bool = False) -> Any:
    """What a safetensors file, any file that PyTorch wrote, an index of shards or a folder with one of these holds.

    Args:
        path: of the file or folder.
        trust_pickle: read it even if its objects can run programs, which PyTorch's files may hold.

    Returns:
        Tensors by their names, or whatever was saved, on the CPU.

    Raises:
        FileNotFoundError: if there is no such file, or a shard is missing.
        CheckpointError: if it is no checkpoint, is damaged, or holds objects that must be trusted; if a folder holds
            several.
    """
    path = weights_file(path)
    return _shards(path, trust_pickle) if path.name.endswith(_INDEX) else _read(path, trust_pickle)


def weights_file(path: Path) -> Path:
    """The file, or index of files, to read for a path: itself, or the one in a folder.

    Raises:
        FileNotFoundError: if there is nothing at the path.
        CheckpointError: if a folder holds no weights or several, or the file is a part of the weights only.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    if path.is_dir():
        return _in_folder(path)
    if part := _part(path):
        index = path.with_name(f"{part['stem']}{part['suffix']}{_INDEX}")
        raise CheckpointError(
            f"{path} is one of {int(part['count'])} parts of the weights; give {index.name}"
            f"{' or the folder' if index.is_file() else ', which lists them and must be fetched too'}"
        )
    return path


def files_of(path: Path) -> list[Path]:
    """All files that are read for a path: one, or an index and its shards.

    Raises:
        FileNotFoundError, CheckpointError: as `read_checkpoint`.
    """
    path = weights_file(path)
    return [path, *_shard_files(path)] if path.name.endswith(_INDEX) else [path]


def _part(path: Path) -> re.Match[str] | None:
    """The parts of a name that is of one shard of several."""
    part = _SHARD.fullmatch(path.name)
    return part if part and int(part["count"]) > 1 else None


def _in_folder(folder: Path) -> Path:
    if standard := next((folder / name for name in STANDARD if (folder / name).is_file()), None):
        return standard
    files = sorted(path for path in folder.iterdir() if path.is_file())
    indices = [path for path in files if path.name.endswith(_INDEX)]
    alone = [path for path in files if path.name.endswith(_SUFFIXES) and not _BESIDE.match(path.name)]
    found = indices or [path for path in alone if not _part(path)]
    names = some([path.name for path in found or alone], 6)
    if len(found) == 1:
        log.info("%s: weights from %s", folder, found[0].name)
        return found[0]
    if found:
        raise CheckpointError(f"{folder} holds several checkpoints, {names}; give the path of one of them")
    if alone:
        raise CheckpointError(
            f"{folder} holds parts of weights, {names}, but no index of them; fetch the file that ends in {_INDEX} too"
        )
    if list(folder.glob("*.distcp")):
        raise CheckpointError(
            f"{folder} is a distributed checkpoint of PyTorch; make one file of it with `python -m "
            "torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE`"
        )
    if list(folder.glob("zero_to_fp32.py")):
        raise CheckpointError(f"{folder} is of DeepSpeed; run its `python zero_to_fp32.py . FILE` and give that file")
    below = [str(path.relative_to(folder)) for path in sorted(folder.glob("*/*")) if path.name.endswith(_SUFFIXES)]
    remedy = f"below it are {some(below, 6)}" if below else "give the folder or file that has them"
    raise CheckpointError(f"{folder} holds no weights ({', '.join(_SUFFIXES)}, or an index of them); {remedy}")


def _shard_files(index: Path) -> list[Path]:
    """The files that an index names, all of them there and beside it."""
    names = sorted(set(_weight_map(index).values()))
    if strange := [name for name in names if Path(name).name != name]:
        raise CheckpointError(f"{index} names files elsewhere, {', '.join(strange[:3])}; they must lie beside it")
    if missing := [name for name in names if not (index.parent / name).is_file()]:
        raise FileNotFoundError(f"{index} names {', '.join(missing)}, which are not there; fetch them too")
    return [index.parent / name for name in names]


def _weight_map(index: Path) -> dict[str, str]:
    content = read_json(index)
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise CheckpointError(f"{index} is no index of shards: it has no weight_map; fetch it again")
    return places


def _shards(index: Path, trust_pickle: bool) -> dict[str, Tensor]:
    places = _weight_map(index)
    tensors: dict[str, Tensor] = {}
    for path in _shard_files(index):
        part = _read(path, trust_pickle)
        wanted = [key for key, name in places.items() if name == path.name]
        if not isinstance(part, Mapping) or (missing := [key for key in wanted if key not in part]):
            what = ", ".join(missing[:3]) if isinstance(part, Mapping) else "tensors"
            raise CheckpointError(f"{path} lacks {what}, which {index.name} says it has; fetch both again")
        tensors |= {key: part[key] for key in wanted}
    return tensors


def _read(path: Path, trust_pickle: bool) -> Any:
    with path.open("rb") as file:
        head = file.read(1024)
    if wrong := _wrong(path, head):
        raise CheckpointError(f"{path} is no checkpoint, but {wrong}")
    if int.from_bytes(head[:8], "little") < 1e8 and head[8:9] == b"{":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise CheckpointError(f"{path} is no safetensors file, or is damaged ({error}); fetch it again") from error
    if head[:1] not in (b"P", b"\x80"):  # as archives and pickles begin
        kind = "safetensors file" if path.suffix == ".safetensors" else "checkpoint of PyTorch"
        raise CheckpointError(f"{path} is no {kind}, or is damaged: it begins with {head[:16]!r}; fetch it again")
    return _read_pytorch(path, trust_pickle)


def _wrong(path: Path, head: bytes) -> str | None:
    """What a file is, and what to do, if its first bytes tell that it is no checkpoint."""
    if not head:
        return "an empty file; fetch it again"
    if known := next((what for magic, what in _MAGIC.items() if head.startswith(magic)), None):
        return known
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page; fetch it again, from the address of the file itself"
    if text.startswith((b"{", b"[")):
        return "JSON; give the file of the weights, and a configuration with --config"
    if head[257:262] == b"ustar":
        return "a tar archive; unpack it and give what is in it"
    return _wrong_archive(path) if head.startswith(b"PK") else None


def _wrong_archive(path: Path) -> str | None:
    """As `_wrong`, for zip archives, which files of PyTorch are too."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
            inner = {name.partition("/")[2] for name in names}
            if "data.pkl" in inner and not any(name.startswith("code/") for name in inner):
                # PyTorch itself does not look at the checksums, and would load damaged numbers without a word.
                damaged = archive.testzip()
                return f"a damaged file (checksum of {damaged}); fetch it again" if damaged else None
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        return f"the beginning of one, {path.stat().st_size} bytes long, or damaged ({error}); fetch it again"
    if "constants.pkl" in inner:
        return (
            "a program of TorchScript; save its weights alone with "
            "torch.save(torch.jit.load(PATH).state_dict(), OTHER) where you trust it"
        )
    if "model.weights.h5" in names:
        return "a network of Keras; take the weights that PyTorch wrote"
    shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    return f"a zip archive of {shown or 'nothing'}; unpack it and give the file of the weights"


def _read_pytorch(path: Path, trust_pickle: bool) -> Any:
    try:
        # Open, because PyTorch goes by the name of a file where it has one.
        with path.open("rb") as file, torch.serialization.safe_globals(_harmless.KNOWN):
            return torch.load(file, map_location="cpu", weights_only=not trust_pickle)
    except pickle.UnpicklingError as error:
        found = re.search(r"(?:GLOBAL|class) ([\w.]+)", str(error))
        if found is None and "Unsupported operand" not in str(error):
            raise CheckpointError(f"{path} is no checkpoint of PyTorch, or is damaged; fetch it again") from error
        if found is None and not zipfile.is_zipfile(path):
            raise CheckpointError(
                f"{path} is no checkpoint of PyTorch but a pickle, or is damaged; write it with torch.save, or fetch "
                "it again"
            ) from error
        what = found[1] if found else "pickled by a protocol that is not read here"
        raise CheckpointError(
            f"{path} holds more than weights ({what}), and to read such objects is to run whatever program they "
            "bring along; if you trust where the file is from, read it with --trust-pickle (trust_pickle=True). Of a "
            "whole network, torch.save(network.state_dict(), OTHER) saves the weights alone"
        ) from error
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        served = package in SERVED and package not in sys.modules  # else it is there, and lacks a part
        remedy = "run this under python -m medmamba.kernels.compat" if served else "install it"
        raise CheckpointError(
            f"{path} holds objects of the package {error.name}, which is not installed; {remedy}, or save the state "
            "dict alone where it is"
        ) from error
    except AttributeError as error:
        # The module is there, but not the class, as of a network that a script defined.
        raise CheckpointError(
            f"{path} holds an object whose class is not to be found ({error}); save the state dict alone where it is"
        ) from error
    except _DAMAGED as error:
        raise CheckpointError(f"{path} is no checkpoint of PyTorch, or is damaged ({error}); fetch it again") from error
