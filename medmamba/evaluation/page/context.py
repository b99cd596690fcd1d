"""What the template gets: the whole page as plain values, made from reports and what is shown of their cases."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from markupsafe import Markup

from medmamba.errors import UsageError
from medmamba.evaluation import agreement, breakdown, subgroups
from medmamba.evaluation.comparison import Comparison
from medmamba.evaluation.metrics import metric
from medmamba.evaluation.page import figures, films, registrations, tables, versus
from medmamba.evaluation.page.films import Films
from medmamba.evaluation.page.gallery import Gallery, Shown
from medmamba.evaluation.page.parts import Figure, Head, Model, Section, Subjects, count, listed, without_paths
from medmamba.evaluation.page.pictures import GHOST, PAINTS
from medmamba.evaluation.page.registrations import Registrations
from medmamba.evaluation.page.scene import FALSE, MISSED, OTHER, RIGHT
from medmamba.evaluation.page.summary import sentences, value_words
from medmamba.evaluation.page.viewer import Bundle
from medmamba.evaluation.report import FRAMES_FILE, PAIRS_FILE, REPORT_FILES, SUMS

#: What the colours of pictures are called, and what they mean.
KINDS = (
    (RIGHT, "right", "in prediction and reference"),
    (MISSED, "missed", "in the reference alone (false negative)"),
    (FALSE, "false", "in the prediction alone (false positive)"),
    (OTHER, "other label", "in both, under different labels"),
)
#: How pictures are to be read.
_DISPLAY = "Radiological display: the patient's right is on the left of axial and coronal views."
_CHOSEN = "Worst, median and best are by the mean over labels of the first metric, over all models together."
SEGMENTED = (
    f"{_DISPLAY} Each view shows the slice in which most voxels are wrong; slices follow the axes of the file.",
    _CHOSEN,
)
REGISTERED = (
    f"{_DISPLAY} Slices follow the axes of the fixed image, through the middle of what counts of it.",
    _CHOSEN,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A case in the gallery: what is said of it by each model, and its montages."""

    number: int
    id: str
    shown: Shown
    models: tuple[tuple[Model, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Everything on the page, in order."""

    title: str
    date: str
    version: str
    facts: tuple[tuple[str, str | Markup], ...]
    summary: tuple[tuple[Model, tuple[Markup, ...]], ...]
    group_words: tuple[Markup, ...]
    verdict: tuple[Markup, ...]
    forests: tuple[Figure, ...]
    legend: Markup
    sections: tuple[Section, ...]
    pictures: tuple[tuple[str, tuple[Picture, ...]], ...]
    picture_notes: tuple[str, ...]
    picture_ground: str
    kinds: tuple[tuple[str, str, str], ...]
    comparison: Section | None
    metric_heads: tuple[tuple[str, Head], ...]
    methods: tuple[tuple[str, tuple[str | Markup, ...]], ...]
    provenance: tuple[tuple[Model, tuple[tuple[str, str], ...]], ...]
    niivue: Bundle | None
    kind: str
    registrations: Registrations | None
    films: Films | None
    script_data: dict[str, Any] = field(repr=False)
    volumes: tuple[tuple[int, dict[str, Any]], ...] = field(repr=False)


def page(
    about: Subjects,
    gallery: Gallery,
    *,
    title: str,
    comparison: Comparison | None,
    groups: tuple[Section | None, list[Markup]],
    niivue: Bundle | None,
    registered: Registrations | None = None,
    filmed: Films | None = None,
) -> Page:
    """Put the page together.

    Args:
        about: models and cases.
        gallery: what is shown of cases.
        title: of the page.
        comparison: of the models; None where there is one.
        groups: the section on groups of cases, and what to say of them at the top.
        niivue: for the viewer; None to do without.
        registered: what there is of registrations, whose comparison stands for that of label maps.
        filmed: what there is of films, which stands for the gallery.
    """
    if registered:
        return _of_registrations(about, registered, title=title, groups=groups)
    volumes = tuple(
        (about.numbers[case], each.volumes.to_json()) for case, each in gallery.cases.items() if each.volumes
    )
    grouped, group_words = groups
    return Page(
        title=title or _title(about),
        date=_date(),
        version=version("medmamba"),
        facts=tuple(_facts(about, cases="films" if filmed else "cases")),
        summary=tuple((model, tuple(_sentences(about, model, filmed))) for model in about.models),
        group_words=tuple(group_words),
        verdict=tuple(versus.verdict(about, comparison)) if comparison else (),
        forests=tuple(figures.forests(about)),
        legend=figures.legend(about),
        sections=(*_sections(about), *([grouped] if grouped else [])),
        pictures=_pictures(about, gallery),
        picture_notes=filmed.notes if filmed else gallery.notes,
        picture_ground=_ground(gallery.channel),
        kinds=tuple(_kinds(filmed is not None or gallery.others)),
        comparison=versus.section(about, comparison) if comparison else None,
        metric_heads=tuple((name, tables.metric_head(name)) for name in about.metrics),
        methods=(
            *([("Films", films.METHODS)] if filmed else []),
            *_methods(about, comparison, grouped, pictures=films.PICTURES if filmed else SEGMENTED),
        ),
        provenance=tuple((model, tuple(_provenance(model))) for model in about.models),
        niivue=niivue if volumes else None,
        kind="Evaluation report",
        registrations=None,
        films=filmed,
        script_data=_script_data(about, [number for number, _ in volumes]),
        volumes=volumes,
    )


def _of_registrations(
    about: Subjects, registered: Registrations, *, title: str, groups: tuple[Section | None, list[Markup]]
) -> Page:
    grouped, group_words = groups
    whole, comparison = registered.whole, registered.comparison
    known = dict.fromkeys((*about.metrics, *(name for model in about.models for name in model.report.figures)))
    summary = tuple(
        (model, (*sentences(about, model), *registrations.sentences(about, model))) for model in about.models
    )
    return Page(
        title=title or registrations.named([model.report for model in about.models]),
        date=_date(),
        version=version("medmamba"),
        facts=tuple(_facts(about, "method", "pairs")),
        summary=summary,
        group_words=tuple(group_words),
        verdict=tuple(versus.verdict(whole, comparison)) if comparison else (),
        forests=tuple(figures.forests(whole)),
        legend=figures.legend(about),
        sections=(*registrations.sections(about, registered), *([grouped] if grouped else [])),
        pictures=(),
        picture_notes=registered.notes,
        picture_ground="",
        kinds=(),
        comparison=registrations.comparison_section(registered),
        metric_heads=tuple((name, tables.metric_head(name)) for name in known),
        methods=(("Registrations", registrations.METHODS), *_methods(about, comparison, grouped, pictures=REGISTERED)),
        provenance=tuple((model, tuple(_provenance(model))) for model in about.models),
        niivue=None,
        kind="Registration report",
        registrations=registered,
        films=None,
        script_data=_script_data(about, []),
        volumes=(),
    )


def _date() -> str:
    """Today, or the day that SOURCE_DATE_EPOCH says, by reproducible-builds.org, for pages equal to the byte."""
    told = os.environ.get("SOURCE_DATE_EPOCH", "")
    try:
        day = datetime.fromtimestamp(int(told), UTC) if told else datetime.now(UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(
            f"SOURCE_DATE_EPOCH must be a number of seconds since 1970, got {told!r}; set it so, or unset it"
        ) from error
    return f"{day:%Y-%m-%d}"


def _title(about: Subjects) -> str:
    names = [model.name for model in about.models]
    if not about.named:
        return "Evaluation report"
    if about.several:
        return f"{Markup(listed(names, 4)).unescape()} compared"
    return f"Evaluation of {names[0]}"


def _script_data(about: Subjects, viewed: list[int]) -> dict[str, Any]:
    """What the page's script works on; cases, labels and models by number."""
    labels = about.models[0].report.labels
    known = labels.allowed_values
    places = {label.name: [known.index(value) for value in label.values] for label in labels.foreground}
    return {
        "cases": list(about.numbers),
        "labels": list(about.labels),
        "models": [model.name for model in about.models],
        "lesions": tables.lesion_rows(about),
        "values": [places.get(name, []) for name in about.labels],
        "ignored": -1 if labels.ignore is None else known.index(labels.ignore),
        "paints": {str(kind): [*colour, opacity] for kind, (colour, opacity) in PAINTS.items()},
        "ghost": GHOST,
        "viewed": viewed,
    }


def _ground(channel: str | None) -> str:
    """What pictures show below the masks."""
    if channel is None:
        return "without image (faint: the reference in other slices)"
    return f"on the image ({channel})" if channel else "on the image"


def _sentences(about: Subjects, model: Model, filmed: Films | None) -> Iterable[Markup]:
    yield from sentences(about, model)
    if filmed:
        yield from films.sentences(model)


def _kinds(others: bool) -> Iterable[tuple[str, str, str]]:
    for kind, name, words in KINDS:
        if kind != OTHER or others:
            colour, opacity = PAINTS[kind]
            yield name, words, _swatch("#{:02x}{:02x}{:02x}".format(*colour), opacity)


def _swatch(colour: str, opacity: float) -> str:
    """A colour as pictures show it: an outline, and inside it lies over shades of grey."""
    return (
        f"border-color:{colour};background:linear-gradient({colour}{round(255 * opacity):02x} 0 0),rgb{(GHOST[1],) * 3}"
    )


def _facts(about: Subjects, models: str = "model", cases: str = "cases") -> Iterable[tuple[str, str | Markup]]:
    names = [tables.model_mark(model) for model in about.models]
    if about.named:
        yield models if len(names) == 1 else f"{models}s", listed(names, len(names))
    yield cases, str(len(about.numbers))
    yield "labels", listed(about.labels, 8)
    yield "metrics", listed([metric(name).title for name in about.metrics], 6)


def _sections(about: Subjects) -> Iterable[Section]:
    yield Section(
        id="results",
        title="Results",
        words=("Every number with whose definition it is; the methods below say what each means.",),
        tables=(tables.summary_table(about),),
    )
    yield Section(id="cases", title="Cases", tables=(tables.case_table(about),))
    if counts := tables.lesion_table(about):
        words = (
            "A lesion is a connected component (26 neighbours) of a mask. One of the reference is found if it shares a "
            "voxel with the prediction, and missed if not; one of the prediction is false if it shares none with the "
            "reference. Dice is with all components of the prediction that it touches.",
        )
        found = tuple(figures.detection(about))
        yield Section(id="lesions", title="Lesions", words=words, tables=(counts,), figures=found)
    words = (
        "Points are cases and lead to their rows in the table of cases, which holds the same values; boxes are "
        "quartiles, diamonds means with their 95 % interval.",
    )
    yield Section(id="distributions", title="Distributions", words=words, figures=tuple(figures.distributions(about)))
    if plots := tuple(figures.volumes(about)):
        words = ("Each point is a case: above the dashed line the prediction is larger than the reference.",)
        yield Section(id="volumes", title="Volume agreement", words=words, figures=plots)
    if plots := tuple(figures.reliability(about)):
        yield Section(id="calibration", title="Calibration", figures=plots)


def _pictures(about: Subjects, gallery: Gallery) -> tuple[tuple[str, tuple[Picture, ...]], ...]:
    return tuple(
        (
            name,
            tuple(
                Picture(
                    number=about.numbers[case],
                    id=case,
                    shown=gallery.cases[case],
                    models=tuple((model, value_words(model, case)) for model in about.models),
                )
                for case in cases
            ),
        )
        for name, cases in gallery.groups
    )


def _methods(
    about: Subjects, comparison: Comparison | None, grouped: Section | None, pictures: tuple[str, ...] = SEGMENTED
) -> Iterable[tuple[str, tuple[str | Markup, ...]]]:
    policies = [model.report.policy.sentences for model in about.models]
    if len(set(policies)) == 1:
        yield "What becomes of values that are no plain numbers", policies[0]
    else:
        for model, words in zip(about.models, policies, strict=True):
            yield f"What becomes of values that are no plain numbers: {model.name}", words
    deciding = [metric(name).title for name in about.metrics if metric(name).own_policy]
    if deciding:
        yield "Metrics that decide this themselves", (listed(deciding, len(deciding)),)
    seeds = sorted({model.report.seed for model in about.models})
    yield "Statistics", (*SUMS, f"Seed of the bootstrap: {', '.join(map(str, seeds))}.")
    if pictures is SEGMENTED:
        yield "Volume agreement", agreement.METHODS
    if grouped:
        yield "Groups of cases and sizes of lesions", (*subgroups.METHODS, *breakdown.METHODS)
    if comparison:
        yield "Comparison of models", comparison.methods
    yield "Pictures", pictures
    own = PAIRS_FILE if pictures is REGISTERED else FRAMES_FILE if pictures is films.PICTURES else REPORT_FILES[2]
    files = (*REPORT_FILES[:2], own)
    yield (
        "Files beside this page",
        (
            "Numbers of this page in full precision, with p values raw and adjusted, effects, intervals, ranks, groups "
            "and agreement of volumes: in the files named like it and ending in .json and .csv.",
            f"Scores of single cases in full precision: in {listed(files)} of each report.",
        ),
    )


def _provenance(model: Model) -> Iterable[tuple[str, str]]:
    report, origin = model.report, model.report.origin
    if origin.model:
        yield "model", without_paths(origin.model, report)
    if origin.plan_digest:
        yield "plan digest", origin.plan_digest
    yield "cases scored", f"{len(report.table)} of {len(report.cases)}"
    left_out = [case.id for case in report.cases if not case.scores]
    if left_out:
        yield "left out", str(listed(left_out, 10))
    if report.extra_predictions:
        yield "predictions without a reference", f"{count(len(report.extra_predictions), 'file')}, not scored"
    yield from origin.versions.items()
