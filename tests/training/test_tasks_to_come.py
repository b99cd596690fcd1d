"""A task that nobody planned for, denoising, trains, survives `kill -9` and is plotted: the trainer knows no task."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from medmamba.case import Split
from medmamba.tasks import Forward, Loss, Measure, Scores
from medmamba.training.plot import Curves
from medmamba.training.run import Run, RunInfo, Schedule
from medmamba.training.trainer import Trainer
from tests.data.factory import make_plan


@dataclass(frozen=True)
class Signals:
    noisy: Tensor
    clean: Tensor

    def to(self, device: torch.device) -> Signals:
        return Signals(self.noisy.to(device), self.clean.to(device))


class Denoising:
    measures = (Measure(name="error", title="squared error", higher_is_better=False),)

    def network(self) -> nn.Module:
        return nn.Sequential(nn.Conv1d(1, 8, 9, padding=4), nn.ReLU(), nn.Conv1d(8, 1, 9, padding=4))

    def batches(self, part: str, start: int) -> Generator[Signals, None, None]:
        for step in count(start):
            seeded = torch.Generator().manual_seed(2 * step + (part == "train"))
            clean = torch.sin(torch.linspace(0, 9, 64) * (1 + torch.rand(4, 1, 1, generator=seeded)))
            yield Signals(clean + 0.5 * torch.randn(clean.shape, generator=seeded), clean)

    def loss(self, network: Forward, batch: Signals) -> Loss:
        error = (network(batch.noisy) - batch.clean).square().mean()
        return Loss(error, {"error": error.detach()})

    def score(self, network: Forward, batches: Iterable[Signals]) -> Scores:
        errors = [float(self.loss(network, batch).total) for batch in batches]
        return Scores(max(errors), {"error": {"mean": sum(errors) / len(errors), "worst": max(errors)}})

    def restore(self, output: Any, trail: Any) -> Any:
        return output


def train(folder: Path, nap_s: float = 0.0) -> list[Any]:
    """Train to the end, slowly where somebody wants to come in between; the epochs' reports."""
    epochs: list[Any] = []
    info = {"fold": "0", "split": Split(train=(), validation=()), "precision": "fp32", "overrides": {}, "versions": {}}
    run = Run(folder) if Run.exists(folder) else Run.create(
        folder, make_plan(), RunInfo(schedule=Schedule(steps=60), **info)
    )  # fmt: skip
    nobody = SimpleNamespace(on_start=lambda *_: None, on_step=lambda _: time.sleep(nap_s), on_epoch=epochs.append)
    Trainer(run, Denoising(), torch.device("cpu"), nobody).fit()
    Curves(Denoising.measures, run.read_log()).draw(folder / "progress.png", "denoising")
    return epochs


def test_denoising_trains_and_ends_with_the_same_weights_after_kill_9(tmp_path: Path) -> None:
    epochs = train(tmp_path / "whole")
    assert epochs[-1].scores["error"]["mean"] < 0.7 * epochs[0].scores["error"]["mean"]
    broken, root = tmp_path / "broken", Path(__file__).resolve().parents[2]
    code = f"import sys; sys.path.append({str(root)!r}); from tests.training.test_tasks_to_come import train, Path\n"
    child = subprocess.Popen([sys.executable, "-P", "-c", f"{code}train(Path({str(broken)!r}), 0.05)"])
    while not (broken / "log.jsonl").is_file() or (broken / "log.jsonl").read_bytes().count(b'"step"') < 25:
        assert child.poll() is None
        time.sleep(0.01)
    child.kill()
    assert child.wait() == -9
    assert not (broken / "final.safetensors").exists()
    train(broken)
    for kind in ("final", "best"):
        ours, theirs = (load_file(folder / f"{kind}.safetensors") for folder in (broken, tmp_path / "whole"))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert (broken / "progress.png").read_bytes().startswith(b"\x89PNG")
