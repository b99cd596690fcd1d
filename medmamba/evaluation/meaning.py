"""What values mean where no data set says so: by the metrics of a challenge, or by the names that objects keep."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from medmamba import io
from medmamba.errors import DataError, UsageError
from medmamba.evaluation.challenges import CHALLENGES
from medmamba.evaluation.matching import Match, Meaning
from medmamba.evaluation.metrics import metric
from medmamba.io.layouts.editions import labels_of_edition
from medmamba.labels import Label, Labels

logger = logging.getLogger(__name__)


def edition_of(challenge: str) -> str:
    """The edition whose labels a challenge of `CHALLENGES` scores."""
    return challenge.replace("_", "-")


def challenge_of(edition: str) -> tuple[str, ...]:
    """The group of metrics by which an edition of BraTS ranks; empty where there is none."""
    return tuple(group for group in CHALLENGES if edition_of(group) == edition)


def challenges_of(metrics: Iterable[str]) -> tuple[str, ...]:
    """The challenges that metrics are columns of, each once.

    >>> challenges_of(("dice", "brats2023_gli_dice", "brats2023_gli_hd95"))
    ('brats2023_gli',)
    """
    return tuple(dict.fromkeys(group for name in metrics if (group := metric(name).challenge)))


def meaning_by_challenges(challenges: Sequence[str]) -> Meaning | None:
    """What values mean in the edition that a challenge is of, where nothing else tells; None without a challenge.

    Raises:
        UsageError: for several challenges, whose editions may read values differently.
    """
    if not challenges:
        return None
    if len(challenges) > 1:
        raise UsageError(
            f"metrics of {', '.join(challenges)} are asked for, and nothing tells what the values in the label maps "
            "mean; ask for those of one, or say --labels"
        )
    edition = edition_of(challenges[0])
    logger.warning("labels are taken to be those of %s, as metrics of that challenge are asked for", edition)
    return Meaning(labels_of_edition(edition), edition)


def check_challenges(challenges: Sequence[str], meaning: Meaning) -> None:
    """Refuse metrics of a challenge for labels of another edition, or that are not its regions.

    Editions that no challenge here is of (those up to 2021, and the Decathlon's) and labels that a data set declares
    may be scored by any challenge that has regions of the same names.

    Raises:
        UsageError: naming the labels that fit.
    """
    own = challenge_of(meaning.edition)
    names = {label.name for label in meaning.labels.foreground}
    for each in challenges:
        edition = edition_of(each)
        regions = [label.name for label in labels_of_edition(edition).foreground]
        if names == set(regions) and (not own or each in own):
            continue
        of = f"{meaning.edition}: " if meaning.edition else ""
        instead = f", or ask for the metrics {', '.join(own)}" if own else ""
        raise UsageError(
            f"metrics of {each} are of the regions {', '.join(regions)} of {edition}, but the labels are "
            f"{of}{', '.join(sorted(names))}; say --labels {edition} if the files are of it{instead}"
        )


def labels_by_objects(pairs: Sequence[Match]) -> Labels | None:
    """The structures that files name themselves, as DICOM SEG do; None unless all references do, and nothing disagrees.

    Raises:
        OSError: if a file cannot be read.
    """
    names: dict[int, str] = {}
    for pair in pairs:
        for path in (pair.reference, pair.prediction):
            found = None if path is None else _names(path)
            if found is None and path is not pair.reference:
                continue  # says nothing
            if not found or any(names.setdefault(value, name) != name for value, name in found.items()):
                return None
    if not all(names.values()) or len({*names.values()}) < len(names) or min(names, default=0) < 1:
        return None
    return Labels(foreground=tuple(Label(name=names[value], values=(value,)) for value in sorted(names)))


def _names(path: Path) -> dict[int, str] | None:
    try:
        return io.read_names(path)
    except DataError:  # which is told where its voxels are asked for
        return None
