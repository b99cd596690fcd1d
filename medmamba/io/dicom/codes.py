"""What structures are in SNOMED CT, and the colour to show them in.

A code says to every program what a name in one language says to people. Those here are by pydicom's dictionary, of the
terms that DICOM PS3.16 recommends for segments (CID 7150 and what it includes). None says more than the name does: a
tumour is a neoplasm and not a malignant one, and letters that stand for several things mean something only beside the
others of their set. A structure that no row names is a lesion where its name speaks of one, or else a tissue, and keeps
its name. Users give their own in a file, see `read_codes`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from medmamba.errors import DataError
from medmamba.io.dicom.colours import Colour, distinct
from medmamba.records import from_json, read_json

if TYPE_CHECKING:
    from pydicom.sr.coding import Code


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """A term of a coding scheme.

    Args:
        value: its number, at most 16 characters.
        meaning: in words, at most 64 characters.
        scheme: whose it is: SNOMED CT by itself.
    """

    value: str
    meaning: str
    scheme: str = "SCT"

    def __post_init__(self) -> None:
        for what, text, most in (("value", self.value, 16), ("scheme", self.scheme, 16), ("meaning", self.meaning, 64)):
            if not 0 < len(text) <= most:
                raise DataError(f"{what} of a code has 1 to {most} characters, got {text!r}")
            if text != text.strip() or "\\" in text or not text.isprintable():
                raise DataError(f"{what} of a code has no backslash, tab, or blank at its ends, got {text!r}")

    @classmethod
    def known(cls, keyword: str) -> Term:
        """A term of SNOMED CT by pydicom's keyword for it."""
        from pydicom.sr.codedict import codes

        code: Code = getattr(codes.SCT, keyword)
        return cls(value=code.value, meaning=code.meaning, scheme=code.scheme_designator)


@dataclass(frozen=True, slots=True, kw_only=True)
class Coding:
    """What a structure is.

    Args:
        category: the kind of thing, of CID 7150.
        type: the thing.
        modifier: side or part of it, where it has one.
        colour: to show it in; None: one of its own, see `medmamba.io.dicom.colours`.
    """

    category: Term
    type: Term
    modifier: Term | None = None
    colour: Colour | None = None

    def __post_init__(self) -> None:
        if self.colour is not None and not all(0 <= part <= 255 for part in self.colour):
            raise DataError(f"a colour is red, green and blue from 0 to 255, got {list(self.colour)}")


@dataclass(frozen=True, slots=True)
class _Row:
    """Names of one structure, and pydicom's keywords for what it is."""

    names: str
    category: str
    type: str
    modifier: str = ""
    colour: Colour | None = None

    def coding(self) -> Coding:
        return Coding(
            category=Term.known(self.category),
            type=Term.known(self.type),
            modifier=Term.known(self.modifier) if self.modifier else None,
            colour=self.colour,
        )


_ORGAN, _ABNORMAL, _TISSUE = "AnatomicalStructure", "MorphologicallyAbnormalStructure", "Tissue"
_TABLE = (
    # BraTS in words; colours as its figures have them
    _Row("whole tumor|whole tumour", _ABNORMAL, "Neoplasm", colour=(0, 176, 80)),
    _Row("tumor core|tumour core", _ABNORMAL, "Neoplasm", colour=(230, 60, 50)),
    _Row("enhancing tumor|enhancing tumour", _ABNORMAL, "Neoplasm", colour=(255, 217, 47)),
    _Row("non enhancing tumor|non enhancing tumour", _ABNORMAL, "Neoplasm", colour=(200, 40, 40)),
    _Row("necrosis|necrotic core", _ABNORMAL, "Necrosis", colour=(200, 40, 40)),
    _Row("edema|oedema", _ABNORMAL, "Edema", colour=(0, 176, 80)),
    _Row("resection cavity", _ABNORMAL, "Lesion", colour=(148, 103, 189)),
    _Row("gtv|gross tumor volume", _ABNORMAL, "Neoplasm", colour=(230, 60, 50)),
    # the Decathlon, and abdominal and cardiac sets
    _Row("cancer|tumor|tumour|lung cancer", _ABNORMAL, "Neoplasm", colour=(213, 94, 0)),
    _Row("colon cancer primaries", _ABNORMAL, "MalignantNeoplasmPrimary", colour=(213, 94, 0)),
    _Row("left atrium", _ORGAN, "LeftAtrium", colour=(152, 55, 13)),
    _Row("left ventricle", _ORGAN, "LeftVentricle", colour=(177, 122, 101)),
    _Row("right ventricle", _ORGAN, "RightVentricle", colour=(181, 85, 57)),
    _Row("liver", _ORGAN, "Liver", colour=(221, 130, 101)),
    _Row("spleen", _ORGAN, "Spleen", colour=(157, 108, 162)),
    _Row("pancreas", _ORGAN, "Pancreas", colour=(249, 180, 111)),
    _Row("vessel|vessels|hepatic vessel", _ORGAN, "BloodVessel", colour=(206, 110, 84)),
    _Row("prostate", _ORGAN, "Prostate", colour=(230, 158, 140)),
    _Row("right kidney|kidney right", _ORGAN, "Kidney", "Right", (185, 102, 83)),
    _Row("left kidney|kidney left", _ORGAN, "Kidney", "Left", (185, 102, 83)),
    _Row("kidney", _ORGAN, "Kidney", colour=(185, 102, 83)),
    _Row("right lung|lung right", _ORGAN, "Lung", "Right", (197, 165, 145)),
    _Row("left lung|lung left", _ORGAN, "Lung", "Left", (197, 165, 145)),
    _Row("lung|lungs", _ORGAN, "Lung", colour=(197, 165, 145)),
    _Row("right adrenal gland", _ORGAN, "AdrenalGland", "Right", (244, 186, 150)),
    _Row("left adrenal gland", _ORGAN, "AdrenalGland", "Left", (244, 186, 150)),
    _Row("gallbladder|gall bladder", _ORGAN, "Gallbladder", colour=(139, 150, 98)),
    _Row("esophagus|oesophagus", _ORGAN, "Esophagus", colour=(211, 171, 143)),
    _Row("stomach", _ORGAN, "Stomach", colour=(216, 132, 105)),
    _Row("duodenum", _ORGAN, "Duodenum", colour=(255, 253, 229)),
    _Row("colon", _ORGAN, "Colon", colour=(204, 168, 143)),
    _Row("bladder|urinary bladder", _ORGAN, "Bladder", colour=(222, 154, 132)),
    _Row("aorta", _ORGAN, "Aorta", colour=(224, 97, 76)),
    _Row("inferior vena cava|postcava", _ORGAN, "InferiorVenaCava", colour=(0, 151, 206)),
    _Row("portal vein", _ORGAN, "PortalVein", colour=(0, 151, 206)),
    # brains
    _Row("brain", _ORGAN, "Brain", colour=(250, 250, 225)),
    _Row("hippocampus", _ORGAN, "Hippocampus", colour=(86, 180, 233)),
    _Row("white matter", _TISSUE, "WhiteMatter", colour=(250, 250, 225)),
    _Row("grey matter|gray matter", _TISSUE, "GrayMatter", colour=(200, 200, 215)),
    _Row("cerebrospinal fluid", _TISSUE, "CerebrospinalFluid", colour=(85, 188, 255)),
    _Row("lesion|lesions|ms lesion|ms lesions|white matter lesion", _ABNORMAL, "Lesion", colour=(230, 60, 50)),
)


@dataclass(frozen=True, slots=True)
class _Set:
    """Names that mean something only where at least two of them are there, and in data sets of a certain name."""

    rows: tuple[_Row, ...]
    dataset: str = ""

    def names(self) -> dict[str, _Row]:
        return {name: row for row in self.rows for name in row.names.split("|")}


_SETS = (
    _Set(  # BraTS: regions, and the values of each edition
        (
            _Row("wt", _ABNORMAL, "Neoplasm", colour=(0, 176, 80)),
            _Row("tc", _ABNORMAL, "Neoplasm", colour=(230, 60, 50)),
            _Row("et", _ABNORMAL, "Neoplasm", colour=(255, 217, 47)),
            _Row("ncr|nc", _ABNORMAL, "Necrosis", colour=(200, 40, 40)),
            _Row("ed", _ABNORMAL, "Edema", colour=(0, 176, 80)),
            _Row("snfh", _ABNORMAL, "Lesion", colour=(0, 176, 80)),  # oedema, infiltration and scars alike
            _Row("net|netc|ncr net", _ABNORMAL, "Neoplasm", colour=(200, 40, 40)),
            _Row("cc|cystic component", _ABNORMAL, "Cyst", colour=(86, 180, 233)),
            _Row("rc", _ABNORMAL, "Lesion", colour=(148, 103, 189)),
        )
    ),
    _Set(  # hearts
        (
            _Row("lv|lvc|left ventricle", _ORGAN, "LeftVentricle", colour=(177, 122, 101)),
            _Row("rv|right ventricle", _ORGAN, "RightVentricle", colour=(181, 85, 57)),
            _Row("myo|mlv|myocardium", _ORGAN, "LeftVentricleMyocardium", colour=(192, 104, 88)),
        )
    ),
    _Set(
        (
            _Row("pz|peripheral zone", _ORGAN, "PeripheralZoneOfTheProstate", colour=(86, 180, 233)),
            _Row("tz|transition zone", _ORGAN, "TransitionZoneOfTheProstate", colour=(230, 159, 0)),
        )
    ),
    _Set(
        (
            _Row("wm|white matter", _TISSUE, "WhiteMatter", colour=(250, 250, 225)),
            _Row("gm|grey matter|gray matter", _TISSUE, "GrayMatter", colour=(200, 200, 215)),
            _Row("csf", _TISSUE, "CerebrospinalFluid", colour=(85, 188, 255)),
        )
    ),
    _Set(
        (
            _Row("anterior", _ORGAN, "Hippocampus", "Anterior", (230, 159, 0)),
            _Row("posterior", _ORGAN, "Hippocampus", "Posterior", (86, 180, 233)),
        ),
        dataset="hippocamp",
    ),
)
_BY_NAME = {name: row for row in _TABLE for name in row.names.split("|")}
_OF_DISEASE = re.compile(
    r"\b((tumou?r|lesion|cancer|carcinoma|plaque|infarct)s?|metastas[ie]s|metastatic|neoplasms?|neoplastic|infarction"
    r"|ha?emorrhages?)\b"
)
#: Of what is said not to be there.
_BUT_NOT = re.compile(r"\b(no|non|not|without|free|minus|excluding|healthy|normal)\b")
_LESION, _OTHER = _Row("", _ABNORMAL, "Lesion"), _Row("", _TISSUE, "Tissue")


def codings(names: Iterable[str], own: Mapping[str, Coding] | None = None, *, dataset: str = "") -> dict[str, Coding]:
    """What each structure of a data set is, each with a colour, no two the same but where users say so.

    Args:
        names: of all its structures, for some mean something only beside others.
        own: the user's, which go before all others.
        dataset: what it is called, for some mean something in it alone.
    """
    words = {name: " ".join(re.findall(r"[a-z0-9]+", name.lower())) for name in names}
    rows = dict(_BY_NAME)
    for each in _SETS:
        known = each.names()
        if len({id(known[word]) for word in words.values() if word in known}) > 1 and each.dataset in dataset.lower():
            rows |= known
    found = {name: (own or {}).get(name) or _row(words[name], rows).coding() for name in words}
    given = {name: coding.colour for name, coding in (own or {}).items() if name in found}
    colours = distinct({name: coding.colour for name, coding in found.items()}, keep=given)
    return {name: replace(coding, colour=colours[name]) for name, coding in found.items()}


def _row(words: str, rows: Mapping[str, _Row]) -> _Row:
    if words in rows:
        return rows[words]
    return _LESION if _OF_DISEASE.search(words) and not _BUT_NOT.search(words) else _OTHER


def read_codes(path: Path) -> dict[str, Coding]:
    """The user's codes, by names of structures.

    A JSON object: ``{"Liver": {"category": {"value": "91723000", "meaning": "Anatomical Structure"}, "type": {"value":
    "10200004", "meaning": "Liver"}, "colour": [221, 130, 101]}}``. A term may have a ``scheme`` (``SCT``), a structure
    a ``modifier`` and no ``colour``.

    Raises:
        FileNotFoundError: if there is no such file.
        RecordError: if it does not hold this, naming the place.
        DataError: if a code is too long.
    """
    return from_json(_Codes, {"codes": read_json(path)}, str(path)).codes


@dataclass(frozen=True, slots=True)
class _Codes:
    codes: dict[str, Coding]
