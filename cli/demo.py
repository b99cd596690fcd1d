"""``medmamba demo``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medmamba.cli._console import command, say, track
from medmamba.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence


def demo(
    context: typer.Context,
    output: Annotated[
        Path, typer.Option("--output", "-o", file_okay=False, help="Folder for everything the demo makes.")
    ] = Path("medmamba-demo"),
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Optimiser steps of the training; more make it better.", show_default="250"),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Train for a time instead; how good it gets then depends on the machine."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the invented scans.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
) -> None:
    """Try everything in a few minutes: no data, no network and no GPU needed.

    Invents brain scans with a tumour (two modalities, regions nested as in BraTS), plans for them, trains a small
    U-Mamba, segments scans that training never saw, scores them and draws an overlay. Each part is the command that is
    shown before it, to be repeated with own data. The same seed gives the same result on the same machine, however
    busy it is. Interrupted, the same command goes on.
    """
    if steps is not None and budget is not None:
        raise UsageError("--steps and --budget both say how long to train; give one of them")

    from medmamba.demo.demo import STEPS, Demo
    from medmamba.io.places import check_output_folder

    check_output_folder(output)

    shown = Demo(folder=output, seed=seed, device=device, steps=steps or STEPS, budget=budget)
    _announce("inventing scans: brains with a tumour, in two modalities")
    shown.invent(track)
    for words in shown.commands():
        _announce(command(*words))
        _run(context, words)
    say(f"\nPicture of a typical case: {shown.draw()}")
    say(
        "\nNow with your own data: put images into my_data/images and labels of the same names into my_data/labels, or "
        "take a data set in the layout of nnU-Net or the Medical Segmentation Decathlon. Then\n"
        "  medmamba dataset check my_data\n"
        "  medmamba plan my_data\n"
        "  medmamba train my_data --budget 12h\n"
        "and see `medmamba --help` for the rest."
    )


def _announce(words: str) -> None:
    say(f"\n> {words}", "bold")


def _run(context: typer.Context, words: Sequence[str]) -> None:
    """Another command of the same program, exactly as if it had been typed."""
    name, *arguments = words
    program = context.find_root()
    with program.command.commands[name].make_context(name, arguments, parent=program) as inner:  # type: ignore[attr-defined]  # a group
        inner.command.invoke(inner)
