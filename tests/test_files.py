"""Files are whole or absent, and what the system says about them is kept."""

from __future__ import annotations

import ast
import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch

from medmamba import io
from medmamba.files import append, content_digest, in_words, is_full, replacing, replacing_all, write_bytes
from medmamba.io.images import ImageFileError
from medmamba.training.plot import Curves
from medmamba.training.run import Run
from medmamba.training.weights import write_tensors
from medmamba.volume import Geometry, Volume


def full(*_: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def noise(size: int) -> Volume:
    """A cube that no compression makes smaller."""
    array = np.random.default_rng(0).integers(0, 255, (1, size, size, size)).astype(np.uint8)
    return Volume(array, Geometry((size,) * 3, np.eye(4)))


def test_file_is_replaced_whole_or_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_half() -> None:
        with replacing(path) as temporary:
            temporary.write_text("ne")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    write_bytes(b"new", path)
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_full_disk_names_the_file_that_was_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_bytes(b"new", tmp_path / "a.txt")
    assert is_full(caught.value)
    assert caught.value.filename == str(tmp_path / "a.txt")
    assert not list(tmp_path.iterdir())
    assert not is_full(PermissionError(errno.EACCES, "no"))


@pytest.mark.parametrize("replace", [replacing, replacing_all])
def test_errors_name_the_file_that_was_meant_and_others_that_are_to_blame(
    tmp_path: Path, replace: Callable[[Path], AbstractContextManager[Path]]
) -> None:
    path, source = tmp_path / "a.seg.dcm", tmp_path / "source.dcm"

    def refused_writing(what: Callable[[Path], Exception]) -> str:
        with pytest.raises((ImageFileError, OSError)) as caught, replacing_all(path) as outer, replace(outer) as inner:
            raise what(inner)
        return in_words(caught.value)

    assert refused_writing(lambda inner: ImageFileError(inner, "is damaged")) == f"{path}: is damaged"
    assert refused_writing(lambda _: ImageFileError(source, "is damaged")) == f"{source}: is damaged"
    assert refused_writing(lambda inner: OSError(errno.EIO, "broken", str(inner))) == f"{path}: broken"
    assert refused_writing(lambda _: OSError(errno.EIO, "broken")) == f"{path}: broken"
    assert refused_writing(lambda _: OSError(errno.EIO, "broken", str(source))) == f"{source}: broken"
    assert not list(tmp_path.iterdir())


def test_what_was_renamed_is_synced_with_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.readlink(f"/proc/self/fd/{file}")))
    write_bytes(b"new", tmp_path / "a.txt")
    assert synced == [str(tmp_path / f".a.txt.{os.getpid()}.tmp"), str(tmp_path)]
    synced.clear()
    with replacing_all(tmp_path / "a.mhd") as temporary:
        temporary.write_bytes(b"header")
        temporary.with_suffix(".raw").write_bytes(b"voxels")
    assert [Path(path).name for path in synced] == ["a.raw", "a.mhd", tmp_path.name]


def test_several_files_take_their_places_together_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.mhd"
    path.write_text("old")

    def write_one() -> None:
        with replacing_all(path) as temporary:
            temporary.write_text("new")
            raise OSError(errno.EIO, "broken", str(temporary))

    with pytest.raises(OSError, match="broken") as caught:
        write_one()
    assert caught.value.filename == str(path)
    assert [file.name for file in tmp_path.iterdir()] == ["a.mhd"]
    replaced: list[str] = []
    replace_file = os.replace
    monkeypatch.setattr(os, "replace", lambda old, new: (replaced.append(new.name), replace_file(old, new)))
    with replacing_all(path) as temporary:
        temporary.write_text("new")
        for name in ("a.raw", "b.raw"):
            temporary.with_name(name).write_text("voxels")
    assert sorted(replaced[:2]) == ["a.raw", "b.raw"]
    assert replaced[2] == "a.mhd"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.mhd", "a.raw", "b.raw"]


def test_record_is_added_whole_or_not_at_all(small_disk: Callable[[str], Path]) -> None:
    path = small_disk("64k") / "log.jsonl"
    append(b"one\n", path)
    with pytest.raises(OSError, match=r"No space left.*log\.jsonl"):
        append(bytes(100_000), path)
    assert path.read_bytes() == b"one\n"
    append(b"two\n", path)
    assert path.read_bytes() == b"one\ntwo\n"


#: Calls that make a file appear or change it.
WRITES = frozenset(
    {"write_text", "write_bytes", "savefig", "tofile", "to_filename", "WriteImage", "save_file", "dump", "rename"}
)
#: Files that write otherwise than within a ``with replacing(...)``, and why.
ELSEWHERE = {
    "files.py": "the one writer",
    "itk.py": "writes into a temporary folder, from which files are moved",
    "_models.py": "likewise",
    "folder.py": "likewise",
    "nnunet.py": "makes a whole folder under a temporary name",
    "train.py": "moves a whole run aside",
    "transforms.py": "hands names of temporary files to what writes them",
}


def writes(tree: ast.AST, inside: bool = False) -> Iterator[int]:
    """Lines that write other than into what `replacing` gave."""
    for node in ast.iter_child_nodes(tree):
        here = inside
        if isinstance(node, ast.With):
            here = here or any("replacing" in ast.unparse(item.context_expr) for item in node.items)
        if isinstance(node, ast.Call) and not here:
            function = ast.unparse(node.func)
            mode = [part.value for part in node.args if isinstance(part, ast.Constant) and isinstance(part.value, str)]
            opened = function.rpartition(".")[2] == "open" and any(set(text) & set("wax+") for text in mode)
            method = isinstance(node.func, ast.Attribute) and node.func.attr in WRITES
            if opened or method or function in ("os.replace", "os.rename", "torch.save", "save_file"):
                yield node.lineno
        yield from writes(node, here)


def test_every_file_is_written_by_one_writer() -> None:
    checkout = Path(__file__).parent.parent
    files = [file for top in ("medmamba", "kernels", "plans", "cli") for file in (checkout / top).rglob("*.py")]
    found = {file.name: lines for file in files if (lines := list(writes(ast.parse(file.read_text(encoding="utf-8")))))}
    assert {name: lines for name, lines in found.items() if name not in ELSEWHERE} == {}
    assert list(writes(ast.parse("with replacing(a) as b:\n    b.write_text('')\nopen(a, 'w')\na.write_bytes(b)"))) == [
        3,
        4,
    ]


def test_digest_is_of_contents_and_their_order(tmp_path: Path) -> None:
    for name, text in (("a", "one"), ("b", "two"), ("c", "one")):
        (tmp_path / name).write_text(text)
    a, b, c = (tmp_path / name for name in "abc")
    assert content_digest([a]) == content_digest([c]) != content_digest([b])
    assert content_digest([a, b]) != content_digest([b, a])
    (tmp_path / "joined").write_text("onetwo")
    assert content_digest([a, b]) != content_digest([tmp_path / "joined"])


@pytest.mark.parametrize("ending", io.suffixes())
@pytest.mark.parametrize("taken", [0, 150_000, 196_000], ids=["empty", "nearly-full", "full"])
def test_image_on_a_full_disk_is_whole_or_an_error_of_the_system(
    ending: str, taken: int, small_disk: Callable[[str], Path]
) -> None:
    disk = small_disk("200k")
    (disk / "taken").write_bytes(bytes(taken))
    for size in (60, 36, 30, 20):
        path = disk / f"a{ending}"
        try:
            io.write(noise(size), path)
        except OSError as error:
            reason: OSError | None = error
        else:
            reason = None
        if reason is not None:
            assert is_full(reason)
            assert reason.filename == str(path)
            assert [file.name for file in disk.iterdir()] == ["taken"]
        else:
            np.testing.assert_array_equal(io.read(path).array, noise(size).array)
            for file in disk.glob("a.*"):
                file.unlink()


def test_image_that_itk_cut_short_without_a_word_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from medmamba.io.formats import itk

    write = itk.sitk.WriteImage

    def cut_short(image: object, name: str, **options: object) -> None:
        write(image, name, **options)
        with open(name, "r+b") as file:
            file.truncate(Path(name).stat().st_size - 50)

    monkeypatch.setattr(itk.sitk, "WriteImage", cut_short)
    with pytest.raises(ImageFileError, match="cannot be written"):
        io.write(noise(20), tmp_path / "a.nrrd")
    assert not list(tmp_path.iterdir())


def test_weights_on_a_full_disk_are_the_old_ones(small_disk: Callable[[str], Path]) -> None:
    path = small_disk("100k") / "a.safetensors"
    write_tensors({"w": torch.ones(10)}, path, {})
    before = path.read_bytes()
    with pytest.raises(OSError, match="No space left") as caught:
        write_tensors({"w": torch.ones(100_000)}, path, {})
    assert is_full(caught.value)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_log_and_picture_on_a_full_disk_keep_what_they_had(small_disk: Callable[[str], Path]) -> None:
    disk = small_disk("64k")
    run = Run.__new__(Run)
    run.folder = disk
    run.log({"event": "step", "step": 1, "loss": 1.0, "learning_rate": 0.1})
    before = run.log_path.read_bytes()
    (disk / "taken").write_bytes(bytes(64 * 1024 - 4096))

    def log_on() -> None:
        for step in range(2, 100):
            run.log({"event": "step", "step": step, "loss": 1.0, "learning_rate": 0.1, "text": "x" * 300})

    with pytest.raises(OSError, match=r"No space left.*log\.jsonl"):
        log_on()
    lines = run.log_path.read_bytes()
    assert lines.startswith(before)
    assert lines.endswith(b"\n")
    assert all(json.loads(line) for line in lines.splitlines())
    with pytest.raises(OSError, match=r"No space left.*progress\.png"):
        Curves((), run.read_log()).draw(disk / "progress.png", "title")
    assert sorted(path.name for path in disk.iterdir()) == ["log.jsonl", "taken"]


def test_error_of_safetensors_that_is_none_of_the_system_stays(tmp_path: Path) -> None:
    shared = torch.ones(4)
    with pytest.raises(RuntimeError, match="share memory"):
        write_tensors({"a": shared, "b": shared}, tmp_path / "a.safetensors", {})
    assert not list(tmp_path.iterdir())


def test_files_of_an_image_include_those_of_its_voxels(tmp_path: Path) -> None:
    volume = noise(4)
    for name in ("a.nii.gz", "a.nrrd", "a.mhd"):
        io.write(volume, tmp_path / name)
    assert io.files(tmp_path / "a.nii.gz") == (tmp_path / "a.nii.gz",)
    assert io.files(tmp_path / "a.nrrd") == (tmp_path / "a.nrrd",)
    assert io.files(tmp_path / "a.mhd") == (tmp_path / "a.mhd", tmp_path / "a.zraw")
    slices = [tmp_path / f"s{number:02d}.raw" for number in (1, 3, 5)]
    for file in slices:
        file.write_bytes(bytes(16))
    head = "ObjectType = Image\nNDims = 3\nDimSize = 4 4 3\nElementType = MET_UCHAR\n"
    (tmp_path / "rule.mhd").write_text(f"{head}ElementDataFile = s%02d.raw 1 5 2\n")
    assert io.files(tmp_path / "rule.mhd") == (tmp_path / "rule.mhd", *slices)
    names = "\n".join(file.name for file in slices)
    (tmp_path / "list.mhd").write_text(f"{head}ElementDataFile = LIST\n{names}\n")
    assert io.files(tmp_path / "list.mhd") == (tmp_path / "list.mhd", *slices)


def test_errors_of_the_system_are_told_by_file_and_reason(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as absent:
        (tmp_path / "absent").open()
    assert in_words(absent.value) == f"{tmp_path / 'absent'}: No such file or directory"
    assert in_words(FileNotFoundError("there is no such data set")) == "there is no such data set"
    assert in_words(MemoryError()) == "not enough memory"
