"""Folders of registrations: what is skipped, done again, refused, and left by a process that was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from medmamba import io
from medmamba.case import Case, Pair
from medmamba.errors import UsageError
from medmamba.files import OutputError
from medmamba.registration import folder as folder_module
from medmamba.registration.folder import register_pairs
from medmamba.registration.records import Asked, Outcome, Overview, PairRecord
from medmamba.volume import Geometry, Volume
from tests.pairs_factory import write_subjects

T = TypeVar("T")
QUICK = Asked(refine=0, affine="centres")


def pairs(folder: Path, count: int = 1) -> list[Pair]:
    write_subjects(folder, count + 1)
    cases = [Case(id=f"s{n}", images=(folder / f"s{n}_t1.nii.gz",)) for n in range(count + 1)]
    return [Pair(id=f"{case.id}_to_s0", fixed=cases[0], moving=case) for case in cases[1:]]


def statuses(outcomes: tuple[Outcome, ...]) -> list[tuple[str, str]]:
    return [(outcome.status, outcome.message) for outcome in outcomes]


def test_a_finished_pair_is_skipped_until_something_that_made_it_changes(tmp_path: Path) -> None:
    asked, out = pairs(tmp_path / "in"), tmp_path / "out"
    assert statuses(register_pairs(asked, out, QUICK)) == [("done", "")]
    assert statuses(register_pairs(asked, out, QUICK)) == [("skipped", "")]
    rigid = Asked(refine=0, affine="none")
    assert statuses(register_pairs(asked, out, rigid)) == [("done", "options changed")]
    image = io.read(asked[0].moving.images[0])
    io.write(image.with_array(image.array + 1), asked[0].moving.images[0])
    assert statuses(register_pairs(asked, out, rigid)) == [("done", "an image or what belongs to it changed")]
    (out / "s1_to_s0" / "inverse.h5").unlink()
    assert statuses(register_pairs(asked, out, rigid)) == [("done", "files are missing")]
    assert (out / "s1_to_s0" / "inverse.h5").is_file()


def test_what_was_edited_or_is_not_ours_is_kept_unless_told_otherwise(tmp_path: Path) -> None:
    asked, out = pairs(tmp_path / "in"), tmp_path / "out"
    register_pairs(asked, out, QUICK)
    place = out / "s1_to_s0"
    (place / "affine.tfm").write_text("mine")
    [(status, message)] = statuses(register_pairs(asked, out, Asked(refine=0, affine="none")))
    assert status == "failed"
    assert "affine.tfm was edited after it was made; choose another folder" in message
    assert (place / "affine.tfm").read_text() == "mine"
    (place / "run.json").unlink()
    [(status, message)] = statuses(register_pairs(asked, out, QUICK))
    assert "without a record of `medmamba register`" in message
    assert statuses(register_pairs(asked, out, QUICK, overwrite=True)) == [("done", "")]
    assert (place / "affine.tfm").read_text() != "mine"


def test_a_pair_that_fails_leaves_nothing_and_the_others_are_done(tmp_path: Path) -> None:
    asked, out = pairs(tmp_path / "in", 2), tmp_path / "out"
    flat = Volume(np.zeros((1, 8, 8, 8), np.float32), Geometry((8, 8, 8), np.eye(4)))
    io.write(flat, asked[0].moving.images[0])
    first, second = register_pairs(asked, out, QUICK)
    assert first.status == "failed"
    assert "the same everywhere" in first.message
    assert second.status == "done"
    assert sorted(path.name for path in out.iterdir() if path.name[0] != ".") == ["registration.json", "s2_to_s0"]
    overview = Overview.load(out)
    assert {name: each.status for name, each in overview.pairs.items()} == {"s1_to_s0": "failed", "s2_to_s0": "done"}


def test_each_pair_is_noted_as_soon_as_it_is_done(tmp_path: Path) -> None:
    """So that a command that is killed leaves a record that is true."""
    asked, out = pairs(tmp_path / "in", 2), tmp_path / "out"
    seen = []

    def watched(items: Iterable[T], *, title: str, total: int) -> Iterator[T]:
        for item in items:
            yield item
            seen.append([(name, each.status) for name, each in Overview.load(out).pairs.items()])

    register_pairs(asked, out, QUICK, progress=watched)
    assert seen == [
        [("s1_to_s0", "done"), ("s2_to_s0", "waiting")],
        [("s1_to_s0", "done"), ("s2_to_s0", "done")],
    ]
    sides = Overview.load(out).pairs["s1_to_s0"]
    assert sides.fixed is not None
    assert sides.fixed.image == str(asked[0].fixed.images[0])


KILLED = """
import os, signal, sys
from pathlib import Path
from medmamba.registration import pair
from medmamba.registration.folder import register_pairs
from tests.registration.test_folder import QUICK, pairs
pair.checkerboard = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
register_pairs(pairs(Path(sys.argv[1]) / "in"), Path(sys.argv[1]) / "out", QUICK)
"""


def test_a_process_that_is_killed_in_between_leaves_no_half_pair_and_the_next_one_does_it(tmp_path: Path) -> None:
    checkout = Path(__file__).resolve().parents[2]
    killed = subprocess.run(
        [sys.executable, "-P", "-c", KILLED, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(checkout)},
        check=False,
        timeout=300,
    )
    assert killed.returncode == -signal.SIGKILL
    out = tmp_path / "out"
    assert not (out / "s1_to_s0").exists()
    assert Overview.load(out).pairs["s1_to_s0"].status == "waiting"
    assert list(out.glob(".writing.*"))
    cases = [Case(id=f"s{n}", images=(tmp_path / "in" / f"s{n}_t1.nii.gz",)) for n in range(2)]
    asked = [Pair(id="s1_to_s0", fixed=cases[0], moving=cases[1])]
    assert statuses(register_pairs(asked, out, QUICK)) == [("done", "")]
    assert not list(out.glob(".writing.*"))
    assert PairRecord.load(out / "s1_to_s0").pair == "s1_to_s0"


def test_two_commands_do_not_work_in_one_folder(tmp_path: Path) -> None:
    asked, out = pairs(tmp_path / "in"), tmp_path / "out"
    out.mkdir()
    with folder_module._alone(out), pytest.raises(UsageError, match="another command is registering into"):
        register_pairs(asked, out, QUICK)


def test_results_never_go_where_inputs_lie(tmp_path: Path) -> None:
    asked = pairs(tmp_path / "s1_to_s0")
    with pytest.raises(OutputError, match="is an input of this command"):
        register_pairs(asked, tmp_path, QUICK)
    with pytest.raises(UsageError, match="several pairs have the id s1_to_s0"):
        register_pairs([*asked, *asked], tmp_path / "out", QUICK)
    with pytest.raises(UsageError, match="no pairs"):
        register_pairs([], tmp_path / "out", QUICK)
