"""Tools as servers declare them, and checks of what a template may take of a declaration."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import edge_mtp
from edge_mtp.chat.chat_format import ChatFormat

TINY_CHAT = ChatFormat.from_directory(Path(edge_mtp.__file__).parent / "tiny" / "target")

WORDS = {"type", "description", "enum", "nullable", "items", "properties", "required"}


def check_told(told: dict[str, Any]) -> None:
    assert told.keys() <= WORDS
    assert told["type"] in ("string", "number", "integer", "boolean", "array", "object", "null")
    assert all(isinstance(value, str) for value in told.get("enum", []))
    assert told.get("description", "x")
    for inner in told.get("properties", {}).values():
        check_told(inner)
    if told.get("items"):
        check_told(told["items"])


def check_prompt(prompt: str) -> None:
    """Every type is one of Gemma's, no brace opens with a comma, no value of Python's is there."""
    outside = re.sub(r'(type:)?<\|"\|>.*?<\|"\|>', lambda m: m[0] if m[1] else "S", prompt, flags=re.DOTALL)
    types = re.findall(r'[{,]type:<\|"\|>(.*?)<\|"\|>', outside)
    assert types
    assert set(types) <= {"STRING", "INTEGER", "NUMBER", "BOOLEAN", "NULL", "ARRAY", "OBJECT"}
    assert "{," not in outside
    assert "None" not in outside
    assert "True" not in outside


def many_tools(count: int) -> list[dict[str, Any]]:
    """Tools as servers declare them: paths, bounded numbers, enumerations, lists, objects, text of bounded length."""
    kinds: list[dict[str, Any]] = [
        {"path": {"type": "string"}, "recursive": {"type": "boolean"}},
        {"query": {"type": "string", "maxLength": 8}, "limit": {"type": "integer", "minimum": 1, "maximum": 100}},
        {"labels": {"type": "array", "items": {"type": "string"}}, "state": {"enum": ["open", "closed", "all"]}},
        {"latitude": {"type": "number", "minimum": -90, "maximum": 90}, "units": {"enum": ["metric", "imperial"]}},
        {
            "filter": {
                "type": "object",
                "properties": {"since": {"type": "string", "pattern": "^\\d{4}-\\d\\d-\\d\\d$"}},
            }
        },
    ]
    verbs = ["list", "find", "label", "weather", "filter"]
    tools = []
    for i in range(count):
        own = kinds[i % 5]
        parameters = {"type": "object", "properties": own, "required": sorted(own)[:1]}
        tools.append({"name": f"server_{i // 5}_{verbs[i % 5]}_{i}", "parameters": parameters})
    return tools
