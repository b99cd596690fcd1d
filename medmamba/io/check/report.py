"""Goes through a data set and compares its cases with one another."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from medmamba.case import Case, some
from medmamba.engines import Failure, map_cases, suited
from medmamba.errors import DataError
from medmamba.io.check.clips import scan_clip
from medmamba.io.check.findings import Facts, Finding
from medmamba.io.check.rules import NOT_ON_WINDOWS, description_errors
from medmamba.io.check.scan import scan, some_values
from medmamba.io.images import is_image
from medmamba.io.layouts import Survey, survey
from medmamba.io.layouts.clips import LAYOUT as CLIPS
from medmamba.io.layouts.editions import like_editions, patient_of
from medmamba.io.layouts.hints import likely_pairs
from medmamba.io.layouts.meaning import like_described
from medmamba.io.layouts.names import maps_in, split_ending
from medmamba.io.sizes import largest_voxels
from medmamba.labels import Labels
from medmamba.progress import Progress, silent

#: A structure in fewer cases than this is hardly learned and leaves folds without it.
FEW_CASES = 5
#: A voxel size that is this many times another case's is more likely centimetres than another scanner.
ODD_SPACING = 8.0
#: Memory for a voxel of a channel that is checked: stored, as float32, and masks of it.
CASE_BYTES = 16.0


def check_dataset(path: Path, progress: Progress = silent, *, workers: int = 4, edition: str = "") -> list[Finding]:
    """List all problems of a data set.

    Every file of a training case is read once, and nothing is written. Images to predict are read where a folder of
    BraTS holds nothing else.

    Args:
        path: its folder.
        progress: shows how far it is.
        workers: at most so many processes read files.
        edition: of BraTS, where the user says which it is.

    Returns:
        Findings, errors first; empty when all is well.

    Raises:
        UsageError: if there is no such edition.
    """
    try:
        dataset = survey(path, edition, workers=workers)
    except (DataError, FileNotFoundError) as error:
        return [Finding("error", "layout", str(error))]
    facts = _scan_all(dataset, progress, workers)
    findings = [
        *description_errors(dataset),
        *map(Finding.of, dataset.remarks),
        *_check_description(dataset),
        *_check_leftovers(dataset),
        *_check_ids(dataset),
        *(finding for fact in facts for finding in fact.findings),
        *_check_patients(dataset),
        *_check_duplicates(facts),
        *_check_grids(facts),
        *_check_structures(dataset, facts),
    ]
    order = {"error": 0, "warning": 1, "note": 2}
    return sorted(findings, key=lambda finding: (order[finding.severity], finding.rule, finding.case or ""))


def _scan_all(dataset: Survey, progress: Progress, workers: int) -> list[Facts]:
    """What is found in each case; in one that cannot be looked at, the reason."""
    only_images = _is_for_prediction(dataset)
    cases = dataset.test if only_images else dataset.training
    channels = dataset.channels or ()
    function: Callable[[Case], Facts] = partial(
        scan,
        declared=channels,
        labels=dataset.labels,
        incomplete=frozenset(dataset.incomplete),
        edition=dataset.edition,
        is_labelled=not only_images,
    )
    if dataset.layout == CLIPS:
        function = partial(scan_clip, declared=channels, labels=dataset.labels)
    size = CASE_BYTES * largest_voxels([case.images[0] for case in cases])
    engine = suited(len(cases), at_most=workers, case_bytes=size * max(1, len(channels)))
    outcomes = map_cases(function, cases, engine, title="Checking cases", progress=progress)
    facts = []
    for case, outcome in zip(cases, outcomes, strict=True):
        facts.append(Facts(case.id) if isinstance(outcome, Failure) else outcome)
        if isinstance(outcome, Failure):
            facts[-1].add("error", "unreadable", f"the case could not be checked: {outcome.reason}")
    return facts


def _is_for_prediction(dataset: Survey) -> bool:
    """Whether there is no label map and none is announced, as in a folder of a challenge's validation cases."""
    return dataset.layout == "brats" and bool(dataset.test) and not dataset.training


def _check_description(dataset: Survey) -> Iterator[Finding]:
    file = str(dataset.root / "dataset.json")
    found = len(dataset.training)
    if _is_for_prediction(dataset):
        message = f"none of {len(dataset.test)} cases has a label map: a folder for medmamba predict"
        yield Finding("note", "for-prediction", f"{message}, with nothing to learn from")
    elif not found and not dataset.problems:
        message = f"{dataset.root} has no training cases; put images and labels where datasets.md says"
        yield Finding("error", "no-cases", message)
    if dataset.is_described and str(dataset.announced) != str(found):
        said = "missing" if dataset.announced is None else str(dataset.announced)
        message = f"numTraining is {said}, {found} training cases were found and are used"
        remedy = "correct the number, nnU-Net itself would stop"
        yield Finding("warning", "num-training", f"{message}; {remedy}", file=file)
    labels = dataset.labels if dataset.is_described else None
    if labels is not None and not dataset.edition and (words := like_described(labels)):
        yield Finding("note", "edition", words, file=file)
    values = [value for value in labels.values if value > 0] if labels is not None else []
    if values != list(range(1, len(values) + 1)):
        message = f"label values {values} have gaps, which is fine here; nnU-Net needs 1 to {len(values)}"
        yield Finding("note", "label-gaps", message, file=file)


def _check_leftovers(dataset: Survey) -> Iterator[Finding]:
    if dataset.listed:
        return
    labels = {case.label for case in dataset.training if case.label is not None}
    for folder in sorted({label.parent for label in labels if label.parent.is_dir()}):
        orphans = [path for path in maps_in(folder) if path not in labels]
        if not orphans:
            continue
        cases = (*dataset.training, *dataset.test)
        lacking = [case.id for case in cases if case.label is None or not is_image(case.label)]
        pairs = likely_pairs([split_ending(path)[0] for path in orphans], lacking)
        renames = f", or rename {some([f'{label} to {case}' for label, case in pairs])}" if pairs else ""
        message = f"labels without an image: {some([path.name for path in orphans])}"
        remedy = f"add the images or remove the labels{renames}"
        yield Finding("warning", "label-without-image", f"{message}; {remedy}", file=str(folder))


def _check_ids(dataset: Survey) -> Iterator[Finding]:
    """What ids make difficult, but not here; what they make impossible is among the errors of the description."""
    training, test = ({case.id for case in cases} for cases in (dataset.training, dataset.test))
    if odd := sorted(case for case in training | test if set(case) & set(NOT_ON_WINDOWS)):
        message = f"case ids {some(odd)} hold one of {NOT_ON_WINDOWS}, which names of files cannot hold on Windows"
        yield Finding("warning", "odd-id", message)
    if both := sorted(training & test):
        message = f"case ids {some(both)} are those of training cases and of test cases"
        yield Finding("warning", "ids-in-test", f"{message}; predictions of the two need folders of their own")


def _check_patients(dataset: Survey) -> Iterator[Finding]:
    """Scans of one patient on both sides of a fold, as their names tell; scores are too good then."""
    scans: dict[str, set[str]] = defaultdict(set)
    for case in dataset.training:
        scans[patient_of(case.id)].add(case.id)
    several = {patient: cases for patient, cases in scans.items() if len(cases) > 1}
    for number, fold in enumerate(dataset.splits):
        apart = [p for p, cases in several.items() if cases & set(fold.train) and cases & set(fold.held_out)]
        if apart:
            message = f"fold {number} learns from scans of patients whom it is judged on: {some(sorted(apart))}"
            yield Finding("warning", "same-patient", f"{message}; keep each patient on one side")
    if several and not dataset.splits and dataset.layout != "brats":
        message = f"{len(several)} patients have several cases ({some(sorted(several))}), which folds may part"
        yield Finding("warning", "same-patient", f"{message}; keep each on one side in a splits_final.json")


def _check_duplicates(facts: Iterable[Facts]) -> Iterator[Finding]:
    owners: dict[str, set[str]] = defaultdict(set)
    for fact in facts:
        for digest in fact.digests:
            owners[digest].add(fact.case)
    remedy = "keep one, or all on one side of every fold: scores are too good otherwise"
    # Cases that share several channels are told of once.
    for cases in sorted({tuple(sorted(cases)) for cases in owners.values() if len(cases) > 1}):
        yield Finding("warning", "duplicate-image", f"cases {some(cases)} hold the same image; {remedy}")


def _check_grids(facts: Iterable[Facts]) -> Iterator[Finding]:
    grids = {fact.case: fact.geometry for fact in facts if fact.geometry is not None}
    if not grids:
        return
    counts = Counter(grid.orientation for grid in grids.values())
    if len(counts) > 1:
        listed = ", ".join(f"{orientation} in {count}" for orientation, count in counts.most_common())
        message = f"voxel axes point in different directions ({listed} cases)"
        remedy = "the network sees arrays as they are stored, so reorient all images and labels alike"
        yield Finding("warning", "mixed-orientation", f"{message}; {remedy}")
    flat = [case for case, grid in grids.items() if min(grid.shape) == 1]
    if 0 < len(flat) < len(grids):
        message = f"{len(flat)} of {len(grids)} cases are single slices ({some(flat)}), the others volumes"
        yield Finding("warning", "mixed-dimensions", f"{message}; train one network for each")
    # Sorted, so that a case stored with other axes is not taken for one with other voxels.
    usual = np.median([sorted(grid.spacing_mm) for grid in grids.values()], axis=0)
    for case, grid in grids.items():
        ratio = np.array(sorted(grid.spacing_mm)) / usual
        if ratio.max() > ODD_SPACING or ratio.min() < 1 / ODD_SPACING:
            here, there = (" x ".join(f"{size:g}" for size in sizes) for sizes in (sorted(grid.spacing_mm), usual))
            message = f"voxels measure {here} mm, those of the usual case {there} mm; is it another unit?"
            yield Finding("warning", "odd-spacing", message, case)


def _check_structures(dataset: Survey, facts: Iterable[Facts]) -> Iterator[Finding]:
    seen = [fact.values for fact in facts if fact.values is not None]
    labels = dataset.labels
    if not seen:
        return
    if labels is None and dataset.layout in ("folders", CLIPS):
        values = frozenset[int]().union(*seen)
        try:
            labels = Labels.of_values(values)
        except DataError as error:
            yield Finding("error", "label-values", f"{dataset.root / 'labels'}: {error}")
            return
        if words := like_editions(values):
            yield Finding("note", "edition", words)
    for label in labels.foreground if labels is not None else ():
        count = sum(bool(values & set(label.values)) for values in seen)
        if count < min(FEW_CASES, len(seen)):
            rule = "rare-label" if count else "absent-label"
            message = f"label {label.name} {some_values(list(label.values))} occurs in {count} of {len(seen)} cases"
            yield Finding("warning", rule, f"{message}; a network cannot learn what it hardly sees")
