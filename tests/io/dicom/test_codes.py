"""Structures of known data sets have codes that pydicom's dictionary knows, and users' own go before them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydicom.sr.codedict import codes as dictionary

from medmamba.errors import DataError
from medmamba.io.dicom.codes import PALETTE, codings, read_codes
from medmamba.io.layouts.editions import EDITIONS
from medmamba.records import RecordError


def test_every_region_of_brats_is_known() -> None:
    for edition in EDITIONS.values():
        meaning = codings(label.name for label in edition.labels.foreground)
        for name, coding in meaning.items():
            assert coding.category.value == dictionary.SCT.MorphologicallyAbnormalStructure.value, name
            assert coding.type.meaning != "Tissue", name


@pytest.mark.parametrize(
    ("names", "types"),
    [
        (["liver", "cancer"], ["10200004", "86049000"]),
        (["Anterior", "Posterior"], ["5366008", "5366008"]),
        (["PZ", "TZ"], ["279706003", "399384005"]),
        (["left_atrium"], ["82471001"]),
        (["right kidney", "Left_Kidney"], ["64033007", "64033007"]),
    ],
)
def test_structures_of_the_decathlon_are_known(names: list[str], types: list[str]) -> None:
    assert [coding.type.value for coding in codings(names).values()] == types


def test_part_and_side_are_modifiers() -> None:
    meaning = codings(["Anterior", "Posterior", "left kidney"])
    assert meaning["Anterior"].type.meaning == "Tissue"  # of what is not told beside a kidney
    assert meaning["left kidney"].modifier is not None
    assert meaning["left kidney"].modifier.meaning == "Left"
    front = codings(["Anterior", "Posterior"])["Anterior"].modifier
    assert front is not None
    assert front.meaning == "Anterior"


def test_unknown_structure_is_tissue_or_a_lesion_and_has_a_colour() -> None:
    meaning = codings(["thing", "odd tumour"])
    assert meaning["thing"].type.meaning == "Tissue"
    assert meaning["odd tumour"].type.meaning == "Lesion"
    assert [meaning["thing"].colour, meaning["odd tumour"].colour] == list(PALETTE[:2])


def test_users_codes_go_before_ours(tmp_path: Path) -> None:
    file = tmp_path / "labels.json"
    organ = {"value": "91723000", "meaning": "Anatomical Structure"}
    own = {"category": organ, "type": {"value": "X1", "scheme": "99OURS", "meaning": "Our liver"}, "colour": [1, 2, 3]}
    file.write_text(json.dumps({"liver": own}))
    meaning = codings(["liver", "spleen"], read_codes(file))
    assert (meaning["liver"].type.scheme, meaning["liver"].colour) == ("99OURS", (1, 2, 3))
    assert meaning["spleen"].type.meaning == "Spleen"


def test_wrong_file_of_codes_is_refused_naming_the_place(tmp_path: Path) -> None:
    file = tmp_path / "labels.json"
    organ = {"value": "91723000", "meaning": "Anatomical Structure"}
    file.write_text(json.dumps({"liver": {"category": organ}}))
    with pytest.raises(RecordError, match=r"labels\.json\.codes\.liver: missing key type"):
        read_codes(file)
    file.write_text(json.dumps({"liver": {"category": organ, "type": {"value": "1" * 17, "meaning": "Liver"}}}))
    with pytest.raises(DataError, match="1 to 16 characters"):
        read_codes(file)
    file.write_text(json.dumps({"liver": {"category": organ, "type": organ, "colour": [0, 0, 256]}}))
    with pytest.raises(DataError, match="from 0 to 255"):
        read_codes(file)
