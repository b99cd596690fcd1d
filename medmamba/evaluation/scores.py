"""What was measured of cases, labels and lesions, and by which policy: plain values, without what computes them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast, get_args

from medmamba.errors import UsageError

#: ``failed``: prediction or reference cannot be used. There is no prediction: ``missing`` where that counts as failed,
#: ``skipped`` where the case is left out on request.
Status = Literal["scored", "failed", "missing", "skipped"]
#: ``found``: of the reference, and the prediction shares a voxel with it; ``missed``: it does not.
#: ``false``: of the prediction, and it shares no voxel with the reference.
LesionKind = Literal["found", "missed", "false"]
#: What becomes of values, see `Policy`.
Empty = Literal["undefined", "perfect"]
Missing = Literal["fail", "skip"]
Infinite = Literal["keep", "drop", "diagonal", "value"]


def ratio(part: float, whole: float) -> float:
    """The share of a part in a whole; NaN where there is no whole."""
    return part / whole if whole else float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesion:
    """One connected component (26 neighbours) of a reference or, where it meets none, of a prediction.

    Args:
        kind: see `LesionKind`.
        volume_ml: of the component.
        voxel: array indices of a voxel in it, the one nearest to its centre.
        dice: of a component of the reference with the union of the predicted components that it touches; 0 otherwise.
    """

    kind: LesionKind
    volume_ml: float
    voxel: tuple[int, int, int]
    dice: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """How sure a network was and how often it was right, in bins of equal width over probabilities from 0 to 1.

    Args:
        voxels: how many have a probability in each bin.
        confidence: sum of their probabilities.
        positives: how many of them hold the structure in the reference.
    """

    voxels: tuple[int, ...]
    confidence: tuple[float, ...]
    positives: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Voxels:
    """In how many voxels a prediction and its reference agree and differ.

    Args:
        tp: of both.
        fp: of the prediction alone.
        fn: of the reference alone.
        tn: of neither; those that are to be ignored do not count.
    """

    tp: int
    fp: int
    fn: int
    tn: int

    @property
    def prediction(self) -> int:
        """All of the prediction."""
        return self.tp + self.fp

    @property
    def reference(self) -> int:
        """All of the reference."""
        return self.tp + self.fn

    @property
    def either(self) -> int:
        """Those of at least one of both."""
        return self.tp + self.fp + self.fn

    @property
    def all(self) -> int:
        """Everything that counts."""
        return self.either + self.tn

    @property
    def dice(self) -> float:
        """Twice the common voxels over the sum of both masks' voxels; NaN when both are empty."""
        return ratio(2 * self.tp, self.prediction + self.reference)

    @property
    def iou(self) -> float:
        """Common voxels over the voxels of either mask (Jaccard index); NaN when both are empty."""
        return ratio(self.tp, self.either)

    @property
    def precision(self) -> float:
        """Share of the prediction that is right; NaN when it is empty."""
        return ratio(self.tp, self.prediction)

    @property
    def sensitivity(self) -> float:
        """Share of the reference that was found (recall); NaN when it is empty."""
        return ratio(self.tp, self.reference)

    @property
    def volume_similarity(self) -> float:
        """One less the difference of both sizes over their sum, wherever they lie; NaN when both masks are empty."""
        return 1 - ratio(abs(self.fp - self.fn), self.prediction + self.reference)

    @property
    def difference(self) -> float:
        """How many voxels both sizes are apart, whichever is larger; NaN when both masks are empty."""
        return float(abs(self.fp - self.fn)) if self.either else float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameScores:
    """How one label of a film was met frame by frame; None where a value is undefined, or the frame has no mask.

    Args:
        dice: of each frame.
        boundary_f: likewise.
        flicker: from the frame before to each.
        prediction_px: area of the prediction, also in frames without a mask.
        reference_px: of the reference; None in these.

    Raises:
        ValueError: if they are not of the same frames.
    """

    dice: tuple[float | None, ...]
    boundary_f: tuple[float | None, ...]
    flicker: tuple[float | None, ...]
    prediction_px: tuple[int, ...]
    reference_px: tuple[int | None, ...]

    def __post_init__(self) -> None:
        lengths = {len(each) for each in (self.dice, self.boundary_f, self.flicker, self.reference_px)}
        if lengths != {len(self.prediction_px)}:
            raise ValueError(f"{len(self.prediction_px)} frames need as many of every value, got {sorted(lengths)}")

    def of(self, frames: slice) -> FrameScores:
        """Those of some frames."""
        return FrameScores(
            dice=self.dice[frames],
            boundary_f=self.boundary_f[frames],
            flicker=self.flicker[frames],
            prediction_px=self.prediction_px[frames],
            reference_px=self.reference_px[frames],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Film:
    """What the frames of a case are called, and how large a pixel is.

    Args:
        numbers: of each frame, by its source.
        times_s: since the first frame; None where they are not known.
        spacing_mm: from one row, and one column, to the next; None where it is not known.
    """

    numbers: tuple[int, ...]
    times_s: tuple[float, ...] | None = None
    spacing_mm: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.times_s is not None and len(self.times_s) != len(self.numbers):
            raise ValueError(f"{len(self.numbers)} frames need as many times, got {len(self.times_s)}")

    @property
    def pixel_mm2(self) -> float | None:
        """Area of a pixel; None where it is not known."""
        return None if self.spacing_mm is None else math.prod(self.spacing_mm)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelScore:
    """One row: how one label of one case was met.

    Args:
        label: name of the structure.
        values: value of each metric, in the order of the report's metrics; NaN when undefined.
        prediction_ml: volume of the prediction; None when there is none.
        reference_ml: volume of the reference; None when it was not read.
        voxels: how many agree and differ; None when there is nothing to compare, or a report of earlier versions was
            read.
        lesions: connected components, where a metric was asked for that tells them apart; those of a reference without
            a usable prediction are missed.
        reliability: where the network's probabilities were at hand and asked for.
        frames: of a film, frame by frame; None elsewhere.
    """

    label: str
    values: tuple[float, ...]
    prediction_ml: float | None = None
    reference_ml: float | None = None
    voxels: Voxels | None = None
    lesions: tuple[Lesion, ...] = ()
    reliability: Reliability | None = None
    frames: FrameScores | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseScore:
    """One case: its rows, or why it has none.

    Args:
        id: name of the case.
        status: see `Status`.
        notes: what a reader should know, the reason of a failure first.
        scores: one per label; empty when the case takes no part in the summary.
        figures: of a registered pair, what is measured of it as a whole, by the names in
            `medmamba.evaluation.metrics.OF_PAIRS`; empty for segmentations.
        film: of a film, what its frames are called; None elsewhere.

    Raises:
        ValueError: if scores are not of the film's frames.
    """

    id: str
    status: Status
    notes: tuple[str, ...] = ()
    scores: tuple[LabelScore, ...] = ()
    figures: dict[str, float] = field(default_factory=dict)
    film: Film | None = None

    def __post_init__(self) -> None:
        for score in self.scores:
            if score.frames and (not self.film or len(score.frames.dice) != len(self.film.numbers)):
                raise ValueError(f"{self.id}: scores of {len(score.frames.dice)} frames need as many numbers of frames")


_EMPTY: dict[Empty, str] = {
    "undefined": "Both masks empty: undefined values are left out of every summary, and counted.",
    "perfect": "Both masks empty: the best value (share 1, distance 0).",
}
_INFINITE: dict[Infinite, str] = {
    "keep": "One mask empty: an infinite distance makes the mean infinite; deviation and interval are not given then. "
    "finite_mean is over the finite values alone, whose number is finite. The median includes infinite values.",
    "drop": "One mask empty: an infinite distance is left out of every summary like an undefined value, and counted "
    "with them; a model looks better in distances for every structure that it misses or invents.",
    "diagonal": "One mask empty: the diagonal of the case's grid stands for the infinite distance.",
    "value": "One mask empty: {:g} mm stand for the infinite distance.",
}
_MISSED = "A structure that was missed altogether has the worst value of a metric that is undefined for it."
_MISSING: dict[Missing, str] = {
    "fail": "No usable prediction: the worst value of every metric (share 0, distance infinite as above) for every "
    "structure, all its lesions missed and its whole volume the difference. Cases without a usable reference are left "
    "out, and count as missing.",
    "skip": "No usable prediction: the case is left out of every summary, as are those without a usable reference; "
    "their values count as missing.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What becomes of values that are no plain numbers.

    Metrics of a challenge decide themselves, and are left as they are.

    Args:
        empty: both masks empty: ``undefined`` values are left out of the sums and counted, as in nnU-Net; ``perfect``
            gives the best value, as in BraTS.
        missing: a reference without a usable prediction gets the worst values (``fail``) or is left out (``skip``).
        infinite: a distance to an empty mask: ``keep`` it, which makes the mean infinite; ``drop`` it like an undefined
            value; take the ``diagonal`` of the grid, or the ``value`` of ``infinite_mm``.
        infinite_mm: in mm, such as the 374 of BraTS 2023; None but for ``value``.
    """

    empty: Empty = "undefined"
    missing: Missing = "fail"
    infinite: Infinite = "keep"
    infinite_mm: float | None = None

    def __post_init__(self) -> None:
        if (self.infinite == "value") != (self.infinite_mm is not None):
            raise ValueError(f"infinite_mm goes with infinite='value' alone, got {self.infinite!r}, {self.infinite_mm}")
        if self.infinite_mm is not None and not 0 < self.infinite_mm < math.inf:
            raise ValueError(f"what stands for an infinite distance is a length in mm, got {self.infinite_mm}")

    @classmethod
    def of_words(cls, *, empty: Empty = "undefined", missing: Missing = "fail", infinite: str = "keep") -> Policy:
        """A policy as it is asked for on a command line, where a number of mm may stand for infinite distances.

        >>> Policy.of_words(infinite="374").infinite_mm
        374.0

        Raises:
            UsageError: if ``infinite`` is no word that is known, and no number above 0.
        """
        words = get_args(Infinite)[:-1]
        if infinite in words:
            return cls(empty=empty, missing=missing, infinite=cast(Infinite, infinite))
        try:
            return cls(empty=empty, missing=missing, infinite="value", infinite_mm=float(infinite))
        except ValueError as error:
            raise UsageError(
                f"an infinite distance becomes {', '.join(words)}, or a number of mm above 0 such as 374; got "
                f"{infinite!r}"
            ) from error

    @property
    def by_option(self) -> dict[str, str]:
        """The policy for people, by the options of `medmamba evaluate` that ask for it."""
        far = f"{self.infinite_mm:g}" if self.infinite_mm is not None else self.infinite
        return {
            f"--empty {self.empty}": f"{_EMPTY[self.empty]} {_MISSED}",
            f"--infinite {far}": _INFINITE[self.infinite].format(self.infinite_mm),
            f"--missing {self.missing}": _MISSING[self.missing],
        }

    @property
    def sentences(self) -> tuple[str, ...]:
        """The policy for people."""
        return tuple(self.by_option.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a report's masks came from, to find them again for pictures, and what made them.

    Args:
        prediction: folder or file; None where it is not known.
        reference: likewise.
        model: what made the predictions, in a few words; empty where nothing says so.
        plan_digest: of the plan that the model was trained by; empty likewise.
        versions: of the packages that measured, by name.
        more: further folders of predictions, of the other folds where several are one report.
    """

    prediction: Path | None = None
    reference: Path | None = None
    model: str = ""
    plan_digest: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    more: tuple[Path, ...] = ()
