"""What describes published weights: arguments of the original's constructor, marks by names, and the way to ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from medmamba.case import some
from medmamba.errors import DataError
from medmamba.networks._backbone import topology_of
from medmamba.networks.published._names import Shapes
from medmamba.plans.plan import Topology

Config = Mapping[str, Any]
Weights = Mapping[str, Tensor]


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


def _is_count_or_row(value: Any) -> bool:
    return _is_count(value) or _is_row(value)


_KINDS = {
    "any": Kind(lambda value: True, "anything"),
    "count": Kind(_is_count, "a whole number of at least 1"),
    "classes": Kind(lambda value: _is_count(value, 0), "a whole number of at least 0"),
    "number": Kind(_is_number, "a number of at least 0"),
    "rate": Kind(lambda value: _is_number(value) and value < 1, "a number of at least 0 and less than 1"),
    "truth": Kind(lambda value: isinstance(value, bool), "true or false"),
    "word": Kind(lambda value: isinstance(value, str), "a word in quotes"),
    "rank": Kind(lambda value: value == "auto" or _is_count(value), "'auto' or a positive whole number"),
    "row": Kind(_is_row, "a list of whole numbers of at least 1"),
    "depths": Kind(lambda value: _is_row(value, 0), "a list of whole numbers of at least 0"),
    "counts": Kind(_is_count_or_row, "a whole number of at least 1, or a list of such"),
    "slices": Kind(
        lambda value: value is None or _is_count_or_row(value), "a whole number of at least 1, a list of such, or null"
    ),
    "size": Kind(
        lambda value: _is_count(value) or (_is_row(value) and len(value) in (2, 3)),
        "a whole number of at least 1, or one for each axis",
    ),
    "table": Kind(lambda value: _is_list(value, _is_row), "a list of lists of whole numbers of at least 1"),
    "object": Kind(lambda value: value is None or isinstance(value, Mapping), "an object"),
}
#: Arguments by name.
Kinds = Mapping[str, Kind]


def arguments(**names: str) -> dict[str, Kind]:
    """Arguments by their kinds: ``arguments(count="dim depth", truth="bias")`` are two numbers and a truth value."""
    return {name: _KINDS[kind] for kind, each in names.items() for name in each.split()}


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One kind of module that there are, or could be, published weights of.

    Args:
        what: the original's name, where an argument is refused.
        make: from arguments of the original's constructor and a state dict to a module of ours and the state dict by
            its names; raises `UpstreamError`, or what the module itself raises for arguments that make none.
        needs: arguments that the configuration must hold.
        takes: those that it may hold; where missing, they are as the original's constructor has them.
        knows: further ones that the original's constructor has: rarely given, or without effect on loaded weights.
        only: those for which there is nothing here, and the one value that is known.
        marks: patterns of the original's names. Of each some tensor of the module is, and together they tell it from
            others as far as names can. None is of a head, which may be lacking.
        tell: arguments that the shapes of weights leave no doubt of; None and empty lists are left out.
        head: how the names of the tensors begin that make the output, where a network is of no use without.
        family: of whole networks, in which parts of others may be found: what one imports them as.
        translate: a configuration by the names of other software, by the original's.
    """

    what: str
    make: Callable[[Config, Weights], tuple[nn.Module, Weights]]
    needs: Kinds = field(default_factory=dict)
    takes: Kinds = field(default_factory=dict)
    knows: Kinds = field(default_factory=dict)
    only: Config = field(default_factory=dict)
    marks: tuple[str, ...]
    tell: Callable[[Shapes], dict[str, Any]] = lambda shapes: {}
    head: str = ""
    family: str = ""
    translate: Callable[[Config], dict[str, Any]] = dict

    def check_values(self, name: str, config: Config) -> None:
        """Refuse what cannot be meant in a configuration that may be incomplete; as `check`."""
        check_kinds(name, config, {**self.needs, **self.takes, **self.knows})

    def check(self, name: str, config: Config) -> None:
        """Refuse a configuration.

        Args:
            name: of the system.
            config: arguments of the original's constructor.

        Raises:
            UpstreamError: if an argument is missing, of another kind, not known here, or has a value for which there is
                nothing here; naming it and what would do.
        """
        if missing := [argument for argument in self.needs if argument not in config]:
            raise UpstreamError(
                f"the configuration of {name} lacks {', '.join(missing)}; it must have {', '.join(self.needs)}"
                f"{' and may have ' if self.takes else ''}{', '.join(self.takes)}, as the authors' code names them"
            )
        self.check_values(name, config)
        check_known(self.what, config, (*self.needs, *self.takes, *self.knows, *self.only))
        check_only(self.what, config, self.only)

    def told(self, tensors: Weights) -> dict[str, Any]:
        """Arguments that weights by the original's names tell, as far as they are there."""
        known = {**self.needs, **self.takes}
        arguments = self.tell(Shapes(tensors))
        return {name: value for name, value in arguments.items() if value not in (None, []) and name in known}

    def prefixes(self, keys: Iterable[str]) -> list[str]:
        """What stands before the module's names in a state dict, once for each such module there.

        Returns:
            "" for the module by itself; none, if it is not there.
        """
        keys = list(keys)
        found = [
            dict.fromkeys(
                match["prefix"] for key in keys if (match := re.fullmatch(rf"(?P<prefix>(?:.+?\.)??){mark}", key))
            )
            for mark in self.marks
        ]
        return [prefix for prefix in found[0] if all(prefix in others for others in found)]


@dataclass(frozen=True, slots=True)
class Family:
    """Systems whose weights one asks for by one name.

    Args:
        sought: those whose marks find the weights; the first one that is there.
        signs: how names begin that only a system's weights have, for all but the last one.
    """

    sought: tuple[str, ...]
    signs: Mapping[str, tuple[str, ...]]

    def system_of(self, keys: Iterable[str]) -> str:
        """The system whose names these are."""
        keys = list(keys)
        return next(name for name, signs in self.signs.items() if not signs or any(k.startswith(signs) for k in keys))


def load(network: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Give a network converted weights, by our names.

    Raises:
        UpstreamError: if keys are missing, left over or of another shape, naming them.
    """
    ours = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    theirs = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    missing, unexpected = sorted(ours.keys() - theirs.keys()), sorted(theirs.keys() - ours.keys())
    if missing or unexpected:
        raise UpstreamError(
            f"the weights do not fit {type(network).__name__}: missing {some(missing) or 'none'}; "
            f"unexpected {some(unexpected) or 'none'}"
        )
    other = [f"{key} {theirs[key]} instead of {ours[key]}" for key in ours if theirs[key] != ours[key]]
    if other:
        raise UpstreamError(
            f"the weights are of another {type(network).__name__} than the configuration: {some(other)}"
        )
    network.load_state_dict(dict(tensors))
    return network


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


def halving_topology(features: Sequence[int]) -> Topology:
    """In 3D, kernels of 3 and strides of 2; the weights fit any size."""
    below = len(features) - 1
    return topology_of((2**below,) * 3, [(1, 1, 1), *[(2, 2, 2)] * below], [(3, 3, 3)] * len(features), features)
