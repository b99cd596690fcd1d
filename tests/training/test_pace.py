"""Side jobs keep their share of the time, and a recipe follows the steps that there will be."""

from __future__ import annotations

import pytest

from medmamba.training.pace import KNOWN_AFTER, TIMINGS, Pace, SideJob, Speed, fastest


class Watch:
    """A clock that goes when told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s

    def wait(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.mark.parametrize(("work_s", "cost_s"), [(0.01, 5.0), (1.0, 0.5), (30.0, 20.0)])
def test_side_job_keeps_its_share_whatever_it_costs(work_s: float, cost_s: float) -> None:
    watch = Watch()
    job = SideJob(0.02, watch)
    for _ in range(20_000):
        watch.wait(work_s)
        if job.affordable:
            with job.timed():
                watch.wait(cost_s)
    whole_s = watch() - 1000.0
    # The first time nobody knows what it costs.
    assert cost_s <= job.spent_s <= cost_s + 0.02 * whole_s
    assert job.spent_s == pytest.approx(job.times * cost_s)
    assert job.spent_s + cost_s > 0.019 * whole_s  # and it is done as often as that allows


def test_side_job_tells_how_long_ago_it_was_done() -> None:
    watch = Watch()
    job = SideJob(0.5, watch)
    watch.wait(7)
    assert job.since_s == 7
    with job.timed():
        watch.wait(3)
    watch.wait(2)
    assert (job.since_s, job.spent_s, job.times) == (2, 3, 1)


def test_busy_moment_at_the_start_does_not_count() -> None:
    watch = Watch()
    times = iter([30.0, *[4.0] * 6, *[0.5] * 100])  # compiles, is disturbed, has the machine to itself
    assert fastest(lambda: watch.wait(next(times)), within_s=60.0, clock=watch) == 0.5


def test_slow_operation_is_timed_twice_and_a_quick_one_not_for_ever() -> None:
    watch, calls = Watch(), []

    def operation(seconds: float) -> None:
        calls.append(seconds)
        watch.wait(seconds)

    assert fastest(lambda: operation(100.0), within_s=3.0, clock=watch) == 100.0
    assert len(calls) == 1 + 2
    calls.clear()
    assert fastest(lambda: operation(0.001), within_s=3.0, clock=watch) == pytest.approx(0.001)
    assert len(calls) == 1 + TIMINGS


def test_pace_forgets_the_first_step_and_a_busy_beginning() -> None:
    pace = Pace(1000.0)
    elapsed = 60.0  # the first step compiles
    pace.note(1, elapsed)
    for step in range(2, 2 + KNOWN_AFTER - 1):
        elapsed += 10.0
        pace.note(step, elapsed)
        assert pace.expected_steps is None
    step, elapsed = step + 1, elapsed + 10.0
    pace.note(step, elapsed)
    assert pace.expected_steps == pytest.approx(6 + 890 / 10)
    for later in range(step + 1, step + 41):  # then ten times as fast
        elapsed += 1.0
        pace.note(later, elapsed)
    assert pace.expected_steps == pytest.approx(46 + (1000 - 150))


def test_pace_of_a_budget_that_is_used_up_expects_no_more_steps() -> None:
    pace = Pace(10.0)
    for step in range(1, 9):
        pace.note(step, 2.0 * step)
    assert pace.expected_steps == 8


def test_short_schedule_gets_less_momentum_and_fitting_again_changes_nothing() -> None:
    planned = Speed(momentum=0.99, learning_rate=0.01)
    short = planned.fitted(200)
    assert short == Speed(momentum=0.9, learning_rate=0.0316)
    assert short.fitted(200) == short
    assert planned.fitted(12) == Speed(momentum=0.0, learning_rate=0.1)
    assert planned.fitted(250_000) == planned


def test_small_learning_rates_are_rounded_to_something() -> None:
    fitted = Speed(momentum=0.99, learning_rate=1e-6).fitted(100)
    assert fitted == Speed(momentum=0.8, learning_rate=4.5e-6)
