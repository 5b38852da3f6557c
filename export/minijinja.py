"""Translates a chat template from Python's jinja2 to minijinja, which the stock LiteRT-LM engine renders with.

The two share their grammar and little else. minijinja has no Python methods, has different tests for sequences and
None, writes None, truth values and lists differently, and its loop bodies see assignments of earlier iterations.
`translate` parses a template with jinja2, and writes every node in constructs that mean the same in minijinja 2.12 to 3
and in the stock engine, which replaces the test `none` and edits what looks like a Python method (LiteRT-LM,
`runtime/components/prompt_template.cc` and `rust/minijinja_template.rs`). It refuses a node without such a construct by
name and line. Two differences remain: Python also trims U+001C to U+001F, and writes numbers below 1e-4 and from 1e16
on with an exponent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser

from edge_mtp.errors import EdgeMtpError

# Writes a value as jinja2 does, with only the tests that all versions and the stock engine agree on.
_TEXT_MACROS = r"""
{%- macro edge_repr(value) -%}
    {%- if value is string -%}
        {%- set quote = '"' if "'" in value and '"' not in value else "'" -%}
        {%- set inner = value | replace('\\', '\\\\') | replace('\n', '\\n') | replace('\r', '\\r') -%}
        {%- set inner = inner | replace('\t', '\\t') -%}
        {{- quote ~ (inner | replace("'", "\\'") if quote == "'" else inner) ~ quote -}}
    {%- elif value is mapping -%}
        {{- '{' -}}
        {%- for key, item in value | items -%}
            {{- ', ' if not loop.first -}}{{- edge_repr(key) -}}{{- ': ' -}}{{- edge_repr(item) -}}
        {%- endfor -%}
        {{- '}' -}}
    {%- elif value is iterable and value != none -%}
        {{- '[' -}}
        {%- for item in value -%}{{- ', ' if not loop.first -}}{{- edge_repr(item) -}}{%- endfor -%}
        {{- ']' -}}
    {%- else -%}
        {{- edge_text(value) -}}
    {%- endif -%}
{%- endmacro -%}
{%- macro edge_text(value) -%}
    {%- if value is undefined or value is string -%}
        {{- value -}}
    {%- elif value is boolean -%}
        {{- 'True' if value else 'False' -}}
    {%- elif value == none -%}
        {{- 'None' -}}
    {%- elif value is iterable -%}
        {{- edge_repr(value) -}}
    {%- else -%}
        {{- value -}}
    {%- endif -%}
{%- endmacro -%}
"""
TEXT_MACROS = "".join(line.strip() for line in _TEXT_MACROS.splitlines())

# The pattern that the stock engine edits in a template; a dot written as an escape protects literals from it.
_EDITED = re.compile(r"\.(?=(?:startswith|endswith|replace|split|join|lstrip|rstrip|strip|items)\()")

_TEXT_FILTERS = {"upper", "lower", "trim", "capitalize", "replace"}  # text to text
_FILTERS = {
    "abs", "dictsort", "first", "float", "int", "items", "join", "last", "list", "max", "min", "reject", "rejectattr",
    "reverse", "round", "select", "selectattr", "sort", "unique",
}  # fmt: skip
_TESTS = {
    "boolean", "defined", "divisibleby", "even", "float", "integer", "iterable", "mapping", "odd", "string",
    "undefined",
}  # fmt: skip
_COMPARING_TESTS = {
    **dict.fromkeys(("eq", "equalto", "=="), "=="),
    **dict.fromkeys(("ne", "!="), "!="),
    **dict.fromkeys(("lt", "lessthan", "<"), "<"),
    **dict.fromkeys(("le", "<="), "<="),
    **dict.fromkeys(("gt", "greaterthan", ">"), ">"),
    **dict.fromkeys(("ge", ">="), ">="),
    "in": "in",
}
_FUNCTIONS = {"dict", "namespace", "raise_exception", "range", "strftime_now"}
_OPERATORS = {"eq": "==", "ne": "!=", "lt": "<", "lteq": "<=", "gt": ">", "gteq": ">=", "in": "in", "notin": "not in"}
_BINARY = {
    nodes.Add: "+", nodes.Sub: "-", nodes.Mul: "*", nodes.Div: "/", nodes.FloorDiv: "//", nodes.Mod: "%",
    nodes.Pow: "**", nodes.And: "and", nodes.Or: "or",
}  # fmt: skip
_UNARY = {nodes.Not: "not ", nodes.Neg: "-", nodes.Pos: ""}
_MAPPING_METHODS = frozenset(dir({})) - {"__class__"}


class UntranslatableError(EdgeMtpError):
    """The template uses a construct that minijinja lacks; the message names construct and line."""


def translate(template: str) -> str:
    """Translates `template`, which jinja2 renders with trimmed blocks like every chat template, for minijinja.

    Raises UntranslatableError, and EdgeMtpError when the template is not valid jinja.
    """
    environment = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[LoopControlExtension, _Generation]
    )
    try:
        tree = environment.parse(template)
    except jinja2.TemplateSyntaxError as error:
        raise EdgeMtpError(f"the chat template is not valid jinja: {error.message}, line {error.lineno}") from None
    writer = _Writer(macro.name for macro in tree.find_all(nodes.Macro))
    body = writer.statements(tree.body, 0)
    return (TEXT_MACROS + "\n" if writer.uses_text else "") + body


class _Generation(Extension):
    """transformers' `generation` tag, which marks text of the model. Only its body is kept."""

    tags = {"generation"}  # noqa: RUF012 (jinja2's own way)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Writer:
    """Writes nodes as text. Each statement has its own line between `{%-` and `-%}`, so white space has no effect."""

    def __init__(self, macros: Iterable[str]) -> None:
        self.macros = set(macros)
        self.uses_text = False

    def statements(self, body: Sequence[nodes.Node], depth: int) -> str:
        return "".join(self.statement(node, depth) for node in body)

    def statement(self, node: nodes.Node, depth: int) -> str:
        writers: dict[type[nodes.Node], Callable[..., str]] = {
            nodes.Output: self._output,
            nodes.If: self._if,
            nodes.For: self._for,
            nodes.Assign: self._assign,
            nodes.AssignBlock: self._assign_block,
            nodes.Macro: self._macro,
            nodes.With: self._with,
            nodes.Scope: lambda node, depth: self._scoped(node.body, depth),
        }
        if type(node) in writers:
            return writers[type(node)](node, depth)
        raise _refusal(node, f"'{type(node).__name__.lower()}' statement")

    def _output(self, node: nodes.Output, depth: int) -> str:
        lines = []
        for part in node.nodes:
            text = literal(part.data) if isinstance(part, nodes.TemplateData) else self.text(part)
            lines.append(f"{'  ' * depth}{{{{- {text} -}}}}\n")
        return "".join(lines)

    def _if(self, node: nodes.If, depth: int) -> str:
        text = _line(f"if {self.expression(node.test)}", depth) + self.statements(node.body, depth + 1)
        for branch in node.elif_:
            text += _line(f"elif {self.expression(branch.test)}", depth) + self.statements(branch.body, depth + 1)
        if node.else_:
            text += _line("else", depth) + self.statements(node.else_, depth + 1)
        return text + _line("endif", depth)

    def _for(self, node: nodes.For, depth: int) -> str:
        if node.recursive:
            raise _refusal(node, "recursive loop")
        condition = f" if {self.expression(node.test)}" if node.test is not None else ""
        text = _line(f"for {self._target(node.target)} in {self.expression(node.iter)}{condition}", depth)
        # In minijinja all iterations share one scope; in jinja2 each has its own.
        assigns = any(_assigned(node.body))
        text += self._scoped(node.body, depth + 1) if assigns else self.statements(node.body, depth + 1)
        if node.else_:
            text += _line("else", depth) + self.statements(node.else_, depth + 1)
        return text + _line("endfor", depth)

    def _scoped(self, body: Sequence[nodes.Node], depth: int) -> str:
        return _line("with", depth) + self.statements(body, depth + 1) + _line("endwith", depth)

    def _with(self, node: nodes.With, depth: int) -> str:
        pairs = zip(node.targets, node.values, strict=True)
        given = ", ".join(f"{self._target(target)} = {self.expression(value)}" for target, value in pairs)
        return _line(f"with {given}", depth) + self.statements(node.body, depth + 1) + _line("endwith", depth)

    def _assign(self, node: nodes.Assign, depth: int) -> str:
        if isinstance(node.target, nodes.Tuple):
            raise _refusal(node, "assignment to several names")
        return _line(f"set {self._target(node.target)} = {self.expression(node.node)}", depth)

    def _assign_block(self, node: nodes.AssignBlock, depth: int) -> str:
        if node.filter is not None:
            raise _refusal(node, "filter on a set block")
        target = self._target(node.target)
        return _line(f"set {target}", depth) + self.statements(node.body, depth + 1) + _line("endset", depth)

    def _macro(self, node: nodes.Macro, depth: int) -> str:
        for name in node.find_all(nodes.Name):
            if name.name in ("varargs", "kwargs", "caller"):
                raise _refusal(name, f"'{name.name}' in a macro")
        first = len(node.args) - len(node.defaults)
        given = [
            name.name + (f"={self.expression(node.defaults[index - first])}" if index >= first else "")
            for index, name in enumerate(node.args)
        ]
        head = _line(f"macro {node.name}({', '.join(given)})", depth)
        return head + self.statements(node.body, depth + 1) + _line("endmacro", depth)

    def _target(self, node: nodes.Node) -> str:
        match node:
            case nodes.Name():
                return node.name
            case nodes.NSRef():
                return f"{node.name}.{node.attr}"
            case nodes.Tuple():
                return ", ".join(self._target(item) for item in node.items)
        raise _refusal(node, "assignment")

    def text(self, node: nodes.Expr) -> str:
        """An expression for the text that jinja2 makes of the node's value."""
        if self._is_text(node):
            return self.expression(node)
        self.uses_text = True
        return f"edge_text({self.expression(node)})"

    def _is_text(self, node: nodes.Expr | None) -> bool:
        match node:
            case nodes.Const():
                return isinstance(node.value, str)
            case nodes.Concat() | nodes.TemplateData():
                return True
            case nodes.Add():  # jinja2 refuses to add anything but text to text
                return self._is_text(node.left) or self._is_text(node.right)
            case nodes.CondExpr():
                return self._is_text(node.expr1) and (node.expr2 is None or self._is_text(node.expr2))
            case nodes.Filter():
                return node.name in _TEXT_FILTERS | {"tojson", "safe", "string", "join"}
            case nodes.Call(node=nodes.Name(name=name)):
                return name in self.macros
        return False

    def expression(self, node: nodes.Node | None) -> str:
        match node:
            case nodes.Const():
                return _constant(node)
            case nodes.Name():
                return node.name
            case nodes.List() | nodes.Tuple():
                return f"[{', '.join(map(self.expression, node.items))}]"
            case nodes.Dict():
                pairs = (f"{self.expression(pair.key)}: {self.expression(pair.value)}" for pair in node.items)
                return f"{{{', '.join(pairs)}}}"
            case nodes.Getattr():
                if node.attr in _MAPPING_METHODS:
                    raise _refusal(node, f"'.{node.attr}' that is not called")
                return f"{self._operand(node.node)}.{node.attr}"
            case nodes.Getitem():
                return f"{self._operand(node.node)}[{self._index(node.arg)}]"
            case nodes.CondExpr():
                chosen = f"{self.expression(node.expr1)} if {self.expression(node.test)}"
                return f"({chosen} else {self.expression(node.expr2)})" if node.expr2 is not None else f"({chosen})"
            case nodes.Compare():
                return self._compare(node)
            case nodes.Concat():
                return f"({' ~ '.join(map(self.text, node.nodes))})"
            case nodes.BinExpr() if type(node) in _BINARY:
                return f"({self.expression(node.left)} {_BINARY[type(node)]} {self.expression(node.right)})"
            case nodes.UnaryExpr():
                return f"({_UNARY[type(node)]}{self.expression(node.node)})"
            case nodes.Filter():
                return self._filter(node)
            case nodes.Test():
                return self._test(node)
            case nodes.Call():
                return self._call(node)
        assert node is not None
        raise _refusal(node, f"'{type(node).__name__.lower()}'")

    def _operand(self, node: nodes.Expr) -> str:
        """An expression that a dot, a bracket or a filter can follow."""
        text = self.expression(node)
        return text if isinstance(node, nodes.Name | nodes.Getattr | nodes.Getitem) else f"({text})"

    def _index(self, node: nodes.Expr) -> str:
        if not isinstance(node, nodes.Slice):
            return self.expression(node)
        ends = [self.expression(part) if part is not None else "" for part in (node.start, node.stop)]
        step = f":{self.expression(node.step)}" if node.step is not None else ""
        return ":".join(ends) + step

    def _compare(self, node: nodes.Compare) -> str:
        left, parts = self.expression(node.expr), []
        for operand in node.ops:
            right = self.expression(operand.expr)
            parts.append(f"({left} {_OPERATORS[operand.op]} {right})")
            left = right
        return parts[0] if len(parts) == 1 else f"({' and '.join(parts)})"

    def _arguments(self, node: nodes.Call | nodes.Filter | nodes.Test, what: str) -> list[str]:
        if node.dyn_args is not None or node.dyn_kwargs is not None:
            raise _refusal(node, f"'*' in the arguments of {what}")
        named = (f"{pair.key}={self.expression(pair.value)}" for pair in node.kwargs)
        return [*map(self.expression, node.args), *named]

    def _filter(self, node: nodes.Filter) -> str:
        name, subject = node.name, node.node
        if subject is None:
            raise _refusal(node, "filter block")
        arguments = self._arguments(node, f"filter '{name}'")
        given = f"({', '.join(arguments)})" if arguments else ""
        if name in ("string", "safe"):  # nothing is escaped
            return self.text(subject)
        if name in _TEXT_FILTERS:
            return f"({self.text(subject)} | {name}{given})"
        if name in ("length", "count"):
            return f"(({self.expression(subject)} | default('')) | length)"
        if name in ("default", "d"):
            return self._default(node)
        if name == "tojson" and not arguments:
            return f"({self.expression(subject)} | tojson)"
        if name == "map" and (not node.args or _names_filter(node.args)):
            return f"({self.expression(subject)} | map{given})"
        if name in _FILTERS:
            return f"({self.expression(subject)} | {name}{given})"
        raise _refusal(node, f"filter '{name}'" + (" with arguments" if name == "tojson" else ""))

    def _default(self, node: nodes.Filter) -> str:
        values = dict(zip(("default_value", "boolean"), node.args, strict=False))
        values |= {str(pair.key): pair.value for pair in node.kwargs}
        subject = self.expression(node.node)
        other = self.expression(values["default_value"]) if "default_value" in values else "''"
        match values.get("boolean"):
            case None | nodes.Const(value=False):
                return f"({subject} | default({other}))"
            case nodes.Const(value=True):
                return f"({subject} or {other})"
        raise _refusal(node, "filter 'default' with a computed flag")

    def _test(self, node: nodes.Test) -> str:
        name, subject = node.name, self.expression(node.node)
        arguments = self._arguments(node, f"test '{name}'")
        if name == "none":
            return f"({subject} == none)"
        if name == "sequence":
            return f"({subject} is iterable and {subject} != none)"  # in minijinja, a slice of a list is no sequence
        if name == "number":
            return f"({subject} is integer or {subject} is float or {subject} is boolean)"
        if name in ("true", "false"):
            return f"({subject} is boolean and {subject} == {name})"
        if name in _COMPARING_TESTS and len(arguments) == 1:
            return f"({subject} {_COMPARING_TESTS[name]} {arguments[0]})"
        if name in _TESTS:
            return f"({subject} is {name}{f'({arguments[0]})' if arguments else ''})"
        raise _refusal(node, f"test '{name}'")

    def _call(self, node: nodes.Call) -> str:
        match node.node:
            case nodes.Name(name=name) if name in self.macros | _FUNCTIONS:
                return f"{name}({', '.join(self._arguments(node, name))})"
            case nodes.Getattr(node=nodes.Name(name="loop"), attr="cycle" | "changed" as attr):
                return f"loop.{attr}({', '.join(self._arguments(node, attr))})"
            case nodes.Getattr(node=subject, attr=method):
                return self._method(node, subject, method)
            case nodes.Name(name=name):
                raise _refusal(node, f"call of '{name}'")
        raise _refusal(node, "call of a computed value")

    def _method(self, node: nodes.Call, subject: nodes.Expr, method: str) -> str:
        given = self._arguments(node, f"'.{method}()'")
        value, listed = self._operand(subject), f"({', '.join(given)})" if given else ""
        match method, given:
            case "get", [key]:
                return f"({value}[{key}] if {key} in {value} else none)"
            case "get", [key, other]:
                return f"({value}[{key}] if {key} in {value} else {other})"
            case "items", []:
                return f"({value} | items)"
            case "keys", []:
                return f"({value} | list)"
            case "values", []:
                return f"({value} | items | map(attribute=1) | list)"
            case "split", [] | [_] | [_, _]:
                return f"({value} | split{listed} | list)"
            case "strip", [] | [_]:
                return f"({value} | trim{listed})"
            case "lstrip" | "rstrip", [] | [_]:
                return f"({value} | {method}{listed})"
            case "startswith", [part] if not _is_list(node.args[0]):
                return f"({value} is startingwith({part}))"
            case "endswith", [part] if not _is_list(node.args[0]):
                return f"({value} is endingwith({part}))"
            case "replace", [_, _]:
                return f"({value} | replace{listed})"
            case "join", [items]:
                return f"({items} | join({value}))"
            case (("upper" | "lower" | "capitalize"), []):
                return f"({value} | {method})"
        raise _refusal(node, f"method '.{method}()'")


def _line(statement: str, depth: int) -> str:
    return f"{'  ' * depth}{{%- {statement} -%}}\n"


def _assigned(body: Iterable[nodes.Node]) -> Iterable[nodes.Node]:
    """The assignments to names whose scope is this body."""
    for node in body:
        if isinstance(node, nodes.Assign | nodes.AssignBlock):
            if not isinstance(node.target, nodes.NSRef):
                yield node
        elif isinstance(node, nodes.If):
            yield from _assigned([*node.body, *node.elif_, *node.else_])


def _names_filter(arguments: Sequence[nodes.Expr]) -> bool:
    name = arguments[0]
    return isinstance(name, nodes.Const) and name.value in _TEXT_FILTERS | _FILTERS


def _is_list(node: nodes.Expr) -> bool:
    return isinstance(node, nodes.Tuple | nodes.List)


def _constant(node: nodes.Const) -> str:
    value = node.value
    if isinstance(value, str):
        return literal(value)
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) or (isinstance(value, float) and "e" not in repr(value) and value - value == 0):
        return repr(value)
    raise _refusal(node, f"constant {value!r}")


def literal(value: Any) -> str:
    """A JSON value in minijinja's language."""
    match value:
        case str():
            return _EDITED.sub(r"\\u002e", json.dumps(value, ensure_ascii=False))
        case bool() | None:
            return str(value).lower()
        case Mapping():
            return f"{{{', '.join(f'{literal(key)}: {literal(item)}' for key, item in value.items())}}}"
        case Sequence():
            return f"[{', '.join(map(literal, value))}]"
    return repr(value)


def _refusal(node: nodes.Node, construct: str) -> UntranslatableError:
    return UntranslatableError(f"{construct}, line {node.lineno}")
