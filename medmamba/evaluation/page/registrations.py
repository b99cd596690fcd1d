"""What the page says of registrations beside what it says of label maps: pairs as a whole, and their pictures."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from markupsafe import Markup

from medmamba.engines import Failure, map_cases, suited
from medmamba.errors import DataError
from medmamba.evaluation.comparison import Comparison, check_alike, compare
from medmamba.evaluation.metrics import COMPARED, metric
from medmamba.evaluation.page import figures, tables, versus
from medmamba.evaluation.page.gallery import VOXEL_BYTES, choose
from medmamba.evaluation.page.layers import LAYERS, Layers
from medmamba.evaluation.page.parts import (
    Figure,
    Head,
    Line,
    Model,
    Section,
    Subjects,
    Table,
    anchor,
    count,
    listed,
    subjects,
    value_text,
    without_paths,
)
from medmamba.evaluation.page.summary import order, say, value_words
from medmamba.evaluation.registered_folder import MUCH_FOLDING, RegisteredPair, is_registered, read_pairs
from medmamba.evaluation.report import Report
from medmamba.evaluation.statistics import Summary
from medmamba.files import in_words
from medmamba.io.sizes import largest_voxels
from medmamba.progress import Progress

log = logging.getLogger(__name__)

#: So many pairs are drawn at each end where several methods are on the page.
FEW = 2
#: Structures whose values are drawn, at most.
MOST_STRUCTURES = 24
#: What stands above the table of structures.
SUMS_OF_STRUCTURES = "Structures: the pairs of each structure together, then over structures"
METHODS = (
    "A transform takes points of the fixed image to the moving one. The moving label map is brought onto the grid of "
    "the fixed one by one interpolation, in which of the labels around a point the one with the largest share wins.",
    "Before: by the affine maps of the transform alone, or as the headers have the images where there are none.",
    "A pair's structures are those that both of its label maps have, the same before and after and by any method. Its "
    "mean Dice is over these; of distances it is the median, in which infinite ones are the worst.",
    "The sums of whole pairs take the structures of a pair together and then the pairs; those of structures take the "
    "pairs together and then the structures. Where pairs do not have the same structures, both means differ.",
    "A pair that failed counts with the worst values: Dice 0, an infinite distance, landmarks infinitely far apart. "
    "Its other figures are not known: their means are over the pairs that have them, whose number (n) is beside them.",
    "Methods are compared pair by pair in what is told of whole pairs; structures are shown, not tested one by one.",
    "Pairs that share an image are not independent of one another: p values and intervals over them are too sure.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A pair in the gallery: pictures and words of each method.

    Args:
        number: of the pair.
        id: of the pair.
        methods: what each made of it.
    """

    number: int
    id: str
    methods: tuple[tuple[Model, str, Layers], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Registrations:
    """All that a page has only where it is about registrations.

    Args:
        whole: the same methods, in means over structures and figures of whole pairs.
        comparison: of methods in these; None where there is one.
        groups: pairs to look at, and what they have in common.
        notes: what could not be shown.
    """

    whole: Subjects
    comparison: Comparison | None
    groups: tuple[tuple[str, tuple[Card, ...]], ...]
    notes: tuple[str, ...]

    @property
    def layers(self) -> dict[str, str]:
        """What pictures show, by name."""
        return LAYERS


def gather(about: Subjects, progress: Progress) -> Registrations | None:
    """What there is of registrations; None where the page is about segmentations.

    Raises:
        DataError: if reports of several methods cannot be compared.
    """
    if not any(model.report.figures for model in about.models):
        return None
    known = {name for model in about.models for name in model.report.figures}
    check_alike([model.report for model in about.models])
    reports = [model.report.whole([name for name in COMPARED if name in known]) for model in about.models]
    whole = subjects(reports)
    groups, notes = _gallery(about, whole, progress)
    return Registrations(
        whole=whole,
        comparison=compare(reports, seed=reports[0].seed) if len(reports) > 1 else None,
        groups=groups,
        notes=notes,
    )


def _gallery(
    about: Subjects, whole: Subjects, progress: Progress
) -> tuple[tuple[tuple[str, tuple[Card, ...]], ...], tuple[str, ...]]:
    """Worst, median and best pairs, drawn for each method whose files are at hand."""
    chosen = choose(order(about))
    if about.several and len(chosen) > 1:
        chosen = [(name, cases[:FEW] if name.startswith("Worst") else cases[-1:]) for name, cases in chosen]
    at_hand = [(model, _pairs(model.report)) for model in whole.models]
    wanted = [
        (model, there[case])
        for _, cases in chosen
        for case in cases
        for model, there in at_hand
        if case in there and not _is_before(model.report)
    ]
    if not wanted:
        return (), ("No pictures: images and transforms are not where the report says any more.",)
    voxels = largest_voxels([pair.fixed.image for _, pair in wanted])
    engine = suited(len(wanted), case_bytes=VOXEL_BYTES * voxels)
    from medmamba.evaluation.page.deformed import draw  # with torch, which pages about segmentations do without

    pairs = [pair for _, pair in wanted]
    outcomes = map_cases(draw, pairs, engine, title="Drawing pairs", progress=progress)
    drawn: dict[str, list[tuple[Model, str, Layers]]] = {}
    for (model, pair), outcome in zip(wanted, outcomes, strict=True):
        if not isinstance(outcome, Failure):
            drawn.setdefault(pair.id, []).append((model, value_words(model, pair.id), outcome))
    lost = sum(isinstance(outcome, Failure) for outcome in outcomes)
    notes = (f"{count(lost, 'picture')} could not be drawn, as files are not what they were.",) if lost else ()
    return tuple(
        (
            name.replace("cases", "pairs"),
            tuple(Card(number=about.numbers[c], id=c, methods=tuple(drawn[c])) for c in cases if c in drawn),
        )
        for name, cases in chosen
    ), notes


def _is_before(report: Report) -> bool:
    """Whether it is of pairs before their registration: pictures of that are in those of the registration."""
    return set(report.figures) <= {"tre"}


def _pairs(report: Report) -> dict[str, RegisteredPair]:
    folder = report.origin.prediction
    if folder is None or not is_registered(folder):
        return {}
    try:
        return {pair.id: pair for pair in read_pairs(folder)[0]}
    except (DataError, OSError) as error:
        log.info("no pictures: %s", in_words(error))
        return {}


def sections(about: Subjects, found: Registrations) -> Iterable[Section]:
    """What stands in the place of the sections about segmentations."""
    whole = found.whole
    sums = [tables.summary_table(whole)]
    if about.metrics != whole.metrics and about.labels != whole.labels:
        sums.append(replace(tables.summary_table(about), id="sums-structures", caption=SUMS_OF_STRUCTURES))
    sums[0] = replace(sums[0], caption="Whole pairs: the structures of each pair together, then over pairs")
    yield Section(
        id="results",
        title="Results",
        words=("Every number with whose definition it is; the methods below say what each means.",),
        tables=tuple(sums),
    )
    yield Section(
        id="pairs",
        title="Pairs",
        words=(
            "Dice is the mean over a pair's structures, a distance the median. In red: pairs that failed, that fold in "
            f"more than {MUCH_FOLDING:g} % of the voxels, or whose field is next to zero.",
        ),
        tables=(_pair_table(about),),
    )
    words: tuple[str, ...] = (
        "Points are pairs and lead to their rows in the table of pairs; boxes are quartiles, diamonds means with their "
        "95 % interval.",
    )
    own = about.labels != whole.labels
    shown = _largest(about)
    if len(shown) < len(about.labels):
        words += (f"The {len(shown)} largest of {len(about.labels)} structures; the table of structures has all.",)
    drawn = [*(figures.distributions(replace(about, labels=shown)) if own else []), *_own_distributions(whole, own)]
    yield Section(id="distributions", title="Before and after", words=words, figures=tuple(drawn))
    if own:
        table = tables.case_table(about)
        heads = tuple(
            replace(head, text={"case": "pair", "predicted (ml)": "moved (ml)", "reference (ml)": "fixed (ml)"}.get(
                head.text, head.text)) for head in table.heads
        )  # fmt: skip
        lines = tuple(replace(line, anchor="") for line in table.lines)
        yield Section(
            id="structures",
            title="Structures",
            tables=(replace(table, caption="Structures", heads=heads, lines=lines),),
        )


def _largest(about: Subjects) -> tuple[str, ...]:
    """The structures of most volume in the fixed label maps, in their order; all where they are few."""
    volumes = dict.fromkeys(about.labels, 0.0)
    for _, score in about.models[0].scores():
        volumes[score.label] += score.reference_ml or 0.0
    kept = sorted(about.labels, key=lambda label: -volumes[label])[:MOST_STRUCTURES]
    return tuple(label for label in about.labels if label in kept)


def _own_distributions(whole: Subjects, own: bool) -> list[Figure]:
    """Those of the figures of whole pairs that some pair has."""
    names = [name for name in whole.metrics if metric(name).of_pair or not own]
    known = [
        name
        for name in names
        if any(
            not math.isnan(value) for model in whole.models for value in model.values(name, whole.labels[0]).values()
        )
    ]
    return figures.distributions(replace(whole, metrics=tuple(known)))


def _pair_table(about: Subjects) -> Table:
    """One line for each pair and method."""
    reports = [model.report.whole(model.report.figures) for model in about.models]
    names = tuple(dict.fromkeys(name for report in reports for name in report.metrics))
    heads = (
        Head(text="pair"),
        *((Head(text="method", choices=True),) if about.several else ()),
        *map(tables.metric_head, names),
        Head(text="status", choices=True),
        Head(text="notes", droppable=True),
    )
    lines: list[Line] = []
    for pair, number in about.numbers.items():
        first = True
        for model, report in zip(about.models, reports, strict=True):
            case = next((case for case in report.cases if case.id == pair), None)
            if case is None:
                continue
            values = dict(zip(report.metrics, case.scores[0].values, strict=True)) if case.scores else {}
            doubtful = case.status != "scored" or values.get("folding", 0.0) > MUCH_FOLDING or bool(case.notes)
            cells = (
                pair,
                *((tables.model_mark(model),) if about.several else ()),
                *(value_text(values.get(name, math.nan), name) for name in names),
                tables.STATUS[case.status],
                "; ".join(without_paths(note, model.report) for note in case.notes),
            )
            lines.append(Line(cells=cells, anchor=anchor(number) if first else "", kind="bad" if doubtful else ""))
            first = False
    return tables.telling(Table(id="pairs-table", caption="Pairs", heads=heads, lines=tuple(lines)))


def sentences(about: Subjects, model: Model) -> Iterator[Markup]:
    """What is said of a method beside its Dice: whether its fields are plausible, and how long it took."""
    cases = [case for case in model.report.cases if "folding" in case.figures]
    if not cases:
        return
    folding = np.array([case.figures["folding"] for case in cases])
    much = [about.link(case.id) for case in cases if case.figures["folding"] > MUCH_FOLDING]
    if much:
        yield say("<strong>{} in more than {} % of the voxels</strong>: {}.",
                  "1 pair folds" if len(much) == 1 else f"{len(much)} pairs fold", f"{MUCH_FOLDING:g}",
                  listed(much, 5))  # fmt: skip
    else:
        yield say("Folding: {} % of the voxels in the mean, {} % at most ({}).",
                  value_text(float(folding.mean()), "folding"), value_text(float(folding.max()), "folding"),
                  about.link(cases[int(folding.argmax())].id))  # fmt: skip
    sums = {summary.metric: summary for summary in model.report.whole(model.report.figures).summaries}
    told = [
        _mean_words(sums[name])
        for name in ("sd_log_jacobian", "inverse_consistency", "tre", "seconds", "memory")
        if name in sums and sums[name].finite
    ]
    if told:
        yield say("Means over pairs: {}.", listed(told, len(told)))


def _mean_words(summary: Summary) -> str:
    """A mean with its unit and, where it is not over all pairs, over how many; of the finite values where some are."""
    row, name = metric(summary.metric), summary.metric
    words = f"{row.title} {value_text(summary.finite_mean, name)} {row.unit}".rstrip()
    over = "" if summary.finite == summary.values else f" over {summary.finite} of {summary.values} pairs"
    failed = f" (infinite in {summary.infinite} that failed)" if summary.infinite else ""
    return words + over + failed


def comparison_section(found: Registrations) -> Section | None:
    """Methods side by side, pair by pair."""
    if found.comparison is None:
        return None
    made = versus.section(found.whole, found.comparison)
    return replace(made, words=(*made.words, *METHODS[-2:]))


def named(reports: Sequence[Report]) -> str:
    """What such a page is called."""
    names = [report.name for report in reports if report.name and not _is_before(report)]
    return f"Registration by {listed(names, 4).unescape()}" if names else "Registration report"
