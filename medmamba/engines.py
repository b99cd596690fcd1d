"""One function mapped over many cases: in this process, or in worker processes.

An engine yields what became of each case as it comes, a result or a `Failure`. A case that fails for a foreseeable
reason does not stop the others; a mistake in the function, and a full disk, stop them all. Function, cases and results
are pickled and nothing is shared, so that an engine may as well be a cluster: one more class with a method ``run``.
"""

from __future__ import annotations

import logging
import logging.handlers
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import SimpleNamespace
from typing import Any, Generic, Literal, Protocol, TypeVar

from medmamba.errors import DataError, MachineError, MedMambaError
from medmamba.files import in_words, is_full
from medmamba.memory import available_bytes, memory_errors
from medmamba.progress import Progress, silent

log = logging.getLogger(__name__)

#: What starting processes costs at least: libraries are imported in each of them.
START_S = 5.0
#: Memory that a worker takes for its libraries.
WORKER_BYTES = 0.5e9
#: A case that may take more than this share of the free memory is not tried in this process, which must not be ended.
LARGE_SHARE = 0.125
#: Nor is one that takes more than this: its long calls of libraries would not end at Ctrl-C.
LARGE_BYTES = 0.3e9
#: More workers than this wait for the disk.
MOST_WORKERS = 8
#: So long workers that are told to end may take to clear up.
PATIENCE_S = 1.0
#: Each worker counts as one processor, whatever its libraries would take.
_ONE_THREAD = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)


class Named(Protocol):
    """Whatever has an id: a `medmamba.case.Case`, a pair to compare."""

    @property
    def id(self) -> str:
        """What people call it."""
        ...


C = TypeVar("C", bound=Named)
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no result for a case.

    Args:
        kind: ``data`` for what a file holds, ``system`` for what the system answered, ``memory`` for lack of it,
            ``killed`` where the process that worked on the case was ended, most likely for lack of memory as well.
        reason: in words.
    """

    kind: Literal["data", "system", "memory", "killed"]
    reason: str


#: The number of each case and what became of it, in the order in which they are done.
Outcomes = Generator[tuple[int, R | Failure], None, None]


class WorkerError(RuntimeError):
    """The function has a mistake: in a worker process it raised what nobody foresaw; the message holds where."""


class Engine(Protocol):
    """A place where a function is mapped over cases."""

    def run(self, function: Callable[[C], R], cases: Sequence[C]) -> Outcomes[R]:
        """Yield what became of each case; closing this, and any exception, ends whatever is under way.

        Raises:
            OSError: if the disk is full.
        """
        ...


@dataclass(frozen=True, slots=True)
class Here:
    """This process, one case after the other."""

    def run(self, function: Callable[[C], R], cases: Sequence[C]) -> Outcomes[R]:
        """As `Engine.run`."""
        for number, case in enumerate(cases):
            yield number, _outcome(function, case)


@dataclass(frozen=True, slots=True)
class Processes:
    """Worker processes.

    Where memory runs out, or the system ends a worker, the cases in question are tried again in half as many; one that
    fails alone has failed.

    Args:
        count: of processes at the same time.
    """

    count: int

    def run(self, function: Callable[[C], R], cases: Sequence[C]) -> Outcomes[R]:
        """As `Engine.run`.

        Raises:
            WorkerError: for a mistake in the function.
            MachineError: if workers end before they begin.
            OSError: if the disk is full.
        """
        waiting, count = dict(enumerate(cases)), self.count
        while waiting:
            again = {}
            with closing(_in_workers(function, waiting, count)) as outcomes:
                for number, outcome in outcomes:
                    short = isinstance(outcome, Failure) and outcome.kind in ("memory", "killed")
                    if not short or count == 1:
                        yield number, outcome
                        continue
                    again[number] = waiting[number]
            if again:
                names = ", ".join(case.id for case in again.values())
                log.warning("memory ran out, or a process was ended: again, in fewer processes, %s", names)
            waiting, count = again, count // 2


@dataclass(frozen=True, slots=True)
class Gradual:
    """This process, until as much time was spent as starting others takes; the rest in processes if it is as long.

    Args:
        count: of processes.
    """

    count: int

    def run(self, function: Callable[[C], R], cases: Sequence[C]) -> Outcomes[R]:
        """As `Engine.run` of `Here` and `Processes`."""
        begun = time.monotonic()
        for number, outcome in Here().run(function, cases):
            yield number, outcome
            done, spent = number + 1, time.monotonic() - begun
            left = len(cases) - done
            if left > 1 and spent >= START_S and left * spent / done >= START_S:
                with closing(Processes(min(self.count, left)).run(function, cases[done:])) as rest:
                    yield from ((done + later, other) for later, other in rest)
                return


def suited(cases: int, *, at_most: int | None = None, case_bytes: float = 0.0) -> Engine:
    """The engine for a number of cases on this machine, which takes large ones to worker processes at once.

    Args:
        cases: how many.
        at_most: processes; as many as there are processors, up to `MOST_WORKERS`, when None.
        case_bytes: memory that one case takes, as far as known.
    """
    free = available_bytes()
    wanted = min(processors(), MOST_WORKERS) if at_most is None else at_most
    count = int(min(wanted, cases, free / (WORKER_BYTES + case_bytes)))
    if count <= 1:
        return Here()
    return Processes(count) if case_bytes > min(LARGE_SHARE * free, LARGE_BYTES) else Gradual(count)


def exactly(workers: int) -> Engine:
    """So many processes; this one for 0 and 1."""
    return Processes(workers) if workers > 1 else Here()


def map_cases(
    function: Callable[[C], R], cases: Sequence[C], engine: Engine, *, title: str, progress: Progress = silent
) -> list[R | Failure]:
    """What became of each case, in the order of the cases, whichever was done first.

    Args:
        function: of one case; picklable, as are cases and results.
        cases: what to work on.
        engine: where.
        title: of the work, for progress.
        progress: told as cases are done.

    Raises:
        OSError: if the disk is full.
    """
    outcomes: dict[int, R | Failure] = {}
    with closing(engine.run(function, cases)) as done:
        outcomes.update(progress(done, title=title, total=len(cases)))
    return [outcomes[number] for number in range(len(cases))]


def all_done(cases: Sequence[C], outcomes: Sequence[R | Failure], what: str, *, total: int | None = None) -> list[R]:
    """The results, where there are no failures.

    Args:
        cases: what was worked on.
        outcomes: from `map_cases`.
        what: was done to them, as in "3 of 9 cases could not be ...".
        total: of how many; of those that were worked on when None.

    Raises:
        DataError: with all cases that failed, and the reason for each.
    """
    by_case = zip(cases, outcomes, strict=True)
    failures = [f"{case.id}: {outcome.reason}" for case, outcome in by_case if isinstance(outcome, Failure)]
    if failures:
        raise DataError(
            f"{len(failures)} of {total or len(cases)} cases could not be {what}: {'; '.join(sorted(failures))}. "
            "Repair them or leave them out; `medmamba dataset check` lists all problems"
        )
    return [outcome for outcome in outcomes if not isinstance(outcome, Failure)]


@contextmanager
def signals_held(*numbers: signal.Signals) -> Iterator[None]:
    """Processes that are started here get these signals when they let them through; none is lost to this one."""
    resource_tracker.ensure_running()  # which would let signals through again when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def processors() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _outcome(function: Callable[[C], R], case: C) -> R | Failure:
    """The result, or why there is none; what nobody foresaw passes, and so does a full disk, which stops them all."""
    try:
        with memory_errors():
            return function(case)
    except MemoryError as error:
        return Failure("memory", in_words(error))
    except OSError as error:
        if is_full(error):
            raise
        return Failure("system", in_words(error))
    except MedMambaError as error:
        return Failure("data", in_words(error))


@dataclass(frozen=True, slots=True)
class _Answer(Generic[R]):
    """What a worker sends when a case is done."""

    outcome: R | Failure


@dataclass(slots=True)
class _Worker:
    """A process, our end of the line to it, and the number of the case that it works on; None until it is ready."""

    process: BaseProcess
    line: Connection
    number: int | None = None


def _in_workers(function: Callable[[C], R], cases: Mapping[int, C], count: int) -> Outcomes[R]:
    """One pass over cases, a worker taking the next one when it is done; one that ends early is replaced."""
    workers: dict[Any, _Worker] = {}
    waiting, hired = deque(cases), list[_Worker]()
    left = len(cases)
    try:
        for _ in range(min(count, left)):
            _hire(function, hired, workers)
        while left:
            for line in wait(list(workers)):
                worker = workers[line]
                try:
                    message = worker.line.recv()
                except (EOFError, OSError):
                    message = _Answer(_end_of(worker))
                    del workers[line]
                    if waiting:
                        _hire(function, hired, workers)
                if isinstance(message, logging.LogRecord):
                    _log_here(message)
                    continue
                if isinstance(message, Exception):
                    raise message
                number, worker.number = worker.number, None
                if line in workers and waiting:
                    worker.number = waiting.popleft()
                    with suppress(ConnectionError):  # it was ended just now, which is noticed at the next turn
                        worker.line.send_bytes(pickle.dumps(cases[worker.number]))
                elif line in workers:
                    workers.pop(line).line.close()  # which lets it go home
                if number is not None:
                    left -= 1
                    yield number, message.outcome
    finally:
        _dismiss(hired)


def _hire(function: Callable[[C], R], hired: list[_Worker], workers: dict[Any, _Worker]) -> None:
    ours, theirs = multiprocessing.Pipe()
    # Not forked: a fork copies the locks of torch's threads in whatever state they are.
    process = multiprocessing.get_context("spawn").Process(
        target=_work, args=(theirs, function, logging.getLogger().getEffectiveLevel()), daemon=True
    )
    workers[ours] = _Worker(process, ours)
    hired.append(workers[ours])  # before it starts, so that it is dismissed whatever happens
    with _as_workers_need_it():
        process.start()
    theirs.close()  # with the last of their ends the line ends


@contextmanager
def _as_workers_need_it() -> Iterator[None]:
    """What a process takes over from the one that starts it: no interrupts, which are ours, and one thread."""
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))
    try:
        with signals_held(signal.SIGINT):
            yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _end_of(worker: _Worker) -> Failure:
    """What to say of a case whose worker has ended.

    Raises:
        MachineError: if the worker never was ready.
    """
    worker.process.join()
    code = worker.process.exitcode
    how = f"by {signal.Signals(-code).name}" if code is not None and code < 0 else f"with exit code {code}"
    if worker.number is None:
        raise MachineError(
            f"a worker process ended {how} before it began; work in this process alone (0 or 1 workers), and begin a "
            "program of your own with `if __name__ == '__main__':`"
        )
    if code == -signal.SIGKILL:
        return Failure("killed", "the machine ended its process, most likely for lack of memory")
    return Failure("killed", f"its process ended {how}")


def _log_here(record: logging.LogRecord) -> None:
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)


def _dismiss(workers: Sequence[_Worker]) -> None:
    """End workers, whatever they are at; they have a moment to remove files that are half written."""
    started = [worker for worker in workers if worker.process.pid is not None]
    for worker in started:
        worker.line.close()
        worker.process.terminate()
    until = time.monotonic() + PATIENCE_S
    for worker in started:
        worker.process.join(max(0.0, until - time.monotonic()))
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()


def _work(line: Connection, function: Callable[[Any], Any], level: int) -> None:
    """What a worker does: answer for one case after the other until the line ends."""
    signal.signal(signal.SIGTERM, _leave)
    end_with_parent()
    root = logging.getLogger()
    to_parent: Any = SimpleNamespace(put_nowait=line.send)  # as much of a queue as the handler needs
    root.handlers = [logging.handlers.QueueHandler(to_parent)]
    root.setLevel(level)
    with suppress(EOFError, ConnectionError):
        line.send(_Answer(None))
        while True:
            line.send_bytes(_answer(function, pickle.loads(line.recv_bytes())))
    # Nothing is half written any more: told to end on its way out, the process does so without a word of its libraries.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _leave(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: what is half written is being removed
    sys.exit(1)


def _answer(function: Callable[[Any], Any], case: Any) -> bytes:
    try:
        return pickle.dumps(_Answer(_outcome(function, case)))
    except OSError as error:
        return pickle.dumps(OSError(error.errno, error.strerror, error.filename))
    except Exception:  # raised again where the function was asked for, with all there is to know
        return pickle.dumps(WorkerError(f"case {case.id}: {traceback.format_exc()}"))


def end_with_parent() -> None:
    """Have this process, a worker, end when the one that started it does, however that ends.

    Told to end first, and ended when it is not gone soon: it may be at something long, or not listen.
    """

    def watch() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(PATIENCE_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
