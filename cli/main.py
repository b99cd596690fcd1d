"""The medmamba command: one application, one file per sub-command."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated, Any

import typer
import typer.core

import medmamba
from medmamba.cli import (
    dataset,
    demo,
    evaluate,
    model,
    networks,
    plan,
    predict,
    register,
    report,
    scan,
    train,
    tre,
    warp,
)
from medmamba.cli._console import ENDS, Exit, foreseen, note, set_up_logging


class _Program(typer.core.TyperGroup):
    """All commands; an error that is no fault of the program ends one in a paragraph and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # whoever read the output has seen enough, as `| head`: Typer ends it without a word
        except tuple(ENDS) as error:
            message, code = foreseen(error)
            trace = traceback.format_exc() if ctx.params["verbose"] else ""
        # Only now that the error is gone, and with it the bars of what was under way, which would be drawn below.
        if trace:
            note(trace, None)
        note(message, "red")
        raise typer.Exit(code)


app = typer.Typer(
    name="medmamba",
    cls=_Program,
    help="Medical image segmentation with Mamba networks: from a folder of labelled scans to predictions and scores.",
    epilog="Exit codes: 0 done, 1 a bug, 2 wrong usage, 3 the data does not allow it, 4 the machine does not, 5 "
    "interrupted (the same command goes on).",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"medmamba {medmamba.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say more about what is going on, and where an error comes from.")
    ] = False,
    _: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    set_up_logging(verbose)


app.add_typer(dataset.app, name="dataset")
app.command()(plan.plan)
app.command()(train.train)
app.command()(predict.predict)
app.command()(scan.scan)
app.command(epilog=evaluate.MEASURES)(evaluate.evaluate)
app.command()(report.report)
app.command()(register.register)
app.command()(warp.warp)
app.command()(tre.tre)
app.command()(networks.networks)
app.add_typer(model.app, name="model")
app.command()(demo.demo)


def main() -> None:
    """Run the command line; what ends it and is in no table of errors is a bug, and shows where it came from."""
    _wait_without_spinning()
    try:
        app()
        return
    except Exception:
        trace = traceback.format_exc()
    note(trace, None)
    note(
        f"This is a bug of medmamba {medmamba.__version__}. Please report it with the lines above and the command, "
        "after a look for names of patients in them.",
        "red",
    )
    sys.exit(Exit.BUG)


def _wait_without_spinning() -> None:
    """Let the threads of an operation sleep soon where one of them waits for another, unless the user decided on that.

    GNU's OpenMP, which PyTorch's wheels for Linux bring, lets them spin for a third of a million rounds. Where other
    programs want the processors as well, the operating system counts that as work and puts the thread that is waited
    for behind them: small operations become a hundred times slower. A thousand rounds is what it takes itself when it
    knows of more threads than processors.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # read when torch is imported, and by the processes we start


if __name__ == "__main__":
    main()
