"""Results of runs that nobody made: their truth is known, so that statistics and reports can be held against it."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from edge_mtp.formats.tool_calls import CALL_CLOSE, CALL_OPEN, ToolCall, Value, format_calls
from edge_mtp.formats.trace import Sensors
from edge_mtp.harness.ask.answer import Answer, StepFigures
from edge_mtp.harness.ask.arm import Arm, cross
from edge_mtp.harness.ask.item import Item, Turn
from edge_mtp.harness.record.results import Pause, Results, Run, Sample
from edge_mtp.harness.score.gold import Gold, GoldCall
from edge_mtp.harness.score.score import Finish

STOP = 106  # <turn|>
FIRST_WORD = 1000  # ids of everything that is no mark of the wire format
MARKS = {CALL_OPEN: 48, CALL_CLOSE: 49, '<|"|>': 52}
KINDS = {
    "bench": ("chat", "tool_call", "summarise", "code", "copy", "multi_turn", "long_prompt"),
    "eval": ("single", "parallel", "no_call", "multi_turn"),
}
WORDS = ("the", "call", "was", "placed", "and", "it", "rings", "now", "please", "wait", "while", "they", "answer", "or")
PLACES = ("Fea", "Rend", "Verest", "Kaif", "Old Mill", "Lake Sul")
PERIOD_S = 1.0  # between samples of the sensors

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "set_volume",
            "description": "Set how loud the phone is",
            "parameters": {"type": "object", "properties": {"level": {"type": "integer"}}, "required": ["level"]},
        },
    },
    {
        "type": "function",
        "function": {
            "name": "navigate",
            "description": "Find a route",
            "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
        },
    },
]


class Costs(NamedTuple):
    """What a bundle takes: microseconds a prompt token, a plain step, a draft, a verify (K = 3); and how good it is:
    the share of drafts accepted, the share of items answered wrongly."""

    prefill_us: float
    plain_us: float
    draft_us: float
    verify_us: float
    acceptance: float
    wrong: float


BUNDLES = {
    "tiny_fp32.litertlm": Costs(900.0, 40_000.0, 2_500.0, 52_000.0, 0.75, 0.08),
    "tiny_int4.litertlm": Costs(700.0, 24_000.0, 2_000.0, 34_000.0, 0.65, 0.20),
}
ARMS: tuple[Arm, ...] = tuple(cross([{"bundle": bundle} for bundle in BUNDLES], {"mtp": ("off", "auto", 3)}))


def synthetic_results(
    seed: int = 0,
    *,
    kind: Literal["bench", "eval"] = "bench",
    arms: Sequence[Arm] = ARMS,
    items: int = 28,
    rounds: int | None = None,
    slow: Mapping[str, float] | None = None,
    acceptance: Mapping[str, float] | None = None,
    noise: float = 0.05,
    crashes: int = 1,
) -> Results:
    """A run of `arms` on `items` conversations of every kind in turn, each arm in each of `rounds` (None: 3 for bench,
    1 for eval), the order of arms reversed every other time. In an eval a wrong reply is the last one to its item.

    An arm's bundle decides its costs and its texts: at temperature 0 arms of one bundle say the same, whatever their
    MTP, and at others they do in one round. The second bundle is wrong more often. `slow` multiplies all times of the
    arms that it names; `acceptance` replaces the share of their drafts that is accepted (a corrupted drafter: 0.02).
    `noise` is the standard deviation of the logarithm of an answer's speed; single steps vary more, and some hang.
    So many answers are `crashes`, which ends their item for that arm and round. The devices are sampled once a second
    (phones, that is all but host, with a battery that is not charging) and cool down now and then.
    """
    generator = np.random.default_rng(seed)
    rounds = (3 if kind == "bench" else 1) if rounds is None else rounds
    conversations = [_item(seed, kind, number) for number in range(items)]
    devices = {arm.device: _fingerprint(arm.device) for arm in arms}
    run = Run(
        kind=kind,
        command=f"edge-mtp {kind} tiny_fp32.litertlm tiny_int4.litertlm --mtp off,auto,3 --rounds {rounds}",
        started="2025-11-03T09:12:44+00:00",
        versions={"edge-mtp": "0.1.0", "ai-edge-litert": "2.3.0", "python": "3.11.9"},
        arms=list(arms),
        baseline=arms[0].label,
        devices=devices,
        bundles={arm.bundle: _bundle(arm.bundle) for arm in arms},
        suite="built-in workloads" if kind == "bench" else "phone actions",
        settings={"max_tokens": 256, "rounds": rounds, "seed": seed, "warm_up": 2},
    )
    results = Results(run, {item.id: item for item in conversations})
    plan = [
        (item, number, arm)
        for place, item in enumerate(conversations)
        for number in range(rounds)
        for arm in (arms if (number + place) % 2 == 0 else reversed(arms))
    ]
    doomed = set(generator.choice(len(plan), size=min(crashes, len(plan)), replace=False).tolist())
    clock = _Clock(results, list(devices))
    for index, (item, number, arm) in enumerate(plan):
        factor = (slow or {}).get(arm.label, 1.0) * generator.lognormal(0.0, noise)
        costs = BUNDLES[arm.bundle]
        accepted = (acceptance or {}).get(arm.label, costs.acceptance)
        for turn in range(len(item.turns)):
            if index in doomed:
                answer = _crash(arm, item, turn, number, clock.now_s)
            else:
                answer = _answer(generator, seed, arm, item, turn, number, clock.now_s, factor, costs, accepted)
            results.answers.append(answer)
            clock.run(answer.total_us / 1e6, arm.device)
            if answer.error is not None or (kind == "eval" and answer.text != _right(item, turn, answer.text)):
                break
        if index % 40 == 39:
            clock.rest(arm.device)
    return results


def token_ids(text: str) -> list[int]:
    """The ids of a text's pieces (`pieces`): marks have Gemma's, others one of their own."""
    return [MARKS.get(piece) or FIRST_WORD + zlib.crc32(piece.encode()) % 200_000 for piece in pieces(text)]


def pieces(text: str) -> list[str]:
    """A text cut into tokens: marks, single digits, words with the space before them, single other characters."""
    return re.findall(r'<\|tool_call>|<tool_call\|>|<\|"\|>|\d| ?[^\W\d]+|.', text, re.S)


# -- what is asked and said -----------------------------------------------------------------------------------------


def _generator(seed: int, *of: object) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(repr(of).encode())])


def _item(seed: int, kind: Literal["bench", "eval"], number: int) -> Item:
    generator = _generator(seed, kind, number)
    of = KINDS[kind][number % len(KINDS[kind])]
    level, place = int(generator.integers(10, 100)), PLACES[generator.integers(len(PLACES))]
    volume = GoldCall("set_volume", {"level": (level,)})
    route = GoldCall("navigate", {"place": (place, place.lower())})
    ask_volume, ask_route = f"Set the volume to {level}", f"How do I get to {place}?"

    def asked(text: str, gold: Gold | None) -> Turn:
        return Turn([{"role": "user", "content": text}], gold)

    tools: Sequence[dict[str, Any]] = TOOLS
    if of in ("single", "tool_call"):
        turns = [asked(ask_volume, Gold((volume,))) if number % 2 else asked(ask_route, Gold((route,)))]
    elif of == "parallel":
        turns = [asked(f"{ask_volume}. {ask_route}", Gold((volume, route)))]
    elif of == "no_call":
        turns = [asked("Send Fi 291 dollars", Gold())]
    elif of == "multi_turn":
        response = {"role": "tool", "name": "set_volume", "content": f'{{"level": {level}}}'}
        turns = [
            asked(ask_volume, Gold((volume,))),
            Turn([response], Gold()),
            asked(f"And now: {ask_route}", Gold((route,))),
        ]
    else:
        turns = [asked(f"{of.capitalize()}: " + _prose(generator, 400 if of == "long_prompt" else 40), None)]
        tools = ()
    if kind == "bench":
        turns = [Turn(turn.messages, None) for turn in turns]
    return Item(f"{kind}-{number:04d}", of, f"{of}/{number // len(KINDS[kind]) % 7}", turns, tools)


def _prose(generator: np.random.Generator, words: int) -> str:
    return " ".join(generator.choice(WORDS, words)) + "."


def _reply(seed: int, arm: Arm, item: Item, turn: int, number: int) -> tuple[str, Finish]:
    """The text, of the bundle, the item and (sampled) the round alone."""
    costs = BUNDLES[arm.bundle]
    sampled = (number, arm.temperature) if arm.temperature else ()
    # Mostly the same draw for all bundles: what one gets wrong is often what the other does.
    alone = (arm.bundle,) if _generator(seed, "alone", item.id, turn).random() < 0.3 else ()
    is_wrong = _generator(seed, "wrong", item.id, turn, *alone, *sampled).random() < costs.wrong
    generator = _generator(seed, "text", item.id, turn, *sampled)
    calls = _calls(item, turn)
    if not calls:
        text = "Sorry, I have no tool for that." if item.kind == "no_call" else _prose(generator, 20 + 2 * turn)
        if is_wrong and item.tools:
            return format_calls([ToolCall("set_volume", {"level": 291})]), "stop"
        return (text.replace("now", "then"), "stop") if is_wrong else (text, "stop")
    right = format_calls(calls)
    if not is_wrong:
        return right, "stop"
    wrongs: list[tuple[str, Finish]] = [
        (re.sub(r"\d(?=})", lambda digit: str((int(digit[0]) + 1) % 10), right.replace('<|"|>}', 'x<|"|>}')), "stop"),
        ("Which level would you like?", "stop"),
        (right.replace('<|"|>', '"') if '<|"|>' in right else right.replace("level", "Level"), "stop"),
        (right.removesuffix(CALL_CLOSE), "length"),
        (right.replace("}" + CALL_CLOSE, ",fast:true}" + CALL_CLOSE), "stop"),
        (right.replace("set_volume", "set_sound").replace("navigate", "set_volume"), "stop"),
    ]
    return wrongs[_generator(seed, "which", item.id, turn).integers(len(wrongs))]


def _right(item: Item, turn: int, text: str) -> str:
    """The right calls; `text` where a right reply is a text, and it has none."""
    return format_calls(_calls(item, turn)) or text.partition(CALL_OPEN)[0]


def _calls(item: Item, turn: int) -> list[ToolCall]:
    text = str(item.turns[turn].messages[-1]["content"])
    if item.turns[turn].messages[-1]["role"] == "tool" or not item.tools or item.kind == "no_call":
        return []
    calls = []
    if level := re.search(r"volume to (\d+)", text):
        calls.append(_call("set_volume", level=int(level[1])))
    if place := re.search(r"get to ([\w ]+)\?", text):
        calls.append(_call("navigate", place=place[1]))
    return calls


def _call(name: str, **arguments: Value) -> ToolCall:
    return ToolCall(name, arguments)


# -- how long it takes ----------------------------------------------------------------------------------------------


def _answer(
    generator: np.random.Generator,
    seed: int,
    arm: Arm,
    item: Item,
    turn: int,
    number: int,
    at_s: float,
    factor: float,
    costs: Costs,
    acceptance: float,
) -> Answer:
    text, finish = _reply(seed, arm, item, turn, number)
    tokens = token_ids(text) + ([STOP] if finish == "stop" else [])
    before = item.turns[: turn + 1]
    prompt_tokens = 30 * len(item.tools) + sum(len(pieces(str(m["content"]))) + 6 for t in before for m in t.messages)
    reused_tokens = prompt_tokens // 2 if turn else 0
    prefill_us = float(costs.prefill_us * (prompt_tokens - reused_tokens) * factor * generator.lognormal(0.0, 0.03))
    steps = _steps(generator, arm, costs, acceptance, len(tokens), factor)
    ends = prefill_us + np.cumsum([step.total_us for step in steps])
    given = np.cumsum([step.tokens for step in steps])
    closed = tokens.index(MARKS[CALL_CLOSE]) if MARKS[CALL_CLOSE] in tokens else None
    drafts = arm.mtp != "off"
    return Answer(
        arm=arm.label,
        item=item.id,
        turn=turn,
        round=number,
        at_s=at_s,
        text=text,
        finish=finish,
        prompt_tokens=prompt_tokens,
        reused_tokens=reused_tokens,
        count=len(tokens),
        first_token_us=float(ends[0]),
        prefill_us=prefill_us,
        call_us=None if closed is None else float(ends[np.searchsorted(given, closed + 1)]),
        total_us=float(ends[-1]),
        tokens=tokens,
        margins=[round(float(x), 3) for x in _generator(seed, "margins", arm.bundle, text).exponential(4, len(tokens))],
        steps=steps,
        rss_bytes=(310 if drafts else 290) * 10**6 + prompt_tokens * 1000,
        anonymous_bytes=(150 if drafts else 140) * 10**6 + prompt_tokens * 1000,
    )


def _steps(
    generator: np.random.Generator, arm: Arm, costs: Costs, acceptance: float, tokens: int, factor: float
) -> list[StepFigures]:
    """The steps that give out so many tokens. The first is plain: a drafter starts from a hidden state."""
    steps: list[StepFigures] = []
    left = tokens
    noise = factor * generator.lognormal(0.0, 0.08, tokens) * np.where(generator.random(tokens) < 0.01, 3.0, 1.0)
    planned = 3 if arm.mtp in ("auto", "blank") else int(arm.draft_length or 0)
    explored = generator.random(tokens) < 0.05
    while left:
        index = len(steps)
        speed = float(noise[index])
        asked = planned
        if arm.mtp == "auto" and (explored[index] or acceptance < 0.3):
            asked = 1 if explored[index] else 0
        mask_us = 60.0 * speed if arm.constrained else 0.0
        if not steps or not asked:
            verify_us = costs.plain_us * speed
            steps.append(StepFigures("p", 1, "", 0, asked, 0.0, mask_us, verify_us, 1.01 * verify_us + mask_us))
            left -= 1
            continue
        draft_us = costs.draft_us * asked * speed if arm.mtp != "blank" else 0.0
        # From a plain step at K = 0 to the verify of K = 3.
        verify_us = (costs.plain_us + (costs.verify_us - costs.plain_us) * (asked / 3) ** 0.5) * speed
        right = generator.random(asked) < acceptance
        accepted = 0 if arm.mtp == "blank" else asked if right.all() else int(right.argmin())
        is_forced = arm.constrained and index % 5 == 4
        source = "" if arm.mtp == "blank" else "g" + "d" * (asked - 1) if is_forced else "d" * asked
        total_us = 1.01 * (draft_us + verify_us) + mask_us
        given = min(accepted + 1, left)
        steps.append(StepFigures("v", given, source, accepted, asked, draft_us, mask_us, verify_us, total_us))
        left -= given
    return steps


def _crash(arm: Arm, item: Item, turn: int, number: int, at_s: float) -> Answer:
    return Answer(
        arm=arm.label, item=item.id, turn=turn, round=number, at_s=at_s, text="", finish="crash",
        error="the runner ended with signal 11 (segmentation fault)",
    )  # fmt: skip


class _Clock:
    """The run's time, and what the sensors of its devices say as it passes."""

    def __init__(self, results: Results, devices: list[str]) -> None:
        self._results, self._devices = results, devices
        self.now_s = 0.0
        self._due_s = 0.0
        self._celsius = dict.fromkeys(devices, 31.0)

    def run(self, seconds: float, device: str) -> None:
        self._celsius[device] += 0.02 * seconds * (1 - (self._celsius[device] - 31.0) / 14.0)
        self._pass(seconds, busy=device)
        self.now_s += 0.004  # the next request is built

    def rest(self, device: str) -> None:
        self._results.pauses.append(Pause(device, self.now_s, 20.0, f"cools down from {self._celsius[device]:.1f} C"))
        self._celsius[device] = 31.0 + (self._celsius[device] - 31.0) * 0.4
        self._pass(20.0, busy=None)

    def _pass(self, seconds: float, busy: str | None) -> None:
        end = self.now_s + seconds
        while self._due_s <= end:
            for device in self._devices:
                sensors = _sensors(device, self._celsius[device], busy == device, self._due_s)
                self._results.samples.append(Sample(device, self._due_s, sensors))
            self._due_s += PERIOD_S
        self.now_s = end


def _sensors(device: str, celsius: float, is_busy: bool, at_s: float) -> Sensors:
    memory = {"rss_bytes": 300_000_000 + int(1e6 * at_s) % 9_000_000, "anonymous_bytes": 148_000_000}
    if device == "host":
        absent = ["battery_current_ua", "battery_voltage_v", "battery_charging", "thermal_status", "gpu_bytes"]
        return Sensors(0.0, temperatures_c={"x86_pkg_temp": celsius + 15}, absent=absent, **memory)
    return Sensors(
        0.0,
        thermal_status=1 if celsius > 42 else 0,
        temperatures_c={"skin": round(celsius, 1), "soc": round(celsius + 9 * is_busy, 1)},
        frequencies_mhz={"policy0": 1700.0, "policy4": 2400.0 if is_busy else 900.0},
        battery_current_ua=-1_150_000 if is_busy else -280_000,
        battery_voltage_v=4.0,
        battery_charging=False,
        **memory,
    )


def _fingerprint(device: str) -> dict[str, Any]:
    if device == "host":
        return {"name": "host", "model": "a workstation", "soc": "x86_64", "system": "Linux 6.8", "cores": 8}
    return {"name": device, "model": "Google Pixel 9", "soc": "Google Tensor G4", "system": "Android 15", "cores": 8}


def _bundle(path: str) -> dict[str, Any]:
    recipe = path.removesuffix(".litertlm").removeprefix("tiny_")
    size = 4_300_000 if recipe == "fp32" else 1_200_000
    return {"file": path, "bytes": size, "recipe": recipe, "source": {"target": "0" * 64, "drafter": "1" * 64}}
