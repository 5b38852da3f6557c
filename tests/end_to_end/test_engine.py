"""Replies, their options and dialogues, on a runner that answers from a script; and dialogues on the real one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_mtp.chat.bundle_chat import chat_format_of
from edge_mtp.chat.chat_format import ChatFormat
from edge_mtp.device import Outcome, Request, Sampling, Step
from edge_mtp.dialogue import Dialogue
from edge_mtp.engine import ContextOverflowError, Engine, open_engine
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.bundle import Bundle
from edge_mtp.formats.grammar import response_grammar, tool_grammar
from edge_mtp.formats.tool_calls import ToolCall, load_tools
from edge_mtp.reply import Reply
from edge_mtp.reply_options import ReplyOptions

# A template that renders every turn as it was written: what the model saw stays the beginning of the next prompt.
FAITHFUL = (
    "{{ bos_token }}{% for m in messages %}<|turn>{{ m['role'] }}\n{{ m['content'] }}"
    "{% if m['role'] != 'assistant' or not loop.last %}<turn|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|turn>assistant\n{% endif %}"
)
TURN_END = 106


class Script:
    """A runner whose replies are given: a list of token ids each, in steps of up to three tokens, two accepted."""

    def __init__(self, *replies: Sequence[int], has_drafter: bool = True, most: int = 7) -> None:
        self.ready = SimpleNamespace(
            context_length=400, vocabulary=768, max_draft_length=most, has_drafter=has_drafter, load_us=1.0
        )
        self.has_ended = False
        self.replies = list(replies)
        self.requests: list[Request] = []
        self.cancelled = 0

    def generate(self, request: Request) -> Iterator[Step | Outcome]:
        self.requests.append(request)
        tokens = self.replies.pop(0)
        try:
            for index in range(0, len(tokens), 3):
                given = list(tokens[index : index + 3])
                yield Step(
                    request="r", step=index // 3, kind="verify", position=len(request.prompt) + index, tokens=given,
                    draft=[*given[:2], 9], confidence=[0.5] * 3, source="lgd", accepted=min(2, len(given)), planned=3,
                    explore=False, draft_us=1.0, mask_us=0.0, embed_us=1.0, verify_us=1.0, select_us=0.0, total_us=5.0,
                    logprobs=[-float(t) for t in given] if request.logprobs else [],
                )  # fmt: skip
        except GeneratorExit:
            self.cancelled += 1
            raise
        yield Outcome("r", "stop", len(request.prompt), 0, 0, len(tokens), 1.0, 9.0)

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle(tiny_bundle)


@pytest.fixture(scope="module")
def tools() -> list[dict[str, Any]]:
    import edge_mtp

    return load_tools(Path(edge_mtp.__file__).parent / "tiny" / "tools.json")


@pytest.fixture
def scripted(bundle: Bundle) -> Callable[..., tuple[Engine, Script]]:
    def make(*replies: Sequence[int], **ready: Any) -> tuple[Engine, Script]:
        script = Script(*replies, **ready)
        return Engine(bundle, script), script  # type: ignore[arg-type]

    return make


Scripted = Callable[..., tuple[Engine, Script]]


# --- replies ---------------------------------------------------------------------------------------------------------


@given(text=st.text("ab é🙂\n", max_size=20), stops=st.lists(st.text("ab é\n", min_size=1, max_size=3), max_size=2))
def test_tokens_of_a_reply_are_each_given_once_and_join_to_its_text(
    bundle: Bundle, text: str, stops: list[str]
) -> None:
    script = Script()
    engine = Engine(bundle, script)  # type: ignore[arg-type]
    ids = [*engine.chat_format.tokenizer.encode(text), TURN_END]
    script.replies = [ids]
    reply = engine.chat("x", stop_texts=stops, logprobs=True)
    tokens = list(reply)
    assert [token.id for token in tokens] == ids == reply.tokens
    assert "".join(token.text for token in tokens) == reply.text
    begins = [at for stop in stops if (at := text.find(stop)) >= 0]
    assert text.startswith(reply.text)
    if not begins:
        assert reply.text == text
    assert not any(stop in reply.text for stop in stops)
    for index, token in enumerate(tokens):
        assert token.source == ("lookup", "grammar", None)[index % 3]
        assert token.logprob == reply.logprobs[index] == -float(token.id)


def test_leaving_a_reply_cancels_it(scripted: Scripted) -> None:
    engine, script = scripted([20, 21, 22, 23, 24, 25, 26])
    reply = engine.chat("x", logprobs=True)
    for token in reply:
        if token.id == 24:
            break
    assert script.cancelled == 1
    assert reply.tokens == [20, 21, 22, 23, 24]
    assert reply.logprobs == [-20.0, -21.0, -22.0, -23.0, -24.0]
    with pytest.raises(EdgeMtpError, match="not complete"):
        _ = reply.summary


def test_a_reply_that_is_not_read_to_its_end_has_no_text_yet(scripted: Scripted) -> None:
    engine, _ = scripted([20, 21, TURN_END], [20, 21, TURN_END])
    dialogue = Dialogue(engine)
    dialogue.say("x")
    reply = dialogue.reply(max_tokens=9)
    for read in ("text", "reasoning", "tool_calls", "summary"):
        with pytest.raises(EdgeMtpError, match="the reply is not complete; iterate it to its end first"):
            getattr(reply, read)
    with pytest.raises(EdgeMtpError, match="not complete"):
        dialogue.add(reply)
    assert len(dialogue.messages) == 1
    for _ in reply:
        with pytest.raises(EdgeMtpError, match="not complete"):
            _ = reply.text
        break
    assert reply.text == engine.chat_format.tokenizer.decode([20])
    assert reply.tool_calls == []
    engine.chat("x").wait()


def test_changes_of_options_are_the_same_for_a_dialogue(scripted: Scripted) -> None:
    engine, script = scripted([TURN_END], [TURN_END])
    dialogue = Dialogue(engine)
    dialogue.say("x")
    dialogue.reply(ReplyOptions(draft_length=3), max_tokens=7, stop_texts=["~"]).wait()
    engine.chat("x", options=ReplyOptions(draft_length=3), max_tokens=7, stop_texts=["~"]).wait()
    assert script.requests[0] == script.requests[1]
    with pytest.raises(TypeError, match="tokens_at_most"):
        dialogue.reply(tokens_at_most=7)


def test_tools_are_checked_before_they_are_rendered(scripted: Scripted) -> None:
    engine, _ = scripted()
    for ask in (lambda tools: engine.chat("x", tools=tools), lambda tools: Dialogue(engine, tools=tools)):
        with pytest.raises(EdgeMtpError, match=r"'tools.json' is the name of a file; read it with edge_mtp.load_tools"):
            ask("tools.json")
        with pytest.raises(EdgeMtpError, match="tool 0: name None is no text"):
            ask([{"description": "nothing"}])


# --- options ---------------------------------------------------------------------------------------------------------


def test_drafting_is_the_controllers_unless_k_is_given(scripted: Scripted) -> None:
    engine, script = scripted(*[[TURN_END]] * 4)
    engine.chat("x").wait()
    engine.chat("x", draft_length=3).wait()
    engine.chat("x", draft_length=0).wait()
    engine.chat("x", options=ReplyOptions(draft_length=3), draft_policy="auto", draft_sources=["lookup"]).wait()
    assert [(r.draft_policy, r.draft_length) for r in script.requests] == [
        ("auto", 7), ("fixed", 3), ("fixed", 0), ("auto", 3),
    ]  # fmt: skip
    assert [tuple(r.draft_sources) for r in script.requests] == [("drafter", "grammar")] * 3 + [("lookup",)]
    lone, script = scripted([TURN_END], has_drafter=False)
    lone.chat("x").wait()
    assert tuple(script.requests[0].draft_sources) == ("lookup", "grammar")


def test_the_kept_prefix_is_asked_for_only_where_there_is_one(scripted: Scripted, tools: list[dict[str, Any]]) -> None:
    engine, script = scripted(*[[TURN_END]] * 3)
    engine.chat("x", keep_prefix=True).wait()
    engine.chat("x", tools=tools, keep_prefix=True, constrained=False).wait()
    engine.chat("x", tools=tools, constrained=False).wait()
    bare, kept, not_kept = script.requests
    assert bare.keep_prefix == not_kept.keep_prefix == 0
    text = engine.chat_format.tokenizer.decode(kept.prompt[: kept.keep_prefix])
    assert text.endswith("<tool|><turn|>\n<|turn>user\n")


def test_tools_constrain_a_reply_by_themselves(scripted: Scripted, tools: list[dict[str, Any]]) -> None:
    engine, script = scripted(*[[TURN_END]] * 8)
    schema = {"type": "object"}
    for changes in (
        {}, {"constrained": False}, {"tool_choice": "auto"}, {"tool_choice": "required"}, {"tool_choice": "set_alarm"},
        {"response_schema": schema}, {"grammar": 'root ::= "a"'}, {"tool_choice": "auto", "constrained": False},
    ):  # fmt: skip
        engine.chat("x", tools=tools, **changes).wait()
    auto, required, alarm = (tool_grammar(tools, choice=choice).text for choice in ("auto", "required", "set_alarm"))
    assert [r.grammar for r in script.requests] == [
        auto, None, auto, required, alarm, response_grammar(schema), 'root ::= "a"', None
    ]  # fmt: skip


def test_options_that_cannot_be_served_are_one_line(scripted: Scripted, tools: list[dict[str, Any]]) -> None:
    engine, script = scripted()
    endless = {"type": "object", "properties": {"a": {"type": "object", "$ref": "#"}}, "required": ["a"]}
    wrong = {"type": "function", "function": {"name": "f", "description": "", "parameters": endless}}
    nothing = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "strin"}}}}
    for changes, message in (
        ({"draft_length": 9}, "draft length 9 is beyond the 7"),
        ({"tool_choice": "required"}, "'required' needs tools"),
        ({"constrained": True}, "need tools"),
        ({"tools": tools, "tool_choice": "fly"}, "'fly' is no declared tool; use one of set_alarm"),
        ({"tools": tools, "tool_choice": "required", "constrained": False}, "drop it, or --unconstrained"),
        ({"tools": tools, "tool_choice": "auto", "grammar": "root ::= x"}, "a grammar and tool calls"),
        ({"response_schema": {}, "grammar": "root ::= x"}, "a response schema and a grammar"),
        ({"grammar": " \n"}, "the grammar is empty"),
        ({"stop_texts": [""]}, "stop string is empty"),
        ({"tools": [wrong], "strict_tools": True}, "tool 'f'.*; or leave calls to the model"),
        ({"tools": [nothing]}, r"tool 0 \(f\): parameters.a: type 'strin' is none"),
        ({"sampling": Sampling(logit_bias={768: 1.0})}, "token 768 is outside the vocabulary of 768"),
        ({"sampling": Sampling(suppress=[-1])}, "token -1 is outside"),
        ({"sampling": Sampling(logit_bias={7: float("inf")})}, "bias inf of token 7"),
        ({"sampling": Sampling(presence_penalty=float("nan"))}, "presence_penalty is nan"),
    ):
        with pytest.raises(EdgeMtpError, match=message) as caught:
            engine.chat("x", **changes)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
    with pytest.raises(ContextOverflowError, match="context holds 400"):
        engine.chat("word " * 400)
    with pytest.raises(TypeError, match="colour"):
        engine.chat("x", colour="red")
    for ready, changes, message in (
        ({"most": 0}, {"draft_length": 1}, "--mtp off"),
        ({"has_drafter": False}, {"draft_sources": ("drafter",)}, "no drafter"),
    ):
        with pytest.raises(EdgeMtpError, match=message):
            scripted(**ready)[0].chat("x", **changes)
    assert script.requests == []


def test_tokens_are_named_by_id_spelling_or_text(scripted: Scripted) -> None:
    engine, _ = scripted()
    tokenizer = engine.chat_format.tokenizer
    assert engine.token("106") == engine.token("<turn|>") == TURN_END
    for token in range(300, 340):
        assert engine.token(tokenizer.token_text(token)) == token or tokenizer.token_text(token).isdecimal()
    assert engine.token(" ") == tokenizer.encode(" ")[0]
    for name, message in (("9999", "outside the vocabulary"), ("many words here", "tokens .*, not one")):
        with pytest.raises(EdgeMtpError, match=message):
            engine.token(name)


# --- dialogues -------------------------------------------------------------------------------------------------------


def letters(engine: Engine, text: str) -> list[int]:
    """Ids of a text, a letter each: not what the tokenizer would choose."""
    return [token for letter in text for token in engine.chat_format.tokenizer.encode(letter)]


def test_a_prompt_begins_with_what_the_model_saw(scripted: Scripted) -> None:
    engine, script = scripted()
    engine.chat_format = ChatFormat(engine.chat_format.tokenizer, FAITHFUL, frozenset({TURN_END}))
    tokenizer = engine.chat_format.tokenizer
    said = ["set an alarm", "the message", "call the contact"]
    script.replies = [[*letters(engine, text), TURN_END] for text in said]
    assert all(letters(engine, text) != tokenizer.encode(text) for text in said)
    dialogue = Dialogue(engine)
    seen: list[int] = []
    for text in said:
        dialogue.say("What next?")
        reply = dialogue.reply().wait()
        dialogue.add(reply)
        assert list(reply.prompt[: len(seen)]) == seen
        assert tokenizer.decode(reply.prompt) == engine.chat_format.render(dialogue.messages[:-1])
        assert reply.text == text
        seen = [*reply.prompt, *reply.tokens]


# All but the end of a turn and the marks of a thought, which a history drops.
_SAID = st.integers(0, 99) | st.integers(102, 105) | st.integers(107, 767)


@given(st.lists(st.lists(_SAID, max_size=8), min_size=2, max_size=4))
def test_prompts_hold_what_the_model_wrote_whatever_it_is(bundle: Bundle, replies: list[list[int]]) -> None:
    """Also half characters, which no text can hold, and control tokens, which text cannot become."""
    engine = Engine(bundle, Script(*[[*reply, TURN_END] for reply in replies]))  # type: ignore[arg-type]
    tokenizer = engine.chat_format.tokenizer
    engine.chat_format = ChatFormat(tokenizer, FAITHFUL, frozenset({TURN_END}))
    dialogue = Dialogue(engine)
    seen: list[int] = []
    for ids in replies:
        dialogue.say("What next?")
        reply = dialogue.reply().wait()
        turn = "<turn|>\n<|turn>user\nWhat next?<turn|>\n<|turn>assistant\n"
        assert list(reply.prompt) == [*seen, *tokenizer.encode(turn if seen else "<bos>" + turn[8:])]
        dialogue.add(reply)
        seen = [*reply.prompt, *ids]


def test_stops_of_several_tokens_are_stop_texts(bundle: Bundle) -> None:
    stops = ["<turn|>", (2, 105), "the end"]
    metadata = replace(bundle.metadata, stop_tokens=stops)
    made = SimpleNamespace(
        path="x",
        metadata=metadata,
        tokenizer_json=bundle.tokenizer_json,
        manifest=None,
        chat_template=bundle.chat_template,
    )
    chat = chat_format_of(made)  # type: ignore[arg-type]
    assert chat.stop_token_ids == {TURN_END}
    assert chat.stop_texts == ("<bos><|turn>", "the end")
    assert chat_format_of(made, False).stop_texts == ()  # type: ignore[arg-type]


def test_what_was_cached_before_a_reply_stays_where_the_template_drops_it(scripted: Scripted) -> None:
    """Gemma's template puts an empty thought before a reply and has none in its histories: the cache has it."""
    engine, script = scripted()
    script.replies = [[*letters(engine, "set an alarm"), TURN_END]] * 3
    dialogue = Dialogue(engine)
    seen: list[int] = []
    for _ in range(3):
        dialogue.say("Hi")
        reply = dialogue.reply().wait()
        assert list(reply.prompt[: len(seen)]) == seen
        dialogue.add(reply)
        seen = [*reply.prompt, *reply.tokens]
    dialogue.messages[0] = {"role": "user", "content": "Ho"}  # of another conversation nothing is cached
    dialogue.say("Hi")
    replies = [*letters(engine, "set an alarm"), TURN_END] * 3
    prompt = dialogue.prompt()
    assert engine.chat_format.tokenizer.decode(prompt) == engine.chat_format.render(dialogue.messages)
    assert [i for i in replies if i not in prompt] == []


def test_a_stop_string_that_ended_a_reply_is_no_part_of_the_history(scripted: Scripted) -> None:
    engine, script = scripted()
    script.replies = [engine.chat_format.tokenizer.encode("one. two"), [TURN_END]]
    dialogue = Dialogue(engine)
    dialogue.say("Count")
    dialogue.add(dialogue.reply(ReplyOptions(stop_texts=[". "])).wait())
    assert dialogue.messages[-1] == {"role": "assistant", "content": "one"}
    dialogue.say("Go on")
    dialogue.reply().wait()
    assert "two" not in engine.chat_format.tokenizer.decode(script.requests[1].prompt)


def test_calls_and_responses_become_messages(scripted: Scripted, tools: list[dict[str, Any]]) -> None:
    engine, script = scripted()
    call = '<|tool_call>call:set_alarm{time:<|"|>06:40<|"|>}<tool_call|>'
    encode = engine.chat_format.tokenizer.encode
    script.replies = [[*encode("Sure. " + call), 50], [*encode("<|tool_call>call:broken"), 106]]
    dialogue = Dialogue(engine, tools=tools)
    dialogue.say("Wake me")
    dialogue.add(dialogue.reply(ReplyOptions(constrained=False)).wait())
    assert dialogue.messages[-1]["content"] == "Sure. "
    assert dialogue.messages[-1]["tool_calls"][0]["function"] == {"name": "set_alarm", "arguments": {"time": "06:40"}}
    assert [(each.name, each.id) for each in dialogue.waiting] == [("set_alarm", "call_0")]
    dialogue.respond("set_alarm", [1, 2.5, None])
    assert dialogue.waiting == []
    prompt = engine.chat_format.tokenizer.decode(dialogue.prompt())
    assert prompt.endswith(f"Sure. {call}<|tool_response>response:set_alarm{{value:[1,2.5,null]}}<tool_response|>")
    for nothing in ("set_alarm", "call_0", "set_timer", ToolCall("set_alarm", {"time": "06:40"})):
        with pytest.raises(EdgeMtpError, match=r"no call of '\w+' waits for an answer; waiting: none"):
            dialogue.respond(nothing, "again")
    dialogue.add(dialogue.reply(ReplyOptions(constrained=False)).wait())
    assert dialogue.messages[-1] == {"role": "assistant", "content": "<|tool_call>call:broken"}
    dialogue.say("never mind")
    dialogue.withdraw()
    assert dialogue.messages[-1]["role"] == "assistant"
    dialogue.reset()
    assert dialogue.messages == []


def test_a_saved_dialogue_goes_on_with_the_same_ids(scripted: Scripted, tmp_path: Path) -> None:
    engine, script = scripted()
    engine.chat_format = ChatFormat(engine.chat_format.tokenizer, FAITHFUL, frozenset({TURN_END}))
    script.replies = [[*letters(engine, "set an alarm"), TURN_END]]
    dialogue = Dialogue(engine, [{"role": "system", "content": "Be brief."}])
    dialogue.say("Hi")
    dialogue.add(dialogue.reply().wait())
    file = tmp_path / "talk.json"
    file.write_text("old")
    dialogue.save(file)
    assert list(tmp_path.iterdir()) == [file]  # nothing half-written beside it
    loaded = Dialogue.load(engine, file)
    assert loaded.messages == dialogue.messages
    for one in (dialogue, loaded):
        one.say("Again")
    assert loaded.prompt() == dialogue.prompt()
    assert loaded.prompt() != engine.chat_format.encode(dialogue.messages)  # the model's own ids are in it
    saved = json.loads(file.read_text())
    file.write_text(json.dumps({**saved, "chat_format": "another"}))  # of another vocabulary
    other = Dialogue.load(engine, file)
    other.say("Again")
    assert other.prompt() == engine.chat_format.encode(dialogue.messages)


def test_a_file_that_is_no_dialogue_is_one_line(scripted: Scripted, tmp_path: Path) -> None:
    engine, _ = scripted()
    file = tmp_path / "talk.json"
    good = {"edge_mtp_conversation": 2, "messages": [], "tools": [], "written": []}
    for text, message in (
        ("{", "not JSON: .* in line 1"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "was not written by /save"),
        (json.dumps({**good, "edge_mtp_conversation": 1}), "was not written by /save of this version"),
        (json.dumps({**good, "messages": [{"role": "alien", "content": "x"}]}), "message 0 has the role 'alien'"),
        (json.dumps({**good, "messages": 5}), "messages are not a list"),
        (json.dumps({**good, "messages": [{"role": "user", "content": 7}]}), "message 0 has the content 7"),
        (json.dumps({**good, "messages": [{"role": "tool", "content": {}}]}), "message 0 .* without a name"),
        (json.dumps({**good, "messages": [{"role": "assistant", "tool_calls": [{}]}]}), "message 0 has the call {}"),
        (json.dumps({**good, "tools": [{"name": "a<turn|>"}]}), "'a<turn|>' holds the control token"),
        (json.dumps({**good, "written": ["x"]}), "what the model wrote is not in token ids"),
        (json.dumps({**good, "written": [{"message": 0, "prompt": [10**7]}]}), "what the model wrote is not in token"),
    ):
        file.write_text(text)
        with pytest.raises(EdgeMtpError, match=message) as caught:
            Dialogue.load(engine, file)
        assert "\n" not in str(caught.value)
    with pytest.raises(EdgeMtpError, match="No such file"):
        Dialogue.load(engine, tmp_path / "absent")
    with pytest.raises(EdgeMtpError, match="cannot write"):
        Dialogue(engine).save(tmp_path / "absent" / "talk.json")


# --- the real runner -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine(tiny_bundle: Path) -> Iterator[Engine]:
    with open_engine(tiny_bundle) as engine:
        yield engine


def common(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


@pytest.mark.parametrize("faithful", [True, False], ids=["faithful", "rewriting"])
def test_turns_on_a_kept_cache_equal_fresh_ones(
    engine: Engine, tiny_bundle: Path, tools: list[dict[str, Any]], faithful: bool
) -> None:
    """Whatever the runner reuses of the turns before, the text is that of a runner which never saw them."""
    own = engine.chat_format
    options = ReplyOptions(max_tokens=24, constrained=False, draft_length=3)
    try:
        if faithful:
            engine.chat_format = ChatFormat(own.tokenizer, FAITHFUL, own.stop_token_ids)
        dialogue = Dialogue(engine, tools=[] if faithful else tools[:2])
        turns: list[Reply] = []
        cached: list[int] = []
        for text in ("Wake me at 6:40", "Start a timer of 5 minutes", "Wake me at 9:15"):
            dialogue.say(text)
            reply = dialogue.reply(options).wait()
            dialogue.add(reply)
            turns.append(reply)
            assert reply.outcome is not None
            # The last token of a reply need not be cached, and of a prompt at least one token is computed.
            reusable = min(common(reply.prompt, cached), len(reply.prompt)) - 1
            assert reply.outcome.reused_tokens >= reusable - 1
            cached = [*reply.prompt, *reply.tokens]
        if faithful:
            assert common(turns[1].prompt, [*turns[0].prompt, *turns[0].tokens]) == len(turns[0].prompt) + len(
                turns[0].tokens
            )
    finally:
        engine.chat_format = own
    for turn in turns:
        with open_engine(tiny_bundle) as fresh:
            again = fresh.generate(
                Request(turn.prompt, 24, stop=sorted(own.stop_token_ids), draft_length=3, draft_policy="fixed")
            ).wait()
        assert again.tokens == turn.tokens


def test_a_reply_left_early_harms_no_later_one(engine: Engine) -> None:
    whole = engine.chat("Tell me something", max_tokens=40).wait()
    dialogue = Dialogue(engine)
    dialogue.say("Tell me something")
    left = dialogue.reply(ReplyOptions(max_tokens=40))
    for index, _ in enumerate(left):
        if index == 3:
            break
    assert left.tokens == whole.tokens[: len(left.tokens)]
    dialogue.add(left)
    dialogue.withdraw()  # takes back nothing: the model has said something
    assert dialogue.messages[-1]["content"] == left.text
    assert engine.chat("Tell me something", max_tokens=40).wait().tokens == whole.tokens
