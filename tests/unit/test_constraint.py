"""Native constraints against brute force: masks, rollback, forced tokens, special tokens, the token-bytes reader."""

from __future__ import annotations

import random
import re
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from native_constraint import Compiler, Constraint, Native, RefusalError, library

import edge_mtp
from edge_mtp.chat.tokenizer import Tokenizer
from edge_mtp.formats.grammar import response_grammar, tool_grammar
from edge_mtp.formats.token_bytes import token_table
from edge_mtp.formats.tool_calls import load_tools

TINY = Path(edge_mtp.__file__).parent / "tiny"
TOKENIZER = Tokenizer.from_file(TINY / "target" / "tokenizer.json")
TABLE = token_table(TINY / "target" / "tokenizer.json", TOKENIZER.vocab_size)
END, CALL, CALLED, QUOTE = 106, 48, 49, 52
QUICK = settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))

GRAMMARS = [
    tool_grammar(load_tools(TINY / "tools.json")).text,
    tool_grammar(load_tools(TINY / "tools.json"), choice="required").text,
    'root ::= "call:" ("<|\\"|>" [^a-m]* "<|\\"|>" | [0-9]{2,4}) root?',
    'root ::= ("a" | "ab" | "abc" "d"?)* "<tool_call|>"?',
]


def table(rows: list[bytes], special: set[int]) -> bytes:
    offsets = [0]
    for row in rows:
        offsets.append(offsets[-1] + len(row))
    head = b"EMTB" + struct.pack(f"<II{len(offsets)}I", 1, len(rows), *offsets)
    return head + b"".join(rows) + bytes(token in special for token in range(len(rows)))


@pytest.fixture(scope="module")
def native() -> Native:
    return library()


@pytest.fixture(scope="module")
def compiler(native: Native) -> Compiler:
    return native.tokens(TABLE).compiler([END])


# -- token bytes ----------------------------------------------------------------------------------------------------


def test_the_table_reads_as_it_was_written(native: Native) -> None:
    tokens = native.tokens(TABLE)
    assert tokens.vocabulary == TOKENIZER.vocab_size
    assert all(tokens.text(t) == TOKENIZER.token_bytes(t) for t in range(tokens.vocabulary))
    assert [t for t in (CALL, QUOTE, END) if not tokens.special(t)] == []
    assert not tokens.special(300)


@QUICK
@given(st.data())
def test_a_damaged_table_is_refused_or_read_within_its_bounds(native: Native, data: st.DataObject) -> None:
    damaged = bytearray(table([b"ab", b"", b"<x>"], {2}))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    del damaged[data.draw(st.integers(0, len(damaged))) :]
    try:
        tokens = native.tokens(bytes(damaged))
    except RefusalError:
        return
    assert sum(len(tokens.text(t)) for t in range(tokens.vocabulary)) < len(damaged)


# -- masks ----------------------------------------------------------------------------------------------------------


@QUICK
@given(st.sampled_from(GRAMMARS), st.integers(0, 1 << 30))
def test_a_mask_is_what_accept_takes(compiler: Compiler, grammar: str, seed: int) -> None:
    draw = random.Random(seed)
    constraint = compiler.constraint(grammar)
    history: list[tuple[int, list[int]]] = []
    for _ in range(12):
        allowed = constraint.allowed()
        brute = []
        for token in range(constraint.vocabulary):
            if constraint.accept(token):
                constraint.rollback(1)
                brute.append(token)
        assert allowed == brute
        if history and draw.random() < 0.3:
            count = draw.randint(1, len(history))
            constraint.rollback(count)
            assert constraint.allowed() == history[-count][1]
            del history[-count:]
        elif allowed:
            marks = [t for t in allowed if t < 110]
            token = draw.choice(marks if marks and draw.random() < 0.5 else allowed)
            history.append((token, allowed))
            assert constraint.accept(token)
    # A fresh constraint that takes the same tokens is in the same place.
    again = compiler.constraint(grammar)
    assert all(again.accept(token) for token, _ in history)
    assert again.allowed() == constraint.allowed()
    assert again.finished == constraint.finished


@QUICK
@given(st.sets(st.text("abc", min_size=2, max_size=4), max_size=12), st.text("abc", max_size=5))
def test_masks_on_any_vocabulary(native: Native, words: set[str], prefix: str) -> None:
    """Also where one token stands within another, but not at its beginning."""
    rows = [b"a", b"b", b"c", *sorted(word.encode() for word in words), b"<end>"]
    end = len(rows) - 1
    constraint = native.tokens(table(rows, {end})).compiler([end]).constraint('root ::= "b" ("ba" | "c" | root)* "ca"')
    for character in prefix:
        constraint.accept("abc".index(character))
    brute = []
    for token in range(len(rows)):
        if constraint.accept(token):
            constraint.rollback(1)
            brute.append(token)
    assert constraint.allowed() == brute


def test_the_end(compiler: Compiler) -> None:
    constraint = compiler.constraint('root ::= "a"')
    a = TOKENIZER.encode("a")[0]
    assert not constraint.accept(END)
    assert constraint.accept(a)
    assert constraint.allowed() == [END]
    assert constraint.accept(END)
    assert constraint.finished
    assert constraint.allowed() == []
    assert not constraint.accept(a)
    assert not constraint.accept(-1)
    constraint.rollback(2)
    assert not constraint.finished
    with pytest.raises(RefusalError, match="take back 1 of 0"):
        constraint.rollback(1)


# -- characters -----------------------------------------------------------------------------------------------------

BYTES = [*(bytes([byte]) for byte in range(256)), b"<end>"]
BYTES_END = 256
# The first and last characters of each first byte's runs, and some between.
EDGES = [
    *(0, 0x7F, 0x80, 0x7FF, 0x800, 0xFFF, 0x1000, 0xD7FF, 0xE000, 0xFFFF),
    *(0x10000, 0x3FFFF, 0x40000, 0xFFFFF, 0x100000, 0x10FFFF),
]
SURROGATES = range(0xD800, 0xE000)
BEYOND = range(0x110000, 0x140000)  # what the four-byte form has behind the last character


@pytest.fixture(scope="module")
def bytes_compiler(native: Native) -> Compiler:
    return native.tokens(table(BYTES, {BYTES_END})).compiler([BYTES_END])


def spelled(code: int, size: int) -> bytes:
    """A number in the pattern of UTF-8's form of `size` bytes, well formed or not."""
    if size == 1:
        return bytes([code])
    rest = [0x80 | code >> 6 * i & 0x3F for i in range(size)]
    return bytes([(0xF00 >> size & 0xFF) | code >> 6 * (size - 1), *rest[-2::-1]])


def takes(constraint: Constraint, text: bytes) -> bool:
    """Whether a text in single bytes is accepted; the constraint is where it was before."""
    count = 0
    while count < len(text) and constraint.accept(text[count]):
        count += 1
    constraint.rollback(count)
    return count == len(text)


@pytest.mark.parametrize(
    ("grammar", "begin"),
    [
        ("root ::= [^|]", b""),
        ('root ::= t\nt ::= "" | [^<] t', b""),
        ('root ::= "a" [\\U00000000-\\U0010FFFF]*', b"a"),
        ('root ::= Regex("[^|]{3,4}")', b""),
        ('root ::= Regex(".*x")', b"ab"),
        ('root ::= Regex("[\\uD7FF-\\uE000]|[^\\uD7FF-\\uE000]")', b""),
        (response_grammar({"type": "string", "maxLength": 9}), b'"a'),
    ],
)
def test_the_bytes_of_a_class_are_utf_8_and_no_other(bytes_compiler: Compiler, grammar: str, begin: bytes) -> None:
    """After each part of a character just those bytes are allowed that go on with one: all characters, all bytes."""
    following: dict[bytes, set[int]] = {}
    for code in range(0x80, 0x110000):
        if code not in SURROGATES:
            character = chr(code).encode()
            for i, byte in enumerate(character):
                following.setdefault(character[:i], set()).add(byte)
    constraint = bytes_compiler.constraint(grammar)
    assert all(constraint.accept(byte) for byte in begin)

    def check(prefix: bytes) -> None:
        allowed = {token for token in constraint.allowed() if prefix or 0x80 <= token < BYTES_END}
        assert allowed == following[prefix], prefix.hex(" ")
        for byte in allowed:
            if prefix + bytes([byte]) in following:
                assert constraint.accept(byte)
                check(prefix + bytes([byte]))
                constraint.rollback(1)

    check(b"")


codes = st.sampled_from(EDGES) | st.integers(0, 0x10FFFF).filter(lambda code: code not in SURROGATES)


def class_of(low: int, high: int, negated: bool, regex: bool) -> str:
    """A class from its ends. In a regex, those that mean something in a class have a backslash of the regex's own."""
    low_end, high_end = (("\\\\" if regex and chr(code) in "\\]^-[" else "") + f"\\U{code:08X}" for code in (low, high))
    return f"[{'^' * negated}{low_end}-{high_end}]"


@QUICK
@given(codes, codes, st.booleans(), st.booleans())
@example(0, ord("\\"), False, True)
@example(ord("\\"), ord("]"), True, True)
@example(ord("-"), ord("^"), False, True)
@example(ord("^"), 0x7F, False, True)
@example(ord("\\"), ord("]"), False, False)
def test_classes_by_their_ends(bytes_compiler: Compiler, low: int, high: int, negated: bool, regex: bool) -> None:
    low, high = min(low, high), max(low, high)
    assume(not negated or high - low < 0x10FFFF)  # a class of nothing is refused
    character_class = class_of(low, high, negated, regex)
    constraint = bytes_compiler.constraint(
        f'root ::= Regex("{character_class}")' if regex else f"root ::= {character_class}"
    )
    near = {code + step for code in [*EDGES, low, high] for step in (-1, 0, 1)}
    for code in near - {-1}:
        for size, most in enumerate([0x7F, 0x7FF, 0xFFFF, 0x13FFFF], 1):
            if code > most:
                continue
            shortest = size == 1 or code > [0x7F, 0x7FF, 0xFFFF][size - 2]
            is_character = shortest and code not in SURROGATES and code not in BEYOND
            inside = is_character and (low <= code <= high) != negated
            assert takes(constraint, spelled(code, size)) == inside, (hex(code), size)


# -- forced tokens --------------------------------------------------------------------------------------------------


@QUICK
@given(st.sampled_from(GRAMMARS), st.integers(0, 1 << 30))
def test_forced_tokens_are_allowed_and_no_choice_is_lost(compiler: Compiler, grammar: str, seed: int) -> None:
    draw = random.Random(seed)
    constraint = compiler.constraint(grammar)
    for _ in range(8):
        before = constraint.allowed()
        forced = constraint.forced(9)
        assert len(forced) <= 9
        assert constraint.forced(2) == forced[:2]
        assert constraint.allowed() == before
        text = b"".join(TOKENIZER.token_bytes(t) for t in forced)
        for token in before:  # whatever is chosen spells the same text
            spelled = TOKENIZER.token_bytes(token)
            assert not forced or spelled.startswith(text) or text.startswith(spelled)
        for token in forced:
            assert token in constraint.allowed()
            assert constraint.accept(token)
        if not (allowed := constraint.allowed()):
            return
        assert len(allowed) > 1 or len(forced) == 9
        marks = [t for t in allowed if t < 110]
        assert constraint.accept(draw.choice(marks if marks and draw.random() < 0.5 else allowed))


def test_a_call_is_forced_up_to_its_first_choice(compiler: Compiler) -> None:
    schema = {"type": "object", "properties": {"when": {"type": "string"}}, "required": ["when"]}
    constraint = compiler.constraint(tool_grammar([{"name": "alarm", "parameters": schema}], choice="required").text)
    forced = constraint.forced()
    assert TOKENIZER.decode(forced) == '<|tool_call>call:alarm{when:<|"|>'
    assert forced[0] == CALL
    assert forced[-1] == QUOTE


def test_the_only_stop_token_is_forced(compiler: Compiler) -> None:
    assert compiler.constraint('root ::= "<tool_call|>"').forced() == [CALLED, END]


# -- special tokens -------------------------------------------------------------------------------------------------


def test_special_tokens_are_spelled_by_themselves_alone(compiler: Compiler) -> None:
    constraint = compiler.constraint('root ::= "<|tool_call>" [^a] "<|\\"|>"')
    assert constraint.allowed() == [CALL]
    assert constraint.accept(CALL)
    special = [t for t in constraint.allowed() if t in (CALL, CALLED, QUOTE, END)]
    assert special == []
    assert constraint.accept(TOKENIZER.encode("b")[0])
    assert constraint.allowed() == [QUOTE]


def test_an_escape_keeps_text_ordinary(compiler: Compiler) -> None:
    constraint = compiler.constraint('root ::= "\\u003C|tool_call>"')
    assert CALL not in constraint.allowed()
    assert constraint.accept(TOKENIZER.encode("<")[0])


# -- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grammar", "named"),
    [
        ("", "root"),
        ('root ::= "a', "line 1"),
        ('root ::= "a"\nb ::= c', "line 2"),
        ('root ::= "a"\nb ::= "<turn|>"', "line 2"),
        ('root ::= "\\U00140034"', "no character"),
        ("root ::= [\\uD800]", "no character"),
        (b'root ::= "\xf5\x80\x80\xb0"', "no text"),
        (b'root ::= "a"\0', "no text"),
        (b'root ::= "\xed\xa0\x80"', "no text"),
        (b'root ::= "a"\nb ::= "\xe0\x9f\xbf"', "line 2: a byte that is no text"),
        (b"root ::= [\xf4\x90\x80\x80]", "no text"),
        (b"root ::= [\xc1\xbf]", "no text"),
        (b'root ::= "a" # \x80', "no text"),
        (b'root ::= "a\xe2\x82', "no text"),
        ("[" * 5000, "grammar"),
        ('root ::= "a" root', "ends"),
        ('root ::= "x" | "a" b\nb ::= "b" b', "ends"),
        ('root ::= "a"{99999}', "ends"),
        ('root ::= Regex("a(?=b)b")', "would not be enforced"),
    ],
)
def test_grammars_that_are_refused(compiler: Compiler, grammar: str | bytes, named: str) -> None:
    with pytest.raises(RefusalError) as refusal:
        compiler.constraint(grammar)
    assert named in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("stop", [[], [-1], [1 << 20]])
def test_stop_tokens_that_are_refused(native: Native, stop: list[int]) -> None:
    with pytest.raises(RefusalError, match="stop token"):
        native.tokens(TABLE).compiler(stop)


@QUICK
@given(
    st.lists(st.binary(max_size=3) | st.text(max_size=2).map(str.encode) | codes.map(lambda c: chr(c).encode()[:-1]))
)
def test_a_grammar_is_utf_8(bytes_compiler: Compiler, parts: list[bytes]) -> None:
    comment = re.sub(rb"[\0\r\n]", b"", b"".join(parts))
    try:
        comment.decode()
    except UnicodeDecodeError:
        with pytest.raises(RefusalError, match="line 1: a byte that is no text"):
            bytes_compiler.constraint(b'root ::= "a" # ' + comment)
    else:
        bytes_compiler.constraint(b'root ::= "a" # ' + comment)
