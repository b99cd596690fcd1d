"""``medmamba demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medmamba.cli._console import Exit, fail, out, track
from medmamba.cli._training import TrainingDisplay
from medmamba.cli.train import parse_time


def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", file_okay=False, help="Folder for everything the demo makes.")
    ] = Path("medmamba-demo"),
    budget: Annotated[str, typer.Option(metavar="TIME", help="Time to train; more makes it better.")] = "150s",
    seed: Annotated[int, typer.Option(min=0, help="Of the invented scans.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
) -> None:
    """Try everything in five minutes: no data, no network and no GPU needed.

    Invents brain scans with a tumour (two modalities, regions nested as in BraTS), plans for them, trains a small
    U-Mamba, segments scans that training never saw, scores them and draws an overlay. Every step is announced as the
    command that does it, to be repeated with own data. Interrupted, the same command goes on.
    """
    budget_s = parse_time(budget)

    from medmamba.cli.evaluate import show_report
    from medmamba.demo import run_demo
    from medmamba.device import choose_device
    from medmamba.train import StoppedError

    def announce(command: str) -> None:
        out.print(f"\n> {command}", style="bold", markup=False, highlight=False)

    with TrainingDisplay("demo") as display:
        try:
            result = run_demo(
                output,
                display,
                budget_s=budget_s,
                seed=seed,
                device=choose_device(device),
                on_start=display.start,
                announce=announce,
                progress=track,
            )
        except StoppedError as stop:
            fail(str(stop), Exit.INTERRUPTED)
    show_report(result.report)
    out.print(f"Picture of a typical case: {result.picture}", markup=False, highlight=False)
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
