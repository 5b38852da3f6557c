"""Gemma 4 with its Multi-Token Prediction drafter, on phones and edge boards.

import edge_mtp

with edge_mtp.open("gemma.litertlm") as engine:
    reply = engine.chat("Wake me at 6:40", tools=edge_mtp.load_tools("tools.json"))
    for token in reply:
        print(token.text, end="", flush=True)
    print(reply.tool_calls, reply.summary.tokens_per_verify)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edge_mtp.errors import EdgeMtpError

if TYPE_CHECKING:
    from edge_mtp.dialogue import Dialogue
    from edge_mtp.engine import Engine
    from edge_mtp.engine import open_engine as open
    from edge_mtp.formats.request import Request, Sampling
    from edge_mtp.formats.tool_calls import load_tools
    from edge_mtp.reply import Reply, Token
    from edge_mtp.reply_options import ReplyOptions

__all__ = [
    "Dialogue",
    "EdgeMtpError",
    "Engine",
    "Reply",
    "ReplyOptions",
    "Request",
    "Sampling",
    "Token",
    "load_tools",
    "open",
]

# Imported on first use: the command line answers `--help` without numpy, jinja2 or tokenizers.
_HOMES = {
    "Dialogue": ("edge_mtp.dialogue", "Dialogue"),
    "Engine": ("edge_mtp.engine", "Engine"),
    "Reply": ("edge_mtp.reply", "Reply"),
    "ReplyOptions": ("edge_mtp.reply_options", "ReplyOptions"),
    "Request": ("edge_mtp.formats.request", "Request"),
    "Sampling": ("edge_mtp.formats.request", "Sampling"),
    "Token": ("edge_mtp.reply", "Token"),
    "load_tools": ("edge_mtp.formats.tool_calls", "load_tools"),
    "open": ("edge_mtp.engine", "open_engine"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edge_mtp' has no attribute '{name}'")
    import importlib

    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(module), attribute)
