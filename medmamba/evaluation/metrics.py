"""How well two masks agree: every metric of the report, one row each.

Edge cases, the same for every metric that applies (a value that is undefined is counted apart, never replaced):

======================  =========  =========  ===========  =============  =============
masks                   dice, iou  precision  sensitivity  hd, hd95, assd  surface dice
======================  =========  =========  ===========  =============  =============
both empty              NaN        NaN        NaN          NaN            NaN
only prediction empty   0          NaN        0            inf            0
only reference empty    0          0          NaN          inf            0
======================  =========  =========  ===========  =============  =============

Each row says what it is called, what it means and whose definition that is; a report prints that beside the numbers.

References:
    Maier-Hein et al., "Metrics reloaded", Nature Methods 2024: which metric for which question.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from medmamba.errors import UsageError
from medmamba.evaluation.boundary import BOUND
from medmamba.evaluation.calibration import BINS, MARGIN_MM, expected_calibration_error
from medmamba.evaluation.challenges import CHALLENGES, Challenge
from medmamba.evaluation.frames import FilmMasks, delay, delay_s, flicker, frame_boundary_f, frame_dice
from medmamba.evaluation.masks import Masks, count_voxels
from medmamba.evaluation.scores import Policy
from medmamba.evaluation.surface import Mask, assd, hausdorff, surface_dice
from medmamba.evaluation.words import WORDS

#: How definitions speak of what a policy decides, and what they say instead under another one.
BOTH_EMPTY, ONE_EMPTY = "undefined if both", "infinite if one mask is empty"
_FAR = {
    "drop": "left out if one mask is empty",
    "diagonal": "the diagonal of the grid if one mask is empty",
    "value": "{:g} mm if one mask is empty",
}


def dice(prediction: Mask, reference: Mask) -> float:
    """Twice the common voxels over the sum of both masks' voxels; NaN when both are empty."""
    return count_voxels(prediction, reference).dice


def iou(prediction: Mask, reference: Mask) -> float:
    """Common voxels over the voxels of either mask (Jaccard index); NaN when both are empty."""
    return count_voxels(prediction, reference).iou


def precision(prediction: Mask, reference: Mask) -> float:
    """Share of the prediction that is right; NaN when it is empty."""
    return count_voxels(prediction, reference).precision


def sensitivity(prediction: Mask, reference: Mask) -> float:
    """Share of the reference that was found (recall); NaN when it is empty."""
    return count_voxels(prediction, reference).sensitivity


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One row of the table the report reads.

    Args:
        title: what stands above its column.
        measure: the value for a pair of masks.
        definition: what it is, in a sentence with the formula in words, and what it is at the edges.
        source: whose definition that is, with the version that its numbers equal.
        higher_is_better: which direction is better.
        unit: of the value; empty for a share or a count.
        symmetric: whether prediction and reference may change places.
        bound: the worst value there is; None for 0 where higher is better and infinity where lower is.
        own_policy: it decides itself what becomes of empty masks and infinite distances, as those of challenges do; the
            report's policy leaves its values alone.
        count: it counts lesions, and is neither a share nor measured in a unit.
        of_empty: a case without a usable prediction gets the value that an empty one would have, as there is no worst
            one.
        how: how lesions are told apart and matched, where that matters: one sentence for all columns of a challenge.
        challenge: whose table it is a column of, by the name in `CHALLENGES`; empty elsewhere.
        of_pair: it is of a registered pair as a whole, and no mask tells it.
        of_structures: it is what the values of a registered pair's structures come to, see `over_structures`.
        of_film: the value for a structure in a film, of which masks of single images know nothing; None elsewhere.
    """

    title: str
    measure: Callable[[Masks], float]
    definition: str
    source: str
    higher_is_better: bool = True
    unit: str = ""
    symmetric: bool = True
    bound: float | None = None
    own_policy: bool = False
    count: bool = False
    of_empty: bool = False
    how: str = ""
    challenge: str = ""
    of_pair: bool = False
    of_structures: bool = False
    of_film: Callable[[FilmMasks], float] | None = None

    def defined(self, policy: Policy) -> str:
        """The definition with what becomes of empty masks by this policy."""
        if self.own_policy:
            return self.definition
        edges = {BOTH_EMPTY: f"{self.best:g} if both"} if policy.empty == "perfect" else {}
        if policy.infinite != "keep":
            edges[ONE_EMPTY] = _FAR[policy.infinite].format(policy.infinite_mm)
        return reduce(lambda text, edge: text.replace(*edge), edges.items(), self.definition)

    @property
    def worst(self) -> float:
        """The value of a case that has no usable prediction."""
        if self.bound is not None:
            return self.bound
        return 0.0 if self.higher_is_better else float("inf")

    @property
    def best(self) -> float:
        """The value of equal masks."""
        return 1.0 if self.higher_is_better else 0.0


#: Whose surface distances these are.
_SURFACE = "Nikolov et al. 2021, numbers of DeepMind's surface-distance 0.1: surface elements weighted by their area"
_SHARE = "Taha and Hanbury 2015"
#: Names of surface Dice at a tolerance.
_NSD = r"nsd_(\d+(?:\.\d+)?)mm"
#: Names of `over_structures`.
_OVER = r"(mean|median)_(\w+(?:\.\d+mm)?)"


def _nsd(tolerance_mm: float) -> Metric:
    return Metric(
        title=f"surface Dice at {tolerance_mm:g} mm",
        measure=lambda masks: surface_dice(masks.surface, tolerance_mm),
        definition=f"NSD: share of the area of both surfaces that lies within {tolerance_mm:g} mm of the other one; "
        "0 if one mask is empty, undefined if both are.",
        source=_SURFACE,
    )


#: The definition of lesions that share voxels.
_ANY_OVERLAP = "any overlap, 26 neighbours, no smallest size; Commowick et al. 2018 without their thresholds"
_PANOPTIC = (
    "Kirillov et al. 2019 on connected components; computed here, as panoptica does not install beside our libraries, "
    "and equal to panoptica 2.1.7 (IoU of 0.5 and more)"
)


def _of_challenge(group: str, challenge: Challenge, name: str) -> Metric:
    column = challenge.columns[name]
    return Metric(
        title=f"{column.title} ({challenge.title})",
        measure=lambda masks: masks.columns(challenge.table)[name],
        definition=column.definition,
        source=challenge.source,
        higher_is_better=column.higher_is_better,
        unit=column.unit,
        symmetric=False,
        bound=column.worst,
        own_policy=True,
        count=column.count,
        of_empty=column.of_empty,
        how=challenge.how if column.lesions else "",
        challenge=group,
    )


#: Rows of the report by the name each is asked for; `metric` knows further ones. One more metric is one function and
#: one row, with what it tells in words.py.
METRICS: dict[str, Metric] = {
    "dice": Metric(
        title="Dice",
        measure=lambda masks: masks.voxels.dice,
        definition="Twice the common voxels over the sum of both masks' voxels; 0 if one mask is empty, undefined if "
        "both are.",
        source="Dice 1945; equal to nnU-Net 2.8.1 and MONAI 1.6.1",
    ),
    "iou": Metric(
        title="IoU",
        measure=lambda masks: masks.voxels.iou,
        definition="Common voxels over the voxels of either mask (Jaccard index); 0 if one mask is empty, undefined if "
        "both are.",
        source="Jaccard 1901; equal to nnU-Net 2.8.1",
    ),
    "precision": Metric(
        title="precision",
        measure=lambda masks: masks.voxels.precision,
        definition="Common voxels over those of the prediction; 0 if that alone is empty, undefined if both masks are.",
        source=_SHARE,
        symmetric=False,
    ),
    "sensitivity": Metric(
        title="sensitivity",
        measure=lambda masks: masks.voxels.sensitivity,
        definition="Common voxels over those of the reference (recall); undefined if that alone is empty, undefined if "
        "both masks are.",
        source=_SHARE,
        symmetric=False,
    ),
    "volume_difference": Metric(
        title="volume difference",
        measure=lambda masks: masks.voxels.difference * masks.voxel_ml,
        definition="Absolute difference of both volumes in ml, wherever they lie; undefined if both masks are empty. "
        "Which of them is larger is told by the volumes beside it.",
        source="Maier-Hein et al. 2024 (absolute volume difference)",
        higher_is_better=False,
        unit="ml",
        of_empty=True,
    ),
    "volume_similarity": Metric(
        title="volume similarity",
        measure=lambda masks: masks.voxels.volume_similarity,
        definition="One less the absolute difference of both volumes over their sum; 0 if one mask is empty, undefined "
        "if both are.",
        source=_SHARE,
    ),
    "nsd_1mm": _nsd(1.0),
    "nsd_2mm": _nsd(2.0),
    "hd95": Metric(
        title="HD95",
        measure=lambda masks: hausdorff(masks.surface, 95),
        definition="The larger of the 95th percentiles, by area, of the distances from either surface to the other; "
        "infinite if one mask is empty, undefined if both are.",
        source=_SURFACE,
        higher_is_better=False,
        unit="mm",
    ),
    "hd": Metric(
        title="Hausdorff",
        measure=lambda masks: hausdorff(masks.surface, 100),
        definition="The largest distance from either surface to the other; infinite if one mask is empty, undefined if "
        "both are.",
        source=_SURFACE,
        higher_is_better=False,
        unit="mm",
    ),
    "assd": Metric(
        title="ASSD",
        measure=lambda masks: assd(masks.surface),
        definition="Mean distance, by area, over both surfaces to the other one; infinite if one mask is empty, "
        "undefined if both are.",
        source=_SURFACE,
        higher_is_better=False,
        unit="mm",
    ),
    "ece": Metric(
        title="calibration error",
        measure=lambda masks: expected_calibration_error(masks.reliability) if masks.reliability else float("nan"),
        definition="ECE: mean over voxels of the difference between the mean probability of their bin and its share "
        f"of voxels of the structure, {BINS} bins of equal width; over the voxels in the box around both masks, grown "
        f"by {MARGIN_MM:g} mm; undefined if both masks are empty, or without probabilities.",
        source="Guo et al. 2017, of each structure by itself as in Mehrtash et al. 2020",
        higher_is_better=False,
        symmetric=False,
        bound=float("nan"),  # says nothing about a case without probabilities
        own_policy=True,
    ),
    "lesion_f1": Metric(
        title="lesion F1",
        measure=lambda masks: masks.lesions.f1,
        definition="Twice the found lesions over twice the found, the missed and the false ones, where a lesion of the "
        "reference is found if the prediction shares a voxel with it, and a predicted one false if it shares none; "
        "undefined if both masks are empty.",
        source=_ANY_OVERLAP,
        symmetric=False,
    ),
    "lesion_sensitivity": Metric(
        title="lesion sensitivity",
        measure=lambda masks: masks.lesions.sensitivity,
        definition="Found lesions over those of the reference; undefined if that alone is empty, undefined if both "
        "masks are.",
        source=_ANY_OVERLAP,
        symmetric=False,
    ),
    "lesion_precision": Metric(
        title="lesion precision",
        measure=lambda masks: masks.lesions.precision,
        definition="Found lesions over found and false ones; 0 if every lesion was missed, undefined if both masks are "
        "empty.",
        source=_ANY_OVERLAP,
        symmetric=False,
    ),
    "lesions_missed": Metric(
        title="lesions missed",
        measure=lambda masks: masks.lesions.missed,
        definition="How many lesions of the reference share no voxel with the prediction; all without a usable one.",
        source=_ANY_OVERLAP,
        higher_is_better=False,
        symmetric=False,
        own_policy=True,
        count=True,
        of_empty=True,
    ),
    "lesions_false": Metric(
        title="lesions invented",
        measure=lambda masks: masks.lesions.false,
        definition="How many predicted lesions share no voxel with the reference; unknown without a usable prediction.",
        source=_ANY_OVERLAP,
        higher_is_better=False,
        symmetric=False,
        bound=float("nan"),
        own_policy=True,
        count=True,
    ),
    "pq": Metric(
        title="panoptic quality",
        measure=lambda masks: masks.panoptic.quality,
        definition="PQ: sum of the IoU of matched lesions over matched ones and half of all others; lesions match from "
        "an IoU of 0.5 on; 0 if nothing matches, undefined if both masks are empty.",
        source=_PANOPTIC,
    ),
    "sq": Metric(
        title="segmentation quality",
        measure=lambda masks: masks.panoptic.segmentation,
        definition="SQ: mean IoU of matched lesions; 0 if nothing matches, undefined if both masks are empty.",
        source=_PANOPTIC,
    ),
    "rq": Metric(
        title="recognition quality",
        measure=lambda masks: masks.panoptic.recognition,
        definition="RQ: matched lesions over matched ones and half of all others (F1); 0 if nothing matches, undefined "
        "if both masks are empty.",
        source=_PANOPTIC,
    ),
    **{
        f"{group}_{name}": _of_challenge(group, challenge, name)
        for group, challenge in CHALLENGES.items()
        for name in challenge.columns
    },
}


def _of_pair(title: str, definition: str, source: str, unit: str = "", *, higher_is_better: bool = False) -> Metric:
    return Metric(
        title=title,
        measure=lambda masks: float("nan"),
        definition=definition,
        source=source,
        higher_is_better=higher_is_better,
        unit=unit,
        symmetric=False,
        bound=float("nan"),
        own_policy=True,
        of_pair=True,
    )


_WHERE = "inside the fixed image's mask or, without one, where it is not background"
_FIELDS = f"of the transform's fields, affine maps divided out, at the voxels of the fixed image {_WHERE}"
#: What is measured of a registered pair as a whole, by name; `metric` knows these too, and no mask has them.
OF_PAIRS: dict[str, Metric] = {
    "folding": _of_pair(
        "folding",
        "Percentage of voxels whose Jacobian determinant is 0 or less (central differences), " + _FIELDS + ".",
        "Hering et al. 2023 (Learn2Reg)",
        "%",
    ),
    "sd_log_jacobian": _of_pair(
        "SD log J",
        "Standard deviation of the natural logarithm of the Jacobian determinant, kept between 1e-9 and 1e9, "
        + _FIELDS
        + ": how unevenly space is stretched.",
        "Leow et al. 2007; Hering et al. 2023 without the 3 that its published code adds",
    ),
    "min_jacobian": _of_pair(
        "min J",
        "The smallest Jacobian determinant " + _FIELDS + "; below 0 something is turned inside out.",
        "Hering et al. 2023",
        higher_is_better=True,
    ),
    "displacement": _of_pair(
        "displacement",
        "Mean distance that the transform's fields move points, affine maps left out, " + _WHERE + "; neither good nor "
        "bad, but next to 0 nothing was deformed.",
        "this software",
        "mm",
    ),
    "inverse_consistency": _of_pair(
        "inverse consistency",
        "Mean distance of the fixed image's voxels from where they were after the transform and the inverse beside it, "
        + _WHERE
        + ".",
        "Christensen and Johnson 2001",
        "mm",
    ),
    "inverse_consistency_max": _of_pair(
        "inverse consistency, max", "The largest of these distances.", "Christensen and Johnson 2001", "mm"
    ),
    "tre": _of_pair(
        "TRE",
        "Target registration error: mean over landmarks of the distance between where the transform takes that of the "
        "fixed image and that of the moving image.",
        "Fitzpatrick et al. 1998",
        "mm",
    ),
    "seconds": _of_pair("time", "Seconds that registering the pair took, by the record of who did it.", "clock", "s"),
    "memory": _of_pair("memory", "Most memory that the process had taken by then.", "operating system", "GB"),
}
#: Those by which methods are compared; the others describe.
COMPARED = ("folding", "sd_log_jacobian", "inverse_consistency", "tre", "seconds", "memory")


def _of_film(measure: Callable[[FilmMasks], float], title: str, definition: str, source: str, **facts: Any) -> Metric:
    return Metric(
        title=title,
        measure=lambda masks: float("nan"),
        definition=definition,
        source=source,
        of_film=measure,
        **facts,
    )


_MASKED = "Mean over the frames of a film that have a reference mask, undefined ones left out, of "
_UNDEFINED = f"a frame is 0 if one mask is empty, {BOTH_EMPTY} are."
#: What is measured of films, by name; `metric` knows these too, and no mask of a single image has them.
OF_FILMS: dict[str, Metric] = {
    "frame_dice": _of_film(
        frame_dice,
        "Dice over frames",
        f"{_MASKED}twice the common pixels over the sum of both masks' pixels; {_UNDEFINED}",
        "Dice 1945, of each frame by itself as in Perazzi et al. 2016 (DAVIS)",
    ),
    "boundary_f": _of_film(
        frame_boundary_f,
        "boundary F",
        f"{_MASKED}the harmonic mean of the shares of both edges that lie near the other one, within "
        f"{100 * BOUND:g} % of the picture's diagonal, rounded up to whole pixels; {_UNDEFINED}",
        "Perazzi et al. 2016 (DAVIS), numbers of davis2017-evaluation but for empty masks",
    ),
    "flicker": _of_film(
        flicker,
        "flicker",
        "Of the pixels that prediction or reference have in one of two successive frames, the share whose prediction "
        "changes in between other than the reference does; over all such frames that both have a mask, pixels taken "
        "together. 0 for the reference itself and for a prediction that never changes, 1 for one that comes and goes "
        "over nothing that moves; undefined if no two successive frames have masks, or all are empty.",
        "this software; changes that the reference makes as well do not count",
        higher_is_better=False,
        bound=1.0,
        own_policy=True,
    ),
    "delay": _of_film(
        delay,
        "detection delay",
        "Frames from the first one whose reference mask holds the structure to the first one in which the prediction "
        "shares a pixel with it; infinite if none does, undefined if no mask holds it.",
        "this software",
        higher_is_better=False,
        unit="frames",
        own_policy=True,
    ),
    "delay_s": _of_film(
        delay_s,
        "detection time",
        "The same in seconds, by the times of the frames; undefined where these are not known.",
        "this software",
        higher_is_better=False,
        unit="s",
        own_policy=True,
    ),
}
#: What films are scored by, the last being over all pixels of a film; of METRICS those that count voxels may be asked
#: for as well.
STANDARD_OF_FILMS = (*OF_FILMS, "dice")
COUNTING = ("dice", "iou", "precision", "sensitivity", "volume_similarity")

#: Names for several metrics at once.
GROUPS: dict[str, tuple[str, ...]] = {
    "standard": ("dice", "hd95"),
    "surface": ("hd95", "hd", "assd", "nsd_0.5mm", "nsd_1mm", "nsd_2mm"),
    "calibration": ("ece",),
    "volume": ("volume_difference", "volume_similarity"),
    "lesions": ("lesion_f1", "lesion_sensitivity", "lesion_precision", "lesions_missed", "lesions_false"),
    "panoptic": ("pq", "sq", "rq"),
    **{group: tuple(f"{group}_{name}" for name in challenge.columns) for group, challenge in CHALLENGES.items()},
}


#: What lesions are told apart for.
TELLING_LESIONS_APART = frozenset(name for group in ("lesions", "panoptic", *CHALLENGES) for name in GROUPS[group])


def metric(name: str) -> Metric:
    """A row of `METRICS`, `OF_PAIRS` or `OF_FILMS`, surface Dice at any tolerance, or a name of `over_structures`.

    Raises:
        UsageError: if nothing is called so.
    """
    if found := METRICS.get(name) or OF_PAIRS.get(name) or OF_FILMS.get(name):
        return found
    if tolerance := re.fullmatch(_NSD, name):
        if float(tolerance[1]) > 0:
            return _nsd(float(tolerance[1]))
        raise UsageError(f"a tolerance must be larger than 0 mm, got {name!r}; choose one such as nsd_0.5mm")
    if over := re.fullmatch(_OVER, name):
        return _of_structures(over[1], metric(over[2]))
    raise UsageError(
        f"unknown metric {name!r}; choose from {', '.join(WORDS)}, nsd_<tolerance>mm such as nsd_0.5mm, or groups of "
        f"metrics: {', '.join(GROUPS)}"
    )


def over_structures(name: str) -> str:
    """What the values of a registered pair's structures in a metric come to, by its own name.

    That is the median of distances, in which infinite ones are the worst and make nothing else of the rest, and the
    mean of all others.

    >>> over_structures("dice"), over_structures("hd95")
    ('mean_dice', 'median_hd95')
    """
    return f"{'median' if metric(name).unit == 'mm' else 'mean'}_{name}"


def _of_structures(over: str, row: Metric) -> Metric:
    definition = f"{over.capitalize()} over the structures that both label maps of a pair have. {row.definition}"
    return replace(row, title=f"{over} {row.title}", definition=definition, of_structures=True)


def expand(names: Iterable[str]) -> tuple[str, ...]:
    """Names of metrics, those of `GROUPS` replaced by what is in them, each once.

    >>> expand(("dice", "standard", "nsd_1.0mm", "nsd_1mm"))
    ('dice', 'hd95', 'nsd_1mm')

    Raises:
        UsageError: for a name that nothing is called by.
    """
    every = [member for name in names for member in GROUPS.get(name, (name,))]
    for name in every:
        if metric(name).of_pair or metric(name).of_structures:
            raise UsageError(
                f"{name!r} is measured of registered pairs, always, and of no mask: `medmamba evaluate` a folder that "
                "`medmamba register` wrote"
            )
        if metric(name).of_film:
            raise UsageError(
                f"{name!r} is measured of films, and of no single image: `medmamba evaluate` masks of films"
            )
    return tuple(dict.fromkeys(_plain(name) for name in every))


def _plain(name: str) -> str:
    """One spelling for one tolerance."""
    tolerance = re.fullmatch(_NSD, name)
    return f"nsd_{float(tolerance[1]):g}mm" if tolerance else name
