"""The tools' responses of a chat, from a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_mtp.errors import EdgeMtpError
from edge_mtp.json_file import read_json


class Responses:
    """The responses in a file: by tool, or in the order of the calls."""

    def __init__(self, path: Path, tools: list[str]) -> None:
        """`tools`: the declared names. Raises EdgeMtpError for a file with no list and no object of these names."""
        self._responses = read_json(path, "tool responses")
        if not isinstance(self._responses, dict | list):
            raise EdgeMtpError(f"tool responses '{path}' are neither {{name: response}} nor a list; make them one")
        unknown = [name for name in self._responses if name not in tools] if isinstance(self._responses, dict) else []
        if unknown:
            declared = ", ".join(tools) or "none"
            raise EdgeMtpError(f"tool responses '{path}' name '{unknown[0]}', no declared tool; declared: {declared}")

    def take(self, tool: str) -> tuple[bool, Any]:
        """Whether there is a response to the next call, of `tool`, and the response."""
        if isinstance(self._responses, Mapping):
            return tool in self._responses, self._responses.get(tool)
        return (True, self._responses.pop(0)) if self._responses else (False, None)
