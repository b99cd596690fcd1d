"""What the label values of a data set mean: which edition of BraTS its names and its label maps agree on.

Where they contradict each other, or leave open what a value means, nothing is assumed: the user is asked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from medmamba.case import Case, some
from medmamba.engines import Failure, map_cases, suited
from medmamba.io.errors import DatasetError
from medmamba.io.images import read_label
from medmamba.io.layouts.editions import (
    EDITIONS,
    FOLDERS,
    Edition,
    as_spelled,
    common_editions,
    edition,
    listed,
    modality,
    names_of,
)
from medmamba.io.layouts.layout import Survey

#: So many label maps, evenly spaced, are read where names alone tell the edition, and where they leave several. A value
#: in others that the edition does not have is told of, with its case, when all of them are read.
_SAMPLE, _LARGE_SAMPLE = 8, 64


def settle(found: Survey, told: str = "", *, at_most: int | None = None) -> None:
    """Say what the label values of a data set mean, by an edition of BraTS.

    Args:
        found: gets labels, and problems where they cannot be told; nothing where it is no BraTS and none is told.
        told: name of the edition, which users know best.
        at_most: processes to read label maps with.

    Raises:
        UsageError: if there is no edition of that name.
    """
    common = common_editions(found.editions)
    if told:
        chosen = edition(told)
        found.attempt(lambda: _check_description(found, chosen), None)
        _take(found, chosen)
        if found.editions and told not in common:
            found.attempt(lambda: _check_names(found, chosen), None)
    elif common:
        found.attempt(lambda: _detect(found, [EDITIONS[name] for name in common], at_most), None)
    elif found.editions:
        found.problems.append(_mixture(found))


def _check_names(found: Survey, chosen: Edition) -> None:
    """Take cases that are named as in other editions, unless values mean different things among them.

    Raises:
        DatasetError: naming the cases of each edition.
    """
    alike = [any(EDITIONS[name].agrees(chosen, chosen.values) for name in names) for names in found.editions]
    if len(found.editions) > 1 and not all(alike):
        raise _mixture(found)
    message = f"cases named as in {_groups(found)} are read as {chosen.name}, as you say"
    found.remark(message, rule="edition", is_warning=True)


def _mixture(found: Survey) -> DatasetError:
    return DatasetError(
        f"{found.root} mixes editions of BraTS: {_groups(found)}; put the cases of each into a folder of their own, "
        "or, where values mean the same in all of them, name one with --edition"
    )


def _groups(found: Survey) -> str:
    """The cases of each edition, in words."""
    return "; ".join(f"{' or '.join(names)}: {some(cases)}" for names, cases in found.editions.items())


def _take(found: Survey, chosen: Edition) -> None:
    ignore = None if found.labels is None else found.labels.ignore
    found.edition, found.labels = chosen.name, replace(chosen.labels, ignore=ignore)
    if found.editions and found.channels is not None:  # of files found by their modality
        modalities = [name for name in map(modality, found.channels) if name is not None]
        found.channels = as_spelled(modalities, (chosen.name,))


def _check_description(found: Survey, chosen: Edition) -> None:
    """See whether dataset.json calls values as the edition does, as far as they are called in words of BraTS.

    Raises:
        DatasetError: if it declares regions of its own, or naming the first value that means something else.
    """
    declared = found.labels
    if declared is not None and declared.has_regions:
        raise DatasetError(
            f"{found.root / 'dataset.json'} declares regions itself, so no edition of BraTS is needed: leave out "
            f"--edition {chosen.name}, or take the regions out of the file"
        )
    for label in declared.foreground if declared is not None else ():
        meant = _meaning(label.name)
        marked = {value for value, name in chosen.values.items() if meant and _meaning(name) == meant}
        if marked and not marked & set(label.values):
            raise DatasetError(
                f"{found.root / 'dataset.json'} gives {label.name!r} the value {listed(label.values)}, which is "
                f"{listed(marked)} in {chosen.name}; choose the edition that fits, or none"
            )


def _meaning(name: str) -> str:
    """Oedema or enhancing tumour, in any of the words used for them; empty for others."""
    word = name.casefold().replace("-", " ").replace("_", " ")
    if word in ("ed", "snfh") or "edema" in word:  # oedema as well
        return "oedema"
    if word == "et" or ("enhancing" in word and "non" not in word):
        return "enhancing"
    return ""


def _detect(found: Survey, named: Sequence[Edition], at_most: int | None) -> None:
    """The edition that names of cases and values of label maps agree on.

    Raises:
        DatasetError: if there is none, or several in which the values mean different things.
    """
    held = _values_of(found.training, _SAMPLE if len(named) == 1 else _LARGE_SAMPLE, at_most)
    seen = frozenset[int]().union(*held.values())
    fitting = [each for each in named if each.holds(seen)]
    if len(named) > 1:
        _refuse_mixture(found, held, fitting)
    if not fitting and (others := [each for each in FOLDERS if each.holds(seen)]):
        known = set[int]().union(*(each.values for each in named))
        case, values = next((case, values - known) for case, values in held.items() if values - known - {0})
        raise DatasetError(
            f"{found.root}: cases are named as in {names_of(named)}, whose label values are {listed(known)}, but "
            f"{case} holds {listed(values - {0})}; say what the values mean with --edition: {names_of(others)} have "
            f"{'all of them' if len(seen) > 1 else 'it'}"
        )
    fitting = fitting or list(named)  # a value of no edition, which is told of case by case
    named_so = any(each.bears(case.id) for each in named for case in found.training)
    if found.training and not named_so and len(seen - {0}) < 2:  # a mask of whatever it may be
        raise DatasetError(
            f"{found.root}: label maps hold {listed(seen - {0}) or 'background'} alone and no case is called as in "
            f"BraTS, so nothing tells whether these are tumours of BraTS; if so, say with --edition of which edition "
            "(where an evaluation asks, --labels), else list the files in a dataset.json (datasets.md)"
        )
    usual = min(fitting, key=lambda each: len(each.values))
    if found.training and not all(usual.agrees(other, seen) for other in fitting):
        raise DatasetError(
            f"{found.root}: label values {listed(seen - {0})} and the names of cases and files fit "
            f"{names_of(fitting)}, in which they mean different things; say which with --edition (where an evaluation "
            "asks, --labels), or list the files in a dataset.json where it is another data set (datasets.md)"
        )
    _take(found, usual)
    others = [each for each in fitting if each is not usual]
    how = f"read as {usual.name} ({usual.title})"
    if others and found.training:
        more = sorted({value for other in others for value in other.values} - set(usual.values))
        absent = f"and none of {len(held)} label maps holds {listed(more)}"
        why = absent if more else "in which values mean the same"
        how += f": names fit {names_of(others)} as well, {why}; --edition takes another"
    found.remark(how, rule="edition")


def _refuse_mixture(found: Survey, held: dict[str, frozenset[int]], fitting: Sequence[Edition]) -> None:
    """Refuse label maps of which some have 3 and others 4, and none both, where the two may be one structure."""
    with_3, with_4 = ([case for case, values in held.items() if value in values] for value in (3, 4))
    if len(with_3) > 1 and len(with_4) > 1 and not set(with_3) & set(with_4):
        remedy = f"; if they are all of one, say so with --edition: {names_of(fitting)}" if fitting else ""
        raise DatasetError(
            f"{found.root} mixes editions of BraTS: label maps hold 3 ({some(with_3)}) or 4 ({some(with_4)}), and none "
            f"both, though enhancing tumour is one of them; put the cases of each edition into a folder of "
            f"their own{remedy}"
        )


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
