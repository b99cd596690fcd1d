"""Reports from wherever scores or predictions lie: our report.json, nnU-Net's summary.json, a folder of predictions."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medmamba.case import Dataset
from medmamba.errors import DataError, UsageError
from medmamba.evaluation import nnunet_summary
from medmamba.evaluation.evaluate import evaluate_files
from medmamba.evaluation.registered_folder import BEFORE_FILE, is_registered
from medmamba.evaluation.report import REPORT_FILES, Report
from medmamba.evaluation.scores import LabelScore
from medmamba.io.datasets import open_dataset
from medmamba.io.errors import DatasetError
from medmamba.io.layouts.names import maps_in
from medmamba.labels import Labels
from medmamba.progress import Progress, silent

logger = logging.getLogger(__name__)

#: What marks a training run, and the folder of a plan with its folds; where the commands put what a run predicts.
RUN, FOLDS, PREDICTIONS = "run.json", "fold_*/run.json", "predictions"


def read_reports(
    paths: Sequence[Path],
    *,
    names: Sequence[str] = (),
    reference: Path | None = None,
    labels: str = "",
    metrics: Sequence[str] = (),
    workers: int = 1,
    progress: Progress = silent,
) -> tuple[Report, ...]:
    """The reports of one model or several, ready to be compared.

    Args:
        paths: of each model a ``report.json`` or its folder; an nnU-Net ``summary.json``, its folder, that of a fold,
            or that of a trainer with its folds; a training run, or the folder of its plan with all folds, of whose
            ``predictions`` there are reports; or a folder of predictions.
        names: what the models are to be called; with none, the names they bear, or else as much of each path as it
            takes.
        reference: what predictions are compared with that have no scores yet.
        labels: as for `medmamba.evaluation.evaluate.evaluate_files`, likewise.
        metrics: likewise; with none, those of the first report that is there.
        workers: likewise.
        progress: told after each case that is compared.

    Returns:
        One report each, in order, with the metrics that all of them have, and with one's names for labels of the same
        values: the first one's that has names other than those made of values. Of registrations, the same pairs before
        registration are first, once where they are equal for several methods.

    Raises:
        FileNotFoundError: if one does not exist.
        UsageError: if there are no scores and nothing that could be scored, or names do not tell models apart, naming
            what to do.
        DataError: if what is there cannot be read, or no metric is in all of them.
    """
    if names and len(names) != len(paths):
        raise UsageError(f"give one name for each of the {len(paths)} reports, or none; got {len(names)}")
    if len({path.resolve() for path in paths}) < len(paths):
        raise UsageError(f"a report is compared with itself: {', '.join(map(str, paths))}; give each once")
    scored = [_scores(path, reference) for path in paths]
    asked = metrics or next((report.metrics for report in scored if report), ())
    reports = []
    for path, report in zip(paths, scored, strict=True):
        if report is None:
            assert reference is not None  # else there was no report to wait for
            report, _ = evaluate_files(
                path, reference, labels=labels, metrics=asked, workers=workers, progress=progress
            )
        reports.append(report)
    reports = _named(reports, paths, names)
    reports = [*_before(reports, paths), *reports]
    named = next((report.labels for report in reports if not _made_up(report.labels)), reports[0].labels)
    alike = [_with_labels(report, named) for report in reports]
    return _with_common_metrics(alike)


def _before(reports: Sequence[Report], paths: Sequence[Path]) -> list[Report]:
    """What `medmamba evaluate` left of registered pairs before their registration, each once."""
    found: list[Report] = []
    for report, path in zip(reports, paths, strict=True):
        file = (path if path.is_dir() else path.parent) / BEFORE_FILE
        if report.figures and file.is_file():
            before = Report.load(file)
            if not any(_same(before, other) for other in found):
                found.append(replace(before, name=f"{before.name} ({report.name})") if found else before)
    return found


def _same(one: Report, other: Report) -> bool:
    """Whether the pairs that both have scores for have the same ones."""
    ours, theirs = (
        {case["id"]: (case["scores"], case.get("figures")) for case in each.to_json()["cases"] if case["scores"]}
        for each in (one, other)
    )
    both = ours.keys() & theirs.keys()
    return bool(both) and all(ours[case] == theirs[case] for case in both)


def _scores(path: Path, reference: Path | None) -> Report | None:
    """The report that is there; None where there are segmentations to be compared with a reference."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if (path / REPORT_FILES[0]).is_file():
        return _saved(path / REPORT_FILES[0])
    if is_registered(path):
        raise UsageError(f"{path} holds registrations without scores; `medmamba evaluate {path}` makes them")
    if summaries := nnunet_summary.find(path):
        return nnunet_summary.load(summaries)
    if path.is_file():
        return _saved(path)
    if folds := _folds(path):
        return _together([_of_run(fold, reference) for fold in folds], path)
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
    return None


def _folds(path: Path) -> list[Path]:
    """The run itself, or the runs of all folds in the folder of a plan."""
    return [folder.parent for folder in ([path / RUN] if (path / RUN).is_file() else sorted(path.glob(FOLDS)))]


def _of_run(run: Path, reference: Path | None) -> Report:
    """The report of what a training run predicted for the cases that it did not learn from."""
    report = run / PREDICTIONS / REPORT_FILES[0]
    if not report.is_file():
        raise UsageError(
            f"{run} is a training run without scores; make some with `medmamba predict --validation -o "
            f"{run / PREDICTIONS} -m {run}` and `medmamba evaluate {run / PREDICTIONS} {reference or 'DATASET'}`"
        )
    return _saved(report)


def _together(reports: Sequence[Report], path: Path) -> Report:
    """The folds of one model as one report."""
    cases = sorted((case for report in reports for case in report.cases), key=lambda case: case.id)
    kinds = [(report.labels, report.metrics, report.policy) for report in reports]
    if any(kind != kinds[0] for kind in kinds) or len({case.id for case in cases}) < len(cases):
        raise DataError(
            f"the reports of the folds in {path} are of different labels, metrics or policies, or of one case twice; "
            "evaluate all folds alike, or give the folders one by one"
        )
    others = tuple(report.origin.prediction for report in reports[1:] if report.origin.prediction)
    return replace(reports[0], cases=tuple(cases), name="", origin=replace(reports[0].origin, more=others))


def _named(reports: Sequence[Report], paths: Sequence[Path], names: Sequence[str]) -> list[Report]:
    own = [report.name for report in reports]
    chosen = list(names) or (own if all(own) and len(set(own)) == len(own) else _distinct(paths))
    if len(set(chosen)) < len(chosen):
        raise UsageError(f"names must differ, got {', '.join(chosen)}")
    return [replace(report, name=name) for report, name in zip(reports, chosen, strict=True)]


def _made_up(labels: Labels) -> bool:
    """Whether names say no more than the values, as those of a summary without a dataset.json."""
    return all(label.name == f"label_{'_'.join(map(str, label.values))}" for label in labels.foreground)


def _with_labels(report: Report, labels: Labels) -> Report:
    """The same report with these names and this order of labels, where they have the same values."""
    ours, theirs = ([frozenset(label.values) for label in each.foreground] for each in (report.labels, labels))
    if set(ours) != set(theirs):
        return report  # which whoever compares them will tell

    def alike(scores: Sequence[LabelScore]) -> tuple[LabelScore, ...]:
        found = zip(theirs, labels.foreground, strict=True)
        return tuple(replace(scores[ours.index(values)], label=label.name) for values, label in found)

    cases = tuple(replace(case, scores=alike(case.scores) if case.scores else ()) for case in report.cases)
    return replace(report, labels=replace(labels, ignore=report.labels.ignore), cases=cases)


def _with_common_metrics(reports: Sequence[Report]) -> tuple[Report, ...]:
    """The same reports, each with the metrics that all have, in the order of the first one."""
    common = [name for name in reports[0].metrics if all(name in report.metrics for report in reports)]
    if not common:
        each = "; ".join(f"{report.name} has {', '.join(report.metrics)}" for report in reports)
        raise DataError(f"no metric is in all reports: {each}; evaluate them with the same --metric")
    left_out = dict.fromkeys(name for report in reports for name in report.metrics if name not in common)
    if left_out:
        logger.warning("left out, for not all reports have it: %s", ", ".join(left_out))
    return tuple(report.only(common) for report in reports)


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
