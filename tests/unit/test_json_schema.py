"""Types of values and references, against jsonschema and its JSON pointers."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from referencing import Registry
from referencing.exceptions import PointerToNowhere
from referencing.jsonschema import DRAFT202012

from edge_mtp.formats.json_schema import TYPES, is_of_type, resolve, type_of

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=6)


@given(VALUES, st.sampled_from(TYPES))
def test_types_are_those_of_json_schema(value: Any, name: str) -> None:
    """But for 1.0, which JSON schema takes for an integer, and a tool's parser does not."""
    if isinstance(value, float) and name == "integer":
        assert not is_of_type(value, name)
        return
    assert is_of_type(value, name) == jsonschema.Draft202012Validator({"type": name}).is_valid(value)
    assert is_of_type(value, type_of(value))


NAMES = st.sampled_from(["a", "", "~", "/", "~1", "0", "1", "é", "%41", "A"])
TREES = st.recursive(
    st.just({"type": "null"}),
    lambda inner: st.dictionaries(NAMES, inner, max_size=3) | st.lists(inner, min_size=1, max_size=3),
    max_leaves=8,
)


@given(TREES, st.lists(NAMES, min_size=1, max_size=3))
def test_a_reference_leads_where_a_json_pointer_does(tree: Any, path: list[str]) -> None:
    pointer = "#/" + "/".join(name.replace("~", "~0").replace("/", "~1").replace("%", "%25") for name in path)
    root = {"$defs": tree} if isinstance(tree, list) else tree
    resolver = Registry().with_resource("", DRAFT202012.create_resource(root)).resolver()
    try:
        expected = resolver.lookup(pointer).contents
    except (PointerToNowhere, ValueError, TypeError):
        expected = None
    assert resolve(pointer, root) is expected


@pytest.mark.parametrize("reference", [None, 3, "", "a", "a/b", "#a", "other.json#/a", "#/b", "#/a/b/c"])
def test_what_leads_out_of_the_document_or_nowhere(reference: Any) -> None:
    assert resolve(reference, {"a": {"b": 1}}) is None
    assert resolve("#", root := {"a": 1}) is root
