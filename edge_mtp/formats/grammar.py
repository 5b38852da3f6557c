"""Grammars of replies as EBNF (docs/grammar.md): for tool calls, for JSON with a schema, and for thoughts before them.

The grammar of a declaration generates calls in the wire format of `tool_calls`, with keys in the order in which the
chat template writes them. Every text that it generates parses strictly and satisfies the declared schema.
`edge_mtp.formats.schema` compiles the schemas.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.schema import CALL, JSON, Rules, Unenforced, compile_schema
from edge_mtp.formats.schema.characters import Ranges
from edge_mtp.formats.schema.pattern import pattern_language
from edge_mtp.formats.schema.rules import characters, literal
from edge_mtp.formats.tool_calls import CALL_CLOSE, CALL_OPEN, check_tools

Choice = Literal["auto", "required", "none"]
Thinking = Literal["no", "may", "open"]

_THOUGHT_OPEN, _THOUGHT_CLOSE = "<|channel>thought\\n", "<channel|>"


def response_grammar(schema: Any, *, thinking: Thinking = "no") -> str:
    """The grammar of a schema's JSON values, as EBNF.

    Raises `EdgeMtpError` naming place and keyword if the schema is invalid or a grammar cannot enforce it.
    """
    rules = Rules()
    try:
        compiled = compile_schema(schema, JSON, rules, strict=True)
    except EdgeMtpError as error:
        raise EdgeMtpError(f"response schema, {error}") from None
    reply = compiled.expression
    return rules.text(reply if thinking == "no" else f"{_thought(rules, thinking)} {reply}")


def with_thought(grammar: str, thinking: Thinking) -> str:
    """Adds a thought before the texts of an EBNF grammar: "may" allows one, "open" starts inside one.

    Raises `EdgeMtpError` for a grammar without a rule `root`.
    """
    if thinking == "no":
        return grammar
    if re.search(r"(?m)^[ \t]*root(?=[ \t]*::=)", grammar) is None:
        raise EdgeMtpError("the grammar has no rule `root`; name its first rule so")
    # Renames every rule of the grammar, so that none has the name of a thought's rule.
    rules = Rules()
    root = f"{_thought(rules, thinking)} user_root"
    defined = set(re.findall(r"(?m)^[ \t]*([\w.\-]+)(?=[ \t]*(?:\[[^\]\n]*\][ \t]*)?::=)", grammar))
    renamed = re.sub(_NAMES, lambda match: f"user_{match[0]}" if match["name"] in defined else match[0], grammar)
    return f"{rules.text(root)}{renamed}\n"


# Matches names in a grammar, and the literals, classes and comments to skip.
_NAMES = re.compile(r'"(?:\\.|[^"\\\n])*"|\[(?:\\.|[^\]\\\n])*\]|#[^\n]*|(?P<name>[A-Za-z_][\w.\-]*)')


def _thought(rules: Rules, thinking: Thinking) -> str:
    """A thought: any text without control tokens or text that looks like one."""
    thought = f'{rules.language(_THOUGHTS, _plain)} "{_THOUGHT_CLOSE}"'
    return thought if thinking == "open" else f'("{_THOUGHT_OPEN}" {thought})?'


_THOUGHTS = ~pattern_language(r"<\||<channel\|>")


def _plain(ranges: Ranges) -> list[str]:
    return [characters(ranges)]


@dataclass(frozen=True)
class ToolReport:
    """How far a grammar enforces the schema of one tool.

    `unenforced` are the keywords that it does not enforce. `trouble` says why it enforces nothing but that the
    arguments are an object.
    """

    name: str
    unenforced: tuple[Unenforced, ...] = ()
    trouble: str = ""

    @property
    def enforced(self) -> Literal["whole", "partly", "not"]:
        return "not" if self.trouble else "partly" if self.unenforced else "whole"

    def __str__(self) -> str:
        if self.trouble:
            return f"tool {self.name!r}: its schema is not enforced: {self.trouble}"
        if self.unenforced:
            places = ", ".join(f"{each.keyword} at {each.place}" for each in self.unenforced)
            return f"tool {self.name!r}: its schema is partly enforced, without {places}"
        return f"tool {self.name!r}: its schema is enforced"

    def to_json(self) -> dict[str, Any]:
        unenforced = [{"place": each.place, "keyword": each.keyword} for each in self.unenforced]
        return {"tool": self.name, "enforced": self.enforced, "unenforced": unenforced, "trouble": self.trouble or None}


@dataclass(frozen=True)
class ToolGrammar:
    """A grammar of replies as EBNF, with a report for each tool of how far its schema is enforced."""

    text: str
    reports: tuple[ToolReport, ...] = ()


def tool_grammar(
    tools: Any,
    *,
    choice: str = "auto",
    parallel: bool = True,
    thinking: Thinking = "no",
    strict: bool = False,
) -> ToolGrammar:
    """The grammar of a reply that calls some tools, as EBNF in the dialect of docs/grammar.md.

    `tools` are as for `tool_calls.check_tools`. `choice`: "auto" (text, calls, or text and then calls), "required"
    (calls only), "none" (text only), or the name of the one tool to call. `parallel` allows several calls in one reply.
    `thinking`: "may" allows a thought before the reply, "open" starts inside one.

    A keyword that a grammar cannot enforce is left out and reported; with `strict`, it is refused. Raises
    `EdgeMtpError` naming the tool, the place in its schema and the keyword for that, and also for an invalid
    declaration or choice.
    """
    functions = {tool["function"]["name"]: tool["function"]["parameters"] for tool in check_tools(tools)}
    if choice not in ("auto", "none"):
        if not functions:
            raise EdgeMtpError(f"tool choice {choice!r} needs a tool to call; declare one or use 'auto'")
        if choice != "required" and choice not in functions:
            raise EdgeMtpError(
                f"tool choice {choice!r} is no declared tool; use one of {', '.join(functions)}, "
                "'auto', 'required' or 'none'"
            )
    rules = Rules()
    called = {} if choice == "none" else {n: s for n, s in functions.items() if choice in ("auto", "required", n)}
    compiled = {name: _arguments(rules, name, schema, strict) for name, schema in called.items()}
    text = rules.add_text()
    reply = text
    if called:
        call = rules.choice([f"{literal(name)} {arguments}" for name, (arguments, _) in compiled.items()])
        calls = rules.add(f'"{CALL_OPEN}call:" {call} "{CALL_CLOSE}"') + ("+" if parallel else "")
        reply = f"{text} ({calls})?" if choice == "auto" else calls
    reply = reply if thinking == "no" else f"{_thought(rules, thinking)} {reply}"
    return ToolGrammar(rules.text(reply), tuple(report for _, report in compiled.values()))


def _arguments(rules: Rules, tool: str, schema: Any, strict: bool) -> tuple[str, ToolReport]:
    """The rule of one tool's arguments."""
    try:
        compiled = compile_schema(schema, CALL, rules, strict=strict, kind="object")
    except EdgeMtpError as error:
        if strict:
            raise EdgeMtpError(f"tool {tool!r}, parameters {error}") from None
        anything = compile_schema(True, CALL, rules, strict=False, kind="object")
        return anything.expression, ToolReport(tool, trouble=str(error))
    return compiled.expression, ToolReport(tool, compiled.unenforced)
