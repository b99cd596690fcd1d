"""Networks by name.

A network is a class (or a function that makes one) registered under a name; the registry imports every public file
beside it, and what other distributions announce as entry points of the group ``medmamba.networks``. An adapter puts
segmentation networks to another use, each under its prefix, a colon and the network's name: ``frames:unet``.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from medmamba.errors import UsageError
from medmamba.networks._video import VideoNetwork
from medmamba.plans.plan import Topology

ENTRY_POINTS = "medmamba.networks"
Factory = Callable[..., nn.Module]
F = TypeVar("F", bound=Factory)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What the registry knows of a network.

    Args:
        name: what plans and the command line call it.
        task: what it is for, such as "segmentation".
        dims: the dimensions it can be built for.
        summary: one line.
        source: paper that describes it.
        factory: makes it, see `create`.
        options: its own options and their defaults, beside what every network takes.
    """

    name: str
    task: str
    dims: tuple[int, ...]
    summary: str
    source: str
    factory: Factory
    options: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """What makes other networks of segmentation networks; see `adapts`."""

    prefix: str
    task: str
    needs: int
    takes: tuple[int, ...]
    said: str
    factory: Factory
    options: dict[str, Any]

    def entry(self, entry: Entry) -> Entry:
        """What the registry knows of an adapted network."""
        return replace(
            entry,
            name=f"{self.prefix}:{entry.name}",
            task=self.task,
            dims=self.takes,
            summary=f"{entry.name} {self.said}: {entry.summary}",
            factory=partial(self.factory, entry),
            options={**self.options, **entry.options},
        )


_entries: dict[str, Entry] = {}
_adapters: dict[str, Adapter] = {}


def register(
    name: str,
    *,
    task: str = "segmentation",
    dims: tuple[int, ...] = (2, 3),
    source: str = "",
    summary: str = "",
    **fixed: Any,
) -> Callable[[F], F]:
    """Enter a network under a name.

    What it enters is called with the channels of image and logits and the topology, for registration with the channels
    of an image and the topology; its keyword-only arguments, which need defaults, are the network's options.

    Args:
        name: what plans call it.
        task: what it is for, such as "segmentation".
        dims: the dimensions it can be built for.
        source: the paper, as one would cite it in a line.
        summary: one line; empty: the first one of the docstring.
        fixed: arguments that make this network of a class that makes several.

    Raises:
        ValueError: if the name is taken.
    """

    def enter(factory: F) -> F:
        if name in _entries:
            raise ValueError(f"two networks want the name {name!r}: {_entries[name].factory} and {factory}")
        _entries[name] = Entry(
            name=name,
            task=task,
            dims=dims,
            summary=summary or (inspect.getdoc(factory) or "").partition("\n")[0],
            source=source,
            factory=partial(factory, **fixed),
            options=_options(factory, "deep_supervision", *fixed),
        )
        return factory

    return enter


def adapts(prefix: str, *, task: str, needs: int, takes: tuple[int, ...], said: str) -> Callable[[F], F]:
    """Enter every segmentation network for another task, under a prefix.

    What it enters is called with the `Entry` of the segmentation network, and then as a network is.

    Args:
        prefix: before the names.
        task: what the adapted networks are for.
        needs: dimensions that a network must be able to have.
        takes: dimensions of the topologies that the adapter takes.
        said: what it does, for the summary, after the name of a network.
    """

    def enter(factory: F) -> F:
        _adapters[prefix] = Adapter(
            prefix=prefix, task=task, needs=needs, takes=takes, said=said, factory=factory, options=_options(factory)
        )
        return factory

    return enter


def _options(factory: Factory, *without: str) -> dict[str, Any]:
    """The keyword-only arguments, and their defaults."""
    parameters = inspect.signature(factory).parameters.values()
    return {
        parameter.name: parameter.default
        for parameter in parameters
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name not in without
    }


def create(name: str, in_channels: int, out_channels: int, topology: Topology, **options: Any) -> nn.Module:
    """Make a network.

    Args:
        name: one of `names`.
        in_channels: channels of the image.
        out_channels: channels of the logits.
        topology: patch size, strides, kernel sizes and features; decides between 2D and 3D.
        options: the network's own, see `describe`.

    Returns:
        A freshly initialised network from (B, in_channels, *S) to logits (B, out_channels, *S), or a list of logits,
        finest first, while its ``decoder.deep_supervision`` is on.

    Raises:
        UsageError: for an unknown name or option, naming those there are; for an option of the wrong kind; for
            dimensions that the network cannot be built for; for a registration network.
    """
    entry = describe(name)
    if entry.task == "registration":
        raise UsageError(f"network {name!r} registers images and has no logits; make it with create_registration")
    _check(entry, topology, options)
    return entry.factory(in_channels, out_channels, topology, **options)


def create_registration(name: str, in_channels: int, topology: Topology, **options: Any) -> nn.Module:
    """Make a registration network.

    Args:
        name: one of ``names("registration")``.
        in_channels: channels of each image.
        topology: see `create`.
        options: the network's own, see `describe`.

    Returns:
        A freshly initialised network from a moving and a fixed image, both (B, in_channels, *S), to a
        `medmamba.networks.Registration`.

    Raises:
        UsageError: as `create` does; for a network that is not for registration.
    """
    entry = describe(name)
    if entry.task != "registration":
        raise UsageError(f"network {name!r} is for {entry.task}, not registration; make it with create")
    _check(entry, topology, options)
    return entry.factory(in_channels, topology, **options)


def create_video(
    name: str, in_channels: int, out_channels: int, topology: Topology, *, causal: bool = False, **options: Any
) -> VideoNetwork:
    """Make a network for video.

    Args:
        name: one of ``names("video")``: a network for clips such as "vivim", or a segmentation network put to this
            use: "frames:unet" works frame by frame, "volume:unet" takes time for its first axis.
        in_channels: channels of a frame.
        out_channels: channels of the logits.
        topology: of frames (H, W); a "volume:..." takes that, and one of clips (T, H, W).
        causal: whether no frame's logits may depend on a later frame; what works frame by frame is so anyway.
        options: the network's own, see `describe`.

    Returns:
        A freshly initialised network from clips (B, T, C, H, W) to logits (B, T, K, H, W), Vivim with an edge head to
        those of edges too. Whether it takes a stream is told by its attribute ``causal``.

    Raises:
        UsageError: as `create` does; for a network that is not for video, or cannot be causal if it must.
    """
    entry = describe(name)
    if entry.task != "video":
        adapted = " or ".join(f"{prefix}:{name}" for prefix in _adapters if f"{prefix}:{name}" in _all())
        remedy = f"take {adapted}" if adapted else f"choose one of {', '.join(names('video'))}"
        raise UsageError(f"network {name!r} is for {entry.task}, not video; {remedy}")
    if causal and "causal" in entry.options:
        options["causal"] = True
    _check(entry, topology, options)
    network = entry.factory(in_channels, out_channels, topology, **options)
    assert isinstance(network, VideoNetwork)
    if causal and not network.causal:
        raise UsageError(
            f"network {name!r} looks at later frames and cannot be causal; take vivim, or one that works frame by frame"
        )
    return network


def _check(entry: Entry, topology: Topology, options: dict[str, Any]) -> None:
    """Refuse options and topologies that a network cannot be made with."""
    unknown = sorted(set(options) - set(entry.options))
    if unknown:
        known = ", ".join(entry.options) or "none"
        raise UsageError(f"network {entry.name!r} has no option {', '.join(unknown)}; its options are: {known}")
    for option, value in options.items():
        kind = type(entry.options[option])
        # Options come from files and command lines, where "no" is a word, and every word is true.
        if kind in (bool, int, float, str) and type(value) is not kind and (kind, type(value)) != (float, int):
            raise UsageError(
                f"option {option} of network {entry.name!r} must be of type {kind.__name__}, got {value!r}"
            )
    if topology.dims not in entry.dims:
        can = " or ".join(f"{dims}D" for dims in entry.dims)
        raise UsageError(f"network {entry.name!r} is {can} only and cannot take patches of {topology.patch_size}")


def names(task: str | None = None) -> tuple[str, ...]:
    """Names of all networks, or of those for a task, sorted."""
    return tuple(sorted(name for name, entry in _all().items() if task in (None, entry.task)))


def describe(name: str) -> Entry:
    """What is known of a network.

    Raises:
        UsageError: if there is none of this name, listing those there are.
    """
    entries = _all()
    if name not in entries:
        raise UsageError(f"there is no network {name!r}; choose one of {', '.join(names())}")
    return entries[name]


def _all() -> dict[str, Entry]:
    """All networks, adapted ones too."""
    _import_all()
    adapted = (
        adapter.entry(entry)
        for adapter in _adapters.values()
        for entry in _entries.values()
        if entry.task == "segmentation" and adapter.needs in entry.dims
    )
    return _entries | {entry.name: entry for entry in adapted}


@cache
def _import_all() -> None:
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if not module.name.startswith("_"):
            importlib.import_module(f"medmamba.networks.{module.name}")
    for point in entry_points(group=ENTRY_POINTS):
        point.load()
