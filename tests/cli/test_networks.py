from __future__ import annotations

import json

import typer
from typer.testing import CliRunner

from medmamba import networks
from medmamba.cli.networks import networks as command

app = typer.Typer()
app.command()(command)


def test_networks_are_listed_with_dimensions_and_source() -> None:
    result = CliRunner().invoke(app, [], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    for name in networks.names():
        assert name in result.stdout
    assert "2D, 3D" in result.stdout


def test_json_holds_what_the_registry_knows() -> None:
    result = CliRunner().invoke(app, ["--json"])
    listed = {entry["name"]: entry for entry in json.loads(result.stdout)}
    assert set(listed) == set(networks.names())
    blocks: dict[str, list[int]] = {"blocks": [], "decoder_blocks": []}
    assert listed["unet"]["options"] == {"residual": False, **blocks, "checkpointing": False}
    assert listed["umamba_bot"]["dims"] == [2, 3]
    assert listed["umamba_bot"]["task"] == "segmentation"
