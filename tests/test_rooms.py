"""Imports go down only: ops and data know nobody, and the command line knows everybody.

The order is that of docs/design/architecture.md. It is read from the source, so that imports within functions and for
type checkers count as well.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# From the top down: a module imports from its own room, from those below and from what stands beside them.
ORDER = (
    ("seam_fast", "seam_fast.__main__"),
    ("cli", "sklearn"),
    ("search",),
    ("training",),
    ("modules",),
    ("classifier",),
    ("nn", "optim", "testing"),
    ("ops", "data"),
    ("files",),
    ("common",),
    ("backend",),
    ("runtime",),
    ("_ext", "_version", "_moved", "errors"),
    ("_C",),
)
LEVEL = {name: level for level, names in enumerate(reversed(ORDER)) for name in names}
MODULES = sorted((ROOT / "seam_fast").rglob("*.py"))


def room_of(name: str) -> str:
    """The room of a module by its full name, or the module itself where it stands beside the rooms."""
    parts = name.split(".")
    if parts == ["seam_fast"] or name == "seam_fast.__main__":
        return name
    return parts[1]


def imports_of(path: Path):
    """Full names of the package's modules that a file imports from, with the line."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    package = parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for name in node.names:
                if name.name.split(".")[0] == "seam_fast":
                    yield name.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = ".".join((*package[: len(package) + 1 - node.level], *([node.module] if node.module else [])))
            if not node.level:
                base = node.module
            if base.split(".")[0] != "seam_fast":
                continue
            for name in node.names:
                whole = f"{base}.{name.name}"
                place = ROOT / whole.replace(".", "/")
                is_module = place.is_dir() or place.with_suffix(".py").is_file() or place.with_suffix(".pyi").is_file()
                yield whole if is_module else base, node.lineno


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path):
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    room = room_of(name)
    for imported, line in imports_of(path):
        other = room_of(imported)
        if other == room or (room, other) == ("_moved", "common") or imported == "seam_fast._version":
            continue
        assert other != "seam_fast", f"{name}, line {line}: a room imports the package as a whole"
        assert LEVEL[other] < LEVEL[room], f"{name}, line {line}: {room} may not know {other}, which is not below it"


def test_modules_form_no_circle():
    graph = {}
    for path in MODULES:
        parts = list(path.relative_to(ROOT).with_suffix("").parts)
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        graph[name] = {imported for imported, _ in imports_of(path)} - {name}
    seen, done = set(), set()

    def visit(name, way):
        assert name not in seen or name in done, f"a circle: {' -> '.join([*way[way.index(name) :], name])}"
        if name in done or name not in graph:
            return
        seen.add(name)
        for other in sorted(graph[name]):
            visit(other, [*way, name])
        done.add(name)

    for name in graph:
        visit(name, [])


def test_only_the_command_line_needs_what_it_alone_uses():
    """matplotlib and tqdm are imported at import time nowhere else, and scikit-learn in the room of its name alone."""
    for path in MODULES:
        allowed = {"cli": {"matplotlib", "tqdm"}, "sklearn": {"sklearn"}}.get(path.parts[-2], set())
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert not {name.split(".")[0] for name in names} & {"matplotlib", "tqdm", "sklearn"} - allowed, path
