"""Small conversations that the chat template of a model with tools must be able to render.

Every template of a bundle is tried on them, once at export and in the tests, so its refusals are known before the first
run. The messages are canonical: see `ChatFormat.render`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Conversation:
    """Messages, tools in OpenAI's form, and variables for the template such as `enable_thinking`."""

    name: str
    messages: Messages
    tools: Sequence[Mapping[str, Any]] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)

    def prompts(self) -> Iterator[Conversation]:
        """This conversation cut at each place where the model's turn comes, including its end."""
        for end, message in enumerate(self.messages, 1):
            following = self.messages[end]["role"] if end < len(self.messages) else "assistant"
            if message["role"] in ("user", "tool") and following == "assistant":
                yield replace(self, messages=self.messages[:end])


def _tool(name: str, description: str, properties: Mapping[str, Any], required: Sequence[str] = ()) -> dict[str, Any]:
    parameters = {"type": "object", "properties": dict(properties), "required": list(required)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


WEATHER = _tool(
    "get_weather",
    "Weather of a place, now or later",
    {
        "city": {"type": "string", "description": "Name of the city"},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "description": "Unit", "nullable": True},
        "days": {"type": "integer", "description": "Days ahead"},
    },
    ["city"],
)
BOOK = _tool(
    "book",
    "Book a table",
    {
        "guests": {
            "type": "array",
            "description": "Who comes",
            "items": {
                "type": "object",
                "description": "A guest",
                "properties": {"name": {"type": "string"}, "age": {"type": "number", "nullable": True}},
                "required": ["name"],
            },
        },
        "place": {
            "type": "object",
            "description": "Where",
            "properties": {"city": {"type": "string", "description": "City"}, "terrace": {"type": "boolean"}},
            "required": ["city"],
        },
        "tags": {"type": "array", "description": "Labels", "items": {"type": "string"}},
    },
    ["guests", "place"],
)
NOW = {"type": "function", "function": {"name": "now", "description": "The time", "parameters": {"type": "object"}}}
NOTE = _tool(
    "note-2",
    'Notes <b>"down"</b> & keeps',
    {
        "text": {"type": "string", "nullable": True, "description": "Any text — even “this”"},
        "level": {"type": "string", "enum": ["ä", "b c", 'd"e']},
    },
)
TOOLS = (WEATHER, BOOK, NOW, NOTE)


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _say(text: str | None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def _call(number: int, name: str, **arguments: Any) -> dict[str, Any]:
    return {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": arguments}}


def _answer(number: int, name: str, content: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": f"call_{number}", "name": name, "content": content}


_ROME, _OSLO = _call(1, "get_weather", city="Rome"), _call(2, "get_weather", city="Oslo", unit="celsius", days=2)
_SUNNY = {"sky": "sunny", "degrees": 21.5, "wind": None, "alerts": [], "by": {"name": "Ana", "sure": True}}
_GUESTS = [{"name": "Ana", "age": None}, {"name": "Bo", "age": 3.5}]
_BOOKING = _call(1, "book", guests=_GUESTS, place={"city": "Zürich", "terrace": False}, tags=[])
_PARTS = [{"type": "text", "text": "First."}, {"type": "text", "text": " Second. "}]
_SYSTEM = {"role": "system", "content": "  Be brief.\n"}

_ANSWERS: Mapping[str, Any] = {
    "object": _SUNNY,
    "empty object": {},
    "text": "21 °C and <sunny>\nall day",
    "empty text": "",
    "number": 21.5,
    "truth": True,
    "list": [1, "two", None, {"three": [3]}],
    "error": {"error": "no such city", "code": 404},
}


def _conversations() -> Iterator[Conversation]:
    question = _user("Rome?")
    called = [question, _say(None, tool_calls=[_ROME])]
    yield Conversation("one question", [question])
    yield Conversation("several turns", [_user(" Hi "), _say("Hello."), _user("Bye\n\n"), _say("Bye."), _user("?")])
    yield Conversation("system message", [_SYSTEM, question, _say("Rome."), question])
    yield Conversation("developer message", [{"role": "developer", "content": "Be kind."}, question])
    yield Conversation("several parts", [{"role": "user", "content": _PARTS}, _say("Yes."), question])
    yield Conversation("system message of several parts", [{"role": "system", "content": _PARTS}, question])
    yield Conversation("any characters", [_user("é漢🙂 'a' \"b\" \\n {{ c }} {% d %} &lt;"), _say("“ß”"), _user("\t!")])
    yield Conversation("tools", [question], TOOLS)
    yield Conversation("tools and a system message", [_SYSTEM, question], TOOLS)
    yield Conversation("one call", [*called, _answer(1, "get_weather", _SUNNY)], TOOLS)
    for kind, content in _ANSWERS.items():
        yield Conversation(
            f"answer: {kind}",
            [*called, _answer(1, "get_weather", content), _say("Fine."), _user("Thanks")],
            (WEATHER,),
        )
    both = [question, _say(None, tool_calls=[_ROME, _OSLO])]
    warm, cold = _answer(1, "get_weather", _SUNNY), _answer(2, "get_weather", "cold")
    yield Conversation("two calls of one tool", [*both, warm, cold, _say("So."), question], TOOLS)
    yield Conversation("an answer is missing", [*both, cold, _say("Cold."), question], TOOLS)
    yield Conversation(
        "calls of several tools",
        [
            _user("Book it"),
            _say(None, tool_calls=[_BOOKING, _call(2, "now"), _call(3, "note-2", text=None, level="ä")]),
            _answer(1, "book", {"ok": True}),
            _answer(2, "now", "12:00"),
            _answer(3, "note-2", {"kept": [True, None]}),
            _say("Booked."),
            question,
        ],
        TOOLS,
    )
    yield Conversation(
        "one call after another",
        [
            *called,
            warm,
            _say(None, tool_calls=[_OSLO]),
            cold,
            _say("Rome is warmer."),
            _user("And now?"),
            _say(None, tool_calls=[_call(3, "now")]),
            _answer(3, "now", "noon"),
            _say("Noon."),
            _user("Thanks"),
        ],
        TOOLS,
    )
    yield Conversation(
        "text before a call", [question, _say("Let me look.", tool_calls=[_ROME]), warm, _say("21."), question], TOOLS
    )
    for thinking in (True, False):
        switched, state = {"enable_thinking": thinking}, "on" if thinking else "off"
        yield Conversation(f"thinking {state}", [_SYSTEM, question, _say("Hm."), question], (), switched)
        yield Conversation(f"thinking {state}, no system message", [question], (), switched)
        yield Conversation(f"thinking {state}, with tools", [*called, warm, _say("21."), question], TOOLS, switched)
    thought = {"reasoning": "The user means Rome.\nI call the tool."}
    yield Conversation("thought before an answer", [question, _say("21.", reasoning="Easy."), _user("Why?")])
    yield Conversation(
        "thought before a call",
        [question, _say(None, **thought, tool_calls=[_ROME]), warm, _say("21.", reasoning="Warm."), _user("Why?")],
        TOOLS,
        {"enable_thinking": True},
    )


CONVERSATIONS: tuple[Conversation, ...] = tuple(_conversations())
