"""Structures of known data sets have codes that pydicom's dictionary knows, and users' own go before them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pydicom.sr.codedict import codes as dictionary
from skimage.color import rgb2lab

from medmamba.errors import DataError
from medmamba.io.dicom.codes import Coding, Term, codings, read_codes
from medmamba.io.dicom.colours import PALETTE, lab
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
        (["liver", "cancer"], ["10200004", "108369006"]),
        (["pancreas", "Tumour"], ["15776009", "108369006"]),
        (["colon cancer primaries"], ["86049000"]),
        (["PZ", "TZ"], ["279706003", "399384005"]),
        (["left_atrium"], ["82471001"]),
        (["right kidney", "Left_Kidney"], ["64033007", "64033007"]),
    ],
)
def test_structures_of_the_decathlon_are_known(names: list[str], types: list[str]) -> None:
    assert [coding.type.value for coding in codings(names).values()] == types


def test_part_and_side_are_modifiers() -> None:
    side = codings(["left kidney"])["left kidney"].modifier
    assert side is not None
    assert side.meaning == "Left"
    meaning = codings(["Anterior", "Posterior"], dataset="Task04_Hippocampus")
    assert {coding.type.meaning for coding in meaning.values()} == {"Hippocampus"}
    front = meaning["Anterior"].modifier
    assert front is not None
    assert front.meaning == "Anterior"


@pytest.mark.parametrize(
    ("names", "meanings"),
    [
        (["tumour", "cancer", "Tumor"], {"Neoplasm"}),
        (["metastasis", "liver lesion", "odd tumours", "haemorrhage"], {"Lesion"}),
        (["no tumour", "tumour-free liver", "peritumoral", "healthy, without lesions"], {"Tissue"}),
        (["Anterior", "Posterior"], {"Tissue"}),  # of what is not told
        (["Anterior", "left kidney"], {"Tissue", "Kidney"}),
        (["CC", "thing"], {"Tissue"}),  # corpus callosum, or a cystic component
        (["LV", "thalamus"], {"Tissue"}),  # lateral or left ventricle
        (["NC", "NCR"], {"Tissue"}),  # one and the same
        (["WT", "TC"], {"Neoplasm"}),
        (["LV", "MYO"], {"Left ventricle", "Left Ventricle Myocardium"}),
    ],
)
def test_codes_say_no_more_than_names(names: list[str], meanings: set[str]) -> None:
    assert {coding.type.meaning for coding in codings(names).values()} == meanings


def test_unknown_structure_is_tissue_or_a_lesion_and_has_a_colour() -> None:
    meaning = codings(["thing", "odd tumour"])
    assert meaning["thing"].type.meaning == "Tissue"
    assert meaning["odd tumour"].type.meaning == "Lesion"
    assert [meaning["thing"].colour, meaning["odd tumour"].colour] == list(PALETTE[:2])


@pytest.mark.parametrize("names", [["left kidney", "right kidney", "colon", "esophagus"], [f"s{n}" for n in range(60)]])
def test_colours_are_told_apart(names: list[str]) -> None:
    colours = lab(np.array([coding.colour for coding in codings(names).values()], float))
    away = np.linalg.norm(colours[:, None] - colours, axis=-1)[~np.eye(len(names), dtype=bool)]
    assert away.min() > 10


def test_lightness_and_hue_are_those_of_skimage() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (50, 3))
    np.testing.assert_allclose(lab(colours), rgb2lab(colours[None].astype(np.uint8))[0], atol=0.05)


def test_users_colours_stay_and_others_give_way() -> None:
    organ = Term(value="1", meaning="Organ")
    own = {name: Coding(category=organ, type=organ, colour=(221, 130, 101)) for name in ("spleen", "thing")}
    meaning = codings(["liver", "spleen", "thing"], own)
    assert meaning["spleen"].colour == meaning["thing"].colour == (221, 130, 101)
    assert meaning["liver"].colour != (221, 130, 101)


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
    for meaning in ("Li\\ver", "Liver ", "Li\tver"):
        file.write_text(json.dumps({"liver": {"category": organ, "type": {"value": "1", "meaning": meaning}}}))
        with pytest.raises(DataError, match="no backslash, tab, or blank"):
            read_codes(file)
    file.write_text(json.dumps({"liver": {"category": organ, "type": organ, "colour": [0, 0, 256]}}))
    with pytest.raises(DataError, match="from 0 to 255"):
        read_codes(file)
