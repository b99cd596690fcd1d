"""Medical image segmentation and registration with Mamba networks."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medmamba.case import Case, Dataset, Pair, Split
    from medmamba.labels import Label, Labels
    from medmamba.volume import Geometry, Volume

    __version__: str

__all__ = ["Case", "Dataset", "Geometry", "Label", "Labels", "Pair", "Split", "Volume", "__version__"]

_HOMES = {
    "Case": "case",
    "Dataset": "case",
    "Geometry": "volume",
    "Label": "labels",
    "Labels": "labels",
    "Pair": "case",
    "Split": "case",
    "Volume": "volume",
}


#: Modules that are asked for under this name too: weights of elsewhere, as earlier versions had them.
_MODULES = {"pretrained": "exchange.pretrained"}


def __getattr__(name: str) -> Any:
    """Import a name when it is asked for: the command line's help needs none of them, nor numpy."""
    if name == "__version__":
        from importlib.metadata import version

        return version("medmamba")
    if name in _MODULES:
        return import_module(f"medmamba.{_MODULES[name]}")
    if name in _HOMES:
        return getattr(import_module(f"medmamba.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'medmamba' has no attribute {name!r}")
