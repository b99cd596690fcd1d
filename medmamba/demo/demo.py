"""Everything once, on invented scans: which commands to give, and a picture of what came of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from medmamba import io
from medmamba.demo.phantom import cohort_seed, make_cohort
from medmamba.errors import DataError
from medmamba.evaluation.evaluate import evaluate
from medmamba.evaluation.matching import match_files
from medmamba.evaluation.overlay import overlay
from medmamba.plans.workspace import Workspace, run_folder
from medmamba.progress import Progress, silent

NETWORK = "umamba_bot"
#: Narrower and on smaller patches than planned, so that minutes on two cores are enough.
SETTINGS = {"topology.features": [12, 24, 48, 96], "topology.patch_size": [32, 32, 32]}
STEPS = 250
TRAINING_CASES, UNSEEN_CASES = 20, 5
DATASET = "Dataset900_Phantom"


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """A demonstration in a folder; what an earlier one finished there is kept.

    Args:
        folder: where everything goes.
        seed: of the invented scans.
        device: where to train and predict.
        steps: of training; None for a time budget.
        budget: time to train, as the command line takes it; what comes of it depends on the machine.
    """

    folder: Path
    seed: int = 0
    device: str = "auto"
    steps: int | None = STEPS
    budget: str | None = None

    @property
    def dataset(self) -> Path:
        """Folder of the invented scans."""
        return self.folder / DATASET

    @property
    def predictions(self) -> Path:
        """Segmentations of scans that training never saw."""
        return self.folder / "predictions"

    def invent(self, progress: Progress = silent) -> None:
        """Make the cohort, unless it is there.

        Raises:
            DataError: if the folder holds the cohort of another seed.
        """
        if (self.dataset / "dataset.json").is_file():  # written last
            there = cohort_seed(self.dataset)
            if there != self.seed:
                raise DataError(
                    f"{self.dataset} holds scans invented with "
                    f"{'an unknown seed' if there is None else f'seed {there}'}, but --seed is {self.seed}; choose "
                    "another folder with --output, or delete this one"
                )
            return
        make_cohort(self.dataset, TRAINING_CASES, UNSEEN_CASES, seed=self.seed, progress=progress)

    def commands(self) -> list[list[str]]:
        """What to give to ``medmamba``, in this order, after `invent`."""
        work = self.folder / "medmamba-work"
        plan = Workspace(work, DATASET).plan("3d_fullres", NETWORK)
        length = ["--steps", self.steps] if self.budget is None else ["--budget", self.budget]
        changes = [f"{key}={json.dumps(value, separators=(',', ':'))}" for key, value in SETTINGS.items()]
        settings = [word for change in changes for word in ("--set", change)]
        model = run_folder(plan.parent, "all")
        device = ["--device", self.device]
        # In float32 on every machine. Without mirroring, which takes eight times as long for a little more.
        commands = [
            ["plan", self.dataset, "--network", NETWORK, "--work", work],
            ["train", plan, "--fold", "all", *length, "--precision", "fp32", *device, *settings],
            ["predict", "-i", self.dataset / "imagesTs", "-o", self.predictions, "-m", model, "--no-mirror", *device],
            ["evaluate", self.predictions, self.dataset / "labelsTs"],
        ]
        return [[str(word) for word in words] for words in commands]

    def draw(self) -> Path:
        """Draw the overlay of a typical unseen case, neither the best nor the worst.

        Returns:
            The picture, ``overlay.png`` in the folder.
        """
        picture = self.folder / "overlay.png"
        dataset = io.open_dataset(self.dataset)
        references = self.dataset / "labelsTs"
        pairs = match_files(self.predictions, references).pairs
        ranked = evaluate(pairs, dataset.labels, metrics=("dice",)).worst(len(pairs))
        case, dice = ranked[len(ranked) // 2]
        overlay(
            io.read_case(next(entry for entry in dataset.test if entry.id == case)),
            {
                "reference": io.read_label(references / f"{case}{dataset.file_ending}"),
                "prediction": io.read_label(self.predictions / f"{case}{dataset.file_ending}"),
            },
            dataset.labels,
            picture,
            title=f"{case}, Dice {dice:.2f}",
            channel_names=dataset.channels,
            channels=tuple(range(len(dataset.channels))),
        )
        return picture
