"""The folders at the top are sub-packages of medmamba, in the checkout and in the wheel."""

from __future__ import annotations

import importlib
import importlib.util
import os
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest

from medmamba.kernels import compat

CHECKOUT = Path(__file__).resolve().parent.parent
LINKED = ("kernels", "plans", "cli")
SETTINGS = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
PACKAGES = SETTINGS["tool"]["setuptools"]["packages"]


def folders_with_code() -> set[str]:
    """Dotted names of all packages in the checkout."""
    roots = {"medmamba": CHECKOUT / "medmamba"} | {f"medmamba.{name}": CHECKOUT / name for name in LINKED}
    found = set()
    for name, root in roots.items():
        for init in root.rglob("__init__.py"):
            inner = init.parent.relative_to(root).parts
            if not inner or name != "medmamba" or inner[0] not in LINKED:
                found.add(".".join((name, *inner)))
    return found


def test_package_list_names_every_folder_with_code() -> None:
    assert set(PACKAGES) == folders_with_code()


@pytest.mark.parametrize("name", PACKAGES)
def test_package_imports(name: str) -> None:
    assert importlib.import_module(name).__file__


@pytest.mark.parametrize("name", LINKED)
def test_folder_is_no_top_level_package_of_ours(name: str) -> None:
    spec = importlib.util.find_spec(name)
    assert spec is None or not str(spec.origin).startswith(str(CHECKOUT)), f"`import {name}` finds the checkout"


@pytest.mark.parametrize("name", LINKED)
def test_link_points_home(name: str) -> None:
    link = CHECKOUT / "medmamba" / name
    if not link.is_symlink():
        pytest.skip("this checkout was made without symbolic links")
    assert link.resolve() == CHECKOUT / name
    assert not Path(os.readlink(link)).is_absolute()


def test_only_medmamba_is_installed_at_top_level() -> None:
    assert (distribution("medmamba").read_text("top_level.txt") or "").split() == ["medmamba"]


def test_wheel_is_what_is_tested_when_asked_for() -> None:
    site = os.environ.get("MEDMAMBA_INSTALLED_AT")
    if site is None:
        pytest.skip("MEDMAMBA_INSTALLED_AT names no unpacked wheel; `make wheel` sets it")
    root = Path(site).resolve()
    for name in PACKAGES:
        origin = importlib.import_module(name).__file__
        assert origin is not None
        assert Path(origin).resolve().is_relative_to(root), f"{name} comes from {origin}"
    sources = {Path(*name.split(".")) for name in PACKAGES}
    # Stand-ins for other packages lie in folders of their own, which compat puts on the search path.
    standins = {Path(folder).resolve().relative_to(root) for folder in (compat.STANDINS, compat.LAST)}
    shipped = {path.parent.relative_to(root) for path in (root / "medmamba").rglob("*.py")}
    assert shipped == sources | standins
    assert len(list(compat.STANDINS.glob("*.dist-info/METADATA"))) == 2
    assert (root / "medmamba" / "py.typed").is_file()
    templates = Path("medmamba", "evaluation", "page", "templates")
    ours, theirs = ({path.name for path in (place / templates).iterdir()} for place in (root, CHECKOUT))
    assert ours == theirs
