"""What belongs together: predictions, their references, and what the values in them mean."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medmamba import io
from medmamba.engines import Failure, map_cases, suited
from medmamba.errors import DataError, UsageError
from medmamba.io.layouts import Folder, listing, settle, survey
from medmamba.io.layouts.brats import Brats, holds_labels
from medmamba.io.layouts.description import labels_by_value, labels_of_values_to_names, nnunet_labels
from medmamba.io.layouts.editions import EDITIONS, LABEL_SPELLINGS, find_edition, labels_of_edition
from medmamba.io.layouts.names import ENDINGS, maps_in, split_ending
from medmamba.io.manifest import MANIFEST, Made, Maker, Manifest
from medmamba.labels import Labels
from medmamba.progress import Progress, silent
from medmamba.records import read_json

logger = logging.getLogger(__name__)

#: What a dataset.json ends in, whatever it is called.
DESCRIPTION = ".json"
#: What BraTS puts behind the name of a case to call its label map.
KIND = re.compile(rf"[-_]({'|'.join(LABEL_SPELLINGS)})$", re.IGNORECASE)
#: Of so many references and more, a value is told that one of them holds, or at most one in so many.
ENOUGH, RARE = 5, 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A reference and its prediction.

    Args:
        id: name of the case.
        reference: label map made by an expert.
        prediction: label map to be judged; None when there is none.
    """

    id: str
    reference: Path
    prediction: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Matches:
    """What belongs together, and what is left over.

    Args:
        pairs: one per reference, sorted by id.
        extra: predictions without a reference.
        not_asked_for: ids of references that have no prediction because none was asked for.
        by_maker: ids of the predictions of each model or set of options, by the record of `medmamba predict`; those
            with the most first.
    """

    pairs: tuple[Match, ...]
    extra: tuple[Path, ...] = ()
    not_asked_for: tuple[str, ...] = ()
    by_maker: tuple[tuple[str, ...], ...] = ()


def match_files(prediction: Path, reference: Path) -> Matches:
    """Find the prediction of each reference by the name of its file, without ending.

    Where no two names are equal, they are compared without the ``-seg`` of BraTS.

    Args:
        prediction: a label map, or a folder of them.
        reference: a label map, a folder of them, or a data set, whose training labels are taken. Every prediction that
            is there is compared. Where `medmamba predict` wrote the predictions, of the other references only those
            of cases that it was asked for count as missing, elsewhere all.

    Raises:
        FileNotFoundError: if one of them does not exist.
        DataError: if one is a file and the other a folder, two files bear one id, no id is on both sides, or a
            prediction and its reference are one file.
    """
    for path in (prediction, reference):
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist")
    alone = io.is_image(reference)
    if io.is_image(prediction) != alone:
        raise DataError(f"compare two files or two folders, got {prediction} and {reference}")
    if alone:
        pair = Match(id=split_ending(reference)[0], reference=reference, prediction=prediction)
        return Matches(pairs=_different([pair]))
    references, predictions = _references(reference), _label_files(prediction)
    if not references.keys() & predictions.keys():
        references, predictions = _without_kind(references), _without_kind(predictions)
    if not references.keys() & predictions.keys():
        raise DataError(
            f"no prediction bears the name of a reference: {prediction} has {_examples(predictions)}, "
            f"{reference} has {_examples(references)}; give the folder of the other references, or rename files so "
            "that they match"
        )
    wanted = _asked_for(prediction)
    expected = references.keys() if wanted is None else references.keys() & (predictions.keys() | wanted)
    return Matches(
        pairs=_different(
            Match(id=name, reference=references[name], prediction=predictions.get(name)) for name in sorted(expected)
        ),
        extra=tuple(path for name, path in sorted(predictions.items()) if name not in references),
        not_asked_for=tuple(sorted(references.keys() - expected)),
        by_maker=_by_maker(prediction, {name: predictions[name] for name in sorted(expected & predictions.keys())}),
    )


def _without_kind(files: dict[str, Path]) -> dict[str, Path]:
    """The same files by the names of their cases, without what BraTS puts behind those of label maps."""
    named = {KIND.sub("", name): path for name, path in files.items()}
    if len(named) < len(files) or named.keys() == files.keys():
        return files
    ending = next(match[0] for name in files if (match := KIND.search(name)))
    logger.warning("files in %s are taken by their names without %s", next(iter(files.values())).parent, ending)
    return named


def _asked_for(folder: Path) -> frozenset[str] | None:
    """Ids of the cases that `medmamba predict` was asked to segment into a folder; None when nothing says so."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    manifest = read_json(path)
    cases = manifest.get("cases") if isinstance(manifest, dict) else None
    # A mapping is from the id to what became of the case.
    if not isinstance(cases, list | dict) or not all(isinstance(case, str) for case in cases):
        logger.warning("%s does not list its 'cases', as those of medmamba do, and is passed over", path)
        return None
    return frozenset(cases)


def _by_maker(folder: Path, predictions: dict[str, Path]) -> tuple[tuple[str, ...], ...]:
    """Ids of the predictions that `medmamba predict` recorded as made alike, the most first."""
    made = _made(folder)
    ids: dict[Maker, list[str]] = {}
    for name, path in predictions.items():
        if record := made.get(path.name):
            ids.setdefault(record.maker, []).append(name)
    return tuple(sorted((tuple(names) for names in ids.values()), key=len, reverse=True))


def _different(matches: Iterable[Match]) -> tuple[Match, ...]:
    """The same matches, unless a reference is compared with itself, which would be perfect and mean nothing."""
    pairs = tuple(matches)
    for pair in pairs:
        if pair.prediction is not None and pair.reference.exists() and pair.prediction.samefile(pair.reference):
            raise DataError(
                f"{pair.prediction} is both prediction and reference; give the folder that holds the predictions"
            )
    return pairs


@dataclass(frozen=True, slots=True)
class Meaning:
    """What values in label maps mean.

    Args:
        labels: the structures.
        edition: of BraTS, where these are its regions; empty elsewhere.
    """

    labels: Labels
    edition: str = ""


def find_meaning(prediction: Path, reference: Path, given: str = "") -> Meaning | None:
    """What values mean, by what the user says or what lies beside the files; None where nothing tells.

    Args:
        prediction: a label map, or a folder of them.
        reference: that it is compared with.
        given: a data set or its dataset.json, or the name of an edition of BraTS.

    Raises:
        UsageError: if ``given`` is neither.
        DataError: if a data set is wrong about its labels.
    """
    if given and (known := find_edition(given)):
        name = known.name
        return _meaning_of(reference, name) if _is_brats(reference) else Meaning(labels_of_edition(name), name)
    if given and not Path(given).exists():
        raise UsageError(
            f"labels are read from a data set or its dataset.json, or are those of an edition of BraTS; {given!r} is "
            f"nothing that exists, and none of {', '.join(EDITIONS)}"
        )
    place = Path(given) if given else reference
    if _is_brats(place):
        return _meaning_of(place)
    found = labels_of(place) if given else find_labels(prediction, reference)
    return None if found is None else Meaning(found)


def _is_brats(path: Path) -> bool:
    """Whether this is a folder of BraTS as downloaded."""
    return path.is_dir() and Brats().recognises(Folder(path))


def _meaning_of(folder: Path, edition: str = "") -> Meaning:
    """What values mean in a folder of BraTS, by the names of cases and by the values themselves."""
    found = listing(folder, by_modality=bool(edition))
    others = len(found.problems)  # those of files are not about values
    settle(found, edition)
    if found.problems[others:] or found.labels is None:
        raise (found.problems[others:] or found.problems)[0]
    return Meaning(found.labels, found.edition)


def find_labels(prediction: Path, reference: Path) -> Labels | None:
    """The labels of the data set that the files belong to, where that can be told.

    They are those of the dataset.json in the folder of the references, in the one above it (a data set keeps label maps
    in a folder of their own) or in the folder of the predictions (to which nnU-Net copies it). Of a data set of plain
    folders they are the values in all its label maps, also in those that nothing is compared with.

    Raises:
        DataError: if a dataset.json is wrong about its labels.
    """
    if description := description_beside(prediction, reference):
        logger.info("labels as in %s", description)
        return labels_of(description.parent)
    theirs = reference.parent if io.is_image(reference) else reference
    if (theirs / "images").is_dir() and (theirs / "labels").is_dir():
        return labels_of(theirs)
    return labels_of(theirs) if _is_brats(theirs) else None


def description_beside(prediction: Path, reference: Path, given: str = "") -> Path | None:
    """The dataset.json that tells what values mean: beside the references, above them, or beside the predictions.

    Args:
        prediction: a label map, or a folder of them.
        reference: that it is compared with.
        given: where the user says that it is, a data set or the file; another word is none of them.
    """
    if given:
        path = Path(given) if Path(given).suffix.lower() == DESCRIPTION else Path(given) / "dataset.json"
        return path if path.is_file() else None
    ours, theirs = (path.parent if io.is_image(path) else path for path in (prediction, reference))
    places = (folder / "dataset.json" for folder in (theirs, theirs.parent, ours))
    return next((place for place in places if place.is_file()), None)


def labels_of(dataset: Path) -> Labels:
    """The labels of a data set, whatever else may be wrong with it: its description may have been copied away alone.

    Args:
        dataset: its folder, or its dataset.json, which may have been given another name.

    Raises:
        FileNotFoundError: if it is neither.
        DataError: if they are wrong, or, in plain folders, no label map holds any.
    """
    if dataset.is_file() and dataset.name != "dataset.json":
        return _described_labels(dataset)
    found = survey(dataset)
    if found.labels is not None:
        return found.labels
    if found.is_described or found.layout == "brats":
        raise found.problems[0]
    return labels_in(
        [Match(id=case.id, reference=case.label, prediction=None) for case in found.training if case.label is not None]
    )


def _described_labels(description: Path) -> Labels:
    """The labels in a dataset.json of another name."""
    if description.suffix.lower() != DESCRIPTION:
        raise FileNotFoundError(f"labels are read from a data set or its dataset.json, not from {description}")
    facts = read_json(description)
    if not isinstance(facts, dict) or "labels" not in facts:
        raise DataError(f"{description} has no 'labels', as a dataset.json has; give that of a data set, or its folder")
    read = labels_of_values_to_names if labels_by_value(facts) else nnunet_labels
    return read(description, facts)


def labels_in(pairs: Sequence[Match], progress: Progress = silent) -> Labels:
    """One label per value that occurs in the references, called ``label_1`` and so on.

    A value that hardly any reference holds is told: it may be a mistake, and counts as a structure of all cases.

    Files that cannot be read are passed over here; `evaluate` lists them.

    Raises:
        DataError: if no reference can be read, with the reason, or none holds anything but background.
    """
    outcomes = map_cases(_values, pairs, suited(len(pairs)), title="Looking for labels", progress=progress)
    unread = [outcome.reason for outcome in outcomes if isinstance(outcome, Failure)]
    found = [outcome for outcome in outcomes if not isinstance(outcome, Failure)]
    values = {value for counts in found for value in counts}
    for reason in unread:
        logger.info("passed over while looking for labels: %s", reason)
    if unread and len(unread) == len(pairs):
        more = f" ({len(unread) - 1} more have errors as well)" if len(unread) > 1 else ""
        raise DataError(f"no reference can be read: {unread[0]}{more}")
    if not values - {0}:
        first = f", the first being {pairs[0].reference}" if pairs else ""
        raise DataError(f"no label besides background in {len(pairs)} references{first}; are these label maps?")
    labels = Labels.of_values(values - {0})
    for label in labels.foreground:
        holding = [counts[value] for counts in found for value in label.values if value in counts]
        if len(found) >= ENOUGH and len(holding) <= max(1, len(found) // RARE):
            logger.warning(
                "%s occurs in %d of %d references, %d voxels in all, and is scored as a structure of every case; if "
                "that is not meant, say --labels",
                *(label.name, len(holding), len(found), sum(holding)),
            )
    return labels


def _values(pair: Match) -> dict[int, int]:
    """The values in a reference, and how many voxels hold each."""
    values, counts = np.unique(io.read_label(pair.reference, as_stored=True).array, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _references(folder: Path) -> dict[str, Path]:
    """Label maps by case id: those of the data set that the folder holds, else those in the folder itself."""
    here = _label_files(folder)
    # A description alone does not make a data set: copies of it lie beside label maps.
    if here and not any((folder / inner).is_dir() for inner in ("imagesTr", "images")):
        return here
    by_modality = not here and holds_labels(folder)  # of whatever meaning: that is settled elsewhere
    training = listing(folder, by_modality=by_modality).training
    listed = {case.id: case.label for case in training if case.label is not None}
    return listed or here


def _label_files(folder: Path) -> dict[str, Path]:
    """The label maps in a folder by id; of those that `medmamba predict` wrote of a case in several formats, one."""
    files: dict[str, Path] = {}
    others = set[str]()
    made = _made(folder)
    first = {ending: number for number, ending in enumerate(ENDINGS)}
    for path in sorted(maps_in(folder), key=lambda path: first.get(split_ending(path)[1].lower(), len(first))):
        name = split_ending(path)[0]
        if name in files and not {files[name].name, path.name} <= made.keys():
            raise DataError(f"{files[name]} and {path} bear the same id {name!r}; keep one of them")
        if files.setdefault(name, path) is not path:
            others.add(split_ending(path)[1])
    if others:
        taken = sorted({split_ending(path)[1] for path in files.values()})
        logger.warning(
            "%s holds cases in several formats, of which %s is taken; to compare %s, give a folder of those alone",
            *(folder, " and ".join(taken), " and ".join(sorted(others))),
        )
    if not files and folder.is_dir() and any(path.is_file() and io.is_structure_set(path) for path in folder.iterdir()):
        raise DataError(
            f"{folder} holds contours of structure sets, which are no voxels; give SEG, NIfTI or NRRD, or fill them by "
            "other software"
        )
    return dict(sorted(files.items()))


def _made(folder: Path) -> dict[str, Made]:
    """What `medmamba predict` recorded in a folder; nothing where the record is of another program."""
    try:
        return Manifest.load(folder).made
    except DataError:
        return {}


def _examples(files: dict[str, Path]) -> str:
    return ", ".join(sorted(files)[:3]) + (", ..." if len(files) > 3 else "") if files else "no images"
