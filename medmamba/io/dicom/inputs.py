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
from medmamba.io.dicom.selection import Selection, faulty_words, folder_of, listed, refusal, skipped_words
from medmamba.io.dicom.series import Choice, Export, explore, needed, settled
from medmamba.io.dicom.stack import geometry_of
from medmamba.io.errors import DatasetError
from medmamba.progress import Progress, silent

log = logging.getLogger(__name__)

#: Folder of the selections, in that of the segmentations.
PLACE = ".dicom"
#: Reasons that a message names.
_REASONS = 10


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
        # Those of channels first: of copies the first one counts. All at once, to tell whether they are of one patient.
        held = {
            channel: {file.resolve() for file in until_done.enter_context(opened(folder))}
            for channel, folder in places.items()
        }
        files = [file for each in held.values() for file in sorted(each)]
        if path is not None:
            files += until_done.enter_context(opened(path))
        once = {file.resolve(): file for file in reversed(files)}
        export = explore(reversed(once.values()), progress)
        ids = dict(wanted.given)
        for channel, own in held.items():
            there = [each for each in export.series if any(file.resolve() in own for file in each.sources)]
            ids[channel] = _only(channel, there, there, f" in {places[channel]}", wanted).id
        root = path or next(iter(places.values()))
        if faulty := faulty_words(export, root):
            log.warning("passed over, since they cannot be read: %s", some(faulty))
        yield cases_of(export, replace(wanted, given=ids), root, place), skipped_words(export).strip(" ()")


def cases_of(export: Export, wanted: Wanted, root: Path, place: Path) -> list[Case]:
    """The cases of an export: a series each, or for a model of several channels the series of a study.

    Args:
        export: what there is.
        wanted: what is asked for.
        root: folder that the export was found in; a series that lies in a folder of its own, which is this or one in
            it, is called after that, and any other by its UID.
        place: folder for selections, which are written there.

    Returns:
        Also those that are refused: their selections say so when they are read, so that they fail by their names.

    Raises:
        UsageError: if a series is asked for that is not there, or a UID that several studies use.
        DatasetError: if none can be read, or it is not clear which series are meant, with the reason for each.
        OSError: if the selections cannot be written.
    """
    if not export.series:
        raise DatasetError(f"{root} holds no scan in DICOM{skipped_words(export)}")
    groups = [_judged(group, wanted) for group in _groups(export.series, wanted)]
    if all(group.refused for group in groups):
        several = len({group.series[0].study for group in groups}) > 1
        told = (f"study {group.series[0].study}: " * several + group.refused for group in groups)
        reasons = list(dict.fromkeys(told))
        more = f"; and {len(reasons) - _REASONS} more" if len(reasons) > _REASONS else ""
        raise DatasetError("; ".join(reasons[:_REASONS]) + more)
    names = _names(groups, root, export.series)
    return [_case(name, group, wanted, root, place) for name, group in zip(names, groups, strict=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """The series of a case, in the order of the channels.

    Args:
        series: one for each channel; of a case that is refused those that were looked at.
        refused: why; empty where it is not.
    """

    series: tuple[Series, ...]
    refused: str = ""


def _judged(group: _Group, wanted: Wanted) -> _Group:
    """The group, refused if its series do not belong together, or cannot be read."""
    if group.refused:
        return group
    named = {*wanted.series, *wanted.given.values()}
    ready = [settled(each, wanted.choice, named=each.id in named) for each in group.series]
    reasons = [*_apart(group.series, wanted.channels), *(refusal(each) for each in ready if each.problems)]
    return replace(group, refused="; ".join(dict.fromkeys(reasons or _off_grid(ready, wanted.channels))))


def _off_grid(series: Sequence[Series], channels: Sequence[str]) -> list[str]:
    """Why series that can be read are no channels of one image."""
    first, *others = [geometry_of(each.planes) for each in series]
    return [
        f"channels of a case must lie on one grid, but against {channels[0]} ({series[0].id}) {channel} ({each.id}) "
        f"has {apart}; resample it to the first channel's grid, and give both as NIfTI"
        for channel, each, grid in zip(channels[1:], series[1:], others, strict=True)
        if (apart := first.apart(grid))
    ]


def _apart(series: Sequence[Series], channels: Sequence[str]) -> list[str]:
    """Why series cannot be channels of one case: of two patients, in no common coordinates, or the same one twice."""
    first = series[0]
    for number, (channel, each) in enumerate(zip(channels, series, strict=True)):
        if each.id in [other.id for other in series[:number]]:
            twin = channels[[other.id for other in series].index(each.id)]
            return [f"channels {twin} and {channel} are the same series, {each.id}"]
        same_place = each.frame_of_reference_uid == first.frame_of_reference_uid
        reason = ""
        if each.patient != first.patient:
            reason = "are of two patients"
        elif not same_place:
            reason = "have two frames of reference, so that nothing says where they lie against one another"
        elif each.study != first.study and not each.frame_of_reference_uid:
            reason = "are of two studies, without a frame of reference that both lie in"
        if reason:
            both = f"the series of channels {channels[0]} and {channel}"
            return [f"{both} {reason}: {first.id} and {each.id}; if they belong together, give them as NIfTI"]
    return []


def _groups(series: Sequence[Series], wanted: Wanted) -> list[_Group]:
    """The series of each case; a study in which it is not clear which they are is refused by itself."""
    given = {channel: _found(uid, series) for channel, uid in wanted.given.items()}
    pool = [each for uid in wanted.series for each in _found(uid, series)] if wanted.series else list(series)
    if wanted.series and len(wanted.channels) == 1 and not given:
        return [_Group(series=(each,)) for each in dict.fromkeys(pool)]
    meant = [each for found in given.values() for each in found]
    if all(channel in given for channel in wanted.channels):
        groups = [_Group(series=tuple(_only(name, given[name], given[name], "", wanted) for name in wanted.channels))]
    else:
        groups = _of_studies(pool, meant, given, wanted)
    if meant and (others := {each.study: each for each in pool} | {each.study: None for each in meant}):
        left = [_study_in_words(each) for each in others.values() if each is not None]
        if left:
            log.warning("left out, since --channel does not name them: %s", some(left))
    return groups


def _of_studies(
    pool: Sequence[Series], meant: Sequence[Series], given: Mapping[str, list[Series]], wanted: Wanted
) -> list[_Group]:
    groups, passed_over = [], []
    studies = dict.fromkeys(each.study for each in meant or pool)
    for number in studies:
        study = [each for each in pool if each.study == number]
        if len(studies) > 1 and wanted.rules and not any(matching(rule, study) for rule in wanted.rules.values()):
            passed_over.append(_study_in_words(study[0]))
            continue
        try:
            group = _Group(series=tuple(_series_of(channel, study, given, wanted) for channel in wanted.channels))
        except DatasetError as error:
            group = _Group(series=tuple(study), refused=str(error))
        groups.append(group)
    if passed_over:
        log.warning("left out, without any series of the model's channels: %s", some(passed_over))
    if not groups:
        raise DatasetError(f"no rule of the plan finds a series; there are {listed(pool)}; choose with --series UID")
    return groups


def _study_in_words(series: Series) -> str:
    return f"study {series.study} ({series.study_uid})"


def _found(uid: str, series: Sequence[Series]) -> list[Series]:
    """The series or part of that id; all parts where only the series is named.

    Raises:
        UsageError: if there is none, or one in each of several studies.
    """
    found = [each for each in series if uid in (each.id, each.whole_id)]
    if found:
        return found
    if shared := [each for each in series if each.uid == uid]:
        raise UsageError(f"several studies have a series {uid}; say which: {listed(shared)}")
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


def _names(groups: Sequence[_Group], root: Path, series: Sequence[Series]) -> list[str]:
    """Names of cases: of a folder that holds the series of one case and no other, else of its first series.

    The folder is the given one or one directly in it, in which the series may lie deeper down. A study in which it is
    not clear which series are the case is called by its UID where it has no folder.
    """
    top = root.resolve()
    held: dict[Path, set[str]] = {}
    for each in series:
        for folder in {above for file in each.sources for above in file.resolve().parents}:
            held.setdefault(folder, set()).add(each.id)
    names = list[str]()
    for group in groups:
        own = {each.id for each in group.series}
        is_study = bool(group.refused) and len({each.whole_id for each in group.series}) > 1
        name = group.series[0].study_uid if is_study else re.sub("[#@]", "_", group.series[0].id)
        for some_of in (group.series[:1], group.series) if root.is_dir() else ():
            folders = {file.resolve().parent for each in some_of for file in each.sources}
            near = {path for folder in folders for path in (folder, *folder.parents) if path.parent == top}
            near = {top} if folders == {top} else near
            if len(near) == 1 and held[next(iter(near))] <= own:
                name = next(iter(near)).name
        names.append(name if name not in names else f"{name}_{group.series[0].study}")
    return names


def _case(name: str, group: _Group, wanted: Wanted, root: Path, place: Path) -> Case:
    images = []
    named = {*wanted.series, *wanted.given.values()}
    for number, each in enumerate(group.series if not group.refused else group.series[:1]):
        path = place / f"{name}_{number:04d}.json"
        choice = needed(each, wanted.choice, named=each.id in named)
        selection = Selection(dicom_series=each.uid, part=each.part, choice=choice, refused=group.refused)
        selection.save(path, each.sources, folder_of(group.series if group.refused else [each], root))
        images.append(path)
    return Case(id=name, images=tuple(images))
