"""The house as tables, and what the imports in its sources say: read by the architecture test and by the drawing.

Module names in the tables leave out ``medmamba.``.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
PACKAGE = "medmamba"
#: Rooms whose folder lies at the top of the checkout.
AT_THE_TOP = ("kernels", "plans", "cli")

#: Floors from the roof down: a module imports from its own floor and from those below. A name stands for a module or a
#: whole package; of several that fit, the longest counts.
FLOORS = (
    "cli",
    "demo",
    "exchange training prediction evaluation registration",
    "tasks data",
    "networks plans.workspace plans.planner plans.decisions plans.nnunet plans.from_nnunet"
    " plans.fingerprint plans.intensities plans.registration plans.pairs_fingerprint"
    " plans.video plans.clips_fingerprint",
    "io",
    "kernels plans",
    "volume clip case labels warp transform intensity device memory progress engines records files",
    "errors",
)
#: Floors inside a package, from its roof down; ``__init__`` is the package's own file, ``*`` stands for any text. A
#: package without a line is one floor.
WITHIN = {
    "cli": ("main", "train", "*", "_*"),
    "data": (
        "patches pair_batches",
        "augment deformations",
        "cache pairs",
        "preprocess align",
        "working_grid",
        "__init__",
    ),
    "demo": ("demo", "phantom", "__init__"),
    "evaluation": (
        "sources page",
        "registered",
        "film_files",
        "evaluate films comparison breakdown subgroups nnunet_summary landmarks registered_folder registered_labels",
        "report probabilities maps meaning",
        "metrics",
        "frames",
        "masks",
        "*",
        "lesions",
        "components",
        "surface",
        "areas",
        "scores",
    ),
    "exchange": ("nnunet pretrained", "state_dicts", "weight_files", "*"),
    "io": ("__init__", "check datasets places", "layouts sizes", "images clips", "formats", "*"),
    "kernels": (
        "compat",
        "__init__",
        "packed convolution",
        "dispatch",
        "cpu_scan triton_scan torch_scan reference chunked cpu_conv triton_conv",
        "_*",
        "orders",
    ),
    "networks": (
        "__init__",
        "published",
        "language",
        "*",
        "_mambamorph _mixers _vim _vss",
        "mamba experts",
        "_*",
    ),
    "plans": (
        "workspace",
        "planner registration video from_nnunet",
        "decisions nnunet",
        "pairs_fingerprint",
        "fingerprint clips_fingerprint intensities",
        "grid topology splits budget",
        "__init__",
        "plan",
    ),
    "prediction": ("predictor", "*"),
    "registration": ("folder", "pair", "register measures", "model records pictures refine", "*"),
    "tasks": ("*", "losses separable", "__init__"),
    "training": ("fold", "trainer", "*"),
}
#: Names, as in the tables -> what they know nothing of, though it stands no higher.
STRANGERS = {
    "io": "plans kernels",
    "training.trainer training.run training.plot training.pace": (
        "tasks.segmentation tasks.losses labels tasks.registration tasks.similarity tasks.smoothness tasks.overlap"
    ),
}
#: Libraries that stay in one place.
CONFINED = {
    "monai": ("data", "prediction.predictor"),
    "cc3d": ("evaluation.components",),
    "typer": ("cli",),
    "rich": ("cli",),
    "highdicom": ("io",),
    "nibabel": ("io",),
    "pydicom": ("io",),
    "SimpleITK": ("io", "data.align"),
    "numba": ("kernels",),
    "jinja2": ("evaluation.page",),
    "PIL": ("evaluation.page", "io.clips"),
    "av": ("io.clips",),
    "tifffile": ("io.clips",),
    "triton": ("kernels",),
}


@dataclass(frozen=True, slots=True, order=True)
class Import:
    """One import: ``source`` is the module it stands in, ``target`` the module it finds.

    Args:
        source: without ``medmamba.``; empty for the package's own file.
        line: where in the source.
        target: a module of ours without ``medmamba.``, or a library's in full.
        ours: whether the target is a module of ours.
        name: what is taken from the target; empty for the target itself.
    """

    source: str
    line: int
    target: str
    ours: bool
    name: str

    def __str__(self) -> str:
        return f"{self.source or PACKAGE}:{self.line} imports {self.target}{self.name and '.'}{self.name}"


def sources(checkout: Path = CHECKOUT) -> dict[str, Path]:
    """Every module of ours and its file; a package's own file bears the package's name."""
    roots = {"": checkout / PACKAGE} | {room: checkout / room for room in AT_THE_TOP}
    found = {}
    for package, root in roots.items():
        for path in sorted(root.rglob("*.py")):
            inner = path.relative_to(root).with_suffix("").parts
            if package or inner[0] not in AT_THE_TOP:  # links inside the package show those at the top once more
                found[".".join(part for part in (package, *inner) if part not in ("", "__init__"))] = path
    return found


def imports(modules: Mapping[str, Path]) -> list[Import]:
    """Every import in the files, relative ones resolved; late ones and those for types count like all others."""
    found = []
    for source, path in modules.items():
        for target, name, line in _statements(source, path):
            ours = target.split(".")[0] == PACKAGE
            target = target.removeprefix(PACKAGE).removeprefix(".") if ours else target
            while ours and name and (inner := f"{target}.{name.split('.')[0]}".strip(".")) in modules:
                target, name = inner, name.partition(".")[2]
            if not ours or target != source:
                found.append(Import(source, line, target, ours, name))
    return sorted(set(found))


@cache
def _statements(source: str, path: Path) -> tuple[tuple[str, str, int], ...]:
    """(module in full, name taken from it or nothing, line) of each import and of each attribute of what it brought."""
    return tuple(_read(source, path))


def _read(source: str, path: Path) -> Iterator[tuple[str, str, int]]:
    here = [PACKAGE, *filter(None, source.split("."))]
    package = here if path.name == "__init__.py" else here[:-1]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    known: dict[str, tuple[str, str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "", node.lineno) for alias in node.names)
            for (
                alias
            ) in node.names:  # one without `as` brings the outermost package, and all of it that anybody imported
                outermost = alias.name.split(".")[0]
                known |= {alias.asname: (alias.name, "")} if alias.asname else {outermost: (outermost, "")}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            origin = ".".join((*above, *filter(None, [node.module])))
            yield from ((origin, alias.name, node.lineno) for alias in node.names)
            known |= {alias.asname or alias.name: (origin, alias.name) for alias in node.names}
        elif isinstance(node, ast.Call) and (called := _called_import(node)):
            level = len(called) - len(called.lstrip("."))
            above = package[: len(package) + 1 - level] if level else []
            yield ".".join((*above, called[level:])), "", node.lineno
    for node in ast.walk(tree):  # `name.attribute` takes as much from where the name is from as an import does
        if isinstance(node, ast.Attribute) and (chain := _chain(node))[0] in known:
            origin, name = known[chain[0]]
            if origin.split(".")[0] == PACKAGE:
                yield origin, ".".join(filter(None, (name, *chain[1:]))), node.lineno


def _called_import(call: ast.Call) -> str:
    """The module that a call imports by a name written out; empty if it does not."""
    by = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    name = call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else ""
    return name if by in ("import_module", "__import__") and isinstance(name, str) else ""


def _chain(node: ast.expr) -> list[str]:
    """The names of ``one.other.third``; an empty one in front where it starts at something else than a name."""
    if isinstance(node, ast.Attribute):
        return [*_chain(node.value), node.attr]
    return [node.id if isinstance(node, ast.Name) else ""]


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def room(module: str) -> str:
    """The package, or the module of the ground floor, that a module belongs to."""
    return module.split(".")[0]


@cache
def floor(module: str, table: tuple[str, ...] = FLOORS) -> int | None:
    """Which line of a table a module stands on, 0 for the roof; None where no line names it."""
    fitting = [
        (len(name), depth)
        for depth, line in enumerate(table)
        for name in line.split()
        if fnmatchcase(module, name) or module.startswith(f"{name}.")
    ]
    return max(fitting)[1] if fitting else None


def complaints(modules: Mapping[str, Path]) -> list[str]:
    """What in these files breaks the rules of the house; a sentence each."""
    found = imports(modules)
    inside = [each for each in found if each.ours]
    return [
        *_nowhere(modules),
        *_climbing(inside),
        *_front_door(inside),
        *_private(inside),
        *_strangers(inside),
        *_in_circles({(each.source, each.target) for each in inside}, "modules"),
        *_in_circles({(room(each.source), room(each.target)) for each in inside}, "rooms"),
        *_confined(each for each in found if not each.ours),
    ]


def _nowhere(modules: Iterable[str]) -> Iterator[str]:
    for module in filter(None, modules):
        if floor(module) is None:
            yield f"{module} stands on no floor; add it to FLOORS"
        elif room(module) in WITHIN and floor(_inner(module), WITHIN[room(module)]) is None:
            yield f"{module} stands on no floor of its package; add it to WITHIN"


def _inner(module: str) -> str:
    """A module as its package's own table names it."""
    return module.partition(".")[2] or "__init__"


def _climbing(inside: Iterable[Import]) -> Iterator[str]:
    for each in inside:
        pairs = [(floor(each.source), floor(each.target))]
        if (package := room(each.source)) == room(each.target) and package in WITHIN:
            pairs.append((floor(_inner(each.source), WITHIN[package]), floor(_inner(each.target), WITHIN[package])))
        if any(own is not None and other is not None and other < own for own, other in pairs):
            yield f"{each}, which stands on a higher floor"


def _front_door(inside: Iterable[Import]) -> Iterator[str]:
    """``medmamba`` itself hands out names to users; inside, a name is imported from where it is."""
    for each in inside:
        if not each.target and each.name not in ("", "__version__"):
            yield f"{each} by the front door; import it from the module that has it"


def _private(inside: Iterable[Import]) -> Iterator[str]:
    for each in inside:
        names = (*each.target.split("."), *each.name.split("."))
        if room(each.source) != room(each.target) and any(map(_is_private, names)):
            yield f"{each}, which is private to {room(each.target)}"


def _strangers(inside: Iterable[Import]) -> Iterator[str]:
    for each in inside:
        for names, unknown in STRANGERS.items():
            if floor(each.source, (names,)) is not None and floor(each.target, (unknown,)) is not None:
                yield f"{each}, which {each.source} must know nothing of"


def _confined(outside: Iterable[Import]) -> Iterator[str]:
    for each in outside:
        allowed = CONFINED.get(each.target.split(".")[0])
        if allowed is not None and floor(each.source, allowed) is None:
            yield f"{each}, which belongs into {', '.join(allowed)}"


def _in_circles(pairs: Iterable[tuple[str, str]], what: str) -> Iterator[str]:
    """One sentence for each group whose members all reach one another."""
    below: dict[str, set[str]] = {}
    for source, target in pairs:
        if source and target and source != target:
            below.setdefault(source, set()).add(target)
    reached = {source: _reached(source, below) for source in below}
    circles = {frozenset(o for o in reached[s] if s in reached.get(o, ())) for s in below}
    for circle in sorted(map(sorted, filter(None, circles))):
        yield f"{what} import one another: {', '.join(circle)}"


def _reached(source: str, below: Mapping[str, set[str]]) -> set[str]:
    found: set[str] = set()
    waiting = [source]
    while waiting:
        new = below.get(waiting.pop(), set()) - found
        found |= new
        waiting += new
    return found


if __name__ == "__main__":
    sys.exit("\n".join(complaints(sources())) or 0)
