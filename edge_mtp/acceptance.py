"""Whether a drafter fits its target at all, judged by the share of right drafts."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from math import exp, lgamma, log, log1p
from pathlib import Path

from edge_mtp.cache import cache_folder

# A drafter that fits is right far more often; on hostile text it still is in 8 % of the cases.
LEAST_ACCEPTANCE = 0.03
DOUBT = 0.01  # chance to name a drafter whose acceptance is at the bar, if its drafts are independent

CAUSES = (
    "likely causes: the drafter was trained for other target weights (another size, base in place of instruct, or a"
    " fine-tune or adapter that only the target got); the wrong file was given to --drafter at export; or the texts are"
    " nearly random (a high temperature)"
)


def unfit(drafted: int, accepted: int) -> bool:
    """Whether acceptance at the first position is below `LEAST_ACCEPTANCE` beyond doubt.

    `drafted`: first drafts of the drafter that a text has judged; `accepted`: how many were right. The exact binomial
    test (Clopper and Pearson, "The use of confidence or fiducial limits", 1934): true where the upper limit of the
    acceptance lies below the bar. Of drafts that are never right it takes 152.
    """
    if not 0 <= accepted <= drafted:
        raise ValueError(f"{accepted} of {drafted} drafts cannot have been right")
    if accepted >= LEAST_ACCEPTANCE * drafted:
        return False
    odds = log(LEAST_ACCEPTANCE) - log1p(-LEAST_ACCEPTANCE)
    chance = 0.0  # that so few are right, or fewer
    for right in range(accepted, -1, -1):
        ways = lgamma(drafted + 1) - lgamma(right + 1) - lgamma(drafted - right + 1)
        term = exp(ways + right * odds + drafted * log1p(-LEAST_ACCEPTANCE))
        chance += term
        if chance >= DOUBT or term < 1e-12 * chance:
            break
    return chance < DOUBT


def warning(drafted: int, accepted: int) -> str | None:
    """A sentence for people if the drafter does not fit, else None."""
    if not unfit(drafted, accepted):
        return None
    return f"the drafter does not fit this target: {accepted:,} of its {drafted:,} first drafts were right; {CAUSES}"


def remember(bundle: Path, drafted: int, accepted: int) -> None:
    """Keeps a device's counts of `bundle`'s first drafts for `recall`. Does nothing if the disk takes no file."""
    with contextlib.suppress(OSError):
        entry = _entry(bundle)
        entry.parent.mkdir(parents=True, exist_ok=True)
        part = entry.with_name(f"{entry.name}.{os.getpid()}")
        part.write_text(json.dumps([drafted, accepted]), "utf-8")
        part.replace(entry)


def recall(bundle: Path) -> tuple[int, int] | None:
    """The counts of the last `remember`: first drafts that a text has judged, and how many were right."""
    try:
        drafted, accepted = json.loads(_entry(bundle).read_text("utf-8"))
        unfit(drafted, accepted)
    except (OSError, ValueError, TypeError):
        return None
    return drafted, accepted


def _entry(bundle: Path) -> Path:
    """The file for a bundle's counts, named by its path, size, time and first bytes, which hold its header."""
    status = bundle.stat()
    digest = hashlib.sha256(f"{bundle.resolve()}\n{status.st_size}\n{status.st_mtime_ns}\n".encode())
    with bundle.open("rb") as file:
        digest.update(file.read(1 << 16))
    return cache_folder() / "acceptance" / f"{digest.hexdigest()}.json"
