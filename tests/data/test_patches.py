"""Patches are drawn as planned, and the same ones every time."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from medmamba import io
from medmamba.case import Case
from medmamba.data.augment import Augmentation
from medmamba.data.cache import prepare
from medmamba.data.patches import Batch, PatchSampler, stream, usual_workers
from medmamba.plans.plan import Plan
from medmamba.tasks.segmentation import Segmentation
from tests.data.factory import ATLAS, finished, make_plan

PLAN = make_plan()
SLICES = make_plan(patch=(12, 10), spacing=(1.0, 1.0))


def sampler(cases: list[Case], folder: Path, plan: Plan = PLAN) -> PatchSampler:
    """Over all cases."""
    cache = prepare(cases, plan, folder / "cache", workers=0)
    return PatchSampler(cache, finished(cache), plan)


def assert_same(ours: list[Batch], theirs: list[Batch]) -> None:
    """All batches equal, bit for bit."""
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.label, other.label)


@pytest.mark.parametrize("plan", [PLAN, SLICES], ids=["3d", "2d"])
@pytest.mark.parametrize("augmented", [False, True])
def test_batches_have_the_planned_size(cases: list[Case], tmp_path: Path, plan: Plan, augmented: bool) -> None:
    augment = Augmentation(plan) if augmented else None
    batch = sampler(cases, tmp_path, plan).batch(0, augment)
    assert batch.image.shape == (4, 1, *plan.topology.patch_size)
    assert batch.label.shape == (4, *plan.topology.patch_size)
    assert batch.image.dtype == torch.float32
    assert set(batch.label.unique().tolist()) <= {0, 1, 2}


def test_any_number_of_processes_gives_the_same_batches(cases: list[Case], tmp_path: Path) -> None:
    source = sampler(cases, tmp_path)
    alone = list(islice(stream(source, augment=Augmentation(PLAN)), 5))
    batches = stream(source, augment=Augmentation(PLAN), workers=2)
    together = list(islice(batches, 5))
    assert_same(alone, together)
    assert len(multiprocessing.active_children()) == 2
    batches.close()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("cores", "room_mb", "workers"),
    [(1, 1000, 0), (2, 1000, 0), (3, 1000, 1), (12, 1000, 6), (64, 1000, 8), (64, 100, 2), (64, 30, 0)],
)
def test_processes_draw_patches_where_there_are_cores_and_shared_memory_for_them(
    monkeypatch: pytest.MonkeyPatch, cores: int, room_mb: int, workers: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=room_mb * 1e6))
    assert usual_workers(10e6) == workers


def test_patches_are_drawn_by_one_thread_as_in_a_process_of_their_own(cases: list[Case], tmp_path: Path) -> None:
    # Means over many voxels depend on the number of threads that share them, and so would what is augmented by them.
    seen = []

    class Watching(Augmentation):
        def __call__(self, image: torch.Tensor, label: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
            seen.append(torch.get_num_threads())
            return super().__call__(image, label, seed)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        sampler(cases, tmp_path).batch(0, Watching(PLAN))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [1] * PLAN.train.batch_size


STREAM = """
import multiprocessing, pickle, signal, sys
from pathlib import Path
from medmamba.data.patches import stream

if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: print("asked to stop", flush=True))
    for _ in stream(pickle.loads(Path(sys.argv[1]).read_bytes()), workers=1):
        print(*(child.pid for child in multiprocessing.active_children()), flush=True)
        sys.stdin.readline()
"""


def is_running(pid: int) -> bool:
    """Whether a process is there and not a zombie that nobody has asked about."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_signals_to_all_processes_and_kill_leave_no_process_and_no_noise(cases: list[Case], tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(STREAM)
    (tmp_path / "sampler").write_bytes(pickle.dumps(sampler(cases, tmp_path)))
    command = [sys.executable, "-P", str(tmp_path / "script.py"), str(tmp_path / "sampler")]
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, start_new_session=True, text=True, **pipes) as main:

        def said() -> str:
            return main.stdout.readline().strip()  # type: ignore[union-attr]

        worker = int(said())
        for number in (signal.SIGINT, signal.SIGTERM):
            os.killpg(main.pid, number)  # as a terminal, or a batch system, does
            assert said() == "asked to stop"
        for _ in range(5):  # more than were drawn ahead
            main.stdin.write("next\n")  # type: ignore[union-attr]
            main.stdin.flush()  # type: ignore[union-attr]
            assert int(said()) == worker
        main.kill()
        assert "Traceback" not in main.stderr.read()  # type: ignore[union-attr]
    deadline = time.monotonic() + 120
    while is_running(worker):
        assert time.monotonic() < deadline, "the worker outlived the process that it drew for"
        time.sleep(0.05)


@pytest.mark.slow  # a process that imports PyTorch, for a rare moment
def test_worker_ends_when_training_is_killed_while_it_starts(cases: list[Case], tmp_path: Path) -> None:
    tell = "threading.Thread(target=tell, daemon=True).start()"
    early = f"""
import threading, time

def tell():
    while not (started := multiprocessing.active_children()):
        time.sleep(0.01)
    print(started[0].pid, flush=True)

if __name__ == "__main__":
    {tell}
"""
    (tmp_path / "script.py").write_text(STREAM.replace('if __name__ == "__main__":', early, 1))
    (tmp_path / "sampler").write_bytes(pickle.dumps(sampler(cases, tmp_path)))
    command = [sys.executable, "-P", str(tmp_path / "script.py"), str(tmp_path / "sampler")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as main:
        worker = int(main.stdout.readline())  # type: ignore[union-attr]
        main.kill()
    deadline = time.monotonic() + 120
    while is_running(worker):
        assert time.monotonic() < deadline, "the worker outlived the process that it was to draw for"
        time.sleep(0.05)


def test_a_stream_that_starts_later_goes_on_where_the_first_was(cases: list[Case], tmp_path: Path) -> None:
    source = sampler(cases, tmp_path)
    whole = list(islice(stream(source, augment=Augmentation(PLAN)), 5))
    rest = list(islice(stream(source, 3, augment=Augmentation(PLAN)), 2))
    assert_same(whole[3:], rest)
    assert not torch.equal(whole[0].image, whole[1].image)


def test_other_seeds_give_other_batches(cases: list[Case], tmp_path: Path) -> None:
    one = sampler(cases, tmp_path).batch(0, None)
    other = sampler(cases, tmp_path, make_plan(seed=7)).batch(0, None)
    assert not torch.equal(one.image, other.image)


def test_last_third_of_a_batch_holds_foreground(cases: list[Case], tmp_path: Path) -> None:
    source = sampler(cases, tmp_path, make_plan(patch=(4, 4, 4), batch_size=3))
    batches = [source.batch(step, None) for step in range(60)]
    share = np.array([[(label > 0).any().item() for label in batch.label] for batch in batches]).mean(axis=0)
    assert share[2] == 1.0
    assert share[:2].max() < 0.9


def test_structures_are_chosen_evenly_however_small(cases: list[Case], tmp_path: Path) -> None:
    source = sampler(cases, tmp_path, make_plan(patch=(2, 2, 2), batch_size=2, oversample_foreground=1.0))
    centres = torch.cat([source.batch(step, None).label[:, 1, 1, 1] for step in range(100)])
    assert (centres > 0).all()
    assert abs((centres == 1).float().mean().item() - 0.5) < 0.12


def test_patches_reach_every_voxel_and_pad_small_cases(cases: list[Case], tmp_path: Path) -> None:
    source = sampler(cases, tmp_path, make_plan(patch=(8, 30, 10)))
    batch = source.batch(0, None)
    assert (batch.image.abs().sum(dim=(1, 2, 4)) == 0).any()  # rows of padding
    shape = source.cache.shape("case0")
    seen = np.zeros(shape, dtype=bool)
    small = sampler(cases, tmp_path / "b", make_plan(patch=(4, 4, 4), oversample_foreground=0.0))
    rng = np.random.default_rng(0)
    for _ in range(20_000):
        start = small._start("case0", (4, 4, 4), (4, 4, 4), False, rng)
        assert all(0 <= a <= n - 4 for a, n in zip(start, shape, strict=True))
        seen[tuple(slice(a, a + 4) for a in start)] = True
    assert seen.all()


def test_no_cases_are_refused(cases: list[Case], tmp_path: Path) -> None:
    cache = prepare(cases, PLAN, tmp_path / "cache", workers=0)
    with pytest.raises(ValueError, match="no cases"):
        PatchSampler(cache, (), PLAN)


@pytest.mark.parametrize("augmented", [False, True])
def test_large_label_values_are_learned_as_small_ones_are(cases: list[Case], tmp_path: Path, augmented: bool) -> None:
    small = sampler(cases, tmp_path / "small")
    for case in cases:
        assert case.label is not None
        label = io.read_label(case.label)
        io.write(label.with_array(np.array([0, 40_000, 2**24 + 1])[label.array]), case.label)
    plan = make_plan(labels=replace(ATLAS, ignore=None))
    large = sampler(cases, tmp_path / "large", plan)
    for step in range(4):
        ours, theirs = (each.batch(step, Augmentation(plan) if augmented else None) for each in (large, small))
        assert torch.equal(ours.image, theirs.image)
        assert torch.equal(ours.label, theirs.label)
    logits = torch.randn(4, 3, *PLAN.topology.patch_size)
    outputs = [logits, logits[..., ::2, ::2, ::2], logits]
    losses = [Segmentation(each).loss(lambda image: outputs, ours).total for each in (plan, PLAN)]
    assert losses[0] == losses[1]
    counts = [Segmentation(each).count(logits, ours.label) for each in (plan, PLAN)]
    assert torch.equal(*counts)
    assert counts[0][:, 2].tolist() == [(ours.label == place).sum().item() for place in (1, 2)]
