"""Imports flow one way: a module uses lower floors and its own package, never what lies above it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent

#: First match wins; a higher floor may import a lower one.
FLOORS = (
    ("medmamba.cli", 6),
    ("medmamba.demo", 5),
    ("medmamba.training", 4),
    ("medmamba.prediction", 4),
    ("medmamba.evaluation", 4),
    ("medmamba.exchange", 4),
    ("medmamba.tasks", 3),
    ("medmamba.data", 3),
    ("medmamba.networks", 2),
    ("medmamba.plans.fingerprint", 2),
    ("medmamba.plans.from_nnunet", 2),
    ("medmamba.plans.intensities", 2),
    ("medmamba.plans.nnunet", 2),
    ("medmamba.plans.planner", 2),
    ("medmamba.plans.workspace", 2),
    ("medmamba.io", 1),
    ("medmamba.kernels", 0),
    ("medmamba.plans", 0),
    ("medmamba.volume", 0),
    ("medmamba.case", 0),
    ("medmamba.labels", 0),
    ("medmamba.warp", 0),
    ("medmamba.intensity", 0),
    ("medmamba.device", 0),
    ("medmamba.memory", 0),
    ("medmamba.progress", 0),
    ("medmamba.records", 0),
    ("medmamba.files", 0),
    ("medmamba.errors", 0),
    ("medmamba.engines", 0),
)
#: Third-party packages that stay in one place.
CONFINED = {
    "monai": ("medmamba.data", "medmamba.prediction.predictor"),
    "typer": ("medmamba.cli",),
    "rich": ("medmamba.cli",),
    "nibabel": ("medmamba.io",),
    "SimpleITK": ("medmamba.io",),
    "numba": ("medmamba.kernels",),
    "triton": ("medmamba.kernels",),
}


def sources() -> list[tuple[str, Path]]:
    """(dotted name, file) of every module."""
    roots = {"medmamba": CHECKOUT / "medmamba"} | {f"medmamba.{n}": CHECKOUT / n for n in ("kernels", "plans", "cli")}
    found = []
    for package, root in roots.items():
        for path in sorted(root.rglob("*.py")):
            inner = path.relative_to(root).with_suffix("").parts
            if package == "medmamba" and inner[0] in ("kernels", "plans", "cli"):
                continue
            found.append((".".join((package, *(part for part in inner if part != "__init__"))), path))
    return found


def floor(module: str) -> int | None:
    """The floor a module stands on; None for the package itself, which only re-exports."""
    return next((n for prefix, n in FLOORS if module == prefix or module.startswith(prefix + ".")), None)


def imports(path: Path, *, top_level_only: bool) -> list[str]:
    """Dotted names that a file imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names: list[str] = []
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


@pytest.mark.parametrize(("module", "path"), sources(), ids=lambda value: value if isinstance(value, str) else "")
def test_module_imports_no_higher_floor(module: str, path: Path) -> None:
    own = floor(module)
    if own is None:
        assert module == "medmamba", f"{module} stands on no floor: add it to the table"
        return
    package = ".".join(module.split(".")[:2])
    for name in imports(path, top_level_only=False):
        target = floor(name)
        if name.startswith("medmamba.") and target is not None and not name.startswith(package + "."):
            assert target <= own, f"{module} (floor {own}) imports {name} (floor {target})"


@pytest.mark.parametrize(("module", "path"), sources(), ids=lambda value: value if isinstance(value, str) else "")
def test_library_is_used_where_it_belongs(module: str, path: Path) -> None:
    for name in imports(path, top_level_only=False):
        allowed = CONFINED.get(name.split(".")[0])
        assert allowed is None or module.startswith(allowed), f"{module} imports {name}; it belongs into {allowed}"
