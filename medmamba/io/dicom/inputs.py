"""Which series of an export are segmented: by a user's word, by rules, or because there is no other."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from medmamba.case import Case, some
from medmamba.errors import UsageError
from medmamba.io.dicom.media import opened
from medmamba.io.dicom.planes import Series
from medmamba.io.dicom.selection import Selection, listed, refusal, skipped_words
from medmamba.io.dicom.series import Choice, Export, explore, settled
from medmamba.io.errors import DatasetError
from medmamba.progress import Progress, silent

log = logging.getLogger(__name__)

#: Folder of the selections, in that of the segmentations.
PLACE = ".dicom"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a user and a plan say of the series to segment.

    Args:
        channels: what the model calls its channels, in its order.
        rules: channel -> regular expression for `told`; some or none of the channels.
        given: channel -> id of the series that it is.
        series: ids of series; only these are looked at.
        choice: how to go on where a series is no even stack.
    """

    channels: tuple[str, ...]
    rules: Mapping[str, str] = field(default_factory=dict)
    given: Mapping[str, str] = field(default_factory=dict)
    series: tuple[str, ...] = ()
    choice: Choice = field(default_factory=Choice)


def told(series: Series) -> str:
    """What rules look at: modality, description, protocol and sequence, in a line."""
    return " ".join(filter(None, (series.modality, series.description, series.sequence)))


def matching(rule: str, series: Sequence[Series]) -> list[Series]:
    """Those that a rule finds; capital letters or not.

    >>> t1 = Series(uid="1.2", study_uid="1", frame_of_reference_uid="", modality="MR", description="t1 post")
    >>> [each.uid for each in matching("MR T1.*(GD|post)", [t1])]
    ['1.2']
    """
    return [each for each in series if re.search(rule, told(each), re.IGNORECASE)]


@contextmanager
def export_cases(
    path: Path | None, wanted: Wanted, place: Path, progress: Progress = silent
) -> Iterator[tuple[list[Case], str]]:
    """The cases of an export, see `cases_of`, and what was passed over in it, in words; a zip's until the block ends.

    Args:
        path: folder, zip, DICOMDIR or file; None where ``wanted`` gives a folder for each channel.
        wanted: what is asked for; a channel may be given a path in place of an id.
        place: folder for selections.
        progress: shows how many headers of the export have been read.

    Raises:
        UsageError: as `cases_of`, and if a channel is given that the model does not take.
        DatasetError: as `cases_of`, and if a channel's folder holds not just one series.
        OSError: if something cannot be read or written.
    """
    if strange := wanted.given.keys() - set(wanted.channels):
        raise UsageError(f"the model takes {', '.join(wanted.channels)}, there is no channel {some(sorted(strange))}")
    places = {channel: Path(told) for channel, told in wanted.given.items() if Path(told).exists()}
    if path is None and (lacking := [each for each in wanted.channels if each not in places]):
        raise UsageError(f"nothing says where {some(lacking)} lies; give an export with -i, or --channel NAME=FOLDER")
    with ExitStack() as until_done:
        export = Export(series=(), skipped=())
        if path is not None:
            export = explore(until_done.enter_context(opened(path)), progress)
        ids, series = dict(wanted.given), list(export.series)
        for channel, folder in places.items():
            own = explore(until_done.enter_context(opened(folder))).series
            ids[channel] = _only(channel, own, own, f" in {folder}", wanted).id
            series += [each for each in own if each.id not in {known.id for known in series}]
        root = path or next(iter(places.values()))
        cases = cases_of(Export(series=tuple(series), skipped=export.skipped), replace(wanted, given=ids), root, place)
        yield cases, skipped_words(export).strip(" ()")


def cases_of(export: Export, wanted: Wanted, root: Path, place: Path) -> list[Case]:
    """The cases of an export: a series each, or for a model of several channels the series of a study.

    Args:
        export: what there is.
        wanted: what is asked for.
        root: folder that the export was found in; a series that lies in a folder of its own, which is this or one in
            it, is called after that, and any other by its UID.
        place: folder for selections, which are written there.

    Raises:
        UsageError: if a series is asked for that is not there.
        DatasetError: if it is not clear which series are meant, listing them, or none can be read as it is.
        OSError: if the selections cannot be written.
    """
    if not export.series:
        raise DatasetError(f"{root} holds no scan in DICOM{skipped_words(export)}")
    groups = _groups(export.series, wanted)
    named = {*wanted.series, *wanted.given.values()}
    ready = [settled(each, wanted.choice, named=each.id in named) for group in groups for each in group]
    if all(each.problems for each in ready):
        raise DatasetError(refusal(ready[0]))
    names = _names(groups, root, export.series)
    return [_case(name, group, wanted, place, export.series) for name, group in zip(names, groups, strict=True)]


def _groups(series: Sequence[Series], wanted: Wanted) -> list[tuple[Series, ...]]:
    """The series of each case, in the order of the channels."""
    given = {channel: _found(uid, series) for channel, uid in wanted.given.items()}
    if all(channel in given for channel in wanted.channels):
        return [tuple(_only(channel, given[channel], given[channel], "", wanted) for channel in wanted.channels)]
    pool = [each for uid in wanted.series for each in _found(uid, series)] if wanted.series else list(series)
    if wanted.series and len(wanted.channels) == 1:
        return [(each,) for each in dict.fromkeys(pool)]
    meant = [each for found in given.values() for each in found]
    studies = dict.fromkeys(each.study_uid for each in meant or pool)
    groups, passed_over = [], []
    for uid in studies:
        study = [each for each in pool if each.study_uid == uid]
        if len(studies) > 1 and wanted.rules and not any(matching(rule, study) for rule in wanted.rules.values()):
            passed_over.append(uid)
            continue
        groups.append(tuple(_series_of(channel, study, given, wanted) for channel in wanted.channels))
    if passed_over:
        log.warning("%d studies have no series of the model's channels: %s", len(passed_over), some(passed_over))
    if not groups:
        raise DatasetError(f"no rule of the plan finds a series; there are {listed(pool)}; choose with --series UID")
    return groups


def _found(uid: str, series: Sequence[Series]) -> list[Series]:
    """The series or part of that id; all parts where only the series is named."""
    if found := [each for each in series if uid in (each.id, each.uid)]:
        return found
    raise UsageError(f"there is no series {uid}; there are {listed(series)}")


def _series_of(channel: str, study: Sequence[Series], given: Mapping[str, list[Series]], wanted: Wanted) -> Series:
    """The series of a channel in a study, by the user's word, the plan's rule, or as the only one there is."""
    if channel in given:
        return _only(channel, given[channel], study, "", wanted)
    if rule := wanted.rules.get(channel):
        return _only(channel, matching(rule, study), study, f" by the rule {rule!r} of the plan", wanted)
    if len(wanted.channels) == 1:
        return _only(channel, study, study, "", wanted)
    raise DatasetError(
        f"the model takes {', '.join(wanted.channels)}, and nothing says which series is {channel}: there are "
        f"{listed(study)}; choose with --channel {channel}=UID, or write a rule into the plan (see channel_rules)"
    )


def _only(channel: str, found: Sequence[Series], study: Sequence[Series], how: str, wanted: Wanted) -> Series:
    if len(found) == 1:
        return found[0]
    alone = len(wanted.channels) == 1
    what = "the image" if alone else f"channel {channel}"
    there = f"{len(found)} series may be {what}" if found else f"no series is {what}"
    choose = "--series UID" if alone else f"--channel {channel}=UID"
    raise DatasetError(f"{there}{how}: {listed(found or study)}; choose with {choose}")


def _names(groups: Sequence[tuple[Series, ...]], root: Path, series: Sequence[Series]) -> list[str]:
    """Names of cases: of a folder that holds the series of one case and no other, else of its first series."""
    top = root.resolve()
    held: dict[Path, set[str]] = {}
    for each in series:
        for file in each.files:
            held.setdefault(file.parent.resolve(), set()).add(each.id)
    names = []
    for group in groups:
        own, folders = {each.id for each in group}, {file.parent.resolve() for file in group[0].files}
        folder = folders.pop() if len(folders) == 1 else None
        is_named = root.is_dir() and folder is not None and top in (folder, folder.parent) and held[folder] <= own
        names.append(folder.name if folder and is_named else group[0].id.replace("#", "_"))
    return names


def _case(name: str, group: Sequence[Series], wanted: Wanted, place: Path, series: Sequence[Series]) -> Case:
    images = []
    for number, each in enumerate(group):
        path = place / f"{name}_{number:04d}.json"
        # With the other parts of a series, by which its number among them is told.
        files = dict.fromkeys(file for part in series if part.uid == each.uid for file in part.files)
        Selection(dicom_series=each.id, choice=wanted.choice).save(path, files)
        images.append(path)
    return Case(id=name, images=tuple(images))
