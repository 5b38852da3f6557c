"""Which bytes each token id stands for: by a tokenizer.json, and as the token-bytes table of a bundle.

Layout, little endian: u32 magic `EMTB`, u32 version, u32 V, u32 offsets[V + 1] counted from the first byte of
text, the text, u8 flags[V] with bit 0 = special. A special token stands for its own text.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.wire import MalformedError

MAGIC = b"EMTB"
VERSION = 1
SPECIAL = 1
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenBytes:
    """The table, read: the bytes of each token id."""

    def __init__(self, data: memoryview) -> None:
        """Raises MalformedError if `data` does not have the layout above."""
        if len(data) < 12:
            raise MalformedError(f"{len(data)} bytes are too few for a token table")
        magic, version, count = struct.unpack_from("<4sII", data)
        if magic != MAGIC or version != VERSION:
            raise MalformedError(f"token table magic {int.from_bytes(magic, 'little'):#x}, version {version}")
        text = 12 + 4 * (count + 1)
        if text + count > len(data):
            raise MalformedError(f"token table of {count} tokens in {len(data)} bytes")
        self._offsets = struct.unpack_from(f"<{count + 1}I", data, 12)
        rising = all(a <= b for a, b in zip(self._offsets, self._offsets[1:], strict=False))
        if not rising or self._offsets[0] or text + self._offsets[-1] + count != len(data):
            raise MalformedError("token table offsets do not fit its text")
        self._text = data[text : text + self._offsets[-1]]
        self._flags = data[len(data) - count :]

    def __len__(self) -> int:
        return len(self._flags)

    def __getitem__(self, token: int) -> bytes:
        if not 0 <= token < len(self):
            raise IndexError(token)
        return bytes(self._text[self._offsets[token] : self._offsets[token + 1]])

    def is_special(self, token: int) -> bool:
        return bool(self._flags[token] & SPECIAL)


def token_table(tokenizer: Path, vocab: int) -> bytes:
    """The table of the `vocab` ids that a model has; ids that the tokenizer lacks are empty.

    Raises:
        EdgeMtpError: the file is no BPE tokenizer, or has ids beyond `vocab`.
    """
    try:
        parsed = json.loads(tokenizer.read_text(encoding="utf-8"))
        pieces: dict[str, int] = parsed["model"]["vocab"]
        added: list[dict[str, Any]] = parsed.get("added_tokens", [])
        to_bytes = piece_to_bytes(parsed.get("decoder"))
        # A decoder makes no difference between added tokens and others: Gemma 3 adds its runs of spaces, as `▁▁`.
        texts = {token: to_bytes(piece) for piece, token in pieces.items()}
        texts |= {entry["id"]: to_bytes(entry["content"]) for entry in added}
        special = {entry["id"] for entry in added if entry["special"]}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EdgeMtpError(f"{tokenizer} is not a BPE tokenizer.json ({error}): save the fast tokenizer") from error
    if texts and max(texts) >= vocab:
        raise EdgeMtpError(
            f"{tokenizer} has token {max(texts)}, the model {vocab} tokens: use the target's own tokenizer"
        )
    rows = [texts.get(token, b"") for token in range(vocab)]
    offsets = [0]
    for row in rows:
        offsets.append(offsets[-1] + len(row))
    return b"".join(
        [
            MAGIC,
            struct.pack("<II", VERSION, vocab),
            struct.pack(f"<{vocab + 1}I", *offsets),
            *rows,
            bytes(SPECIAL if token in special else 0 for token in range(vocab)),
        ]
    )


def piece_to_bytes(decoder: Mapping[str, Any] | None) -> Callable[[str], bytes]:
    """The function from a token's piece, as the vocabulary spells it, to its bytes; `decoder` is tokenizer.json's."""
    steps = [decoder, *decoder.get("decoders", [])] if decoder else []
    return _byte_level if any(step.get("type") == "ByteLevel" for step in steps) else _byte_fallback


def _byte_fallback(piece: str) -> bytes:
    """SentencePiece style: `<0x0A>` is a byte, `▁` a space."""
    if len(piece) == 6 and (byte := _BYTE.fullmatch(piece)):
        return bytes([int(byte[1], 16)])
    return piece.replace("▁", " ").encode()


def _byte_level(piece: str) -> bytes:
    """GPT-2 style: every byte is a printable character; a piece with any other, which was added, is itself."""
    try:
        return bytes(_BYTE_OF[character] for character in piece)
    except KeyError:
        return piece.encode()


def _byte_alphabet() -> dict[str, int]:
    """The character of each byte: itself where printable, else the next one from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()
