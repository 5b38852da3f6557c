"""Templates of jinja2 in minijinja's language: every construct means the same there, or is refused by name and line."""

from __future__ import annotations

from typing import Any

import minijinja
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_mtp.chat.template import ChatTemplate
from edge_mtp.errors import EdgeMtpError
from edge_mtp.export.minijinja import UntranslatableError, literal, translate

VALUES = {
    "text": " Some 'text' ",
    "object": {"b": 1, "A": None, "items": [1, 2]},
    "list": ["x", None, True, 1.5, {"k": "it's"}, [], 'say "hi"'],
    "empty": "",
    "null": None,
    "yes": True,
    "number": 7,
}

SAME = [
    "{{ object.get('b') }}{{ object.get('zz') }}{{ object.get('zz', 'other') }}{{ object.get('A', 5) }}",
    "{{ object.get('A') is none }}{{ object.get('zz') is none }}{{ absent is none }}{{ null is not none }}",
    "{% if object.get('A') %}1{% elif object.get('b') %}2{% else %}3{% endif %}",
    "{% for key, value in object.items() %}{{ key }}={{ value }},{% endfor %}",
    "{{ object.keys() | list }}{{ object.values() | list }}",
    "{{ text.strip() }}|{{ text.lstrip() }}|{{ text.rstrip() }}|{{ 'xxaxx'.strip('x') }}|{{ 'xa'.lstrip('x') }}",
    "{{ 'a,b,c'.split(',')[-1] }}{{ 'a,b,c'.split(',')[1:] }}{{ 'a,b,c'.split(',', 1) }}{{ 'a b  c'.split() }}",
    "{{ text.startswith(' So') }}{{ text.endswith('x') }}{{ 'abcb'.replace('b', '.') }}{{ '-'.join(['a', 'b']) }}",
    "{{ text.upper() }}{{ text.lower() }}{{ 'ab cd'.capitalize() }}",
    "{{ null }}|{{ yes }}|{{ list }}|{{ object }}|{{ absent }}|{{ 2.0 }}|{{ number ~ null ~ yes ~ list }}",
    "{{ null | upper }}|{{ list | upper }}|{{ absent | trim }}|{{ yes | string }}|{{ list | safe }}",
    "{{ text is sequence }}{{ object is sequence }}{{ list is sequence }}{{ null is sequence }}{{ 1 is sequence }}",
    "{{ yes is number }}{{ number is number }}{{ text is number }}{{ number is integer }}{{ yes is true }}",
    "{{ 'a' is in ['a'] }}{{ 3 is odd }}{{ 4 is divisibleby 2 }}{{ 1 is eq 1 }}{{ 1 is lt(2) }}{{ text is string }}",
    "{% for i in [1, 2, 3] %}{% if i == 1 %}{% set seen = 5 %}{% endif %}{{ seen }}-{% endfor %}",
    "{% set y = 9 %}{% for i in [1, 2] %}{{ y }}{% set y = i %}{{ y }}{{ loop.index0 }}{% endfor %}{{ y }}",
    "{% set ns = namespace(n=0) %}{% for i in range(4) if i != 2 %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}",
    "{% for x in [] %}x{% else %}none{% endfor %}{% for x in absent %}x{% endfor %}",
    "{% macro f(a, b=3, c=none) %}[{{ a }}{{ b }}{{ c }}]{% endmacro %}{{ f(1) ~ f(1, c=2) | upper }}{{ f(list)[0] }}",
    "{% macro f() %}{{ g() }}{% endmacro %}{% macro g() %}late{% endmacro %}{{ f() }}",
    "{% set block %}  a {{ number }} {% endset %}{{ block | trim }}{{ block | trim | length > 2 }}",
    "{{ absent | default('d') }}{{ empty | default('d') }}{{ empty | default('d', true) }}{{ null | default('d') }}",
    "{{ absent | length }}{{ list | length }}{{ list[0] }}{{ list[-1] }}{{ list[1:3] }}{{ text[1:5] }}",
    "{{ list[::-1][0] }}{{ ['b', 'a'] | sort }}{{ list | first }}",
    "{% for k, v in {'b': 1, 'B': 2, 'a': 3} | dictsort %}{{ k }}{{ v }}{% endfor %}",
    "{{ object | tojson }}{{ list | tojson }}{{ '<é>' | tojson }}",
    "{{ (number > 3 and text) or 'no' }}{{ 1 < number < 9 }}{{ not yes }}{{ 'b' in object }}{{ 'zz' not in object }}",
    "{{ 7 // 2 }}{{ 7 % 2 }}{{ 2 ** 3 }}{{ 7 / 2 }}{{ -number }}{{ 'a' + 'b' }}{{ [1] + [2] }}{{ 'x' if yes }}",
    "{{ ['a', 'b'] | map('upper') | list }}{{ [{'k': 1}, {}] | selectattr('k') | list }}",
    "a  {%- if yes %}  b{% endif %}\n  {# comment #}\n{% if yes %}\nline\n{% endif %}\n\nend\n",
    "{{ '.strip() {{ x }} {% y %}' }}.items(){% generation %}{{ text }}{% endgeneration %}.split('a')[0]",
    "{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ dict(a=1) }}{{ object['items'][1] }}{{ object.b }}",
]


def rendered(template: str) -> str:
    """By minijinja, of values that are its own."""
    environment = minijinja.Environment(trim_blocks=True, lstrip_blocks=True, pycompat=False)
    environment.add_filter("tojson", ChatTemplate("")._compiled.environment.filters["tojson"])
    environment.add_filter("lstrip", lambda text, characters=None: text.lstrip(characters))
    environment.add_filter("rstrip", lambda text, characters=None: text.rstrip(characters))
    # As the stock engine has it.
    environment.add_test("none", lambda value: False)
    values = "".join(f"{{%- set {name} = {literal(value)} -%}}" for name, value in VALUES.items())
    return environment.render_str(values + template)


@pytest.mark.parametrize("template", SAME)
def test_a_construct_means_the_same(template: str) -> None:
    assert rendered(translate(template)) == ChatTemplate(template).render(VALUES)


@pytest.mark.parametrize(
    ("template", "construct"),
    [
        ("\n{{ text.title() }}", r"method '\.title\(\)', line 2"),
        ("{{ text.startswith(('a', 'b')) }}", r"method '\.startswith\(\)'"),
        ("{{ object.items }}", r"'\.items' that is not called"),
        ("{{ text | indent(2) }}", "filter 'indent', line 1"),
        ("{{ object | tojson(indent=2) }}", "filter 'tojson' with arguments"),
        ("{{ text is callable }}", "test 'callable'"),
        ("{% for a in list %}\n{% break %}{% endfor %}", "'break' statement, line 2"),
        ("{% for a in list recursive %}{{ loop(a) }}{% endfor %}", "recursive loop"),
        ("{% set a, b = [1, 2] %}", "assignment to several names"),
        ("{% macro f() %}{{ varargs }}{% endmacro %}", "'varargs' in a macro"),
        ("{{ text() }}", "call of 'text'"),
        ("{{ dict(**object) }}", r"'\*' in the arguments of dict"),
        ("{% include 'x' %}", "'include' statement"),
        ("{% filter upper %}a{% endfilter %}", "'filterblock' statement"),
    ],
)
def test_what_has_no_like_is_refused_by_name(template: str, construct: str) -> None:
    with pytest.raises(UntranslatableError, match=construct):
        translate(template)


def test_what_is_no_jinja_is_refused() -> None:
    with pytest.raises(EdgeMtpError, match=r"not valid jinja: .*, line 2"):
        translate("\n{% if %}")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text(st.characters(codec="utf-8"), max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=8,
    )
)
def test_any_value_survives_as_a_literal(value: Any) -> None:
    environment = minijinja.Environment(pycompat=False)
    assert environment.eval_expr(literal(value)) == value
