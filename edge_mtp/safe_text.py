"""Makes untrusted text safe for a terminal: it can neither control the terminal nor hide other text."""

import re

from edge_mtp.errors import EdgeMtpError

# Characters that a terminal obeys (C0, DEL, C1), that reorder the text around them (the bidi controls), that break a
# line (U+2028, U+2029), and lone surrogates, which no encoding can write.
_STEERS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_STEERS_IN_LINES = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def shown(text: str) -> str:
    """`text` on one line, with every control character, bidi control and lone surrogate as a visible escape.

    `"\\x1b[2J"` becomes `"\\\\x1b[2J"`. All other text, in any script, stays as it is.
    """
    return _STEERS.sub(_escape, text)


def shown_lines(text: str) -> str:
    """Like `shown`, for text of several lines, such as a model's: newlines and tabs stay."""
    return _STEERS_IN_LINES.sub(_escape, text)


def utf8(text: str, what: str) -> bytes:
    """`text` in UTF-8. If it has a lone surrogate, raises an EdgeMtpError that calls the text `what`.

    Command-line arguments that are not valid UTF-8 contain lone surrogates, and so does `\\udc00` in JSON.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise EdgeMtpError(f"{what} has {shown(text[error.start])}, which is no character; give it in UTF-8") from None


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    return _SHORT.get(character) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")
