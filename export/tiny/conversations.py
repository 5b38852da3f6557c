"""Generated tool-call conversations about phone actions, with gold replies.

Every conversation is a pure function of (split, index, seed). A rule instead of a list keeps the words that make a
split hard out of the others: a word is held out if its CRC-32 is 0 modulo 8. Made-up words follow the rule too, so the
splits are disjoint by construction.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from edge_mtp.export.tiny import actions as vocabulary
from edge_mtp.export.tiny.actions import ACTIONS, SLOTS, UNUSED, Slot, words

SPLITS: dict[str, int] = {"iid": 1600, "new_templates": 400, "new_values": 400, "new_names": 400}
KINDS: dict[str, float] = {
    "single": 0.46,
    "parallel": 0.17,
    "no_call": 0.11,
    "ask_back": 0.10,
    "follow_up": 0.06,
    "chat": 0.05,
    "repeat": 0.05,
}
CALL_KINDS = ("single", "parallel")
CLOSED_SLOTS = frozenset({"on", "day"})  # slots whose values cannot be new

_ONSETS = words("b c d f g h j k l m n p r s t v w z br dr fr gr kl pl pr sk sl st tr")
_VOWELS = words("a e i o u") * 3 + words("ai ea io ou")
_CODAS = ("",) * 6 + words("b d f g k l m n p r s t x nd rk st")


def held_out(word: str) -> bool:
    """Whether a word (or a number, as text) is kept out of the training conversations."""
    return zlib.crc32(word.lower().encode()) % 8 == 0


@dataclass
class Conversation:
    """One item. `messages` and `tools` make the prompt; `gold` is either `{"calls": [...]}` or `{"text": ...}`."""

    id: str
    kind: str
    template: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    gold: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass
class Dressed:
    """An action dressed as a tool: the declaration, and how its slots map to the declared parameters."""

    key: str
    tool: dict[str, Any]
    parameter: dict[str, str]  # concept -> parameter name


@dataclass
class Draw:
    """The random choices of one conversation, and the kinds of words that they are drawn from."""

    rng: random.Random
    new_templates: bool = False
    new_values: bool = False
    new_names: bool = False
    taken: set[str] = field(default_factory=set)

    def chance(self, p: float) -> bool:
        return self.rng.random() < p

    def word(self, words: Sequence[str], new: bool | None = None) -> str:
        wanted = self.new_values if new is None else new
        return self._until(lambda: self.rng.choice(words), wanted)

    def pseudo_word(self, new: bool | None = None) -> str:
        wanted = self.new_values if new is None else new
        return self._until(self._syllables, wanted)

    def _until(self, draw: Callable[[], str], wanted: bool) -> str:
        while True:
            word = draw()
            if held_out(word) == wanted:
                return word

    def _syllables(self) -> str:
        r = self.rng
        count = r.choices((1, 2, 3), (4, 5, 0.3))[0]
        return "".join(r.choice(_ONSETS) + r.choice(_VOWELS) for _ in range(count)) + r.choice(_CODAS)

    def number(self, low: int, high: int) -> int:
        return int(self._until(lambda: str(self.rng.randint(low, high)), self.new_values))

    # -- names ------------------------------------------------------------------------------------------------------

    def identifier(self, natural: Sequence[str], p_natural: float, new: bool = False, widest: int = 3) -> str:
        """A name not yet used in this conversation: one of the natural ones, or words in a common case style."""
        while True:
            if not new and self.chance(p_natural):
                name = self.rng.choice(natural)
            else:
                real = self.rng.choice((vocabulary.NOUNS, vocabulary.VERBS, vocabulary.ADJECTIVES))
                count = self.rng.choices(range(1, widest + 1), (4, 5, 0.5)[:widest])[0]
                pseudo = self.chance(0.6)
                words = [self.pseudo_word(new) if pseudo else self.word(real, new) for _ in range(count)]
                name = self._cased(words)
            if name not in self.taken:
                self.taken.add(name)
                return name

    def _cased(self, words: list[str]) -> str:
        style = self.rng.choices(("snake", "camel", "pascal"), (6, 3, 1))[0]
        if style == "snake":
            return "_".join(words)
        capitalized = [w.capitalize() for w in words]
        return "".join(capitalized if style == "pascal" else [words[0], *capitalized[1:]])

    # -- values -----------------------------------------------------------------------------------------------------

    def value(self, slot: str) -> tuple[str, Any]:
        """A value for a slot: (the user's words, the argument in the call)."""
        r = self.rng
        if slot == "time":
            return self._time()
        if slot == "on":
            on = self.chance(0.5)
            return ("on" if on else "off"), on
        if slot in ("minutes", "level", "degrees", "amount"):
            n = self.number(*{"minutes": (1, 90), "level": (0, 100), "degrees": (5, 39), "amount": (1, 300)}[slot])
            return str(n), n
        if slot == "day":
            text = r.choice(vocabulary.DAYS)
        elif slot == "language":
            text = self.word(vocabulary.LANGUAGES)
        elif slot in ("contact", "place", "app"):
            words = {"contact": vocabulary.FIRST_NAMES, "place": vocabulary.PLACES, "app": vocabulary.APPS}[slot]
            text = self.pseudo_word().capitalize() if self.chance(0.5) else self.word(words)
            if slot == "place" and self.chance(0.2):
                text += " Street"
        else:
            text = self._text(slot)
        return text, text

    def _time(self) -> tuple[str, str]:
        def draw() -> str:
            return f"{self.rng.randint(0, 23):02}:{self.rng.choice((0, self.rng.randint(0, 59))):02}"

        value = self._until(draw, self.new_values)
        hour, minute = int(value[:2]), int(value[3:])
        form = self.rng.choices(("24", "padded", "12"), (6, 2, 3))[0]
        if form == "24" or (form == "12" and hour % 12 == 0):
            return f"{hour}:{minute:02}", value
        if form == "padded":
            return value, value
        half = "am" if hour < 12 else "pm"
        spoken = f"{hour % 12}" if minute == 0 and self.chance(0.7) else f"{hour % 12}:{minute:02}"
        return f"{spoken} {half}", value

    def _text(self, slot: str) -> str:
        pattern = self.rng.choice(_TEXT_PATTERNS[slot])
        lists = {"N": vocabulary.NOUNS, "V": vocabulary.VERBS, "A": vocabulary.ADJECTIVES}
        words = []
        for part in pattern.split():
            if part in lists:
                words.append(self.pseudo_word() if self.chance(0.2) else self.word(lists[part]))
            else:
                words.append(self.pseudo_word() if part == "P" else part)
        text = " ".join(words)
        return text.title() if slot == "song" and self.chance(0.3) else text


_TEXT_PATTERNS: dict[str, tuple[str, ...]] = {
    "message": ("I am at the N", "the N is A", "meet me at the N", "V the N", "I will V the A N", "we need a A N"),
    "note": ("the N is in the N", "V the A N", "A N", "the N is A", "V N", "N P"),
    "task": ("V the N", "V a A N", "V N", "V the A N", "V P"),
    "item": ("N", "A N", "P", "N N"),
    "title": ("N N", "A N", "N", "P N", "the A N"),
    "song": ("A N", "N", "the A N", "P", "V the N", "P N"),
    "query": ("A N", "N N", "V N", "N P", "A N N", "P"),
    "phrase": ("A N", "the N", "N", "V the N", "the A N"),
    "words": ("P", "P P", "N P", "A N P", "V the A N", "P N A", "P P P"),
}
_NO_PREFIX = frozenset(words("I how what will is do we let make alarm timer at weather wifi bluetooth torch screen"))


# -- tools ----------------------------------------------------------------------------------------------------------


def _schema(slot: Slot, description: str | None) -> dict[str, str]:
    return {"type": slot.type} if description is None else {"type": slot.type, "description": description}


def dress(draw: Draw, key: str) -> Dressed:
    """Dress an action as a tool with drawn names and descriptions."""
    action = ACTIONS[key]
    slots = list(action.slots)
    if "time" in slots and draw.chance(0.25):
        slots[slots.index("time") :] = ["hour", "minute"]
    name = draw.identifier(action.names, 0.25, new=draw.new_names)
    outer, draw.taken = draw.taken, set()  # parameter names need only differ within their tool
    properties: dict[str, Any] = {}
    parameter: dict[str, str] = {}
    for concept in slots:
        slot = SLOTS[concept]
        natural = draw.chance(0.4)
        parameter[concept] = draw.identifier(slot.names, 1.0 if natural else 0.0, widest=2)
        # A lone parameter, or one that its name explains, can do without a description.
        bare = (natural or len(slots) == 1) and draw.chance(0.5)
        properties[parameter[concept]] = _schema(slot, None if bare else draw.rng.choice(slot.descriptions))
    if draw.chance(0.12):
        slot = draw.rng.choice(UNUSED)
        properties[draw.identifier(slot.names, 0.5, widest=2)] = _schema(slot, draw.rng.choice(slot.descriptions))
    draw.taken = outer
    function = {
        "name": name,
        "description": draw.rng.choice(action.descriptions),
        "parameters": {
            "type": "object",
            "properties": properties,
            "required": sorted(parameter.values()),
        },
    }
    return Dressed(key, {"type": "function", "function": function}, parameter)


def dress_default(tools: Iterable[dict[str, Any]]) -> list[Dressed]:
    """The shipped tools, as dressed actions: their names and parameters are the natural ones."""
    dressed = []
    for tool in tools:
        function = tool["function"]
        key = next(k for k, a in ACTIONS.items() if function["name"] == a.names[0])
        dressed.append(Dressed(key, tool, {c: c for c in function["parameters"]["properties"]}))
    return dressed


# -- requests -------------------------------------------------------------------------------------------------------


def _phrase(draw: Draw, key: str) -> tuple[str, str]:
    """A phrasing of an action and its template id."""
    action = ACTIONS[key]
    if draw.new_templates:
        i = draw.rng.randrange(len(action.held_out))
        return action.held_out[i], f"{key}/h{i}"
    i = draw.rng.randrange(len(action.phrasings))
    return action.phrasings[i], f"{key}/{i}"


def _request(draw: Draw, dressed: Dressed) -> tuple[str, str, dict[str, Any]]:
    """(text, template id, call) of one request for a tool."""
    phrase, template = _phrase(draw, dressed.key)
    arguments: dict[str, Any] = {}
    for concept in ACTIONS[dressed.key].slots:
        spoken, value = draw.value(concept)
        phrase = phrase.replace("{" + concept + "}", spoken)
        if concept in dressed.parameter:
            arguments[dressed.parameter[concept]] = value
        else:
            arguments[dressed.parameter["hour"]] = int(value[:2])
            arguments[dressed.parameter["minute"]] = int(value[3:])
    call = {"name": dressed.tool["function"]["name"], "arguments": dict(sorted(arguments.items()))}
    return phrase, template, call


def _spoken(draw: Draw, text: str) -> str:
    """Politeness, capitals and punctuation around a request."""
    first = text.split()[0]
    if first not in _NO_PREFIX and first[0].islower() and draw.chance(0.35):
        text = f"{draw.rng.choice(vocabulary.PREFIXES)} {text}"
    if draw.chance(0.6):
        text = text[0].upper() + text[1:]
    question = first in ("how", "what", "will", "is", "do")
    return text + (("?" if question else ".") if draw.chance(0.4) else "")


def _user(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


# -- kinds ----------------------------------------------------------------------------------------------------------


def _open_actions(draw: Draw) -> list[str]:
    """The actions that can take the new values of this split."""
    if not draw.new_values:
        return list(ACTIONS)
    return [k for k, a in ACTIONS.items() if set(a.slots) - CLOSED_SLOTS]


def _offer(draw: Draw, keys: Sequence[str], widest: int) -> list[Dressed]:
    """Tools for these actions and some others, shuffled."""
    count = max(len(keys), draw.rng.choices((1, 2, 3, 4), (3, 4, 4, 3))[0])
    others = [k for k in ACTIONS if k not in keys]
    chosen = [*keys, *draw.rng.sample(others, max(0, min(count, widest) - len(keys)))]
    draw.rng.shuffle(chosen)
    return [dress(draw, k) for k in chosen]


def _calls(draw: Draw, kind: str, tools: list[Dressed], keys: list[str]) -> tuple[str, str, list[dict[str, Any]]]:
    by_key = {d.key: d for d in tools}
    parts = [_request(draw, by_key[k]) for k in keys]
    text = parts[0][0]
    for more, _, _ in parts[1:]:
        join = draw.rng.choice(vocabulary.JOINS)
        text += join + (more[0].upper() + more[1:] if join.endswith(". ") else more)
    return _spoken(draw, text), "+".join(t for _, t, _ in parts), [c for _, _, c in parts]


def conversation(
    split: str,
    index: int,
    seed: int = 0,
    default_tools: Sequence[dict[str, Any]] = (),
    widest: int = 4,
    kinds: dict[str, float] | None = None,
) -> Conversation:
    """The conversation `index` of a split ("train" or one of SPLITS).

    `default_tools` (OpenAI style) are offered as they are in one training conversation of sixteen; `widest` bounds the
    number of tools; `kinds` overrides the mix of kinds.
    """
    rng = random.Random(f"{split}/{seed}/{index}")
    draw = Draw(
        rng,
        new_templates=split == "new_templates",
        new_values=split == "new_values",
        new_names=split == "new_names",
    )
    hard = draw.new_templates or draw.new_values or draw.new_names
    # The hard splits ask only for calls, in which the model must copy or understand what is new.
    mix = {k: KINDS[k] for k in CALL_KINDS} if hard else (kinds or KINDS)
    kind = rng.choices(list(mix), list(mix.values()))[0]
    shipped = dress_default(default_tools) if default_tools and split == "train" and draw.chance(1 / 16) else []
    pool = [d.key for d in shipped] if shipped else _open_actions(draw)

    messages: list[dict[str, Any]]
    gold: dict[str, Any]
    tools: list[Dressed]
    if kind in ("single", "parallel"):
        count = 1 if kind == "single" else rng.choices((2, 3), (5, 1))[0]
        keys = [rng.choice(pool) for _ in range(count)] if draw.chance(0.25) else rng.sample(pool, count)
        tools = shipped or _offer(draw, sorted(set(keys)), widest)
        text, template, calls = _calls(draw, kind, tools, keys)
        messages, gold = _user(text), {"calls": calls}
    elif kind == "follow_up":
        key = rng.choice(pool)
        tools = shipped or _offer(draw, [key], widest)
        text, template, calls = _calls(draw, kind, tools, [key])
        content, reply = _outcome(draw)
        messages = [
            *_user(text),
            {"role": "assistant", "tool_calls": [{"type": "function", "function": c} for c in calls]},
            {"role": "tool", "name": calls[0]["name"], "content": content},
        ]
        gold = {"text": reply}
    elif kind == "ask_back":
        key = rng.choice([k for k in pool if ACTIONS[k].bare])
        tools = shipped or _offer(draw, [key], widest)
        i = rng.randrange(len(ACTIONS[key].bare))
        messages, template = _user(_spoken(draw, ACTIONS[key].bare[i])), f"{key}/bare{i}"
        gold = {"text": ACTIONS[key].question}
    elif kind == "no_call":
        key = rng.choice([k for k in ACTIONS if k not in pool] if shipped else list(ACTIONS))
        tools = shipped or [d for d in _offer(draw, [key], widest + 1) if d.key != key]
        bare = bool(ACTIONS[key].bare) and draw.chance(0.2)
        text, template, _ = _request(draw, dress(draw, key))
        messages = _user(_spoken(draw, rng.choice(ACTIONS[key].bare) if bare else text))
        template = f"{key}/none" if bare else f"{template}/none"
        gold = {"text": f"Sorry, I have no tool to {ACTIONS[key].does}."}
    elif kind == "chat":
        i = rng.randrange(len(vocabulary.CHAT))
        requests, reply = vocabulary.CHAT[i]
        tools = shipped or (_offer(draw, [], widest) if draw.chance(0.7) else [])
        messages, template = _user(_spoken(draw, rng.choice(requests))), f"chat/{i}"
        gold = {"text": reply}
    else:
        i = rng.randrange(len(vocabulary.REPEAT))
        words = draw._text("words")
        tools = shipped or (_offer(draw, [], widest) if draw.chance(0.3) else [])
        messages, template = _user(vocabulary.REPEAT[i].replace("{words}", words)), f"repeat/{i}"
        gold = {"text": words}
    return Conversation(f"{split}-{index:05}", kind, template, messages, [d.tool for d in tools], gold)


def _outcome(draw: Draw) -> tuple[dict[str, Any], str]:
    """A tool's response, and the reply to it."""
    r = draw.rng.random()
    if r < 0.4:
        return {"status": "ok"}, "Done."
    if r < 0.7:
        value: Any = draw.number(0, 100) if draw.chance(0.5) else draw._text("item")
        return {"result": value}, f"Here is the result: {value}."
    reason = draw.rng.choice(("no network", "not allowed", "not found", "device is busy", draw.pseudo_word()))
    return {"error": reason}, f"That did not work: {reason}."
