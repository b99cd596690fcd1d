"""How a run keeps time: side jobs within their share of it, and a recipe that fits the steps to come."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medmamba.plans.plan import TrainSettings  # which needs numpy, and help needs none

#: Seconds on a clock that never goes back; tests put in their own.
Clock = Callable[[], float]

#: Steps that the momentum should look back over at most, as a share of the schedule.
MOMENTUM_SHARE = 1 / 20
#: A pace is the mean of so many steps at most, and known after so many.
PACE_STEPS, KNOWN_AFTER = 20, 5
#: An operation is timed so often at most.
TIMINGS = 20


class SideJob:
    """Work beside training, such as writing checkpoints, which may take no more than a share of the time.

    Args:
        share: of all time since this object was made, above 0.
        clock: seconds.
    """

    def __init__(self, share: float, clock: Clock = time.monotonic) -> None:
        self.share, self.clock = share, clock
        self.times, self.spent_s = 0, 0.0
        self._began = self._ended = clock()
        self._latest_s = 0.0

    @property
    def since_s(self) -> float:
        """Seconds since it was last done, or since the beginning."""
        return self.clock() - self._ended

    @property
    def affordable(self) -> bool:
        """Whether the share is kept when it is done now and takes as long as last time; at first nobody knows."""
        return self.spent_s + self._latest_s <= self.share * (self.clock() - self._began)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Do it, and take the time."""
        began = self.clock()
        yield
        self._ended = self.clock()
        self._latest_s = self._ended - began
        self.spent_s += self._latest_s
        self.times += 1


class Pace:
    """How many steps a time budget will have held, judged by the latest steps.

    Args:
        budget_s: seconds of training.
    """

    def __init__(self, budget_s: float) -> None:
        self.budget_s = budget_s
        self._elapsed_s: deque[float] = deque(maxlen=PACE_STEPS + 1)
        self._step = 0

    def note(self, step: int, elapsed_s: float) -> None:
        """A step has ended, after so many seconds of training."""
        self._step = step
        self._elapsed_s.append(elapsed_s)

    @property
    def expected_steps(self) -> float | None:
        """Steps in the whole budget, those done included; None while too few were seen."""
        seen = len(self._elapsed_s) - 1  # the first one also compiles, so time runs from its end
        if seen < KNOWN_AFTER:
            return None
        each_s = (self._elapsed_s[-1] - self._elapsed_s[0]) / seen
        left_s = max(0.0, self.budget_s - self._elapsed_s[-1])
        return self._step + left_s / max(each_s, 1e-9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How fast weights move: what of a recipe depends on the number of steps; nothing does where Adam sets the pace."""

    momentum: float
    learning_rate: float
    is_adaptive: bool = False

    @classmethod
    def of(cls, settings: TrainSettings) -> Speed:
        """That of a recipe."""
        return cls(
            momentum=settings.momentum,
            learning_rate=settings.learning_rate,
            is_adaptive=settings.optimizer == "adam",
        )

    def fitted(self, steps: float) -> Speed:
        """This speed, or what a schedule of few steps needs.

        Momentum that looks back further than a twentieth of the schedule would still be gathering speed when training
        ends, so it is lowered. The learning rate rises with the square root of what that takes from the length of a
        step: part of the speed is made good, and the noise of short averages stays in bounds. What is fitted to a
        number of steps fits it: doing so again changes nothing.
        """
        momentum = round(max(0.0, 1 - 1 / max(1.0, steps * MOMENTUM_SHARE)), 3)
        if momentum >= self.momentum or self.is_adaptive:
            return self
        shorter = (1 - momentum) / (1 - self.momentum)
        rate = self.learning_rate * math.sqrt(shorter)
        return Speed(momentum=momentum, learning_rate=round(rate, 4) if rate >= 0.001 else float(f"{rate:.2g}"))


def fastest(operation: Callable[[], None], within_s: float, clock: Clock = time.monotonic) -> float:
    """Shortest time of an operation in seconds, which a busy moment of the machine does not change.

    Done once without being timed, as that may compile, then twice, and more often while ``within_s`` lasts.
    """
    operation()
    shortest, began = math.inf, clock()
    for number in range(TIMINGS):
        if number >= 2 and clock() - began >= within_s:
            break
        started = clock()
        operation()
        shortest = min(shortest, clock() - started)
    return shortest
