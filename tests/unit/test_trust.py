"""docs/trust.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
ROWS = [
    line
    for line in (TESTS.parent / "docs" / "trust.md").read_text("utf-8").splitlines()
    if re.match(r"\| (?!what|where|--)", line)
]


@pytest.mark.parametrize("row", ROWS)
def test_every_row_names_a_test_that_exists(row: str) -> None:
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", row)
    assert named, row
    for file, test in named:
        assert re.search(rf"^ *def {test}\(", next(TESTS.rglob(file)).read_text("utf-8"), re.MULTILINE), (
            f"{file}::{test}"
        )


def test_there_are_rows() -> None:
    assert len(ROWS) > 20
