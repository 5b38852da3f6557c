"""What holds for the tests themselves: where they lie, and that each can fail."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple, cast

import longest_first
import pytest

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
FOLDERS = ("unit", "oracle", "device", "end_to_end")
FILES = sorted(TESTS.rglob("test_*.py"))


def test_each_lies_in_its_folder_under_a_name_of_its_own() -> None:
    assert {path.relative_to(TESTS).parts[:-1] for path in FILES} == {(folder,) for folder in FOLDERS}
    beside = {path.name for path in TESTS.iterdir() if path.is_file()}
    assert beside == {"conftest.py"}, "helpers lie in tests/helpers"
    names = Counter(path.name for path in TESTS.rglob("*.py"))
    assert [name for name, count in names.items() if count > 1] == []


def test_what_is_said_to_lie_here_does() -> None:
    said = [ROOT / "CONTRIBUTING.md", ROOT / ".ci" / "run", *(ROOT / ".github").rglob("*.yml")]
    for folder in ("benchmarks", "device", "edge_mtp", "export", "tests"):
        said += [path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".cc", ".c", ".h", ".txt")]
    for path in said:
        for mention in re.findall(r"(?<![\w/])tests/\w[\w/]*\.\w+", path.read_text("utf-8")):
            # Native code has tests of its own beside it.
            assert any((folder / mention).is_file() for folder in (ROOT, *path.parents)), f"{path}: {mention}"


def test_the_longest_files_are_there_and_come_first() -> None:
    stems = [path.stem for path in FILES]
    assert set(longest_first.LONGEST) <= set(stems)
    items = [cast(pytest.Item, SimpleNamespace(path=path, number=number)) for path in FILES for number in range(2)]
    longest_first.sort(items)
    begun = list(dict.fromkeys(item.path.stem for item in items))
    count = len(longest_first.LONGEST)
    assert begun[:count] == list(longest_first.LONGEST)
    assert begun[count:] == [stem for stem in stems if stem not in longest_first.LONGEST]
    assert [vars(item)["number"] for item in items] == [0, 1] * len(FILES)


class Facts(NamedTuple):
    """Of a function: its name, whether it asserts, and the last word of each of its calls."""

    name: str
    asserts: bool
    calls: set[str]


def facts(path: Path) -> list[Facts]:
    """Of every function in a file."""
    found = []
    for function in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            nodes = list(ast.walk(function))
            calls = [node.func for node in nodes if isinstance(node, ast.Call)]
            words = {f.attr for f in calls if isinstance(f, ast.Attribute)}
            words |= {f.id for f in calls if isinstance(f, ast.Name)}
            found.append(Facts(function.name, any(isinstance(node, ast.Assert) for node in nodes), words))
    return found


def asserting(there: list[Facts], known: set[str]) -> set[str]:
    """The names of the functions that assert something, by themselves or by others."""
    while True:
        more = {each.name for each in there if each.asserts or each.calls & known}
        if more <= known:
            return known
        known = known | more


HELPERS = asserting([each for path in (TESTS / "helpers").glob("*.py") for each in facts(path)], {"raises", "fail"})


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_asserts_something(path: Path) -> None:
    own = facts(path)
    can_fail = asserting(own, HELPERS)
    assert [each.name for each in own if each.name.startswith("test_") and each.name not in can_fail] == []
