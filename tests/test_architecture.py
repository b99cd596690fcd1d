"""Imports flow one way, and a file that breaks a rule of the house is found."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

from tests import architecture
from tests.architecture import AT_THE_TOP, CHECKOUT, FLOORS, PACKAGE, WITHIN, complaints, imports, sources


def test_every_import_keeps_the_rules_of_the_house() -> None:
    found = complaints(sources())
    assert not found, "\n".join(found)


def with_line(module: str, line: str, folder: Path) -> list[str]:
    """What is wrong with the sources as they are but for one more line in one module."""
    modules = sources()
    offending = folder / modules[module].name
    offending.write_text(f"{modules[module].read_text()}\n{line}\n")
    return sorted(set(complaints(modules | {module: offending})) - complaints_of_today())


@cache
def complaints_of_today() -> frozenset[str]:
    return frozenset(complaints(sources()))


@pytest.mark.parametrize(
    ("module", "line", "words"),
    [
        ("io.images", "from medmamba.training import fold", "imports training.fold, which stands on a higher floor"),
        ("io.images", "import medmamba.training.fold", "imports training.fold, which stands on a higher floor"),
        ("io.images", "from ..training import fold", "imports training.fold, which stands on a higher floor"),
        ("io.images", "from ..training.fold import Fold", "imports training.fold.Fold, which stands on a higher floor"),
        ("io.images", "from .. import training", "imports training, which stands on a higher floor"),
        ("io.images", "from . import check", "imports io.check, which stands on a higher floor"),
        ("io.images", "from .check import report", "imports io.check.report, which stands on a higher floor"),
        ("io", "from ..data import cache", "imports data.cache, which stands on a higher floor"),
        ("volume", "from . import io", "imports io, which stands on a higher floor"),
        ("volume", "def late():\n    from .plans.plan import Plan", "imports plans.plan.Plan, which stands on a"),
        (
            "volume",
            "if TYPE_CHECKING:\n    from .plans.plan import Plan",
            "imports plans.plan.Plan, which stands on a higher",
        ),
        ("kernels.orders", "from ..io import images", "imports io.images, which stands on a higher floor"),
        ("plans.plan", "from .planner import make_plan", "imports plans.planner.make_plan, which stands on a higher"),
        ("plans.plan", "from .budget import BatchSize", "imports plans.budget.BatchSize, which stands on a higher"),
        ("training.trainer", "from .fold import train_fold", "imports training.fold.train_fold, which stands on a"),
        ("training.trainer", "from medmamba.networks import _x", "imports networks._x, which is private to networks"),
        ("training.trainer", "from ..volume import Volume\nVolume._x", "imports volume.Volume._x, which is private to"),
        (
            "training.trainer",
            "import medmamba.data.cache as cc\ncc._x()",
            "imports data.cache._x, which is private to data",
        ),
        (
            "training.trainer",
            "import medmamba.data.cache\nmedmamba.data.cache._x()",
            "imports data.cache._x, which is private to data",
        ),
        ("training.trainer", "from .. import data\ndata.cache._x()", "imports data.cache._x, which is private to data"),
        (
            "io.images",
            "import medmamba.errors\nmedmamba.training.fold.train_fold()",
            "imports training.fold.train_fold, which stands on a higher floor",
        ),
        (
            "io.images",
            "import importlib\nimportlib.import_module('medmamba.training.fold')",
            "imports training.fold, which stands on a higher floor",
        ),
        ("io.images", "__import__('medmamba.training.fold')", "imports training.fold, which stands on a higher floor"),
        (
            "io.images",
            "from importlib import import_module\nimport_module('..training', __package__)",
            "imports training, which stands on a higher floor",
        ),
        ("training.trainer", "from medmamba import Volume", "by the front door; import it from the module that has it"),
        (
            "io.images",
            "from medmamba.plans.plan import Plan",
            "imports plans.plan.Plan, which io.images must know nothing of",
        ),
        ("training.run", "from ..labels import Labels", "imports labels.Labels, which training.run must know nothing"),
        ("io.images", "import monai.data", "imports monai.data, which belongs into data, prediction.predictor"),
        ("evaluation.metrics", "from numba import jit", "imports numba.jit, which belongs into kernels"),
        (
            "evaluation.metrics",
            "from . import evaluate",
            "modules import one another: evaluation.evaluate, evaluation.m",
        ),
        ("training.run", "from ..prediction import predictor", "rooms import one another: prediction, training"),
    ],
)
def test_line_that_breaks_a_rule_is_found(module: str, line: str, words: str, tmp_path: Path) -> None:
    assert any(words in complaint for complaint in with_line(module, line, tmp_path))


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("training.trainer", "from ..data import cache"),
        ("training.trainer", "from . import run"),
        ("training.trainer", "from medmamba import __version__"),
        ("training.trainer", "import monai_of_another_name"),
        ("volume", "from .volume import Volume"),
        ("data.augment", "import monai"),
        ("kernels.dispatch", "from ._arguments import Scan as _private_here"),
        ("training.trainer", "import medmamba.data.cache\nmedmamba.data.cache.x()"),
        ("training.trainer", "import importlib\nimportlib.import_module('medmamba.data.cache')"),
    ],
)
def test_line_that_breaks_no_rule_is_let_through(module: str, line: str, tmp_path: Path) -> None:
    assert with_line(module, line, tmp_path) == []


def test_new_module_is_asked_for_its_floor(tmp_path: Path) -> None:
    (tmp_path / "corridor.py").touch()
    found = complaints(sources() | {"corridor": tmp_path / "corridor.py", "plans.corridor": tmp_path / "corridor.py"})
    assert "corridor stands on no floor; add it to FLOORS" in found
    assert "plans.corridor stands on no floor of its package; add it to WITHIN" in found


def test_this_suite_fails_when_a_relative_import_climbs(tmp_path: Path) -> None:
    """The promise itself: the same test, run by pytest on a copy of the sources with one offending line."""
    for folder in (PACKAGE, *AT_THE_TOP):
        shutil.copytree(
            CHECKOUT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"), symlinks=True
        )
    (tmp_path / "tests").mkdir()
    for file in (Path(architecture.__file__), Path(__file__)):
        shutil.copy(file, tmp_path / "tests")
    command = [sys.executable, "-m", "pytest", "-q", "--import-mode=importlib", "-p", "no:cacheprovider", "--rootdir=."]
    command.append(f"tests/test_architecture.py::{test_every_import_keeps_the_rules_of_the_house.__name__}")
    with (tmp_path / PACKAGE / "volume.py").open("a") as file:
        file.write("\nfrom .cli import main\n")
    outcome = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert outcome.returncode == pytest.ExitCode.TESTS_FAILED
    assert "imports cli.main, which stands on a higher floor" in outcome.stdout


def test_tables_name_nothing_that_is_gone() -> None:
    modules = sources()
    rooms = {module.split(".")[0] for module in modules}
    named = {name for line in FLOORS for name in line.split()}
    inner = {f"{package}.{name}" for package, table in WITHIN.items() for line in table for name in line.split()}
    inner = {name.removesuffix(".__init__") for name in inner if not name.endswith("*")}
    assert named | inner <= rooms | set(modules)


def test_imports_are_those_in_the_file(tmp_path: Path) -> None:
    package = tmp_path / "__init__.py"
    module = tmp_path / "inner.py"
    package.write_text("from .inner import value\nimport numpy as np\n")
    module.write_text("from . import other\nfrom ..volume import Volume, identity\nfrom .. import volume\n")
    modules = {"room": package, "room.inner": module, "room.other": Path("/dev/null"), "volume": Path("/dev/null")}
    assert [(each.source, each.line, each.target, each.name) for each in imports(modules)] == [
        ("room", 1, "room.inner", "value"),
        ("room", 2, "numpy", ""),
        ("room.inner", 1, "room.other", ""),
        ("room.inner", 2, "volume", "Volume"),
        ("room.inner", 2, "volume", "identity"),
        ("room.inner", 3, "volume", ""),
    ]


def by_path(path: Path) -> ModuleType:
    """A script that belongs to no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def test_picture_shows_the_floors_and_imports_that_there_are() -> None:
    drawing = by_path(CHECKOUT / "docs" / "draw_architecture.py")
    assert drawing.PICTURE.read_text() == drawing.draw(), "draw it again: python -m docs.draw_architecture"
    pairs = {(source.title, target.title) for source, target in drawing.arrows(drawing.boxes(sources()))}
    assert {("cli", "training"), ("training", "tasks"), ("networks", "kernels"), ("plans", "io")} <= pairs
    assert not {("io", "cli"), ("kernels", "networks"), ("io", "plans")} & pairs


def test_page_is_short_and_names_what_is_there() -> None:
    text = (CHECKOUT / "docs" / "architecture.md").read_text()
    assert len(text.splitlines()) <= 120
    rooms = set(re.findall(r"^\| `(\w+)/` \|", text, re.MULTILINE))
    assert rooms == {module.split(".")[0] for module in sources() if "." in module}
    named = {name for name in re.findall(r"`([\w./]+)`", text) if "/" in name}
    places = [CHECKOUT / inner for inner in ("", "medmamba", "medmamba/io", "medmamba/networks")]
    gone = {name for name in named if not any((place / name).exists() for place in places)}
    assert not gone
