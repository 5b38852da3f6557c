"""The floors of the package: a module imports from its own floor and from those below, never from above."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import edge_mtp

ROOT = Path(edge_mtp.__file__).parent

# From the ground up. Rooms that stand side by side on one floor do not import each other.
FLOORS: list[list[str]] = [
    # What any program needs, and statistics, which know nothing of what was measured.
    ["errors"],
    ["safe_text", "output_file", "file_hash", "quiet", "harness.stats"],
    ["cache", "json_file"],
    ["formats"],
    ["chat"],
    ["device", "export"],
    ["acceptance", "summary", "turns"],
    ["reply", "reply_options"],
    ["reply_grammar"],
    ["engine"],
    ["dialogue"],
    ["harness.score"],
    ["harness.ask"],
    ["harness.record"],
    ["harness.run", "harness.analyse"],
    ["harness.tell"],
    ["cli"],
]
FLOOR_OF = {room: (number, room) for number, floor in enumerate(FLOORS) for room in floor}


def room_of(module: str) -> str | None:
    """The room that a module's dotted name, below `edge_mtp`, lies in; None for the package itself."""
    parts = module.split(".")
    return next((room for n in range(len(parts), 0, -1) if (room := ".".join(parts[:n])) in FLOOR_OF), None)


def imports(path: Path) -> set[str]:
    """All names below `edge_mtp` that a file imports, at its top or inside a function: `formats.bundle.Bundle`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            pytest.fail(f"{path}: a relative import hides which floor it reaches")
    return {name.removeprefix("edge_mtp.") for name in found if name.startswith("edge_mtp.")}


def modules() -> list[tuple[str, Path]]:
    """Each module below `edge_mtp` by its dotted name, and its file; packages too."""
    named = []
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name and name != "harness":
            named.append((name, path))
    return named


def test_every_module_has_a_floor() -> None:
    assert [name for name, _ in modules() if room_of(name) is None] == []
    assert {room_of(name) for name, _ in modules()} == set(FLOOR_OF)


def test_no_module_imports_from_above() -> None:
    upward = []
    for name, path in modules():
        floor, room = FLOOR_OF[room_of(name) or ""]
        for imported in sorted(imports(path)):
            target = room_of(imported)
            assert target is not None, f"{name} imports {imported}, which has no floor"
            above, other = FLOOR_OF[target]
            if above > floor or (above == floor and other != room):
                upward.append(f"{name} imports {imported}")
    assert upward == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Not even inside a function, or for types alone."""
    paths = dict(modules())

    def module_of(imported: str) -> str | None:
        parts = imported.split(".")
        return next((name for n in range(len(parts), 0, -1) if (name := ".".join(parts[:n])) in paths), None)

    graph = {name: {module_of(each) for each in imports(path)} - {name, None} for name, path in paths.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError with the circle
