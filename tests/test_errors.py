"""Errors of ours go from one process to another and say the same there."""

from __future__ import annotations

import importlib
import inspect
import pickle
import pkgutil
from pathlib import Path
from typing import Any

import pytest

import medmamba
from medmamba.errors import MedMambaError
from medmamba.io import ImageFileError

#: What constructors ask for, by name.
ARGUMENTS: dict[str, Any] = {"path": Path("/data/a.nii"), "reason": "it is empty"}


def all_errors() -> list[type[MedMambaError]]:
    """Every class of error of the installed package."""
    for module in pkgutil.walk_packages(medmamba.__path__, "medmamba."):
        if not module.name.startswith(("medmamba.kernels", "medmamba.cli")) and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found, waiting = list[type[MedMambaError]](), [MedMambaError]
    while waiting:
        found.append(waiting.pop())
        waiting += found[-1].__subclasses__()
    return sorted(found, key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.__name__)
def test_error_survives_pickling(kind: type[MedMambaError]) -> None:
    asked = [name for name in inspect.signature(kind.__init__).parameters if name in ARGUMENTS]
    error = kind(*[ARGUMENTS[name] for name in asked] or ["a rule, a value, a remedy"])
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))


def test_error_of_an_image_names_file_and_reason() -> None:
    error = ImageFileError(Path("/data/a.nii"), "it is empty")
    assert (str(error), error.path, error.reason) == ("/data/a.nii: it is empty", Path("/data/a.nii"), "it is empty")
