"""JSON schemas: whatever a grammar allows is valid, by the official suite, jsonschema, and Python's `re`."""

from __future__ import annotations

import contextlib
import json
import re
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from native_constraint import Compiler, library
from schema_suite import accepts, cases, reply, suite, tally

import edge_mtp
from edge_mtp.chat.tokenizer import Tokenizer
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.grammar import response_grammar, with_thought
from edge_mtp.formats.schema import CALL, JSON, Notation, Rules, compile_schema
from edge_mtp.formats.schema.language import ANY, Language, lengths, words
from edge_mtp.formats.schema.numbers import Numbers
from edge_mtp.formats.schema.pattern import pattern_language
from edge_mtp.formats.token_bytes import token_table
from edge_mtp.formats.tool_calls import ToolCallSyntaxError, parse_calls

TINY = Path(edge_mtp.__file__).parent / "tiny"
TOKENIZER = Tokenizer.from_file(TINY / "target" / "tokenizer.json")
STOP = 106
QUICK = settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def compiler() -> Compiler:
    tokens = library().tokens(token_table(TINY / "target" / "tokenizer.json", TOKENIZER.vocab_size))
    return tokens.compiler([STOP])


def grammar(schema: Any, notation: Notation = JSON, *, strict: bool = True) -> str:
    rules = Rules()
    return rules.text(compile_schema(schema, notation, rules, strict=strict).expression)


def takes(compiler: Compiler, schema: Any, text: str, notation: Notation = JSON) -> bool:
    return accepts(compiler.constraint(grammar(schema, notation)), TOKENIZER, text, STOP)


# -- the official suite ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("draft", "useless"), [("draft2020-12", 12), ("draft7", 8)])
def test_the_official_suite(pytestconfig: pytest.Config, compiler: Compiler, draft: str, useless: int) -> None:
    tests = suite(Path(pytestconfig.cache.mkdir("schema-suite")))
    result = tally(cases(tests, draft), draft, compiler, TOKENIZER, STOP, replies=3)
    assert result.wrong == []
    assert result.replies > 2 * result.enforced
    assert result.share >= 0.95
    assert len(result.useless) <= useless, result.useless
    for refused in result.refused:
        assert re.search(r"#[^ ]*: (\$\w+|\w+) |no value satisfies", refused), refused


# -- random schemas -------------------------------------------------------------------------------------------------

keys = st.sampled_from(["a", "b", "c", "xy"])
small = st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["", "a", "ab", 'q"\\', "é\n", 0.5, -1.25])
values = st.recursive(small, lambda v: st.lists(v, max_size=2) | st.dictionaries(keys, v, max_size=2), max_leaves=3)
limits = st.integers(-20, 20) | st.sampled_from([0.5, -0.25, 3.75])
counts = st.integers(0, 3)
patterns = st.sampled_from(["^a", "b$", "^[a-c]{1,2}$", "", "\\d", "^(?!a)", "^.?$"])
leaves = st.one_of(
    st.booleans(),
    st.fixed_dictionaries({"type": st.sampled_from(["string", "integer", "number", "boolean", "null", "array"])}),
    st.fixed_dictionaries({"enum": st.lists(values, min_size=1, max_size=3)}),
    st.fixed_dictionaries({"const": values}),
    st.fixed_dictionaries({}, optional={"minimum": limits, "exclusiveMaximum": limits, "type": st.just("number")}),
    st.fixed_dictionaries({"multipleOf": st.sampled_from([2, 3, 0.5, 0.25])}, optional={"maximum": limits}),
    st.fixed_dictionaries({}, optional={"minLength": counts, "maxLength": counts, "pattern": patterns}),
)


def grown(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    some = st.lists(inner, min_size=1, max_size=3)
    maps = st.dictionaries(keys, inner, max_size=3)
    names = st.lists(keys, max_size=2, unique=True)
    return st.one_of(
        st.fixed_dictionaries(
            {"type": st.just("object")},
            optional={
                "properties": maps,
                "required": names,
                "additionalProperties": inner,
                "patternProperties": st.dictionaries(
                    patterns.filter(bool), inner, max_size=1
                ),  # jsonschema: "" is none
                "propertyNames": st.fixed_dictionaries({}, optional={"maxLength": counts, "pattern": patterns}),
                "minProperties": counts,
                "maxProperties": counts,
                "dependentRequired": st.dictionaries(keys, names, max_size=1),
                "dependentSchemas": st.dictionaries(keys, inner, max_size=1),
                "unevaluatedProperties": inner,
            },
        ),
        st.fixed_dictionaries(
            {"type": st.just("array")},
            optional={
                "prefixItems": some,
                "items": inner,
                "contains": inner,
                "minContains": counts,
                "maxContains": counts,
                "minItems": counts,
                "maxItems": counts,
                "uniqueItems": st.booleans(),
                "unevaluatedItems": inner,
            },
        ),
        st.fixed_dictionaries({}, optional={"allOf": some, "anyOf": some, "oneOf": some, "not": inner}),
        st.fixed_dictionaries({"if": inner}, optional={"then": inner, "else": inner, "properties": maps}),
        st.fixed_dictionaries({"$defs": st.fixed_dictionaries({"d": inner}), "items": st.just({"$ref": "#"})}),
    )


schemas = st.recursive(leaves, grown, max_leaves=6)


def judge_of(schema: Any, real: type[float] | type[Decimal] = float) -> jsonschema.Draft202012Validator:
    """Of a random schema, for values with such numbers. Python's `$` lets a line end follow, ECMAScript's does not."""
    text = json.dumps(schema).replace('$"', '\\\\Z"')
    return jsonschema.Draft202012Validator(json.loads(text, parse_float=real))


@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
@given(schemas, st.integers(0, 1 << 30))
def test_what_a_grammar_allows_is_valid(compiler: Compiler, schema: Any, seed: int) -> None:
    try:
        constraint = compiler.constraint(grammar(schema))
    except EdgeMtpError:
        assume(False)
        return
    judge = judge_of(schema, Decimal)
    for turn in range(4):
        text = reply(constraint, TOKENIZER, STOP, seed + turn, longest=60)
        if text is not None:
            with contextlib.suppress(InvalidOperation):  # a number with more digits than the judge can divide
                assert judge.is_valid(json.loads(text, parse_float=Decimal)), text


@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
@given(schemas, values)
def test_no_invalid_value_is_accepted(compiler: Compiler, schema: Any, value: Any) -> None:
    assume(not judge_of(schema).is_valid(value))
    try:
        assert not takes(compiler, schema, json.dumps(value, ensure_ascii=False))
    except EdgeMtpError:
        assume(False)


@QUICK
@given(schemas, st.integers(0, 1 << 30))
def test_a_call_carries_valid_values(compiler: Compiler, schema: Any, seed: int) -> None:
    try:
        constraint = compiler.constraint(grammar(schema, CALL))
    except EdgeMtpError:
        assume(False)
        return
    text = reply(constraint, TOKENIZER, STOP, seed, longest=60)
    assume(text is not None)
    judge = judge_of(schema)
    try:
        (call,) = parse_calls(f"<|tool_call>call:f{{v:{text}}}<tool_call|>")
    except ToolCallSyntaxError as error:
        if "duplicate key" in str(error):  # a free name may come twice (docs/grammar.md)
            return
        raise
    assert judge.is_valid(call.arguments["v"]), text


# -- what stays possible --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "accepted", "refused"),
    [
        ({}, ['{"a": [1, {"b": null}]}', "[]", '"\\n\\u001f\\""', "1.5e3", "{}"], ['"\n"', "[1,2]", "nul"]),
        ({"type": "object"}, ["{}", '{"any key": {"x": [1]}}'], ["[]"]),
        ({"type": "object", "properties": {}}, ["{}"], ['{"a": 1}']),
        ({"additionalProperties": {"type": "integer"}, "type": "object"}, ['{"a": 1, "b c": 2}'], ['{"a": "x"}']),
        ({"required": ["z"], "type": "object"}, ['{"z": 1}'], ["{}"]),
        ({"properties": {"a": {}}, "required": ["z"], "type": "object"}, ['{"a": 1, "z": 2}'], ['{"a": 1}']),
        ({"type": "string", "pattern": '^a"\\n\\\\b$'}, ['"a\\"\\n\\\\b"'], ['"a\\"n\\\\b"', '"a"\n\\b"']),
        ({"type": "string", "minLength": 2, "maxLength": 3}, ['"ab"', '"ab\\n"', '"aéc"'], ['"a\n"', '"a"', '"abcd"']),
        ({"type": "string", "maxLength": 3000}, ['"' + "a" * 3000 + '"'], ['"' + "a" * 3001 + '"']),
        ({"type": "string", "pattern": "^[a-z]+$", "maxLength": 5}, ['"abcde"'], ['"abcdef"', '""', '"a1"']),
        ({"type": "integer", "enum": [1, "x", 2.5]}, ["1"], ['"x"', "2.5"]),
        ({"type": "object", "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}, ['{"a": 1}', '{"b": 1}'], ["{}"]),
        ({"$ref": "#/$defs/n", "maximum": 3, "$defs": {"n": {"type": "integer", "minimum": 1}}}, ["3"], ["4", "0"]),
        ({"minimum": 3}, ["3", "4.5", '"x"'], ["2", "2.9"]),
        ({"type": "array", "not": {"enum": [[], [1, "a"]]}}, ["[1]", '[1, "b"]', '[1, "a", 2]'], ["[]", '[1, "a"]']),
        ({"type": "object", "not": {"const": {"a": {}}}}, ["{}", '{"a": {"b": 1}}'], ['{"a": {}}']),
        ({"oneOf": [{"enum": [{}, 3]}, {"multipleOf": 2}]}, ["2", "3", '"a"'], ["{}", "5"]),
        ({"exclusiveMinimum": 0, "type": "number"}, ["0.1", "1", "0.01"], ["0", "0.0", "-0", "-1"]),
        ({"multipleOf": 0.01, "type": "number"}, ["19.99", "-7", "0.1"], ["0.001", "19.995"]),
        ({"type": "array", "items": {"enum": ["a", "b", 1]}, "uniqueItems": True}, ['["a", 1]', "[]"], ['["a", "a"]']),
        ({"type": "array", "contains": {"const": 1}, "items": {"type": "integer"}}, ["[1, 5]", "[1]"], ["[]", "[5]"]),
        ({"type": "object", "dependentRequired": {"a": ["b"]}, "properties": {"a": {}, "b": {}}}, ["{}"], ['{"a": 1}']),
        ({"type": "string", "format": "date"}, ['"2024-02-28"'], ['"2024-02-30"', '"soon"']),
        ({"type": "string", "format": "uri"}, ['"soon"'], []),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"const": 1}]}, ["[1, 2]"], ["[2]"]),
        ({"$defs": {"n": {"properties": {"next": {"$ref": "#/$defs/n"}}, "type": "object"}}, "$ref": "#/$defs/n"},
         ['{"next": {"next": {}}}'], ['{"next": 1}']),
    ],
)  # fmt: skip
def test_values(compiler: Compiler, schema: Any, accepted: list[str], refused: list[str]) -> None:
    assert [text for text in accepted if not takes(compiler, schema, text)] == []
    assert [text for text in refused if takes(compiler, schema, text)] == []


def test_a_discriminated_union_stays_whole(compiler: Compiler) -> None:
    kinds = [f"kind{i}" for i in range(12)]
    options = [
        {
            "type": "object",
            "properties": {"kind": {"const": kind}, "a": {"type": "string"}, "n": {"type": "integer"}},
            "required": ["kind", "n"],
        }
        for kind in kinds
    ]
    for kind in kinds:
        assert takes(compiler, {"oneOf": options}, f'{{"kind": "{kind}", "a": "x", "n": 1}}')
    assert not takes(compiler, {"oneOf": options}, '{"kind": "kind12", "n": 1}')


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"properties": {"a": {"pattern": "a(?=b)"}}}, "#/properties/a: pattern"),
        ({"items": {"$ref": "https://example.com/s"}}, "#/items: \\$ref"),
        ({"$recursiveRef": "#"}, "#: \\$recursiveRef"),
        ({"type": "string", "pattern": "(a{500}){500}"}, "states"),
        (False, "no value satisfies"),
        ({"type": "object", "required": ["a"], "properties": {"a": False}}, "no value satisfies"),
        ({"$ref": "#"}, "no value satisfies"),
        ({"properties": {"n": {"$ref": "#"}}, "required": ["n"], "type": "object"}, "no value satisfies"),
        ([], "pass a JSON schema"),
        ({"const": float("nan")}, "not JSON"),
    ],
)
def test_what_is_refused(schema: Any, named: str) -> None:
    with pytest.raises(EdgeMtpError, match=named) as refusal:
        response_grammar(schema)
    assert "\n" not in str(refusal.value)


def test_what_is_left_wider_is_told(compiler: Compiler) -> None:
    rules = Rules()
    schema = {"properties": {"a": {"type": "string", "pattern": "a(?=b)"}}, "type": "object"}
    compiled = compile_schema(schema, JSON, rules, strict=False)
    assert [(item.place, item.keyword) for item in compiled.unenforced] == [("#/properties/a", "pattern")]
    assert accepts(compiler.constraint(rules.text(compiled.expression)), TOKENIZER, '{"a": "x"}', STOP)


def test_thoughts(compiler: Compiler) -> None:
    thought = "<|channel>thought\nHm < c<channel|>"
    for make in (response_grammar({"const": 1}), 'root ::= r0 | "root"\nr0 ::= "1"'):
        for thinking, accepted in (("no", [0]), ("may", [0, 1]), ("open", [2])):
            constraint = compiler.constraint(with_thought(make, thinking))  # type: ignore[arg-type]
            found = [
                i
                for i, text in enumerate(["1", thought + "1", thought.partition("\n")[2] + "1"])
                if accepts(constraint, TOKENIZER, text, STOP)
            ]
            assert found == accepted


# -- languages ------------------------------------------------------------------------------------------------------

alphabet = st.text(st.sampled_from("ab1_ -\n\u00e9"), max_size=5)
atoms = st.sampled_from(["a", "b", ".", "[ab]", "[^a]", "\\d", "\\w", "\\s", "\\W", "1", "-", "^", "$", "(?:ab|b)"])
expressions = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map("|".join),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,2}", "{0,}", "*?"])).map(
            lambda pair: f"(?:{pair[0]}){pair[1]}"
        ),
    ),
    max_leaves=5,
)


def searched(expression: str, text: str) -> bool:
    """Python's answer for a pattern of ECMAScript: `$` is the end, and digits are ASCII."""
    return re.search(expression.replace("$", r"\Z"), text, re.ASCII) is not None


@settings(deadline=None, max_examples=400)
@given(expressions, alphabet)
def test_patterns_are_what_python_finds(expression: str, text: str) -> None:
    assert (text in pattern_language(expression)) == searched(expression, text)


@settings(deadline=None, max_examples=200)
@given(expressions, expressions, alphabet, st.integers(0, 3), st.integers(0, 3))
def test_languages_combine(one: str, other: str, text: str, low: int, more: int) -> None:
    a, b = pattern_language(one), pattern_language(other)
    in_a, in_b = searched(one, text), searched(other, text)
    assert (text in a & b) == (in_a and in_b)
    assert (text in a | b) == (in_a or in_b)
    assert (text in a - b) == (in_a and not in_b)
    assert (text in ~a) != in_a
    assert (text in lengths(low, low + more)) == (low <= len(text) <= low + more)
    assert (text in words([text[:2], "ab"])) == (text in (text[:2], "ab"))
    for language in (a, b, a & b, a - b):
        assert language.empty or language.shortest() in language
        assert language.empty or language.most is None or language.fewest <= language.most


@pytest.mark.parametrize(
    "pattern", ["(", ")", "a{", "a{2,1}", "*", "a(?=a)", "(?<!a)", r"\1", r"\bx", "[z-a]", "\ud800", r"\p{Greek}"]
)
def test_patterns_that_are_refused(pattern: str) -> None:
    with pytest.raises(EdgeMtpError):
        pattern_language(pattern)


def test_characters_of_a_category() -> None:
    letters = pattern_language(r"^\p{L}+$")
    assert "aé日" in letters
    assert "a1" not in letters
    assert "1" in pattern_language(r"^\P{L}$")
    assert ANY.most is None


decimals = st.decimals(-400, 400, places=2).map(Fraction)


@settings(deadline=None, max_examples=80)
@given(
    st.none() | st.tuples(decimals, st.booleans()),
    st.none() | st.tuples(decimals, st.booleans()),
    st.sampled_from([None, True, False]),
    st.lists(
        st.tuples(st.sampled_from([Fraction(n, d) for n in (1, 3, 25) for d in (1, 10)]), st.booleans()), max_size=1
    ),
    st.lists(st.decimals(-999, 999, places=2), min_size=30, max_size=30),
)
def test_numbers(low: Any, high: Any, whole: Any, divisors: Any, tried: list[Decimal]) -> None:
    numbers = Numbers(low, high, whole, tuple(divisors))
    texts = numbers.texts()
    for value in tried:
        for text in {str(value), f"{int(value)}", f"{value:.1f}"}:
            if isinstance(texts, str):
                inside = re.fullmatch(texts, text) is not None
            else:
                inside = texts is not None and text in texts
            member = Fraction(text) in numbers
            assert member or not inside, text
            if isinstance(texts, Language) and whole is None and not divisors:
                assert inside == member, text
