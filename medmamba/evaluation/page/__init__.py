"""The report as one page: self-contained, without network, for the screen and for paper."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from medmamba.case import Dataset
from medmamba.evaluation.comparison import compare
from medmamba.evaluation.page import context, films, numbers, registrations
from medmamba.evaluation.page import groups as grouping
from medmamba.evaluation.page.gallery import Gallery, gather
from medmamba.evaluation.page.parts import subjects
from medmamba.evaluation.page.viewer import bundle
from medmamba.evaluation.report import Report
from medmamba.evaluation.subgroups import Subgroups
from medmamba.files import write_bytes
from medmamba.progress import Progress, silent

#: By what a page is known as ours; in its template.
GENERATOR = '<meta name="generator" content="medmamba '


def write(
    reports: Sequence[Report],
    path: Path,
    *,
    images: Dataset | Path | None = None,
    subgroups: Subgroups | None = None,
    title: str = "",
    viewer: Literal["auto", "slices", "3d"] = "auto",
    look: films.Looking | None = None,
    progress: Progress = silent,
) -> Path:
    """Write reports as a page; several are compared.

    Beside it, named like it and ending in .json and .csv, are its numbers in full precision. The page holds ids of
    cases but no path, host or user. Pictures are made where the masks still are where the reports
    say; what could not be shown is told.

    Args:
        reports: of the same cases; the first one's labels say what the values in the masks mean.
        path: HTML file to write.
        images: data set or folder of what was segmented, to lie under the masks.
        subgroups: a table that says which cases belong together.
        title: of the page.
        viewer: ``auto`` embeds NiiVue where the extra ``medmamba[viewer]`` is installed, for a view in 3D; ``slices``
            leaves it out, which saves 2 MB; ``3d`` demands it.
        look: of films, reads what there is to be seen of a clip; None to read the files that the reports were made of.
        progress: told after each case that is drawn.

    Returns:
        ``path``.

    Raises:
        ValueError: if there is no report.
        DataError: if reports of several models cannot be compared, the table has none of the cases, or ``images`` is
            no data set and no folder of images.
        MachineError: if NiiVue is demanded and not installed.
        OSError: if the page cannot be written.
    """
    if not reports:
        raise ValueError("a page needs at least one report")
    engine = bundle(viewer)
    about = subjects(reports)
    named = [model.report for model in about.models]
    registered = registrations.gather(about, progress)
    comparison = registered.comparison if registered else None
    if about.several and not registered:
        comparison = compare(named, seed=named[0].seed)
    grouped, words, broken_down = grouping.section(
        about, subgroups
    )  # before what takes long, as it may refuse the table
    filmed = films.gather(about, look, progress)
    gallery = Gallery(cases={}) if registered or filmed else gather(about, images, progress)
    made = context.page(
        about,
        gallery,
        title=title,
        comparison=comparison,
        groups=(grouped, words),
        niivue=engine,
        registered=registered,
        filmed=filmed,
    )
    whole = registered.whole.models if registered else ()
    numbers.write(about, path, comparison=comparison, groups=broken_down, whole=whole)
    # Names of files may hold what is no text: it is shown as an escape, and cannot hide.
    write_bytes(_render(made).encode("utf-8", "backslashreplace"), path)
    return path


def is_page(path: Path) -> bool:
    """Whether a file is a page that `write` made, which another may replace."""
    with path.open("rb") as file:
        return GENERATOR.encode() in file.read(4096)


def _render(made: context.Page) -> str:
    environment = Environment(
        loader=PackageLoader("medmamba.evaluation.page"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    parts = resources.files("medmamba.evaluation.page") / "templates"
    shown = "layers.js" if made.registrations else "player.js" if made.films else "viewer.js"
    names = ("style.css", "page.js", shown)
    style, *scripts = (Markup((parts / name).read_text("utf-8")) for name in names)
    return environment.get_template("report.html.j2").render(page=made, style=style, scripts=scripts)
