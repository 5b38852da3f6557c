"""Text from outside cannot steer a terminal, whatever is in it."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from edge_mtp.safe_text import shown, shown_lines

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=60)  # lone surrogates too
BIDI_CONTROLS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def steers(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or (
        unicodedata.bidirectional(character) in BIDI_CONTROLS
    )


@given(ANY_TEXT)
def test_nothing_that_steers_a_terminal_is_left(text: str) -> None:
    assert not any(map(steers, shown(text)))
    assert not any(map(steers, shown_lines(text).translate({ord("\n"): None, ord("\t"): None})))
    shown(text).encode()  # a lone surrogate would raise


@given(ANY_TEXT)
def test_all_other_text_stays_as_it_is(text: str) -> None:
    harmless = "".join(c for c in text if not steers(c) and c not in "\u061c\u200e\u200f")
    assert shown(harmless) == harmless
    assert shown_lines(f"{harmless}\n\t") == f"{harmless}\n\t"


def test_escapes_are_those_of_python() -> None:
    assert shown("\x1b]0;x\x07\x9b2J\r\n\t") == "\\x1b]0;x\\x07\\x9b2J\\r\\n\\t"
    assert shown("a\u202eb\udcff") == "a\\u202eb\\udcff"
    assert shown("späť 你好 👩‍🔧 עברית") == "späť 你好 👩‍🔧 עברית"
