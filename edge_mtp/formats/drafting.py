"""The words for drafting: where drafts come from, and who chooses how many."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeVar, get_args

from edge_mtp.errors import EdgeMtpError

DraftPolicy = Literal["auto", "fixed"]
DraftSource = Literal["drafter", "lookup", "grammar"]

DRAFT_SOURCES: tuple[DraftSource, ...] = get_args(DraftSource)
SOURCE_OF_LETTER: dict[str, DraftSource] = {source[0]: source for source in DRAFT_SOURCES}  # as `Step.source` has it

Meaning = TypeVar("Meaning")


def parse_mtp(text: str, words: Mapping[str, Meaning], known: str) -> Meaning | int:
    """What `text` means: the entry of `words`, or a number of drafts from 1 on.

    Raises EdgeMtpError for any other text; `known` tells there what can be written.
    """
    if text in words:
        return words[text]
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise EdgeMtpError(f"'{text}' is no way to draft; use {known}")


def parse_draft_length(text: str) -> int | None:
    """A reply's `draft_length` by the word for it: auto (None), off (0) or K. Raises EdgeMtpError for another."""
    return parse_mtp(text, {"auto": None, "off": 0}, "auto, off, or K, a number of tokens from 1")
