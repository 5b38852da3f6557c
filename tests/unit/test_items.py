"""Items: the lines of suites, workloads and prompt files, read, written and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.tool_calls import ToolCall, check_tools
from edge_mtp.harness.ask.item import Item, Turn
from edge_mtp.harness.ask.suites import read_items
from edge_mtp.harness.ask.tiny_pair import TINY
from edge_mtp.harness.score.gold import Gold, GoldCall

NAMES = st.from_regex(r"[a-z_][a-zA-Z0-9_.\-]{0,8}", fullmatch=True)
# A quote mark is nothing that a call can say, so a gold that holds one is refused.
TEXTS = st.text(st.characters(exclude_categories=["Cs"])).filter(lambda text: '<|"|>' not in text)
VALUES = st.recursive(
    TEXTS | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=5,
)


@st.composite
def gold_calls(draw: st.DrawFn) -> GoldCall:
    arguments = draw(st.dictionaries(NAMES, st.lists(VALUES, min_size=1, max_size=3).map(tuple), max_size=3))
    optional = draw(st.sets(st.sampled_from(sorted(arguments)))) if arguments else set()
    return GoldCall(draw(NAMES), arguments, frozenset(optional), draw(st.booleans()))


GOLDS = st.none() | st.builds(
    Gold, st.lists(gold_calls(), max_size=3).map(tuple), st.booleans()
) | st.builds(lambda text: Gold(text=text), TEXTS)  # fmt: skip
CALLS = st.builds(ToolCall, NAMES, st.dictionaries(NAMES, VALUES, max_size=3)).map(
    lambda call: {"type": "function", "function": call.to_json()}
)
MESSAGES = st.one_of(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "system", "assistant"]), "content": TEXTS}),
    st.fixed_dictionaries({"role": st.just("assistant"), "tool_calls": st.lists(CALLS, min_size=1, max_size=2)}),
    st.fixed_dictionaries({"role": st.just("tool"), "name": NAMES, "content": TEXTS | st.dictionaries(NAMES, VALUES)}),
)
TURNS = st.builds(Turn, st.lists(MESSAGES, min_size=1, max_size=3).map(tuple), GOLDS)
TOOLS = st.lists(NAMES, unique=True, max_size=3).map(lambda names: tuple(check_tools([{"name": n} for n in names])))
LABELS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
ITEMS = st.builds(
    Item, LABELS, LABELS, LABELS, st.lists(TURNS, min_size=1, max_size=3).map(tuple), TOOLS,
    st.none() | st.integers(1, 4096),
)  # fmt: skip


@given(ITEMS)
def test_an_item_is_read_as_it_was_written(item: Item) -> None:
    assert Item.from_json(json.loads(json.dumps(item.to_json()))) == item


@given(st.lists(ITEMS, min_size=1, max_size=5, unique_by=lambda item: item.id), st.booleans())
def test_a_file_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, items: list[Item], ascii_only: bool
) -> None:
    """Whatever text the items hold, such as line separators that are no ends of lines in JSON."""
    file = tmp_path_factory.mktemp("items") / "items.jsonl"
    lines = [json.dumps(item.to_json(), ensure_ascii=ascii_only) for item in items]
    file.write_bytes("".join(f"{line}\n" for line in lines).encode())
    assert read_items(file) == items


def test_the_short_forms(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    call = {"name": "lamp", "arguments": {"on": True}}
    lines: list[dict[str, Any]] = [
        {"prompt": "Hello"},
        {"messages": [{"role": "user", "content": "Light!"}], "tools": [{"name": "lamp"}], "gold": {"calls": [call]}},
        {"id": "x", "kind": "chat", "template": "hi", "prompt": "Hi", "gold": {"text": "Hi."}, "max_tokens": 9},
        {"prompt": "On", "turns": [{"responses": [{"name": "lamp", "content": {"ok": True}}]}, {"prompt": "Thanks"}]},
    ]
    file.write_text("\n\n".join(map(json.dumps, lines)) + "\n", "utf-8")
    plain, tool, chat, turns = read_items(file)
    assert plain == Item("mine-1", "other", "mine-1", (Turn(({"role": "user", "content": "Hello"},)),))
    assert tool.tools[0]["function"]["name"] == "lamp"
    assert tool.turns[0].gold == Gold.of([ToolCall("lamp", {"on": True})])
    assert (chat.id, chat.kind, chat.cluster, chat.max_tokens) == ("x", "chat", "hi", 9)
    assert chat.turns[0].gold == Gold(text="Hi.")
    assert [turn.messages[0] for turn in turns.turns[1:]] == [
        {"role": "tool", "name": "lamp", "content": {"ok": True}},
        {"role": "user", "content": "Thanks"},
    ]
    assert read_items(file, 1) == [plain]


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("nonsense", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"prompt": "a", "tools": [{"name": "a", "parameters": {"properties": {"b": NaN}}}]}', "NaN"),
        (r'{"prompt": "\ud800"}', "surrogate"),
        ("[]", "`prompt` or `messages`"),
        ("{}", "`prompt` or `messages`"),
        ('{"prompt": "a", "messages": []}', "`prompt` or `messages`"),
        ('{"prompt": 3}', "prompt 3 is not text"),
        ('{"messages": []}', "messages"),
        ('{"messages": ["a"]}', "messages[0]"),
        (
            '{"messages": [{"role": "user", "content": "a"}, {"role": "usr", "content": "a"}]}',
            "messages[1]: role 'usr'",
        ),
        ('{"messages": [{"role": "user"}]}', "neither content nor tool_calls"),
        ('{"messages": [{"role": "user", "content": 4}]}', "content 4"),
        ('{"messages": [{"role": "tool", "content": "a"}]}', "name None"),
        ('{"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "a"}}]}]}', "tool_calls"),
        ('{"prompt": "a", "tool": []}', "unknown key 'tool'"),
        ('{"prompt": "a", "tools": [{"name": 1}]}', "tool 0"),
        ('{"prompt": "a", "gold": {"calls": [{"name": "x"}]}}', "gold"),
        ('{"prompt": "a", "gold": "x"}', "gold 'x'"),
        ('{"prompt": "a", "id": 7}', "id 7"),
        ('{"prompt": "a", "id": "first"}', "'first' is used twice"),
        ('{"prompt": "a", "kind": ""}', "kind ''"),
        ('{"prompt": "a", "template": []}', "template []"),
        ('{"prompt": "a", "max_tokens": 0}', "max_tokens 0"),
        ('{"prompt": "a", "max_tokens": true}', "max_tokens True"),
        ('{"prompt": "a", "turns": {"prompt": "b"}}', "turns"),
        ('{"prompt": "a", "turns": [{"prompt": "b"}, {"gold": {"text": ""}}]}', "turn 3: no messages"),
        ('{"prompt": "a", "turns": [{"responses": [{"content": "b"}]}]}', "turn 2: responses[0]: name None"),
        ('{"prompt": "a", "turns": [{"prompt": "b", "tools": []}]}', "turn 2: unknown key 'tools'"),
        ('{"responses": [{"name": "a", "content": "b"}]}', "unknown key 'responses'"),
    ],
)
def test_a_wrong_line_is_named(line: str, named: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"id": "first", "prompt": "fine"}\n' + line + "\n", "utf-8")
    with pytest.raises(EdgeMtpError, match="line 2") as refusal:
        read_items(file)
    assert str(file) in str(refusal.value)
    assert named in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_files_that_hold_nothing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe")
    for name, reason in (
        ("empty.jsonl", "hold no line"), ("absent.jsonl", "No such file"), ("binary.jsonl", "not UTF-8"),
    ):  # fmt: skip
        with pytest.raises(EdgeMtpError, match=reason):
            read_items(tmp_path / name)


def test_the_tiny_pairs_splits_are_items() -> None:
    items = read_items(TINY / "splits" / "new_names.jsonl")
    assert len(items) == 400
    assert all(item.turns[0].gold is not None for item in items)
    assert len(read_items(TINY / "splits" / "iid.jsonl", 30)) == 30
