"""The tables of the BraTS challenges, as columns of the report.

One row of `CHALLENGES` is one challenge; its columns are made from those that its kind of table has. The regions are
the labels that the data set declares: a column is measured for each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from medmamba.evaluation import lesionwise2023, lesionwise2024
from medmamba.evaluation.lesionwise2023 import Brats2023
from medmamba.evaluation.lesionwise2024 import FOUND_DICE, LARGE_MM3, brats2024, metastases2024
from medmamba.evaluation.region import Columns, Region

Table = Callable[[Region], Columns]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a challenge's table.

    Args:
        title: what stands above it.
        definition: what it is, in a sentence, and what it is at the edges.
        higher_is_better: which direction is better.
        unit: of the value; empty for a share or a count.
        worst: the value of a case without a usable prediction; NaN where the challenge has none.
        count: as of `medmamba.evaluation.metrics.Metric`.
        of_empty: likewise.
        lesions: whether it depends on how lesions are told apart.
    """

    title: str
    definition: str
    higher_is_better: bool = True
    unit: str = ""
    worst: float = 0.0
    count: bool = False
    of_empty: bool = False
    lesions: bool = True


def _distance(title: str, definition: str, worst: float, *, lesions: bool = True) -> Column:
    return Column(title=title, definition=definition, higher_is_better=False, unit="mm", worst=worst, lesions=lesions)


def _counts(which: str, fp: str, worst: float) -> dict[str, Column]:
    """Lesions found, invented and missed; ``which`` is put before "lesions"."""
    texts = {
        "tp": ("found", f"How many {which}lesions of the reference were found."),
        "fp": ("invented", fp),
        "fn": ("missed", f"How many {which}lesions of the reference were not found."),
    }
    return {
        name: Column(
            title=f"{which}lesions {title}",
            definition=text,
            higher_is_better=name == "tp",
            worst=0.0 if name == "tp" else worst,
            count=True,
            of_empty=name == "fn" and math.isnan(worst),
        )
        for name, (title, text) in texts.items()
    }


def _shares(which: str, edges: str) -> dict[str, Column]:
    texts = {
        "precision": "found over found and invented",
        "recall": "found over found and missed",
        "f1": "twice found over twice found, invented and missed",
    }
    return {
        name: Column(title=f"{which}lesion {name}", definition=f"Of {which}lesions: {text}; {edges}.")
        for name, text in texts.items()
    }


_COLUMNS_2023 = {
    "dice": Column(
        title="lesion-wise Dice",
        definition="Sum over lesions of the Dice of each with all that was predicted near it, over lesions and false "
        "positives; 1 where there are none of both.",
    ),
    "hd95": _distance(
        "lesion-wise HD95",
        "Sum over lesions of the HD95 of each with all that was predicted near it, 374 mm where that is nothing and "
        "for each false positive, over lesions and false positives; 0 where there are none of both.",
        lesionwise2023.INFINITE_MM,
    ),
    **_counts("", "How many predicted components, however small, lie near no lesion.", float("nan")),
    "sensitivity": Column(
        title="sensitivity",
        definition="Common voxels over those of the reference; 1 if both masks are empty, 0 if the reference is.",
        lesions=False,
    ),
    "specificity": Column(
        title="specificity",
        definition="Voxels in neither mask over those outside the reference; 0 if nothing is outside.",
        lesions=False,
    ),
    "legacy_dice": Column(
        title="Dice", definition="Dice of the whole region; 1 if both masks are empty, 0 if one is.", lesions=False
    ),
    "legacy_hd95": _distance(
        "HD95",
        "HD95 of the whole region; 0 if both masks are empty, 374 mm if one is.",
        lesionwise2023.INFINITE_MM,
        lesions=False,
    ),
}
_FP_2024 = "How many predicted components were matched with no lesion."
_COLUMNS_2024 = {
    **_counts("", _FP_2024, 0.0),
    **_shares("", "undefined where it divides by nothing"),
    "global_dice": Column(
        title="Dice",
        definition="Dice of the whole region; 0 if one mask is empty, undefined if both are.",
        lesions=False,
    ),
    "global_nsd": Column(
        title="NSD",
        definition="Mean over both masks of the share of voxels at the border that the other border coincides with; 0 "
        "if one mask is empty, undefined if both are.",
        lesions=False,
    ),
    "global_hd95": _distance(
        "HD95",
        "95th percentile of all distances between voxels at the borders, in voxels whatever their size; 373 if no "
        "voxel is in both masks, undefined if both are empty.",
        lesionwise2024.INFINITE_MM,
        lesions=False,
    ),
}
_BORDERS = "between voxels at the borders (sizes of voxels taken in reverse order of the axes, as in the package)"
_OVER_2024 = "over lesions that were matched"
_OVER_METASTASES = f"over lesions of {LARGE_MM3:g} mm^3 and more, and over every false positive"


def _means_2024(over: str, edges: tuple[str, str]) -> dict[str, Column]:
    share, distance = edges
    return {
        "dice": Column(title="lesion-wise Dice", definition=f"Mean Dice {over}{share}."),
        "nsd": Column(
            title="lesion-wise NSD",
            definition=f"Mean {over} of the share of both borders within the smallest size of a voxel of the other, "
            f"{_BORDERS}{share}.",
        ),
        "hd95": _distance(
            "lesion-wise HD95",
            f"Mean {over} of the 95th percentile of all distances {_BORDERS}{distance}.",
            lesionwise2024.INFINITE_MM,
        ),
    }


_PLAIN_2024 = {
    **_means_2024(
        _OVER_2024,
        (
            "; 0 where none was, undefined if both masks are empty",
            "; infinite where none was, undefined if both masks are empty",
        ),
    ),
    **_COLUMNS_2024,
}
_METASTASES_2024 = {
    **_means_2024(
        _OVER_METASTASES,
        (
            "; 0 for each that was not matched; undefined without such a lesion in the reference",
            "; 373 mm for each that was not matched; undefined without such a lesion in the reference",
        ),
    ),
    **_COLUMNS_2024,
    **{
        f"{which}_{name}": column
        for which, limit in (("large", f"of {LARGE_MM3:g} mm^3 and more"), ("small", f"below {LARGE_MM3:g} mm^3"))
        for name, column in {
            **_counts(f"{which} ", _FP_2024, 0.0),
            **_shares(
                f"{which} ",
                f"lesions {limit} are found from a Dice of {FOUND_DICE} on, false positives are those "
                "of any size; undefined without such a lesion in the reference",
            ),
        }.items()
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """One challenge.

    Args:
        title: its name.
        table: measures all its columns at once.
        columns: by name, in the order of the report.
        how: how lesions are told apart and matched, in a sentence.
        source: whose definition that is, with version.
    """

    title: str
    table: Table
    columns: Mapping[str, Column]
    how: str
    source: str


_SOURCE_2023 = "BraTS 2023 official script (rachitsaluja/BraTS-2023-Metrics), surface-distance 0.1"
_SOURCE_2024 = "BraTS 2024 and later: brats-evaluation 0.0.10 on panoptica 2.1.7"
#: Shared by challenges with the same rules, so that what they have in common is measured once.
_GROWN_THREE = Brats2023(dilation=3, volume_mm3=50)


def _in_2023(title: str, rules: Brats2023) -> Challenge:
    return Challenge(
        title=f"BraTS 2023 {title}",
        table=rules,
        columns=_COLUMNS_2023,
        how=f"Lesions of the reference that touch after growing by {rules.dilation} voxel(s) (18 neighbours) are one, "
        f"those of up to {rules.volume_mm3:g} mm^3 do not count; near is what the grown lesion touches.",
        source=_SOURCE_2023,
    )


def _since_2024(title: str, table: Table = brats2024, columns: Mapping[str, Column] = _PLAIN_2024) -> Challenge:
    return Challenge(
        title=f"BraTS 2024 {title}",
        table=table,
        columns=columns,
        how="Lesions and predicted components (26 neighbours) are matched one to one for the largest sum of Dice.",
        source=_SOURCE_2024,
    )


#: By the name of the group of its columns.
CHALLENGES: dict[str, Challenge] = {
    "brats2023_gli": _in_2023("GLI", _GROWN_THREE),
    "brats2023_ssa": _in_2023("SSA", _GROWN_THREE),
    "brats2023_ped": _in_2023("PED", _GROWN_THREE),
    "brats2023_men": _in_2023("MEN", Brats2023(dilation=1, volume_mm3=50)),
    "brats2023_met": _in_2023("MET", Brats2023(dilation=1, volume_mm3=2)),
    "brats2024_gli": _since_2024("GLI"),
    "brats2024_ped": _since_2024("PED"),
    "brats2024_men": _since_2024("MEN"),
    "brats2024_goat": _since_2024("GoAT"),
    "brats2024_menrt": _since_2024("MEN-RT"),
    "brats2024_met": _since_2024("MET", metastases2024, _METASTASES_2024),
}
