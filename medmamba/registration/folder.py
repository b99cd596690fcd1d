"""A folder of registrations: which pairs are finished, which have to be done again, and what is somebody else's.

Each pair has a folder, which is there whole or not at all, with a record of what made its files, and is noted in the
record of all pairs as soon as it is done. So the same command
goes on where it was stopped, and one with other options or an exchanged image does its pairs anew; what is not known,
or was edited since, is never replaced unless that is asked for.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import torch
from filelock import FileLock, Timeout

import medmamba
from medmamba.case import Pair, some
from medmamba.engines import Engine, Failure, Here, suited
from medmamba.errors import DataError, UsageError
from medmamba.files import WRITING, OutputError, content_digest, replacing_all
from medmamba.io.places import check_output_folder
from medmamba.io.sizes import largest_voxels
from medmamba.progress import Progress, silent
from medmamba.records import RecordError
from medmamba.registration.model import Model
from medmamba.registration.pair import inputs_digest, register_pair
from medmamba.registration.records import RECORD, Asked, Outcome, Overview, PairRecord, SideRecord

log = logging.getLogger(__name__)

#: Memory a voxel takes about while its image is registered.
VOXEL_BYTES = 200


def register_pairs(
    pairs: Sequence[Pair],
    folder: Path,
    asked: Asked,
    *,
    run: Path | None = None,
    device: torch.device | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> tuple[Outcome, ...]:
    """Register what is not finished yet; a pair that fails leaves nothing and does not stop the others.

    Args:
        pairs: to register.
        folder: of the registrations, made if need be.
        asked: for all pairs; its ``model`` is filled in here.
        run: of a trained network; None: none.
        device: of network and refinement; the processor if None.
        overwrite: also do finished pairs, and replace what is not ours.
        progress: told of pairs, or of the steps of a single one.

    Returns:
        What became of each, in order.

    Raises:
        UsageError: if there are no pairs, two have one id, another command works in the folder, or the model is for
            another task.
        OutputError: if the folder is no place to write to.
        DataError: if its record is damaged.
    """
    device = device or torch.device("cpu")
    _check(pairs, folder)
    if run is not None:
        asked = replace(asked, model=_model(run, str(device)).digest)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        overview = Overview.load(folder)
        found = {
            pair.id: replace(
                _standing(pair, folder / pair.id, asked, overwrite=overwrite),
                fixed=SideRecord.of(pair.fixed),
                moving=SideRecord.of(pair.moving),
            )
            for pair in pairs
        }
        _note(folder, overview, found.values())
        todo = [pair for pair in pairs if found[pair.id].status == "waiting"]
        single = len(todo) == 1
        work = partial(
            _done,
            folder=folder,
            asked=asked,
            run=run,
            device=str(device),
            progress=progress if single else silent,
        )
        told = silent if single else progress
        with closing(_engine(todo, single=single, device=device).run(work, todo)) as outcomes:
            for number, outcome in told(outcomes, title="Registering", total=len(todo)):
                before = found[todo[number].id]
                found[before.pair] = (
                    replace(before, status="failed", message=outcome.reason)
                    if isinstance(outcome, Failure)
                    else replace(before, status="done")
                )
                _note(folder, overview, found.values())
    return tuple(found[pair.id] for pair in pairs)


def _done(pair: Pair, *, folder: Path, asked: Asked, run: Path | None, device: str, progress: Progress) -> None:
    """Register a pair into a folder that takes its place when all is there."""
    with replacing_all(folder / pair.id) as temporary:
        temporary.mkdir()
        model = None if run is None else _model(run, device)
        register_pair(pair, temporary, asked, model=model, device=torch.device(device), progress=progress)


@cache
def _model(run: Path, device: str) -> Model:
    """Read once in each process."""
    return Model.of_run(run, torch.device(device))


def _engine(pairs: Sequence[Pair], *, single: bool, device: torch.device) -> Engine:
    if single or not pairs or device.type != "cpu":
        return Here()
    largest = largest_voxels([case.images[0] for pair in pairs for case in pair.cases])
    return suited(len(pairs), case_bytes=VOXEL_BYTES * largest)


def _check(pairs: Sequence[Pair], folder: Path) -> None:
    if not pairs:
        raise UsageError("there are no pairs to register")
    names = [pair.id for pair in pairs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"several pairs have the id {some(twice)}; give each an id of its own")
    inputs = {file for pair in pairs for case in pair.cases for file in case.files}
    check_output_folder(folder, files=[folder / name / RECORD for name in names], inputs=inputs)
    among = [file for file in inputs for name in names if (folder / name).resolve() in file.resolve().parents]
    if among:
        raise OutputError(f"{among[0]} is an input of this command, and lies where results would go; choose another")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No other command writes into the folder, so what a killed one left can go."""
    try:
        with FileLock(folder / ".lock", timeout=0):
            for leftover in folder.glob(f"{WRITING}*"):
                shutil.rmtree(leftover)
            yield
    except Timeout as error:
        raise UsageError(
            f"another command is registering into {folder}; wait until it has ended, or choose another folder"
        ) from error


def _note(folder: Path, before: Overview, found: Iterable[Outcome]) -> None:
    pairs = before.pairs | {outcome.pair: outcome for outcome in found}
    replace(before, medmamba=medmamba.__version__, pairs=dict(sorted(pairs.items()))).save(folder)


def _standing(pair: Pair, place: Path, asked: Asked, *, overwrite: bool) -> Outcome:
    """Whether a pair is ``skipped``, as it is finished, ``failed``, as something is in its way, or ``waiting``."""
    if overwrite or not place.exists():
        return Outcome(pair=pair.id, status="waiting")
    way_out = "choose another folder, move it away, or replace it with --overwrite"
    try:
        record = PairRecord.load(place)
    except (RecordError, OSError):
        message = f"{place} is there already, without a record of `medmamba register`; {way_out}"
        return Outcome(pair=pair.id, status="failed", message=message)
    there = {path.name: content_digest([path]) for path in place.iterdir() if path.name in record.files}
    if edited := sorted(name for name, digest in there.items() if digest != record.files[name]):
        message = f"{place / edited[0]} was edited after it was made; {way_out}"
        return Outcome(pair=pair.id, status="failed", message=message)
    try:
        digest = inputs_digest(pair)
    except (DataError, OSError):  # told in full when it is read
        digest = ""
    now = {
        "files are missing": set(there) != set(record.files),
        "an image or what belongs to it changed": digest != record.inputs_digest,
        "the model changed": asked.model != record.asked.model,
        "options changed": replace(asked, model="") != replace(record.asked, model=""),
    }
    if changes := [what for what, is_so in now.items() if is_so]:
        return Outcome(pair=pair.id, status="waiting", message=" and ".join(changes))
    return Outcome(pair=pair.id, status="skipped")
