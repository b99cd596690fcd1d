from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from medmamba import io
from medmamba.cli.main import app
from medmamba.cli.plan import plan
from medmamba.plans.plan import Plan
from medmamba.volume import Geometry, Volume
from tests.cli.remedies import follow, line, run, tells
from tests.pairs_factory import write_modalities, write_subjects

runner = CliRunner()


def test_pairs_are_checked_planned_and_trained_on_from_the_command_line(tmp_path: Path) -> None:
    source = str(write_subjects(tmp_path / "brains", 4))
    checked = runner.invoke(app, ["dataset", "check", source, "--task", "registration"])
    assert checked.exit_code == 0, checked.output
    work = str(tmp_path / "work")
    planned = runner.invoke(app, ["plan", source, "--task", "registration", "--work", work, "--json"])
    assert planned.exit_code == 0, planned.output
    facts = json.loads(planned.stdout)["plans"][0]
    assert facts["network"] == "mambamorph"
    small = ["--set", "topology.features=[4,4,8]", "--set", "network.options.feature_width=4"]
    coarse = ["--set", "registration.affine=centres"]
    command = ["train", facts["plan"], "--steps", "2", *small, *coarse, "--workers", "0", "--precision", "fp32"]
    trained = runner.invoke(app, command)
    assert trained.exit_code == 0, trained.output
    run = Path(facts["plan"]).parent / "fold_0"
    assert (run / "final.safetensors").is_file()
    assert (run / "progress.png").is_file()
    assert "Dice before" in trained.output
    told = runner.invoke(app, command).output
    assert "Finished" in told
    assert "affine alone" in follow(line(told, "Next:"))
    noted = json.loads((run / "registered" / "registration.json").read_text())["pairs"]
    split = json.loads((run / "run.json").read_text())["split"]
    assert sorted(noted) == sorted(f"{a}_to_{b}" for a in split["validation"] for b in split["validation"] if a != b)
    assert {each["status"] for each in noted.values()} == {"done"}
    assert (run / "registered" / "report.json").is_file()


def test_options_of_one_task_are_refused_for_the_other(tmp_path: Path) -> None:
    table = str(write_modalities(tmp_path / "pairs", 2))
    for options, words in (
        (["--task", "registration", "--network", "umamba_bot"], "not for registration"),
        (["--network", "mambamorph", "--configuration", "2d"], "are for segmentation"),
        (["--atlas", "p0"], "add --task registration"),
        (["--task", "registration", "--atlas", "a", "--moving", str(tmp_path)], "give one of them"),
        (["--task", "registration", "--direction", "both"], "name it with --atlas"),
    ):
        result = runner.invoke(app, ["plan", table, *options, "--work", str(tmp_path / "work")])
        assert result.exit_code != 0
        assert words in str(result.exception) + result.output


def test_what_is_asked_for_stands_in_the_plan_whatever_was_decided(tmp_path: Path) -> None:
    table, work = str(write_modalities(tmp_path / "pairs", 2)), tmp_path / "work"
    asked = ["--set", "topology.features=[4,8,8]", "--set", "registration.affine=rigid"]
    code, said = run("plan", table, "--task", "registration", "--network", "voxelmorph", "--work", work, *asked)
    assert code == 0, said
    assert all(part in said for part in ("asked for", "registration.affine", "new rigid"))
    [path] = work.glob("*/*/plan.json")
    plan = Plan.load(path)
    assert (plan.topology.features, plan.registration and plan.registration.affine) == ((4, 8, 8), "rigid")
    code, said = run("plan", table, "--task", "registration", "--work", work, "--set", "registration.rigid=1")
    assert code == 2
    assert tells(said, "--set registration.rigid: the plan has no field")
    code, said = run("plan", table, "--task", "registration", "--work", work, "--set", "topology.features=[4,8]")
    assert code == 2
    assert tells(said, "--set topology.features: plan.topology: a topology needs")
    assert tells(
        said, "got 2 features, 3 strides and 3 kernel sizes; change the features to as many as there are strides"
    )


def test_examples_of_the_help_plan_whatever_the_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in write_subjects(tmp_path / "brains", 2).iterdir():  # finer, for more stages than with the others
        coarse = io.read_label(path) if "labels" in path.name else io.read(path)
        array = coarse.array.repeat(2, 1).repeat(2, 2).repeat(2, 3)
        affine = coarse.geometry.affine @ np.diag([0.5, 0.5, 0.5, 1])
        io.write(Volume(array, Geometry(array.shape[1:], affine)), path)
    write_modalities(tmp_path, 2)
    monkeypatch.chdir(tmp_path)
    told = plan.__doc__ or ""
    examples = re.findall(r"medmamba (plan .*--task registration.*)", told)
    assert len(examples) == 3
    for example in examples:
        code, said = run(*shlex.split(example), "--force")
        assert code == 0, (example, said)


def test_a_table_of_pairs_is_planned_for_registration_when_no_network_is_named(tmp_path: Path) -> None:
    table, work = write_modalities(tmp_path / "pairs", 2), tmp_path / "work"
    code, said = run("train", table, "--work", work, "--set", "nonsense=1")
    assert code == 2
    assert "--set nonsense: the plan has no field" in said
    assert [path.parent.name for path in work.glob("*/*/plan.json")] == ["3d_fullres__mambamorph"]
