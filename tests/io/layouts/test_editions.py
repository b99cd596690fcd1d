"""The table of editions: what is painted can be read again, and names and values are those of the challenges."""

from __future__ import annotations

import pytest

from medmamba.errors import UsageError
from medmamba.io.layouts.editions import (
    ALIASES,
    EDITIONS,
    edition,
    labels_of_edition,
    like_editions,
    modality,
    patient_of,
)
from medmamba.io.regions import lost_values


@pytest.mark.parametrize("name", EDITIONS)
def test_regions_survive_being_painted_into_one_label_map(name: str) -> None:
    labels = labels_of_edition(name)
    assert not labels.has_regions or lost_values(labels.foreground, labels.region_order) == {}
    assert labels.allowed_values == (0, *EDITIONS[name].values)
    assert all(modality(channel) for channel in EDITIONS[name].channels)


@pytest.mark.parametrize(
    ("case", "names"),
    [
        ("BraTS2013_pat0001", ["brats2013"]),
        ("Brats18_TCIA08_242_1", ["brats2018"]),
        ("BraTS19_2013_10_1", ["brats2019"]),
        ("BraTS20_Validation_125", ["brats2020"]),
        ("BraTS2021_00495", ["brats2021"]),
        ("BraTS-GLI-00000-000", ["brats2023-gli"]),
        ("BraTS-GLI-02405-100", ["brats2024-gli"]),
        ("BraTS-SSA-00002-000", ["brats2023-ssa"]),
        ("BraTS-MEN-00004-000", ["brats2023-men", "brats2024-men"]),
        ("BraTS-MEN-RT-0060-1", ["brats2024-menrt"]),
        ("BraTS-MET-00110-000", ["brats2023-met", "brats2024-met"]),
        ("BraTS-PED-00003-000", ["brats2023-ped", "brats2024-ped"]),
        ("BraTS-GoAT-01845", ["brats2024-goat"]),
        ("BRATS_001", ["msd"]),
        ("anna", []),
    ],
)
def test_names_of_cases_tell_editions(case: str, names: list[str]) -> None:
    assert [each.name for each in EDITIONS.values() if each.bears(case)] == names


@pytest.mark.parametrize(
    ("name", "regions"),
    [
        ("brats2013", {"WT": (1, 2, 3, 4), "TC": (1, 3, 4), "ET": (4,)}),
        ("brats2021", {"WT": (1, 2, 4), "TC": (1, 4), "ET": (4,)}),
        ("brats2023-ped", {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}),
        ("brats2024-gli", {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,), "NETC": (1,), "SNFH": (2,), "RC": (4,)}),
        (
            "brats2024-ped",
            {"WT": (1, 2, 3, 4), "TC": (1, 2, 3), "ET": (1,), "NET": (2,), "CC": (3,), "ED": (4,)},
        ),
        ("brats2024-menrt", {"GTV": (1,)}),
        ("msd", {"WT": (1, 2, 3), "TC": (2, 3), "ET": (3,)}),
    ],
)
def test_regions_are_those_of_the_challenge(name: str, regions: dict[str, tuple[int, ...]]) -> None:
    assert {label.name: label.values for label in labels_of_edition(name).foreground} == regions


def test_editions_agree_where_common_regions_have_the_same_values_among_those_seen() -> None:
    gli, later = EDITIONS["brats2023-gli"], EDITIONS["brats2024-gli"]
    assert gli.agrees(later, {1, 2, 3})
    assert EDITIONS["brats2013"].agrees(EDITIONS["brats2020"], {1, 2, 4})
    assert not EDITIONS["brats2021"].agrees(later, {1, 2, 4})
    assert not EDITIONS["brats2023-ped"].agrees(EDITIONS["brats2024-ped"], {1, 2})
    assert not gli.agrees(EDITIONS["brats2024-menrt"], {1})


def test_unknown_edition_lists_all() -> None:
    with pytest.raises(
        UsageError, match=r"no edition 'brats2022'.*brats2013.*brats2024-menrt, msd, or of .*brats2025-gli"
    ):
        edition("brats2022")


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ("BraTS2023-GLI", "brats2023-gli"),
        ("brats2017", "brats2018"),
        ("BraTS2025-MenRT", "brats2024-menrt"),
        ("brats2024-ssa", "brats2023-ssa"),
    ],
)
def test_years_with_the_values_of_another_are_read_as_that_one_whatever_the_capitals(told: str, name: str) -> None:
    assert edition(told) is EDITIONS[name]


def test_aliases_lead_to_editions_and_are_none_themselves() -> None:
    assert set(ALIASES.values()) <= EDITIONS.keys()
    assert not ALIASES.keys() & EDITIONS.keys()


def test_scans_of_one_patient_share_its_name() -> None:
    assert patient_of("BraTS-GLI-00005-100") == patient_of("BraTS-GLI-00005-101") == "BraTS-GLI-00005"
    assert patient_of("BraTS-MEN-RT-0060-1") == "BraTS-MEN-RT-0060"
    assert patient_of("BraTS-GoAT-01845") == "BraTS-GoAT-01845"
    assert patient_of("BraTS2021_00495") == "BraTS2021_00495"


def test_values_with_the_gap_of_the_first_editions_are_known() -> None:
    assert "1, 2, 4 are those of brats2018, brats2019, brats2020, brats2021" in like_editions([0, 1, 2, 4])
    assert like_editions([0, 1, 2, 3]) == like_editions([1, 2, 5]) == like_editions([0]) == ""
