"""A function mapped over cases: what fails, what is killed and what is interrupted."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from medmamba import engines
from medmamba.engines import (
    Engine,
    Failure,
    Gradual,
    Here,
    Processes,
    WorkerError,
    all_done,
    exactly,
    map_cases,
    suited,
)
from medmamba.errors import DataError, MachineError

WORK = Path(__file__).parent / "work"
KILLED = Failure("killed", "the machine ended its process, most likely for lack of memory")


@pytest.fixture(autouse=True)
def work(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of functions for workers, on the path that they take over."""
    monkeypatch.syspath_prepend(str(WORK))
    import engine_work

    return engine_work


def outcomes(work: Any, engine: Engine, *fates: str, folder: Path | None = None) -> list[Any]:
    items = [work.Item(f"case{number}", fate, folder) for number, fate in enumerate(fates)]
    return map_cases(work.work, items, engine, title="Working")


ENGINES = pytest.mark.parametrize("engine", [Here(), Processes(2)], ids=["here", "processes"])


@ENGINES
def test_results_and_failures_come_in_the_order_of_the_cases(work: Any, engine: Engine) -> None:
    fates = ("", "broken", "absent", "short", "")
    assert outcomes(work, engine, *fates) == [
        "case0 done",
        Failure("data", "case1: the file is empty"),
        Failure("system", "/absent/file: No such file or directory"),
        Failure("memory", "it needs 9 GB of memory, 2 GB are free"),
        "case4 done",
    ]


def test_each_case_that_ends_its_process_is_named_with_the_reason_and_the_others_are_done(work: Any) -> None:
    found = outcomes(work, Processes(2), "killed", "", "crashed", "left", "")
    assert found == [
        KILLED,
        "case1 done",
        Failure("killed", "its process ended by SIGSEGV"),
        Failure("killed", "its process ended with exit code 7"),
        "case4 done",
    ]


def test_case_that_was_short_of_memory_among_others_is_tried_again_with_fewer(
    work: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fates = ("short at first", "killed at first", "")
    assert outcomes(work, Processes(2), *fates, folder=tmp_path) == [f"case{n} done" for n in range(3)]
    assert "again, in fewer processes, case" in caplog.text


def test_process_killed_from_outside_does_not_stop_the_work(work: Any, tmp_path: Path) -> None:
    items = [work.Item("long", "waits", tmp_path), *(work.Item(f"case{n}") for n in range(3))]
    killer = subprocess.Popen([sys.executable, "-c", _KILL_WHEN_BEGUN, str(tmp_path / "long.begun")])
    assert map_cases(work.work, items, Processes(1), title="") == [KILLED, "case0 done", "case1 done", "case2 done"]
    assert killer.wait(timeout=30) == 0


_KILL_WHEN_BEGUN = textwrap.dedent(
    """
    import os, pathlib, signal, sys, time
    mark = pathlib.Path(sys.argv[1])
    while not (mark.exists() and mark.read_text()):
        time.sleep(0.05)
    os.kill(int(mark.read_text()), signal.SIGKILL)
    """
)


def test_mistake_is_raised_with_its_place_also_from_a_process(work: Any) -> None:
    with pytest.raises(work.OddError):
        outcomes(work, Here(), "", "mistake")
    with pytest.raises(WorkerError, match=r"(?s)case case1: Traceback.*in work.*OddError: this and that"):
        outcomes(work, Processes(2), "", "mistake")
    with pytest.raises(WorkerError, match=r"(?s)case case0: Traceback.*pickle"):
        outcomes(work, Processes(1), "unpicklable")


@ENGINES
def test_full_disk_stops_at_once(work: Any, engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"No space left.*/disk/case0"):
        outcomes(work, engine, "full", *["waits"] * 2, folder=tmp_path)


def test_what_workers_log_is_logged_here(work: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    outcomes(work, Processes(2), "logs", "")
    assert [(record.name, record.getMessage()) for record in caplog.records] == [
        ("medmamba.engine_work", "case0 is odd")
    ]


def test_libraries_have_one_thread_in_each_worker(work: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    assert outcomes(work, Processes(1), "threads") == ["1"]
    assert os.environ["OMP_NUM_THREADS"] == "3"
    assert "MKL_NUM_THREADS" not in os.environ


def test_worker_on_its_way_home_is_ended_without_a_word(
    work: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Libraries such as torch clear up when the interpreter ends, and may be met at it when the last case is done."""
    fates = ("leaves slowly", "sees the other leave")
    assert outcomes(work, Processes(2), *fates, folder=tmp_path) == ["case0 done", "case1 done"]
    assert capfd.readouterr().err == ""


def test_worker_that_cannot_begin_is_an_error_and_no_endless_loop(
    work: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(work.import_fails, "__module__", "absent_module")
    monkeypatch.setitem(sys.modules, "absent_module", work)
    with pytest.raises(MachineError, match="ended with exit code 1 before it began"):
        list(Processes(2).run(work.import_fails, [work.Item("a"), work.Item("b")]))
    assert "absent_module" in capfd.readouterr().err


def test_small_work_stays_here_and_long_work_goes_on_in_processes(work: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    items = [work.Item(str(number)) for number in range(4)]
    assert map_cases(work.process_of, items, Gradual(2), title="") == [os.getpid()] * 4
    monkeypatch.setattr(engines, "START_S", 0.0)
    here, *there = map_cases(work.process_of, items, Gradual(2), title="")
    assert here == os.getpid()
    assert os.getpid() not in there


def test_engine_follows_processors_cases_and_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "processors", lambda: 16)
    monkeypatch.setattr(engines, "available_bytes", lambda: 10e9)
    assert suited(100) == Gradual(8)
    assert suited(3) == Gradual(3)
    assert suited(1) == Here()
    assert suited(100, at_most=2) == Gradual(2)
    assert suited(100, case_bytes=0.25e9) == Gradual(8)
    assert suited(100, case_bytes=0.75e9) == Processes(8)  # which end at Ctrl-C, whatever they are at
    assert suited(100, case_bytes=2e9) == Processes(4)
    assert suited(100, case_bytes=20e9) == Here()
    assert [exactly(workers) for workers in (0, 1, 2)] == [Here(), Here(), Processes(2)]


def test_progress_sees_each_case_once(work: Any, tmp_path: Path) -> None:
    seen = []

    def progress(items: Iterator[Any], *, title: str, total: int) -> Iterator[Any]:
        for item in items:
            seen.append((title, total, item[0]))
            yield item

    items = [work.Item("a", "short at first", tmp_path), work.Item("b")]
    map_cases(work.work, items, Processes(2), title="Working", progress=progress)
    assert sorted(seen) == [("Working", 2, 0), ("Working", 2, 1)]


def test_all_done_lists_every_failure_or_gives_the_results(work: Any) -> None:
    items = [work.Item(name) for name in "cab"]
    assert all_done(items, [1, 2, 3], "read") == [1, 2, 3]
    failures = [Failure("data", "too small"), 2, Failure("memory", "too large")]
    with pytest.raises(DataError, match=r"^2 of 3 cases could not be read: b: too large; c: too small\. Repair"):
        all_done(items, failures, "read")


PROGRAM = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    sys.path.insert(0, sys.argv[1])
    from engine_work import Item, work
    from medmamba.engines import Processes, map_cases

    if __name__ == "__main__":
        items = [Item(f"case{n}", "waits", Path(sys.argv[2])) for n in range(3)]
        map_cases(work, items, Processes(2), title="Waiting")
    """
)


@pytest.mark.parametrize("moment", ["working", "starting"])
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_program_ends_at_once_and_leaves_no_process(
    tmp_path: Path, ending: signal.Signals, moment: str
) -> None:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    program = subprocess.Popen(
        [sys.executable, script, WORK, tmp_path], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wanted = 2 if moment == "working" else 0
    while len(list(tmp_path.glob("*.begun"))) < wanted or len(processes_of(program.pid)) < 2:
        assert program.poll() is None
        time.sleep(0.02)
    os.kill(program.pid, ending) if ending == signal.SIGKILL else os.killpg(program.pid, ending)
    _, said = program.communicate(timeout=20)  # the items would wait for ten minutes
    if ending == signal.SIGINT:
        assert said.count("Traceback") == 1  # the program's own, which catches nothing
    assert program.returncode == -ending
    until = time.monotonic() + 20
    while processes_of(program.pid):
        assert time.monotonic() < until, "a process is left over"
        time.sleep(0.05)


def processes_of(session: int) -> list[int]:
    """Processes of a session that are not at their end."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, sid = status.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(sid) == session and state != "Z":
            found.append(int(status.parent.name))
    return found
