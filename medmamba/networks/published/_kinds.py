"""Of what kind the arguments of the originals' constructors are: who writes a configuration may quote a number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medmamba.errors import DataError

Config = Mapping[str, Any]


class UpstreamError(DataError):
    """The weights do not belong to the network they are said to be of."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What the value of an argument must be.

    Args:
        fits: whether a value is.
        words: how one says that.
    """

    fits: Callable[[Any], bool]
    words: str


def _is_count(value: Any, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0


def _is_list(value: Any, of: Callable[[Any], bool]) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(map(of, value))


def _is_row(value: Any, least: int = 1) -> bool:
    return _is_list(value, lambda item: _is_count(item, least)) and len(value) > 0


ANY = Kind(lambda value: True, "anything")
COUNT = Kind(_is_count, "a whole number of at least 1")
CLASSES = Kind(lambda value: _is_count(value, 0), "a whole number of at least 0")
NUMBER = Kind(_is_number, "a number of at least 0")
RATE = Kind(lambda value: _is_number(value) and value < 1, "a number of at least 0 and less than 1")
TRUTH = Kind(lambda value: isinstance(value, bool), "true or false")
WORD = Kind(lambda value: isinstance(value, str), "a word in quotes")
RANK = Kind(lambda value: value == "auto" or _is_count(value), "'auto' or a positive whole number")
ROW = Kind(_is_row, "a list of whole numbers of at least 1")
DEPTHS = Kind(lambda value: _is_row(value, 0), "a list of whole numbers of at least 0")
COUNTS = Kind(lambda value: _is_count(value) or _is_row(value), "a whole number of at least 1, or a list of such")
SLICES = Kind(
    lambda value: value is None or COUNTS.fits(value), "a whole number of at least 1, a list of such, or null"
)
SIZE = Kind(
    lambda value: _is_count(value) or (_is_row(value) and len(value) in (2, 3)),
    "a whole number of at least 1, or one for each axis",
)
TABLE = Kind(lambda value: _is_list(value, _is_row), "a list of lists of whole numbers of at least 1")
OBJECT = Kind(lambda value: value is None or isinstance(value, Mapping), "an object")

Kinds = Mapping[str, Kind]


def all_of(kind: Kind, *names: str) -> dict[str, Kind]:
    """So many arguments of one kind."""
    return dict.fromkeys(names, kind)


def check_kinds(what: str, config: Config, kinds: Kinds) -> None:
    """Refuse values that cannot be meant.

    Raises:
        UpstreamError: naming the first such argument, its value, and what it must be.
    """
    for name, value in config.items():
        if name in kinds and not kinds[name].fits(value):
            raise UpstreamError(f"{name} of {what} must be {kinds[name].words}, got {value!r}")


def check_known(what: str, config: Config, known: Iterable[str]) -> None:
    """Refuse arguments that a conversion knows nothing of.

    Raises:
        UpstreamError: naming them, and those that are known.
    """
    if unknown := sorted(set(config) - set(known)):
        raise UpstreamError(f"a {what} with {', '.join(unknown)} is not known here; known are {', '.join(known)}")


def check_only(what: str, config: Config, only: Config) -> None:
    """Refuse values of arguments for which there is nothing here.

    Raises:
        UpstreamError: naming argument, known value and the one that was given.
    """
    for name, value in only.items():
        given = config.get(name, value)
        if (list(given) if isinstance(given, tuple) else given) != value:
            raise UpstreamError(f"only {what} with {name}={value!r} is known here, got {given!r}")
