"""``medmamba networks``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from medmamba.cli._console import out, table


def networks(
    as_json: Annotated[bool, typer.Option("--json", help="For machines: a list of objects.")] = False,
) -> None:
    """List the networks that can be planned for and trained.

    Options of a network are set in its plan: `medmamba train PLAN --set network.options.residual=true`. Lists are
    written as in JSON: `--set network.options.blocks=[1,3,4,6]`.
    """
    from medmamba.networks import describe, names

    entries = [describe(name) for name in names()]
    if as_json:
        keys = ("name", "task", "dims", "summary", "source", "options")
        out.print_json(json.dumps([{key: getattr(entry, key) for key in keys} for entry in entries]))
        return
    rows = []
    for entry in entries:
        dims = ", ".join(f"{count}D" for count in entry.dims)
        options = ", ".join(f"{name}={value}" for name, value in entry.options.items())
        # Lines below each other, because a terminal of 80 columns is not wide enough for more than three columns.
        about = [entry.summary, f"options: {options}" if options else "", entry.source]
        rows.append((entry.name, f"{entry.task}\n{dims}", "\n".join(filter(None, about))))
    out.print(table(("network", "for", "what it is"), rows))
