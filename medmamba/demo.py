"""Everything once, on invented scans: plan, train, predict, evaluate, and a picture of the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from medmamba import io
from medmamba.checkpoint import Schedule
from medmamba.evaluate import evaluate, match_files
from medmamba.fold import FoldRequest, train_fold
from medmamba.overlay import overlay
from medmamba.phantom import make_cohort
from medmamba.plans.workspace import Workspace, plan_dataset
from medmamba.predict import Predictor, predict_cases
from medmamba.progress import Progress, silent
from medmamba.scores import Report
from medmamba.train import Listener, Trainer

#: Narrower than planned, so that minutes on two cores are enough.
FEATURES = (12, 24, 48, 96)
TRAINING_CASES, UNSEEN_CASES = 20, 5
DATASET = "Dataset900_Phantom"


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """What came of it.

    Args:
        dataset: folder of the invented scans.
        run: run folder of the training.
        predictions: folder of the segmentations of scans that training never saw.
        report: their scores.
        picture: overlay of a typical one of them.
    """

    dataset: Path
    run: Path
    predictions: Path
    report: Report
    picture: Path


def run_demo(
    folder: Path,
    listener: Listener,
    *,
    budget_s: float,
    seed: int = 0,
    device: torch.device,
    on_start: Callable[[Trainer], None],
    announce: Callable[[str], None],
    progress: Progress = silent,
) -> DemoResult:
    """Make a cohort of phantoms and run every command on it; what an earlier call finished is kept.

    Args:
        folder: where everything goes.
        listener: told how training goes.
        budget_s: seconds of training.
        seed: of the cohort.
        device: where to train.
        on_start: called with the trainer before its first step.
        announce: told, in the words of the command line, what comes next.
        progress: shows how far each part is.
    """
    dataset_folder = folder / DATASET
    announce("inventing scans: brains with a tumour, in two modalities")
    if not (dataset_folder / "dataset.json").is_file():  # written last
        make_cohort(dataset_folder, TRAINING_CASES, UNSEEN_CASES, seed=seed, progress=progress)
    dataset = io.open_dataset(dataset_folder)

    announce(f"medmamba plan {dataset_folder}")
    work = folder / "medmamba-work"
    planned = plan_dataset(dataset, "umamba_bot", work=work, progress=progress)
    plan = planned.plan.override("topology.features", list(FEATURES[: len(planned.plan.topology.features)]))

    announce(f"medmamba train {planned.path} --fold all --budget {budget_s:g}s")
    request = FoldRequest(
        plan=plan,
        dataset=dataset,
        workspace=Workspace(work, plan.dataset),
        folder=planned.path.parent / "fold_all",
        fold="all",
        schedule=Schedule(budget_s=budget_s),
        device=device,
    )
    run = train_fold(request, listener, on_start=on_start, progress=progress)

    predictions = folder / "predictions"
    announce(f"medmamba predict -i {dataset_folder / 'imagesTs'} -o {predictions} -m {run.folder}")
    # Without mirroring, which takes eight times as long for a little more.
    predictor = Predictor.from_runs([run], device, mirror=False)
    outcomes = predict_cases(dataset.test, predictor, predictions, progress=progress)
    failed = [f"{outcome.case}: {outcome.message}" for outcome in outcomes if outcome.status == "failed"]
    if failed:
        raise ValueError(f"prediction failed for {'; '.join(failed)}")

    references = dataset_folder / "labelsTs"
    announce(f"medmamba evaluate {predictions} {references}")
    report = evaluate(match_files(predictions, references).pairs, dataset.labels, progress=progress)
    report.save(predictions)

    picture = folder / "overlay.png"
    ranked = report.worst(len(report.cases))
    case, dice = ranked[len(ranked) // 2]  # neither the best nor the worst
    overlay(
        io.read_case(next(entry for entry in dataset.test if entry.id == case)),
        {
            "reference": io.read_label(references / f"{case}{dataset.file_ending}"),
            "prediction": io.read_label(predictions / f"{case}{dataset.file_ending}"),
        },
        dataset.labels,
        picture,
        title=f"{case}, Dice {dice:.2f}",
        channel_names=dataset.channels,
        channels=tuple(range(len(dataset.channels))),
    )
    return DemoResult(dataset=dataset_folder, run=run.folder, predictions=predictions, report=report, picture=picture)
