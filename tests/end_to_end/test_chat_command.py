"""`edge-mtp run`: its options, the chat in a pipe and at a terminal, and every refusal; on a scripted runner.

The last tests talk to the real one.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from terminal import Terminal

import edge_mtp
import edge_mtp.engine
from edge_mtp.chat.chat_format import ChatFormat
from edge_mtp.cli import main
from edge_mtp.device import Runner
from edge_mtp.device.load_options import LoadOptions
from edge_mtp.device.local_link import LocalLink
from edge_mtp.device.process import LocalProcess
from edge_mtp.formats.grammar import response_grammar, tool_grammar
from edge_mtp.formats.tool_calls import load_tools

TINY = Path(edge_mtp.__file__).parent / "tiny"
TOOLS = str(TINY / "tools.json")
CHAT = ChatFormat.from_directory(TINY / "target")
FAKE = Path(__file__).parents[1] / "helpers" / "fake_runner.py"
CALL = '<|tool_call>call:set_alarm{time:<|"|>06:40<|"|>}<tool_call|>'
BOUND_S = 120.0  # of every wait


def says(text: str, end: int = 106, **more: Any) -> dict[str, Any]:
    """A scripted reply."""
    return {"tokens": [*CHAT.tokenizer.encode(text), end], **more}


class Command:
    """`edge-mtp run` on a runner with a script."""

    name = "scripted"
    link = LocalLink()

    def __init__(self, folder: Path, bundle: Path, patch: pytest.MonkeyPatch) -> None:
        self.script = folder / "script.json"
        self.bundle = bundle
        self._log = Path(f"{self.script}.log")
        patch.setattr(edge_mtp.engine, "find_device", lambda name, **told: self)

    def close(self) -> None:
        pass

    def start(self, bundle: Path, options: LoadOptions) -> Runner:
        return Runner(LocalProcess([sys.executable, str(FAKE), str(self.script)]), silence_s=BOUND_S)

    def __call__(self, *arguments: str, replies: list[dict[str, Any]], lines: list[str] | None = None) -> Result:
        self.script.write_text(json.dumps(replies))
        self._log.unlink(missing_ok=True)
        text = "".join(line + "\n" for line in lines or [])
        return CliRunner().invoke(main, ["run", "--bundle", str(self.bundle), *arguments], input=text)

    @property
    def requests(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._log.read_text("utf-8").splitlines()] if self._log.exists() else []

    @property
    def prompts(self) -> list[str]:
        return [CHAT.tokenizer.decode(request["prompt"]) for request in self.requests]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def command(tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(tmp_path, tiny_bundle, monkeypatch)


# --- one prompt ------------------------------------------------------------------------------------------------------


def test_a_prompt_is_answered_with_its_figures(command: Command) -> None:
    result = command("Wake me at 6:40", "--tools", TOOLS, replies=[says(CALL, 50, accepted=3)])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[:2] == [CALL, 'call  set_alarm(time="06:40")']
    for figure in ("first token", "tokens/s", "tokens per verify", "by position 100% 100% 100%", "ended by stop"):
        assert figure in result.stdout
    assert "drafts accepted by source: drafter" in result.stdout
    assert "\x1b" not in result.stdout


def test_every_option_reaches_the_request(command: Command) -> None:
    Path("schema.json").write_text('{"type": "object"}')
    result = command(
        "Hi", "--mtp", "3", "--draft-sources", "lookup, drafter", "--temperature", "0.7", "--top-k", "9",
        "--top-p", "0.9", "--min-p", "0.1", "--seed", "5", "--repetition-penalty", "1.2", "--presence-penalty", "0.3",
        "--frequency-penalty", "-0.4", "--logit-bias", "106=-2.5", "--logit-bias", "<|tool_call>=1", "--suppress", "7",
        "--suppress", "<turn|>", "--max-tokens", "40", "--stop", "END", "--stop", "\n\n", "--logprobs",
        "--response-schema", "schema.json", "--system", "Be brief.", "--keep-prefix", "--json",
        replies=[says("Hello")],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    (request,) = command.requests
    expected = {
        "max_tokens": 40, "stop": [50, 106], "stop_texts": ["END", "\n\n"], "draft_length": 3, "draft_policy": "fixed",
        "draft_sources": ["lookup", "drafter"], "temperature": 0.7, "top_k": 9, "top_p": 0.9, "min_p": 0.1, "seed": 5,
        "repetition_penalty": 1.2, "presence_penalty": 0.3, "frequency_penalty": -0.4,
        "logit_bias": [[106, -2.5], [48, 1.0]], "suppress": [7, 106], "logprobs": True,
        "grammar": response_grammar({"type": "object"}),
    }  # fmt: skip
    assert {name: request[name] for name in expected} == expected
    kept = CHAT.tokenizer.decode(request["prompt"][: request["keep_prefix"]])
    assert kept == "<bos><|turn>system\nBe brief.<turn|>\n<|turn>user\n"
    shown = json.loads(result.stdout)
    assert shown["text"] == "Hello"
    assert shown["logprobs"] == [-0.25] * len(shown["tokens"])
    assert shown["trace"][-1]["event"] == "done"


def test_log_probabilities_stand_beside_their_tokens(command: Command) -> None:
    result = command("Hi", "--logprobs", replies=[says("the message")])
    listed = re.findall(r"^ +-0\.2500  (.+)$", result.stdout, re.MULTILINE)
    assert listed == [CHAT.tokenizer.token_text(t) for t in says("the message")["tokens"]]


def test_grammar_and_tool_choice_constrain(command: Command) -> None:
    Path("g.ebnf").write_text('root ::= "yes" | "no"\n')
    assert command("Hi", "--grammar", "g.ebnf", replies=[says("yes")]).exit_code == 0
    assert command.requests[0]["grammar"] == 'root ::= "yes" | "no"\n'
    tools = load_tools(TOOLS)
    for arguments, grammar in (
        ([], tool_grammar(tools).text),
        (["--constrained"], tool_grammar(tools).text),
        (["--unconstrained"], ""),
        (["--tool-choice", "set_timer"], tool_grammar(tools, choice="set_timer").text),
        (["--single-call", "--strict-tools"], tool_grammar(tools, parallel=False).text),
        (["--thinking"], tool_grammar(tools, thinking="may").text),
        (["--no-thinking"], tool_grammar(tools).text),
    ):
        assert command("Hi", "--tools", TOOLS, *arguments, replies=[says("yes")]).exit_code == 0
        assert command.requests[0]["grammar"] == grammar


def test_mtp_is_the_controllers_off_or_a_number(command: Command) -> None:
    for argument, policy, length in (("auto", "auto", 7), ("off", "fixed", 0), ("2", "fixed", 2)):
        command("Hi", "--mtp", argument, replies=[says("yes")])
        assert (command.requests[0]["draft_policy"], command.requests[0]["draft_length"]) == (policy, length)
    command("Hi", replies=[says("yes")])
    assert command.requests[0]["draft_policy"] == "auto"


def test_compare_pairs_replies_with_and_without_drafts(command: Command) -> None:
    reply = says("the message", accepted=2)
    result = command("Hi", "--compare", "--rounds", "2", "--json", replies=[reply] * 6)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["comparison"]["same_text"] is True
    assert [r["draft_length"] for r in command.requests] == [7, 0, 7, 0, 0, 7]


def test_what_a_model_writes_cannot_steer_the_terminal(command: Command) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp"
    result = command("Hi", "--logprobs", replies=[says(f"a{evil}\nb")])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("a\\x1b]0;owned\\x07\\x1b[2J\\x9b31m\\u202egnp\nb\n")
    called = command("Hi", "--tools", TOOLS, replies=[says(CALL.replace("06:40", evil), 50)])
    for text in (result.output, called.output):
        assert "owned" in text
        assert not set("\x1b\x07\x9b\u202e") & set(text)


# --- refusals --------------------------------------------------------------------------------------------------------

FILES = {
    "broken.json": "{",
    "list.json": "[1]",
    "number.json": "7",
    "nan.json": '{"const": NaN}',
    "empty.txt": "",
    "binary": b"\xff\xfe\x00",
    "responses.json": '{"fly": 1}',
    "talk.json": '{"messages": []}',
    "schema.json": "{}",
    "grammar.ebnf": 'root ::= "x"',
    "half.json": json.dumps([{"name": "f", "description": "\ud800", "parameters": {"type": "object"}}]),
    "half-talk.json": json.dumps(
        {"edge_mtp_conversation": 2, "messages": [{"role": "user", "content": "\ud800"}], "tools": [], "written": []}
    ),
    "deep.json": "[" * 100_000,
}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["Hi", "--mtp", "9"], "draft length 9 is beyond the 7 that this bundle verifies"),
        (["--mtp", "9"], "draft length 9 is beyond the 7 that this bundle verifies"),
        (["Hi", "--tool-choice", "auto"], "tool choice 'auto' needs tools; declare some (--tools FILE)"),
        (
            ["Hi", "--tools", TOOLS, "--tool-choice", "fly"],
            "tool choice 'fly' is no declared tool; use one of set_alarm",
        ),
        (["Hi", "--tools", TOOLS, "--tool-choice", "none", "--unconstrained"], "drop it, or --unconstrained"),
        (["Hi", "--constrained"], "need tools"),
        (["Hi", "--tools", "broken.json"], "tools file 'broken.json' is not JSON"),
        (["Hi", "--tools", "list.json"], "tools file 'list.json', tool 0"),
        (["Hi", "--tools", "absent"], "cannot read tools file 'absent': No such file"),
        (["Hi", "--response-schema", "broken.json"], "response schema 'broken.json' is not JSON"),
        (["Hi", "--response-schema", "number.json"], "the schema is a int; pass a JSON schema"),
        (["Hi", "--response-schema", "nan.json"], "the schema is not JSON"),
        (["Hi", "--response-schema", "absent"], "cannot read response schema 'absent': No such file"),
        (["Hi", "--response-schema", "schema.json", "--grammar", "grammar.ebnf"], "cannot both constrain"),
        (["Hi", "--grammar", "empty.txt"], "the grammar is empty"),
        (["Hi", "--grammar", "binary"], "grammar 'binary' is not UTF-8 text"),
        (["Hi", "--logit-bias", "768=1"], "token 768 is outside the vocabulary of 768"),
        (["Hi", "--logit-bias", "many words=1"], "not one; name each"),
        (["Hi", "--logit-bias", "5=inf"], "bias inf of token 5 is not finite"),
        (["Hi", "--suppress", "99999"], "token 99999 is outside the vocabulary of 768"),
        (["Hi", "--presence-penalty", "nan"], "presence_penalty is nan"),
        (["Hi", "--stop", ""], "stop string is empty"),
        (["--stop", ""], "stop string is empty"),
        (["--tool-choice", "none"], "tool choice 'none' needs tools"),
        (["Hi", "--system", "@absent"], "cannot read system prompt 'absent'"),
        (["Hi", "--load", "broken.json"], "conversation 'broken.json' is not JSON"),
        (["--load", "talk.json"], "was not written by /save"),
        (["--tools", TOOLS, "--tool-responses", "broken.json"], "tool responses 'broken.json' is not JSON"),
        (["--tools", TOOLS, "--tool-responses", "number.json"], "neither {name: response} nor a list"),
        (["--tools", TOOLS, "--tool-responses", "responses.json"], "name 'fly', no declared tool; declared: set_alarm"),
        (["word " * 1000], "the conversation has"),
        (["Hi \udcff"], "the text has \\udcff, which is no character; give it in UTF-8"),
        (["Hi", "--system", "\udcff"], "\\udcff, which is no character"),
        (["Hi", "--stop", "\udcff"], "\\udcff, which is no character"),
        (["--stop", "\udcff"], "\\udcff, which is no character"),
        (["Hi", "--suppress", "\udcff"], "\\udcff, which is no character"),
        (["Hi", "--tools", "half.json"], "\\ud800, which is no character"),
        (["Hi", "--load", "half-talk.json"], "\\ud800, which is no character"),
        (["Hi", "--tools", "deep.json"], "nested too deeply"),
        (["Hi", "--tools", "\udcff.json"], "cannot read tools file"),
    ],
)
def test_bad_input_is_one_line(command: Command, arguments: list[str], message: str) -> None:
    for name, content in FILES.items():
        Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    result = command(*arguments, replies=[], lines=["Hi"])
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert message in result.stderr
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert command.requests == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["Hi", "--mtp", "fast"], "'fast' is no way to draft; use auto, off, or K"),
        (["Hi", "--mtp", "0"], "use auto, off, or K"),
        (["Hi", "--draft-sources", "drafter,oracle"], "'oracle' is no source; use drafter, lookup, grammar"),
        (["Hi", "--logit-bias", "5"], "'5' is not TOKEN=BIAS"),
        (["Hi", "--logit-bias", "5=x"], "'5=x' is not TOKEN=BIAS"),
        (["Hi", "--min-p", "2"], "--min-p"),
        (["Hi", "--compare", "--mtp", "off"], "--compare and --mtp off contradict"),
        (["--compare"], "--compare and a chat contradict"),
        (["Hi", "--tool-responses", "x"], "--tool-responses is for a chat"),
    ],
)
def test_wrong_usage_has_its_status(command: Command, arguments: list[str], message: str) -> None:
    result = command(*arguments, replies=[])
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


def test_help_is_in_groups_that_fit_a_terminal() -> None:
    result = CliRunner().invoke(main, ["run", "--help"], terminal_width=80)
    assert result.exit_code == 0
    for group in ("Model and device:", "Conversation:", "Drafting", "Sampling:", "Constraints and ends:", "Output:"):
        assert group in result.output
    assert max(map(len, result.output.splitlines())) <= 80


# --- the chat in a pipe ----------------------------------------------------------------------------------------------


def test_turns_follow_one_another(command: Command) -> None:
    result = command(replies=[says("the first"), says("the second")], lines=["One", "", "  ", "Two"])
    assert result.exit_code == 0, result.output
    assert result.output == "the first\nthe second\n"
    first, second = command.prompts
    assert "<|turn>user\nOne<turn|>" in first
    # The empty thought that stood before the first reply is in the cache, and stays.
    lead = "<|channel>thought\n<channel|>"
    assert f"<|turn>user\nOne<turn|>\n<|turn>model\n{lead}the first<turn|>\n<|turn>user\nTwo<turn|>" in second


def test_calls_are_shown_and_answered_from_the_input(command: Command) -> None:
    call = says(CALL, 50)
    result = command(
        "--tools", TOOLS,
        replies=[call, says("Done."), call, says("Skipped."), call, says("Said.")],
        lines=["Wake me", '{"ok": true}', "Again", "", "So?", "Once more", "all set"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert result.stdout.count('call  set_alarm(time="06:40")') == 3
    _, done, _, skipped, _, said = command.prompts
    assert done.endswith("<|tool_response>response:set_alarm{ok:true}<tool_response|>")
    assert skipped.endswith("<|turn>user\nSo?<turn|>\n<|turn>model\n<|channel>thought\n<channel|>")
    assert said.endswith('response:set_alarm{value:<|"|>all set<|"|>}<tool_response|>')


def test_commands_work_where_a_response_is_awaited(command: Command) -> None:
    result = command(
        "--tools", TOOLS, replies=[says(CALL, 50), says("Done."), says(CALL, 50), says("New.")],
        lines=["Wake me", "/save talk.json", "/nonsense", "ok", "Again", "/reset", "", "Start"],
    )  # fmt: skip
    assert "saved 2 messages in talk.json" in result.stderr
    assert "/nonsense is no command" in result.stderr
    assert command.prompts[1].endswith('response:set_alarm{value:<|"|>ok<|"|>}<tool_response|>')
    assert "Wake me" not in command.prompts[3]
    assert "Again" not in command.prompts[3]
    assert result.stdout.endswith("New.\n")


def test_calls_are_answered_from_a_file(command: Command) -> None:
    Path("by_name.json").write_text('{"set_alarm": {"ok": true}}')
    Path("in_order.json").write_text('["first", {"n": 2}]')
    call = says(CALL, 50)
    result = command(
        "--tools", TOOLS, "--tool-responses", "by_name.json",
        replies=[call, says("Done."), says(CALL.replace("set_alarm", "set_timer"), 50), says("Fine.")],
        lines=["Wake me", "Time me", "Next"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert 'response of set_alarm: {"ok": true}' in result.stdout
    assert command.prompts[1].endswith("response:set_alarm{ok:true}<tool_response|>")
    assert command.prompts[3].endswith("<|turn>user\nNext<turn|>\n<|turn>model\n<|channel>thought\n<channel|>")
    result = command(
        "--tools", TOOLS, "--tool-responses", "in_order.json", replies=[call, call, call], lines=["Wake me"]
    )
    assert result.exit_code == 0, result.output
    assert command.prompts[1].endswith('response:set_alarm{value:<|"|>first<|"|>}<tool_response|>')
    assert command.prompts[2].endswith("response:set_alarm{n:2}<tool_response|>")


def test_a_model_that_calls_for_ever_is_stopped(command: Command) -> None:
    from edge_mtp.cli.chat import MOST_ROUNDS

    Path("r.json").write_text('{"set_alarm": 1}')
    short = says("<|tool_call>call:set_alarm{}<tool_call|>", 50)
    result = command(
        "--tools", TOOLS, "--tool-responses", "r.json", "--unconstrained",
        replies=[short] * MOST_ROUNDS + [says("Yes?")], lines=["Wake me", "Stop it"],
    )  # fmt: skip
    assert result.exit_code == 1
    assert f"{MOST_ROUNDS} rounds of tool calls" in result.stderr
    assert result.stdout.endswith("Yes?\n")


def test_commands(command: Command) -> None:
    result = command(
        "--system", "Be brief.",
        replies=[says("the message", accepted=2, source="l"), says("the alarm", accepted=1), says("the end")],
        lines=[
            "/help", "/marks on", "One", "/stats", "/mtp 1", "Two", "/stats", "/save talk.json", "/reset", "/mtp auto",
            "Three", "/quit", "Four",
        ],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert all(f"\n{name}" in "\n" + result.stdout for name in ("/help", "/stats", "/mtp", "/marks", "/save", "/quit"))
    assert "\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}" in result.stdout
    bare = re.sub(
        "[\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}]",
        "",
        result.stdout,
    )
    assert "\nthe message\n" in bare
    for figure in (
        "last reply\n",
        "all 2 replies\n",
        "lookup",
        "tokens of the prompt were in the cache",
        "drafts asked of the drafter",
    ):
        assert figure in result.stdout
    assert [(r["draft_policy"], r["draft_length"]) for r in command.requests] == [
        ("auto", 7), ("fixed", 1), ("auto", 7),
    ]  # fmt: skip
    assert [m["role"] for m in json.loads(Path("talk.json").read_text())["messages"]] == [
        "system", "user", "assistant", "user", "assistant",
    ]  # fmt: skip
    assert "One" not in command.prompts[2]
    assert "Be brief." in command.prompts[2]


THOUGHT = "<|channel>thought\nThe alarm.\n\nYes.\n<channel|>Done"


def test_a_thought_is_shown_and_given_apart(command: Command) -> None:
    options = ["Hi", "--thinking", "--thinking-budget", "50", "--template-var", "tone=[1]", "--template-var", "x=calm"]
    shown = command(*options, replies=[says(THOUGHT)])
    assert shown.stdout.startswith("| The alarm.\n| \n| Yes.\nDone\n"), shown.output
    (request,) = command.requests
    assert (request["thought_marks"], request["thought_opened"], request["thought_budget"]) == ([100, 101], False, 50)
    assert command.prompts[0].startswith("<bos><|turn>system\n<|think|>")
    given = json.loads(command(*options, "--json", replies=[says(THOUGHT)]).stdout)
    assert (given["text"], given["reasoning"]) == ("Done", "The alarm.\n\nYes.")
    assert "thought_budget" not in (command("Hi", replies=[says("yes")]), command.requests)[1][0]


def test_a_thought_is_dimmed_where_there_are_colours() -> None:
    from edge_mtp.cli.transcript import Writer
    from edge_mtp.reply import Token

    with CliRunner().isolation(color=True) as (output, *_):
        writer = Writer("colour")
        for token in (Token(1, "So", channel="reasoning"), Token(2, " be", "drafter"), Token(3, " it")):
            writer.write(token)
        writer.finish()
    assert output.getvalue().decode() == "\x1b[2m| So\x1b[0m\n\x1b[32m be\x1b[0m it\n"
    with CliRunner().isolation() as (output, *_):
        writer = Writer("brackets")
        for token in (
            Token(1, "A", "drafter", channel="reasoning"),
            Token(2, "\n\nB", channel="reasoning"),
            Token(3, "C"),
        ):
            writer.write(token)
        writer.finish()
    assert output.getvalue().decode() == "| \u2039A\u203a\n| \n| B\nC\n"


def test_thinking_is_switched_in_the_chat(command: Command) -> None:
    lines = ["/thinking on", "One", "/thinking off", "Two", "/thinking auto", "Three"]
    result = command(replies=[says("a"), says("b"), says("c")], lines=lines)
    assert result.exit_code == 0, result.output
    assert ["<|think|>" in prompt for prompt in command.prompts] == [True, False, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--template-var", "x"], "'x' is not NAME=VALUE"),
        (["--template-var", "=1"], "'=1' is not NAME=VALUE"),
        (["--template-var", "x=1", "--template-var", "x=2"], "'x' is given twice"),
        (["--template-var", "tools=[]"], "template variable 'tools' is given by the conversation"),
        (["--thinking", "--template-var", "enable_thinking=false"], "'enable_thinking' is False and thinking is True"),
        (["--single-call", "--unconstrained"], "--single-call holds by constraining calls"),
        (["--strict-tools", "--unconstrained"], "--strict-tools holds by constraining calls"),
    ],
)
def test_options_that_cannot_hold_are_one_line(command: Command, options: list[str], message: str) -> None:
    result = command("Hi", *options, replies=[])
    assert result.exit_code != 0
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_wrong_commands_say_what_there_is_and_the_chat_goes_on(command: Command) -> None:
    lines = ["/dance", "/mtp", "/mtp 9", "/thinking", "/marks", "/save", "/save absent/talk.json", "/stats", "Hi"]
    result = command(replies=[says("yes")], lines=lines)
    assert result.exit_code == 1
    assert result.stdout == "yes\n"
    errors = result.stderr.splitlines()
    assert len(errors) == len(lines) - 1
    for error, message in zip(
        errors,
        (
            "/dance is no command; use /help, /stats, /mtp, /thinking, /marks, /save, /reset, /quit",
            "use auto, off, or K", "beyond the 7", "use /thinking on", "use /marks on", "use /save FILE",
            "cannot write 'absent/talk.json'",
            "before the first reply",
        ),
        strict=True,
    ):  # fmt: skip
        assert message in error


def test_a_saved_chat_goes_on(command: Command) -> None:
    command("--tools", TOOLS, replies=[says("the first")], lines=["One", "/save talk.json"])
    for arguments, lines in ((["--load", "talk.json"], ["Two"]), (["Two", "--load", "talk.json"], [])):
        result = command(*arguments, replies=[says("the second")], lines=lines)
        assert result.exit_code == 0, result.output
        history = "One<turn|>\n<|turn>model\n<|channel>thought\n<channel|>the first<turn|>\n<|turn>user\nTwo<turn|>"
        assert history in command.prompts[0]
        assert "declaration:set_alarm" in command.prompts[0]
    result = command("--load", "talk.json", "--system", "x", replies=[], lines=["Two"])
    assert "drop --system" in result.stderr


def test_json_is_one_object_a_reply(command: Command) -> None:
    result = command(
        "--tools", TOOLS, "--json", replies=[says(CALL, 50), says("Done."), says("Bye")],
        lines=["Wake me", "ok", "/stats", "/nonsense", "Thanks"],
    )  # fmt: skip
    turns = [json.loads(line) for line in result.stdout.splitlines()]
    assert [turn["text"] for turn in turns] == [CALL, "Done.", "Bye"]
    assert turns[0]["tool_calls"] == [{"name": "set_alarm", "arguments": {"time": "06:40"}}]
    assert turns[1]["summary"]["reused_tokens"] > 0
    assert "last reply" in result.stderr
    assert "no command" in result.stderr


def test_a_turn_that_fails_is_taken_back(command: Command) -> None:
    result = command(
        replies=[says("one"), {"error": "the graph\nfailed"}, says("two")],
        lines=["First", "word " * 1000, "Bad", "Last"],
    )
    assert result.exit_code == 1
    assert result.stdout == "one\ntwo\n"
    assert "context holds 1000; shorten it" in result.stderr
    assert "; /reset starts over\nError: the graph failed\n" in result.stderr
    assert "Bad" not in command.prompts[-1]
    assert "First" in command.prompts[-1]


def test_a_full_context_says_what_to_do(command: Command) -> None:
    result = command(replies=[says("one", finish="context"), says("two three four")], lines=["First"])
    assert result.stderr == "the context is full; /reset starts over\n"
    result = command("--max-tokens", "1", replies=[says("two three four")], lines=["First"])
    assert result.stderr == "cut off after 1 tokens; --max-tokens allows more\n"


def test_a_dead_runner_ends_the_chat(command: Command) -> None:
    result = command(replies=[{"die": "out of memory"}, says("x")], lines=["First", "Second"])
    assert result.exit_code == 1
    assert result.stderr.count("Error") == 1
    assert "exit code 9: out of memory" in result.stderr


def test_bytes_that_are_no_text_do_not_end_the_chat(command: Command) -> None:
    command.script.write_text(json.dumps([says("yes")]))
    result = CliRunner().invoke(main, ["run", "--bundle", str(command.bundle)], input=b"caf\xe9\n")
    assert result.output == "yes\n"
    assert "caf\N{REPLACEMENT CHARACTER}" in command.prompts[0]


# --- the chat at a terminal ------------------------------------------------------------------------------------------

# What the command does, with the scripted runner in the device's place.
SCRIPTED = """
import sys
import edge_mtp.engine
from edge_mtp.device import Runner
from edge_mtp.device.process import LocalProcess
fake, script = sys.argv[1:3]
del sys.argv[1:3]
class Device:
    def start(self, bundle, options):
        return Runner(LocalProcess([sys.executable, fake, script]))
    def close(self):
        pass
edge_mtp.engine.find_device = lambda name, **told: Device()
from edge_mtp.cli import main
main()
"""


@pytest.fixture
def terminal(tmp_path: Path, tiny_bundle: Path) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def start(*arguments: str, replies: list[dict[str, Any]] | None) -> Terminal:
        script = tmp_path / "script.json"
        script.write_text(json.dumps(replies))
        real = "from edge_mtp.cli import main; main()"
        code = ["-c", real] if replies is None else ["-c", SCRIPTED, str(FAKE), str(script)]
        opened.append(Terminal([sys.executable, *code, "run", "--bundle", str(tiny_bundle), *arguments]))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def test_a_chat_at_a_terminal(terminal: Callable[..., Terminal]) -> None:
    chat = terminal("--tools", TOOLS, replies=[says(CALL, 50), says("the alarm", accepted=2)])
    chat.expect("Ctrl-D ends")
    chat.expect("> ")
    chat.type("Wake me\n")
    chat.expect(r"call  set_alarm\(time=\"06:40\"\)")
    chat.expect("response of set_alarm> ")
    chat.type('{"ok": true}\n')
    assert "\x1b[32m" in chat.expect(r"\n> ")  # accepted drafts of the drafter are green
    chat.type("/nonsense\n")
    chat.expect("Error: /nonsense is no command")
    chat.expect("> ")
    chat.press("\x04")
    assert chat.wait() == 0


def test_ctrl_c_stops_the_reply_and_not_the_chat(terminal: Callable[..., Terminal]) -> None:
    endless = {"tokens": CHAT.tokenizer.encode("the message " * 20), "pause_s": 0.3}
    chat = terminal(replies=[endless, says("of the other")])
    chat.expect("> ")
    chat.press("half a line\x03")
    chat.expect("> ")
    chat.type("Go\n")
    chat.expect("message")
    chat.type("\x03")
    chat.expect("stopped")
    chat.expect("> ")
    chat.type("Now?\n")
    chat.expect("of the other")
    chat.expect("> ")
    chat.type("/quit\n")
    assert chat.wait() == 0


def test_ctrl_c_between_the_line_and_the_reply_stops_the_turn(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as while the conversation is made into tokens."""
    from edge_mtp.cli.lines import InterruptedTwice, Lines
    from edge_mtp.dialogue import Dialogue

    reply, interrupts = Dialogue.reply, [KeyboardInterrupt, InterruptedTwice]

    def interrupted(self: Dialogue, *arguments: Any) -> Any:
        if self.messages[-1]["content"] == "stop":
            raise interrupts.pop(0)
        return reply(self, *arguments)

    init, lines = Lines.__init__, iter(["stop", "Hi", "stop"])

    def at_a_terminal(self: Lines, **options: Any) -> None:
        init(self, **options)
        self.terminal = True

    monkeypatch.setattr(Dialogue, "reply", interrupted)
    monkeypatch.setattr(Lines, "__init__", at_a_terminal)
    monkeypatch.setattr(Lines, "read", lambda self, prompt: next(lines, None))
    result = command(replies=[says("Hello")])
    assert "stopped" in result.stderr
    assert "Hello" in result.stdout
    assert result.exit_code == 130  # by the second one of the last turn
    assert command.prompts[0].count("stop") == 0  # taken back


# --- the real runner -------------------------------------------------------------------------------------------------


def test_ctrl_c_spares_the_real_runner(terminal: Callable[..., Terminal]) -> None:
    chat = terminal("--max-tokens", "400", "--suppress", "106", "--suppress", "50", replies=None)
    chat.expect("> ")
    chat.type("Tell me something\n")
    chat.expect(r"\n[^>]")
    chat.type("\x03")
    chat.expect("> ")
    chat.type("Hello?\n")
    chat.expect(r"\n[^>\r\n][^\n]*\n")
    chat.expect("> ")
    chat.type("/stats\n")
    chat.expect("tokens of the prompt were in the cache")
    chat.expect("> ")
    chat.press("\x04")
    assert chat.wait() == 0


def test_the_real_chat_equals_single_runs(tiny_bundle: Path) -> None:
    """A turn of a chat is what a run gives that starts from the conversation saved before it."""
    arguments = ["run", "--bundle", str(tiny_bundle), "--tools", TOOLS, "--unconstrained", "--json"]
    lines = "Wake me at 6:40\n\n/save one.json\nText Ana that I am late\n"
    code = [sys.executable, "-c", "from edge_mtp.cli import main; main()"]
    ran = subprocess.run([*code, *arguments], input=lines, capture_output=True, text=True, timeout=BOUND_S)
    assert ran.returncode == 0, ran.stderr
    first, second = map(json.loads, ran.stdout.splitlines())
    assert first["tool_calls"]
    assert second["summary"]["reused_tokens"] > first["summary"]["prompt_tokens"] // 2
    single = CliRunner().invoke(main, [*arguments, "--load", "one.json", "Text Ana that I am late"])
    assert json.loads(single.stdout)["tokens"] == second["tokens"]


def run_real(bundle: Path, *arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(main, ["run", "--bundle", str(bundle), "--json", *arguments])
    assert result.exit_code == 0, result.output
    shown: dict[str, Any] = json.loads(result.stdout)
    return shown


@pytest.mark.parametrize(
    "options",
    [
        ["--tools", TOOLS],
        ["--tools", TOOLS, "--temperature", "1.2", "--seed", "3"],
        ["--temperature", "1", "--min-p", "0.05", "--repetition-penalty", "1.3", "--presence-penalty", "0.5"],
        ["--frequency-penalty", "0.7", "--logit-bias", "e=-3", "--suppress", "<turn|>", "--suppress", "300"],
        ["--temperature", "0.8", "--top-k", "20", "--top-p", "0.9", "--response-schema", "schema.json"],
        ["--grammar", "grammar.ebnf", "--stop", "ee"],
    ],
    ids=lambda options: " ".join(options).replace(TOOLS, "FILE"),
)
def test_real_options_give_the_same_text_with_mtp_and_without(tiny_bundle: Path, options: list[str]) -> None:
    Path("schema.json").write_text(
        '{"type": "object", "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "y"]}}, "required": ["b"],'
        ' "additionalProperties": false}'
    )
    Path("grammar.ebnf").write_text('root ::= [a-e]+ "."')
    arguments = ["Wake me at 6:40 and tell me something", "--max-tokens", "60", "--logprobs", *options]
    plain = run_real(tiny_bundle, *arguments, "--mtp", "off")
    for mtp in ("auto", "2", "7"):
        drafted = run_real(tiny_bundle, *arguments, "--mtp", mtp, "--draft-sources", "drafter,lookup,grammar")
        assert (drafted["tokens"], drafted["text"]) == (plain["tokens"], plain["text"])
        assert drafted["logprobs"] == pytest.approx(plain["logprobs"], abs=1e-3)
    assert len(plain["logprobs"]) == len(plain["tokens"])
    assert all(logprob <= 0 for logprob in plain["logprobs"])
    if "--response-schema" in options and plain["summary"]["finish"] == "stop":
        assert json.loads(plain["text"])["b"] in ("x", "y")
    if "--grammar" in options:
        assert set(plain["text"]) <= set("abcde.")
        assert "ee" not in plain["text"]
    if "--suppress" in options:
        assert not {106, 300} & set(plain["tokens"])


def test_a_real_prefix_is_kept_for_the_next_run(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path.cwd()))
    arguments = ["--tools", TOOLS, "--system", "Be brief.", "--keep-prefix"]
    first = run_real(tiny_bundle, *arguments, "Wake me at 6:40")
    second = run_real(tiny_bundle, *arguments, "Text Ana that I am late")
    assert first["summary"]["restored_tokens"] == 0
    assert second["summary"]["restored_tokens"] > 200
    assert second["tokens"] == run_real(tiny_bundle, *arguments[:-1], "Text Ana that I am late")["tokens"]


def test_real_bundles_without_our_parts_are_constrained_too(tmp_path: Path) -> None:
    """The token bytes, which the official files lack, come from the host."""
    from official_bundle import Variant, write

    bundle = write(Variant(param_tensor=False), tmp_path / "official.litertlm")
    shown = run_real(bundle, "--tools", TOOLS, "--tool-choice", "set_timer", "--max-tokens", "40", "Wake me at 6:40")
    assert {call["name"] for call in shown["tool_calls"]} == {"set_timer"}


@pytest.mark.parametrize(
    ("option", "content", "message"),
    [("--grammar", "root ::= nothing", "grammar"), ("--response-schema", '{"type": "strin"}', "schema")],
)
def test_real_constraints_that_do_not_compile_are_one_line(
    tiny_bundle: Path, option: str, content: str, message: str
) -> None:
    Path("file").write_text(content)
    result = CliRunner().invoke(main, ["run", "--bundle", str(tiny_bundle), option, "file", "Hi"])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_real_calls_are_valid_under_every_choice(tiny_bundle: Path) -> None:
    arguments = ["run", "--bundle", str(tiny_bundle), "--tools", TOOLS, "--json", "--max-tokens", "80"]
    for choice in ("required", "set_timer"):
        result = CliRunner().invoke(main, [*arguments, "--tool-choice", choice, "Tell me a story about the sea"])
        assert result.exit_code == 0, result.output
        names = [call["name"] for call in json.loads(result.stdout)["tool_calls"]]
        assert names
        assert choice == "required" or set(names) == {"set_timer"}
    result = CliRunner().invoke(main, [*arguments, "--tool-choice", "none", "Wake me at 6:40"])
    assert json.loads(result.stdout)["tool_calls"] == []
