"""How an export, a download or a build of binaries tells a caller how far it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

# Called again and again with the current work, in words, and the share of it all that is done, 0 to 1.
Progress: TypeAlias = Callable[[str, float], None]
