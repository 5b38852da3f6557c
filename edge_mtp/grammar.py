"""Grammars of replies as EBNF (docs/grammar.md): of tool calls, of JSON by a schema, and with thoughts before them.

The grammar of a declaration generates calls in the wire format of `tool_calls`, keys in the order in which the chat
template writes them, so that every text it generates parses strictly and satisfies the declared schema. Schemas are
compiled by `edge_mtp.schema`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from edge_mtp.errors import EdgeMtpError
from edge_mtp.schema import CALL, JSON, Rules, compile_schema
from edge_mtp.schema.characters import Ranges
from edge_mtp.schema.pattern import pattern_language
from edge_mtp.schema.rules import characters, literal
from edge_mtp.tool_calls import CALL_CLOSE, CALL_OPEN

Schema = Mapping[str, Any]
Choice = Literal["auto", "required", "none"]
Thinking = Literal["no", "may", "open"]

_NAME = re.compile(r"[^\W\d][\w.\-]*")
_THOUGHT_OPEN, _THOUGHT_CLOSE = "<|channel>thought\\n", "<channel|>"


def response_grammar(schema: Any, *, thinking: Thinking = "no") -> str:
    """The grammar of a JSON value of a schema, as EBNF.

    Raises `EdgeMtpError` naming place and keyword for what is no schema and for what a grammar cannot hold.
    """
    rules = Rules()
    try:
        compiled = compile_schema(schema, JSON, rules, strict=True)
    except EdgeMtpError as error:
        raise EdgeMtpError(f"response schema, {error}") from None
    reply = compiled.expression
    return rules.text(reply if thinking == "no" else f"{_thought(rules, thinking)} {reply}")


def with_thought(grammar: str, thinking: Thinking) -> str:
    """An EBNF grammar, with a thought before its texts: "may" allows one, "open" begins inside one that is open.

    Raises `EdgeMtpError` for a grammar without a rule `root`.
    """
    if thinking == "no":
        return grammar
    if re.search(r"(?m)^[ \t]*root(?=[ \t]*::=)", grammar) is None:
        raise EdgeMtpError("the grammar has no rule `root`; name its first rule so")
    # Every rule of the grammar gets a name that none of a thought's has.
    rules = Rules()
    root = f"{_thought(rules, thinking)} user_root"
    defined = set(re.findall(r"(?m)^[ \t]*([\w.\-]+)(?=[ \t]*(?:\[[^\]\n]*\][ \t]*)?::=)", grammar))
    renamed = re.sub(_NAMES, lambda match: f"user_{match[0]}" if match["name"] in defined else match[0], grammar)
    return f"{rules.text(root)}{renamed}\n"


# Names in a grammar, and what has to be passed over: literals, classes and comments.
_NAMES = re.compile(r'"(?:\\.|[^"\\\n])*"|\[(?:\\.|[^\]\\\n])*\]|#[^\n]*|(?P<name>[A-Za-z_][\w.\-]*)')


def _thought(rules: Rules, thinking: Thinking) -> str:
    """A thought: any text without control tokens, nor their likeness."""
    thought = f'{rules.language(_THOUGHTS, _plain)} "{_THOUGHT_CLOSE}"'
    return thought if thinking == "open" else f'("{_THOUGHT_OPEN}" {thought})?'


_THOUGHTS = ~pattern_language(r"<\||<channel\|>")


def _plain(ranges: Ranges) -> list[str]:
    return [characters(ranges)]


def tool_grammar(
    tools: Sequence[Mapping[str, Any]], *, choice: str = "auto", parallel: bool = True, thinking: Thinking = "no"
) -> str:
    """The grammar of a reply that calls some tools, as EBNF in the dialect of docs/grammar.md.

    `tools` are in OpenAI's form, as for `tool_calls.check_tools`, or bare functions. `choice`: "auto" (text, calls, or
    text and then calls), "required" (calls only), "none" (text only), or the name of the one tool that is to be
    called. `parallel` allows several calls in one reply. `thinking`: "may" allows a thought before all that,
    "open" begins inside one that is open.

    Raises `EdgeMtpError` naming the tool, the place in its schema and the keyword for what the grammar cannot hold.
    """
    functions = _functions(tools)
    if choice not in ("auto", "none"):
        if not functions:
            raise EdgeMtpError(f"tool choice {choice!r} needs a tool to call; declare one or use 'auto'")
        if choice != "required":
            functions = {name: schema for name, schema in functions.items() if name == choice}
            if not functions:
                raise EdgeMtpError(
                    f"tool choice {choice!r} is no declared tool; use one of {', '.join(_functions(tools))}, "
                    "'auto', 'required' or 'none'"
                )
    rules = Rules()
    calls = ""
    if functions and choice != "none":
        bodies = [f"{literal(name)} {_arguments(rules, name, schema)}" for name, schema in functions.items()]
        call = f'"{CALL_OPEN}call:" {rules.choice(bodies)} "{CALL_CLOSE}"'
        calls = rules.add(call) + ("+" if parallel else "")
    text = rules.add_text()
    replies = {"auto": f"{text} {calls}?" if not parallel else f"{text} ({calls})?", "none": text}
    reply = calls if choice not in replies else replies[choice] if calls else text
    return rules.text(reply if thinking == "no" else f"{_thought(rules, thinking)} {reply}")


# -- declarations ---------------------------------------------------------------------------------------------------


def _functions(tools: Sequence[Mapping[str, Any]]) -> dict[str, Schema]:
    """Parameters by name of function."""
    if isinstance(tools, str | Mapping) or not isinstance(tools, Sequence):
        raise EdgeMtpError(f"tools: expected a list of tools, found {type(tools).__name__}; wrap it in [ ]")
    functions: dict[str, Schema] = {}
    for i, tool in enumerate(tools):
        function = tool.get("function", tool) if isinstance(tool, Mapping) else tool
        if not isinstance(function, Mapping):
            raise EdgeMtpError(f"tool {i}: expected an object, found {function!r}; give a name and parameters")
        name = function.get("name")
        if not isinstance(name, str) or _NAME.fullmatch(name) is None:
            raise EdgeMtpError(f"tool {i}: name {name!r} is not an identifier; use letters, digits, '_', '.', '-'")
        if name in functions:
            raise EdgeMtpError(f"tool {i}: name {name!r} is used twice; rename one")
        functions[name] = function.get("parameters") or {"type": "object", "properties": {}}
    return functions


def _arguments(rules: Rules, tool: str, schema: Schema) -> str:
    """The rule of one tool's arguments."""
    try:
        return compile_schema(schema, CALL, rules, strict=True, kind="object").expression
    except EdgeMtpError as error:
        raise EdgeMtpError(f"tool {tool!r}, parameters {error}") from None
