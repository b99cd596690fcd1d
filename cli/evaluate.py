"""``medmamba evaluate``: how good segmentations are."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from medmamba.cli._console import Exit, note, say, track
from medmamba.cli._scores import TITLE, VIEWER, Viewer, check_page, complain, show_pairs, show_report, write_page
from medmamba.errors import UsageError
from medmamba.evaluation.words import GROUP_WORDS, WORDS

if TYPE_CHECKING:
    from medmamba.evaluation.matching import Matches
    from medmamba.evaluation.report import Report
    from medmamba.evaluation.scores import Policy

#: Where the help lists options about one thing.
_POLICY, _PAGE = "What becomes of values that are no plain numbers", "A page for people"

#: The end of the help: what can be measured.
MEASURES = "\n".join(
    (
        "Metrics (and surface Dice at any other tolerance, such as nsd_0.5mm):",
        "",
        *(f"- {name}: {words}" for name, words in WORDS.items()),
        "",
        "Groups of metrics:",
        "",
        *(f"- {name}: {words}" for name, words in GROUP_WORDS.items()),
    )
)


def evaluate(
    prediction: Annotated[
        Path,
        typer.Argument(
            exists=True,
            help="Segmentation to judge, or a folder of them, of films as well; or a folder that `medmamba register` "
            "wrote.",
            show_default=False,
        ),
    ],
    reference: Annotated[
        Path | None,
        typer.Argument(
            exists=True,
            help="Reference segmentation, a folder of them, or a data set, whose training labels are taken; of films a "
            "data set. None for registrations, whose label maps their record names.",
            show_default=False,
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels",
            "-l",
            metavar="DATASET|EDITION",
            help="Data set or dataset.json with names, regions and ignore value of the labels, or an edition of BraTS "
            "such as brats2023-gli.",
            show_default="the dataset.json beside the references or predictions, else the edition of a challenge whose "
            "metrics are asked for, else the names in DICOM SEG where all agree, else every value in the references",
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            help="What to measure, a metric or a group of the lists below; repeat for several.",
            show_default="standard, and of BraTS what the challenge of that edition ranks by",
        ),
    ] = None,
    least_ml: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="ML",
            help="Of registrations, leave out structures of less volume than this in the mean of the fixed label maps.",
        ),
    ] = 0.0,
    empty: Annotated[
        Literal["undefined", "perfect"],
        typer.Option(
            help="Both masks empty: the value is left out of every mean and counted (undefined, as in nnU-Net), or the "
            "best there is (perfect, as in BraTS).",
            rich_help_panel=_POLICY,
        ),
    ] = "undefined",
    missing: Annotated[
        Literal["fail", "skip"],
        typer.Option(
            help="A reference without a usable prediction gets the worst values (fail) or is left out (skip).",
            rich_help_panel=_POLICY,
        ),
    ] = "fail",
    infinite: Annotated[
        str,
        typer.Option(
            metavar="keep|drop|diagonal|MM",
            help="One mask empty, a distance asked for: infinite, as is the mean then (keep); left out and counted "
            "(drop); the diagonal of the grid; or a number of mm, such as 374.",
            rich_help_panel=_POLICY,
        ),
    ] = "keep",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            file_okay=False,
            help="Folder for report.json, report.csv and, of lesions, lesions.csv.",
            show_default="the folder of the predictions",
        ),
    ] = None,
    summary_json: Annotated[
        bool,
        typer.Option("--summary-json", help="Also write summary.json there, as nnU-Net's own evaluation does."),
    ] = False,
    page: Annotated[
        Path | None,
        typer.Option(
            "--report",
            dir_okay=False,
            metavar="FILE.html",
            help="Also write a page with tables, plots and pictures; `medmamba report` compares several models.",
            rich_help_panel=_PAGE,
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            help="Data set or folder of the scans, to lie under the segmentations.",
            show_default="the data set that the references belong to",
            rich_help_panel=_PAGE,
        ),
    ] = None,
    subgroups: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Table of cases (CSV) with a column case and others such as site or scanner.",
            rich_help_panel=_PAGE,
        ),
    ] = None,
    name: Annotated[
        str, typer.Option(help="What the predictions are called there.", rich_help_panel=_PAGE, show_default=False)
    ] = "",
    title: Annotated[str, typer.Option(help=TITLE, rich_help_panel=_PAGE, show_default="made of the name")] = "",
    viewer: Annotated[Viewer, typer.Option(help=VIEWER, rich_help_panel=_PAGE)] = "auto",
    workers: Annotated[
        int, typer.Option("--workers", "-w", min=1, help="Cases to work on at the same time; each needs memory.")
    ] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Compare segmentations with references and report how good they are.

    Files belong together when their names are equal up to the ending, or to the -seg of BraTS. Dice is the overlap: 1
    is perfect, 0 is none. HD95 is the distance in mm within which 95 % of both surfaces lie. What a number means, and
    whose definition that is, stands beside it. Metrics of a challenge follow its rules and no others, and are refused
    for labels of another edition. A reference with a value that its labels do not declare is a failed case.

    The interval tells where the mean would lie with other cases like these. A score is undefined when neither
    segmentation holds the label, and infinite when only one does and a distance is asked for. A mean that is not over
    all cases says over how many it is; it is infinite when a value is, with that of the finite ones in brackets
    (finite_mean in the report). Worst cases are ranked by the first metric. A prediction on another grid than its
    reference is a failure: nothing is resampled.

    Of a folder that `medmamba register` wrote, the moving label maps are compared with the fixed ones, registered and
    by the affine map alone, in the structures that both maps of a pair have, and each pair is measured as a whole: mean
    Dice, median HD95, folding, spread of log Jacobians, inverse consistency and error of landmarks in mm, seconds,
    memory. before.json and pairs.csv are written as well.

    Of films, masks are compared frame by frame where the reference has one: Dice and boundary F over frames, flicker
    that the reference does not explain, the delay of detection, and Dice over all pixels of a film. frames.csv has a
    line for each frame, and a page a player.

    Folders of nnUNetv2_predict are taken as they lie; probabilities that it saved beside the segmentations tell
    how well a network knows what it knows: --metric ece.

    Exit code 3 says that cases failed; the report is written all the same.

    For example:

        medmamba evaluate predictions/ data/Dataset004_Hippocampus --missing skip --report hippocampus.html

        medmamba evaluate predictions/ data/Dataset900_Phantom/labelsTs --metric dice --metric nsd_0.5mm

        medmamba evaluate predictions/ labels/ --labels brats2023-gli --metric brats2023_gli --metric lesions

        medmamba evaluate mine.nii.gz theirs.nii.gz --json

        medmamba evaluate registered/ --least-ml 1 --report registered.html

        medmamba evaluate predicted_films/ data/endoscopy --report films.html
    """
    from medmamba.evaluation.metrics import expand
    from medmamba.evaluation.scores import Policy
    from medmamba.io import is_image

    asked = _Asked(
        prediction=prediction,
        reference=reference,
        labels=labels or "",
        metrics=tuple(metric or ()),
        least_ml=least_ml,
        policy=Policy.of_words(empty=empty, missing=missing, infinite=infinite),
        name=name,
        workers=workers,
    )
    if not asked.of_films:
        expand(metric or ())  # a wrong name is told before anything is read
    folder = output or (prediction.parent if is_image(prediction) else prediction)
    read = [path for path in (reference, labels and Path(labels), images, subgroups) if path and path.exists()]
    asked.check(folder, read, summary_json=summary_json)
    if page:
        check_page(page, viewer, inputs=[path for path in read if path.is_file()])
    reports, matches = asked.evaluate()
    paths = asked.save(reports, matches, folder, summary_json=summary_json)
    if page:
        paths += write_page(reports[::-1], page, images=images, subgroups=subgroups, title=title, viewer=viewer)
    report = reports[0]
    if as_json:
        typer.echo(json.dumps(report.to_json(), indent=2, allow_nan=False))
    else:
        if report.figures:
            show_pairs(reports[::-1])
        show_report(report)
        for path in paths:
            say(f"written {path}")
    if matches is not None:
        _remark(matches)
    complain(report)
    if report.failed:
        raise typer.Exit(Exit.DATA)


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What is to be evaluated, and how."""

    prediction: Path
    reference: Path | None
    labels: str
    metrics: tuple[str, ...]
    least_ml: float
    policy: Policy
    name: str
    workers: int

    @property
    def registered(self) -> bool:
        """Whether these are registrations."""
        from medmamba.evaluation.registered_folder import is_registered

        return is_registered(self.prediction)

    @property
    def of_films(self) -> bool:
        """Whether these are masks of films."""
        from medmamba.evaluation.film_files import films_of

        return self.reference is not None and not self.registered and films_of(self.reference) is not None

    def check(self, folder: Path, read: list[Path], *, summary_json: bool) -> None:
        """Refuse what does not go together, and a folder that is no place to write to."""
        from medmamba.evaluation import nnunet_summary, registered_folder
        from medmamba.evaluation.report import FRAMES_FILE, PAIRS_FILE, REPORT_FILES
        from medmamba.io.places import check_output_folder

        if self.registered:
            if self.reference is not None or summary_json:
                raise UsageError(
                    f"{self.prediction} holds registrations, whose record names the label maps: leave out "
                    f"{'the reference' if self.reference else '--summary-json'}, or name one pair's labels.nii.gz"
                )
        elif self.reference is None or self.least_ml:
            raise UsageError(
                f"{self.prediction} is no folder that `medmamba register` wrote: "
                f"{'leave out --least-ml' if self.reference else 'name what it is to be compared with'}"
            )
        if self.of_films and summary_json:
            raise UsageError("a summary as nnU-Net writes it is of images, and not of films: leave out --summary-json")
        extra = [PAIRS_FILE, registered_folder.BEFORE_FILE] if self.registered else []
        extra += [FRAMES_FILE] if self.of_films else []
        written = (*REPORT_FILES, *extra, *([nnunet_summary.SUMMARY] if summary_json else []))
        check_output_folder(
            folder,
            files=[folder / each for each in written],
            # Below a folder of references there may be one of predictions, with its report.
            inputs=[path for path in read if path.is_file() or path.resolve() == folder.resolve()],
        )

    def evaluate(self) -> tuple[tuple[Report, ...], Matches | None]:
        """The report, with that of the same pairs before registration behind it, and what was compared with what."""
        from medmamba.evaluation.evaluate import evaluate_files
        from medmamba.evaluation.film_files import evaluate_film_files

        how: dict[str, Any] = {
            "labels": self.labels, "metrics": self.metrics, "policy": self.policy, "name": self.name,
            "workers": self.workers, "progress": track,
        }  # fmt: skip
        if self.reference is None:
            from medmamba.evaluation.registered import evaluate_registrations  # with torch

            return evaluate_registrations(self.prediction, least_ml=self.least_ml, **how), None
        compare = evaluate_film_files if self.of_films else evaluate_files
        report, matches = compare(self.prediction, self.reference, **how)
        return (report,), matches

    def save(
        self, reports: tuple[Report, ...], matches: Matches | None, folder: Path, *, summary_json: bool
    ) -> list[Path]:
        """Write everything but the page."""
        from medmamba.evaluation import nnunet_summary
        from medmamba.evaluation.matching import description_beside
        from medmamba.evaluation.registered_folder import save_before

        paths = [*reports[0].save(folder)]
        paths += [save_before(before, folder) for before in reports[1:]]
        if summary_json and matches is not None and self.reference is not None:
            described = description_beside(self.prediction, self.reference, self.labels)
            paths.append(nnunet_summary.save(reports[0], matches.pairs, folder, description=described))
        return paths


def _remark(matches: Matches) -> None:
    from medmamba.case import some

    if matches.not_asked_for:
        note(f"{len(matches.not_asked_for)} references are of cases that `medmamba predict` was not asked for")
    if len(matches.by_maker) > 1:
        most, *others = matches.by_maker
        note(
            f"predictions of {len(matches.by_maker)} models or sets of options, as after cross-validation: {len(most)} "
            f"of one, {some([name for group in others for name in group])} of others; if that is not meant, repeat "
            "`medmamba predict` with one for all"
        )
