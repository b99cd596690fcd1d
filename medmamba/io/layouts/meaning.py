"""What the label values of a data set mean: which edition of BraTS its names and its label maps agree on.

Where they contradict each other, or leave open what a value means, nothing is assumed: the user is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from medmamba.case import some
from medmamba.io.errors import DatasetError
from medmamba.io.layouts.editions import (
    EDITIONS,
    Edition,
    as_spelled,
    common_editions,
    edition,
    listed,
    modality,
)
from medmamba.io.layouts.evidence import Evidence
from medmamba.io.layouts.layout import Survey
from medmamba.labels import Labels


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
        if found.editions and chosen.name not in common:
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


def like_described(labels: Labels) -> str:
    """Which editions have the values that a description calls oedema and enhancing tumour, in words; empty if none."""
    declared = {label.values[0]: _meaning(label.name) for label in labels.foreground}
    names = [
        each.name
        for each in EDITIONS.values()
        if declared == {value: _meaning(name) for value, name in each.values.items()}
    ]
    if labels.has_regions or not names or not {"oedema", "enhancing"} <= set(declared.values()):
        return ""
    called = ", ".join(f"{label.values[0]} {label.name}" for label in labels.foreground)
    regions = ", ".join(region.name for region in EDITIONS[names[0]].regions)
    return (
        f"labels {called} are those of {', '.join(names)}: --edition {names[0]} gives its regions, {regions}, which "
        "overlap and are what BraTS scores; without it each value is a class"
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
    evidence = Evidence.of(found.root, named, (*found.training, *found.test), at_most)
    chosen = evidence.edition()
    _take(found, chosen)
    message = f"read as {chosen.name} ({chosen.title}), {evidence.reason(chosen)}"
    found.remark(message, rule="edition", is_warning=evidence.is_decided_by_few)
