"""``medmamba demo``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medmamba.cli._console import Exit, fail, out, track

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
        fail("--steps and --budget both say how long to train; give one of them", Exit.USAGE)

    from medmamba.demo.demo import STEPS, Demo
    from medmamba.io.places import check_output_folder

    check_output_folder(output)

    shown = Demo(folder=output, seed=seed, device=device, steps=steps or STEPS, budget=budget)
    _announce("inventing scans: brains with a tumour, in two modalities")
    shown.invent(track)
    for command in shown.commands():
        _announce(shlex.join(["medmamba", *command]))
        _run(context, command)
    out.print(f"\nPicture of a typical case: {shown.draw()}", markup=False, highlight=False)
    out.print(
        "\nNow with your own data: put images into my_data/images and labels of the same names into my_data/labels, or "
        "take a data set in the layout of nnU-Net or the Medical Segmentation Decathlon. Then\n"
        "  medmamba dataset check my_data\n"
        "  medmamba plan my_data\n"
        "  medmamba train my_data --budget 12h\n"
        "and see `medmamba --help` for the rest.",
        markup=False,
        highlight=False,
    )


def _announce(words: str) -> None:
    out.print(f"\n> {words}", style="bold", markup=False, highlight=False)


def _run(context: typer.Context, command: Sequence[str]) -> None:
    """Another command of the same program, exactly as if it had been typed."""
    name, *arguments = command
    program = context.find_root()
    with program.command.commands[name].make_context(name, arguments, parent=program) as inner:  # type: ignore[attr-defined]  # a group
        inner.command.invoke(inner)
