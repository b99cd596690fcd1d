"""The work folder: where fingerprints, plans and preprocessed cases of a data set are kept.

    <root>/<data set>/fingerprint.json, or fingerprint_pairs.json for registration, fingerprint_clips.json for video
    <root>/<data set>/<configuration>__<network>/plan.json
    <root>/<data set>/<configuration>__<network>/fold_<fold>/
    <root>/<data set>/<configuration>__<network>__<option>-<value>/plan.json
    <root>/<data set>/preprocessed/<digest>/

The data set itself is only ever read.
"""

from __future__ import annotations

import json
import logging
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from medmamba.case import Dataset
from medmamba.errors import DataError
from medmamba.io import DatasetError, open_dataset, open_pairs
from medmamba.plans.budget import GPU_MEMORY_GB
from medmamba.plans.clips_fingerprint import ClipsFingerprint, clips_fingerprint
from medmamba.plans.decisions import Decision, first_fold
from medmamba.plans.fingerprint import Fingerprint, fingerprint
from medmamba.plans.pairs_fingerprint import PairsFingerprint, pairs_fingerprint
from medmamba.plans.plan import Configuration, Plan, RegistrationPlan
from medmamba.plans.planner import make_plan, possible_configurations
from medmamba.plans.registration import NetworkBytes, make_registration_plan
from medmamba.plans.video import make_video_plan
from medmamba.progress import Progress, silent
from medmamba.records import to_json

log = logging.getLogger(__name__)
F = TypeVar("F", Fingerprint, PairsFingerprint, ClipsFingerprint)

#: Names of folders stay well below the 255 bytes that file systems allow.
_LONGEST_NAME = 100


@dataclass(frozen=True, slots=True)
class Workspace:
    """The files of one data set in a work folder.

    Args:
        root: the work folder; it need not exist.
        dataset: name of the data set, made safe for file names.
    """

    root: Path
    dataset: str

    @property
    def folder(self) -> Path:
        """Everything about the data set."""
        return self.root / safe_name(self.dataset)

    @property
    def fingerprint(self) -> Path:
        """What was measured."""
        return self.folder / "fingerprint.json"

    @property
    def pairs_fingerprint(self) -> Path:
        """What was measured of its images as pairs to be registered."""
        return self.folder / "fingerprint_pairs.json"

    @property
    def clips_fingerprint(self) -> Path:
        """What was measured of its films."""
        return self.folder / "fingerprint_clips.json"

    def plan(
        self,
        configuration: Configuration,
        network: str,
        options: Mapping[str, Any] | None = None,
        gpu_memory_gb: float = GPU_MEMORY_GB,
    ) -> Path:
        """The plan of one configuration and network; whatever else makes it another plan is in the folder's name.

        >>> Workspace(Path(), "Liver").plan("3d_fullres", "umamba_bot", {"mixer": "none"}, 24).parent.name
        '3d_fullres__umamba_bot__mixer-none__gpu-24GB'
        """
        parts = [network]
        for name, value in sorted((options or {}).items()):
            parts.append(f"{name}-{value if isinstance(value, str) else json.dumps(value)}")
        if gpu_memory_gb != GPU_MEMORY_GB:
            parts.append(f"gpu-{gpu_memory_gb:g}GB")
        return self.folder / "__".join((configuration, *map(safe_name, parts))) / "plan.json"


def run_folder(folder: Path, fold: str) -> Path:
    """The training of a fold, beside its plan."""
    return folder / f"fold_{fold}"


def run_folders(folder: Path) -> list[Path]:
    """The trainings of all folds beside a plan; those that were set aside (``fold_0.old1``) do not count."""
    return sorted(path for path in folder.glob("fold_*") if path.is_dir() and ".old" not in path.name)


def safe_name(name: str) -> str:
    """A name as a folder can bear it: letters and digits of any script, ``-``, ``_`` and inner dots.

    >>> safe_name("Liver / MR (T2)")
    'Liver_MR_T2'
    """
    kept = re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", name)).strip("._")
    while len(kept.encode()) > _LONGEST_NAME:
        kept = kept[:-1]
    return kept or "dataset"


def measured(
    dataset: Dataset, workspace: Workspace, progress: Progress = silent, *, workers: int | None = None
) -> Fingerprint:
    """The data set's fingerprint: the one in the work folder if it still describes the data, else a new one.

    Args:
        dataset: to be described.
        workspace: where the fingerprint is kept.
        progress: told about each case that is measured.
        workers: see `medmamba.plans.fingerprint.fingerprint`.

    Raises:
        DataError: if the data set cannot be measured, or the work folder belongs to another one of the same name.
    """
    return _measured(
        dataset, workspace, workspace.fingerprint, Fingerprint, partial(fingerprint, workers=workers), progress
    )


def measured_pairs(
    dataset: Dataset, workspace: Workspace, progress: Progress = silent, *, workers: int | None = None
) -> PairsFingerprint:
    """As `measured`, of the images of pairs."""
    measure = partial(pairs_fingerprint, workers=workers)
    return _measured(dataset, workspace, workspace.pairs_fingerprint, PairsFingerprint, measure, progress)


def measured_clips(
    dataset: Dataset, workspace: Workspace, progress: Progress = silent, *, workers: int | None = None
) -> ClipsFingerprint:
    """As `measured`, of films."""
    measure = partial(clips_fingerprint, workers=workers)
    return _measured(dataset, workspace, workspace.clips_fingerprint, ClipsFingerprint, measure, progress)


def _measured(
    dataset: Dataset,
    workspace: Workspace,
    path: Path,
    kind: type[F],
    measure: Callable[[Dataset, Progress], F],
    progress: Progress,
) -> F:
    if path.is_file():
        kept = _kept(kind, path)
        if kept and kept.describes(dataset):
            return kept
        if kept and kept.dataset_root != str(dataset.root) and Path(kept.dataset_root).exists():
            raise DataError(
                f"{workspace.folder} holds plans of another data set named {dataset.name!r}, in {kept.dataset_root}; "
                "give one of the two another work folder"
            )
        log.info("%s no longer describes %s; measuring again", path, dataset.root)
    new = measure(dataset, progress)
    new.save(path)
    return new


def _kept(kind: type[F], path: Path) -> F | None:
    try:
        return kind.load(path)
    except DataError as error:
        # It holds measurements only, which can be made again.
        log.warning("%s; measuring again", error)
        return None


def planned_dataset(plan: Plan, data: Path | None = None) -> Dataset:
    """The data set that a plan was made for.

    Args:
        plan: holds where it was.
        data: where it lies now, if it was moved.

    Raises:
        FileNotFoundError: if it is not where the plan says, or there is nothing in ``data``.
        DatasetError: if it has errors (see `medmamba.io.open_dataset`), or ``data`` is another data set.
    """
    if plan.registration is not None:
        return _planned_pairs(plan, plan.registration, data)
    if data is None:
        root = Path(plan.dataset_root)
        if not root.is_dir():
            raise FileNotFoundError(
                f"{root}: the data set {plan.dataset!r} was there when the plan was made, and is not now; say where it "
                "lies with --data PATH"
            )
        return open_dataset(root, edition=plan.edition)
    dataset = open_dataset(data, edition=plan.edition)
    channels = tuple(channel.name for channel in plan.channels)
    # In plain folders labels are the values that occur, of which a part of the cases may lack some.
    known = set(dataset.labels.values) <= set(plan.labels.values)
    if dataset.channels != channels or not (dataset.labels == plan.labels if dataset.is_described else known):
        ours, theirs = ([label.name for label in labels.foreground] for labels in (plan.labels, dataset.labels))
        raise DatasetError(
            f"{data} is not the data set of the plan: that has channels {', '.join(channels)} and labels "
            f"{', '.join(ours)}, this has {', '.join(dataset.channels)} and {', '.join(theirs)}; give the right "
            "folder, or plan anew"
        )
    return dataset


def _planned_pairs(plan: Plan, registration: RegistrationPlan, data: Path | None) -> Dataset:
    root = data or Path(plan.dataset_root)
    if not root.exists():
        raise FileNotFoundError(
            f"{root}: the pairs of {plan.dataset!r} were there when the plan was made, and are not now; say where they "
            "lie with --data PATH"
        )
    dataset = open_pairs(root, registration.pairing, labels=plan.labels)
    known = {case.id for case in dataset.training}
    if registration.reference and registration.reference not in known:
        raise DatasetError(
            f"{root} has no image {registration.reference!r}, to which the plan brings all others; restore it, or plan "
            "anew with --force"
        )
    return dataset


Outcome = Literal["written", "unchanged", "replaced", "kept"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedResult:
    """What came of planning.

    Args:
        plan: the plan in the file.
        decisions: how a new plan is made; not those of a plan that was kept.
        fold: that can be trained first: ``all`` where there is a single case.
        path: of the plan.
        fingerprint_path: of the fingerprint.
        outcome: the file was ``written`` new, was there and is ``unchanged``, was ``replaced``, or differs from the
            new plan and was ``kept``.
        differences: one line for each field in which the file differs, or differed, from the new plan.
    """

    plan: Plan
    decisions: tuple[Decision, ...]
    fold: str
    path: Path
    fingerprint_path: Path
    outcome: Outcome
    differences: tuple[str, ...] = ()


def plan_dataset(
    dataset: Path | Dataset,
    network: str,
    configuration: Configuration | None = None,
    *,
    work: Path,
    gpu_memory_gb: float = GPU_MEMORY_GB,
    network_options: dict[str, Any] | None = None,
    channel_rules: Mapping[str, str] | None = None,
    network_bytes: NetworkBytes | None = None,
    change: Callable[[Plan], Plan] | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> PlannedResult:
    """Measure a data set, plan for it, and keep both in the work folder.

    A plan that is already there and differs, because somebody edited it or the data have changed, is kept.

    Args:
        dataset: the folder, or the data set opened; what it is planned for is what it is of: images, pairs or films.
        network: name in the registry of networks.
        configuration: slices or volumes of images; None means volumes where the data has any.
        work: the work folder.
        gpu_memory_gb: memory that training may take.
        network_options: passed on to the network.
        channel_rules: see `medmamba.plans.plan.Plan`; None: those of the plan that is there.
        network_bytes: of a network for registration, see `medmamba.plans.registration.make_registration_plan`.
        change: of what was decided, as somebody asks for; nothing else is decided anew.
        force: replace a plan that differs.
        progress: told about each case that is measured.

    Raises:
        FileNotFoundError: if the data set, or a file of it, is missing.
        DataError: if the data do not allow it (see `medmamba.plans.planner.make_plan`), or the plan that is there
            cannot be read and ``force`` is off.
    """
    data = dataset if isinstance(dataset, Dataset) else open_dataset(dataset)
    workspace = Workspace(work, data.name)
    path_measured = workspace.fingerprint
    if data.task == "video":
        path_measured = workspace.clips_fingerprint
        plan, decisions = make_video_plan(
            measured_clips(data, workspace, progress),
            data,
            network=network,
            gpu_memory_gb=gpu_memory_gb,
            network_options=network_options,
        )
    elif data.task == "registration":
        path_measured = workspace.pairs_fingerprint
        images = measured_pairs(data, workspace, progress)
        plan, decisions = make_registration_plan(
            images,
            data,
            network=network,
            gpu_memory_gb=gpu_memory_gb,
            network_options=network_options,
            network_bytes=network_bytes,
        )
    else:
        description = measured(data, workspace, progress)
        plan, decisions = make_plan(
            description,
            data,
            network=network,
            configuration=configuration or possible_configurations(description)[0],
            gpu_memory_gb=gpu_memory_gb,
            network_options=network_options,
        )
    decided = plan
    plan = change(decided) if change else decided
    reason = "instead of what was decided above"
    decisions += tuple(Decision("asked for", line, reason) for line in differences(decided, plan))
    plan = replace(plan, channel_rules=dict(channel_rules or {}))
    path = _place(workspace, plan, gpu_memory_gb)
    plan, outcome, changes = _store(plan, path, force)
    return PlannedResult(
        plan=plan,
        decisions=decisions,
        fold=first_fold(data),
        path=path,
        fingerprint_path=path_measured,
        outcome=outcome,
        differences=changes,
    )


def _place(workspace: Workspace, plan: Plan, gpu_memory_gb: float) -> Path:
    """Where a plan belongs: a folder of its own, or one that holds the same plan without its options in the name.

    So more memory that changes nothing makes no folder, and a plan of version 0.1.0, whose folders did not bear the
    options, stays where it is.
    """
    network = plan.network
    path = workspace.plan(plan.configuration, network.name, network.options, gpu_memory_gb)
    if path.is_file():
        return path
    for options in (network.options, {}):
        earlier = workspace.plan(plan.configuration, network.name, options)
        try:
            old = Plan.load(earlier)
        except (DataError, FileNotFoundError):
            continue
        # How much memory was planned for is not in a plan, but the options are, also in one that was edited since.
        if old.digest() == plan.digest() or (
            not options and network.options and old.network.options == network.options
        ):
            return earlier
    return path


def _store(plan: Plan, path: Path, force: bool) -> tuple[Plan, Outcome, tuple[str, ...]]:
    """Write the plan unless another one is there; the plan that is in the file then, and how it came about."""
    if not path.is_file():
        plan.save(path)
        return plan, "written", ()
    try:
        old = Plan.load(path)
    except DataError as error:
        if not force:
            raise DataError(f"{error}; correct {path}, or replace it by planning with --force") from error
        plan.save(path)
        return plan, "replaced", (str(error),)
    # Where the data lie is no decision: a data set that was moved does not make a plan differ. Nor is how channels are
    # found in an export, which users may write into the file.
    plan = replace(plan, channel_rules=plan.channel_rules or old.channel_rules)
    changes = differences(replace(old, dataset_root=plan.dataset_root, channel_rules=plan.channel_rules), plan)
    if changes and not force:
        return old, "kept", changes
    if changes or (old.dataset_root, old.channel_rules) != (plan.dataset_root, plan.channel_rules):
        plan.save(path)
    return plan, "replaced" if changes else "unchanged", changes


def differences(old: Plan, new: Plan) -> tuple[str, ...]:
    """One line for each field in which two plans differ, e.g. ``train.epochs: 250, new 1000``."""
    before, after = dict(_fields(to_json(old))), dict(_fields(to_json(new)))
    pairs = {place: (before.get(place, "absent"), after.get(place, "absent")) for place in {**before, **after}}
    return tuple(f"{place}: {was}, new {now}" for place, (was, now) in pairs.items() if was != now)


def _fields(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """All values of nested objects, by their place; lists count as one."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _fields(inner, f"{place}.{key}" if place else key)
    else:
        yield place, value
