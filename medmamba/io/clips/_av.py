"""PyAV, which is an extra: asked for where a film file is read or written."""

from __future__ import annotations

import importlib
from typing import Any

from medmamba.errors import MachineError


def pyav(what: str) -> Any:
    """The package av.

    Args:
        what: is to be done, for the message: "reading film files".

    Raises:
        MachineError: if it is not installed.
    """
    try:
        return importlib.import_module("av")
    except ImportError as error:
        raise MachineError(f'{what} needs PyAV, which is not installed; run pip install "medmamba[video]"') from error
