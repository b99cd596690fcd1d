"""State dicts of others: what their shapes tell, and their tensors by our names.

Letters: d width, e inner width, N states, R rank.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

#: Patterns of names and what stands for them, as `re.sub` takes both, one after the other.
Renaming = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]


class Shapes:
    """The shapes in a state dict, for questions by regular expressions."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors
        self._shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}

    def first(self, pattern: str) -> tuple[int, ...] | None:
        """Of the first key that the whole pattern matches."""
        return next((shape for key, shape in self._shapes.items() if re.fullmatch(pattern, key)), None)

    def has(self, pattern: str) -> bool:
        """Whether the whole pattern matches a key."""
        return self.first(pattern) is not None

    def size(self, pattern: str, axis: int) -> int | None:
        """Along an axis, of the first key that the whole pattern matches."""
        shape = self.first(pattern)
        return shape[axis] if shape is not None and -len(shape) <= axis < len(shape) else None

    def ratio(self, pattern: str, axis: int, width: int | None) -> float | None:
        """Of such a size over a width."""
        size = self.size(pattern, axis)
        return size / width if size and width else None

    def stages(self, pattern: str) -> list[tuple[int, ...]]:
        """The shapes of stages that are numbered from 0; ``{}`` in the pattern stands for the number."""
        found: list[tuple[int, ...]] = []
        while shape := self.first(pattern.format(len(found))):
            found.append(shape)
        return found

    def count(self, pattern: str) -> int:
        """How many different numbers stand where the pattern has its group."""
        return len({match[1] for key in self._shapes if (match := re.fullmatch(pattern, key))})


def rename(key: str, names: Renaming) -> str:
    """One name, after all replacements."""
    for pattern, ours in names:
        key = re.sub(pattern, ours, key)
    return key


def renamed(tensors: Mapping[str, Tensor], names: Renaming) -> dict[str, Tensor]:
    """A state dict by other names."""
    return {rename(key, names): tensor for key, tensor in tensors.items()}


def without_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """A state dict without what a training wrapper put before every key; as it is, if a key lacks it."""
    if not all(key.startswith(prefix) for key in tensors):
        return dict(tensors)
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}


def without_aliases(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of networks of nnU-Net, whose decoder holds the encoder, and each block its layers a second time in a list."""
    aliases = ("decoder.encoder.", "all_modules.")
    return {key: tensor for key, tensor in tensors.items() if not any(alias in key for alias in aliases)}
