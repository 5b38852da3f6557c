"""Tools that published MCP servers declare (mcp_tools.json): declared, told in every template, enforced, read again.

The file holds what the servers answered to `tools/list`, with package, version and licence (MIT or Apache-2.0).
"""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from native_constraint import Compiler, library
from published_templates import gemma4
from tool_declarations import TINY_CHAT, check_prompt, check_told

import edge_mtp
from edge_mtp.chat.declarations import declarations
from edge_mtp.formats.grammar import tool_grammar
from edge_mtp.formats.token_bytes import token_table
from edge_mtp.formats.tool_calls import check_tools, parse_calls

SERVERS = json.loads((Path(__file__).parents[1] / "helpers" / "mcp_tools.json").read_text(encoding="utf-8"))
TOOLS = [(server["package"], tool) for server in SERVERS for tool in server["tools"]]
TOKENIZER = TINY_CHAT.tokenizer
STOP = [106, 50]
LONGEST = 400  # tokens


def test_the_servers_are_many_and_their_licences_permit_it() -> None:
    assert len(TOOLS) >= 150
    assert len(SERVERS) >= 8
    assert {server["licence"] for server in SERVERS} <= {"MIT", "Apache-2.0"}


@pytest.mark.parametrize("server", SERVERS, ids=lambda server: server["package"])
def test_every_server_is_declared_in_one_go(server: dict[str, Any]) -> None:
    """As a client has them: the tools of a server, whole, in one prompt and one grammar."""
    tools = check_tools(server)
    assert [tool["function"]["name"] for tool in tools] == [tool["name"] for tool in server["tools"]]
    for tool, given in zip(declarations(tools), server["tools"], strict=True):
        check_told(tool["function"]["parameters"])
        told = tool["function"]["parameters"]["properties"]
        assert told.keys() == given["inputSchema"].get("properties", {}).keys()
        assert given.get("description", "").strip() in tool["function"]["description"]
    check_prompt(TINY_CHAT.render([{"role": "user", "content": "Hi"}], tools))
    # All of them are enforced, whole.
    reports = tool_grammar(tools, strict=True).reports
    assert Counter(report.enforced for report in reports) == {"whole": len(tools)}


def test_googles_templates_take_all() -> None:
    for template in gemma4().values():
        chat = replace(TINY_CHAT, template=template)
        for server in SERVERS:
            prompt = chat.render([{"role": "user", "content": "Hi"}], server["tools"])
            check_prompt(prompt)
            for tool in server["tools"]:
                assert f"declaration:{tool['name']}{{" in prompt


@pytest.fixture(scope="module")
def compiler() -> Compiler:
    tokenizer = Path(edge_mtp.__file__).parent / "tiny" / "target" / "tokenizer.json"
    return library().tokens(token_table(tokenizer, TOKENIZER.vocab_size)).compiler(STOP)


def drawn(compiler: Compiler, grammar: str, seed: int) -> str | None:
    """A text of a grammar; None if it has no end within `LONGEST` tokens."""
    draw = random.Random(seed)
    constraint = compiler.constraint(grammar)
    tokens: list[int] = []
    while not constraint.finished:
        if len(tokens) == LONGEST:
            return None
        allowed = constraint.allowed()
        assert allowed
        marks = [token for token in allowed if token < 110]
        ends = [token for token in allowed if TOKENIZER.token_bytes(token) in (b"}", b"]", b",")]
        chosen = next((some for some in (marks, ends) if some and draw.random() < 0.4), allowed)
        tokens.append(draw.choice(chosen))
        assert constraint.accept(tokens[-1])
    return TOKENIZER.decode(tokens[:-1])


@pytest.mark.parametrize(("package", "tool"), TOOLS, ids=[f"{package}:{tool['name']}" for package, tool in TOOLS])
def test_what_the_grammar_allows_is_valid(compiler: Compiler, package: str, tool: dict[str, Any]) -> None:
    """jsonschema, which nobody here wrote, is the judge."""
    grammar = tool_grammar([tool], choice="required", parallel=False)
    assert grammar.reports[0].enforced == "whole"
    texts = [text for seed in range(3) if (text := drawn(compiler, grammar.text, seed)) is not None]
    for text in texts:
        [call] = parse_calls(text, [tool])
        assert call.name == tool["name"]
        jsonschema.validate(dict(call.arguments), tool["inputSchema"])
