"""Frozen dataclasses to JSON and back, refusing what does not belong."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from medmamba.errors import DataError
from medmamba.files import write_bytes

T = TypeVar("T")


class RecordError(DataError):
    """A file does not hold what it should; the message names the place."""


def to_json(value: Any) -> Any:
    """Plain JSON data (dicts, lists, numbers, strings) of a tree of dataclasses and tuples."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, (tuple, list)):
        return [to_json(item) for item in value]
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    return str(value) if isinstance(value, Path) else value


def from_json(cls: type[T], data: Any, where: str) -> T:
    """Build the dataclass ``cls`` from JSON data.

    Args:
        cls: a dataclass whose fields are annotated with JSON types, paths, tuples, Literals or dataclasses.
        data: what ``json.load`` returned.
        where: name of the place, for error messages, e.g. the path of the file.

    Raises:
        RecordError: for a missing or unknown key or a value of the wrong kind, naming the place.
    """
    return typing.cast(T, _build(cls, data, where))


def _build(kind: Any, data: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _build_dataclass(kind, data, where)
    if origin in (types.UnionType, typing.Union):
        if data is None and type(None) in arguments:
            return None
        (kind,) = (argument for argument in arguments if argument is not type(None))
        return _build(kind, data, where)
    if origin is typing.Literal:
        if data not in arguments:
            raise RecordError(f"{where}: must be one of {', '.join(map(repr, arguments))}, got {data!r}")
        return data
    if origin is tuple:
        if not isinstance(data, list):
            raise RecordError(f"{where}: must be a list, got {data!r}")
        if arguments[-1] is Ellipsis:
            return tuple(_build(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(data))
        if len(data) != len(arguments):
            raise RecordError(f"{where}: must have {len(arguments)} entries, got {len(data)}")
        return tuple(_build(a, d, f"{where}[{i}]") for i, (a, d) in enumerate(zip(arguments, data, strict=True)))
    if origin is dict:
        if not isinstance(data, dict):
            raise RecordError(f"{where}: must be an object, got {data!r}")
        return {key: _build(arguments[1], item, f"{where}.{key}") for key, item in data.items()}
    if kind is Any:
        return data
    if kind is Path and isinstance(data, str):
        return Path(data)
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        try:
            return float(data)
        except OverflowError as error:
            raise RecordError(
                f"{where}: must be less than 1.8e308, got a number of {data.bit_length()} bits"
            ) from error
    if not isinstance(data, kind) or (isinstance(data, bool) and kind is not bool):
        raise RecordError(f"{where}: must be of type {kind.__name__}, got {data!r}")
    return data


def _build_dataclass(cls: type[Any], data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise RecordError(f"{where}: must be an object, got {data!r}")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    unknown = sorted(set(data) - set(fields))
    if unknown:
        raise RecordError(f"{where}: unknown key {', '.join(unknown)}; known are {', '.join(fields)}")
    missing = [
        name
        for name, field in fields.items()
        if name not in data and field.default is field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise RecordError(f"{where}: missing key {', '.join(missing)}")
    try:
        return cls(**{name: _build(hints[name], item, f"{where}.{name}") for name, item in data.items()})
    except RecordError:
        raise
    except ValueError as error:
        # Values that are each fine but do not fit together are found by the class itself, which knows no file.
        raise RecordError(f"{where}: {error}") from error


def read_json(path: Path) -> Any:
    """Parse a JSON file.

    Raises:
        FileNotFoundError: if there is none.
        RecordError: if it is not JSON, naming file and line, or a key occurs twice in one object, a number is too
            long, or the nesting too deep.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors on Windows begin a file with a byte order mark
    except UnicodeDecodeError as error:
        raise RecordError(f"{path} is not a text file in UTF-8; save it as such") from error
    try:
        return json.loads(text, object_pairs_hook=_without_doubles)
    except json.JSONDecodeError as error:
        hint = _json_hint(error)
        raise RecordError(f"{path} is not valid JSON: {error.msg} in line {error.lineno}{hint}") from error
    except _DoubleKeyError as error:
        raise RecordError(f"{path}: key {error} occurs twice in one object; remove or rename one") from error
    except ValueError as error:  # of Python, which reads no whole number of thousands of digits
        raise RecordError(f"{path} has a number that is too long ({error}); shorten it") from error
    except RecursionError as error:
        raise RecordError(f"{path} has lists or objects in one another too deep to be read; restore it") from error


class _DoubleKeyError(ValueError):
    """A key that an object has twice: of the two values one would be lost without a word."""


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _DoubleKeyError(next(repr(key) for number, (key, _) in enumerate(pairs) if key in dict(pairs[:number])))
    return found


def _json_hint(error: json.JSONDecodeError) -> str:
    """What people write into JSON that does not belong there."""
    before, here = error.doc[: error.pos].rstrip(), error.doc[error.pos :].lstrip()
    if here.startswith(("//", "/*", "#")):
        return "; JSON has no comments, remove it"
    if (before.endswith(",") and here.startswith(("}", "]"))) or here.startswith(","):
        return "; remove the comma after the last entry"
    return "; names and texts need double quotes" if here.startswith("'") else ""


def write_json(data: Any, path: Path) -> None:
    """Write a JSON file so that a reader meets the old or the new content, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes((json.dumps(data, indent=2, allow_nan=False) + "\n").encode(), path)
