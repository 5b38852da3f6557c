"""Writes phone.jsonl, the suite of phone actions: `python -m edge_mtp.harness.ask.data.make_phone`.

Each template is a cluster of items that differ in their values. The tools beside those that are needed are drawn at
random from the others, from the item's id, so that the file is the same each time.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_mtp.formats.tool_calls import Value, canonical, check_tools
from edge_mtp.harness.ask.item import Item, Turn
from edge_mtp.harness.score.gold import Gold, GoldCall

FILE = Path(__file__).with_name("phone.jsonl")
WEDNESDAY = "Today is Wednesday, 2026-03-04. The time is 10:15."


# -- tools ----------------------------------------------------------------------------------------------------------


def _tool(name: str, description: str, /, *required: str, **properties: dict[str, Any]) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    return {"name": name, "description": description, "parameters": parameters}


def _string(description: str, *enum: str) -> dict[str, Any]:
    return {"type": "string", "description": description, **({"enum": list(enum)} if enum else {})}


def _integer(description: str, low: int, high: int) -> dict[str, Any]:
    return {"type": "integer", "description": description, "minimum": low, "maximum": high}


def _number(description: str) -> dict[str, Any]:
    return {"type": "number", "description": description}


def _boolean(description: str) -> dict[str, Any]:
    return {"type": "boolean", "description": description}


def _array(description: str, items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "description": description, "items": items}


_TIME = "Time of day on the 24-hour clock, as HH:MM"
_DATE = "Date as YYYY-MM-DD"
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_CURRENCIES = ("USD", "EUR", "GBP", "JPY", "CHF", "INR")
_LANGUAGES = ("de", "en", "es", "fr", "it", "ja", "ko", "pl", "pt", "sv", "tr", "zh")

TOOLS = {
    tool["function"]["name"]: tool
    for tool in check_tools(
        [
            _tool(
                "set_alarm", "Set an alarm on the phone", "time",
                time=_string(_TIME),
                days=_array("Days on which it repeats; leave out for once", _string("Day of the week", *_DAYS)),
                label=_string("Name of the alarm, if the user gives one"),
            ),
            _tool(
                "start_timer", "Start a countdown timer", "minutes",
                minutes=_integer("Length of the countdown in minutes", 1, 1440),
                label=_string("Name of the timer, if the user gives one"),
            ),
            _tool(
                "send_message", "Send a text message to somebody", "recipient", "text",
                recipient=_string("Name or phone number of who gets the message"),
                text=_string("The message, word for word"),
                app=_string("App to send it with; default sms", "sms", "whatsapp", "signal", "telegram"),
            ),
            _tool(
                "call_contact", "Call somebody on the phone", "contact",
                contact=_string("Name or phone number of who is called"),
                speaker=_boolean("Whether to put the call on the loudspeaker; default false"),
            ),
            _tool(
                "create_event", "Put an event into the calendar", "title", "date", "start",
                title=_string("What the event is called"),
                date=_string(_DATE),
                start=_string(_TIME),
                minutes=_integer("Length of the event in minutes; default 60", 5, 1440),
                attendees=_array("Names of who is invited", _string("Name of a person")),
                location=_string("Where the event takes place"),
            ),
            _tool(
                "list_events", "List the calendar's events of one day", "date",
                date=_string(_DATE),
            ),
            _tool(
                "navigate_to", "Start navigation to a place", "destination",
                destination=_string("Name or address of the place"),
                mode=_string("Means of travel; default driving", "driving", "walking", "cycling", "transit"),
                avoid=_array("What the route avoids", _string("Kind of road", "tolls", "highways", "ferries")),
            ),
            _tool(
                "find_place", "Find places nearby, with their addresses and opening hours", "query",
                query=_string("What kind of place, or its name"),
                open_now=_boolean("Whether to list only places that are open; default false"),
            ),
            _tool(
                "play_song", "Play a song", "title",
                title=_string("Title of the song"),
                artist=_string("Who performs it"),
            ),
            _tool(
                "set_volume", "Set how loud the phone is", "level", "stream",
                level=_integer("Loudness in percent", 0, 100),
                stream=_string("Which sound to set", "media", "ringer", "alarm", "call"),
            ),
            _tool(
                "set_brightness", "Set how bright the screen is", "level",
                level=_integer("Brightness in percent", 0, 100),
            ),
            _tool(
                "set_flashlight", "Turn the flashlight on or off", "on",
                on=_boolean("true turns it on"),
            ),
            _tool(
                "set_wifi", "Turn Wi-Fi on or off", "enabled",
                enabled=_boolean("true turns it on"),
            ),
            _tool(
                "set_bluetooth", "Turn Bluetooth on or off", "enabled",
                enabled=_boolean("true turns it on"),
            ),
            _tool(
                "set_do_not_disturb", "Silence calls and notifications, or let them through again", "enabled",
                enabled=_boolean("true silences them"),
                until=_string(_TIME + ", when it ends by itself"),
            ),
            _tool(
                "create_note", "Save a note", "text",
                text=_string("The note, word for word"),
                title=_string("Title of the note, if the user gives one"),
                pinned=_boolean("Whether to keep it at the top; default false"),
            ),
            _tool(
                "add_to_list", "Add entries to a list", "list", "entries",
                list=_string("Which list", "shopping", "todo", "packing"),
                entries=_array("What to add, in the order in which it was said", _string("One entry")),
            ),
            _tool(
                "create_reminder", "Remind the user of something", "text", "when",
                text=_string("What to remind of, without the date and time"),
                when={
                    "type": "object",
                    "description": "When to remind",
                    "properties": {"date": _string(_DATE), "time": _string(_TIME)},
                    "required": ["date", "time"],
                },
            ),
            _tool(
                "send_email", "Send an email", "to", "subject", "body",
                to=_array("Email addresses of who gets it", _string("An email address")),
                subject=_string("Subject line, word for word"),
                body=_string("Text of the email, word for word"),
                urgent=_boolean("Whether to mark it as urgent; default false"),
            ),
            _tool(
                "translate_text", "Translate a text", "text", "target",
                text=_string("The text to translate, word for word"),
                target=_string("Language to translate into, as a two-letter code", *_LANGUAGES),
            ),
            _tool(
                "get_weather", "Get the weather forecast of a place", "place",
                place=_string("Name of the city"),
                date=_string(_DATE + "; default today"),
                unit=_string("Unit of the temperatures; default celsius", "celsius", "fahrenheit"),
            ),
            _tool(
                "find_contact", "Look up the phone number and email address of a contact", "name",
                name=_string("Name of the contact"),
            ),
            _tool(
                "convert_currency", "Convert an amount of money", "amount", "source", "target",
                amount=_number("Amount to convert"),
                source=_string("Currency of the amount", *_CURRENCIES),
                target=_string("Currency to convert into", *_CURRENCIES),
            ),
            _tool(
                "set_thermostat", "Set the temperature of a room", "room", "celsius",
                room=_string("Which room", "bedroom", "living room", "kitchen", "office"),
                celsius=_number("Temperature in degrees Celsius"),
            ),
            _tool(
                "set_light", "Set a lamp at home", "room", "state",
                room=_string("Which room", "bedroom", "living room", "kitchen", "office"),
                state={
                    "type": "object",
                    "description": "What to set; leave out what stays as it is",
                    "properties": {
                        "on": _boolean("true turns it on"),
                        "percent": _integer("Brightness in percent", 1, 100),
                        "colour": _string("Colour of the light", "warm", "cold", "red", "green", "blue"),
                    },
                    "required": ["on"],
                },
            ),
            _tool(
                "take_photo", "Take a photo", "camera",
                camera=_string("Which camera", "front", "back"),
                delay_seconds=_integer("Seconds to wait before; default 0", 0, 30),
            ),
            _tool("get_battery", "Get the battery's charge in percent and whether it is charging"),
        ]
    )
}  # fmt: skip


# -- what is right --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Right:
    values: tuple[Value, ...]
    optional: bool = False


def one_of(*values: Value) -> _Right:
    different = {canonical(value): value for value in values}
    return _Right(tuple(different.values()))


def maybe(*values: Value) -> _Right:
    """An argument that nobody asked for and that may be given as what it is by default."""
    return _Right(values, optional=True)


def number(value: float) -> _Right:
    """21 and 21.0 are the same degrees."""
    return one_of(int(value), float(value)) if value == int(value) else one_of(value)


def said(text: str) -> _Right:
    """Words that may be written with or without the full stop that ends them."""
    if text.endswith(("?", "!")):
        return one_of(text)
    return one_of(text, text[:-1] if text.endswith(".") else text + ".")


def task(text: str) -> _Right:
    """What to remind of, which may be written like a sentence."""
    return one_of(*said(text).values, *said(text[:1].upper() + text[1:]).values)


def named(name: str) -> _Right:
    """A name that may be given without its article."""
    return one_of(name, name.removeprefix("the ").removeprefix("my "))


_DEFAULTS: dict[str, dict[str, Sequence[Value]]] = {
    "send_message": {"app": ["sms"]},
    "call_contact": {"speaker": [False]},
    "create_event": {"minutes": [60]},
    "navigate_to": {"mode": ["driving"]},
    "find_place": {"open_now": [False]},
    "create_note": {"pinned": [False]},
    "send_email": {"urgent": [False]},
    "get_weather": {"unit": ["celsius"]},
    "take_photo": {"delay_seconds": [0]},
}


def call(name: str, /, **arguments: Value | _Right) -> GoldCall:
    """A right call; an argument that has a default may say it."""
    defaults = {key: maybe(*values) for key, values in _DEFAULTS.get(name, {}).items()}
    right = {
        key: value if isinstance(value, _Right) else _Right((value,)) for key, value in (defaults | arguments).items()
    }
    optional = frozenset(key for key, value in right.items() if value.optional)
    return GoldCall(name, {key: value.values for key, value in right.items()}, optional)


# -- templates ------------------------------------------------------------------------------------------------------

Calls = Sequence[GoldCall]
Later = Sequence[tuple[Sequence[dict[str, Any]], "Calls | str"]]


@dataclass(frozen=True)
class Template:
    """`text` with the values of each row in its slots; `gold` makes of a row the right calls, or a right text.

    `later` makes the further turns: messages, and what is right then. `near`: tools that are easily taken for the
    right one and always there; `without`: tools that are not there; `among`: how many there are.
    """

    kind: str
    name: str
    text: str
    rows: Sequence[tuple[Any, ...]]
    gold: Callable[..., Calls | str]
    later: Callable[..., Later] = lambda *row: ()
    system: str | None = None
    near: Sequence[str] = ()
    without: Sequence[str] = ()
    among: int = 6
    needed: Sequence[str] = field(default=())

    def items(self) -> list[Item]:
        return [
            self._item(f"phone-{self.name.replace('/', '-')}-{number}", row) for number, row in enumerate(self.rows, 1)
        ]

    def _item(self, name: str, row: tuple[Any, ...]) -> Item:
        messages = [{"role": "system", "content": self.system}] if self.system else []
        messages.append({"role": "user", "content": self.text.format(*row)})
        turns = [Turn(tuple(messages), _gold(self.gold(*row)))]
        turns += [Turn(tuple(more), _gold(right)) for more, right in self.later(*row)]
        called = {each.name for turn in turns if turn.gold for each in turn.gold.calls}
        return Item(name, self.kind, f"phone/{self.name}", tuple(turns), self._tools(name, called))

    def _tools(self, name: str, called: set[str]) -> tuple[dict[str, Any], ...]:
        generator = random.Random(name)
        needed = sorted(called | set(self.near) | set(self.needed))
        others = [tool for tool in TOOLS if tool not in needed and tool not in self.without]
        chosen = needed + generator.sample(others, max(0, self.among - len(needed)))
        generator.shuffle(chosen)
        return tuple(TOOLS[tool] for tool in chosen)


def _gold(right: Calls | str) -> Gold:
    return Gold(text=right) if isinstance(right, str) else Gold(tuple(right))


def answers(tool: str, **content: Any) -> dict[str, Any]:
    """What a tool answers, as a message."""
    return {"role": "tool", "name": tool, "content": content}


def asks(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


SINGLE = [
    Template(
        "single",
        "alarm/wake",
        "Wake me at {0}.",
        [("6:40 am", "06:40"), ("5:05 in the morning", "05:05")],
        lambda _, t: [call("set_alarm", time=t)],
    ),
    Template(
        "single",
        "alarm/need",
        "I have to get up at {0} tomorrow, set an alarm please",
        [("7:30", "07:30"), ("4:50 am", "04:50")],
        lambda _, t: [call("set_alarm", time=t)],
    ),
    Template(
        "single", "timer/pasta", "Start a {0} minute timer", [(9,), (25,)], lambda n: [call("start_timer", minutes=n)]
    ),
    Template(
        "single",
        "timer/hour",
        "count down {0} for me",
        [("one hour", 60), ("two hours", 120)],
        lambda _, n: [call("start_timer", minutes=n)],
    ),
    Template(
        "single",
        "call/name",
        "Call {0}",
        [("Aunt Rosalind",), ("Dr. Okonkwo",)],
        lambda who: [call("call_contact", contact=who)],
    ),
    Template(
        "single",
        "call/speaker",
        "ring {0} and put it on speaker",
        [("Theo",), ("the vet",)],
        lambda who: [call("call_contact", contact=named(who), speaker=True)],
    ),
    Template(
        "single",
        "navigate/place",
        "Take me to {0}",
        [("Harbour Street 12",), ("the Botanical Garden",)],
        lambda to: [call("navigate_to", destination=named(to))],
    ),
    Template(
        "single",
        "song/by",
        "Play {0} by {1}",
        [("Paper Lanterns", "The Quiet Engines"), ("Northbound", "Lea Marsh")],
        lambda title, artist: [call("play_song", title=title, artist=artist)],
    ),
    Template(
        "single",
        "song/title",
        "put on the song {0}",
        [("Seven Rivers",), ("Late Train Home",)],
        lambda title: [call("play_song", title=title)],
    ),
    Template(
        "single",
        "flashlight",
        "{0}",
        [("Flashlight on!", True), ("You can switch the torch off again.", False)],
        lambda _, on: [call("set_flashlight", on=on)],
        near=["set_light"],
    ),
    Template(
        "single",
        "wifi",
        "Turn {0} the wifi",
        [("off", False), ("on", True)],
        lambda _, on: [call("set_wifi", enabled=on)],
        near=["set_bluetooth"],
    ),
    Template(
        "single",
        "weather/city",
        "What will the weather be like in {0}?",
        [("Lisbon",), ("Ulaanbaatar",)],
        lambda place: [call("get_weather", place=place)],
    ),
    Template(
        "single",
        "weather/date",
        "Will it rain in {0} on {1}? Today is 1 May 2026.",
        [("Bergen", "3 May", "2026-05-03"), ("Nairobi", "the 9th", "2026-05-09")],
        lambda place, _, date: [call("get_weather", place=place, date=date)],
    ),
    Template(
        "single",
        "contact",
        "What's {0} number?",
        [("Ines Calvo's", "Ines Calvo"), ("Mr. Abernathy's", "Mr. Abernathy")],
        lambda _, who: [call("find_contact", name=one_of(who, who.removeprefix("Mr. ")))],
    ),
    Template(
        "single",
        "battery",
        "{0}",
        [("How much battery do I have left?",), ("Is the phone still charging?",)],
        lambda _: [call("get_battery")],
    ),
    Template(
        "single",
        "events",
        "What's on my calendar on {0}?",
        [("17 June 2026", "2026-06-17"), ("October 2nd, 2026", "2026-10-02")],
        lambda _, date: [call("list_events", date=date)],
    ),
    Template(
        "single",
        "disturb",
        "No calls and no notifications until {0}, please.",
        [("3 pm", "15:00"), ("half past eight tonight", "20:30")],
        lambda _, t: [call("set_do_not_disturb", enabled=True, until=t)],
    ),
    Template(
        "single",
        "place",
        "Find me {0} that's open right now",
        [("a pharmacy", "pharmacy"), ("a bakery", "bakery")],
        lambda shown, what: [call("find_place", query=one_of(what, shown), open_now=True)],
    ),
]

PARALLEL = [
    Template(
        "parallel",
        "alarms/two",
        "Set alarms for {0} and {1}",
        [("6:00 am", "6:20 am", "06:00", "06:20"), ("7:45", "8:15 in the morning", "07:45", "08:15")],
        lambda _, __, a, b: [call("set_alarm", time=a), call("set_alarm", time=b)],
    ),
    Template(
        "parallel",
        "lists/two",
        "Put {0} on the shopping list and {1} on the packing list.",
        [("oat milk", "the charger", "charger"), ("batteries", "a raincoat", "raincoat")],
        lambda buy, shown, pack: [
            call("add_to_list", list="shopping", entries=[buy]),
            call("add_to_list", list="packing", entries=one_of([pack], [shown])),
        ],
    ),
    Template(
        "parallel",
        "messages/two",
        'Text {0} "{2}" and text {1} "{3}"',
        [("Noor", "Jakub", "I have the keys", "Door is open"), ("Mum", "Dad", "Landed!", "On my way to baggage claim")],
        lambda a, b, x, y: [call("send_message", recipient=a, text=x), call("send_message", recipient=b, text=y)],
    ),
    Template(
        "parallel",
        "weather/three",
        "Compare the weather in {0}, {1} and {2} for me",
        [("Oslo", "Rome", "Cairo"), ("Quito", "La Paz", "Lima")],
        lambda *places: [call("get_weather", place=place) for place in places],
    ),
    Template(
        "parallel",
        "wifi/bluetooth",
        "Turn {0} both wifi and bluetooth",
        [("off", False), ("on", True)],
        lambda _, on: [call("set_wifi", enabled=on), call("set_bluetooth", enabled=on)],
    ),
    Template(
        "parallel",
        "cinema",
        "I'm going into the cinema: brightness to {0} percent, and silence everything until {1}.",
        [(10, "22:15", "22:15"), (5, "11 pm", "23:00")],
        lambda level, _, t: [call("set_brightness", level=level), call("set_do_not_disturb", enabled=True, until=t)],
    ),
    Template(
        "parallel",
        "lamps/two",
        "Switch off the lamps in the {0} and the {1}.",
        [("kitchen", "office"), ("bedroom", "living room")],
        lambda a, b: [call("set_light", room=a, state={"on": False}), call("set_light", room=b, state={"on": False})],
    ),
    Template(
        "parallel",
        "timers/three",
        "Three timers please: {0}, {1} and {2} minutes",
        [(4, 7, 12), (10, 35, 90)],
        lambda *ns: [call("start_timer", minutes=n) for n in ns],
    ),
    Template(
        "parallel",
        "heat/two",
        "Set the {0} to {1} degrees and the {2} to {3}.",
        [("bedroom", 17.5, "kitchen", 20), ("office", 22, "living room", 21.5)],
        lambda a, x, b, y: [
            call("set_thermostat", room=a, celsius=number(x)),
            call("set_thermostat", room=b, celsius=number(y)),
        ],
    ),
    Template(
        "parallel",
        "morning",
        "Wake me at {0} and play {1} now while I pack.",
        [("5:55 am", "Slow Ferry", "05:55"), ("8:10 am", "Cardboard Kingdom", "08:10")],
        lambda _, song, t: [call("set_alarm", time=t), call("play_song", title=song)],
    ),
    Template(
        "parallel",
        "translate/two",
        'How do you say "{0}" in {1} and in {2}?',
        [
            ("Where is the platform?", "Japanese", "Korean", "ja", "ko"),
            ("The soup is cold.", "French", "Polish", "fr", "pl"),
        ],
        lambda text, _, __, a, b: [call("translate_text", text=said(text), target=t) for t in (a, b)],
    ),
]

CHOICE = [
    Template(
        "choice",
        "volume/not/brightness",
        "{0}",
        [("The music is too loud, make it 30 percent", 30), ("Turn the music up to 85 percent", 85)],
        lambda _, level: [call("set_volume", level=level, stream="media")],
        near=["set_brightness", "set_light", "play_song"],
        among=12,
    ),
    Template(
        "choice",
        "note/not/reminder",
        "Write this down for me: {0}",
        [("parking level 3, row F",), ("the blue paint is RAL 5014",)],
        lambda text: [call("create_note", text=said(text))],
        near=["create_reminder", "add_to_list", "create_event", "send_message"],
        among=14,
    ),
    Template(
        "choice",
        "list/not/note",
        "We're out of {0}, add it to the shopping list",
        [("olive oil",), ("washing powder",)],
        lambda what: [call("add_to_list", list="shopping", entries=[what])],
        near=["create_note", "create_reminder"],
        among=14,
    ),
    Template(
        "choice",
        "alarm/not/timer",
        "Let an alarm go off at {0}",
        [("16:45",), ("12:05",)],
        lambda t: [call("set_alarm", time=t)],
        near=["start_timer", "create_reminder", "create_event"],
        among=12,
    ),
    Template(
        "choice",
        "timer/not/alarm",
        "Tell me when {0} minutes are over",
        [(11,), (50,)],
        lambda n: [call("start_timer", minutes=n)],
        near=["set_alarm", "create_reminder", "create_event"],
        among=12,
    ),
    Template(
        "choice",
        "lamp/not/torch",
        "Turn on the lamp in the {0}",
        [("office",), ("bedroom",)],
        lambda room: [call("set_light", room=room, state={"on": True})],
        near=["set_flashlight", "set_brightness", "set_thermostat"],
        among=15,
    ),
    Template(
        "choice",
        "torch/not/lamp",
        "I can't see anything down here, I need the phone's {0} on",
        [("flashlight",), ("torch",)],
        lambda _: [call("set_flashlight", on=True)],
        near=["set_light", "set_brightness", "take_photo"],
        among=15,
    ),
    Template(
        "choice",
        "email/not/message",
        'Email {0} with the subject "{1}" and the text "{2}"',
        [
            ("kim@larch.example", "Keys", "They are under the mat."),
            ("desk@ovalhall.example", "Badge 311", "Please block it today."),
        ],
        lambda to, subject, body: [call("send_email", to=[to], subject=subject, body=said(body))],
        near=["send_message", "create_note", "find_contact"],
        among=14,
    ),
    Template(
        "choice",
        "find/not/navigate",
        "Is there {0} around here?",
        [("a bike shop", "bike shop"), ("an ATM", "ATM")],
        lambda shown, what: [call("find_place", query=one_of(what, shown))],
        near=["navigate_to", "find_contact", "get_weather"],
        among=15,
    ),
    Template(
        "choice",
        "walk/not/find",
        "Guide me on foot to {0}",
        [("Mill Lane 8",), ("the north gate of the fairground",)],
        lambda to: [call("navigate_to", destination=named(to), mode="walking")],
        near=["find_place", "find_contact"],
        among=15,
    ),
    Template(
        "choice",
        "lookup/not/call",
        "Which email address do I have for {0}?",
        [("Priya Raman",), ("Lars Holm",)],
        lambda who: [call("find_contact", name=who)],
        near=["send_email", "call_contact", "send_message"],
        among=20,
    ),
    Template(
        "choice",
        "agenda/not/event",
        "Am I free on {0}? Have a look at the calendar.",
        [("2026-08-21",), ("2026-12-01",)],
        lambda date: [call("list_events", date=date)],
        near=["create_event", "create_reminder"],
        among=20,
    ),
]

ENUM = [
    Template(
        "enum",
        "travel",
        "Start navigation to {0} {1}.",
        [("Cedar Hill Station", "by bike", "cycling"), ("the airport", "by public transport", "transit")],
        lambda to, _, mode: [call("navigate_to", destination=named(to), mode=mode)],
    ),
    Template(
        "enum",
        "avoid",
        "Drive me to {0}, but {1}",
        [
            ("Port Ansel", "no ferries", ["ferries"]),
            ("Grand Lake", "stay off highways and toll roads", ["highways", "tolls"]),
        ],
        lambda to, _, avoid: [call("navigate_to", destination=to, avoid=one_of(avoid, avoid[::-1]))],
    ),
    Template(
        "enum",
        "stream",
        "Set the {0} volume to {1} percent",
        [("ringtone", 55, "ringer"), ("alarm", 90, "alarm"), ("in-call", 70, "call")],
        lambda _, level, stream: [call("set_volume", level=level, stream=stream)],
    ),
    Template(
        "enum",
        "app",
        'Tell {0} on {1}: "{2}"',
        [
            ("Bea", "WhatsApp", "Match starts at nine", "whatsapp"),
            ("Ravi", "Signal", "Bring the adapter", "signal"),
            ("Luz", "Telegram", "Photos are up", "telegram"),
        ],
        lambda who, _, text, app: [call("send_message", recipient=who, text=said(text), app=app)],
    ),
    Template(
        "enum",
        "unit",
        "Forecast for {0} in {1}, please",
        [("Denver", "Fahrenheit", "fahrenheit"), ("Winnipeg", "degrees Celsius", "celsius")],
        lambda place, _, unit: [call("get_weather", place=place, unit=unit if unit == "fahrenheit" else maybe(unit))],
    ),
    Template(
        "enum",
        "camera",
        "{0}",
        [("Take a selfie", "front"), ("Take a picture with the main camera on the back", "back")],
        lambda _, camera: [call("take_photo", camera=camera)],
    ),
    Template(
        "enum",
        "language",
        'Translate "{0}" into {1}',
        [
            ("Thank you for waiting", "German", "de"),
            ("Two tickets, please", "Swedish", "sv"),
            ("I am lost", "Turkish", "tr"),
        ],
        lambda text, _, target: [call("translate_text", text=said(text), target=target)],
    ),
    Template(
        "enum",
        "colour",
        "Make the {0} light {1}",
        [("living room", "red", "red"), ("kitchen", "a cold white", "cold")],
        lambda room, _, colour: [call("set_light", room=room, state={"on": True, "colour": colour})],
    ),
    Template(
        "enum",
        "days",
        "An alarm at {0} {1}, please.",
        [
            ("6:15", "from Monday to Friday", "06:15", ["mon", "tue", "wed", "thu", "fri"]),
            ("9:30", "every Saturday and Sunday", "09:30", ["sat", "sun"]),
        ],
        lambda _, __, t, days: [call("set_alarm", time=t, days=days)],
    ),
]

NUMBERS = [
    Template(
        "numbers",
        "currency/decimal",
        "How much is {0} {1} in {2}?",
        [
            ("1,249.90", "euros", "Swiss francs", 1249.9, "EUR", "CHF"),
            ("73.05", "US dollars", "yen", 73.05, "USD", "JPY"),
        ],
        lambda _, __, ___, x, a, b: [call("convert_currency", amount=number(x), source=a, target=b)],
    ),
    Template(
        "numbers",
        "currency/large",
        "Convert {0} {1} to {2}",
        [("48500", "rupees", "pounds", 48500, "INR", "GBP"), ("1000000", "yen", "euros", 1000000, "JPY", "EUR")],
        lambda _, __, ___, x, a, b: [call("convert_currency", amount=number(x), source=a, target=b)],
    ),
    Template(
        "numbers",
        "degrees",
        "Heat the {0} to {1} degrees",
        [("office", 19.5), ("bedroom", 16), ("kitchen", 20.25)],
        lambda room, x: [call("set_thermostat", room=room, celsius=number(x))],
    ),
    Template(
        "numbers",
        "phone",
        "Call {0}",
        [("+44 20 7946 0018",), ("0171 39 200 71",)],
        lambda n: [call("call_contact", contact=one_of(n, n.replace(" ", "")))],
    ),
    Template(
        "numbers",
        "phone/text",
        'Send "{1}" to {0}',
        [("555-0142-7798", "Running late"), ("+1 202 555 0175", "Here is my new number")],
        lambda n, text: [
            call("send_message", recipient=one_of(n, n.replace(" ", "").replace("-", "")), text=said(text))
        ],
    ),
    Template(
        "numbers",
        "event/date",
        "Add {0} on {1} at {2} to my calendar",
        [
            ("Dentist", "the 23rd of April 2026", "2:30 pm", "2026-04-23", "14:30"),
            ("Boiler inspection", "11/30/2026 (month first)", "8 am", "2026-11-30", "08:00"),
        ],
        lambda title, _, __, date, t: [call("create_event", title=title, date=date, start=t)],
    ),
    Template(
        "numbers",
        "event/length",
        "Calendar entry: {0}, 5 September 2026, {1} to {2}.",
        [("Rehearsal", "18:00", "19:30", "18:00", 90), ("Site visit", "09:15", "12:00", "09:15", 165)],
        lambda title, _, __, t, n: [call("create_event", title=title, date="2026-09-05", start=t, minutes=n)],
    ),
    Template(
        "numbers",
        "relative",
        "Remind me {0} at {1} to {2}",
        [
            ("tomorrow", "9", "water the tomatoes", "2026-03-05", "09:00"),
            ("on Friday", "half past four in the afternoon", "return the library books", "2026-03-06", "16:30"),
        ],
        lambda _, __, what, date, t: [call("create_reminder", text=task(what), when={"date": date, "time": t})],
        system=WEDNESDAY,
    ),
    Template(
        "numbers",
        "month/end",
        "Remind me of {0} on the last day of this month at noon.",
        [("the rent",), ("the meter reading",)],
        lambda what: [
            call(
                "create_reminder",
                text=one_of(*task(what).values, *task(what.removeprefix("the ")).values),
                when={"date": "2026-03-31", "time": "12:00"},
            )
        ],
        system=WEDNESDAY,
    ),
    Template(
        "numbers",
        "percent",
        "Dim the lamp in the {0} to {1} percent",
        [("living room", 35), ("bedroom", 8)],
        lambda room, n: [call("set_light", room=room, state={"on": True, "percent": n})],
    ),
    Template(
        "numbers",
        "words",
        "Set the screen brightness to {0} percent",
        [("forty-two", 42), ("seventy-five", 75)],
        lambda _, n: [call("set_brightness", level=n)],
    ),
    Template(
        "numbers",
        "delay",
        "Take a group photo with the back camera in {0} seconds",
        [(10,), (25,)],
        lambda n: [call("take_photo", camera="back", delay_seconds=n)],
    ),
]

STRINGS = [
    Template(
        "strings",
        "quotes",
        "Save this as a note: {0}",
        [('She said "not before Tuesday" and hung up',), ("The sign reads \"Don't feed the 'wild' ducks\"",)],
        lambda text: [call("create_note", text=said(text))],
    ),
    Template(
        "strings",
        "accents",
        'Message {0}: "{1}"',
        [
            ("Søren", "Ærlig talt, jeg er på café Österlen"),
            ("Zoë", "J\u2019ai trouvé la clé à l\u2019entrée"),
            ("Łucja", "Zażółć gęślą jaźń, proszę"),
        ],
        lambda who, text: [call("send_message", recipient=who, text=said(text))],
    ),
    Template(
        "strings",
        "scripts",
        'Translate "{0}" to English',
        [("電車は何時に出ますか",), ("Где находится библиотека",), ("शुभ रात्रि",), ("كم الثمن",)],
        lambda text: [call("translate_text", text=text, target="en")],
    ),
    Template(
        "strings",
        "emoji",
        'Write {0} "{1}"',
        [("Oma", "🎂 Happy birthday!! 🥳👩‍🚀"), ("the team", "Shipped ✅ — see you Monday 🚀")],
        lambda who, text: [call("send_message", recipient=named(who), text=text)],
    ),
    Template(
        "strings",
        "braces",
        "Take a note, exactly as I type it: {0}",
        [("if (x > 3) { return [a, b]; }",), ('call:reset{mode:"full",n:3}',)],
        lambda text: [call("create_note", text=text)],
    ),
    Template(
        "strings",
        "path",
        "Note the path {0} for me",
        [(r"C:\Users\mira\Documents\tax_2025.pdf",), ("/var/log/app/2026-02-11.log",)],
        lambda text: [call("create_note", text=said(text))],
    ),
    Template(
        "strings",
        "url",
        'Email {0}, subject "{1}", body "{2}"',
        [
            ("tom@fern.example", "Link", "https://maps.example/r?id=7Fq2&lang=en#stop-4"),
            ("ana.b@quarry.example", "Wi-Fi", "Network: attic_5G / password: 9x!Tm#qL2"),
        ],
        lambda to, subject, body: [call("send_email", to=[to], subject=subject, body=body)],
    ),
    Template(
        "strings",
        "code",
        "Save the booking code {0} as a note titled {1}",
        [("QX7-00O8-1Il", "Hotel"), ("b3E9f-ZZ410", "Ferry")],
        lambda code, title: [
            call("create_note", text=one_of(code, f"Booking code {code}", f"booking code {code}"), title=title)
        ],
    ),
    Template(
        "strings",
        "comma",
        "Add these to my todo list: {0}; {1}; {2}",
        [
            ("call the bank, again", "fix hinge (left)", "pay invoice #2207"),
            ("read chapters 4-6", "mail form B/12", "oil the bike's chain"),
        ],
        lambda *entries: [call("add_to_list", list="todo", entries=list(entries))],
    ),
    Template(
        "strings",
        "names",
        "Play {0} by {1}",
        [("99 Lamps (Live)", "Sigrún & the Tide"), ("What's Left?", "D'Arcy O'Neill"), ("C/D/E", "+plus+")],
        lambda title, artist: [call("play_song", title=title, artist=artist)],
    ),
]

_LETTER = (
    "Dear Ms. Whitcombe, thank you for the offer of 12 February. We would like to take the larger of the two rooms, "
    "on the condition that the heating is repaired before we move in on 1 April. The deposit of 1,850 euros will "
    "reach your account by the 20th. Could you tell us whether bicycles may stand in the hall? Kind regards, Emil and "
    "Farah"
)
_COMPLAINT = (
    "The dishwasher that was delivered on Monday leaks at the lower left corner of the door as soon as the pump "
    "starts, after about four minutes. I have levelled it twice and checked the hose. The serial number is "
    "DW-4471-X-20093. Please send a technician on a weekday after five, or collect it and refund the 489.00 that I "
    "paid."
)
_STORY = (
    "When the lighthouse was automated, nobody told the cat. Every evening she climbed the hundred and forty steps, "
    "sat down beside the lamp that needed no one any more, and watched the boats come home one by one until the last "
    "of them was in."
)
_RECIPE = (
    "Soak 250 g of white beans overnight. Fry two onions and a carrot in four spoons of oil, add the beans, a bay "
    "leaf and 1.5 l of water, and let it simmer for 90 minutes without a lid. Salt at the end, not before, or the "
    "skins stay hard. Serve with lemon and a lot of dill."
)
_ROUTE = (
    "Leave the tram at Kiln Road, walk past the red fence and take the second gate, not the first, which is locked "
    "after six. The bell says Marchetti. If nobody opens, call 555 0193 and ask for Guillermo; he keeps the spare key "
    "in the workshop behind the house."
)
_MINUTES = (
    "Budget: approved with the change that travel is capped at 6,400. Roof: two offers are in, the third is due on "
    "the 18th, decision in April. Garden: Hanna will order the gravel. Next meeting on 14 April at 19:00, in the "
    "small hall because the large one is being painted."
)

LONG = [
    Template(
        "long_string",
        "email/letter",
        'Send an email to {0} with the subject "{1}" and exactly this text:\n\n{2}',
        [
            ("rooms@whitcombe.example", "The room", _LETTER),
            ("service@brightwash.example", "Leaking DW-4471", _COMPLAINT),
            ("committee@gardens.example", "Minutes of 3 March", _MINUTES),
        ],
        lambda to, subject, body: [call("send_email", to=[to], subject=subject, body=said(body))],
    ),
    Template(
        "long_string",
        "note/long",
        "Keep this as a note called {0}, word for word:\n{1}",
        [("Bean soup", _RECIPE), ("Way to the workshop", _ROUTE), ("The lighthouse", _STORY)],
        lambda title, text: [call("create_note", title=title, text=said(text))],
    ),
    Template(
        "long_string",
        "message/long",
        "Please forward this to {0} as a text message: {1}",
        [("Guillermo", _ROUTE), ("Hanna", _MINUTES), ("my brother", _RECIPE)],
        lambda who, text: [call("send_message", recipient=named(who), text=said(text))],
    ),
    Template(
        "long_string",
        "translate/long",
        "I need this in {0}:\n\n{1}",
        [("Italian", _RECIPE, "it"), ("Spanish", _LETTER, "es"), ("Portuguese", _STORY, "pt")],
        lambda _, text, target: [call("translate_text", text=said(text), target=target)],
    ),
    Template(
        "long_string",
        "list/long",
        "Put all of this on the {0} list: {1}.",
        [
            (
                "packing",
                "two towels, the small tent, the gas stove, four tent pegs, sun cream, the first-aid kit, "
                "a head torch, the water filter, spare socks",
            ),
            (
                "shopping",
                "rye flour, 2 l of buttermilk, fennel seeds, a lemon, unsalted butter, brown lentils, smoked paprika, "
                "sea salt, yeast",
            ),
            (
                "todo",
                "cancel the magazine, book the chimney sweep, renew the passport, clean the gutters, answer Beatrix, "
                "order heating oil, file the receipts",
            ),
        ],
        lambda name, entries: [call("add_to_list", list=name, entries=entries.split(", "))],
    ),
]

NO_CALL = [
    Template(
        "no_call",
        "chat/hello",
        "{0}",
        [("Hi there, how are you?",), ("Good morning!",), ("Thanks, that was really helpful.",)],
        lambda _: "You're welcome! What can I do for you?",
    ),
    Template(
        "no_call",
        "chat/fact",
        "{0}",
        [
            ("Why is the sky blue?",),
            ("What is the difference between a violin and a viola?",),
            ("How many legs does a spider have?",),
        ],
        lambda _: "Let me explain.",
    ),
    Template(
        "no_call",
        "chat/write",
        "{0}",
        [("Write me a four-line poem about rain on a tin roof.",), ("Give me three names for a grey cat.",)],
        lambda _: "Here you are.",
    ),
    Template(
        "no_call",
        "chat/about",
        "{0}",
        [
            ("What is an alarm clock, and who invented it?",),
            ("Is it healthy to sleep with the flashlight on?",),
            ("Do emails harm the environment?",),
        ],
        lambda _: "That is a good question.",
        near=["set_alarm", "set_flashlight", "send_email"],
    ),
    Template(
        "no_call",
        "missing/taxi",
        "{0}",
        [("Order me a taxi to the opera for 7 pm.",), ("Get me a cab home.",)],
        lambda _: "I cannot order a taxi: I have no tool for that.",
        without=["navigate_to", "call_contact", "find_place", "send_message"],
    ),
    Template(
        "no_call",
        "missing/pay",
        "Transfer {0} to {1} from my account",
        [("40 euros", "Nils"), ("250 dollars", "the landlord")],
        lambda *_: "I cannot transfer money: I have no tool for that.",
        without=["convert_currency"],
    ),
    Template(
        "no_call",
        "missing/photo",
        "{0}",
        [("Delete the last three photos from my gallery.",), ("Crop yesterday's photo to a square.",)],
        lambda _: "I cannot change your photos: I have no tool for that.",
        without=["take_photo"],
    ),
    Template(
        "no_call",
        "missing/song",
        "Play {0}",
        [("Paper Lanterns by The Quiet Engines",), ("some jazz",)],
        lambda _: "I cannot play music: I have no tool for that.",
        without=["play_song", "set_volume"],
    ),
    Template(
        "no_call",
        "missing/alarm",
        "Set an alarm for {0}",
        [("6:40 am",), ("noon",)],
        lambda _: "I cannot set an alarm: I have no tool for that.",
        without=["set_alarm", "start_timer", "create_reminder", "create_event"],
    ),
    Template(
        "no_call",
        "missing/plane",
        "{0}",
        [("Book the cheapest flight to Porto on 3 June.",), ("Reserve a table for four at Luigi's at eight.",)],
        lambda _: "I cannot book that: I have no tool for it.",
        without=["create_event", "call_contact", "find_place", "create_reminder"],
    ),
]

ASK_BACK = [
    Template(
        "ask_back",
        "alarm/when",
        "{0}",
        [("Set an alarm for me.",), ("I need an alarm tomorrow morning",)],
        lambda _: "For what time?",
        needed=["set_alarm"],
    ),
    Template(
        "ask_back",
        "timer/long",
        "{0}",
        [("Start a timer please",), ("Can you set a timer for the eggs?",)],
        lambda _: "For how many minutes?",
        needed=["start_timer"],
    ),
    Template(
        "ask_back",
        "message/text",
        "Send a message to {0}",
        [("Carla",), ("my boss",)],
        lambda _: "What should it say?",
        needed=["send_message"],
        without=["find_contact"],
    ),
    Template(
        "ask_back",
        "message/who",
        'Text them "{0}"',
        [("We are downstairs",), ("Can you bring bread?",)],
        lambda _: "Whom should I text?",
        needed=["send_message"],
    ),
    Template(
        "ask_back",
        "call/who",
        "{0}",
        [("Make a phone call.",), ("I want to call somebody.",)],
        lambda _: "Whom should I call?",
        needed=["call_contact"],
    ),
    Template(
        "ask_back",
        "navigate/where",
        "{0}",
        [("Start the navigation",), ("Show me the way, I'm driving",)],
        lambda _: "Where do you want to go?",
        needed=["navigate_to"],
        without=["find_place"],
    ),
    Template(
        "ask_back",
        "event/day",
        "Put {0} into my calendar at {1}",
        [("the parents' evening", "7 pm"), ("lunch with Odette", "12:30")],
        lambda *_: "On which day?",
        needed=["create_event"],
    ),
    Template(
        "ask_back",
        "email/what",
        "Send an email to {0}",
        [("leo@spruce.example",), ("info@tramline.example",)],
        lambda _: "What should the subject and the text be?",
        needed=["send_email"],
    ),
    Template(
        "ask_back",
        "currency/target",
        "Convert {0} for me",
        [("300 euros",), ("95.50 dollars",)],
        lambda _: "Into which currency?",
        needed=["convert_currency"],
    ),
    Template(
        "ask_back",
        "heat/how",
        "Change the temperature in the {0}",
        [("kitchen",), ("bedroom",)],
        lambda _: "To how many degrees?",
        needed=["set_thermostat"],
    ),
]

MULTI_TURN = [
    Template(
        "multi_turn",
        "contact/message",
        'Find {0}\'s number and text "{1}" to it',
        [
            ("Odile Brandt", "The parcel is here", "+49 151 5550 8134"),
            ("Kenji", "Practice moved to 6", "090-5550-2217"),
        ],
        lambda who, text, n: [call("find_contact", name=who)],
        lambda who, text, n: [
            (
                [answers("find_contact", name=who, phone=n, email=None)],
                [call("send_message", recipient=one_of(n, n.replace(" ", "").replace("-", "")), text=said(text))],
            ),
            ([answers("send_message", sent=True)], f"I have texted {who}."),
        ],
        near=["call_contact"],
    ),
    Template(
        "multi_turn",
        "contact/email",
        'Look up {0}\'s email address, then email "{1}" with the subject "{2}"',
        [
            ("Prof. Adeyemi", "The draft is in the shared folder.", "Draft", "t.adeyemi@lyceum.example"),
            ("Milou", "Can we meet an hour later?", "Saturday", "milou.k@pond.example"),
        ],
        lambda who, *_: [call("find_contact", name=one_of(who, who.removeprefix("Prof. ")))],
        lambda who, body, subject, to: [
            (
                [answers("find_contact", name=who, phone=None, email=to)],
                [call("send_email", to=[to], subject=subject, body=said(body))],
            )
        ],
    ),
    Template(
        "multi_turn",
        "place/navigate",
        "Find {0} nearby and take me to the closest one.",
        [
            ("a petrol station", "petrol station", "Fuel Stop, Ring Road 88", "Station North, Canal Street 5"),
            ("a hospital", "hospital", "St. Alba Hospital, Park Avenue 140", "City Clinic, Old Bridge 2"),
        ],
        lambda shown, what, *_: [call("find_place", query=one_of(what, shown))],
        lambda shown, what, near, far: [
            (
                [
                    answers(
                        "find_place",
                        places=[
                            {"name": far.split(", ")[0], "address": far.split(", ")[1], "metres": 2400},
                            {"name": near.split(", ")[0], "address": near.split(", ")[1], "metres": 650},
                        ],
                    )
                ],
                [call("navigate_to", destination=one_of(near.split(", ")[1], near.split(", ")[0], near))],
            )
        ],
    ),
    Template(
        "multi_turn",
        "weather/remind",
        "Check tomorrow's weather in {0}. If it rains, remind me tomorrow at 7:30 to take an umbrella.",
        [("Cork",), ("Seattle",)],
        lambda place: [call("get_weather", place=place, date="2026-03-05")],
        lambda place: [
            (
                [answers("get_weather", place=place, date="2026-03-05", sky="rain", high=11, low=6)],
                [call("create_reminder", text=task("take an umbrella"), when={"date": "2026-03-05", "time": "07:30"})],
            )
        ],
        system=WEDNESDAY,
    ),
    Template(
        "multi_turn",
        "weather/dry",
        "Check tomorrow's weather in {0}. Only if it rains, remind me tomorrow at 7:30 to take an umbrella.",
        [("Seville",), ("Tucson",)],
        lambda place: [call("get_weather", place=place, date="2026-03-05")],
        lambda place: [
            (
                [answers("get_weather", place=place, date="2026-03-05", sky="sunny", high=24, low=12)],
                "It stays dry, so I have set no reminder.",
            )
        ],
        system=WEDNESDAY,
        needed=["create_reminder"],
    ),
    Template(
        "multi_turn",
        "currency/note",
        "How much is {0} {1} in {2}? Save the amount as a note titled {3}.",
        [
            (350, "US dollars", "euros", "Camera", "USD", "EUR", 322.47),
            (80, "pounds", "francs", "Boots", "GBP", "CHF", 91.16),
        ],
        lambda x, _, __, ___, a, b, y: [call("convert_currency", amount=number(x), source=a, target=b)],
        lambda x, _, shown, title, a, b, y: [
            (
                [answers("convert_currency", amount=y, currency=b)],
                [
                    call(
                        "create_note",
                        title=title,
                        text=one_of(*(f"{y}{tail}" for tail in ("", f" {b}", f" {shown}", ".")), f"{b} {y}"),
                    )
                ],
            )
        ],
    ),
    Template(
        "multi_turn",
        "events/tell",
        "Look up what my first appointment on {0} is called and text {1} just that name.",
        [
            ("2026-05-11", "Dr. Vance", "Knee check-up", "Choir"),
            ("2026-07-02", "Bell", "Sprint training", "Piano tuner"),
        ],
        lambda date, *_: [call("list_events", date=date)],
        lambda date, who, first, second: [
            (
                [
                    answers(
                        "list_events",
                        date=date,
                        events=[
                            {"title": second, "start": "17:15", "minutes": 90},
                            {"title": first, "start": "08:30", "minutes": 45},
                        ],
                    )
                ],
                [call("send_message", recipient=who, text=said(first))],
            )
        ],
    ),
    Template(
        "multi_turn",
        "battery/dim",
        "If the battery is below 20 percent, set the brightness to {0} and turn Bluetooth off.",
        [(15,), (25,)],
        lambda level: [call("get_battery")],
        lambda level: [
            (
                [answers("get_battery", percent=13, charging=False)],
                [call("set_brightness", level=level), call("set_bluetooth", enabled=False)],
            )
        ],
    ),
    Template(
        "multi_turn",
        "correct",
        "Set a timer for {0} minutes",
        [(15, 20), (45, 54)],
        lambda n, m: [call("start_timer", minutes=n)],
        lambda n, m: [
            ([answers("start_timer", started=True, minutes=n)], f"Your timer runs for {n} minutes."),
            (
                [asks(f"Sorry, I meant another one, of {m} minutes, called eggs")],
                [call("start_timer", minutes=m, label=one_of("eggs", "Eggs"))],
            ),
        ],
    ),
    Template(
        "multi_turn",
        "ask/then",
        "Send {0} an SMS",
        [("Petra", "The bus is late again"), ("Ousmane", "Which floor is it?")],
        lambda who, _: "What should it say?",
        lambda who, text: [([asks(text)], [call("send_message", recipient=who, text=said(text))])],
        needed=["send_message"],
        without=["find_contact"],
    ),
    Template(
        "multi_turn",
        "error/retry",
        "Play {0}",
        [("Glass Orchard", "Glass Orchid"), ("Blue Monsoon", "Blue Monsoons")],
        lambda title, _: [call("play_song", title=title)],
        lambda title, right: [
            (
                [answers("play_song", error=f"no song called {title!r}", similar=[right])],
                f"I found no {title}. Did you mean {right}?",
            ),
            ([asks("Yes, play that one")], [call("play_song", title=right)]),
        ],
    ),
]

TEMPLATES = [
    *SINGLE,
    *PARALLEL,
    *CHOICE,
    *ENUM,
    *NUMBERS,
    *STRINGS,
    *LONG,
    *NO_CALL,
    *ASK_BACK,
    *MULTI_TURN,
]


def items() -> list[Item]:
    """The suite, the same each time."""
    return [item for template in TEMPLATES for item in template.items()]


def text(items: Sequence[Item]) -> str:
    """The file's text."""
    return "".join(json.dumps(item.to_json(), ensure_ascii=False) + "\n" for item in items)


if __name__ == "__main__":
    FILE.write_text(text(items()), "utf-8")
