"""Training learns, stops when asked, and goes on as if nothing had happened."""

from __future__ import annotations

import json
import logging
import math
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from medmamba import networks
from medmamba.data.patches import Batch, PatchSampler, stream
from medmamba.errors import StoppedError, UsageError
from medmamba.io import open_dataset
from medmamba.plans.plan import NetworkPlan, Plan, Topology, TrainSettings
from medmamba.plans.workspace import plan_dataset, planned_dataset
from medmamba.tasks import segmentation
from medmamba.training import fold
from medmamba.training.fold import FoldRequest, fit_recipe, fit_steps, train_fold, validation_cases
from medmamba.training.pace import Speed
from medmamba.training.reports import EpochReport, Record, StepReport
from medmamba.training.run import WEIGHTS, Planned, Run, RunError, Schedule
from medmamba.training.trainer import DivergedError, Trainer, build_optimizer
from medmamba.training.weights import WeightsError
from tests.data_factory import write_dataset

CPU = torch.device("cpu")


@dataclass
class Watcher:
    """Keeps reports, and may act after a step."""

    after_step: Callable[[Trainer, StepReport], None] = lambda trainer, report: None
    steps: list[StepReport] = field(default_factory=list)
    epochs: list[EpochReport] = field(default_factory=list)
    trainer: Trainer | None = None

    def on_start(self, trainer: Trainer, past: Sequence[Record]) -> None:
        self.trainer = trainer

    def on_step(self, report: StepReport) -> None:
        self.steps.append(report)
        assert self.trainer is not None
        self.after_step(self.trainer, report)

    def on_epoch(self, report: EpochReport) -> None:
        self.epochs.append(report)


@pytest.fixture(scope="module")
def request_(tmp_path_factory: pytest.TempPathFactory) -> FoldRequest:
    """A small network on a small data set; the folder of the run is to be replaced."""
    root = tmp_path_factory.mktemp("training")
    dataset = open_dataset(write_dataset(root / "data"))
    planned = plan_dataset(dataset, "unet", work=root / "work")
    shape = Topology(
        patch_size=(12, 12, 12), strides=((1,) * 3, (2,) * 3), kernel_sizes=((3,) * 3,) * 2, features=(4, 8)
    )
    plan = replace(planned.plan, topology=shape).override("train.batch_size", 2)
    return FoldRequest(
        plan=plan,
        dataset=dataset,
        prepared=root / "prepared",
        folder=root / "unused",
        fold="0",
        schedule=Schedule(steps=8),
        device=CPU,
        precision="fp32",
        workers=0,
    )


def train(request: FoldRequest, watcher: Watcher | None = None) -> tuple[Run, Watcher]:
    """Train to the end, or to where the watcher stops it."""
    watcher = watcher or Watcher()
    return train_fold(request, watcher), watcher


def stop_after(step: int) -> Watcher:
    """Asks to stop after a step."""
    return Watcher(after_step=lambda trainer, report: trainer.stop() if report.step == step else None)


def assert_same_weights(one: Path, other: Path) -> None:
    """Bit for bit."""
    ours, theirs = load_file(one), load_file(other)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def test_training_learns_and_leaves_a_finished_run(request_: FoldRequest, tmp_path: Path) -> None:
    run, watcher = train(replace(request_, folder=tmp_path / "run", schedule=Schedule(steps=60)))
    assert run.finished
    assert watcher.steps[-1].progress == 1.0
    assert watcher.epochs[-1].loss < watcher.epochs[0].loss - 0.3
    assert [epoch.step for epoch in watcher.epochs] == list(range(5, 61, 5))  # nnU-Net validates a batch in five
    assert set(watcher.epochs[-1].scores["dice"]) == {"block", "core"}
    assert watcher.epochs[-1].scores["dice"]["block"] > 0.6
    records = run.read_log()
    assert [record["step"] for record in records if record["event"] == "step"] == list(range(1, 61))
    rates = [record["learning_rate"] for record in records if record["event"] == "step"]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == run.plan.train.learning_rate
    assert {"plan.json", "run.json", "log.jsonl", "best.safetensors", "final.safetensors"} <= {
        path.name for path in run.folder.iterdir()
    }
    assert not list(run.folder.glob("*.tmp"))


def test_stopped_run_ends_with_the_weights_of_an_undisturbed_one(request_: FoldRequest, tmp_path: Path) -> None:
    whole, _ = train(replace(request_, folder=tmp_path / "whole"))
    broken = replace(request_, folder=tmp_path / "broken")
    for step in (3, 6):
        with pytest.raises(StoppedError, match=f"step {step}"):
            train(broken, stop_after(step))
        assert not Run(broken.folder).finished
    run, watcher = train(broken)
    assert [report.step for report in watcher.steps] == [7, 8]
    assert_same_weights(whole.weights_path("final"), run.weights_path("final"))
    keys = ("event", "step", "loss", "dice")
    logs = [[{key: record.get(key) for key in keys} for record in r.read_log()] for r in (whole, run)]
    assert logs[0] == logs[1]


def test_steps_behind_the_last_checkpoint_are_taken_again(request_: FoldRequest, tmp_path: Path) -> None:
    whole, _ = train(replace(request_, folder=tmp_path / "whole"))
    broken = replace(request_, folder=tmp_path / "broken")
    with pytest.raises(StoppedError):
        train(broken, stop_after(4))
    run = Run(broken.folder)
    run.log({"event": "step", "step": 5, "loss": 0.0, "learning_rate": 0.01})
    with run.log_path.open("a") as file:
        file.write('{"event": "st')  # as a process leaves it that is killed while it writes
    run.weights_path("checkpoint").with_name(".checkpoint.safetensors.tmp").write_bytes(b"half")
    run, _ = train(broken)
    assert_same_weights(whole.weights_path("final"), run.weights_path("final"))
    assert [r["step"] for r in run.read_log() if r["event"] == "step"] == list(range(1, 9))


def test_finished_run_is_left_as_it_is(request_: FoldRequest, tmp_path: Path) -> None:
    request = replace(request_, folder=tmp_path / "run", schedule=Schedule(steps=2))
    run, _ = train(request)
    before = run.weights_path("final").stat().st_mtime_ns
    _, watcher = train(replace(request, schedule=None))
    assert not watcher.steps
    assert run.weights_path("final").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schedule": Schedule(steps=9)}, "8 steps before, 9 steps now"),
        ({"precision": "bf16"}, "precision: fp32 before, bf16 now"),
        ({"fold": "1"}, "cases of the fold"),
    ],
)
def test_run_that_was_started_differently_is_refused(
    request_: FoldRequest, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    request = replace(request_, folder=tmp_path / "run")
    with pytest.raises(StoppedError):
        train(request, stop_after(1))
    with pytest.raises(RunError, match=words):
        train(replace(request, **change))


def test_run_of_another_plan_is_refused_with_the_difference(request_: FoldRequest, tmp_path: Path) -> None:
    request = replace(request_, folder=tmp_path / "run")
    with pytest.raises(StoppedError):
        train(request, stop_after(1))
    with pytest.raises(RunError, match=r"train\.weight_decay"):
        train(replace(request, plan=request.plan.override("train.weight_decay", 0.1)))


def test_short_schedule_gets_less_momentum_and_a_long_one_nnunets(request_: FoldRequest) -> None:
    assert fit_recipe(request_.plan, 2, 200) == {"train.momentum": 0.9, "train.learning_rate": 0.0316}
    assert fit_recipe(request_.plan, 2, 250_000) == {}


def test_tight_budget_gets_the_smallest_batch_and_a_warning(
    request_: FoldRequest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fold, "seconds_per_patch", lambda *_, **__: 6.0)
    plan = request_.plan.override("train.batch_size", 16)
    assert fit_steps(plan, Schedule(budget_s=150), CPU, "fp32") == (2, 12)
    assert "hold about 12 steps of 2 patches of" in caplog.text
    assert "--set topology.patch_size" in caplog.text
    caplog.clear()
    assert fit_steps(plan, Schedule(budget_s=6.0 * 16 * 700), CPU, "fp32") == (16, 700)
    assert fit_steps(plan, Schedule(steps=3), CPU, "fp32") == (16, 3)
    assert not caplog.records


class FakeTime:
    """A clock on which a step, a batch of validation and a file take what they are said to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, step_s: Callable[[int], float], file_s: float) -> None:
        self.now_s, self.training_s, self.step_s, self.file_s = 0.0, 0.0, step_s, file_s
        write = Run.save_weights

        def slow_write(run: Run, *arguments: Any) -> None:
            self.now_s += self.file_s
            write(run, *arguments)

        monkeypatch.setattr(Run, "save_weights", slow_write)

    def __call__(self) -> float:
        return self.now_s

    def rule(self, trainer: Trainer) -> None:
        """The trainer's time goes by this clock."""
        trainer.clock = self

        def spend(module: torch.nn.Module, inputs: Any) -> None:
            step_s = self.step_s(trainer.position.step)
            self.now_s += step_s if module.training else step_s / 3  # no way back
            self.training_s += step_s * module.training

        trainer.network.register_forward_pre_hook(spend)


class ClockedWatcher(Watcher):
    """A watcher of a training whose time is not real."""

    def __init__(self, time: FakeTime, after_step: Callable[[Trainer, StepReport], None] = lambda t, r: None) -> None:
        super().__init__(after_step)
        self.time = time

    def on_start(self, trainer: Trainer, past: Sequence[Record]) -> None:
        super().on_start(trainer, past)
        self.time.rule(trainer)


@pytest.mark.parametrize(
    ("schedule", "step_s", "file_s"),
    [
        (Schedule(steps=14), 3.0, 0.2),
        (Schedule(steps=60), 0.1, 0.02),
        (Schedule(steps=60), 20.0, 5.0),
        (Schedule(budget_s=60.0), 3.0, 0.2),
        (Schedule(budget_s=2.0), 0.05, 0.005),
    ],
    ids=str,
)
def test_validating_and_saving_take_a_tenth_of_a_short_run_at_most(
    request_: FoldRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    schedule: Schedule,
    step_s: float,
    file_s: float,
) -> None:
    monkeypatch.setattr(fold, "seconds_per_patch", lambda *_, **__: step_s / 2)
    caplog.set_level(logging.INFO, "medmamba")
    time = FakeTime(monkeypatch, step_s=lambda step: step_s, file_s=file_s)
    run, watcher = train(replace(request_, folder=tmp_path / "run", schedule=schedule), ClockedWatcher(time))
    assert time.now_s > time.training_s >= 0.9 * time.now_s
    assert watcher.epochs[-1].step == watcher.steps[-1].step  # the end is validated always
    assert len(watcher.epochs) >= 2
    assert run.weights_path("best").is_file()
    assert f"{len(watcher.epochs)} validations took" in caplog.text
    *_, last = [record for record in run.read_log() if record["event"] == "epoch"]
    assert last["validating_s"] == pytest.approx(len(watcher.epochs) * step_s / 3)


def test_checkpoint_is_never_older_than_two_minutes_where_writing_is_cheap(
    request_: FoldRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ages: list[float] = []
    saved: list[float] = []
    time = FakeTime(monkeypatch, step_s=lambda step: 50.0, file_s=0.1)
    save = Run.save

    def note(run: Run, *arguments: Any) -> None:
        save(run, *arguments)
        saved.append(time())

    monkeypatch.setattr(Run, "save", note)

    def look(trainer: Trainer, report: StepReport) -> None:
        if saved:
            ages.append(time() - saved[-1])

    train(replace(request_, folder=tmp_path / "run", schedule=Schedule(steps=30)), ClockedWatcher(time, look))
    assert saved[0] < 51.0  # after the first step
    assert max(ages) < 120.0 + 50.0 + 1.0


class KilledError(Exception):
    """The process ends here, without a chance to save."""


def test_clock_and_kills_change_neither_final_nor_best_weights(
    request_: FoldRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = replace(request_, schedule=Schedule(steps=25))
    whole, _ = train(replace(request, folder=tmp_path / "whole"))
    broken = replace(request, folder=tmp_path / "broken")
    time = FakeTime(monkeypatch, step_s=lambda step: 2.0 + step % 3, file_s=7.0)

    def killer(at: int) -> Callable[[Trainer, StepReport], None]:
        def kill(trainer: Trainer, report: StepReport) -> None:
            if report.step == at:
                raise KilledError

        return kill

    for step in (1, 7, 22):
        with pytest.raises(KilledError):
            train(broken, ClockedWatcher(time, killer(step)))
    run, _ = train(broken, ClockedWatcher(time))
    assert_same_weights(whole.weights_path("final"), run.weights_path("final"))
    assert_same_weights(whole.weights_path("best"), run.weights_path("best"))
    keys = ("event", "step", "loss", "dice")
    logs = [[{key: record.get(key) for key in keys} for record in r.read_log()] for r in (whole, run)]
    assert logs[0] == logs[1]


def test_time_budget_is_kept(request_: FoldRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold, "seconds_per_patch", lambda *_, **__: 0.5)
    time = FakeTime(monkeypatch, step_s=lambda step: 1.0, file_s=0.05)
    request = replace(request_, folder=tmp_path / "run", schedule=Schedule(budget_s=30.0))
    run, watcher = train(request, ClockedWatcher(time))
    assert run.finished
    assert 30.0 <= watcher.steps[-1].elapsed_s < 31.0  # validation and files count as well
    rates = [report.learning_rate for report in watcher.steps]
    assert rates == sorted(rates, reverse=True)
    # A batch is validated for five that are learned from, as in nnU-Net, and the last weights are validated always.
    *ends, last = [report.step for report in watcher.epochs]
    assert all(after - before >= 5 for before, after in pairwise([0, *ends]))
    assert last == watcher.steps[-1].step


@pytest.mark.parametrize(
    ("expected", "step_s", "steps", "warned"),
    [
        (10, lambda step: 4.0 if step < 4 else 0.5, (45, 60), False),  # the machine was busy at first
        (300, lambda step: 0.2 if step < 10 else 1.5, (30, 38), True),  # it became busy later
    ],
    ids=["busy at first", "busy later"],
)
def test_recipe_of_a_budget_follows_the_pace_of_its_steps(
    request_: FoldRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    expected: int,
    step_s: Callable[[int], float],
    steps: tuple[int, int],
    warned: bool,
) -> None:
    monkeypatch.setattr(fold, "fit_steps", lambda *_: (2, expected))
    time = FakeTime(monkeypatch, step_s=step_s, file_s=0.01)
    request = replace(request_, folder=tmp_path / "run", schedule=Schedule(budget_s=40.0))
    run, watcher = train(request, ClockedWatcher(time))
    taken = watcher.steps[-1].step
    assert steps[0] <= taken <= steps[1]
    planned = Speed(momentum=0.99, learning_rate=0.01)
    assert run.info.planned == Planned(speed=planned, steps=expected)
    first, last = planned.fitted(expected), planned.fitted(taken)
    assert run.plan.train.momentum == first.momentum
    assert watcher.trainer is not None
    group = watcher.trainer.optimizer.param_groups[0]
    assert group["momentum"] == pytest.approx(last.momentum, abs=0.05)
    assert abs(first.momentum - last.momentum) > 0.3
    rates = [report.learning_rate for report in watcher.steps]
    assert rates == sorted(rates, reverse=True)
    assert ("will hold about" in caplog.text) == warned


def test_run_of_a_version_that_did_not_note_its_plan_goes_on(request_: FoldRequest, tmp_path: Path) -> None:
    request = replace(request_, folder=tmp_path / "run", schedule=Schedule(budget_s=1e6))
    with pytest.raises(StoppedError):
        train(request, stop_after(1))
    path = request.folder / "run.json"
    facts = json.loads(path.read_text())
    del facts["planned"]
    path.write_text(json.dumps(facts))
    with pytest.raises(StoppedError, match="step 7"):
        train(request, stop_after(7))
    assert Run(request.folder).info.planned is None


def test_run_of_version_0_1_0_goes_on_with_the_weights_it_would_have_had(request_: FoldRequest, tmp_path: Path) -> None:
    request = replace(request_, schedule=Schedule(steps=25))
    whole, _ = train(replace(request, folder=tmp_path / "whole"))
    old = replace(request, folder=tmp_path / "old")
    with pytest.raises(StoppedError):
        train(old, stop_after(12))
    run = Run(old.folder)
    path = run.weights_path("checkpoint")
    with safe_open(path, framework="pt") as file:
        position = json.loads(file.metadata()["position"])
    assert position["score_average"] is not None
    position["dice_average"], position["best_dice"] = position.pop("score_average"), position.pop("best_score")
    for later in ("failures", "lost"):
        del position[later]
    save_file(load_file(path), path, {"plan": run.plan.digest(), "position": json.dumps(position), "medmamba": "0.1.0"})
    lines = [dict(record) for record in run.read_log()]
    for line in lines:
        for later in ("parts", "validating_s", "saving_s"):
            line.pop(later, None)
    run.log_path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run, _ = train(old)
    for kind in WEIGHTS:
        assert_same_weights(whole.weights_path(kind), run.weights_path(kind))
    keys = ("event", "step", "loss", "dice")
    logs = [[{key: record.get(key) for key in keys} for record in r.read_log()] for r in (whole, run)]
    assert logs[0] == logs[1]


def test_checkpoint_and_log_that_training_did_not_write_are_refused_with_the_way_out(
    request_: FoldRequest, tmp_path: Path
) -> None:
    request = replace(request_, folder=tmp_path / "run")
    with pytest.raises(StoppedError):
        train(request, stop_after(2))
    run = Run(request.folder)
    log = run.log_path.read_bytes()
    run.log_path.write_bytes(b"what is this\n" + log)
    with pytest.raises(RunError, match=r"line 1 of .*log\.jsonl is no JSON .*remove it"):
        train(request)
    run.log_path.write_bytes(log)
    save_file(load_file(run.weights_path("checkpoint")), run.weights_path("checkpoint"))
    with pytest.raises(WeightsError, match=r"checkpoint\.safetensors says of no step .*--restart"):
        train(request)


def test_network_without_a_training_is_refused_by_what_it_is_for(request_: FoldRequest, tmp_path: Path) -> None:
    plan = replace(request_.plan, network=NetworkPlan(name="mambamorph"))
    with pytest.raises(UsageError, match=r"'mambamorph' is for registration, and the plan is for segmentation"):
        train(replace(request_, plan=plan, folder=tmp_path / "run"))


def test_workers_draw_what_is_learned_from_and_nothing_else(
    request_: FoldRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int | None, bool]] = []

    def note(sampler: PatchSampler, start: int, *, workers: int | None, augment: Any = None) -> Iterator[Batch]:
        asked.append((workers, augment is not None))
        return stream(sampler, start, augment=augment, workers=0)

    monkeypatch.setattr(segmentation, "stream", note)
    train(replace(request_, folder=tmp_path / "run", schedule=Schedule(steps=1), workers=3))
    assert asked == [(3, True), (0, False)]


def test_gradient_that_is_not_finite_is_skipped(request_: FoldRequest, tmp_path: Path) -> None:
    request = replace(request_, folder=tmp_path / "run", schedule=Schedule(steps=4))
    spoiled: list[int] = []

    def spoil_second(trainer: Trainer, report: StepReport) -> None:
        if report.step == 1:
            handle = trainer.network.register_forward_pre_hook(lambda module, inputs: (inputs[0] * math.inf,))
            spoiled.append(handle.id)
        elif report.step == 2:
            trainer.network._forward_pre_hooks.clear()

    run, watcher = train(request, Watcher(after_step=spoil_second))
    assert spoiled
    assert math.isnan(watcher.steps[1].loss)
    assert all(math.isfinite(watcher.steps[step].loss) for step in (0, 2, 3))
    assert all(torch.isfinite(tensor).all() for tensor in load_file(run.weights_path("final")).values())
    assert [record for record in run.read_log() if record["event"] == "step"][1]["loss"] is None


def test_network_that_stays_infinite_gives_up_16_bits_then_the_run(request_: FoldRequest, tmp_path: Path) -> None:
    request = replace(request_, folder=tmp_path / "run", schedule=Schedule(steps=100), precision="bf16")

    def spoil(trainer: Trainer, report: StepReport) -> None:
        if report.step == 1:
            trainer.network.register_forward_pre_hook(lambda module, inputs: (inputs[0] * math.nan,))

    with pytest.raises(DivergedError, match=r"checkpoint\.safetensors") as caught:
        train(request, Watcher(after_step=spoil))
    told = re.search(r"--set train\.learning_rate=([\d.e-]+)", str(caught.value))
    assert told is not None
    before = Run(request.folder).plan.train.learning_rate
    lower = fit_recipe(request.plan.override("train.learning_rate", float(told[1])), 2, 100)
    assert lower["train.learning_rate"] < before
    assert Run(request.folder).info.precision == "fp32"


def test_second_process_in_a_run_folder_is_refused(request_: FoldRequest, tmp_path: Path) -> None:
    request = replace(request_, folder=tmp_path / "run")
    with pytest.raises(StoppedError):
        train(request, stop_after(1))
    with Run(request.folder).locked(), pytest.raises(RunError, match="another process"):
        train(request)


def test_damaged_checkpoint_is_refused_by_name(request_: FoldRequest, tmp_path: Path) -> None:
    request = replace(request_, folder=tmp_path / "run")
    with pytest.raises(StoppedError):
        train(request, stop_after(1))
    path = Run(request.folder).weights_path("checkpoint")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WeightsError, match=r"checkpoint\.safetensors is damaged"):
        train(request)


def test_plan_of_a_run_is_what_it_was_trained_with(request_: FoldRequest, tmp_path: Path) -> None:
    run, _ = train(replace(request_, folder=tmp_path / "run", schedule=Schedule(steps=2)))
    assert Plan.load(run.folder / "plan.json").train.momentum == 0.0
    assert json.loads((run.folder / "run.json").read_text())["overrides"]["train.momentum"] == 0.0


@pytest.mark.parametrize("name", ["segmamba", "umamba_bot", "unet", "vmamba"])
def test_weights_decay_but_not_the_decays_and_skips_of_mamba(name: str) -> None:
    shape = Topology(patch_size=(8, 8), strides=((1, 1), (2, 2)), kernel_sizes=((3, 3),) * 2, features=(4, 6))
    network = networks.create(name, 1, 2, shape)
    before = {key: parameter.detach().clone() for key, parameter in network.named_parameters()}
    settings = TrainSettings(batch_size=2, batch_dice=False, learning_rate=1.0, weight_decay=0.5, momentum=0.0)
    optimizer = build_optimizer(network, settings)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for key, parameter in network.named_parameters():
        share = 1.0 if key.endswith((".A_log", ".D")) else 0.5
        assert torch.equal(parameter, share * before[key]), key


class SpoiledFromTheStart(Watcher):
    """The network sees NaN only."""

    def on_start(self, trainer: Trainer, past: Sequence[Record]) -> None:
        super().on_start(trainer, past)
        trainer.network.register_forward_pre_hook(lambda module, inputs: (inputs[0] * math.nan,))


def spoil_after(step: int) -> Callable[[Trainer, StepReport], None]:
    """From a step on the network sees NaN only."""

    def spoil(trainer: Trainer, report: StepReport) -> None:
        if report.step == step:
            trainer.network.register_forward_pre_hook(lambda module, inputs: (inputs[0] * math.nan,))

    return spoil


def test_run_whose_last_loss_is_not_finite_does_not_finish(request_: FoldRequest, tmp_path: Path) -> None:
    request = replace(request_, folder=tmp_path / "run", schedule=Schedule(steps=3))
    words = r"at step 3 \(2 of 3 steps.*last good weights.*checkpoint\.safetensors.*--set train\.learning_rate=0\.001"
    with pytest.raises(DivergedError, match=words):
        train(request, Watcher(after_step=spoil_after(1)))
    run = Run(request.folder)
    assert not run.finished
    assert all(torch.isfinite(tensor).all() for tensor in load_file(run.weights_path("checkpoint")).values())
    with pytest.raises(DivergedError, match="step 3"):  # repeating the command does not make it a result either
        train(request)
    assert not run.finished


def test_run_without_any_finite_loss_says_that_nothing_was_learned(request_: FoldRequest, tmp_path: Path) -> None:
    request = replace(request_, folder=tmp_path / "run", schedule=Schedule(steps=1))
    with pytest.raises(DivergedError, match=r"step 1 .*nothing was learned.*dataset check"):
        train(request, SpoiledFromTheStart())
    assert not Run(request.folder).finished


def test_failures_in_a_row_are_counted_across_a_stop(request_: FoldRequest, tmp_path: Path) -> None:
    request = replace(request_, folder=tmp_path / "run", schedule=Schedule(steps=100))

    def spoil_and_stop(trainer: Trainer, report: StepReport) -> None:
        spoil_after(1)(trainer, report)
        if report.step == 7:
            trainer.stop()

    with pytest.raises(StoppedError):
        train(request, Watcher(after_step=spoil_and_stop))
    with pytest.raises(DivergedError, match=r"step 11 \(10 of 11"):
        train(request, SpoiledFromTheStart())


def test_run_goes_on_after_its_data_set_was_moved(request_: FoldRequest, tmp_path: Path) -> None:
    whole, _ = train(replace(request_, folder=tmp_path / "whole"))
    request = replace(request_, folder=tmp_path / "run")
    with pytest.raises(StoppedError):
        train(request, stop_after(3))
    moved = shutil.copytree(request.dataset.root, tmp_path / "moved")
    gone = replace(request.plan, dataset_root=str(tmp_path / "gone"))
    with pytest.raises(FileNotFoundError, match=f"{gone.dataset_root}: the data set 'data' was there.*--data PATH"):
        planned_dataset(gone)
    run, watcher = train(replace(request, plan=gone, dataset=planned_dataset(gone, moved)))
    assert [report.step for report in watcher.steps] == [4, 5, 6, 7, 8]
    assert_same_weights(whole.weights_path("final"), run.weights_path("final"))
    again = Run(run.folder)
    assert again.plan.dataset_root == str(moved)
    held_out = validation_cases(again, planned_dataset(again.plan))
    assert [case.label.parent.parent for case in held_out if case.label] == [moved, moved]


def test_cases_of_a_fold_that_are_gone_are_named(request_: FoldRequest, tmp_path: Path) -> None:
    run, _ = train(replace(request_, folder=tmp_path / "run", schedule=Schedule(steps=1)))
    part = shutil.copytree(request_.dataset.root, tmp_path / "part")
    lost = run.info.split.validation[0]
    (part / "imagesTr" / f"{lost}_0000.nii.gz").unlink()
    with pytest.raises(ValueError, match=f"{part} no longer has 1 of the cases .*judged on: {lost}; .*--data"):
        validation_cases(run, open_dataset(part))


def test_another_data_set_is_not_taken_for_the_moved_one(request_: FoldRequest, tmp_path: Path) -> None:
    other = shutil.copytree(request_.dataset.root, tmp_path / "other")
    facts = json.loads((other / "dataset.json").read_text())
    facts["labels"] = {"background": 0, "core": 1, "block": 2}
    (other / "dataset.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="labels block, core, this has MR and core, block"):
        planned_dataset(request_.plan, other)


def test_one_step_that_fails_by_chance_at_the_end_does_not_take_the_run(request_: FoldRequest, tmp_path: Path) -> None:
    request = replace(request_, folder=tmp_path / "run", schedule=Schedule(steps=4))
    run, watcher = train(request, Watcher(after_step=spoil_after(3)))
    assert math.isnan(watcher.steps[-1].loss)
    assert math.isfinite(watcher.epochs[-1].loss)
    assert run.finished
