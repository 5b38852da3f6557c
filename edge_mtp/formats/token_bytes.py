"""The token-bytes table of a bundle: which bytes each token id stands for.

Layout, little endian: u32 magic `EMTB`, u32 version, u32 V, u32 offsets[V + 1] counted from the first byte of
text, the text, u8 flags[V] with bit 0 = special. A special token stands for its own text.
"""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any

from edge_mtp.errors import EdgeMtpError

MAGIC = b"EMTB"
VERSION = 1
SPECIAL = 1
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def token_table(tokenizer: Path, vocab: int) -> bytes:
    """The table of the `vocab` ids that a model has; ids that the tokenizer lacks are empty.

    Raises:
        EdgeMtpError: the file is no BPE tokenizer, or has ids beyond `vocab`.
    """
    try:
        parsed = json.loads(tokenizer.read_text(encoding="utf-8"))
        pieces: dict[str, int] = parsed["model"]["vocab"]
        added: list[dict[str, Any]] = parsed.get("added_tokens", [])
        to_bytes = _byte_level if _uses(parsed, "ByteLevel") else _byte_fallback
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


def _uses(tokenizer: dict[str, Any], kind: str) -> bool:
    decoder = tokenizer.get("decoder") or {}
    return any(step.get("type") == kind for step in [decoder, *decoder.get("decoders", [])])


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
