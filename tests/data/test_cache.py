"""Preprocessed cases on disk: complete or absent, never half."""

from __future__ import annotations

import errno
import importlib
import json
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import blosc2
import numpy as np
import pytest
from filelock import FileLock

from medmamba import io
from medmamba.case import Case
from medmamba.data import cache as module
from medmamba.data.cache import ANNOTATED, Cache, prepare, sample_foreground
from medmamba.data.preprocess import Preprocessor
from medmamba.engines import Processes
from medmamba.labels import Labels
from medmamba.volume import Geometry, Volume
from tests.data.factory import ATLAS, CLASSES, REGIONS, channel, finished, loaded, make_plan

PLAN = make_plan()


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a cache, but for the lock."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != ".lock"}


def test_cache_holds_what_preprocessing_gives(cases: list[Case], tmp_path: Path) -> None:
    cache = prepare(cases, PLAN, tmp_path / "cache", workers=0)
    assert finished(cache) == ("case0", "case1", "case2")
    for case in cases:
        assert case.label is not None
        sample = Preprocessor(PLAN).forward(io.read_case(case), io.read_label(case.label))
        image, label = loaded(cache, case.id)
        np.testing.assert_array_equal(image, sample.image)
        np.testing.assert_array_equal(label, sample.label)
        assert cache.record(case.id).trail == sample.trail
        part, _ = cache.patch(case.id, (1, 2, 3), (4, 6, 8))
        np.testing.assert_array_equal(part, sample.image[:, 1:4, 2:6, 3:8])


def test_another_process_prepares_the_same(cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(cases, PLAN, tmp_path / "here", workers=0)
    monkeypatch.setattr(module, "exactly", Processes)  # a single one, as it takes seconds to import PyTorch
    prepare(cases, PLAN, tmp_path / "there", workers=1)
    assert contents(tmp_path / "here") == contents(tmp_path / "there")


def test_finished_cases_are_not_prepared_again(
    cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache"
    prepare(cases[:2], PLAN, folder, workers=0)
    prepared = []
    original = module._prepare_case
    monkeypatch.setattr(
        module, "_prepare_case", lambda case, **rest: prepared.append(case.id) or original(case, **rest)
    )
    prepare(cases, PLAN, folder, workers=0)
    assert prepared == ["case2"]


def test_what_a_killed_preparation_leaves_is_cleared_and_done_again(cases: list[Case], tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    prepare(cases, PLAN, folder, workers=0)
    whole = contents(folder)
    (folder / "case1.json").unlink()
    (folder / "case1.image.b2nd").write_bytes(b"half")
    (folder / ".tmp-1-case1.label.b2nd").write_bytes(b"half")
    (folder / "case2.json").write_text('{"digest"')
    prepare(cases, PLAN, folder, workers=0)
    assert contents(folder) == whole


def test_changed_source_and_changed_plan_are_prepared_again(cases: list[Case], tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    before = prepare(cases, PLAN, folder, workers=0).record("case0")
    os.utime(cases[0].images[0], ns=(1, 1))
    changed = prepare(cases, PLAN, folder, workers=0).record("case0")
    assert before.sources != changed.sources
    finer = prepare(cases, make_plan(spacing=(0.5, 0.5, 0.5)), folder, workers=0)
    assert finer.shape("case0") != before.shape[1:]


def test_exchanged_source_of_the_same_size_and_date_is_prepared_again(cases: list[Case], tmp_path: Path) -> None:
    plain = replace(cases[0], images=(tmp_path / "plain.nii",))
    image = io.read(cases[0].images[0])
    io.write(image, plain.images[0])
    folder, state = tmp_path / "cache", plain.images[0].stat()
    before, _ = loaded(prepare([plain], PLAN, folder, workers=0), "case0")
    io.write(image.with_array(image.array[:, ::-1].copy()), plain.images[0])
    os.utime(plain.images[0], ns=(state.st_atime_ns, state.st_mtime_ns))
    assert plain.images[0].stat().st_size == state.st_size
    after, _ = loaded(prepare([plain], PLAN, folder, workers=0), "case0")
    assert not np.array_equal(before, after)


def test_moved_sources_are_not_prepared_again(
    cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache"
    prepare(cases[:1], PLAN, folder, workers=0)
    shutil.copy2(cases[0].images[0], tmp_path / "moved.nii.gz")
    moved = replace(cases[0], images=(tmp_path / "moved.nii.gz",))
    monkeypatch.delattr(module, "_prepare_case")
    for _ in range(2):
        assert finished(prepare([moved], PLAN, folder, workers=0)) == ("case0",)


def test_cache_of_the_first_version_is_not_made_again(
    cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache"
    prepare(cases[:1], PLAN, folder, workers=0)
    record = json.loads((folder / "case0.json").read_text())
    del record["touched"], record["content"]
    (folder / "case0.json").write_text(json.dumps(record))
    monkeypatch.delattr(module, "_prepare_case")
    assert finished(prepare(cases[:1], PLAN, folder, workers=0)) == ("case0",)


def test_broken_cases_are_listed_after_all_others_were_prepared(cases: list[Case], tmp_path: Path) -> None:
    cases[0].images[0].write_bytes(b"")
    assert cases[1].label is not None
    cases[1].label.unlink()
    with pytest.raises(ValueError, match=r"2 of 3 cases.*case0: .*empty.*case1: .*no such file"):
        prepare(cases, PLAN, tmp_path / "cache", workers=0)
    assert finished(Cache(tmp_path / "cache")) == ("case2",)


def test_label_without_meaning_and_case_without_label_are_refused(cases: list[Case], tmp_path: Path) -> None:
    one = Labels(foreground=CLASSES.foreground[:1])
    with pytest.raises(ValueError, match=r"values \[2\]"):
        prepare(cases[:1], make_plan(labels=one), tmp_path / "a", workers=0)
    with pytest.raises(ValueError, match="no reference"):
        prepare([replace(cases[0], label=None)], PLAN, tmp_path / "b", workers=0)


def test_a_second_process_waits_for_the_first(cases: list[Case], tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    lock = FileLock(folder / ".lock")
    lock.acquire()
    thread = threading.Thread(target=prepare, args=(cases, PLAN, folder), kwargs={"workers": 0})
    thread.start()
    thread.join(timeout=0.3)
    assert thread.is_alive()
    assert not finished(Cache(folder))
    lock.release()
    thread.join(timeout=30)
    assert len(finished(Cache(folder))) == 3


def test_foreground_table_holds_positions_of_each_structure() -> None:
    label = np.zeros((6, 7, 8), dtype=np.int16)
    label[1, 2, 3] = 1
    label[4, 5, 6:8] = 3
    table = sample_foreground(label, REGIONS, np.random.default_rng(0))
    rows = {number: table[table[:, 0] == number, 1:].tolist() for number in range(3)}
    assert rows == {
        0: [[1, 2, 3], [4, 5, 6], [4, 5, 7]],
        1: [[1, 2, 3], [4, 5, 6], [4, 5, 7]],
        2: [[4, 5, 6], [4, 5, 7]],
    }


def test_foreground_table_is_bounded_and_knows_annotated_voxels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FOREGROUND_VOXELS", 50)
    label = np.ones((10, 10, 10), dtype=np.int16)
    label[:, :, 5:] = 9
    labels = replace(CLASSES, ignore=9)
    table = sample_foreground(label, labels, np.random.default_rng(0))
    assert (table[:, 0] == 0).sum() == 50
    assert (table[:, 0] == ANNOTATED).sum() == 50
    assert table[:, 3].max() < 5


def atlas(cases: list[Case]) -> list[Case]:
    """The cases with labels in the values of `ATLAS`."""
    for case in cases:
        assert case.label is not None
        label = io.read_label(case.label)
        io.write(label.with_array(np.array([0, 40_000, 2**24 + 1])[label.array]), case.label)
    return cases


def test_large_label_values_are_kept(cases: list[Case], tmp_path: Path) -> None:
    cache = prepare(atlas(cases), make_plan(labels=ATLAS), tmp_path / "cache", workers=0)
    for case in cases:
        _, label = loaded(cache, case.id)
        assert set(np.unique(label).tolist()) - {-1} == {0, 40_000, 2**24 + 1}
        places = cache.foreground(case.id)
        assert set(places[:, 0].tolist()) == {ANNOTATED, 0, 1}
        second = places[places[:, 0] == 1, 1:]
        assert set(label[tuple(second.T)].tolist()) == {2**24 + 1}


def test_labels_that_version_0_1_0_cut_to_16_bits_are_prepared_again(cases: list[Case], tmp_path: Path) -> None:
    for labels, again in ((ATLAS, True), (CLASSES, False)):
        plan, folder = make_plan(labels=labels), tmp_path / f"cache_{again}"
        if again:
            atlas(cases)
        _, sound = loaded(prepare(cases, plan, folder, workers=0), "case0")
        blosc2.asarray(sound.astype(np.int16), urlpath=str(folder / "case0.label.b2nd"), mode="w")
        before = (folder / "case0.label.b2nd").stat().st_mtime_ns
        _, label = loaded(prepare(cases, plan, folder, workers=0), "case0")
        assert ((folder / "case0.label.b2nd").stat().st_mtime_ns != before) == again
        np.testing.assert_array_equal(label, sound)
        for case in cases if again else ():
            assert case.label is not None
            small = io.read_label(case.label)
            io.write(small.with_array(np.searchsorted((0, 40_000, 2**24 + 1), small.array)), case.label)


def test_case_without_enough_memory_fails_alone(cases: list[Case], tmp_path: Path) -> None:
    header = io.read(cases[1].images[0])
    assert cases[1].label is not None
    for path, volume in ((cases[1].images[0], header), (cases[1].label, io.read_label(cases[1].label))):
        io.write(Volume(volume.array, Geometry(volume.geometry.shape, np.diag([1.0, 5000.0, 5000.0, 1.0]))), path)
    folder = tmp_path / "cache"
    with pytest.raises(ValueError, match=r"1 of 3 cases.*case1: resampling .* of 5000 x 5000 x 1 mm.*GB are free"):
        prepare(cases, PLAN, folder, workers=0)
    assert finished(Cache(folder)) == ("case0", "case2")


def test_errors_for_users_reach_them_from_inside_the_steps(cases: list[Case], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"case0: channel MR is declared as RGB but has values from"):
        prepare(cases, make_plan(channels=(channel("rgb_0_1"),)), tmp_path / "cache", workers=0)


def test_mistake_in_a_step_is_no_bad_case(cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise TypeError("a mistake")

    monkeypatch.setattr("medmamba.data.preprocess.resample_data_or_seg_to_shape", broken)
    with pytest.raises(TypeError, match="a mistake"):
        prepare(cases, PLAN, tmp_path / "cache", workers=0)


def test_case_for_which_the_machine_ends_the_process_fails_alone(
    cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "work"))  # which processes take over
    monkeypatch.setattr(module, "_prepare_case", importlib.import_module("engine_work").dies_or_is_short)
    with pytest.raises(ValueError, match=r"1 of 3 cases could not be prepared: case1: the machine ended its process"):
        prepare(cases, PLAN, tmp_path / "cache", workers=2)
    assert sorted(path.name for path in (tmp_path / "cache").glob("*.done")) == ["case0.done", "case2.done"]


def test_full_disk_ends_the_preparation_and_leaves_no_half_file(
    cases: list[Case], small_disk: Callable[[str], Path]
) -> None:
    disk = small_disk("64k")
    (disk / "taken").write_bytes(bytes(36 * 1024))
    with pytest.raises(OSError, match="No space left") as caught:
        prepare(cases, PLAN, disk / "cache", workers=0)
    assert caught.value.errno == errno.ENOSPC
    assert not [path for path in disk.rglob("*") if path.suffix == ".tmp"]
    (disk / "taken").unlink()


def test_preparation_goes_on_after_the_disk_was_full(
    cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache"
    replace_file, calls = os.replace, []

    def full_at_last(source: object, target: object) -> None:
        calls.append(target)
        if len(calls) > 6:
            raise OSError(errno.ENOSPC, "No space left on device", str(source))
        replace_file(source, target)  # type: ignore[call-overload]

    monkeypatch.setattr("medmamba.files.os.replace", full_at_last)
    with pytest.raises(OSError, match="No space left") as caught:
        prepare(cases, PLAN, folder, workers=0)
    assert str(caught.value.filename).startswith(str(folder / "case1"))
    assert not list(folder.glob(".*.tmp"))
    monkeypatch.undo()
    assert finished(prepare(cases, PLAN, folder, workers=0)) == ("case0", "case1", "case2")
    prepare(cases, PLAN, tmp_path / "whole", workers=0)
    assert contents(folder) == contents(tmp_path / "whole")
