"""What the program tells to do next, and to do about an error, is done here as it is told."""

from __future__ import annotations

import ast
import itertools
import json
import random
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from medmamba import io, networks
from medmamba.cli._training import TrainingDisplay
from medmamba.cli.main import app
from medmamba.cli.train import parse_time
from medmamba.evaluation.metrics import METRICS
from medmamba.io import open_dataset
from medmamba.io import regions as region_orders
from medmamba.io.check import check_dataset
from medmamba.labels import Label
from medmamba.plans import splits
from medmamba.plans.plan import Plan
from medmamba.training.run import Run
from medmamba.training.trainer import EpochReport
from medmamba.volume import Geometry, Volume
from tests.data_factory import AFFINE, make_case, write_dataset
from tests.umamba_factory import Model, write_model

CHECKOUT = Path(__file__).resolve().parents[2]
SMALL = ("--set", "topology.features=[4, 8, 8]", "--set", "train.batch_size=2")


def run(*arguments: str | Path) -> tuple[int, str]:
    """Exit code and all that a command says."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "400"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def commands(text: str) -> list[list[str]]:
    """The arguments of each command of a printed line, as a shell would take them."""
    words = shlex.split(text)
    parts = [list(part) for end, part in itertools.groupby(words, lambda word: word == "&&") if not end]
    assert parts
    assert all(part[0] == "medmamba" for part in parts), text
    return [part[1:] for part in parts]


def follow(text: str, *more: str | Path, **placeholders: Path) -> str:
    """Run what a line tells to run, with files in the place of words in capitals; what the last command says."""
    said = ""
    for arguments in commands(text):
        filled = [str(placeholders.get(argument, argument)) for argument in arguments]
        code, said = run(*filled, *more)
        assert code == 0, f"{filled}\n{said}"
    return said


def line(text: str, start: str) -> str:
    """What follows a word at the beginning of a line."""
    [found] = [row.removeprefix(start).strip() for row in text.splitlines() if row.startswith(start)]
    return found


def describe(root: Path, **changes: Any) -> Path:
    """Other entries in dataset.json."""
    facts = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps(facts | changes))
    return root


def errors(root: Path, *rules: str) -> list[str]:
    """Messages of a check: of some rules, or of all errors."""
    found = check_dataset(root)
    return [each.message for each in found if (each.rule in rules if rules else each.severity == "error")]


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """Data set, plan, and what planning said; spaces and quotes are in every path."""
    root = tmp_path_factory.mktemp("it's mine")
    data = write_dataset(root / "my data", cases=3)
    code, said = run("plan", data, "--work", root / "my work")
    assert code == 0, said
    [plan] = root.glob("my work/*/*/plan.json")
    return data, plan, said


@pytest.fixture(scope="module")
def trained(planned: tuple[Path, Path, str]) -> tuple[Path, str]:
    """Run folder of fold 0, and what training said; the command is the one that planning gave."""
    _, plan, said = planned
    said = follow(line(said, "next "), "--steps", "1", *SMALL)
    return plan.parent / "fold_0", said


def test_next_of_planning_trains_and_its_next_predicts_and_scores(
    trained: tuple[Path, str], planned: tuple[Path, Path, str]
) -> None:
    said = follow(line(trained[1], "Next:"))
    report = json.loads((trained[0] / "predictions" / "report.json").read_text())
    held_out = Run(trained[0]).info.split.held_out
    assert [case["id"] for case in report["cases"]] == list(held_out)
    assert report["counts"] == {"scored": len(held_out), "failed": 0, "skipped": 0}
    assert "references are of cases that `medmamba predict` was not asked for" in said


def test_next_of_training_on_all_cases_asks_for_new_ones(
    trained: tuple[Path, str], planned: tuple[Path, Path, str], tmp_path: Path
) -> None:
    _, plan, _ = planned
    code, said = run("train", plan, "--fold", "all", "--steps", 1, *SMALL)
    assert code == 0, said
    follow(line(said, "Next:"), "--no-mirror", IMAGES=one_image(tmp_path), SEGMENTATIONS=tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").glob("*.nii.gz")] == ["new.nii.gz"]
    # Every case was learned from: what comes of judging on them would look better than it is.
    code, said = run("predict", "--validation", "-m", plan.parent / "fold_all", "-o", tmp_path / "none")
    assert (code, "no cases to validate on; give images with -i instead of --validation" in said) == (2, True), said
    assert not (tmp_path / "none").exists()
    # Of several folds one is to be chosen, and those there are named.
    code, said = run("predict", "--validation", "-m", plan.parent, "-o", tmp_path / "none")
    assert code == 2
    assert f"give one of {plan.parent / 'fold_0'}, {plan.parent / 'fold_all'} with -m" in said


def one_image(folder: Path) -> Path:
    image, _ = make_case(40)
    (folder / "new scans").mkdir()
    io.write(image, folder / "new scans" / "new.nii.gz")
    return folder / "new scans"


def test_mean_of_a_part_of_the_structures_says_so_during_training(
    trained: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with TrainingDisplay("training") as display:
        display._run = Run(trained[0])
        report = EpochReport(
            epoch=1, epochs=2, step=3, loss=0.5, validation_loss=0.5, dice={"block": 0.25}, elapsed_s=1.0
        )
        display.on_epoch(report)
        assert display._dice == "0.250 over 1 of 2"
    assert "Dice block 0.250 (core in none of the patches)" in capsys.readouterr().err


def test_case_to_validate_on_that_is_gone_is_told(trained: tuple[Path, str], tmp_path: Path) -> None:
    folder = trained[0]
    data = Path(Run(folder).plan.dataset_root)
    [gone] = Run(folder).info.split.held_out
    label = data / "labelsTr" / f"{gone}.nii.gz"
    image = data / "imagesTr" / f"{gone}_0000.nii.gz"
    image.rename(tmp_path / image.name)
    try:
        code, said = run("predict", "--validation", "-m", folder, "-o", tmp_path / "out")
    finally:
        (tmp_path / image.name).rename(image)
    assert label.is_file()
    assert code == 3
    assert f"no longer has 1 of the cases that {folder} is to be judged on: {gone}" in said


def test_single_case_is_planned_and_trained_as_told(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "one", cases=1)
    code, said = run("plan", data, "--work", tmp_path / "work")
    assert code == 0, said
    [arguments] = commands(line(said, "next "))
    assert arguments[-2:] == ["--fold", "all"]
    code, said = run("train", data, "--work", tmp_path / "work")
    assert "with fold 'all'" in said
    assert splits.split(open_dataset(data), "all").train == ("case_00",)


def test_other_settings_start_over_with_restart(trained: tuple[Path, str], planned: tuple[Path, Path, str]) -> None:
    again = ["train", planned[1], "--fold", "0", "--steps", "2", *SMALL]
    code, said = run(*again)
    assert code == 3
    assert "start over with --restart, which sets the old run aside" in said
    code, said = run(*again, "--restart")
    assert code == 0, said
    old = line(said, "The run that was here is now")
    assert Run.exists(Path(old))
    # As it was, for the other tests.
    code, said = run("train", planned[1], "--fold", "0", "--steps", "1", *SMALL, "--restart")
    assert code == 0, said


def test_damaged_weights_leave_the_others_that_are_named(trained: tuple[Path, str], tmp_path: Path) -> None:
    path = trained[0] / "final.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    arguments = ("predict", "-i", one_image(tmp_path), "-o", tmp_path / "out", "-m", trained[0], "--no-mirror")
    try:
        code, said = run(*arguments)
    finally:
        path.write_bytes(whole)
    assert (code, "final.safetensors is damaged" in said) == (3, True), said
    names = re.search(r"predict with others, (--weights) (.+)$", said)
    assert names is not None, said
    for name in names[2].split(" or "):
        assert run(*arguments, "--overwrite", names[1], name)[0] == 0


def test_edited_plan_is_used_as_told_or_replaced_by_force(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "my data", cases=2)
    planning = ("plan", data, "--work", tmp_path / "my work")
    assert run(*planning)[0] == 0
    [path] = tmp_path.glob("my work/*/*/plan.json")
    Plan.load(path).override("topology.features", [4, 8, 8]).override("train.batch_size", 2).save(path)
    code, said = run(*planning)
    assert code == 2
    told = re.search(r"Train with it as it is \((.+)\), or add (--force) to replace it", said)
    assert told is not None, said
    follow(told[1], "--steps", "1")
    assert Run(path.parent / "fold_0").plan.topology.features == (4, 8, 8)
    # Also when the data set is given, the old plan is used only with a word.
    code, said = run("train", data, "--work", tmp_path / "my work", "--steps", 1)
    assert code == 0
    assert "differs from what would be planned now, and is used as it is" in said
    assert "topology.features[0]: 4, new" in said or "topology.features: [4, 8, 8], new" in said
    assert run(*planning, told[2])[0] == 0
    assert Plan.load(path).topology.features != (4, 8, 8)


def test_plan_that_cannot_be_read_is_replaced_by_force(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", cases=2)
    planning = ("plan", data, "--work", tmp_path / "work")
    assert run(*planning)[0] == 0
    [path] = tmp_path.glob("work/*/*/plan.json")
    whole = path.read_text()
    path.write_text(whole[:-20])
    code, said = run(*planning)
    assert (code, f"correct {path}, or replace it by planning with --force" in said) == (3, True), said
    assert run(*planning, "--force")[0] == 0
    assert path.read_text() == whole


def test_channel_that_is_no_rgb_is_renamed_and_planned_again(tmp_path: Path) -> None:
    data = describe(write_dataset(tmp_path / "data", cases=2), channel_names={"0": "rgb_to_0_1"})
    training = ("train", data, "--work", tmp_path / "work", "--steps", 1, *SMALL)
    code, said = run(*training)
    assert (code, "Name the channel otherwise in dataset.json, and plan again with --force" in said) == (3, True), said
    describe(data, channel_names={"0": "MR"})
    assert run("plan", data, "--work", tmp_path / "work", "--force")[0] == 0
    code, said = run(*training)
    assert code == 0, said


def test_imported_model_predicts_by_its_next_line(tmp_path: Path) -> None:
    model = Model(
        patch=(24, 24, 24),
        spacing=(1.5, 1.0, 1.0),
        transpose_forward=(0, 1, 2),
        channels=("MR",),
        schemes=("ZScoreNormalization",),
        use_mask=(False,),
        mirror_axes=(),
    )
    write_model(tmp_path / "theirs", model)
    importing = ("model", "import", "--from", "umamba", tmp_path / "theirs", "-o", tmp_path / "it's ours")
    code, said = run(*importing)
    assert code == 0, said
    follow(line(said, "Next:"), IMAGES=one_image(tmp_path), SEGMENTATIONS=tmp_path / "out")
    code, said = run(*importing)
    assert (code, "replace it with --overwrite" in said) == (2, True)
    assert run(*importing, "--overwrite")[0] == 0


def test_two_data_sets_of_one_name_take_two_work_folders(tmp_path: Path) -> None:
    for place in "ab":
        write_dataset(tmp_path / place / "data", cases=2)
    assert run("plan", tmp_path / "a" / "data", "--work", tmp_path / "work")[0] == 0
    code, said = run("plan", tmp_path / "b" / "data", "--work", tmp_path / "work")
    assert (code, "another work folder" in said) == (3, True)
    assert run("plan", tmp_path / "b" / "data", "--work", tmp_path / "work2")[0] == 0


def test_slices_are_planned_with_the_configuration_that_is_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    geometry = Geometry((40, 36, 1), AFFINE)
    for name, values in (("images", rng.normal(100, 9, (1, 40, 36, 1))), ("labels", np.ones((1, 40, 36, 1), np.uint8))):
        (tmp_path / "flat" / name).mkdir(parents=True)
        for case in "ab":
            array = values.astype(np.float32) if name == "images" else values
            array[0, :20] = array[0, :20] * (name == "images")
            io.write(Volume(array, geometry), tmp_path / "flat" / name / f"{case}.nii.gz")
    code, said = run("plan", tmp_path / "flat", "--configuration", "3d_fullres", "--work", tmp_path / "work")
    named = re.search(r"choose (configuration) (\w+)", said)
    assert code == 3
    assert named is not None, said
    assert run("plan", tmp_path / "flat", f"--{named[1]}", named[2], "--work", tmp_path / "work")[0] == 0


def test_patch_size_that_is_named_as_nearest_is_accepted(planned: tuple[Path, Path, str]) -> None:
    plan = Plan.load(planned[1])
    patch = [size + 1 for size in plan.topology.patch_size]
    for _ in range(plan.topology.dims + 1):
        try:
            found = plan.override("topology.patch_size", patch)
        except ValueError as error:
            named = re.search(r"nearest for axis (\d) is (\d+)", str(error))
            assert named is not None
            patch[int(named[1])] = int(named[2])
        else:
            break
    assert list(found.topology.patch_size) == patch


@pytest.mark.parametrize("key", ["batch_size", "train.batchsize", "topology.patch"])
def test_fields_of_a_plan_that_are_named_are_there(planned: tuple[Path, Path, str], key: str) -> None:
    code, said = run("train", planned[1], "--set", f"{key}=4")
    assert code == 3
    names = said.rpartition("there are ")[2].strip().split(", ")
    assert {"train.batch_size", "topology.patch_size", "train"} & set(names)
    data: dict[str, Any] = json.loads(planned[1].read_text())
    for name in names:
        value: Any = data
        for part in name.split("."):
            value = value[part]
        assert Plan.load(planned[1]).override(name, value) == Plan.load(planned[1])


def test_options_of_a_network_that_are_named_are_taken_by_the_same_command(
    planned: tuple[Path, Path, str], tmp_path: Path
) -> None:
    path = tmp_path / "work" / "data" / "3d_fullres__umamba_bot" / "plan.json"
    path.parent.mkdir(parents=True)
    Plan.load(planned[1]).save(path)
    training = ("train", path, "--steps", 1, *SMALL, "--set")
    code, said = run(*training, "network.options.residual=true")
    named = re.search(r"its options are: (\w+)", said)
    assert code == 3
    assert named is not None, said
    assert not (path.parent / "fold_0").exists()  # or the corrected command would be another one than it began with
    value = json.dumps(networks.describe("umamba_bot").options[named[1]])
    code, said = run(*training, f"network.options.{named[1]}={value}")
    assert code == 0, said


def test_channels_of_images_are_given_as_told(tmp_path: Path) -> None:
    image, _ = make_case(0)
    io.write(image, tmp_path / "a_0000.nii.gz")
    with pytest.raises(ValueError, match="files that end in _0000 to _0001 or one file with all of them"):
        io.find_inputs(tmp_path, 2)
    io.write(image.with_array(image.array * 2), tmp_path / "a_0001.nii.gz")
    io.write(image.with_array(np.concatenate([image.array, image.array * 2])), tmp_path / "b.nii.gz")
    cases = io.find_inputs(tmp_path, 2)
    assert [io.read_case(case).channels for case in cases] == [2, 2]


def test_folds_that_are_named_are_there(planned: tuple[Path, Path, str]) -> None:
    dataset = open_dataset(planned[0])
    with pytest.raises(ValueError, match="has folds") as caught:
        splits.split(dataset, "9")
    numbers = re.search(r"folds (\d) to (\d)", str(caught.value))
    assert numbers is not None
    for number in range(int(numbers[1]), int(numbers[2]) + 1):
        assert splits.split(dataset, str(number)).held_out
    assert splits.split(dataset, "all").held_out == ()


def test_times_that_are_named_are_understood(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        parse_time("soon")
    named = capsys.readouterr().err.partition("such as ")[2].partition(", got")[0].replace(" or ", ", ").split(", ")
    assert [parse_time(time) for time in named] == [90, 1200, 5400, 172800]


def test_networks_and_metrics_that_are_named_exist(planned: tuple[Path, Path, str]) -> None:
    code, said = run("plan", planned[0], "--network", "unett")
    assert code == 2
    for name in said.rpartition("choose one of ")[2].strip().split(", "):
        assert networks.describe(name).task == "segmentation"
    code, said = run("evaluate", planned[0], planned[0], "--metric", "dise")
    assert (code, said.rpartition("choose from ")[2].strip().split(", ")) == (2, list(METRICS))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_devices_that_are_named_work(trained: tuple[Path, str], tmp_path: Path) -> None:
    arguments = ("predict", "-i", one_image(tmp_path), "-o", tmp_path / "out", "-m", trained[0], "--no-mirror")
    code, said = run(*arguments, "--device", "cuda")
    assert code == 4
    named = re.search(r"use (--device) (\w+) or (\w+)", said)
    assert named is not None, said
    for name in named.groups()[1:]:
        assert run(*arguments, named[1], name)[0] == 0


# Data sets: what a check says of dataset.json, done.

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


# Words: options and commands that any text of the program, or its documentation, speaks of.


def options() -> dict[str, set[str]]:
    """Options of every command, by its name."""

    def walk(command: click.Command, name: str) -> Iterator[tuple[str, set[str]]]:
        if hasattr(command, "commands"):  # a group
            for inner, each in command.commands.items():
                yield from walk(each, f"{name} {inner}".strip())
        yield name, {"--help", *(word for each in command.params for word in (*each.opts, *each.secondary_opts))}

    return dict(walk(typer.main.get_command(app), ""))


def texts() -> Iterator[tuple[str, str]]:
    """(place, text) of all strings of the commands and of what they call, formatted values being ``{}``."""
    for folder in ("medmamba", "cli", "plans"):
        for path in sorted((CHECKOUT / folder).rglob("*.py")):
            if folder == "medmamba" and path.relative_to(CHECKOUT).parts[1] in ("cli", "plans", "kernels"):
                continue
            tree = ast.parse(path.read_text(encoding="utf-8"))
            inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
            for node in ast.walk(tree):
                if isinstance(node, ast.JoinedStr):
                    parts = [str(p.value) if isinstance(p, ast.Constant) else "{}" for p in node.values]
                    yield f"{path.name}:{node.lineno}", "".join(parts)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
                    yield f"{path.name}:{node.lineno}", node.value


def test_every_option_that_is_spoken_of_exists() -> None:
    known = set[str]().union(*options().values())
    # Those of git, of nnU-Net and of pip are not ours.
    spoken = {(word, place) for place, text in texts() for word in re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", text)}
    assert len(spoken) > 30
    assert {(word, place) for word, place in spoken if word not in known} == set()


def test_every_command_that_is_spoken_of_exists_with_its_options() -> None:
    known = options()
    pages = [(name, (CHECKOUT / name).read_text(encoding="utf-8")) for name in ("README.md", "datasets.md")]
    found = 0
    for place, text in (*texts(), *pages):
        for written in re.findall(r"(?:^|`|\$ |> )\s*medmamba ((?:[a-z]+ )*[^`\n#]+)", text, flags=re.MULTILINE):
            words = written.split()
            name = " ".join(words[:2]) if words[0] in ("dataset", "model") else words[0]
            if name in ("COMMAND", "--help", "{}") or (place.endswith(".md") and "," in words[0]):
                continue
            assert name in known, f"{place}: medmamba {written}"
            given = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
            assert given <= known[name], f"{place}: medmamba {written}"
            found += 1
    assert found > 20
