"""Which cases the page shows, and the files that they are read from; several are read at the same time."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medmamba import io
from medmamba.case import Case, Dataset
from medmamba.engines import Failure, map_cases, suited
from medmamba.errors import DataError
from medmamba.evaluation.matching import Match, match_files
from medmamba.evaluation.metrics import metric
from medmamba.evaluation.page.parts import Subjects
from medmamba.evaluation.page.pictures import Montage, montage
from medmamba.evaluation.page.scene import Subject, read_scene
from medmamba.evaluation.page.summary import order
from medmamba.evaluation.page.viewer import Volumes, pack
from medmamba.evaluation.scores import Origin
from medmamba.files import in_words
from medmamba.io.sizes import largest_voxels
from medmamba.progress import Progress

log = logging.getLogger(__name__)

#: Cases that are drawn, at most: in the middle and at the good end, and at the bad one, where there is more to learn.
EACH, WORST = 2, 4
#: Channels in which most is to be seen of lesions and tumours; where there is none of them, the first is shown.
PREFERRED = ("flair", "t2f", "t2_flair")
#: Cases that can be looked at in the viewer, at most, and what their volumes may take together.
MOST_VIEWED, VOLUME_BYTES = 32, 9_000_000
#: Memory a voxel takes about while a case is drawn.
VOXEL_BYTES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A case on the page.

    Args:
        id: of the case.
        montages: one per model; None where that has no report of the case.
        volumes: for the viewer; None where they are not embedded.
    """

    id: str
    montages: tuple[Montage, ...]
    volumes: Volumes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """All that is to be seen of cases.

    Args:
        groups: what they have in common, and their ids.
        cases: by id.
        notes: what could not be shown, and why.
        channel: which one of the image lies under the masks, empty where it has no name; None where there is no image.
    """

    groups: tuple[tuple[str, tuple[str, ...]], ...] = ()
    cases: dict[str, Shown]
    notes: tuple[str, ...] = ()
    channel: str | None = None

    @property
    def others(self) -> bool:
        """Whether a structure was taken for another one in some picture."""
        return any(each.others for shown in self.cases.values() for each in shown.montages)


def gather(about: Subjects, images: Dataset | Path | None, progress: Progress) -> Gallery:
    """Read the cases that are worth a look and draw them; what is not at hand is told."""
    ranked = order(about)
    together = " by the mean over models" if about.several else ""
    groups = [(f"{name}{together}", cases) for name, cases in choose(ranked)]
    files = _files(about)
    if not ranked or not files:
        return Gallery(cases={}, notes=("No pictures: the masks that the report was made of are not at hand.",))
    drawn = list(dict.fromkeys(case for _, cases in groups for case in cases))
    viewed = [case for case in dict.fromkeys([*drawn, *ranked]) if case in files][:MOST_VIEWED]
    at_hand, channel = _images(images)
    subjects = [
        Subject(
            id=case,
            reference=files[case][0],
            predictions=files[case][1],
            image=at_hand[case][0] if case in at_hand else None,
            channel=at_hand[case][1] if case in at_hand else 0,
            labels=about.models[0].report.labels,
            drawn=case in drawn,
            volume_bytes=VOLUME_BYTES // len(viewed),
        )
        for case in viewed
    ]
    voxels = largest_voxels([subject.reference for subject in subjects])
    engine = suited(len(subjects), case_bytes=VOXEL_BYTES * voxels)
    outcomes = map_cases(_show, subjects, engine, title="Drawing cases", progress=progress)
    shown = {each.id: each for each in outcomes if not isinstance(each, Failure)}
    return Gallery(
        groups=tuple((name, kept) for name, cases in groups if (kept := tuple(c for c in cases if c in shown))),
        cases=shown,
        notes=(*([_chosen(about)] if about.several else []), *_notes(shown, len(subjects) - len(shown), len(ranked))),
        channel=channel if any(case in at_hand for case in drawn) else None,
    )


def _chosen(about: Subjects) -> str:
    return (
        f"Cases are put in order by their place in {metric(about.metrics[0]).title}, averaged over all models: what is "
        "in the middle together may be the worst of one model and the best of another. The summary names each model's "
        "own worst cases."
    )


def choose(ranked: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    """Worst, median and best cases, each once; all of them where there are few.

    Args:
        ranked: ids of cases, the worst first.

    >>> choose("abcdefghij")
    [('Worst cases', ('a', 'b', 'c', 'd')), ('Median cases', ('e', 'f')), ('Best cases', ('i', 'j'))]
    >>> choose("abc")
    [('All cases, the worst first', ('a', 'b', 'c'))]
    """
    if len(ranked) <= WORST + 2 * EACH:
        return [("All cases, the worst first", tuple(ranked))] if ranked else []
    middle = max((len(ranked) - EACH) // 2, WORST)
    return [
        ("Worst cases", tuple(ranked[:WORST])),
        ("Median cases", tuple(ranked[middle : middle + EACH])),
        ("Best cases", tuple(ranked[-EACH:])),
    ]


def _files(about: Subjects) -> dict[str, tuple[Path, tuple[Path | None, ...]]]:
    """Reference and predictions of each case whose reference is at hand."""
    references: dict[str, Path] = {}
    predictions: list[dict[str, Path | None]] = []
    for model in about.models:
        pairs = _pairs(model.report.origin)
        predictions.append({pair.id: pair.prediction for pair in sorted(pairs, key=lambda pair: bool(pair.prediction))})
        references = {pair.id: pair.reference for pair in pairs} | references
    return {case: (path, tuple(own.get(case) for own in predictions)) for case, path in references.items()}


def _pairs(origin: Origin) -> list[Match]:
    """The files that a report was made of, as far as they are still where it says, of all folds."""
    if origin.prediction is None or origin.reference is None:
        return []
    found: list[Match] = []
    for folder in (origin.prediction, *origin.more):
        try:
            found += match_files(folder, origin.reference).pairs
        except (DataError, OSError) as error:
            log.info("no pictures: %s", in_words(error))
    return found


def _images(images: Dataset | Path | None) -> tuple[dict[str, tuple[Case, int]], str]:
    """The image of each case with the channel in it to show, and what that channel is called."""
    if images is None:
        return {}, ""
    if isinstance(images, Path):
        try:
            return _images(io.open_dataset(images))
        except DataError:
            return {case.id: (case, 0) for case in io.find_inputs(images, 1)}, ""
    channels = images.channels
    shown = next((number for number, name in enumerate(channels) if name.lower() in PREFERRED), 0)
    cases = {}
    for case in (*images.training, *images.test):
        one_file_each = len(case.images) == len(channels)
        alone = replace(case, images=(case.images[shown],)) if one_file_each else case
        cases[case.id] = (alone, 0 if one_file_each else shown)
    return cases, channels[shown]


def _show(subject: Subject) -> Shown:
    scene = read_scene(subject)
    return Shown(
        id=subject.id,
        montages=tuple(montage(scene, number) for number in range(len(subject.predictions))) if subject.drawn else (),
        volumes=pack(scene, subject.volume_bytes) if subject.volume_bytes else None,
    )


def _notes(shown: dict[str, Shown], unread: int, cases: int) -> Iterator[str]:
    volumes = [each.volumes for each in shown.values() if each.volumes is not None]
    if unread:
        yield f"{unread} of the cases that were chosen have no picture: their masks cannot be read any more."
    if len(volumes) < cases:
        yield (
            f"{len(volumes)} of {cases} cases can be opened in the viewer, the worst first: more would make the page "
            "too large to pass around."
        )
    images = [each for each in volumes if each.image is not None]
    if steps := sorted({each.step for each in images} - {1}):
        yield (
            f"To keep the page small, the viewer's images hold one voxel for {' or '.join(map(str, steps))} along each "
            "axis in some cases; masks are whole."
        )
    if 0 < len(images) < len(volumes):
        yield "Some cases are shown without their image, which is not at hand or too large."
