"""How the library tells how far it is, without knowing who listens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """Wraps a loop; the command line's version draws a bar with the time left."""

    def __call__(self, items: Iterable[T], *, title: str, total: int) -> Iterator[T]:
        """Yield ``items`` unchanged, showing ``title`` and the share of ``total`` that is done."""
        ...


def silent(items: Iterable[T], *, title: str, total: int) -> Iterator[T]:
    """The default: show nothing."""
    yield from items
