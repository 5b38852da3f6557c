"""A request's fields: one set of them from the option of `edge-mtp run` to the protocol."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

import edge_mtp
from edge_mtp.cli.run import run
from edge_mtp.formats.drafting import DRAFT_SOURCES
from edge_mtp.formats.request import Extras, Generation, Request, Sampling, Thoughts
from edge_mtp.reply_options import ReplyOptions

DOCS = Path(__file__).parents[2] / "docs" / "trace.md"
IDS = st.lists(st.integers(0, 300_000), max_size=4)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
SAMPLINGS = st.builds(
    Sampling, NUMBERS, st.integers(0, 99), NUMBERS, NUMBERS, st.integers(0, 2**63 - 1), NUMBERS, NUMBERS, NUMBERS,
    st.dictionaries(st.integers(0, 999), NUMBERS, max_size=3), IDS.map(tuple),
)  # fmt: skip
THOUGHTS = st.builds(
    Thoughts, st.integers(0, 99), st.integers(0, 99), IDS, st.booleans(), st.none() | st.integers(0, 99)
)
REQUESTS = st.builds(
    Request, prompt=IDS, max_tokens=st.integers(1, 99), stop=IDS, draft_length=st.integers(0, 31),
    draft_policy=st.sampled_from(["auto", "fixed"]), draft_sources=st.lists(st.sampled_from(DRAFT_SOURCES), max_size=3),
    couple_drafts=st.booleans(), sampling=SAMPLINGS, stop_texts=st.lists(st.text(max_size=3), max_size=3),
    grammar=st.none() | st.text(max_size=9), thoughts=st.none() | THOUGHTS, logprobs=st.booleans(),
    keep_prefix=st.integers(0, 99), fresh=st.booleans(), draft_tape=IDS,
)  # fmt: skip


def written_out(request: Request, name: str) -> dict[str, Any]:
    """The record of a request, field by field."""
    sampling, thoughts = request.sampling, request.thoughts
    limit = {} if thoughts is None or thoughts.budget is None else {"thought_budget": thoughts.budget}
    return {
        "op": "generate",
        "request": name,
        "prompt": list(request.prompt),
        "max_tokens": request.max_tokens,
        "stop": list(request.stop),
        "stop_texts": list(request.stop_texts),
        "draft_length": request.draft_length,
        "draft_policy": request.draft_policy,
        "draft_sources": list(request.draft_sources),
        "couple_drafts": request.couple_drafts,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "seed": sampling.seed,
        "repetition_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "logit_bias": [[token, bias] for token, bias in sampling.logit_bias.items()],
        "suppress": list(sampling.suppress),
        "grammar": request.grammar or "",
        "thought_marks": [] if thoughts is None else [thoughts.open, thoughts.close],
        "thought_header": [] if thoughts is None else list(thoughts.header),
        "thought_opened": thoughts is not None and thoughts.opened,
        **limit,
        "logprobs": request.logprobs,
        "keep_prefix": request.keep_prefix,
        "fresh": request.fresh,
        "draft_tape": list(request.draft_tape),
    }


@given(REQUESTS)
def test_the_record_of_a_request_is_the_one_written_out(request: Request) -> None:
    assert json.dumps(request.to_json("r1")) == json.dumps(written_out(request, "r1"))


def test_the_table_of_the_protocol_has_each_field_and_no_other() -> None:
    """docs/trace.md; a request's groups (sampling, thoughts) stand there field by field."""
    rows = [line.split("|") for line in DOCS.read_text().splitlines() if line.startswith("| `")]
    requests = rows[: next(n for n, row in enumerate(rows) if "`request`, `step`" in row[1])]
    listed = [name for row in requests for name in row[1].replace("`", "").replace(" ", "").split(",")]
    assert sorted(Request([], 1, thoughts=Thoughts(1, 2, budget=3)).to_json("r1")) == sorted(listed)


def test_the_command_line_has_an_option_for_each_field_with_its_default() -> None:
    """Only what measurements alone ask for has none; --mtp gives both the draft length and the policy."""
    given = run.make_context("run", ["Hi"]).params
    defaults = {each.name: getattr(kind, each.name) for kind in (Sampling(), ReplyOptions()) for each in fields(kind)}
    no_option = {"sampling", "couple_drafts", "draft_policy", "fresh", "draft_tape"}
    assert defaults.keys() - given.keys() == no_option
    for name in defaults.keys() - no_option:
        default = defaults[name]
        assert given[name] == default or (default in ((), {}) and len(given[name]) == 0), name


def test_replies_and_requests_share_their_fields() -> None:
    shared = {each.name for group in (Generation, Extras) for each in fields(group)}
    replies, requests = ({each.name for each in fields(kind)} for kind in (ReplyOptions, Request))
    assert shared < requests
    assert shared < replies
    assert replies & requests == shared | {"max_tokens"}
    assert ReplyOptions(logprobs=True, grammar="x").shared.keys() == shared


def test_public_names_take_their_fields_as_before() -> None:
    request = edge_mtp.Request([1], 2, (3,), 4, "auto", ("lookup",), sampling=edge_mtp.Sampling(0.5, 7))
    assert (request.prompt, request.max_tokens, request.stop) == ([1], 2, (3,))
    assert (request.draft_length, request.draft_policy, request.draft_sources) == (4, "auto", ("lookup",))
    assert edge_mtp.Request([1], 2) == edge_mtp.Request(
        prompt=[1], max_tokens=2, stop=(), stop_texts=(), draft_length=0, draft_policy="fixed",
        draft_sources=("drafter", "grammar"), couple_drafts=False, sampling=edge_mtp.Sampling(), grammar=None,
        thoughts=None, logprobs=False, keep_prefix=0, fresh=False, draft_tape=(),
    )  # fmt: skip
    assert edge_mtp.ReplyOptions(9).max_tokens == 9
    assert edge_mtp.ReplyOptions() == edge_mtp.ReplyOptions(
        max_tokens=256, stop_texts=(), draft_length=None, draft_policy=None, draft_sources=None, couple_drafts=False,
        sampling=edge_mtp.Sampling(), response_schema=None, grammar=None, tool_choice=None, constrained=None,
        parallel_calls=True, strict_tools=False, thinking=None, thinking_budget=None, template_variables={},
        control_tokens=False, logprobs=False, keep_prefix=False, fresh=False, draft_tape=(),
    )  # fmt: skip
