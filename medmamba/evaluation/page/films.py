"""What the page shows of films: curves over their frames, and a player of those that are worth a look."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from markupsafe import Markup

from medmamba.case import Case
from medmamba.errors import DataError
from medmamba.evaluation.film_files import FilmFiles, dataset_of_films, films_of, match_films
from medmamba.evaluation.page import plots
from medmamba.evaluation.page.gallery import choose
from medmamba.evaluation.page.parts import Figure, Model, Subjects, count
from medmamba.evaluation.page.player import COLOURS, Player, Sight, pack
from medmamba.evaluation.page.summary import order, value_words
from medmamba.evaluation.scores import Film, FrameScores
from medmamba.files import in_words
from medmamba.progress import Progress

log = logging.getLogger(__name__)

#: What players may take together.
PLAYER_BYTES = 24_000_000
#: The style sheet tells so many lines apart by colour; more are dashed.
LINES = 6
#: What is drawn over the frames of a film: column, name of the axis, and whether it is a share.
CURVES = (
    ("dice", "Dice", True),
    ("boundary_f", "boundary F", True),
    ("prediction_px", "area (pixels)", False),
)
#: Reads what there is to be seen of a clip, by its id; None where nothing is at hand.
Looking = Callable[[str], Sight | None]
METHODS = (
    "A frame of the prediction belongs to the frame of the reference that bears its number. Frames without a reference "
    "mask are shown and not scored; frames whose mask is empty are scored.",
    "Clips are scored first, then summed up: a long clip counts as much as a short one.",
    "Flicker is held against the reference's own change: where that moves, what moves with it is no flicker, and what "
    "moves elsewhere is, also where an outline is a little off.",
)
PICTURES = (
    "Pictures are made smaller where they are large, and masks with them by the nearest pixel; scores are of the film.",
    "Worst, median and best are by the mean over labels of the first metric, over all models together.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A film in the gallery.

    Args:
        number: of the clip.
        id: of the clip.
        models: what is said of it by each model.
        player: None where the masks are not at hand, or too large.
        curves: over its frames.
    """

    number: int
    id: str
    models: tuple[tuple[Model, str], ...]
    player: Player | None
    curves: tuple[Figure, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Films:
    """All that a page has only where it is about films.

    Args:
        groups: clips to look at, and what they have in common.
        colours: of labels in players.
        notes: what could not be shown.
    """

    groups: tuple[tuple[str, tuple[Card, ...]], ...]
    colours: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def gather(about: Subjects, look: Looking | None, progress: Progress) -> Films | None:
    """What there is to be shown of films; None where the page is about single images."""
    if not any(model.report.films for model in about.models):
        return None
    films = {case.id: case.film for model in about.models for case in model.report.cases if case.film}
    chosen = [(name.replace("cases", "films"), [clip for clip in clips if clip in films])
              for name, clips in choose(order(about))]  # fmt: skip
    wanted = [clip for _, clips in chosen for clip in clips]
    look = look or _at_hand(about)
    cards: dict[str, Card] = {}
    notes: list[str] = []
    for clip in progress(wanted, title="Drawing films", total=len(wanted)):
        player, note = _player(about, films[clip], clip, look, PLAYER_BYTES // len(wanted))
        notes += [note] if note else []
        cards[clip] = Card(
            number=about.numbers[clip],
            id=clip,
            models=tuple((model, value_words(model, clip)) for model in about.models),
            player=player,
            curves=tuple(_curves(about, clip, films[clip])),
        )
    if len(films) > len(wanted):
        notes.insert(
            0, f"{len(wanted)} of {count(len(films), 'film')} are shown; frames.csv beside each report has all."
        )
    return Films(
        groups=tuple((name, tuple(cards[clip] for clip in clips)) for name, clips in chosen if clips),
        colours=tuple((name, "#{:02x}{:02x}{:02x}".format(*COLOURS[number % len(COLOURS)]))
                      for number, name in enumerate(about.labels)),
        notes=tuple(dict.fromkeys(notes)),
    )  # fmt: skip


def _at_hand(about: Subjects) -> Looking | None:
    """Looks at the files that the reports were made of; None where they are not where these say any more."""
    origins = [model.report.origin for model in about.models]
    reference = next((each.reference for each in origins if each.reference and films_of(each.reference)), None)
    if reference is None:
        return None
    try:
        cases = dataset_of_films(reference).training
        predicted = [_predicted(each.prediction, cases) for each in origins]
    except (DataError, OSError) as error:
        log.info("no players: %s", in_words(error))
        return None
    files, references = FilmFiles.of(cases), {case.id: case.label for case in cases}

    def look(clip: str) -> Sight | None:
        label = references.get(clip)
        if label is None:
            return None
        ours = [each.get(clip) for each in predicted]
        return Sight(
            pictures=partial(files.pictures, clip),
            reference=files(clip, label).values,
            predictions=tuple(None if path is None else files(clip, path).values for path in ours),
        )

    return look


def _predicted(folder: Path | None, cases: Sequence[Case]) -> dict[str, Path | None]:
    """The masks of each film in a folder of predictions; none where that is not known."""
    if folder is None:
        return {}
    return {pair.id: pair.prediction for pair in match_films(folder, cases).pairs}


def _scores(model: Model, clip: str, labels: Sequence[str]) -> tuple[FrameScores | None, ...]:
    """Of each label, where the model has scores of the clip."""
    case = model.cases.get(clip)
    known = {score.label: score.frames for score in case.scores} if case else {}
    return tuple(known.get(label) for label in labels)


def _player(about: Subjects, film: Film, clip: str, look: Looking | None, most_bytes: int) -> tuple[Player | None, str]:
    """A clip's player, or why there is none."""
    try:
        sight = look(clip) if look else None
    except (DataError, OSError) as error:
        return None, f"Some films have no player, as their files cannot be read any more: {in_words(error)}."
    if sight is None:
        return None, "No player: the masks that the report was made of are not at hand."
    scores = [_scores(model, clip, about.labels) for model in about.models]
    try:
        player = pack(sight, film, about.models[0].report.labels, scores, most_bytes)
    except ValueError:
        return None, "Some films have no player: their files are not those that were scored any more."
    if player is None:
        return None, "Some films are too large for a player on a page that is to be passed around."
    if len(player.numbers) < player.frames:
        return player, f"Of long films {len(player.numbers)} frames around the worst one can be stepped through."
    return player, ""


def _curves(about: Subjects, clip: str, film: Film) -> Iterable[Figure]:
    """One for each of `CURVES`: a line for each label, or for each model where there are several."""
    places = film.times_s or film.numbers
    across = "time (s)" if film.times_s else "number of the frame"
    for name, up, share in CURVES:
        lines, words = _lines(about, clip, name)
        if any(value is not None for _, values in lines for value in values):
            svg = plots.timeline(lines, places, title=f"{up} of {clip}", across=across, up=up, share=share)
            yield Figure(svg=svg, caption=words)


def _lines(about: Subjects, clip: str, name: str) -> tuple[list[tuple[str, list[float | None]]], Markup]:
    """Lines of a plot, and their legend."""
    area = name == "prediction_px"
    sets = {
        (f"c{model.colour}", model.name): [each for each in _scores(model, clip, about.labels) if each]
        for model in about.models
    }
    if not about.several:
        sets = {
            (f"c{number % LINES}{' dashed' if number >= LINES else ''}", label): [each]
            for number, (label, each) in enumerate(
                zip(about.labels, _scores(about.models[0], clip, about.labels), strict=True)
            )
            if each and any(any(area or 0 for area in areas) for areas in (each.prediction_px, each.reference_px))
        }
    lines = [(kind, _together(scores, name)) for (kind, _), scores in sets.items() if scores]
    words = Markup(", ").join(
        Markup('<span class="model {}">{}</span>').format(kind.split()[0], text) for kind, text in sets
    )
    if about.several:
        words += " (all labels together)" if area else " (mean over labels)"
    if area:
        there = {} if about.several else sets
        same = next((scores for scores in sets.values() if scores), [])  # the reference of all models is one
        lines += [(f"{kind} there", _together(scores, "reference_px")) for (kind, _), scores in there.items()]
        lines += [("there", _together(same, "reference_px"))] if about.several and same else []
        words += "; dotted: the reference"
    return lines, words


def _together(scores: Sequence[FrameScores], name: str) -> list[float | None]:
    """Of shares the mean over labels, of areas the sum."""
    rows = [[value for value in values if value is not None]
            for values in zip(*(getattr(each, name) for each in scores), strict=True)]  # fmt: skip
    if name.endswith("_px"):
        return [math.fsum(known) if known else None for known in rows]
    return [math.fsum(known) / len(known) if known else None for known in rows]


def sentences(model: Model) -> Iterable[Markup]:
    """How many frames were scored."""
    films = [case for case in model.report.cases if case.film and case.scores and case.scores[0].frames]
    if not films:
        return
    frames = [case.scores[0].frames for case in films]
    scored = sum(area is not None for each in frames if each for area in each.reference_px)
    whole = sum(len(each.dice) for each in frames if each)
    share = count(scored, "frame") if scored == whole else f"{scored} of {count(whole, 'frame')}"
    rest = "" if scored == whole else "; the others have no reference mask"
    yield Markup("Scored: {} in {}{}.").format(share, count(len(films), "film"), rest)
