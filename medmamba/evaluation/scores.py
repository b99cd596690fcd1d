"""What was measured of cases, labels and lesions, and by which policy: plain values, without what computes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

#: ``failed``: prediction or reference cannot be used. There is no prediction: ``missing`` where that counts as failed,
#: ``skipped`` where the case is left out on request.
Status = Literal["scored", "failed", "missing", "skipped"]
#: ``found``: of the reference, and the prediction shares a voxel with it; ``missed``: it does not.
#: ``false``: of the prediction, and it shares no voxel with the reference.
LesionKind = Literal["found", "missed", "false"]


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
class LabelScore:
    """One row: how one label of one case was met.

    Args:
        label: name of the structure.
        values: value of each metric, in the order of the report's metrics; NaN when undefined.
        prediction_ml: volume of the prediction; None when there is none.
        reference_ml: volume of the reference; None when it was not read.
        lesions: connected components, where a metric was asked for that tells them apart.
        reliability: where the network's probabilities were at hand and asked for.
    """

    label: str
    values: tuple[float, ...]
    prediction_ml: float | None = None
    reference_ml: float | None = None
    lesions: tuple[Lesion, ...] = ()
    reliability: Reliability | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseScore:
    """One case: its rows, or why it has none.

    Args:
        id: name of the case.
        status: see `Status`.
        notes: what a reader should know, the reason of a failure first.
        scores: one per label; empty when the case takes no part in the summary.
    """

    id: str
    status: Status
    notes: tuple[str, ...] = ()
    scores: tuple[LabelScore, ...] = ()


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

    empty: Literal["undefined", "perfect"] = "undefined"
    missing: Literal["fail", "skip"] = "fail"
    infinite: Literal["keep", "drop", "diagonal", "value"] = "keep"
    infinite_mm: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a report's masks came from, to find them again for pictures, and what made them.

    Args:
        prediction: folder or file; None where it is not known.
        reference: likewise.
        model: what made the predictions, in a few words; empty where nothing says so.
        plan_digest: of the plan that the model was trained by; empty likewise.
        versions: of the packages that measured, by name.
    """

    prediction: Path | None = None
    reference: Path | None = None
    model: str = ""
    plan_digest: str = ""
    versions: dict[str, str] = field(default_factory=dict)
