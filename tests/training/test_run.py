"""What is read of a run's log is checked where it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medmamba.case import Split
from medmamba.training.reports import EpochReport, StepReport
from medmamba.training.run import Run, RunError, RunInfo, Schedule
from tests.plans.test_plan import PLAN

STEP = StepReport(step=1, progress=0.5, loss=float("nan"), learning_rate=0.01, elapsed_s=1.0, parts={"a": 1.0}).record()
EPOCH = EpochReport(
    epoch=1, epochs=2, step=1, loss=float("nan"), validation_loss=1.0, scores={"dice": {"block": 0.5}}, elapsed_s=1.0
).record()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    info = RunInfo(
        fold="0",
        split=Split(train=("a",), validation=("b",)),
        schedule=Schedule(steps=2),
        precision="fp32",
        overrides={},
        versions={},
    )
    return Run.create(tmp_path / "fold_0", PLAN, info)


def without(record: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != name}


def test_log_is_read_as_it_was_written(run: Run) -> None:
    lines = [STEP, EPOCH, without(STEP, "parts"), EPOCH | {"dice": {}}, EPOCH | {"tre": {"mean": None}}]
    for line in lines:
        run.log(line)
    assert run.read_log() == lines
    assert run.rewind_log(0) == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ([], "event must be 'step' or 'epoch'"),
        (3, "event must be 'step' or 'epoch'"),
        (without(STEP, "event"), "event must be 'step' or 'epoch'"),
        (STEP | {"event": {}}, "event must be 'step' or 'epoch'"),
        (without(STEP, "loss"), "step: missing key loss"),
        (without(STEP, "learning_rate"), "step: missing key learning_rate"),
        (STEP | {"step": {}}, "step.step: must be of type int, got {}"),
        (STEP | {"loss": "low"}, "step.loss: must be of type float, got 'low'"),
        (without(EPOCH, "step"), "epoch: missing key step"),
        (without(EPOCH, "validation_loss"), "epoch: missing key validation_loss"),
        (EPOCH | {"dice": None}, "epoch.scores.dice: must be an object, got None"),
        (EPOCH | {"dice": {"block": "good"}}, "epoch.scores.dice.block: must be of type float, got 'good'"),
        (EPOCH | {"loss": 10**400}, "epoch.loss: must be less than"),
    ],
)
def test_line_of_the_log_with_a_wrong_field_is_refused_by_its_number(run: Run, line: Any, words: str) -> None:
    for record in (STEP, line, EPOCH):
        run.log(record)
    with pytest.raises(RunError) as refusal:
        run.read_log()
    assert str(refusal.value).startswith(f"line 2 of {run.log_path} is no record of training ({words}")
    assert str(refusal.value).endswith("); remove it")


def test_line_of_the_log_that_is_too_deep_is_refused(run: Run) -> None:
    run.log_path.write_text("[" * 100_000 + "\n")
    with pytest.raises(RunError, match=r"line 1 of .*log\.jsonl is no JSON .*remove it"):
        run.read_log()
