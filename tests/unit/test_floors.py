"""The floors of the package (helpers/floors.py): a module imports from the floors below its own, never from above."""

from __future__ import annotations

from graphlib import TopologicalSorter
from pathlib import Path

from floors import FLOOR_OF, module_graph, modules, picture, room_of, upward

PICTURE = Path(__file__).parents[2] / "docs" / "floors.svg"


def test_every_module_stands_on_a_floor() -> None:
    assert [name for name in modules() if room_of(name) is None] == []
    assert {room_of(name) for name in modules()} == set(FLOOR_OF)


def test_no_module_imports_from_above() -> None:
    assert upward() == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    in_order = list(TopologicalSorter(module_graph()).static_order())  # raises CycleError, which names the circle
    assert set(in_order) >= set(modules())


def test_the_picture_is_of_these_imports() -> None:
    assert PICTURE.read_text("utf-8") == picture(), "draw it again: python tests/helpers/floors.py docs/floors.svg"
