"""A picture shows a run of any length and costs no more for a long one."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from medmamba.tasks import Measure
from medmamba.training.plot import MOST_POINTS, Curves, _thinned
from medmamba.training.reports import EpochReport, Record, StepReport

DICE = (Measure(name="dice", title="Dice", limits=(0.0, 1.0)),)


def step(number: int) -> Record:
    report = StepReport(step=number, progress=0.5, loss=1 / number, learning_rate=0.01, elapsed_s=1.0, parts={"a": 1.0})
    return report.record()


def epoch(number: int) -> Record:
    scores = {"dice": {"block": 0.1 * number}}
    facts = {"loss": 1.0, "validation_loss": 1.0, "elapsed_s": 1.0, "validating_s": 1.0, "saving_s": 1.0}
    return EpochReport(epoch=number, epochs=9, step=5 * number, scores=scores, **facts).record()


def test_points_of_a_long_run_are_thinned_out_evenly_up_to_the_latest() -> None:
    for count in (1, 7, MOST_POINTS, 50_001):
        kept = _thinned(list(range(count)))
        assert min(count, MOST_POINTS) <= len(kept) < 2 * MOST_POINTS
        assert kept[-1] == count - 1
        assert len({after - before for before, after in pairwise(kept)}) <= 1
    assert _thinned([]) == []


def test_lines_of_version_0_1_0_give_the_same_picture(tmp_path: Path) -> None:
    lines = [step(number) for number in range(1, 11)] + [epoch(1), epoch(2)]
    Curves(DICE, lines).draw(tmp_path / "now.png", "run")
    old = [
        {key: value for key, value in line.items() if key not in ("parts", "validating_s", "saving_s")}
        for line in lines
    ]
    assert old[-1]["dice"] == {"block": 0.2}
    Curves(DICE, old).draw(tmp_path / "old.png", "run")
    assert (tmp_path / "old.png").read_bytes() == (tmp_path / "now.png").read_bytes()
    Curves(DICE, lines[:-1]).draw(tmp_path / "other.png", "run")
    assert (tmp_path / "other.png").read_bytes() != (tmp_path / "now.png").read_bytes()
