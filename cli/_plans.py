"""What the commands that plan and that train on a plan share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from medmamba.errors import DataError, UsageError

if TYPE_CHECKING:
    from medmamba.plans.plan import Plan

#: The network of each task when none is named.
USUAL = {"segmentation": "umamba_bot", "registration": "mambamorph", "video": "vivim"}
SET = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a field of the plan, e.g. train.batch_size=4 or registration.affine=rigid; nothing else follows "
        "from it.",
        show_default=False,
    ),
]


def changed(plan: Plan, overrides: list[str]) -> Plan:
    """The plan with what ``--set`` says.

    Raises:
        UsageError: if that is not KEY=VALUE, or the plan has no such field, or not with such a value.
    """
    changes = dict(map(_parse, overrides))
    try:
        return plan.overridden(changes)
    except DataError as error:
        raise UsageError(f"--set {', '.join(changes)}: {error}") from error


def _parse(text: str) -> tuple[str, Any]:
    import json

    key, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--set needs KEY=VALUE, got {text!r}")
    try:
        return key, json.loads(value)
    except (ValueError, RecursionError):
        return key, value  # a word needs no quotes
