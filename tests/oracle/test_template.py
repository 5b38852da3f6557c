"""Templates run as in transformers, and nothing that a template does harms who runs it."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from published_templates import all_published
from transformers.utils.chat_template_utils import render_jinja_template

from edge_mtp.chat import template as template_module
from edge_mtp.chat.template import LONGEST_TEMPLATE, ChatTemplate
from edge_mtp.errors import EdgeMtpError

TOKENS = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
TEXT = st.text(max_size=20) | st.sampled_from(["It's <b> & é", ' {"a": 1} ', "<think>\nwell\n</think>\nyes", "\n a \n"])
CALL = st.fixed_dictionaries(
    {
        "type": st.just("function"),
        "id": st.sampled_from(["call_0", "call_1", "123456789"]),
        "function": st.fixed_dictionaries(
            {
                "name": st.sampled_from(["f", "get_weather"]),
                "arguments": st.dictionaries(st.sampled_from("abC"), TEXT | st.integers() | st.booleans(), max_size=2),
            }
        ),
    }
)
MESSAGE = st.one_of(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": TEXT}),
    st.fixed_dictionaries({"role": st.just("assistant"), "content": TEXT, "tool_calls": st.lists(CALL, max_size=2)}),
    st.fixed_dictionaries({"role": st.just("assistant"), "content": TEXT, "reasoning_content": TEXT}),
    st.fixed_dictionaries({"role": st.just("user"), "content": st.just([{"type": "text", "text": "part"}])}),
    st.fixed_dictionaries({"role": st.just("tool"), "name": st.just("f"), "content": TEXT}),
)
TOOL = {
    "type": "function",
    "function": {
        "name": "f",
        "description": "It's <b> & é",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "string", "description": "d", "enum": ["x", "y"]}, "C": {"type": "integer"}},
            "required": ["a"],
        },
    },
}


def theirs(source: str, messages: list[Any], tools: list[Any] | None, **variables: Any) -> str:
    rendered, _ = render_jinja_template([messages], tools, None, source, **variables)
    return str(rendered[0])


@pytest.fixture(scope="module")
def published() -> dict[str, ChatTemplate]:
    return {name: ChatTemplate(text) for name, text in all_published().items()}


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(MESSAGE, min_size=1, max_size=5), st.booleans(), st.booleans(), st.booleans(), st.data())
def test_templates_render_as_in_transformers(
    published: dict[str, ChatTemplate],
    messages: list[Any],
    with_tools: bool,
    prompt: bool,
    thinking: bool,
    data: st.DataObject,
) -> None:
    """Of every model that a package has: what transformers refuses is refused, all else is the same text."""
    name = data.draw(st.sampled_from(sorted(published)))
    tools = [TOOL] if with_tools else None
    # transformers gives a thought under two names before the template sees it; so do `edge_mtp.chat.messages`.
    messages = [{**m, "thinking": m["reasoning_content"]} if "reasoning_content" in m else m for m in messages]
    variables: dict[str, Any] = {**TOKENS, "add_generation_prompt": prompt, "enable_thinking": thinking}
    try:
        expected = theirs(published[name].source, messages, tools, **variables)
    except Exception:
        with pytest.raises(EdgeMtpError) as caught:
            published[name].render({"messages": messages, "tools": tools, "documents": None, **variables})
        assert "\n" not in str(caught.value)
        return
    assert published[name].render({"messages": messages, "tools": tools, "documents": None, **variables}) == expected


@pytest.mark.parametrize(
    "source",
    [
        "{{ tools|tojson }}",
        "{{ messages[0].content|tojson }}",
        "{{ tools|tojson(indent=2) }}",
        "{{ tools|tojson(ensure_ascii=true) }}{{ tools|tojson(separators=(',', ':'), sort_keys=true) }}",
        "{{ strftime_now('%Y-%m') }}",
        "{% for i in [1, 2, 3] %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% endfor %}",
        "{% for i in [1, 2] %}{{ i }}{% break %}{% endfor %}",
        "a  {% generation %}\n  x {{ messages|length }}\n{% endgeneration %}\n b",
        "  {% if true %}\n  y\n  {% endif %}\n{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ unk_token }}",
        "{{ namespace(a=1).a }}{{ dict(a=1, b=2)|dictsort }}{{ dict([('k', 'v')]) }}",
        "{{ 'a' ~ 1 ~ none ~ messages[0].content }}",
        "{{ documents is none }}{{ tools[0].function.missing is defined }}",
        "{{ '%05d %s' % (7, 'x') }}{{ 'é'|upper }}{{ [3, 1]|sort|join('-') }}{{ 2 ** 10 }}{{ 'ab' * 3 }}",
        "{{ messages[0].content.split('w')[0].strip()|length }}{{ messages[0].content.replace('a', 'b') }}",
    ],
)
def test_the_language_is_that_of_transformers(source: str) -> None:
    messages = [{"role": "user", "content": "I'm <late> & é: was"}]
    ours = ChatTemplate(source).render({"messages": messages, "tools": [TOOL], "documents": None, **TOKENS})
    assert ours == theirs(source, messages, [TOOL], **TOKENS)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ ''['__class__']['__mro__'][1]['__subclasses__']() }}", "unsafe"),
        ("{{ cycler.__init__.__globals__.os.popen('true').read() }}", "unsafe"),
        ("{{ dict.mro() }}", "no attribute 'mro'|unsafe"),
        ("{{ namespace(_a=1) }}", "'_a'"),
        ("{{ '{0.__class__.__mro__}'.format('') }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{{ 1 / 0 }}", "ZeroDivisionError: division by zero"),
        ("{{ 1 + 'a' }}", "TypeError"),
        ("{{ messages[9].content.x }}", "no element 9"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "calls itself without end"),
        ("{{ raise_exception('roles\nmust alternate') }}", "refuses this conversation: roles must alternate"),
        ("{% if %}", "not valid jinja: Expected an expression.* in line 1"),
        ("\n{% for %}", "in line 2"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "not valid jinja"),
        ("{% if 1 %}" * 3000 + "{% endif %}" * 3000, "not valid jinja"),
        ("{{ 'a' * 10 ** 10 }}", "makes a text or list of 1e"),
        ("{{ [1] * 10 ** 10 }}", "makes a text or list of 1e"),
        ("{{ 10 ** (10 ** 6) }}", "makes a number of"),
        ("{{ 'a'.center(10 ** 10) }}", "asks for 1e"),
        ("{{ 'a'|center(10 ** 10) }}", "asks for 1e"),
        ("{{ 'a'|indent(10 ** 10) }}", "asks for 1e"),
        ("{{ '%9999999999d' % 1 }}", "width"),
        ("{{ '{:9999999999}'.format(1) }}", "width"),
        ("{{ '%9999999999d'|format(1) }}", "width"),
        ("{% set n = namespace(x='aaaaaaaa') %}{% for i in range(40) %}{% set n.x = n.x ~ n.x %}{% endfor %}", "text"),
        ("{% set n = namespace(x='aaaaaaaa') %}{% for i in range(40) %}{% set n.x = n.x + n.x %}{% endfor %}", "text"),
        ("{% set n = namespace(x='aa') %}{% for i in range(40) %}{% set n.x = n.x.replace('a', 'aa') %}{% endfor %}",
         "text"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "OverflowError"),
    ],
)  # fmt: skip
def test_what_a_template_does_wrong_is_one_line(source: str, told: str) -> None:
    with pytest.raises(EdgeMtpError, match=told) as caught:
        ChatTemplate(source).render({"messages": [{"role": "user", "content": "hi"}]})
    assert "\n" not in str(caught.value)
    assert "the chat template" in str(caught.value)


@pytest.mark.parametrize(
    ("source", "limit"),
    [
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "TIME_LIMIT_S"),
        (
            "{% set n = namespace(x=[]) %}{% for i in range(400) %}{% set n.x = [n.x, 'a' * 10 ** 6 ~ i] %}"
            "{% endfor %}{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "MEMORY_LIMIT",
        ),
    ],
)
def test_a_template_without_end_is_stopped(source: str, limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_module, limit, {"TIME_LIMIT_S": 0.5, "MEMORY_LIMIT": 1 << 27}[limit])
    begun = time.monotonic()
    with pytest.raises(EdgeMtpError, match="was stopped"):
        ChatTemplate(source).render({})
    assert time.monotonic() - begun < 60  # it would take hours
    assert ChatTemplate("{{ 1 }}").render({}) == "1"


def test_a_template_that_is_too_long_is_not_read() -> None:
    with pytest.raises(EdgeMtpError, match="1,048,577 characters"):
        ChatTemplate("a" * (LONGEST_TEMPLATE + 1))
