"""Where in a checkpoint the weights of a network are, whatever training code kept beside and around them."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medmamba.case import some
from medmamba.errors import UsageError
from medmamba.exchange.weight_files import CheckpointError
from medmamba.networks.published import FAMILIES, SYSTEMS

log = logging.getLogger(__name__)

#: Whole networks in which parts of others may be found.
_WHOLE = {name: system for name, system in SYSTEMS.items() if system.family}
#: What wrappers put anywhere into names: parallel training, compilation, FSDP, checkpointing, Lightning's Fabric.
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
#: Averages over training, by the names of timm, BasicSR, ema_pytorch, torch_ema, mmengine and torch.optim.swa_utils.
_AVERAGED = re.compile(r"(.*_)?(ema|swa|averaged|shadow)(_.*)?")
#: What was averaged, where such a name stands inside.
_CURRENT = ("online_model", "current_model_state")
#: No weights of a network: counters of averages and of thop, which counts operations, and losses.
_COUNTERS = re.compile(r"(.*\.)?total_(ops|params)|n_averaged|initted|step|steps")
_LOSSES = re.compile(r"(criterion|criteria|loss|losses|loss_fn|loss_func|loss_function)\..*")
#: What every SegFormer has, by the names of the transformers library and of its own authors.
_SEGFORMER = re.compile(r"((segformer\.)?encoder\.patch_embeddings\.0|(backbone\.)?patch_embed1)\.proj\.weight")
#: Deeper than any training code nests; recursive objects end here.
_DEEPEST = 8


@dataclass(frozen=True, slots=True)
class Found:
    """Weights in a checkpoint.

    Args:
        place: names of entries, and of modules, that lead there.
        system: the one whose names they have.
        tensors: by names of the network itself.
        inside: the whole network of which they are a part, if any.
        others: names in the same state dict that belong to something else.
    """

    place: tuple[str, ...]
    system: str
    tensors: dict[str, Tensor]
    inside: str | None = None
    others: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The way there, as ``--entry`` takes it."""
        return ".".join(self.place)

    @property
    def averaged(self) -> bool:
        """Whether these are an average over training."""
        return not self.current and any(_AVERAGED.fullmatch(part) for part in self.place)

    @property
    def current(self) -> bool:
        """Whether these stand beside their average, which has a name that says nothing."""
        return bool(self.place) and self.place[-1] in _CURRENT


def find_weights(content: Any, where: Path, family: str, *, entry: str | None = None) -> dict[str, Tensor]:
    """The state dict of a network in a checkpoint, without what wrappers put before its names.

    Where there are the weights at the end of training and one average over it, the average is taken, which is what
    training codes evaluate, and the choice is logged.

    Args:
        content: what `medmamba.exchange.weight_files.read_checkpoint` gave.
        where: the file, for errors.
        family: one of `FAMILIES`, or of `SYSTEMS`, both of `medmamba.networks.published`.
        entry: which weights to take if there are several: the name of an entry, or what stands before the names of
            tensors, such as ``model_ema`` or ``student``; more of the way there, with dots between, if that is not
            enough.

    Raises:
        CheckpointError: if there are none, naming what there is, or several of which none is named.
    """
    check_family(family)
    places = dict(_state_dicts(content))
    if not places:
        raise CheckpointError(f"{where} holds no state dict{_instead(content)}")
    found = [weights for system in _systems(family) for weights in _weights_of(system, places)]
    if not found:
        raise CheckpointError(f"{where} holds no weights of {family}: {_described(places, family)}")
    weights = _named(found, entry, where) if entry is not None else _chosen(found, family, where)
    if weights.others:
        log.warning("%s: left out, as no part of %s: %s", where.name, family, some(weights.others, 8))
    return weights.tensors


def find_segformer(content: Any, where: Path) -> dict[str, Tensor]:
    """The state dict of a SegFormer in a checkpoint, without what wrappers put before its names.

    Args:
        content: what `medmamba.exchange.weight_files.read_checkpoint` gave.
        where: the file, for errors.

    Raises:
        CheckpointError: if there is none, or several.
    """
    places = dict(_state_dicts(content))
    found = [tensors for tensors in places.values() if any(_SEGFORMER.fullmatch(key) for key in tensors)]
    if len(found) != 1:
        what = f"{len(found)} SegFormers, of which one must be saved alone" if found else "no weights of a SegFormer"
        raise CheckpointError(f"{where} holds {what}{'' if places else _instead(content)}")
    return found[0]


def looks_like(tensors: Mapping[str, Any]) -> str | None:
    """The family of networks whose names these are, if they are of a whole network that is known."""
    family = next((system.family for system in _WHOLE.values() if system.prefixes(tensors)), None)
    if family in ("unet", "umamba"):  # of one body
        return "umamba" if any("mamba" in key for key in tensors) else "unet"
    return family


def check_family(family: str) -> None:
    """Refuse a name that no weights are known of.

    Raises:
        UsageError: naming those there are.
    """
    if family not in SYSTEMS and family not in FAMILIES:
        raise UsageError(f"no weights of {family!r} are known; choose one of {', '.join({**FAMILIES, **SYSTEMS})}")


def _systems(family: str) -> tuple[str, ...]:
    return FAMILIES[family].sought if family in FAMILIES else (family,)


def _state_dicts(content: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """All tensors by their names, at every level of what was saved."""
    if isinstance(content, nn.Module):
        content = content.state_dict()
    if isinstance(content, (list, tuple)):
        content = {
            str(number): value for number, value in enumerate(content) if isinstance(value, (Mapping, nn.Module))
        }
    if not isinstance(content, Mapping) or len(place) > _DEEPEST:
        return
    tensors = {
        key: torch.as_tensor(value)
        for key, value in content.items()
        if isinstance(key, str)
        and (isinstance(value, Tensor) or (isinstance(value, np.ndarray) and value.dtype.kind == "f"))
    }
    if tensors:
        yield place, _unwrapped(tensors)
    for key, value in content.items():
        yield from _state_dicts(value, (*place, str(key)))
    yield from _nameless(content, place)


def _nameless(
    content: Mapping[Any, Any], place: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Averages that torch_ema and diffusers keep as a list, in the order of the parameters in the state dict beside."""
    for key, value in content.items():
        shadows = value.get("shadow_params") if isinstance(value, Mapping) else None
        if not isinstance(shadows, list) or not all(isinstance(shadow, Tensor) for shadow in shadows):
            continue
        shapes = [shadow.shape for shadow in shadows]
        for other in content.values():
            for _, tensors in _state_dicts(other) if other is not value else ():
                if [tensor.shape for tensor in tensors.values()] == shapes:
                    yield (*place, str(key), "shadow_params"), dict(zip(tensors, shadows, strict=True))
                    break


def _unwrapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    names = {key: ".".join(part for part in key.split(".") if part not in _WRAPPERS) for key in tensors}
    if len(set(names.values())) < len(names):
        return dict(tensors)  # with and without wrapper are two sets of weights
    return {names[key]: tensor for key, tensor in tensors.items()}


def _weights_of(system: str, places: Mapping[tuple[str, ...], dict[str, Tensor]]) -> list[Found]:
    """All weights of a system that there are, each once."""
    found: list[Found] = []
    for place, tensors in places.items():
        places_in = SYSTEMS[system].prefixes(tensors)
        wholes = {prefix for whole in _WHOLE.values() for prefix in whole.prefixes(tensors)}
        for prefix in places_in:
            within = any(whole != prefix and prefix.startswith(whole) for whole in wholes)
            own = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
            own = {key: own[key] for key in own if not (_COUNTERS.fullmatch(key) or _LOSSES.fullmatch(key))}
            known = (prefix, *filter(None, places_in))
            others = tuple(
                key
                for key in tensors
                if _LOSSES.fullmatch(key.removeprefix(prefix))
                or not (key.startswith(known) or _COUNTERS.fullmatch(key))
            )
            steps = (*place, *(part for part in prefix.split(".") if part))
            weights = Found(steps, system, own, looks_like(tensors) if within else None, others)
            if not any(_same(weights.tensors, other.tensors) for other in found):
                found.append(weights)
    return found


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[key].shape == other[key].shape and torch.equal(one[key], other[key]) for key in one
    )


def _named(found: Sequence[Found], entry: str, where: Path) -> Found:
    """The weights at a place that has these names in a row; the whole name counts most."""
    entry = entry.strip(".")
    exact = [weights for weights in found if weights.name == entry]
    within = [weights for weights in found if f".{entry}." in f".{weights.name}."]
    fitting = exact or [weights for weights in within if weights.system == within[0].system]
    if not fitting:
        raise CheckpointError(f"{where} has no weights {entry!r}; it has {_list(found)}")
    if len(fitting) > 1:
        raise CheckpointError(f"{where} has several weights {entry!r}: {_list(fitting)}; name one of them with --entry")
    return fitting[0]


def _chosen(found: Sequence[Found], family: str, where: Path) -> Found:
    """The weights to take if nobody names any."""
    first = [weights for weights in found if weights.system == found[0].system]
    if whole := first[0].inside:
        raise CheckpointError(
            f"{where} looks like weights of {whole}, not of {family} alone; "
            f"import it as that, or name one of its parts with --entry: {_list(first)}"
        )
    averaged = [weights for weights in first if weights.averaged]
    others = [weights for weights in first if not weights.averaged and not weights.current]
    best = averaged or others or first
    if len(best) > 1 or (averaged and len(others) > 1):
        raise CheckpointError(
            f"{where} holds several weights of {family}: {_list(first)}; choose one with --entry NAME"
        )
    chosen = best[0]
    if rest := [weights for weights in first if weights is not chosen]:
        log.warning(
            "%s holds several weights; taken are %s%s. --entry chooses others: %s",
            where.name,
            chosen.name or "those at the top",
            ", averaged over training" if chosen.averaged else "",
            _list(rest),
        )
    return chosen


def _list(found: Sequence[Found]) -> str:
    return some([weights.name or "(the top)" for weights in found], 8)


def _instead(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f" but a {type(content).__name__}"
    return f"; it has {some([str(key) for key in content], 8) or 'nothing'}"


def _described(places: Mapping[tuple[str, ...], dict[str, Tensor]], family: str) -> str:
    """What there is instead of weights of the family."""
    for tensors in places.values():
        if (other := looks_like(tensors)) is not None:
            return f"they look like weights of {other}; import them with --from {other}, if they are"
    place, largest = max(places.items(), key=lambda item: len(item[1]))
    marks = [[mark for mark in SYSTEMS[system].marks if not _is_there(mark, largest)] for system in _systems(family)]
    lacking = [" and ".join(map(_plain, each)) for each in marks]
    return (
        f"no tensor is called {', nor '.join(part for part in lacking if part)}; {'.'.join(place) or 'the file'} has "
        f"{len(largest)} others: {some(list(largest), 8)}"
    )


def _is_there(mark: str, keys: Iterable[str]) -> bool:
    return any(re.search(rf"{mark}$", key) for key in keys)


def _plain(mark: str) -> str:
    """A pattern as one would write such a name."""
    return (
        re.sub(r"\((.+?)\|.*?\)", r"\1", re.sub(r"\((\w+\\\.|_b)\)\?", r"\1", mark))
        .replace("\\", "")
        .replace("?", "")
        .replace(".+", "...")
    )
