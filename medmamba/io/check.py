"""Everything that is wrong with a data set, found in one pass and told at once."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from medmamba.io._errors import DatasetError
from medmamba.io._findings import Facts, Finding, Severity, some
from medmamba.io._hints import likely_pairs
from medmamba.io._names import maps_in, split_ending
from medmamba.io._rules import NOT_ON_WINDOWS, description_errors
from medmamba.io._scan import scan, some_values
from medmamba.io._survey import Survey, survey
from medmamba.io.datasets import labels_of_values
from medmamba.progress import Progress, silent

__all__ = ["FEW_CASES", "Finding", "Severity", "check_dataset"]

#: A structure in fewer cases than this is hardly learned and leaves folds without it.
FEW_CASES = 5
#: A voxel size that is this many times another case's is more likely centimetres than another scanner.
ODD_SPACING = 8.0


def check_dataset(path: Path, progress: Progress = silent, *, workers: int = 4) -> list[Finding]:
    """List all problems of a data set.

    Every file of a training case is read once, and nothing is written. Test images are not read.

    Args:
        path: its folder.
        progress: shows how far it is.
        workers: threads that read files.

    Returns:
        Findings, errors first; empty when all is well.
    """
    try:
        dataset = survey(path)
    except (ValueError, FileNotFoundError) as error:
        return [Finding(severity="error", rule="layout", message=str(error))]
    findings = [
        *description_errors(dataset),
        *dataset.remarks,
        *_check_description(dataset),
        *_check_leftovers(dataset),
        *_check_ids(dataset),
    ]
    with _header_remarks(dataset) as remarks, ThreadPoolExecutor(workers) as pool:
        scanned = pool.map(lambda case: scan(case, dataset), dataset.training)
        facts = list(progress(scanned, title="Checking cases", total=len(dataset.training)))
    for fact in facts:
        findings += fact.findings
    findings += remarks
    findings += [*_check_duplicates(facts), *_check_grids(facts), *_check_structures(dataset, facts)]
    order = {"error": 0, "warning": 1, "note": 2}
    return sorted(findings, key=lambda finding: (order[finding.severity], finding.rule, finding.case or ""))


def _check_description(dataset: Survey) -> Iterator[Finding]:
    file = str(dataset.root / "dataset.json")
    found = len(dataset.training)
    if not found and not dataset.problems:
        yield Finding(
            severity="error",
            rule="no-cases",
            message=f"{dataset.root} has no training cases; put images and labels where datasets.md says",
        )
    if dataset.layout != "folders" and str(dataset.announced) != str(found):
        said = "missing" if dataset.announced is None else str(dataset.announced)
        yield Finding(
            severity="warning",
            rule="num-training",
            message=f"numTraining is {said}, {found} training cases were found and are used; correct the number, "
            "nnU-Net itself would stop",
            file=file,
        )
    labels = dataset.labels
    values = [value for value in labels.values if value > 0] if labels is not None else []
    if values != list(range(1, len(values) + 1)):
        yield Finding(
            severity="note",
            rule="label-gaps",
            message=f"label values {values} have gaps, which is fine here; nnU-Net needs 1 to {len(values)}",
            file=file,
        )


def _check_leftovers(dataset: Survey) -> Iterator[Finding]:
    if dataset.listed:
        return
    labels = {case.label for case in dataset.training if case.label is not None}
    for folder in sorted({label.parent for label in labels if label.parent.is_dir()}):
        orphans = [path for path in maps_in(folder) if path not in labels]
        if orphans:
            cases = (*dataset.training, *dataset.test)
            lacking = [case.id for case in cases if case.label is None or not case.label.is_file()]
            pairs = likely_pairs([split_ending(path)[0] for path in orphans], lacking)
            renames = f", or rename {some([f'{label} to {case}' for label, case in pairs])}" if pairs else ""
            yield Finding(
                severity="warning",
                rule="label-without-image",
                message=f"labels without an image: {some([path.name for path in orphans])}; add the images or remove "
                f"the labels{renames}",
                file=str(folder),
            )


def _check_ids(dataset: Survey) -> Iterator[Finding]:
    """What ids make difficult, but not here; what they make impossible is among the errors of the description."""
    odd = sorted({case.id for case in (*dataset.training, *dataset.test) if set(case.id) & set(NOT_ON_WINDOWS)})
    if odd:
        yield Finding(
            severity="warning",
            rule="odd-id",
            message=f"case ids {some(odd)} hold one of {NOT_ON_WINDOWS}, which names of files cannot hold on Windows",
        )
    both = sorted({case.id for case in dataset.training} & {case.id for case in dataset.test})
    if both:
        yield Finding(
            severity="warning",
            rule="ids-in-test",
            message=f"case ids {some(both)} are those of training cases and of test cases; predictions of the two need "
            "folders of their own",
        )


def _check_duplicates(facts: Iterable[Facts]) -> Iterator[Finding]:
    owners: dict[str, set[str]] = defaultdict(set)
    for fact in facts:
        for digest in fact.digests:
            owners[digest].add(fact.case)
    # Cases that share several channels are told of once.
    for cases in sorted({tuple(sorted(cases)) for cases in owners.values() if len(cases) > 1}):
        yield Finding(
            severity="warning",
            rule="duplicate-image",
            message=f"cases {some(cases)} hold the same image; keep one, or all on one side of every fold: scores are "
            "too good otherwise",
        )


def _check_grids(facts: Iterable[Facts]) -> Iterator[Finding]:
    grids = {fact.case: fact.geometry for fact in facts if fact.geometry is not None}
    if not grids:
        return
    counts = Counter(grid.orientation for grid in grids.values())
    if len(counts) > 1:
        listed = ", ".join(f"{orientation} in {count}" for orientation, count in counts.most_common())
        yield Finding(
            severity="warning",
            rule="mixed-orientation",
            message=f"voxel axes point in different directions ({listed} cases); the network sees arrays as they are "
            "stored, so reorient all images and labels alike",
        )
    flat = [case for case, grid in grids.items() if min(grid.shape) == 1]
    if 0 < len(flat) < len(grids):
        yield Finding(
            severity="warning",
            rule="mixed-dimensions",
            message=f"{len(flat)} of {len(grids)} cases are single slices ({some(flat)}), the others volumes; train "
            "one network for each",
        )
    # Sorted, so that a case stored with other axes is not taken for one with other voxels.
    usual = np.median([sorted(grid.spacing_mm) for grid in grids.values()], axis=0)
    for case, grid in grids.items():
        ratio = np.array(sorted(grid.spacing_mm)) / usual
        if ratio.max() > ODD_SPACING or ratio.min() < 1 / ODD_SPACING:
            here, there = (" x ".join(f"{size:g}" for size in sizes) for sizes in (sorted(grid.spacing_mm), usual))
            yield Finding(
                severity="warning",
                rule="odd-spacing",
                message=f"voxels measure {here} mm, those of the usual case {there} mm; is it another unit?",
                case=case,
            )


def _check_structures(dataset: Survey, facts: Iterable[Facts]) -> Iterator[Finding]:
    seen = [fact.values for fact in facts if fact.values is not None]
    labels = dataset.labels
    if not seen:
        return
    if dataset.layout == "folders":
        try:
            labels = labels_of_values(dataset.root / "labels", frozenset[int]().union(*seen))
        except DatasetError as error:
            yield Finding(severity="error", rule="label-values", message=str(error))
            return
    for label in labels.foreground if labels is not None else ():
        count = sum(bool(values & set(label.values)) for values in seen)
        if count < min(FEW_CASES, len(seen)):
            rule = "absent-label" if count == 0 else "rare-label"
            yield Finding(
                severity="warning",
                rule=rule,
                message=f"label {label.name} {some_values(list(label.values))} occurs in {count} of {len(seen)} cases; "
                "a network cannot learn what it hardly sees",
            )


@contextmanager
def _header_remarks(dataset: Survey) -> Iterator[list[Finding]]:
    """What the readers say of headers, as findings instead of lines on the terminal."""
    findings: list[Finding] = []
    owners = {file: case.id for case in dataset.training for file in (*case.images, case.label) if file is not None}

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            file = record.args[0] if isinstance(record.args, tuple) and record.args else None
            message = record.getMessage()
            findings.append(
                Finding(
                    severity="warning" if record.levelno >= logging.WARNING else "note",
                    rule="header",
                    message=message.removeprefix(f"{file}: "),
                    case=owners.get(file) if isinstance(file, Path) else None,
                    file=str(file) if isinstance(file, Path) else None,
                )
            )

    logger = logging.getLogger("medmamba.io")
    collector, propagated, level = Collector(logging.INFO), logger.propagate, logger.level
    logger.addHandler(collector)
    logger.propagate = False
    logger.setLevel(logging.INFO)
    try:
        yield findings
    finally:
        logger.removeHandler(collector)
        logger.propagate = propagated
        logger.setLevel(level)
