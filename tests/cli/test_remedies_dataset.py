"""What a check says of dataset.json is done here as it is told."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medmamba import io
from medmamba.io import regions as region_orders
from medmamba.labels import Label
from tests.cli.remedies import describe, errors
from tests.data_factory import write_dataset

SETS = [
    {"whole": [1, 2, 3], "core": [1, 3], "enhancing": 3},
    {"core": [1, 3], "enhancing": 3, "whole": [1, 2, 3]},
    {"left": [1, 2], "right": [2, 3]},
    {"all": [1, 2, 3, 4], "a": [1, 2], "b": [2, 3], "c": [3, 4]},
    {"both": [1, 2], "also": [1, 2], "c": 3},
    {"a": 1, "b": 1},
]


def rearranged(labels: dict[str, Any], message: str) -> dict[str, Any]:
    """The entries of dataset.json that a message tells to write."""
    for value, name in re.findall(r'such as "(\w+)": \[(\d+)\]', message):
        labels = labels | {value: [int(name)]}
    told = re.search(r'write the regions in the order (.+?), with "regions_class_order": \[([\d, ]+)\]', message)
    if told is None:
        return {"labels": {"background": 0, **labels}, "regions_class_order": [1] * len(labels)}
    names = told[1].split(", ")
    assert sorted(names) == sorted(labels)
    order = [int(value) for value in told[2].split(", ")]
    return {"labels": {"background": 0} | {name: labels[name] for name in names}, "regions_class_order": order}


@pytest.mark.parametrize("labels", SETS, ids=lambda labels: "-".join(labels))
def test_regions_written_as_told_survive(labels: dict[str, Any], tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "data", cases=1)
    # Without an order, with a wrong one, and after each message what it says.
    described = describe(root, labels={"background": 0, **labels})
    messages = errors(described, "layout")
    assert any("regions_class_order" in message for message in messages)
    for _ in range(4):
        entries = rearranged(labels, messages[0])
        labels = {name: values for name, values in entries["labels"].items() if name != "background"}
        messages = errors(describe(root, **entries), "layout", "region-order")
        if not messages:
            break
    assert messages == []


def test_order_of_regions_is_found_wherever_there_is_one() -> None:
    chance = random.Random(0)
    impossible = 0
    for _ in range(300):
        values = range(1, chance.randint(4, 5))
        regions = [
            Label(name=f"r{n}", values=tuple(sorted(chance.sample(values, chance.randint(1, len(values))))))
            for n in range(chance.randint(2, 3))
        ]
        found = region_orders.painting_order(regions)
        if found is None:
            impossible += 1
            for order in itertools.permutations(regions):
                for paints in itertools.product(*(region.values for region in order)):
                    assert region_orders.lost_values(order, paints)
        else:
            assert not region_orders.lost_values(*found)
    assert impossible > 5


def mend_ignore(root: Path, message: str) -> None:
    told = re.search(r"use (\d+), here and in the label maps", message)
    assert told is not None
    labels = json.loads((root / "dataset.json").read_text())["labels"]
    old = labels["ignore"]
    describe(root, labels=labels | {"ignore": int(told[1])})
    for path in (root / "labelsTr").iterdir():
        label = io.read_label(path)
        io.write(label.with_array(np.where(label.array == old, int(told[1]), label.array)), path)


def mend_values(root: Path, message: str) -> None:
    told = re.search(r"perhaps (\d+) to (\d+)", message)
    assert told is not None
    for path in (root / "labelsTr").iterdir():
        label = io.read_label(path)
        io.write(label.with_array(np.where(label.array == int(told[1]), int(told[2]), label.array)), path)


def mend_number(root: Path, message: str) -> None:
    told = re.search(r"(\d+) training cases were found", message)
    assert told is not None
    describe(root, numTraining=int(told[1]))


def mend_ending(root: Path, message: str) -> None:
    told = re.search(r"the files in imagesTr end in '(.+?)'", message)
    assert told is not None
    describe(root, file_ending=told[1])


def mend_channel(root: Path, message: str) -> None:
    told = re.search(r"a file that ends in (_\d{4})", message)
    assert told is not None
    for path in list((root / "imagesTr").glob("*_0000.nii.gz")):
        image = io.read(path)
        io.write(image.with_array(image.array * 2), path.with_name(path.name.replace("_0000", told[1])))


def mend_double(root: Path, message: str) -> None:
    told = re.search(r"same case and channel: (\S+?)[,;]", message)
    assert told is not None
    (root / "imagesTr" / told[1]).unlink()


def second_format(root: Path) -> None:
    image = io.read(root / "imagesTr" / "case_00_0000.nii.gz")
    io.write(image, root / "imagesTr" / "case_00.nii.gz")


@pytest.mark.parametrize(
    ("spoil", "rule", "mend"),
    [
        (
            lambda root: describe(root, labels={"background": 0, "a": 1, "ignore": 2, "b": 5}),
            "ignore-label",
            mend_ignore,
        ),
        (lambda root: describe(root, labels={"background": 0, "block": 1, "core": 4}), "label-values", mend_values),
        (lambda root: describe(root, numTraining=7), "num-training", mend_number),
        (lambda root: describe(root, file_ending=".nrrd"), "layout", mend_ending),
        (lambda root: describe(root, channel_names={"0": "T1", "1": "T2"}), "channels", mend_channel),
        (second_format, "layout", mend_double),
    ],
    ids=["ignore", "values", "number", "ending", "channel", "double"],
)
def test_data_set_that_is_mended_as_told_is_accepted(
    spoil: Callable[[Path], object], rule: str, mend: Callable[[Path, str], None], tmp_path: Path
) -> None:
    root = write_dataset(tmp_path / "data", cases=2)
    spoil(root)
    messages = errors(root, rule)
    assert messages
    mend(root, messages[0])
    assert errors(root, rule) == []
    assert errors(root) == []
