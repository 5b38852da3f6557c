"""Grammars, options and bundles that are odd: the runner's protocol holds, and each is one line."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_mtp.device.host import HostDevice
from edge_mtp.device.runner import Runner
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.request import Request
from edge_mtp.reply_options import ReplyOptions

GRAMMARS = [
    '\ufeffroot ::= "a"',
    "root ::= “a”",
    "root ::= é",
    'é ::= "a"',
    "root ::= [é",
    'root ::= "\u20ac',
    "ro\u00f6t",
]


@pytest.fixture(scope="module")
def runner(tiny_bundle: Path) -> Iterator[Runner]:
    with HostDevice().start(tiny_bundle) as runner:
        yield runner


def refusal(body: Callable[[], object]) -> str:
    """What `body` is refused with; nothing where it is not."""
    try:
        body()
    except EdgeMtpError as error:
        return str(error)
    return ""


def asked(runner: Runner, grammar: str) -> None:
    """A request with the grammar is answered or refused in one line, and the next one is answered."""
    assert "unreadable record" not in refusal(lambda: list(runner.generate(Request([2, 5], 3, grammar=grammar))))
    assert list(runner.generate(Request([2, 5], 1)))


@pytest.mark.parametrize("grammar", GRAMMARS)
def test_a_grammar_is_refused_in_one_line(grammar: str, runner: Runner) -> None:
    asked(runner, grammar)


@settings(max_examples=60)
@given(grammar=st.text('root:=="[]é€\U0001f600“”\\ \n|*', max_size=30))
def test_no_grammar_breaks_the_protocol(grammar: str, runner: Runner) -> None:
    asked(runner, grammar)


def test_a_string_is_one_stop_text_and_one_source() -> None:
    options = ReplyOptions(stop_texts="can", draft_sources="lookup")
    assert tuple(options.stop_texts) == ("can",)
    assert tuple(options.draft_sources or ()) == ("lookup",)


@pytest.mark.parametrize("number", range(12))
def test_a_damaged_bundle_is_refused_in_one_line_by_the_runner(number: int, tmp_path: Path, tiny_bundle: Path) -> None:
    """Of the header; what LiteRT makes of damaged graphs is its own."""
    rng = random.Random(number)
    data = bytearray(tiny_bundle.read_bytes())
    end = int.from_bytes(data[24:32], "little")
    for _ in range(1 + number % 4):
        data[rng.randrange(8, end)] = rng.randrange(256)
    path = tmp_path / "damaged.litertlm"
    path.write_bytes(data)

    def run() -> None:
        with HostDevice().start(path) as runner:
            list(runner.generate(Request([2, 5], 1)))

    said = refusal(run)
    assert "\n" not in said
    assert "signal" not in said
