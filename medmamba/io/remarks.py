"""What is unusual about a file or folder that can be used all the same: a value, to be logged or listed."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

log = logging.getLogger(__name__)

#: Rule of the remark why a file has a channel for each structure.
LAYERS = "layers"


@dataclass(frozen=True, slots=True)
class Remark:
    """How something unusual was taken.

    Args:
        message: what it is, and what was taken.
        is_warning: whether it may be taken wrongly; what is only worth knowing is none.
        rule: short stable name, as `medmamba.io.check` lists it.
    """

    message: str
    is_warning: bool = True
    rule: str = "header"


def tell(remarks: Iterable[Remark], where: object = None) -> None:
    """Log remarks, warnings as such and the others as information, behind the name of the file if it is given."""
    for remark in remarks:
        level = logging.WARNING if remark.is_warning else logging.INFO
        log.log(level, "%s%s", "" if where is None else f"{where}: ", remark.message)
