"""Commands as users give them, and what the program told them to do, done."""

from __future__ import annotations

import itertools
import json
import shlex
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from medmamba import io
from medmamba.cli.main import app
from medmamba.io.check import check_dataset
from tests.data_factory import make_case

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


def one_image(folder: Path) -> Path:
    image, _ = make_case(40)
    (folder / "new scans").mkdir()
    io.write(image, folder / "new scans" / "new.nii.gz")
    return folder / "new scans"


def describe(root: Path, **changes: Any) -> Path:
    """Other entries in dataset.json."""
    facts = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps(facts | changes))
    return root


def errors(root: Path, *rules: str) -> list[str]:
    """Messages of a check: of some rules, or of all errors."""
    found = check_dataset(root)
    return [each.message for each in found if (each.rule in rules if rules else each.severity == "error")]


def tells(said: str, words: str) -> bool:
    """Whether words stand there, also where a table has wrapped them."""
    return "".join(words.split()) in "".join(said.split())
