"""The floors of the package, which test_floors.py holds; run by itself it draws them: `python floors.py FILE.svg`.

A room is a module or a package. It may import from its own floor's ground downwards, never from above, and rooms side
by side on one floor do not import each other.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from xml.sax.saxutils import escape

import edge_mtp

ROOT = Path(edge_mtp.__file__).parent

# From the ground up.
FLOORS: list[list[str]] = [
    ["errors"],
    # Statistics know nothing of what was measured, so that anything may use them.
    ["safe_text", "progress", "output_file", "file_hash", "quiet", "harness.stats"],
    ["cache", "json_file"],
    ["formats"],
    ["chat"],
    ["device", "export"],
    ["acceptance", "function_tools", "summary", "turns"],
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
FLOOR_OF = {room: number for number, floor in enumerate(FLOORS) for room in floor}


def room_of(module: str) -> str | None:
    """The room that a module's dotted name, below `edge_mtp`, lies in; None where no floor lists it."""
    parts = module.split(".")
    return next((room for n in range(len(parts), 0, -1) if (room := ".".join(parts[:n])) in FLOOR_OF), None)


def modules() -> dict[str, Path]:
    """Each module and package below `edge_mtp`, as it is installed, by its dotted name."""
    named = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        named[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return {name: path for name, path in named.items() if name not in ("", "harness")}


def imports(path: Path) -> set[str]:
    """What a file imports from below `edge_mtp`, at its top or inside a function: `formats.bundle.Bundle`.

    Raises ValueError for a relative import, which does not say where it leads.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"{path} has a relative import in line {node.lineno}; name the module whole")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix("edge_mtp.") for name in found if name.startswith("edge_mtp.")}


def arrows() -> set[tuple[str, str]]:
    """Which room imports from which other one."""
    found = set()
    for name, path in modules().items():
        for imported in imports(path):
            here, there = room_of(name), room_of(imported)
            if here is not None and there is not None and here != there:
                found.add((here, there))
    return found


def upward() -> list[str]:
    """The imports that no floor allows, in words."""
    wrong = []
    for name, path in modules().items():
        here = room_of(name)
        for imported in sorted(imports(path)):
            there = room_of(imported)
            if here is None or there is None:
                wrong.append(f"{name} imports {imported}, and one of them stands on no floor")
            elif here != there and FLOOR_OF[there] >= FLOOR_OF[here]:
                wrong.append(f"{name} imports {imported} from above")
    return wrong


def module_graph() -> dict[str, set[str]]:
    """The modules that each module imports, even inside a function or for types alone."""
    paths = modules()

    def module_of(imported: str) -> str | None:
        parts = imported.split(".")
        return next((name for n in range(len(parts), 0, -1) if (name := ".".join(parts[:n])) in paths), None)

    return {
        name: {module for each in imports(path) if (module := module_of(each)) not in (None, name)}
        for name, path in paths.items()
    }


# -- the picture ------------------------------------------------------------------------------------------------------

_WIDE, _HIGH, _GAP, _ROW = 148, 34, 14, 62


def picture() -> str:
    """The floors as SVG. An arrow that a chain of others implies is left out."""
    direct = arrows()
    reached: dict[str, set[str]] = {}
    for room in sorted(FLOOR_OF, key=FLOOR_OF.__getitem__):
        below = {there for here, there in direct if here == room}
        reached[room] = below.union(*(reached.get(each, set()) for each in below))
    needed = sorted(
        (here, there)
        for here, there in direct
        if not any(there in reached.get(other, ()) for at, other in direct if at == here and other != there)
    )
    width = max(len(floor) for floor in FLOORS) * (_WIDE + _GAP) + _GAP
    height = len(FLOORS) * _ROW + _GAP
    place = {}
    for number, floor in enumerate(FLOORS):
        left = (width - len(floor) * (_WIDE + _GAP) + _GAP) / 2
        for index, room in enumerate(floor):
            place[room] = (left + index * (_WIDE + _GAP), height - (number + 1) * _ROW)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#6b7280"/></marker></defs>',
    ]
    for here, there in needed:
        (x1, y1), (x2, y2) = place[here], place[there]
        lines.append(
            f'<path d="M{x1 + _WIDE / 2:.0f} {y1 + _HIGH:.0f}C{x1 + _WIDE / 2:.0f} {y1 + _ROW:.0f}'
            f" {x2 + _WIDE / 2:.0f} {y2 - _ROW + _HIGH:.0f} {x2 + _WIDE / 2:.0f} {y2:.0f}"
            '" fill="none" stroke="#6b7280" stroke-width="1.2" marker-end="url(#tip)"/>'
        )
    for room, (x, y) in place.items():
        name = room if "." in room or room == "errors" else room.replace("_", " ")
        lines.append(
            f'<rect x="{x:.0f}" y="{y:.0f}" width="{_WIDE}" height="{_HIGH}" rx="5" fill="#eef2ff" stroke="#4f46e5"/>'
        )
        lines.append(
            f'<text x="{x + _WIDE / 2:.0f}" y="{y + 22:.0f}" text-anchor="middle" font-size="13" fill="#111827">'
            f"{escape(name)}</text>"
        )
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(picture(), "utf-8")
