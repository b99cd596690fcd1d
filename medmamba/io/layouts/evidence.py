"""Which edition of BraTS a folder is of, by the names of its cases and the values in its label maps.

Where they contradict each other, or leave open what a value means, nothing is assumed: the user is asked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medmamba.case import Case, some
from medmamba.engines import Failure, map_cases, suited
from medmamba.io.errors import DatasetError
from medmamba.io.images import read_label
from medmamba.io.layouts.editions import FOLDERS, Edition, has_gap, listed, names_of

#: So many label maps, evenly spaced, are read where names alone tell the edition, and where they leave several. A value
#: in others that the edition does not have is told of, with its case, when all of them are read.
_SAMPLE, _LARGE_SAMPLE = 8, 64
#: How the user answers.
_ASK = "--edition (where an evaluation asks, --labels)"
_APART = "put the cases of each edition into a folder of their own"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What names and label maps say.

    Args:
        root: of the data set.
        named: the editions that the names of cases and files leave.
        held: values in the label maps that were looked at, by case.
        is_called_so: whether a case is called as in these editions, and not its files alone.
    """

    root: Path
    named: tuple[Edition, ...]
    held: dict[str, frozenset[int]]
    is_called_so: bool

    @classmethod
    def of(cls, root: Path, named: Sequence[Edition], cases: Sequence[Case], at_most: int | None) -> Evidence:
        """Look at some label maps of these cases, with at most so many processes."""
        labelled = [case for case in cases if case.label is not None]  # none of cases to predict
        held = _values_of(labelled, _SAMPLE if len(named) == 1 else _LARGE_SAMPLE, at_most)
        return cls(root, tuple(named), held, any(each.bears(case.id) for each in named for case in cases))

    @property
    def seen(self) -> frozenset[int]:
        """All values but background."""
        return frozenset[int]().union(*self.held.values()) - {0}

    @property
    def fitting(self) -> tuple[Edition, ...]:
        """Editions of these names that have all the values; all where none has them, which is told case by case."""
        return tuple(each for each in self.named if each.holds(self.seen)) or self.named

    def edition(self) -> Edition:
        """The one on which names and values agree; of several that mean the same, the one with the fewest values.

        Raises:
            DatasetError: if there is none, or several in which the values mean different things.
        """
        usual = min(self.fitting, key=lambda each: len(each.values))
        if self.held:
            self._refuse_mixture()
            self._refuse_contradiction()
            self._refuse_masks()
            self._refuse_doubt(usual)
            self._refuse_gap(usual)
            self._refuse_minor_doubt(usual)
        return usual

    def reason(self, chosen: Edition) -> str:
        """Why an edition was taken, and which cases decided."""
        others = [each for each in self.fitting if each is not chosen]
        named = f"by the names of {'cases' if self.is_called_so else 'files'}"
        if not self.held:
            more = f"; names fit {names_of(others)} as well, and there is no label map to tell" if others else ""
            return named + more
        excess = self._excess()
        why = f"because {self._holders(excess)}" if excess else named
        if not others:
            return why + ("; --edition takes another" if excess else "")
        more_values = sorted({value for other in others for value in other.values} - set(chosen.values))
        absent = f"and none of {len(self.held)} label maps holds {listed(more_values)}"
        same = absent if more_values else "in which values mean the same"
        return f"{why}: names fit {names_of(others)} as well, {same}; --edition takes another"

    @property
    def is_decided_by_few(self) -> bool:
        """Whether less than half of the label maps decided against the others."""
        return 0 < 2 * len(self._with(self._excess())) < len(self.held)

    def _excess(self) -> frozenset[int]:
        """Values by which some editions of these names were ruled out."""
        out = [each for each in self.named if each not in self.fitting]
        return frozenset(value for each in out for value in self.seen - set(each.values))

    def _with(self, values: frozenset[int]) -> list[str]:
        return [case for case, theirs in self.held.items() if theirs & values]

    def _holders(self, values: frozenset[int]) -> str:
        """Which cases hold these values, and how many do not, in words."""
        cases, rest = self._with(values), len(self.held) - len(self._with(values))
        words = f"{some(cases)} {'holds' if len(cases) == 1 else 'hold'} {listed(values)}"
        return words + (f"; the {rest} other{'s do' if rest > 1 else ' does'} not" if rest else "")

    def _refuse_mixture(self) -> None:
        """Refuse label maps of which some have 3 and others 4, and none both, where the two may be one structure."""
        with_3, with_4 = (self._with(frozenset({value})) for value in (3, 4))
        if len(self.named) > 1 and len(with_3) > 1 and len(with_4) > 1 and not set(with_3) & set(with_4):
            fitting = [each for each in self.named if each.holds(self.seen)]
            remedy = f"; if they are all of one, say so with --edition: {names_of(fitting)}" if fitting else ""
            raise DatasetError(
                f"{self.root} mixes editions of BraTS: label maps hold 3 ({some(with_3)}) or 4 ({some(with_4)}), and "
                f"none both, though enhancing tumour is one of them; {_APART}{remedy}"
            )

    def _refuse_contradiction(self) -> None:
        """Refuse names of one edition with the values of another."""
        known = frozenset[int]().union(*(each.values for each in self.named))
        excess = self.seen - known
        others = [each for each in FOLDERS if set(each.values) == self.seen]
        others = others or [each for each in FOLDERS if each.holds(self.seen)]
        if not excess or not others:
            return
        few = len(self._with(excess)) < len(self.held)
        remedy = "correct what is wrong, put cases of another edition elsewhere, or " if few else ""
        raise DatasetError(
            f"{self.root}: cases are named as in {names_of(self.named)}, whose label values are {listed(known)}, but "
            f"{self._holders(excess)}; {remedy}say what the values mean with {_ASK}: {names_of(others)} have "
            f"{'all of them' if len(self.seen) > 1 else 'it'}"
        )

    def _refuse_masks(self) -> None:
        """Refuse masks of whatever it may be."""
        if not self.is_called_so and len(self.seen) < 2:
            raise DatasetError(
                f"{self.root}: label maps hold {listed(self.seen) or 'background'} alone and no case is called as in "
                "BraTS, so nothing tells whether these are tumours of BraTS; if so, say with --edition of which "
                "edition (where an evaluation asks, --labels), else list the files in a dataset.json (datasets.md)"
            )

    def _refuse_doubt(self, usual: Edition) -> None:
        """Refuse values that mean different things in the editions that are left."""
        if not all(usual.agrees(other, self.seen) for other in self.fitting):
            raise DatasetError(
                f"{self.root}: label values {listed(self.seen)} and the names of cases and files fit "
                f"{names_of(self.fitting)}, in which they mean different things; say which with {_ASK}, or list the "
                "files in a dataset.json where it is another data set (datasets.md)"
            )

    def _refuse_gap(self, usual: Edition) -> None:
        """Refuse exactly the values of editions in which one means another thing, 1, 2 and 4 under later names."""
        exact = [each for each in FOLDERS if set(each.values) == self.seen]
        if has_gap(self.seen) and not all(usual.agrees(other, self.seen) for other in exact):
            absent = set(usual.values) - self.seen
            raise DatasetError(
                f"{self.root}: cases are named as in {usual.name}, but {listed(self.seen)} without a "
                f"{listed(absent)} in any of {len(self.held)} label maps are the values of {names_of(exact)}, where "
                f"{_meanings(exact[0], usual, self.seen)}; say which it is with {_ASK}"
            )

    def _refuse_minor_doubt(self, usual: Edition) -> None:
        """Refuse label maps that fit an edition which others rule out, and in which they mean something else."""
        for other in self.named:
            apart = {case: values - {0} for case, values in self.held.items() if values - {0} and other.holds(values)}
            theirs = frozenset[int]().union(*apart.values())
            if other in self.fitting or usual.agrees(other, theirs):
                continue
            raise DatasetError(
                f"{self.root}: {self._holders(self.seen - set(other.values))}. That is {usual.name}, but "
                f"{len(apart)} of {len(self.held)} label maps may be of {other.name} ({some(list(apart))}), where "
                f"{_meanings(other, usual, theirs)}; if all are of one edition, say which with {_ASK}, else {_APART}"
            )


def _meanings(one: Edition, other: Edition, values: frozenset[int]) -> str:
    """The first value that is called otherwise in another edition, where regions differ."""
    value = next(value for value in sorted(values) if not one.agrees(other, {value}))
    return f"{value} is {one.values[value]} and not {other.values[value]}"


def _values_of(cases: Sequence[Case], most: int, at_most: int | None) -> dict[str, frozenset[int]]:
    """Values in the label maps of so many cases; those that cannot be read are told of elsewhere."""
    chosen = cases[:: max(1, math.ceil(len(cases) / most))]
    engine = suited(len(chosen), at_most=at_most)
    outcomes = map_cases(_label_values, chosen, engine, title="Looking at label maps")
    return {
        case.id: outcome for case, outcome in zip(chosen, outcomes, strict=True) if not isinstance(outcome, Failure)
    }


def _label_values(case: Case) -> frozenset[int]:
    if case.label is None:
        return frozenset()
    array = read_label(case.label).array
    if array.dtype == np.uint8:  # counting takes a tenth of the time of sorting
        return frozenset(np.flatnonzero(np.bincount(array.ravel(), minlength=1)).tolist())
    return frozenset(np.unique(array).tolist())
