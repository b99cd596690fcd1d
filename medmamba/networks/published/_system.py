"""What describes published weights: arguments of the original's constructor, marks by names, and the way to ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from medmamba.networks.published._kinds import Config, Kinds, UpstreamError, check_kinds, check_known, check_only
from medmamba.networks.published._names import Shapes

Weights = Mapping[str, Tensor]


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
            f"the weights do not fit {type(network).__name__}: missing {some(missing)}; unexpected {some(unexpected)}"
        )
    other = [f"{key} {theirs[key]} instead of {ours[key]}" for key in ours if theirs[key] != ours[key]]
    if other:
        raise UpstreamError(
            f"the weights are of another {type(network).__name__} than the configuration: {some(other)}"
        )
    network.load_state_dict(dict(tensors))
    return network


def some(keys: Sequence[str]) -> str:
    """The first of so many names."""
    return ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "") if keys else "none"
