"""Reports from wherever scores or predictions lie: our report.json, nnU-Net's summary.json, a folder of predictions."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medmamba.case import Dataset
from medmamba.errors import UsageError
from medmamba.evaluation import nnunet_summary
from medmamba.evaluation.evaluate import evaluate_files
from medmamba.evaluation.report import REPORT_FILES, Report
from medmamba.io.datasets import open_dataset
from medmamba.io.errors import DatasetError
from medmamba.io.layouts.names import maps_in
from medmamba.progress import Progress, silent

logger = logging.getLogger(__name__)

#: What marks a training run, and the folder of a plan with its folds.
RUN, FOLDS = "run.json", "fold_*/run.json"


def read_report(
    path: Path,
    *,
    reference: Path | None = None,
    labels: str = "",
    metrics: Sequence[str] = (),
    workers: int = 1,
    progress: Progress = silent,
) -> Report:
    """The report of one model.

    Args:
        path: a ``report.json`` or its folder; an nnU-Net ``summary.json``, its folder, that of a fold, or that of a
            trainer with its folds; a folder of predictions.
        reference: what predictions are compared with that have no report yet.
        labels: as for `medmamba.evaluation.evaluate.evaluate_files`, likewise.
        metrics: likewise.
        workers: likewise.
        progress: told after each case that is compared.

    Raises:
        FileNotFoundError: if it does not exist.
        UsageError: if there are no scores, and nothing that could be scored, naming what to do.
        DataError: if what is there cannot be read.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if (path / REPORT_FILES[0]).is_file():
        return _saved(path / REPORT_FILES[0])
    if summaries := nnunet_summary.find(path):
        return nnunet_summary.load(summaries)
    if path.is_file():
        return _saved(path)
    if (path / RUN).is_file() or any(path.glob(FOLDS)):
        raise UsageError(
            f"{path} is a training run, which holds no segmentations of whole scans; make and score them: `medmamba "
            "predict --validation -o PREDICTIONS -m FOLD`, `medmamba evaluate PREDICTIONS DATASET`, then give "
            "PREDICTIONS"
        )
    if not maps_in(path):
        raise UsageError(
            f"{path} holds neither {REPORT_FILES[0]} nor nnU-Net's {nnunet_summary.SUMMARY} nor segmentations; give a "
            "folder in which `medmamba evaluate` left its report, or one of predictions and --reference"
        )
    if reference is None:
        raise UsageError(
            f"{path} holds segmentations without scores; say with --reference what to compare them with, or run "
            f"`medmamba evaluate {path} REFERENCES` first"
        )
    report, _ = evaluate_files(path, reference, labels=labels, metrics=metrics, workers=workers, progress=progress)
    return report


def named(reports: Sequence[Report], paths: Sequence[Path], names: Sequence[str] = ()) -> tuple[Report, ...]:
    """Reports with names that differ.

    Args:
        reports: of several models.
        paths: that they were read from.
        names: what they are to be called; with none, the names they bear, or else as much of each path as it takes.

    Raises:
        UsageError: for another number of names than of reports, a name that is given twice, or a report that is.
    """
    if names and len(names) != len(reports):
        raise UsageError(f"give one name for each of the {len(reports)} reports, or none; got {len(names)}")
    if len({path.resolve() for path in paths}) < len(paths):
        raise UsageError(f"a report is compared with itself: {', '.join(map(str, paths))}; give each once")
    own = [report.name for report in reports]
    chosen = list(names) or (own if all(own) and len(set(own)) == len(own) else _distinct(paths))
    if len(set(chosen)) < len(chosen):
        raise UsageError(f"names must differ, got {', '.join(chosen)}")
    return tuple(replace(report, name=name) for report, name in zip(reports, chosen, strict=True))


def dataset_of(reference: Path | None) -> Dataset | None:
    """The data set that references belong to, in or above their folder, for its images; None where there is none."""
    if reference is None or not reference.exists():
        return None
    folder = reference if reference.is_dir() else reference.parent
    for place in (folder, folder.parent):
        try:
            return open_dataset(place)
        except DatasetError as error:
            logger.debug("no images from %s: %s", place, error)
    return None


def _saved(path: Path) -> Report:
    """A report that was saved, with a warning where predictions beside it are younger."""
    report = Report.load(path)
    written = path.stat().st_mtime
    younger = sum(each.stat().st_mtime > written for each in maps_in(path.parent))
    if younger:
        logger.warning(
            "%d segmentations in %s are younger than the report of them; `medmamba evaluate` makes a new one",
            younger,
            path.parent,
        )
    return report


def _distinct(paths: Sequence[Path]) -> list[str]:
    """The last parts of each path, as few as tell all apart."""
    parts = [(path if path.is_dir() else path.parent).resolve().parts for path in paths]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-count:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]  # two files of one folder
