"""How the commands are told which images make pairs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medmamba.errors import UsageError

if TYPE_CHECKING:
    from medmamba.case import Pairing

MOVING = Annotated[
    Path | None,
    typer.Option(
        "--moving",
        exists=True,
        file_okay=False,
        help="For registration: a second folder, whose images are brought to those of the same name.",
        show_default=False,
    ),
]
ATLAS = Annotated[
    str,
    typer.Option(
        "--atlas",
        metavar="SUBJECT",
        help="For registration: pair each subject of the folder with this one only.",
        show_default=False,
    ),
]
DIRECTION = Annotated[
    Literal["to_atlas", "from_atlas", "both"],
    typer.Option(help="With --atlas: subjects are brought to the atlas, it to them, or both."),
]


def pairing_of(moving: Path | None, atlas: str, direction: Literal["to_atlas", "from_atlas", "both"]) -> Pairing:
    """What the options say.

    Raises:
        UsageError: if they contradict one another.
    """
    from medmamba.case import Pairing

    if moving is not None and atlas:
        raise UsageError("--moving pairs images by name, and --atlas each with one; give one of them")
    if direction != "to_atlas" and not atlas:
        raise UsageError("--direction is of pairs with an atlas; name it with --atlas")
    return Pairing(moving="" if moving is None else str(moving.resolve()), atlas=atlas, direction=direction)
