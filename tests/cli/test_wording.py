"""Options and commands that any text of the program, or its documentation, speaks of are there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import typer

from medmamba.cli.main import app

CHECKOUT = Path(__file__).resolve().parents[2]


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
