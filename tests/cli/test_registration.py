from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from medmamba.cli.main import app
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
    assert "Finished" in runner.invoke(app, command).output


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
