"""Editions of the Brain Tumour Segmentation challenge (BraTS): what their cases are called and their labels mean.

One row of the table is one edition. A value means other things in other editions: 4 is enhancing tumour up to 2021 and
the resection cavity of gliomas from 2024 on, 1 is necrosis in most and enhancing tumour in children from 2024 on. So an
edition is found by the names of cases *and* the values in label maps (`medmamba.io.layouts.brats`), or told.

Sources: the challenges' pages and papers, see datasets.md.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from medmamba.errors import UsageError
from medmamba.labels import Label, Labels

#: How each modality is spelled, in lower case: in names of files, and in the names that other data sets give channels.
SPELLINGS = {
    "t1": ("t1", "t1n", "t1w"),
    "t1ce": ("t1ce", "t1c", "t1gd"),
    "t2": ("t2", "t2w"),
    "flair": ("flair", "t2f"),
}
#: How label maps are spelled: ``gtv`` in radiotherapy, ``Segm`` in one case of 2020.
LABEL_SPELLINGS = ("seg", "segm", "gtv")
_MODALITIES = {spelled: modality for modality, names in SPELLINGS.items() for spelled in names}
_FIRST, _SECOND = ("t1", "t1ce", "t2", "flair"), ("t1n", "t1c", "t2w", "t2f")
#: A patient in the names of cases since 2023, before the number of the scan.
_PATIENT = re.compile(r"(BraTS-[A-Z]+(?:-RT)?-\d+)-\d+", re.IGNORECASE)


class Region(NamedTuple):
    """A structure: its name, its values, and the value it paints, later ones over earlier ones."""

    name: str
    values: tuple[int, ...]
    paints: int


@dataclass(frozen=True, slots=True)
class Edition:
    """One challenge of one year, or of years that are alike.

    Args:
        name: as it is told, such as ``brats2021``.
        title: year and kind of tumour.
        cases: what a case is called, in full.
        channels: names of the modalities as this edition spells them, in the order of channels.
        values: what each value in a label map means.
        regions: what is learned and scored; they overlap unless there is but one.
    """

    name: str
    title: str
    cases: str
    channels: tuple[str, ...]
    values: dict[int, str]
    regions: tuple[Region, ...]

    def bears(self, case: str) -> bool:
        """Whether a case may be called so in this edition."""
        return re.fullmatch(self.cases, case, re.IGNORECASE) is not None

    def holds(self, values: Iterable[int]) -> bool:
        """Whether its label maps may hold nothing but these values, and background."""
        return set(values) <= {0, *self.values}

    @property
    def labels(self) -> Labels:
        """Its regions."""
        several = len(self.regions) > 1
        return Labels(
            foreground=tuple(Label(name=region.name, values=region.values) for region in self.regions),
            region_order=tuple(region.paints for region in self.regions) if several else (),
        )

    def agrees(self, other: Edition, values: Collection[int]) -> bool:
        """Whether these values make the same regions in another edition, of those that both have."""
        ours, theirs = ({r.name: set(r.values) & set(values) for r in each.regions} for each in (self, other))
        common = ours.keys() & theirs.keys()
        return bool(common) and all(ours[name] == theirs[name] for name in common)


_UP_TO_2021 = (Region("WT", (1, 2, 4), 2), Region("TC", (1, 4), 1), Region("ET", (4,), 4))
_SINCE_2023 = (Region("WT", (1, 2, 3), 2), Region("TC", (1, 3), 1), Region("ET", (3,), 3))
_CAVITY = Region("RC", (4,), 4)
_NECROSIS = {1: "NCR", 2: "ED", 3: "ET"}
_NONENHANCING = {1: "NETC", 2: "SNFH", 3: "ET"}


def _adults(year: int, cases: str, necrosis: str = "NCR/NET") -> Edition:
    title = f"BraTS {year}, glioma before treatment"
    return Edition(f"brats{year}", title, cases, _FIRST, {1: necrosis, 2: "ED", 4: "ET"}, _UP_TO_2021)


EDITIONS: dict[str, Edition] = {
    row.name: row
    for row in (
        Edition(
            "brats2013",
            "BraTS 2013 to 2015, glioma",
            r"brats_?(2013|2015|tcia).*",
            _FIRST,
            {1: "NCR", 2: "ED", 3: "NET", 4: "ET"},
            (Region("WT", (1, 2, 3, 4), 2), Region("TC", (1, 3, 4), 1), Region("ET", (4,), 4)),
        ),
        _adults(2018, r"brats18_.+"),
        _adults(2019, r"brats19_.+"),
        _adults(2020, r"brats20_.+"),
        _adults(2021, r"brats2021_\d+", "NCR"),
        Edition("brats2023-gli", "BraTS 2023, glioma", r"brats-gli-\d+-0\d\d", _SECOND, _NECROSIS, _SINCE_2023),
        Edition("brats2023-ssa", "BraTS 2023, Africa", r"brats-ssa-\d+-\d+", _SECOND, _NECROSIS, _SINCE_2023),
        Edition("brats2023-men", "BraTS 2023, meningioma", r"brats-men-\d+-\d+", _SECOND, _NONENHANCING, _SINCE_2023),
        Edition("brats2023-met", "BraTS 2023, metastases", r"brats-met-\d+-\d+", _SECOND, _NONENHANCING, _SINCE_2023),
        Edition(
            "brats2023-ped",
            "BraTS 2023, children",
            r"brats-ped-\d+-\d+",
            _SECOND,
            {1: "NC", 2: "ED", 3: "ET"},
            _SINCE_2023,
        ),
        Edition(
            "brats2024-gli",
            "BraTS 2024 and 2025, glioma after treatment",
            r"brats-gli-\d+-[1-9]\d\d",  # sessions before treatment are numbered from 000, those after it from 100
            _SECOND,
            {**_NONENHANCING, 4: "RC"},
            (*_SINCE_2023, Region("NETC", (1,), 1), Region("SNFH", (2,), 2), _CAVITY),
        ),
        Edition(
            "brats2024-ped",
            "BraTS 2024 and 2025, children",
            r"brats-ped-\d+-\d+",
            _SECOND,
            {1: "ET", 2: "NET", 3: "CC", 4: "ED"},
            (
                Region("WT", (1, 2, 3, 4), 4),
                Region("TC", (1, 2, 3), 2),
                Region("ET", (1,), 1),
                Region("NET", (2,), 2),
                Region("CC", (3,), 3),
                Region("ED", (4,), 4),
            ),
        ),
        Edition(
            "brats2024-met",
            "BraTS 2024 and 2025, metastases",
            r"brats-met-\d+-\d+",
            _SECOND,
            {**_NONENHANCING, 4: "RC"},
            (*_SINCE_2023, _CAVITY),
        ),
        Edition(
            "brats2024-men",
            "BraTS 2024 and 2025, meningioma",
            r"brats-men-\d+-\d+",
            _SECOND,
            _NONENHANCING,
            _SINCE_2023,
        ),
        Edition(
            "brats2024-goat",
            "BraTS 2024 and 2025, all tumours (GoAT)",
            r"brats-goat-\d+(-\d+)?",
            _SECOND,
            _NONENHANCING,
            _SINCE_2023,
        ),
        Edition(
            "brats2024-menrt",
            "BraTS 2024 and 2025, meningioma for radiotherapy",
            r"brats-men-rt-\d+-\d+",
            ("t1c",),
            {1: "GTV"},
            (Region("GTV", (1,), 1),),
        ),
        Edition(
            "msd",
            "Medical Segmentation Decathlon, Task01 BrainTumour",
            r"brats_\d{3}",
            ("FLAIR", "T1w", "t1gd", "T2w"),
            {1: "ED", 2: "NET", 3: "ET"},
            (Region("WT", (1, 2, 3), 1), Region("TC", (2, 3), 2), Region("ET", (3,), 3)),
        ),
    )
}

#: Editions with the values and names of another, under which they are read.
ALIASES = {
    "brats2014": "brats2013",
    "brats2015": "brats2013",
    "brats2017": "brats2018",
    "brats2024-ssa": "brats2023-ssa",
    "brats2025-ssa": "brats2023-ssa",
    **{f"brats2025-{kind}": f"brats2024-{kind}" for kind in ("gli", "ped", "met", "men", "goat", "menrt")},
}

#: Editions that come as folders of cases.
FOLDERS = tuple(each for each in EDITIONS.values() if each.name != "msd")


def find_edition(name: str) -> Edition | None:
    """An edition by its name, or that of another year with the same values, in upper or lower case; None if unknown.

    >>> find_edition("BraTS2025-GLI").name, find_edition("brats2022")
    ('brats2024-gli', None)
    """
    lower = name.casefold()
    return EDITIONS.get(ALIASES.get(lower, lower))


def edition(name: str) -> Edition:
    """As `find_edition`.

    Raises:
        UsageError: if there is none, naming those there are.
    """
    found = find_edition(name)
    if found is None:
        raise UsageError(
            f"there is no edition {name!r} of BraTS; choose one of {', '.join(EDITIONS)}, or of {', '.join(ALIASES)}, "
            "which have the values of one of these"
        )
    return found


def labels_of_edition(name: str) -> Labels:
    """What label values mean in an edition: its regions, which overlap.

    Raises:
        UsageError: if there is no such edition, naming those there are.
    """
    return edition(name).labels


def modality(name: str) -> str | None:
    """Which modality a word stands for, however it is spelled; None for another word.

    >>> modality("t1c"), modality("T1Gd"), modality("FLAIR"), modality("CT")
    ('t1ce', 't1ce', 'flair', None)
    """
    return _MODALITIES.get(name.casefold())


def patient_of(case: str) -> str:
    """Whose scan a case is: of the editions since 2023 all but the last number, else the case itself.

    >>> patient_of("BraTS-GLI-02405-101"), patient_of("BraTS20_Training_001")
    ('BraTS-GLI-02405', 'BraTS20_Training_001')
    """
    found = _PATIENT.fullmatch(case)
    return found[1] if found else case


def like_editions(values: Iterable[int]) -> str:
    """Which editions label maps with exactly these values may be of, in words; empty where nothing suggests BraTS.

    Values without gaps may be of any data set, so that those of BraTS up to 2021 alone tell something.
    """
    found = {value for value in values if value}
    names = [each.name for each in EDITIONS.values() if set(each.values) == found]
    if not names or not has_gap(found):
        return ""
    return f"values {listed(found)} are those of {', '.join(names)}, whose regions --edition gives"


def has_gap(values: Collection[int]) -> bool:
    """Whether label values are others than 1 to their number."""
    return set(values) != set(range(1, len(values) + 1))


def common_editions(groups: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """The editions that are in all of these groups."""
    each = list(groups)
    return tuple(name for name in EDITIONS if each and all(name in names for names in each))


def as_spelled(modalities: Iterable[str], editions: Iterable[str]) -> tuple[str, ...]:
    """Modalities as the first of some editions spells them."""
    names = {modality(name): name for each in islice(editions, 1) for name in EDITIONS[each].channels}
    return tuple(names.get(each, each) for each in modalities)


def names_of(editions: Iterable[Edition]) -> str:
    """Of several editions, for a message."""
    return ", ".join(each.name for each in editions)


def listed(values: Iterable[int]) -> str:
    """Values in order, for a message."""
    return ", ".join(map(str, sorted(values)))
